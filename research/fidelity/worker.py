"""Measures fidelity: `torchrun ... -m research.fidelity.worker SIZE FOLDER SEEDS`.

Started by `research.fidelity.part`.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_module

from mbrec.config import settings as configuration
from mbrec.config.errors import plain_errors
from mbrec.distributed.shutdown import end_processes


def work(size: str, folder: Path, seeds: int) -> None:
    """Train and measure what is not there yet, on every rank."""
    from mbrec.distributed import process
    from mbrec.job import build
    from mbrec.training.trainer import Trainer
    from research.fidelity import measure

    runtime = process.start()

    def trainer_of(overrides: Sequence[str], run: Path) -> Trainer:
        if runtime.rank == 0:
            print(run.name, file=sys.stderr, flush=True)
        words = [*overrides, "data.path=data/synthetic"]
        with initialize_config_module("mbrec.configs", version_base="1.3"):
            config = configuration.parse(compose("train", overrides=words))
        return build.trainer(config, runtime, run)[0]

    measure.measure(folder, trainer_of, measure.SIZES[size], seeds)


def main() -> None:
    """Run the command line."""
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    size, folder, seeds = sys.argv[1:]
    with plain_errors():
        work(size, Path(folder), int(seeds))
    end_processes()


if __name__ == "__main__":
    main()
