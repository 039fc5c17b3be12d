"""Scores a saved run: `python -m mbrec.evaluate RUN [predictions=DIR] [key=value ...]`."""

import logging
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbrec.config import plain_yaml
from mbrec.config import settings as configuration
from mbrec.config.errors import plain_errors

if TYPE_CHECKING:  # --help must not wait for torch
    from mbrec.distributed.process import Runtime

USAGE = """usage: python -m mbrec.evaluate RUN [predictions=DIR] [key=value ...]
       torchrun --nproc-per-node N -m mbrec.evaluate RUN [predictions=DIR] [key=value ...]

Scores the newest checkpoint of the run in folder RUN on its evaluation rows; RUN may also be one of
its checkpoints, RUN/checkpoint/step_N.
  predictions=DIR   write a Parquet file of predictions from each process into DIR
  key=value         change a setting of the run, as in training; for example
                    data.path=DIR 'data.evaluation=[test/*.parquet]'
The result is printed, and written to evaluation.json: in DIR where predictions are asked for, else
in RUN where no setting is changed."""


def evaluate(run: Path, overrides: list[str], predictions: Path | None) -> None:
    """Score a run's newest checkpoint that is whole, under any number of processes."""
    path = run
    if run.parent.name == "checkpoint":
        run = run.parent.parent
    if not (run / "config.yaml").exists():
        raise ValueError(f"expected the folder of a run, got {run}, which has no config.yaml")
    # Where a class may come from is decided here and now, not by a file.
    settings = run / "config.yaml"
    saved = plain_yaml.read(settings, configuration.Config)
    config = configuration.complete(saved, ["runtime.plugins=[]", *overrides], settings)

    import torch.distributed as dist

    from mbrec.distributed import process
    from mbrec.distributed.failures import named_failures

    runtime = process.start(timeout_s=config.runtime.timeout_s)
    with named_failures(runtime):
        _score(config, saved, runtime, path, run, overrides, predictions)
        dist.barrier()
    dist.destroy_process_group()


def _score(
    config: configuration.Config,
    saved: dict[str, Any],
    runtime: "Runtime",
    path: Path,
    run: Path,
    overrides: list[str],
    predictions: Path | None,
) -> None:
    from mbrec.checkpoint import restore, state
    from mbrec.files import sealed
    from mbrec.job import build, readers, resume
    from mbrec.monitor import summary
    from mbrec.training.predictions import writer

    source = restore.choose(str(path), run)
    assert source is not None
    learned = state.read(source)
    # The settings of an earlier version's run have no digest; those of its checkpoints do.
    resume.check_features(learned, saved)
    reader = readers.evaluation_reader(config, runtime, run, learned.vocabularies)
    sharded = build.shard(config, runtime)
    now = resume.layout(config, sharded)
    restore.load(source, sharded.model, sharded.hook, None, now)
    evaluator = build.evaluator(config, runtime, sharded, reader)
    writing = nullcontext()
    if predictions is not None:
        part = predictions / f"part-{runtime.rank:05d}.parquet"
        writing = writer(part, list(config.tasks), reader)
    with writing as write:
        result = evaluator.evaluate(sharded.model, write)
    if runtime.rank == 0:
        content = {"checkpoint": str(source), "overrides": overrides, "tasks": result}
        # Figures of other data do not take the place of the run's own.
        target = predictions or (None if overrides else run)
        if target is not None:
            sealed.write_json(target / "evaluation.json", content)
        print(summary.table(result))
        if predictions is not None:
            print(f"predictions of {reader.num_rows:,} rows are in {predictions}")


def main() -> None:
    """Run the command line."""
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(USAGE)
        return
    run, *rest = arguments
    chosen = [a.removeprefix("predictions=") for a in rest if a.startswith("predictions=")]
    overrides = [a for a in rest if not a.startswith("predictions=")]
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    with plain_errors():
        if wrong := [a for a in overrides if "=" not in a]:
            raise ValueError(f"expected key=value after the run, got {' '.join(wrong)}")
        if "=" in run and not Path(run).exists():
            raise ValueError(f"expected the folder of a run first, got {run}")
        evaluate(Path(run), overrides, Path(chosen[-1]) if chosen else None)


if __name__ == "__main__":
    main()
