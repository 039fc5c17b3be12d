"""Tables are placed as they are told to be, and what does not fit is told before data is read."""

import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from jobs import compose
from ranks import run_ranks

ROWS, DIM = 40_000, 16
# Weights and momentum of one table of that size.
SIZE = ROWS * (DIM + 1) * 4
LARGE = [f"data.columns.categorical.user.cardinality={ROWS}"]


def refusal(data: str, overrides: list[str]) -> tuple[str, float]:
    """Return why no trainer can be built, and after how many seconds that is said."""
    from mbrec.distributed import process
    from mbrec.job import build

    config, runtime = compose(Path(data), *overrides), process.start()
    begun = time.monotonic()
    unread = mock.patch.object(build, "train_reader", side_effect=AssertionError("data was read"))
    with unread, pytest.raises(ValueError) as error:
        build.trainer(config, runtime, Path("nowhere"))
    return str(error.value), time.monotonic() - begun


@pytest.fixture
def refused(tiny_data, tmp_path):
    """Returns what two ranks said about a job that cannot be."""

    def refused(*overrides: str) -> str:
        (one, seconds), (two, _) = run_ranks(refusal, 2, tmp_path, str(tiny_data), list(overrides))
        assert one == two
        assert seconds < 5
        return one

    return refused


@pytest.mark.faults
def test_a_table_that_does_not_fit_is_told_by_name_and_size_on_every_rank(refused, figure):
    message = refused(*LARGE, f"runtime.memory_gb={2**20 / 2**30}")
    assert "2 ranks with 1,048,576 bytes (1.00 MiB) for tables on each" in message
    assert "got table 'user' (40,000 rows of 16), which needs 2,7" in message
    assert " bytes (2.6" in message
    assert message.count("\n") == 3
    assert "1. its rows split among the ranks (++model.sharding.user=row_wise)" in message
    assert "2. a smaller table: embedding_dim, and hash_size" in message
    assert "3. machines with more memory, or runtime.memory_gb=" in message
    figure("R18", named=["table", "bytes needed", "bytes there"], remedies=3)


def test_tables_that_fit_alone_and_not_together_are_told_with_the_largest(refused):
    others = [
        f"data.columns.categorical.{name}.cardinality={ROWS - 100}" for name in ("item", "tags")
    ]
    message = refused(*LARGE, *others, f"runtime.memory_gb={1.5 * SIZE / 2**30}")
    assert "of tables for 2 ranks; the largest is table 'user' (40,000 rows" in message
    assert "(++model.sharding.user=row_wise)" in message


def test_more_ranks_are_the_remedy_for_a_table_that_is_row_wise(refused):
    message = refused(*LARGE, "+model.sharding.user=row_wise", "runtime.memory_gb=0.001")
    assert "got table 'user' (40,000 rows of 16), which needs 1,3" in message
    assert "1. more ranks, among which its rows are split" in message


def test_row_wise_shards_fit_where_the_whole_table_does_not(tiny_data, tmp_path):
    limit = f"runtime.memory_gb={0.75 * SIZE / 2**30}"
    overrides = [*LARGE, limit, "+model.sharding.user=row_wise"]
    placements = run_ranks(estimate, 2, tmp_path, str(tiny_data), overrides)
    assert placements[0]["kinds"]["user"] == "row_wise"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+model.sharding.town=row_wise", r"expected tables \(user, item, tags\).*got town"),
        ("+model.sharding.user=column_wise", "one momentum a row"),
        ("runtime.memory_gb=0", "memory_gb to be positive"),
    ],
)
def test_a_placement_that_cannot_be_is_refused_with_the_configuration(override, message):
    with pytest.raises(ValueError, match=message):
        compose(Path("nowhere"), override)


def estimate(data: str, overrides: list[str]) -> dict[str, Any]:
    """Return the plan of a job, the bytes that it says, and those that this rank holds."""
    from mbrec.distributed import placement, process
    from mbrec.job import build

    config, runtime = compose(Path(data), *overrides), process.start()
    tables = list(config.data.columns.tables)
    placed = []
    place = placement.place

    def kept(*args: Any, **kwargs: Any) -> placement.Placement:
        placed.append(place(*args, **kwargs))
        return placed[-1]

    with mock.patch.object(placement, "place", kept):
        sharded = build.shard(config, runtime, with_hook=False)
    weights = sharded.model.state_dict()
    state = sharded.optimizer.state_dict()["state"]
    held = [weights[f"bottom.categorical.embeddings.embedding_bags.{t}.weight"] for t in tables]
    held += [value for of in state.values() for value in of.values()]
    parts = [getattr(x, "local_shards", lambda x=x: [mock.Mock(tensor=x)])() for x in held]
    tensors: list[torch.Tensor] = [part.tensor for shards in parts for part in shards]
    (plan,) = placed[0].plan.plan.values()
    return {
        "kinds": {name: where.sharding_type for name, where in plan.items()},
        "said": placed[0].bytes_per_rank,
        "held": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
    }


