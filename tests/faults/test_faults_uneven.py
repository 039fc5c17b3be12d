"""Any number of rows, on ranks that get unequally many: no rank waits for one that left (R17)."""

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from jobs import compose
from ranks import run_ranks

BATCH = 32
JOB = [f"trainer.global_batch_size={BATCH}", "checkpoint.enabled=false", "monitor.every=3"]


def sizes_of(seed: int, count: int) -> list[tuple[int, int, int]]:
    """Rows to train on, rows to evaluate on, rows of a row group."""
    choose = random.Random(seed)
    edges = [1, 2, BATCH - 1, BATCH, BATCH + 1, 2 * BATCH, 5 * BATCH + 3]
    found = [(edge, choose.choice([1, 7, 70]), 16) for edge in edges]
    while len(found) < count:
        found.append(
            (choose.randint(1, 400), choose.randint(1, 200), choose.choice([1, 5, 64, 999]))
        )
    return found[:count]


def write(source: Path, folder: Path, case: tuple[int, int, int]) -> None:
    table: pa.Table = pq.read_table(min(source.glob("*/train/*.parquet")))
    start = 0
    for split, rows in zip(("train", "evaluation"), case, strict=False):
        (folder / split).mkdir(parents=True)
        part = table.slice(start, rows)
        pq.write_table(part, folder / split / "part.parquet", row_group_size=case[2])
        start += rows


def train_all(data: str, folder: str, cases: list[tuple[int, int, int]]) -> list[dict[str, Any]]:
    import torch.distributed as dist

    from mbrec.distributed import process
    from mbrec.job import build

    results, runtime = [], process.start()
    for number, case in enumerate(cases):
        own = Path(folder) / str(number)
        if runtime.rank == 0:
            write(Path(data), own, case)
        dist.barrier()
        config = compose(Path(data), *JOB, f"trainer.seed={number}")
        config.data.synthetic, config.data.path = None, str(own)
        trainer, _ = build.trainer(config, runtime, own / "run")
        record, rows = trainer.monitor.record, []

        def traced(
            step: int, outputs: Any, rates: Any, record: Any = record, rows: list[int] = rows
        ) -> None:
            rows.extend(row for row in outputs.rows_B.tolist() if row >= 0)
            record(step, outputs, rates)

        trainer.monitor.record = traced
        report = trainer.fit()
        results.append({"step": trainer.step, "rows": rows, "count": report["ctr"]["count"]})
    return results


def test_every_rank_makes_the_same_steps_and_every_row_is_met_once(
    tiny_data, tmp_path, nightly, fault_seed, figure
):
    cases = sizes_of(fault_seed, 50 if nightly else 12)
    results = run_ranks(train_all, 2, tmp_path, str(tiny_data), str(tmp_path / "sets"), cases)
    for case, one, two in zip(cases, *results, strict=True):
        assert one["step"] == two["step"] > 0, case
        assert sorted(one["rows"] + two["rows"]) == list(range(case[0])), case
        assert one["count"] == two["count"] == case[1], case
    figure("R17", splits=len(cases), hung=0, rows_lost=0)
