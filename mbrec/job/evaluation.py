"""Scores the checkpoint of a saved run on its evaluation rows, or on others."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch.distributed as dist

from mbrec import UserError
from mbrec.checkpoint import restore, state
from mbrec.config import saved
from mbrec.config.settings import Config
from mbrec.distributed import process
from mbrec.distributed.failures import named_failures
from mbrec.files import sealed
from mbrec.job import build, compatibility, readers, resume
from mbrec.monitor import summary
from mbrec.training.predictions import writer


def evaluate(path: Path, overrides: list[str], predictions: Path | None) -> None:
    """Score a run's newest checkpoint that is whole, under any number of processes.

    Args:
        path: folder of the run, or of one of its checkpoints.
        overrides: `key=value`, changes of the run's settings.
        predictions: folder for the predictions of each process; None writes none.

    Raises:
        UserError: if it is no run, or its settings or data do not fit what the model has learned.
    """
    run = path.parent.parent if path.parent.name == "checkpoint" else path
    settings = saved.path_of(run)
    if settings is None:
        expected = f"{saved.JSON} or {saved.YAML}"
        raise UserError(f"expected the folder of a run, with {expected}, got {run}")
    before = saved.read(settings)
    # Where a class may come from is decided here and now, not by a file.
    config = saved.complete(before, ["runtime.plugins=[]", *overrides], settings)
    runtime = process.start(timeout_s=config.runtime.timeout_s)
    with named_failures(runtime):
        source = restore.choose(str(path), run)
        assert source is not None
        result, num_rows = _score(config, before, runtime, source, run, predictions)
        if runtime.rank == 0:
            content = {"checkpoint": str(source), "overrides": overrides, "tasks": result}
            # Figures of other data do not take the place of the run's own.
            target = predictions or (None if overrides else run)
            if target is not None:
                sealed.write_json(target / "evaluation.json", content)
            print(summary.table(result))
            if predictions is not None:
                print(f"predictions of {num_rows:,} rows are in {predictions}")
        dist.barrier()


def _score(
    config: Config,
    before: dict[str, Any],
    runtime: process.Runtime,
    source: Path,
    run: Path,
    predictions: Path | None,
) -> tuple[dict[str, Any], int]:
    """Return the figures of each task, and the number of rows."""
    learned = state.read(source)
    # The settings of an earlier version's run have no digest; those of its checkpoints do.
    compatibility.check_features(learned, before)
    reader = readers.evaluation_reader(config, runtime, run, learned.vocabularies)
    sharded = build.shard(config, runtime)
    layout = resume.layout(config, sharded)
    restore.load(source, sharded.model, sharded.hook, None, layout)
    writing = nullcontext()
    if predictions is not None:
        part = predictions / f"part-{runtime.rank:05d}.parquet"
        writing = writer(part, list(config.tasks), reader)
    with writing as write:
        result = build.evaluator(config, runtime, sharded, reader).evaluate(sharded.model, write)
    return result, reader.num_rows
