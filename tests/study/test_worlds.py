"""Static weights are tuned on rows and seeds that are not compared on."""

import pytest
from outcomes import outcome

from mbrec.study.jobs import Result
from mbrec.study.worlds import EQUAL, World, choose, job, single_task, static_grid, tuning_job

WORLD = World("w", "W", ("ctr", "cvr", "conv_imp"), ("experiment=e",), ("data.synthetic.seed=18",))


@pytest.mark.parametrize("num_tasks", [2, 3, 5])
def test_static_weights_are_2k_settings_that_sum_to_one(num_tasks):
    grid = static_grid([f"t{k}" for k in range(num_tasks)])
    weights = [[float(w) for w in s.overrides[1].split("[")[1][:-1].split(",")] for s in grid]
    # Of two tasks, one up is the other down.
    assert len(grid) == len({s.overrides for s in grid}) == (2 if num_tasks == 2 else 2 * num_tasks)
    assert [sum(w) for w in weights] == pytest.approx([1.0] * len(grid), abs=1e-3)


def test_tuning_runs_share_neither_seed_nor_rows_with_compared_ones():
    compared = {job(WORLD, EQUAL, seed).overrides[-1] for seed in range(50)}
    tuning = tuning_job(WORLD, EQUAL, 0)
    assert tuning.overrides[-1] not in compared
    assert "data.synthetic.seed=18" in tuning.overrides
    assert "data.synthetic.seed=18" not in job(WORLD, EQUAL, 0).overrides


def test_settings_of_a_seed_differ_in_nothing_but_the_setting():
    first, second = (job(WORLD, setting, 3) for setting in (EQUAL, static_grid(WORLD.tasks)[0]))
    assert set(first.overrides) - set(second.overrides) == {"balancer=equal"}


def results(gains, nex=()):
    found = {}
    for setting in (EQUAL, *static_grid(WORLD.tasks)):
        one = tuning_job(WORLD, setting, 0)
        found[one] = outcome(one, gains.get(setting.name, 0.0), nex=setting.name in nex)
    return found


def test_the_least_ne_is_chosen():
    gains = {"static cvr up": 0.5, "static ctr down": 0.8}
    assert choose(WORLD, static_grid(WORLD.tasks), results(gains), 1).name == "static ctr down"


def test_a_setting_that_explodes_is_not_chosen():
    gains, nex = {"static cvr up": 0.5, "static ctr down": 0.8}, ["static ctr down"]
    chosen = choose(WORLD, static_grid(WORLD.tasks), results(gains, nex), 1)
    assert chosen.name == "static cvr up"


def test_where_every_setting_explodes_the_first_is_left_to_tell():
    grid = static_grid(WORLD.tasks)
    assert choose(WORLD, grid, results({}, [setting.name for setting in grid]), 1) is grid[0]


def test_a_per_cent_counts_the_same_in_a_task_of_small_and_of_large_ne():
    grid = static_grid(WORLD.tasks)[:2]
    ne = {grid[0]: (0.2 * 0.9, 0.9, 0.9), grid[1]: (0.2, 0.9 * 0.95, 0.9)}
    found = {
        tuning_job(WORLD, setting, 0): Result(
            {task: {"ne": value} for task, value in zip(WORLD.tasks, values, strict=True)}, {}
        )
        for setting, values in ne.items()
    }
    assert choose(WORLD, grid, found, 1) is grid[0]


def test_there_is_a_single_task_model_for_each_task():
    assert [setting.only for setting in single_task(WORLD.tasks)] == [
        ("ctr",),
        ("cvr",),
        ("conv_imp",),
    ]
