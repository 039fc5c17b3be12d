"""Scores a saved run: `mbrec evaluate RUN [predictions=DIR] [key=value ...]`."""

import logging
import sys
from pathlib import Path

from mbrec import UserError
from mbrec.config.errors import plain_errors
from mbrec.distributed.shutdown import end_processes

USAGE = """usage: mbrec evaluate RUN [predictions=DIR] [key=value ...]
       torchrun --nproc-per-node N -m mbrec.evaluate RUN [predictions=DIR] [key=value ...]

Scores the newest checkpoint of the run in folder RUN on its evaluation rows; RUN may also be one of
its checkpoints, RUN/checkpoint/step_N.
  predictions=DIR   write a Parquet file of predictions from each process into DIR
  key=value         change a setting of the run, as in training; for example
                    data.path=DIR 'data.evaluation=[test/*.parquet]'
The result is printed, and written to evaluation.json: in DIR where predictions are asked for, else
in RUN where no setting is changed."""


def main(arguments: list[str]) -> None:
    """Run the command line."""
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
            raise UserError(f"expected key=value after the run, got {' '.join(wrong)}")
        if not Path(run).exists():
            raise UserError(f"expected the folder of a run first, got {run}")

        from mbrec.job.evaluation import evaluate

        evaluate(Path(run), overrides, Path(chosen[-1]) if chosen else None)
    end_processes()


if __name__ == "__main__":
    main(sys.argv[1:])
