"""Measures a job and the hook in it: `torchrun ... -m research.bench job [key=value ...]`.

Takes the same settings as training. The job is the real one: Parquet reader, vote of the ranks,
hook, guards, monitor. The loop has the same model without the hook, the same optimizers and
pipeline, on batches held in memory; it runs once more with the hook, and with hook and guard.
Blocks of the four take turns.
"""

import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import cycle, islice
from pathlib import Path

from mbrec.balance import BalanceHook
from mbrec.config import composer
from mbrec.config import settings as configuration
from mbrec.config.errors import plain_errors
from mbrec.distributed.shutdown import end_processes
from mbrec.job.check import check
from mbrec.monitor import timing

BLOCK_STEPS, BLOCK_SECONDS = 100, 1.0
ROUNDS = 15
BATCHES_IN_MEMORY = 50


def measure(config: configuration.Config) -> None:
    """Print rows/s of the job, of the bare loop with the hook and without, and the hook's time."""
    import torch.distributed as dist

    from mbrec.distributed import process
    from mbrec.distributed.lockstep import Lockstep
    from mbrec.job import build, run_folder
    from mbrec.job.overhead import endless, step_seconds

    runtime = process.start(timeout_s=config.runtime.timeout_s)
    folder = run_folder.prepare(config)
    trainer, _ = build.trainer(config, runtime, folder)
    trainer.model.train()
    batches = endless(trainer.loader)
    bare = build.shard(config, runtime, with_hook=False)
    hooked = build.shard(config, runtime, with_guard=False)
    guarded = build.shard(config, runtime)
    kept = list(islice(batches, BATCHES_IN_MEMORY))

    def job() -> None:
        padding = trainer.loader.reader.empty_batch
        trainer.train(Lockstep(batches, padding, limit=steps))

    def loop(sharded: build.Sharded) -> None:
        held = islice(cycle(kept), steps)
        try:
            while True:
                sharded.pipeline.progress(held)
        except StopIteration:
            return

    for sharded in (bare, hooked, guarded):
        sharded.model.train()
    steps = 10
    loop(bare)
    found = step_seconds(partial(loop, bare), steps)
    steps = max(steps, min(BLOCK_STEPS, round(BLOCK_SECONDS / found)))
    blocks = [job, *(partial(loop, sharded) for sharded in (bare, hooked, guarded))]
    seconds = timing.interleave(blocks, dist.barrier, rounds=ROUNDS)
    batches.close()
    trainer.monitor.close()
    assert hooked.hook is not None
    spent = hook_time(hooked.hook, partial(loop, hooked))
    if runtime.rank == 0:
        rows = steps * config.trainer.global_batch_size
        print(describe(rows, steps, *seconds))
        print(describe_hook(*spent, steps, timing.spread(seconds[2]).median))
    dist.barrier()


def hook_time(hook: BalanceHook, block: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds in the hook on this rank while a block of steps runs on the CPU.

    The first are its forward and backward pass; the others start the sum over the ranks, and wait
    for it.
    """
    clock = timing.PartClock()
    hook.mark_parts(clock)
    block()
    hook.mark_parts(None)
    collective = clock.seconds["collective"]
    return clock.inside - collective, collective


def describe_hook(inside: float, collective: float, steps: int, block_s: float) -> str:
    """Return the hook's seconds in microseconds per step, and in per cent of a block of steps."""
    return (
        f"hook itself {1e6 * inside / steps:,.0f} us a step = {100 * inside / block_s:.2f} %; "
        f"collective with the wait for the peers {1e6 * collective / steps:,.0f} us = "
        f"{100 * collective / block_s:.2f} %"
    )


def describe(rows: int, steps: int, *seconds: list[float]) -> str:
    """Return medians of rows/s, the job's share of the loops, and the drops of hook and guard.

    Args:
        rows: of a block.
        steps: of a block.
        seconds: of the blocks of the job, of the bare loop, with the hook, and with the guard.
    """
    job, bare, hooked, guarded = seconds
    names = ("job", "bare loop", "bare loop, hook", "bare loop, hook, guard")
    share = timing.spread([b / a for a, b in zip(job, bare, strict=True)])
    same = timing.spread([b / a for a, b in zip(job, guarded, strict=True)])
    lines = [
        f"{name:<23}{rows / statistics.median(times):>10,.0f} rows/s, "
        f"{1e3 * statistics.median(times) / steps:.2f} ms a step"
        for name, times in zip(names, seconds, strict=True)
    ]
    lines += [
        f"job / bare loop {share.text(3)}",
        f"job / bare loop of the same model, with hook and guard {same.text(3)}",
        f"QPS drop of the hook {timing.drop(bare, hooked).text()} %",
        f"QPS drop of the guard {timing.drop(hooked, guarded).text()} %",
        f"(medians and 95 % intervals, {len(job)} rounds of {steps} steps each)",
    ]
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Run the command line."""
    if composer.asks(arguments):
        composer.show(arguments)
        return
    with plain_errors(), tempfile.TemporaryDirectory() as scratch:
        config = check(arguments).config
        config.monitor.progress = False
        config.run.folder, config.run.name = scratch, Path(scratch).name
        measure(config)
    end_processes()