@pytest.mark.parametrize("kind", ["table_wise", "row_wise", "data_parallel"])
def test_the_estimate_is_within_a_fifth_of_the_weights_and_momentum(tiny_data, tmp_path, kind):
    overrides = [*LARGE, f"+model.sharding.user={kind}", "trainer.global_batch_size=64"]
    ranks = run_ranks(estimate, 2, tmp_path, str(tiny_data), overrides)
    assert {rank["kinds"]["user"] for rank in ranks} == {kind}
    large = [rank for rank in range(2) if ranks[rank]["held"] > SIZE / 3]
    assert len(large) == (1 if kind == "table_wise" else 2)
    for rank in large:
        assert ranks[rank]["said"][rank] == pytest.approx(ranks[rank]["held"], rel=0.2)


def test_only_chosen_tables_leave_the_planners_choice(tiny_data, tmp_path):
    for overrides, user in (([], "table_wise"), (["+model.sharding.user=row_wise"], "row_wise")):
        kinds = [r["kinds"] for r in run_ranks(estimate, 2, tmp_path, str(tiny_data), overrides)]
        assert kinds == [{"user": user, "item": "table_wise", "tags": "table_wise"}] * 2


def broken(data: str, tables: list[str], chosen: dict[str, str], *, fails: bool) -> str:
    from mbrec.distributed import placement, process
    from mbrec.job import build

    config, runtime = compose(Path(data)), process.start()
    model = build.ranker(config, runtime.world_size, with_hook=False)
    failing = mock.patch.object(placement, "_plan", side_effect=KeyError("a bug"))
    with (
        failing if fails else mock.patch.object(placement, "log"),
        pytest.raises(Exception) as error,
    ):
        placement.place(model, tables, runtime, batch_size=8, chosen=chosen)
    return repr(error.value)


def fails(data: str) -> str:
    return broken(data, ["user", "item", "tags"], {}, fails=True)


def leaves_out(data: str) -> str:
    return broken(data, ["user", "item", "tags", "town"], {}, fails=False)


def differs(data: str) -> str:
    return broken(data, ["user", "item", "tags"], {"town": "row_wise"}, fails=False)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (fails, "KeyError('a bug')"),
        (leaves_out, "expected a plan for every table, got none for town"),
        (differs, "expected table 'town' to be row_wise, got None"),
    ],
)
def test_all_ranks_fail_together_on_a_plan_that_is_none(tiny_data, tmp_path, target, message):
    one, two = run_ranks(target, 2, tmp_path, str(tiny_data))
    assert one == two
    assert message in one


def test_the_limit_is_this_ranks_share_of_the_machine():
    from mbrec.distributed.placement import memory_limit

    def on(processes: int) -> Any:
        return mock.Mock(local_world_size=processes, device=torch.device("cpu"))

    alone, shared = memory_limit(on(1)), memory_limit(on(4))
    assert alone == pytest.approx(4 * shared, rel=1e-6)
    assert alone > 2**28
    assert memory_limit(on(4), 0.5) == 2**29


def final_layouts(data: str) -> list[bool]:
    """Return which DistributedDataParallel of a job would not lay its gradients out again."""
    from mbrec.distributed import process
    from mbrec.distributed.data_parallel import wrappers
    from mbrec.job import build

    sharding = "+model.sharding={user: data_parallel, item: row_wise, tags: data_parallel}"
    sharded = build.shard(compose(Path(data), sharding), process.start())
    found = []
    for wrapper in wrappers(sharded.model):
        wrapper.reducer._push_all_rebuilt_params()
        found.append(not wrapper.reducer._rebuild_buckets())
    return found


def test_the_layout_of_gradients_is_final_before_the_first_step(tiny_data, tmp_path):
    # Of the dense part, and of the data-parallel tables.
    for found in run_ranks(final_layouts, 2, tmp_path, str(tiny_data)):
        assert found == [True, True]
