"""Scores a model on all rows of a loader, over all ranks."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

import torch
import torch.distributed as dist
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from mbrec.distributed.interrupt import Interrupt
from mbrec.distributed.lockstep import Lockstep
from mbrec.metrics.lost_ids import LostIds
from mbrec.metrics.outputs import Metric, Outputs
from mbrec.metrics.task_metrics import TaskMetrics
from mbrec.reader.batch import Batch
from mbrec.reader.loader import Loader
from mbrec.training.explosion_guard import warnings_of
from mbrec.training.non_finite_rows import NotFiniteRows, Report, only_finite
from mbrec.training.progress_bar import progress_bar

log = logging.getLogger(__name__)


class Evaluator:
    """Scores a model on all rows of a loader, over all ranks.

    Args:
        pipeline: the model's pipeline; no batch of training may be in flight.
        loader: the rows.
        metrics: NE, AUC, calibration and log loss.
        others: further metrics.
        lost: counts ids outside the vocabularies or cut off.
        not_finite: finds rows without a finite prediction.
        total_steps: batches of the longest rank, for the progress bar.
        progress: show a bar.
        interrupt: the request to stop.

    Attributes:
        lost: of the last evaluation, figure -> fraction of ids; see `Columns.lost_ids`.
    """

    def __init__(
        self,
        pipeline: TrainPipelineSparseDist[Batch, Outputs],
        loader: Loader,
        metrics: TaskMetrics,
        others: Sequence[Metric],
        lost: LostIds,
        not_finite: NotFiniteRows,
        *,
        total_steps: int,
        progress: bool,
        interrupt: Interrupt,
    ) -> None:
        self._pipeline, self._loader = pipeline, loader
        self._metrics, self._others = metrics, others
        self._lost, self._not_finite = lost, not_finite
        self.lost: dict[str, float] = {}
        self._total_steps, self._progress = total_steps, progress
        self._interrupt = interrupt

    def evaluate(
        self, model: torch.nn.Module, keep: Callable[[Outputs], None] | None = None
    ) -> Report:
        """Return task -> figure -> value, None for what is undefined or not finite.

        Args:
            model: the pipeline's; in eval mode during the pass, and as it was before after it.
            keep: called with the outputs of each step, to keep predictions.

        Raises:
            Interrupted: on every rank after the same batch.
        """
        training = model.training
        model.eval()
        for part in (self._metrics, self._not_finite, *self._others):
            part.reset()
        bar = progress_bar("evaluate", self._total_steps, shown=self._progress)
        with torch.no_grad(), bar:
            for outputs in self._steps():
                self._metrics.update([outputs])
                self._lost.update(outputs.lost_2C)
                for part in (self._not_finite, *self._others):
                    part.update(outputs)
                if keep is not None:
                    keep(outputs)
                bar.update()
        model.train(training)
        report = self._metrics.compute()
        for part in self._others:
            for task, figures in part.compute().items():
                report[task] |= figures
        self.lost = self._lost.compute()
        self._not_finite.warn(report)
        if dist.get_rank() == 0:
            for text in warnings_of(report):
                log.warning("evaluation: %s", text)
        return only_finite(report)

    def _steps(self) -> Iterator[Outputs]:
        with closing(iter(self._loader)) as batches:
            padding = self._loader.reader.empty_batch
            lockstep = Lockstep(batches, padding, interrupt=self._interrupt)
            while True:
                try:
                    yield self._pipeline.progress(lockstep)
                except StopIteration:
                    break
            if lockstep.stopped:
                self._interrupt.stop()
