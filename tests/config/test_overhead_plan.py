import pytest
from jobs import compose

from mbrec.config.overhead import FIRST_STEPS, LEAST_PAIRS, SPLIT_BLOCKS, WARMUP_PAIRS, Plan, plan


def test_few_rows_are_read_again_until_there_are_enough_pairs():
    found = plan(0.05, epoch_steps=1, max_steps=None)
    assert found == Plan(block_steps=10, pairs=LEAST_PAIRS)
    assert found.steps == FIRST_STEPS + (2 * (WARMUP_PAIRS + LEAST_PAIRS) + SPLIT_BLOCKS) * 10


def test_many_rows_give_as_many_pairs_as_they_last_for():
    found = plan(0.05, epoch_steps=10_000, max_steps=None)
    assert found.block_steps == 10
    assert found.pairs > LEAST_PAIRS
    assert 10_000 - 2 * 10 < found.steps <= 10_000


@pytest.mark.parametrize(
    ("step_seconds", "block_steps"), [(0.005, 100), (0.028, 18), (0.05, 10), (3.0, 10)]
)
def test_a_block_takes_half_a_second_or_ten_steps(step_seconds, block_steps):
    assert plan(step_seconds, 1, None).block_steps == block_steps


@pytest.mark.parametrize("max_steps", [Plan().steps, 1000, 3001])
@pytest.mark.parametrize("step_seconds", [0.001, 0.03, 2.0])
def test_a_limit_is_kept_with_shorter_blocks_rather_than_fewer_pairs(max_steps, step_seconds):
    found = plan(step_seconds, 10**6, max_steps)
    assert found.steps <= max_steps
    assert found.pairs >= LEAST_PAIRS
    assert found.block_steps >= 10


def test_a_limit_below_the_fewest_steps_is_refused_by_name(tmp_path):
    fewest = Plan().steps
    few = f"trainer.steps={fewest - 1}"
    with pytest.raises(ValueError, match=rf"trainer\.steps of at least {fewest} .* {fewest - 1}"):
        compose(tmp_path, "trainer.measure_overhead=true", few)
    assert compose(tmp_path, few).trainer.steps == fewest - 1


def test_a_measurement_is_not_saved(tmp_path):
    assert compose(tmp_path).is_saved
    assert not compose(tmp_path, "trainer.measure_overhead=true").is_saved
