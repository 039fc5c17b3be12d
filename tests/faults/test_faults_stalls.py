"""A reader that stalls keeps no job from being saved, on whichever rank, and no batch is lost."""

import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import compose, parameters
from ranks import run_ranks

STEPS = 12
JOB = [
    f"trainer.steps={STEPS}",
    "trainer.epochs=9",
    "trainer.global_batch_size=128",
    "trainer.evaluate_every=6",
    "data.shuffle_rows=1000",
    "+model.sharding={user: table_wise, item: row_wise, tags: data_parallel}",
]


def fit(data: str, run_folder: str, overrides: list[str], stall: dict[str, Any]) -> dict[str, Any]:
    """Train; where the reader stalls on a rank, one of the ranks is asked to stop.

    Args:
        data: folder of the synthetic data sets.
        run_folder: of the run.
        overrides: of the configuration.
        stall: `rank` whose reader stalls, in which `loader`, after how many `batches`, and the
            rank that is `asked`; empty: none.
    """
    from mbrec.distributed import process
    from mbrec.distributed.interrupt import Interrupt, Interrupted
    from mbrec.job import build, resume
    from mbrec.reader.batch import Batch
    from mbrec.reader.parquet import ParquetReader

    config = compose(Path(data), *overrides)
    runtime = process.start()
    torch.manual_seed(runtime.rank)
    interrupt = Interrupt(runtime.store if runtime.world_size > 1 else None)
    source = resume.source(config, Path(run_folder))
    trainer, sharded = build.trainer(
        config, runtime, Path(run_folder), source=source, interrupt=interrupt
    )
    stalls = Path(run_folder) / "stalls"
    whole = ParquetReader.__iter__
    target = trainer.loader if stall.get("loader") == "train" else trainer.evaluator._loader

    def stalling(self: ParquetReader) -> Iterator[Batch]:
        for number, batch in enumerate(whole(self)):
            here = runtime.rank == stall["rank"] and self is target.reader
            if here and number == stall["batches"]:
                stalls.touch()
                time.sleep(300)
            yield batch

    def ask() -> None:
        while not stalls.exists():
            time.sleep(0.02)
        interrupt._receive(signal.SIGTERM)

    if stall:
        ParquetReader.__iter__ = stalling
        if runtime.rank == stall["asked"]:
            threading.Thread(target=ask, daemon=True).start()
    first, reason = trainer.step, ""
    try:
        trainer.fit()
    except Interrupted as stop:
        reason = str(stop)
    finally:
        ParquetReader.__iter__ = whole
    return {
        "steps": (first, trainer.step),
        "reason": reason,
        "state": parameters(sharded.model),
        "history": json.dumps(trainer.history),
    }


def stop_and_go_on(data: str, folder: str, overrides: list[str], stalls: list[dict]) -> list[Any]:
    """Train undisturbed; then once for each stall: until it, and on from there."""
    found = [fit(data, f"{folder}/undisturbed", overrides, {})]
    for number, stall in enumerate(stalls):
        run = f"{folder}/{number}"
        Path(run).mkdir(exist_ok=True)
        found += [fit(data, run, overrides, stall), fit(data, run, overrides, {})]
    return found


STALLS = {
    "the first batch": {"rank": 1, "loader": "train", "batches": 0, "asked": 0},
    "amid training": {"rank": 1, "loader": "train", "batches": 9, "asked": 0},
    "amid an evaluation": {"rank": 1, "loader": "evaluation", "batches": 3, "asked": 0},
}


@pytest.mark.slow
def test_a_stalled_reader_does_not_keep_ranks_from_a_stop_at_the_same_step(tiny_data, tmp_path):
    ranks = run_ranks(
        stop_and_go_on, 2, tmp_path, str(tiny_data), str(tmp_path), JOB, list(STALLS.values())
    )
    for number, name in enumerate(STALLS):
        before = [rank[1 + 2 * number]["steps"] for rank in ranks]
        after = [rank[2 + 2 * number]["steps"] for rank in ranks]
        assert before[0] == before[1], name
        assert before[0][1] < STEPS, name
        assert after == [(before[0][1], STEPS)] * 2, name
        for rank in ranks:
            whole, stopped, resumed = rank[0], rank[1 + 2 * number], rank[2 + 2 * number]
            assert stopped["reason"] == "SIGTERM", name
            assert resumed["history"] == whole["history"], name
            for key, parts in whole["state"].items():
                for (_, expected), (_, value) in zip(parts, resumed["state"][key], strict=True):
                    assert (expected == value).all(), (name, key)


@pytest.mark.sentinel
@pytest.mark.slow
def test_a_stalled_reader_does_not_keep_a_single_process_from_a_stop(tiny_data, tmp_path):
    stall = {"rank": 0, "loader": "train", "batches": 7, "asked": 0}
    ((whole, stopped, resumed),) = run_ranks(
        stop_and_go_on, 1, tmp_path, str(tiny_data), str(tmp_path), JOB, [stall]
    )
    assert stopped["reason"] == "SIGTERM"
    assert stopped["steps"][1] <= 7
    assert resumed["steps"] == (stopped["steps"][1], STEPS)
    assert resumed["history"] == whole["history"]
