"""Measures fidelity: `torchrun ... -m mbrec.reproduce.worker SIZE FOLDER SEEDS`.

Started by `mbrec.reproduce.surrogate`.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_module

from mbrec import config as configuration
from mbrec.errors import plain_errors
from mbrec.train import end_processes


def work(size: str, folder: Path, seeds: int) -> None:
    """Train and measure what is not there yet, on every rank."""
    from mbrec import build, distributed
    from mbrec.reproduce import fidelity
    from mbrec.trainer import Trainer

    runtime = distributed.start()

    def trainer_of(overrides: Sequence[str], run: Path) -> Trainer:
        if runtime.rank == 0:
            print(run.name, file=sys.stderr, flush=True)
        words = [*overrides, "data.path=data/synthetic"]
        with initialize_config_module("mbrec.configs", version_base="1.3"):
            config = configuration.parse(compose("train", overrides=words))
        return build.trainer(config, runtime, run)[0]

    fidelity.measure(folder, trainer_of, fidelity.SIZES[size], seeds)


def main() -> None:
    """Run the command line."""
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    size, folder, seeds = sys.argv[1:]
    with plain_errors():
        work(size, Path(folder), int(seeds))
    end_processes()


if __name__ == "__main__":
    main()
