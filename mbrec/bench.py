"""Measures a job against a bare torchrec loop: `torchrun --nproc-per-node 2 -m mbrec.bench`.

Takes the same settings as training. The job is the real one: Parquet reader, vote of the ranks,
hook, monitor. The loop has the same model without the hook, the same optimizers and pipeline, on
batches held in memory. Blocks of both alternate in one run.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from mbrec import check
from mbrec import config as configuration
from mbrec.errors import plain_errors
from mbrec.train import end_processes

BLOCK_STEPS = 100
ROUNDS = 15
WARMUP_ROUNDS = 2
BATCHES_IN_MEMORY = 50


def measure(config: configuration.Config) -> None:
    """Print rows/s of the job and of the bare loop, and their ratio."""
    import torch.distributed as dist

    from mbrec import build, distributed

    runtime = distributed.start(timeout_s=config.runtime.timeout_s)
    folder = build.run_folder(config, runtime)
    trainer, _ = build.trainer(config, runtime, folder)
    trainer.model.train()
    batches = endless(trainer)
    bare = build.shard(config, runtime, with_hook=False)
    bare.model.train()
    kept = list(islice(batches, BATCHES_IN_MEMORY))

    def job() -> None:
        padding = trainer.loader.reader.empty_batch
        trainer.train(distributed.Lockstep(batches, padding, limit=BLOCK_STEPS))

    def loop() -> None:
        held = islice(cycle(kept), BLOCK_STEPS)
        try:
            while True:
                bare.pipeline.progress(held)
        except StopIteration:
            return

    seconds = interleave([job, loop], lambda: dist.barrier())
    batches.close()
    trainer.monitor.close()
    if runtime.rank == 0:
        rows = BLOCK_STEPS * config.trainer.global_batch_size
        print(describe(rows, *seconds))
    dist.barrier()


def endless(trainer: Any) -> Generator[Any]:
    """Yield the batches of one epoch after another."""
    epoch = 0
    while True:
        trainer.loader.reader.set_epoch(epoch)
        yield from iter(trainer.loader)
        epoch += 1


def interleave(
    blocks: list[Callable[[], None]], barrier: Callable[[], object]
) -> list[list[float]]:
    """Return the seconds of each block in each round; the order within a round alternates."""
    seconds: list[list[float]] = [[] for _ in blocks]
    for round_ in range(WARMUP_ROUNDS + ROUNDS):
        order = range(len(blocks)) if round_ % 2 else reversed(range(len(blocks)))
        for index in order:
            barrier()
            start = time.perf_counter()
            blocks[index]()
            barrier()
            if round_ >= WARMUP_ROUNDS:
                seconds[index].append(time.perf_counter() - start)
    return seconds


def describe(rows: int, job: list[float], loop: list[float]) -> str:
    """Return medians of rows/s, and the ratio's median with a 95 % interval of the median."""
    ratios = sorted(b / a for a, b in zip(job, loop, strict=True))
    # Order statistics whose ranks cover the median with probability 0.95 (normal approximation).
    reach = round(0.98 * len(ratios) ** 0.5)
    middle = len(ratios) // 2
    low, high = ratios[max(0, middle - reach)], ratios[min(len(ratios) - 1, middle + reach)]
    return (
        f"job        {rows / statistics.median(job):>10,.0f} rows/s\n"
        f"bare loop  {rows / statistics.median(loop):>10,.0f} rows/s\n"
        f"ratio      {statistics.median(ratios):.3f} "
        f"(95 % interval of the median {low:.3f} to {high:.3f}, {len(ratios)} rounds "
        f"of {BLOCK_STEPS} steps each)"
    )


@hydra.main(version_base="1.3", config_path="pkg://mbrec.configs", config_name="train")
def _main(node: DictConfig) -> None:
    with plain_errors(), tempfile.TemporaryDirectory() as scratch:
        config = check.parsed(node)
        config.monitor.progress = False
        config.run.folder, config.run.name = scratch, Path(scratch).name
        measure(config)


def main() -> None:
    """Run the command line."""
    with plain_errors():
        check.check(sys.argv[1:])
    _main()
    end_processes()


if __name__ == "__main__":
    main()
