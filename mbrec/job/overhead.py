"""What the hook costs a training job: the QPS drop of He et al. 2024, Table 2, and its parts."""

import itertools
import logging
import statistics
import time
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, get_args

import torch
import torch.distributed as dist

from mbrec import UserError
from mbrec.balance import BalanceHook
from mbrec.balance.backward.ranks import sum_over_ranks
from mbrec.balance.backward.spans import Part
from mbrec.config.overhead import FIRST_STEPS, WARMUP_PAIRS, Plan, plan
from mbrec.distributed.agreement import from_rank_0
from mbrec.distributed.lockstep import Lockstep
from mbrec.metrics.outputs import Outputs
from mbrec.monitor.timing import PartClock, Spread, drop, interleave
from mbrec.reader.batch import Batch
from mbrec.reader.loader import Loader
from mbrec.training.progress_bar import progress_bar
from mbrec.training.trainer import Trainer

log = logging.getLogger(__name__)

PARTS: tuple[Part, ...] = get_args(Part)
# Parts of the hook, in the order of a step; those that take no time are not shown.
LABELS: dict[Part, str] = {
    "views": "views",
    "passes": "K backward passes",
    "gramian": "Gramian",
    "collective": "collective, with the wait for the peers",
    "weights": "weights",
    "merge": "merge",
    "rest": "rest",
}


@dataclass(frozen=True)
class Measurement:
    """What was measured.

    Attributes:
        plan: the blocks.
        qps_drop: by how many per cent the rate is lower with the hook.
        bypassed_s: median seconds of a step without the hook.
        hooked_s: the same with it.
        rows_per_step: the global batch size.
        parts_s: mean seconds per step of each part of the hook, over the ranks.
    """

    plan: Plan
    qps_drop: Spread
    bypassed_s: float
    hooked_s: float
    rows_per_step: int
    parts_s: dict[Part, float]

    @property
    def hook_s(self) -> float:
        """Seconds per step inside the hook: all its parts."""
        return sum(self.parts_s[part] for part in LABELS)

    def figures(self) -> dict[str, dict[str, float]]:
        """Return all figures, in groups: for JSON, and as the scalars `group/name`."""
        seconds = {"bypassed": self.bypassed_s, "with_hook": self.hooked_s}
        parts = {part: 1e3 * self.parts_s[part] for part in LABELS}
        return {
            "qps_drop_percent": asdict(self.qps_drop),
            "steps_per_second": {name: 1 / s for name, s in seconds.items()},
            "rows_per_second": {name: self.rows_per_step / s for name, s in seconds.items()},
            "step_ms": {name: 1e3 * s for name, s in seconds.items()},
            "hook_ms": {**parts, "all": 1e3 * self.hook_s},
            "head_backward_ms": {"mean": 1e3 * self.parts_s["heads"]},
            "blocks": {
                "pairs": self.plan.pairs,
                "warmup_pairs": WARMUP_PAIRS,
                "steps": self.plan.block_steps,
                "split_steps": self.plan.split_steps,
            },
        }

    def describe(self) -> str:
        """Return the figures as a table."""
        speeds = {"bypassed": self.bypassed_s, "with the hook": self.hooked_s}
        lines = [
            "MEASUREMENT of what the hook costs; the model of this run is not to be compared",
            f"{'':<41}{'steps/s':>9}{'rows/s':>11}{'ms/step':>9}",
            *(
                f"{name:<41}{1 / s:>9.2f}{self.rows_per_step / s:>11,.0f}{1e3 * s:>9.2f}"
                for name, s in speeds.items()
            ),
            f"QPS drop {self.qps_drop.text()} %, median and 95 % interval of "
            f"{self.plan.pairs} pairs of blocks of {self.plan.block_steps} steps",
            f"{'the hook, a step':<41}{'ms':>9}{'% of the step':>15}",
            *(
                self._row(f"  {label}", self.parts_s[part])
                for part, label in LABELS.items()
                if self.parts_s[part]
            ),
            self._row("  all of it", self.hook_s),
            self._row("head backward before it (no overhead)", self.parts_s["heads"]),
        ]
        return "\n".join(lines)

    def _row(self, label: str, seconds: float) -> str:
        return f"{label:<41}{1e3 * seconds:>9.3f}{100 * seconds / self.hooked_s:>15.2f}"


