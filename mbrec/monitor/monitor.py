"""TensorBoard scalars and the progress bar of a run.

Shapes: K tasks, S steps, P numbers kept of a step.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
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

from mbrec.balance import BalanceHook
from mbrec.balance.backward.ranks import sum_over_ranks
from mbrec.metrics.lost_ids import LostIds
from mbrec.metrics.outputs import Outputs
from mbrec.metrics.task_metrics import TaskMetrics
from mbrec.monitor import event_files, rank_weights
from mbrec.monitor.conflicts import ConflictWatch
from mbrec.monitor.scalar_layout import layout
from mbrec.monitor.step_record import Steps, pack, unpack
from mbrec.training.progress_bar import progress_bar

log = logging.getLogger(__name__)


class Monitor:
    """Keeps each step's scalars on the device and writes them every few steps.

    Only rank 0 writes them; NE and calibration are of the rows since the last writing, on all
    ranks.

    Args:
        metrics: of the training rows; reset at each writing.
        lost: counts ids outside the vocabularies or cut off.
        every: steps between two writings.
        total_steps: expected length, for the progress bar.
        first_step: steps done before, by the run that is resumed; what that one wrote of later
            steps is hidden.

    Attributes:
        flushed: called at each writing.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        hook: BalanceHook,
        metrics: TaskMetrics,
        lost: LostIds,
        folder: Path,
        *,
        every: int,
        total_steps: int,
        progress: bool,
        first_step: int = 0,
    ) -> None:
        self.tasks = list(tasks)
        self.rows_per_second = 0.0
        self.flushed: Callable[[], None] = lambda: None
        self._hook, self._metrics, self._lost = hook, metrics, lost
        self._every = every
        self._writer = None
        if dist.get_rank() == 0:
            self._writer = FileWriter(str(folder), filename_suffix=event_files.suffix(folder))
        if self._writer and first_step:
            start = SessionLog(status=SessionLog.START)
            self._writer.add_event(Event(step=first_step + 1, session_log=start))
        self._conflict = None
        if self._writer and len(self.tasks) > 1 and hook.statistics:
            self._conflict = ConflictWatch(self.tasks, hook.balancer, every=every)
        self._is_laid_out = False
        shown = progress and self._writer is not None
        self._bar = progress_bar("train", total_steps, shown=shown, done=first_step)
        self._steps: list[tuple[int, float, dict[str, float], Tensor]] = []
        self._outputs: list[Outputs] = []
        self._local_KK: Tensor | None = None
        self._rows, self._seconds = 0, 0.0
        self._since = time.perf_counter()

    def record(self, step: int, outputs: Outputs, rates: Mapping[str, float]) -> None:
        """Keep a step's figures; write those of the last `every` steps when they are complete."""
        self._outputs.append(outputs)
        packed_P = pack(self._hook, outputs.losses_K)
        self._steps.append((step, time.time(), dict(rates), packed_P))
        # Of a step that is left out it may not be finite.
        self._local_KK = self._hook.local_gramian
        self._bar.update()
        if len(self._steps) == self._every:
            self.flush()

    def flush(self) -> None:
        """Write what was recorded. Collective: every rank must call it."""
        if not self._steps:
            return
        self._measure_speed()
        kept = unpack(self._hook, self._gathered())
        rows = self._rows_of(kept)
        for (step, wall_time, rates, _), row in zip(self._steps, rows, strict=True):
            shown = {f"learning_rate/{name}": rate for name, rate in rates.items()}
            self._write(step, row | shown, wall_time)
        since = self._since_last_writing()
        self._write(self._steps[-1][0], since)
        if not self._is_laid_out:
            self._lay_out({*rows[-1], *since})
        self._show(rows[-1])
        self.flushed()
        self._steps, self._outputs = [], []
        self._since = time.perf_counter()

    def skip(self, step: int, skipped: int) -> None:
        """Note that a step's batch was left out; it has no figures.

        Args:
            skipped: how many have been so far.
        """
        self._write(step, {"guard/skipped": float(skipped)})
        self._bar.update()

    def resume(self) -> None:
        """Resume measuring the speed of training, after something else."""
        self._since = time.perf_counter()

    def finish_training(self) -> None:
        """Write what is left, and finish the progress bar."""
        self.flush()
        self._bar.close()

    def evaluated(
        self,
        step: int,
        report: Mapping[str, Mapping[str, float | None]],
        lost: Mapping[str, float],
    ) -> None:
        """Write the figures of an evaluation, and its fractions of lost ids."""
        self._write(step, {f"evaluation_{name}": share for name, share in lost.items()})
        self._write(
            step,
            {
                f"evaluation_{name}/{task}": value
                for task, figures in report.items()
                for name, value in figures.items()
            },
        )
        self._draw_cosines(step)

    def measured(self, step: int, figures: Mapping[str, Mapping[str, float]]) -> None:
        """Write what a measurement of the hook has found."""
        groups = figures.items()
        self._write(step, {f"overhead/{g}/{name}": v for g, f in groups for name, v in f.items()})

    def close(self) -> None:
        """Finish the files."""
        self._on_disk(lambda writer: writer.close())

    def _gathered(self) -> Tensor:
        """Return what was kept of each step, (S, P), on the host; the losses are of all ranks."""
        packed_SP = torch.stack([packed_P for *_, packed_P in self._steps])
        if self._hook.losses is None:
            # Without statistics the losses are this rank's.
            losses_SK = packed_SP[:, : len(self.tasks)]
            total = sum_over_ranks(losses_SK.flatten()).view_as(losses_SK)
            packed_SP[:, : len(self.tasks)] = total / dist.get_world_size()
        return packed_SP.cpu()

    def _rows_of(self, kept: Steps) -> list[dict[str, float | None]]:
        """Return the figures of each step."""
        figures = kept.figures(self.tasks)
        values = torch.stack(list(figures.values()), 1).tolist()
        rows = [dict(zip(figures, row, strict=True)) for row in values]
        if self._conflict is None:
            return rows
        assert kept.gramian_SKK is not None
        conflicts = self._conflict.update(kept.gramian_SKK, kept.weights_SK)
        return [row | conflict for row, conflict in zip(rows, conflicts, strict=True)]

    def _since_last_writing(self) -> dict[str, float | None]:
        """Return the figures of more than one step. Collective: every rank must call it."""
        self._metrics.update(self._outputs)
        report = self._metrics.compute()
        self._metrics.reset()
        for outputs in self._outputs:
            self._lost.update(outputs.lost_2C)
        balancer, losses_K = self._hook.balancer, self._outputs[-1].losses_K
        return {
            **{f"train_ne/{task}": report[task]["ne"] for task in self.tasks},
            **{f"train_calibration/{task}": report[task]["calibration"] for task in self.tasks},
            "rows_per_second": self.rows_per_second,
            **self._lost.compute(),
            **(self._conflict.vertex() if self._conflict else {}),
            **rank_weights.figures(balancer, self.tasks, self._local_KK, losses_K),
        }

    def _lay_out(self, tags: set[str]) -> None:
        tags |= {f"evaluation_ne/{task}" for task in self.tasks}
        pages = custom_scalars(layout(self.tasks, tags))
        self._on_disk(lambda writer: writer.add_summary(pages))
        self._is_laid_out = True

    def _draw_cosines(self, step: int) -> None:
        """Draw the mean cosines of the last steps, if there have been enough."""
        values_KK = self._conflict.cosines() if self._conflict else None
        if values_KK is None or self._writer is None:
            return
        from mbrec.monitor import heat_map

        png, width, height = heat_map.draw(values_KK.tolist(), self.tasks)
        image = Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png)
        picture = Summary(value=[Summary.Value(tag="conflict/cosines", image=image)])
        self._on_disk(lambda writer: writer.add_summary(picture, step))

    def _measure_speed(self) -> None:
        self._seconds += time.perf_counter() - self._since
        # Ranks have equally many rows; a short batch is padded.
        rows = torch.stack([(outputs.rows_B >= 0).sum() for outputs in self._outputs]).sum()
        self._rows += int(rows) * dist.get_world_size()
        self.rows_per_second = self._rows / self._seconds

    def _show(self, scalars: Mapping[str, float | None]) -> None:
        weights = " ".join(f"{task}={scalars[f'weight/{task}']:.3f}" for task in self.tasks)
        speed = f"{self.rows_per_second:,.0f} rows/s"
        text = f"{speed}, loss {scalars['loss']:.4f}, weights {weights}"
        self._bar.set_postfix_str(text, refresh=False)

    def _write(
        self, step: int, scalars: Mapping[str, float | None], wall_time: float | None = None
    ) -> None:
        if self._writer is None or not scalars:
            return
        # One event per step: one per scalar costs more than a training step.
        values: list[Any] = [
            Summary.Value(tag=tag, simple_value=value)
            for tag, value in scalars.items()
            if value is not None and math.isfinite(value)
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
