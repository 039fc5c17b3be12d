"""Tables do not depend on the plan; ranks stay in lockstep on uneven data."""

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jobs import compose, gather, parameters
from ranks import run_ranks
from torchrec.distributed.types import ShardingType

from mbrec.distributed import loopback
from mbrec.distributed.table_init import CHUNK_ROWS, _table_rows


def tables(data: str, kinds: list[ShardingType]):
    from mbrec.distributed import placement, process
    from mbrec.distributed.table_init import init_tables
    from mbrec.job import build

    config = compose(Path(data), "trainer.global_batch_size=64")
    runtime = process.start()
    found = []
    for kind in kinds:
        model = build.ranker(config, runtime.world_size, with_hook=False)
        names = list(config.data.columns.tables)
        chosen = dict.fromkeys(names, kind.value)
        placed = placement.place(model, names, runtime, batch_size=32, chosen=chosen)
        sharded = placement.shard(model, placed, runtime)
        init_tables(sharded, seed=5)
        (plan,) = sharded.plan.plan.values()
        assert {parameter.sharding_type for parameter in plan.values()} == {kind.value}
        state = parameters(sharded)
        found.append({key: parts for key, parts in state.items() if ".embedding_bags." in key})
    return found


def test_tables_are_the_same_under_every_plan_and_number_of_ranks(tiny_data, tmp_path):
    kinds = [ShardingType.TABLE_WISE, ShardingType.ROW_WISE, ShardingType.COLUMN_WISE]
    kinds += [ShardingType.DATA_PARALLEL]
    (one,) = run_ranks(tables, 1, tmp_path, str(tiny_data), kinds[:1])
    expected = gather([one[0]])
    assert len(expected) == 3
    two = run_ranks(tables, 2, tmp_path, str(tiny_data), kinds)
    for index in range(len(kinds)):
        found = gather([rank[index] for rank in two])
        assert found.keys() == expected.keys()
        for key, table in expected.items():
            assert torch.equal(found[key], table), (kinds[index], key)
            assert table.std() > 0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 3 * CHUNK_ROWS), st.integers(0, 40), st.integers(0, 2**31))
def test_any_rows_of_a_table_are_those_of_the_whole(start, count, seed):
    whole = _table_rows("t", 0, start + count, 2, 0.1, seed)
    assert torch.equal(_table_rows("t", start, count, 2, 0.1, seed), whole[start:])


def uneven(lengths: list[int], limit: int | None):
    import torch.distributed as dist
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    from mbrec.distributed.lockstep import Lockstep
    from mbrec.reader.batch import Batch

    def batch(value: float) -> Batch:
        one = torch.ones(1)
        sparse = KeyedJaggedTensor(keys=["f"], values=one.long(), lengths=one.int())
        counts = torch.tensor([value, 1.0 if value else 0.0], dtype=torch.float64)
        return Batch(sparse, one, one, one, one, counts, counts / 2, one)

    rank = dist.get_rank()
    own = (batch(float(10**rank)) for _ in range(lengths[rank]))
    lockstep = Lockstep(own, lambda: batch(0.0), limit=limit)
    steps = list(lockstep)
    assert all(torch.equal(step.positives_K, step.counts_K / 2) for step in steps)
    return [step.counts_K.tolist() for step in steps], lockstep.exhausted


def test_all_ranks_stop_together_and_each_batch_has_the_global_counts(tmp_path):
    first, second = run_ranks(uneven, 2, tmp_path, [1, 3], None)
    assert first == second == ([[11.0, 2.0], [10.0, 1.0], [10.0, 1.0]], True)


def test_a_rank_without_any_batch_takes_part(tmp_path):
    first, second = run_ranks(uneven, 2, tmp_path, [0, 2], None)
    assert first == second == ([[10.0, 1.0], [10.0, 1.0]], True)


def test_a_limit_ends_a_segment_on_all_ranks(tmp_path):
    first, second = run_ranks(uneven, 2, tmp_path, [1, 3], 2)
    assert first == second == ([[11.0, 2.0], [10.0, 1.0]], False)


def write_slowly(data: str) -> str:
    """On rank 0, write a data set for longer than a collective waits; return where it is."""
    import time

    from mbrec.distributed import process
    from mbrec.job import readers
    from mbrec.prepare.synthetic import files

    runtime = process.start(timeout_s=1)
    write = files.write

    def slowly(*args, **options):
        time.sleep(2.5)
        write(*args, **options)

    files.write = slowly
    return readers.data_folder(compose(Path(data)), runtime)


def test_ranks_wait_for_data_that_are_written_for_longer_than_a_collective_may_take(tmp_path):
    first, second = run_ranks(write_slowly, 2, tmp_path, str(tmp_path / "data"), group=False)
    assert first == second
    assert (Path(first) / "world.json").exists()


def test_what_an_earlier_start_of_the_processes_has_written_concerns_no_later_one(tmp_path):
    first, second = run_ranks(start_twice, 2, tmp_path, group=False)
    assert first is second is False


def start_twice() -> bool:
    """Whether a failure that a first start has reported is known in a second; not so the ranks."""
    import torch.distributed as dist

    from mbrec.distributed import failures, process

    failures.report(process.start(timeout_s=30).store, 0, "of before")
    store = process.start(timeout_s=30).store
    dist.barrier()
    return bool(failures.reports(store))


@pytest.mark.skipif(sys.platform != "linux", reason="another system may have that address")
def test_a_machine_without_loopback_is_told(monkeypatch):
    monkeypatch.setattr(loopback, "ADDRESS", "192.0.2.1")  # of documents, and of no machine
    with pytest.raises(OSError, match=r"expected a loopback interface with the address 192\.0\.2"):
        loopback.require()
    monkeypatch.undo()
    loopback.require()
