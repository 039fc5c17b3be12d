"""TensorBoard scalars and the progress bar of a run.

Shapes: K tasks, S steps, P numbers kept of a step.
"""

import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tensorboard.compat.proto.event_pb2 import (
    Event,  # pyright: ignore[reportAttributeAccessIssue] (protobuf makes it at import)
    SessionLog,  # pyright: ignore[reportAttributeAccessIssue]
)
from tensorboard.compat.proto.summary_pb2 import (
    Summary,  # pyright: ignore[reportAttributeAccessIssue] (protobuf makes it at import)
)
from torch import Tensor
from torch.utils.tensorboard.summary import custom_scalars
from torch.utils.tensorboard.writer import FileWriter
from tqdm import tqdm

from mbrec.balance import BalanceHook
from mbrec.balance.ranks import sum_over_ranks
from mbrec.metrics import TaskMetrics
from mbrec.model import Outputs
from mbrec.unknown import UnknownIds

log = logging.getLogger(__name__)


class Monitor:
    """Keeps each step's scalars on the device and writes them every few steps.

    Only rank 0 writes them; NE and calibration are of the rows since the last writing, on all
    ranks.

    Args:
        tasks: names, in row order.
        hook: the balancing hook.
        metrics: of the training rows; reset at each writing.
        unknown: counts ids outside the vocabularies.
        folder: for TensorBoard's files.
        every: steps between two writings.
        rows_per_step: the global batch size.
        total_steps: expected length, for the progress bar.
        progress: show one.
        first_step: steps done before, by the run that is resumed; what that one wrote of later
            steps is hidden.

    Attributes:
        rows_per_second: of training so far.
        flushed: called at each writing.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        hook: BalanceHook,
        metrics: TaskMetrics,
        unknown: UnknownIds,
        folder: Path,
        *,
        every: int,
        rows_per_step: int,
        total_steps: int,
        progress: bool,
        first_step: int = 0,
    ) -> None:
        self.tasks = list(tasks)
        self.rows_per_second = 0.0
        self.flushed: Callable[[], None] = lambda: None
        self._hook, self._metrics, self._unknown = hook, metrics, unknown
        self._every, self._rows_per_step = every, rows_per_step
        self._writer = FileWriter(str(folder)) if dist.get_rank() == 0 else None
        if self._writer:
            self._writer.add_summary(custom_scalars(_layout(self.tasks)))
            if first_step:
                start = SessionLog(status=SessionLog.START)
                self._writer.add_event(Event(step=first_step + 1, session_log=start))
        shown = progress and self._writer is not None
        self._bar = progress_bar("train", total_steps, shown=shown, done=first_step)
        self._steps: list[tuple[int, float, dict[str, float], Tensor]] = []
        self._outputs: list[Outputs] = []
        self._rows, self._seconds = 0, 0.0
        self._since = time.perf_counter()

    def record(self, step: int, outputs: Outputs, rates: Mapping[str, float]) -> None:
        """Keep a step's figures; write those of the last `every` steps when they are complete.

        Args:
            step: its number.
            outputs: what the model returned.
            rates: learning rate by optimizer.
        """
        self._outputs.append(outputs)
        self._steps.append((step, time.time(), dict(rates), self._pack(outputs)))
        self._bar.update()
        if len(self._steps) == self._every:
            self.flush()

    def flush(self) -> None:
        """Write what was recorded. A collective."""
        if not self._steps:
            return
        last = self._steps[-1][0]
        self._measure_speed()
        packed_SP = torch.stack([packed_P for *_, packed_P in self._steps])
        if self._hook.losses is None:
            # Without statistics the losses are this rank's.
            losses_SK = packed_SP[:, : len(self.tasks)]
            total = sum_over_ranks(losses_SK.flatten()).view_as(losses_SK)
            packed_SP[:, : len(self.tasks)] = total / dist.get_world_size()
        figures = self._unpack(packed_SP.cpu())
        rows = torch.stack(list(figures.values()), 1).tolist()
        for (step, wall_time, rates, _), row in zip(self._steps, rows, strict=True):
            scalars = dict(zip(figures, row, strict=True))
            scalars |= {f"learning_rate/{name}": rate for name, rate in rates.items()}
            self._write(step, scalars, wall_time)
        self._metrics.update(self._outputs)
        report = self._metrics.compute()
        self._metrics.reset()
        ne = {f"train_ne/{task}": report[task]["ne"] for task in self.tasks}
        calibration = {f"train_calibration/{t}": report[t]["calibration"] for t in self.tasks}
        self._write(last, {**ne, **calibration, "rows_per_second": self.rows_per_second})
        for outputs in self._outputs:
            self._unknown.update(outputs.unknown_2C)
        self._write(last, {f"out_of_vocabulary/{n}": s for n, s in self._unknown.compute().items()})
        self._show(dict(zip(figures, rows[-1], strict=True)))
        self.flushed()
        self._steps, self._outputs = [], []
        self._since = time.perf_counter()

    def skip(self, step: int, skipped: int) -> None:
        """Note that a step's batch was left out; it has no figures.

        Args:
            step: its number.
            skipped: how many have been so far.
        """
        self._write(step, {"guard/skipped": float(skipped)})
        self._bar.update()

    def resume(self) -> None:
        """Go on measuring the speed of training, after something else."""
        self._since = time.perf_counter()

    def finish_training(self) -> None:
        """Write what is left, and finish the progress bar."""
        self.flush()
        self._bar.close()

    def evaluated(
        self,
        step: int,
        report: Mapping[str, Mapping[str, float | None]],
        unknown: Mapping[str, float],
    ) -> None:
        """Write the figures of an evaluation, and its fraction of ids outside the vocabularies."""
        shares = {f"evaluation_out_of_vocabulary/{name}": s for name, s in unknown.items()}
        self._write(step, shares)
        self._write(
            step,
            {
                f"evaluation_{name}/{task}": value
                for task, figures in report.items()
                for name, value in figures.items()
            },
        )

    def close(self) -> None:
        """Finish the files."""
        self._on_disk(lambda writer: writer.close())

    def _pack(self, outputs: Outputs) -> Tensor:
        """Return what a step's figures are computed from: one operation, no sync."""
        hook = self._hook
        losses_K = outputs.losses_K if hook.losses is None else hook.losses
        parts = [losses_K.double(), hook.weights, *hook.balancer.task_states().values()]
        if hook.gramian is not None:
            parts.append(hook.gramian.flatten())
        return torch.cat(parts)

    def _unpack(self, packed_SP: Tensor) -> dict[str, Tensor]:
        """Return the figures of S steps, each (S,), by the names they are written under."""
        size = len(self.tasks)
        names = ["loss", "weight", *self._hook.balancer.task_states()]
        values_SK = packed_SP[:, : size * len(names)].split(size, 1)
        rest = packed_SP[:, size * len(names) :]
        weights_SK = values_SK[1]
        # A method's own `weight` takes the place of the weights on the raw gradients.
        by_task = dict(zip(names, values_SK, strict=True))
        figures = {"loss": by_task["loss"].sum(1)}
        if rest.shape[1]:
            gramian_SKK = rest.view(-1, size, size)
            norms_SK = gramian_SKK.diagonal(dim1=1, dim2=2).sqrt()
            by_task["effective_weight"] = weights_SK
            by_task["grad_norm"] = norms_SK
            by_task["weighted_norm"] = norms_SK * weights_SK
            for i, j in combinations(range(size), 2):
                lengths = norms_SK[:, i] * norms_SK[:, j]
                cosine = torch.where(lengths > 0, gramian_SKK[:, i, j] / lengths, 0.0)
                figures[f"cosine/{self.tasks[i]}-{self.tasks[j]}"] = cosine
        for name, value_SK in by_task.items():
            for task, value in zip(self.tasks, value_SK.unbind(1), strict=True):
                figures[f"{name}/{task}"] = value
        return figures

    def _measure_speed(self) -> None:
        self._seconds += time.perf_counter() - self._since
        self._rows += self._rows_per_step * len(self._steps)
        self.rows_per_second = self._rows / self._seconds

    def _show(self, scalars: Mapping[str, float]) -> None:
        weights = " ".join(f"{task}={scalars[f'weight/{task}']:.3f}" for task in self.tasks)
        speed = f"{self.rows_per_second:,.0f} rows/s"
        text = f"{speed}, loss {scalars['loss']:.4f}, weights {weights}"
        self._bar.set_postfix_str(text, refresh=False)

    def _write(
        self, step: int, scalars: Mapping[str, float | None], wall_time: float | None = None
    ) -> None:
        if self._writer is None or not scalars:
            return
        # One event a step: an event a scalar costs more than a training step.
        values: list[Any] = [
            Summary.Value(tag=tag, simple_value=value)
            for tag, value in scalars.items()
            if value is not None
        ]
        self._on_disk(lambda w: w.add_summary(Summary(value=values), step, wall_time))

    def _on_disk(self, part: Callable[[FileWriter], object]) -> None:
        """Write with TensorBoard's writer, until that cannot: a full disk is no reason to stop."""
        if self._writer is None:
            return
        try:
            part(self._writer)
        except OSError as error:
            self._writer = None
            log.warning("TensorBoard's files could not be written, and end here: %s", error)


def progress_bar(name: str, total: int, *, shown: bool, done: int = 0) -> "tqdm[Any]":
    """Return a bar of steps; where nobody watches it (a log file) it moves every ten seconds."""
    interval = 0.5 if sys.stderr.isatty() else 10.0
    bar = {"total": total, "initial": done, "unit": "step", "desc": name}
    return tqdm(**bar, disable=not shown, mininterval=interval)


def _layout(tasks: Sequence[str]) -> dict[str, dict[str, list[Any]]]:
    """Return the pages of TensorBoard's custom scalars: the paper's Figure 2, and the tasks."""

    def chart(name: str) -> list[Any]:
        return ["Multiline", [f"^{name}/{task}$" for task in tasks]]

    return {
        "balance": {
            "gradient norm": chart("grad_norm"),
            "task weight": chart("weight"),
            "weighted gradient norm": chart("weighted_norm"),
            "cosines": ["Multiline", ["^cosine/"]],
        },
        "tasks": {
            "loss": chart("loss"),
            "NE of the training rows": chart("train_ne"),
            "NE of the evaluation": chart("evaluation_ne"),
        },
    }