class Meter:
    """Trains in blocks of steps, with the hook and with it bypassed, and times them.

    The blocks come in pairs, in random order within a pair. After them the parts of the hook are
    timed in steps of their own, in which a GPU is waited for at each part. The guard against values
    that are not finite works in all of them; the monitor and the explosion guard, which would
    compare steps of two kinds, in none.

    Args:
        trainer: that has not trained yet.
        hook: of its model.
        device: of the model.
        progress: show a bar.
    """

    def __init__(
        self, trainer: Trainer, hook: BalanceHook, device: torch.device, *, progress: bool
    ) -> None:
        self._trainer, self._hook = trainer, hook
        self._reader = trainer.loader.reader
        self._cuda = device.type == "cuda"
        self._bar = progress_bar("measure", FIRST_STEPS, shown=progress)
        self._batches = endless(trainer.loader)

    def measure(self) -> Measurement:
        """Return what the hook costs, as rank 0 saw it; the parts are means over the ranks.

        Raises:
            Interrupted: on every rank after the same step.
            FloatingPointError: on every rank, if a value is not finite.
            UserError: if there are no training rows.
        """
        trainer = self._trainer
        trainer.model.train()
        try:
            chosen = self._plan()
            if dist.get_rank() == 0:
                message = "measuring the hook in %d steps; nothing is evaluated or saved"
                log.info(message, chosen.steps)
            blocks = [partial(self._train, chosen.block_steps, bypass=b) for b in (True, False)]
            bypassed, hooked = interleave(
                blocks, self._wait, rounds=chosen.pairs, warmup=WARMUP_PAIRS
            )
            found = Measurement(
                chosen,
                drop(bypassed, hooked),
                statistics.median(bypassed) / chosen.block_steps,
                statistics.median(hooked) / chosen.block_steps,
                self._reader.global_batch_size,
                self._split(chosen.split_steps),
            )
            trainer.monitor.measured(trainer.step, found.figures())
            return found
        finally:
            self._batches.close()
            self._bar.close()
            trainer.monitor.close()

    def _plan(self) -> Plan:
        """Return the plan, the same on every rank, after the first steps."""
        trainer = self._trainer
        steps = FIRST_STEPS // 2
        first = partial(self._train, steps, bypass=False)
        first()
        batches = self._reader.num_batches(trainer.loader.num_workers)
        found = plan(step_seconds(first, steps), trainer.epochs * batches, trainer.max_steps)
        self._bar.total = found.steps
        return found

    def _train(self, steps: int, *, bypass: bool) -> None:
        self._trainer.monitor.flushed()
        self._hook.bypass = bypass
        trainer = self._trainer
        segment = Lockstep(
            self._batches, self._reader.empty_batch, limit=steps, interrupt=trainer.interrupt
        )
        trainer.train(segment, look=self._look)
        self._hook.bypass = False
        if segment.exhausted:
            raise UserError("expected at least one batch of training rows in an epoch, got none")

    def _look(self, outputs: Outputs) -> None:
        if self._trainer.guard.problem is not None:
            raise self._trainer.guard.problem
        self._bar.update()

    def _split(self, steps: int) -> dict[Part, float]:
        """Return the seconds of each part in a step with the hook, the mean over the ranks."""
        # The current stream alone: the next batch is on its way on others.
        wait = (lambda: torch.cuda.current_stream().synchronize()) if self._cuda else (lambda: None)
        clock = PartClock(wait)
        with _backward_marked(self._trainer.model, clock):
            self._hook.mark_parts(clock)
            self._train(steps, bypass=False)
            self._hook.mark_parts(None)
        seconds = torch.tensor([clock.seconds[part] for part in PARTS], dtype=torch.float64)
        mean = sum_over_ranks(seconds) / (dist.get_world_size() * steps)
        return dict(zip(PARTS, mean.tolist(), strict=True))

    def _wait(self) -> None:
        if self._cuda:
            torch.cuda.synchronize()
        dist.barrier()


@contextmanager
def _backward_marked(model: torch.nn.Module, clock: PartClock) -> Generator[None]:
    """Let a clock know when backward starts: the hook sees only how it arrives."""

    def mark(module: torch.nn.Module, inputs: Any, result: tuple[torch.Tensor, Outputs]) -> None:
        result[0].register_hook(lambda grad: clock("outside"))

    handle = model.register_forward_hook(mark)
    try:
        yield
    finally:
        handle.remove()


def endless(loader: Loader) -> Generator[Batch]:
    """Yield the batches of one epoch after another; none where an epoch has none."""
    for epoch in itertools.count():
        loader.reader.set_epoch(epoch)
        taken = False
        with closing(iter(loader)) as batches:
            for batch in batches:
                taken = True
                yield batch
        if not taken:
            return


def step_seconds(block: Callable[[], object], steps: int) -> float:
    """Return how long a step of a block takes, on every rank the same."""
    start = time.perf_counter()
    block()
    return from_rank_0(lambda: (time.perf_counter() - start) / steps)
