"""Compares balancers on a model: `mbrec compare experiment=NAME balancers=[...]`."""

import sys

from mbrec.study.compare import arguments as parsed
from mbrec.study.compare import compare
from mbrec.study.launch import resumable

USAGE = """usage: mbrec compare [experiment=NAME] [key=value ...]

Will balancing help my model? Trains it with equal weights, as one model per task, and with each
balancer, with the same seeds on the same batches, and writes compare.md, compare.csv, compare.json
and pictures. A difference is called real only if its 95% interval excludes zero. After an
interruption the same command resumes.
  balancers=[equal,static_grid,multibalance]   words of balancer=..., some with arguments:
                   multibalance+lr=1+prior_strength=0; static_grid: the best of 2 K static weights
  seeds=5          runs of each
  group=COLUMN     GAUC by this column of the evaluation rows, such as user
  tuning=[KEY=VALUE,...]   settings for choosing static weights, so that other rows choose them:
                   'tuning=[data.evaluation=[validation/*.parquet]]'; default: other seeds
  overhead=true    measure the QPS drop of each balancer, in a run of its own
  processes=N      of each run; default: a power of two, up to one per GPU; two without any
  out=DIR          for the pages; default: outputs/compare/EXPERIMENT_SETTINGS. The runs are
                   beside them. Other balancers, seeds or groups write the same pages again
  KEY=VALUE        any setting of scripts/train.sh"""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: of the command; None: those of this process.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(words):
        print(USAGE)
        return
    with resumable():
        page = compare(*parsed(words), ["mbrec", "compare", *words])
        print(page.read_text())
        print(f"-> {page}")


if __name__ == "__main__":
    main()
