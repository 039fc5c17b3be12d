"""TensorBoard scalars and the progress bar of a run.

Shapes: K tasks, S scalars a step.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tensorboard.compat.proto.summary_pb2 import (
    Summary,  # pyright: ignore[reportAttributeAccessIssue] (protobuf makes it at import)
)
from torch import Tensor
from torch.utils.tensorboard.summary import custom_scalars
from torch.utils.tensorboard.writer import FileWriter
from tqdm import tqdm

from mbrec.balance import BalanceHook
from mbrec.metrics import TaskMetrics
from mbrec.model import Outputs


class Monitor:
    """Keeps each step's scalars on the device and writes them every few steps.

    Only rank 0 writes; NE and calibration are of the rows since the last writing, on all ranks.

    Args:
        tasks: names, in row order.
        hook: the balancing hook.
        metrics: of the training rows; reset at each writing.
        folder: for TensorBoard's files.
        every: steps between two writings.
        rows_per_step: the global batch size.
        total_steps: expected length, for the progress bar.
        progress: show one.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        hook: BalanceHook,
        metrics: TaskMetrics,
        folder: Path,
        *,
        every: int,
        rows_per_step: int,
        total_steps: int,
        progress: bool,
    ) -> None:
        self.tasks = list(tasks)
        self.rows_per_second = 0.0
        self._hook, self._metrics = hook, metrics
        self._every, self._rows_per_step = every, rows_per_step
        self._writer = FileWriter(str(folder)) if dist.get_rank() == 0 else None
        if self._writer:
            self._writer.add_summary(custom_scalars(_layout(self.tasks)))
        shown = progress and self._writer is not None
        self._bar = progress_bar("train", total_steps, shown=shown)
        self._pair_indices: Tensor | None = None
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
        self._steps.append((step, time.time(), dict(rates), self._scalars(outputs)))
        self._bar.update()
        if len(self._steps) == self._every:
            self.flush()

    def flush(self) -> None:
        """Write what was recorded. A collective."""
        if not self._steps:
            return
        last = self._steps[-1][0]
        self._measure_speed()
        names, scalars = self._names(), {}
        values = torch.stack([values_S for *_, values_S in self._steps]).tolist()
        for (step, wall_time, rates, _), row in zip(self._steps, values, strict=True):
            # A name that comes twice keeps its last value: a method's own `weight` state.
            scalars = dict(zip(names, row, strict=True))
            scalars["loss"] = sum(row[: len(self.tasks)])
            scalars |= {f"learning_rate/{name}": rate for name, rate in rates.items()}
            self._write(step, scalars, wall_time)
        self._metrics.update(self._outputs)
        report = self._metrics.compute()
        self._metrics.reset()
        ne = {f"train_ne/{task}": report[task]["ne"] for task in self.tasks}
        calibration = {f"train_calibration/{t}": report[t]["calibration"] for t in self.tasks}
        self._write(last, {**ne, **calibration, "rows_per_second": self.rows_per_second})
        self._show(scalars)
        self._steps, self._outputs = [], []
        self._since = time.perf_counter()

    def resume(self) -> None:
        """Go on measuring the speed of training, after something else."""
        self._since = time.perf_counter()

    def finish_training(self) -> None:
        """Write what is left, and finish the progress bar."""
        self.flush()
        self._bar.close()

    def evaluated(self, step: int, report: Mapping[str, Mapping[str, float | None]]) -> None:
        """Write the figures of an evaluation."""
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
        if self._writer:
            self._writer.close()

    def _scalars(self, outputs: Outputs) -> Tensor:
        """Return this step's figures in the order of `_names`; few operations, no sync."""
        hook = self._hook
        losses_K = outputs.losses_K if hook.losses is None else hook.losses
        parts = [losses_K.double(), hook.weights, *hook.balancer.task_states().values()]
        if hook.gramian is not None and hook.grad_norms is not None and hook.cosines is not None:
            norms_K = hook.grad_norms
            cosines = hook.cosines.flatten().gather(0, self._pairs(norms_K.device))
            parts += [hook.weights, norms_K, norms_K * hook.weights, cosines]
        return torch.cat(parts)

    def _pairs(self, device: torch.device) -> Tensor:
        if self._pair_indices is None:
            n = len(self.tasks)
            flat = [i * n + j for i, j in combinations(range(n), 2)]
            self._pair_indices = torch.tensor(flat, dtype=torch.int64, device=device)
        return self._pair_indices

    def _names(self) -> list[str]:
        hook = self._hook
        by_task = ["loss", "weight", *hook.balancer.task_states()]
        pairs = []
        if hook.gramian is not None:
            by_task += ["effective_weight", "grad_norm", "weighted_norm"]
            pairs = [f"cosine/{a}-{b}" for a, b in combinations(self.tasks, 2)]
        return [f"{name}/{task}" for name in by_task for task in self.tasks] + pairs

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
        if self._writer is None:
            return
        # One event a step: an event a scalar costs more than a training step.
        values: list[Any] = [
            Summary.Value(tag=tag, simple_value=value)
            for tag, value in scalars.items()
            if value is not None
        ]
        self._writer.add_summary(Summary(value=values), step, wall_time)


def progress_bar(name: str, total: int, *, shown: bool) -> "tqdm[Any]":
    """Return a bar of steps; where nobody watches it (a log file) it moves every ten seconds."""
    interval = 0.5 if sys.stderr.isatty() else 10.0
    return tqdm(total=total, unit="step", desc=name, disable=not shown, mininterval=interval)


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
