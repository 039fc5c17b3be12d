"""Measures the representation's gradients as a surrogate for those of the parameters below it.

Section 4 of the paper: Lemma 4.1, Theorem 1 and eq. 8 to 11, on the numbers of real training.
Shapes: K tasks.
"""

import logging
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from hydra import compose, initialize_config_module

from mbrec.config import settings as configuration
from mbrec.config.errors import plain_errors
from mbrec.distributed import process
from mbrec.distributed.lockstep import Lockstep
from mbrec.distributed.shutdown import end_processes
from mbrec.files import sealed
from mbrec.job import build
from mbrec.metrics.outputs import Outputs
from mbrec.model.ranker import Ranker
from mbrec.study.pages import slug
from mbrec.training.trainer import Trainer
from research.fidelity.agreement import Weighing
from research.fidelity.figures import Run, figures_of
from research.fidelity.frozen import frozen
from research.fidelity.gradients import GradientWatch
from research.fidelity.spectrum import spectrum

# From overrides of the default configuration, and the folder of a run.
TrainerOf = Callable[[Sequence[str], Path], Trainer]


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        overrides: of all runs.
        variants: name -> further overrides.
        rows: to train on.
        least_steps: minimum number of steps.
        figures: number of steps that are measured.
        sample_rows: of which the Jacobian is formed, at the first, a middle and the last step.
        frozen: variants whose trained model is measured at many batch sizes.
        frozen_rows: the largest of these; a power of two times the batch size of the variants,
            and no more than the training rows.
    """

    overrides: tuple[str, ...]
    variants: dict[str, tuple[str, ...]]
    rows: int
    least_steps: int
    figures: int
    sample_rows: int
    frozen: tuple[str, ...]
    frozen_rows: int


DEFAULT = "B = 1024"
_QUIET = ("experiment=paper_ads", "monitor.progress=false", "checkpoint.enabled=false")
_BATCH = "trainer.global_batch_size="
_BATCHES = {f"B = {size}": (f"{_BATCH}{size}",) for size in (256, 1024, 4096, 16384)}
_BOTTOMS = {
    "hidden 64, 64, 64, 64, 32": ("model.interaction.hidden=[64,64,64,64,32]",),
    "6 cross layers": ("model.interaction.num_layers=6",),
    # Stays where it begins: what holds before anything is learned.
    "untrained": ("optimizer.dense_lr=0", "optimizer.table_lr=0"),
}
_MORE = {
    "hidden 64, 32": ("model.interaction.hidden=[64,32]",),
    "equal weights": ("balancer=equal",),
}
SIZES = {
    "tiny": Size(
        (*_QUIET, "data/preset=tiny", "data.synthetic.rows=8192"),
        {"B = 256": _BATCHES["B = 256"]},
        rows=6_400,
        least_steps=20,
        figures=10,
        sample_rows=4,
        frozen=("B = 256",),
        frozen_rows=4_096,
    ),
    "small": Size(
        _QUIET,
        {DEFAULT: (), **_BATCHES, **_BOTTOMS},
        rows=320_000,
        least_steps=60,
        figures=40,
        sample_rows=16,
        frozen=(DEFAULT, *_BOTTOMS),
        frozen_rows=1 << 18,
    ),
    "full": Size(
        (*_QUIET, "data/preset=medium", "data.synthetic.rows=4000000"),
        {DEFAULT: (), **_BATCHES, "B = 65536": (f"{_BATCH}65536",), **_BOTTOMS, **_MORE},
        rows=3_200_000,
        least_steps=60,
        figures=100,
        sample_rows=32,
        frozen=(DEFAULT, *_BOTTOMS, *_MORE),
        frozen_rows=1 << 21,
    ),
}


def files(folder: Path, size: Size, seeds: int) -> dict[tuple[str, int], Path]:
    """Return variant and seed -> the file of that run."""
    runs = [(variant, seed) for variant in size.variants for seed in range(seeds)]
    return {(variant, seed): folder / f"{slug(variant)}-{seed}.json" for variant, seed in runs}


def measure(folder: Path, trainer_of: TrainerOf, size: Size, seeds: int) -> None:
    """Train and measure all variants, one after the other; rank 0 writes a JSON file of each run.

    Collective: every rank must call it. A run whose file is there is not trained again.

    Args:
        folder: for the files; all ranks see it.
        trainer_of: builds a trainer without checkpoints, whose model has hook and guard.
        size: what to train.
        seeds: runs of each variant.
    """
    for (variant, seed), path in files(folder, size, seeds).items():
        done = torch.tensor(int(path.exists()))
        dist.broadcast(done, src=0)  # ranks look at different times
        if done:
            continue
        chosen = [*size.overrides, *size.variants[variant], f"trainer.seed={seed}"]
        run = watch(trainer_of(chosen, folder / path.stem), size, variant=variant, seed=seed)
        if dist.get_rank() == 0:
            sealed.write_json(path, run.plain())


def load(folder: Path, size: Size, seeds: int) -> list[Run]:
    """Return the runs that `measure` left in a folder.

    Raises:
        FileNotFoundError: if one is missing.
    """
    return [Run.of(sealed.read_json(path)) for path in files(folder, size, seeds).values()]


def watch(trainer: Trainer, size: Size, *, variant: str = DEFAULT, seed: int = 0) -> Run:
    """Train without a change to the training, and return the figures.

    They are the same on every rank but for the spectra, which are those of rank 0's rows.

    Args:
        trainer: of a model with hook and guard, before its first step.
        size: how much is measured.
        variant: of `size`.
        seed: of the trainer.

    Raises:
        FloatingPointError: if a step meets a value that is not finite.
    """
    reader = trainer.loader.reader
    ranker = next(m for m in trainer.model.modules() if isinstance(m, Ranker))
    assert ranker.heads.hook is not None
    tasks = list(ranker.heads.hook.balancer.task_names)
    steps = max(size.least_steps, size.rows // reader.global_batch_size)
    run = Run(variant, seed, reader.global_batch_size, steps, tasks)
    gradients = GradientWatch(ranker, reader.columns)
    try:
        train(trainer, steps, looking(trainer, gradients, size, run))
        if variant in size.frozen:
            run.frozen.extend(frozen(trainer, gradients, size.frozen_rows))
    finally:
        gradients.close()
        trainer.monitor.close()
    return run


def looking(
    trainer: Trainer, gradients: GradientWatch, size: Size, run: Run
) -> Callable[[Outputs], None]:
    """Return what adds the figures of each step to a run."""
    measured, sampled = (spaced(1, run.steps, count) for count in (size.figures, 3))
    weighing = defaultdict(lambda: Weighing(len(run.tasks)))
    gradients.want_sample(size.sample_rows)

    def look(_: Outputs) -> None:
        if trainer.guard.problem is not None:
            raise trainer.guard.problem
        step, found = trainer.step, gradients.take()
        weighing["representation"].feed(found.representation_KK)
        for name, gramian_KK in found.parameters_KK.items():
            weighing[name].feed(gramian_KK)
        if step in measured:
            weights = {name: weighed.weights() for name, weighed in weighing.items()}
            own = weights.pop("representation")
            run.figures.extend(
                figures_of(step, name, found, own, weights[name]) for name in weights
            )
        if (sample := found.sample) is not None and dist.get_rank() == 0:
            of_rows = sample.interaction, sample.inputs_nI, sample.grads_KnH
            run.spectra.append(spectrum(step, *of_rows, found.grads_KP["interaction"]))
        if step + 1 in sampled:
            gradients.want_sample(size.sample_rows)

    return look


def train(trainer: Trainer, steps: int, look: Callable[[Outputs], None]) -> None:
    """Train up to a step, epoch after epoch, without monitor, explosion guard or checkpoints."""
    reader, epoch = trainer.loader.reader, 0
    trainer.model.train()
    while trainer.step < steps:
        reader.set_epoch(epoch)
        batches = iter(trainer.loader)
        try:
            left = steps - trainer.step
            trainer.train(Lockstep(batches, reader.empty_batch, limit=left), look)
        finally:
            batches.close()
        epoch += 1


def spaced(first: int, last: int, count: int) -> set[int]:
    """Return `count` whole numbers, or as many as there are, from the first to the last.

    >>> sorted(spaced(1, 300, 3))
    [1, 150, 300]
    """
    return {round(first + (last - first) * i / max(1, count - 1)) for i in range(count)}


def main() -> None:
    """Measure on every rank: `torchrun ... -m research.fidelity.measure SIZE FOLDER SEEDS`."""
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    size, folder, seeds = sys.argv[1:]
    with plain_errors():
        runtime = process.start()

        def trainer_of(overrides: Sequence[str], run: Path) -> Trainer:
            if runtime.rank == 0:
                print(run.name, file=sys.stderr, flush=True)
            words = [*overrides, "data.path=data/synthetic"]
            with initialize_config_module("mbrec.configs", version_base="1.3"):
                config = configuration.parse(compose("train", overrides=words))
            return build.trainer(config, runtime, run)[0]

        measure(Path(folder), trainer_of, SIZES[size], int(seeds))
    end_processes()


if __name__ == "__main__":
    main()
