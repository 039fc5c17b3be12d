"""The training loop. It knows no task, balancer or column by name."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.optim.keyed import CombinedOptimizer

from mbrec.data.batch import Batch
from mbrec.data.loader import Loader
from mbrec.distributed import Lockstep
from mbrec.metrics import TaskMetrics
from mbrec.model import Outputs
from mbrec.monitor import Monitor, progress_bar
from mbrec.optim import Warmup, learning_rates
from mbrec.oracle import OracleGap
from mbrec.unknown import UnknownIds

Report = dict[str, dict[str, float | None]]


class Evaluator:
    """Scores a model on all rows of a loader, over all ranks.

    Args:
        pipeline: the model's pipeline; no batch of training may be in flight.
        loader: the rows.
        metrics: reset at each evaluation.
        oracle: distance to the true probabilities, where the data has them.
        unknown: counts ids outside the vocabularies.
        total_steps: batches of the longest rank, for the progress bar.
        progress: show one.

    Attributes:
        unknown: of the last evaluation, feature -> fraction of ids outside the vocabulary.
    """

    def __init__(
        self,
        pipeline: TrainPipelineSparseDist[Batch, Outputs],
        loader: Loader,
        metrics: TaskMetrics,
        oracle: OracleGap,
        unknown: UnknownIds,
        *,
        total_steps: int,
        progress: bool,
    ) -> None:
        self._pipeline, self._loader = pipeline, loader
        self._metrics, self._oracle, self._unknown = metrics, oracle, unknown
        self.unknown: dict[str, float] = {}
        self._total_steps, self._progress = total_steps, progress

    def evaluate(
        self, model: torch.nn.Module, keep: Callable[[Outputs], None] | None = None
    ) -> Report:
        """Return task -> figure -> value.

        Args:
            model: the pipeline's; in eval mode during the pass, and as it was before after it.
            keep: called with the outputs of each step, to keep predictions.
        """
        training = model.training
        model.eval()
        self._metrics.reset()
        self._oracle.reset()
        bar = progress_bar("evaluate", self._total_steps, shown=self._progress)
        with torch.no_grad(), bar:
            for outputs in _steps(self._pipeline, self._loader):
                self._metrics.update([outputs])
                self._oracle.update(outputs)
                self._unknown.update(outputs.unknown_2C)
                if keep is not None:
                    keep(outputs)
                bar.update()
        model.train(training)
        report = self._metrics.compute()
        for task, figures in self._oracle.compute().items():
            report[task] |= figures
        self.unknown = self._unknown.compute()
        return report


@dataclass
class Trainer:
    """Trains a model for some epochs or steps, with evaluations between.

    Attributes:
        model: sharded.
        optimizer: of the tables and the dense parameters.
        warmup: of its learning rates.
        pipeline: runs a step; torchrec overlaps copies and all-to-alls with compute.
        loader: the training rows.
        evaluator: of the evaluation rows.
        monitor: keeps the figures.
        epochs: passes over the training rows.
        max_steps: stop after that many steps.
        evaluate_every: steps between evaluations; None: only at the end.
        step: steps done.
        history: the evaluations: {"step", "tasks"}.
    """

    model: DistributedModelParallel
    optimizer: CombinedOptimizer
    warmup: Warmup
    pipeline: TrainPipelineSparseDist[Batch, Outputs]
    loader: Loader
    evaluator: Evaluator
    monitor: Monitor
    epochs: int
    max_steps: int | None = None
    evaluate_every: int | None = None
    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)

    def fit(self, trained: Callable[[], None] | None = None) -> Report:
        """Train, and return the evaluation at the end.

        Args:
            trained: called once after the last step, before that evaluation, which may fail.
        """
        self.model.train()
        epoch = 0
        while not self._finished(epoch):
            self.loader.reader.set_epoch(epoch)
            self._train_epoch()
            epoch += 1
        self.monitor.finish_training()
        if trained is not None:
            trained()
        if not self.history or self.history[-1]["step"] != self.step:
            self._evaluate()
        self.monitor.close()
        return self.history[-1]["tasks"]

    def _finished(self, epoch: int) -> bool:
        if self.max_steps is not None:
            return self.step >= self.max_steps
        return epoch >= self.epochs

    def _train_epoch(self) -> None:
        batches = iter(self.loader)
        first = self.step
        try:
            while True:
                # A segment ends before an evaluation, and its end drains the pipeline: a batch
                # in flight would be scored, and not trained on.
                segment = Lockstep(
                    batches, self.loader.reader.empty_batch, limit=self._until_next_evaluation()
                )
                self.train(segment)
                if segment.exhausted or self.step == self.max_steps:
                    break
                self.monitor.flush()
                self._evaluate()
                self.monitor.resume()
        finally:
            batches.close()
        if self.step == first:
            raise ValueError("expected at least one batch of training rows in an epoch, got none")

    def train(self, segment: Iterator[Batch]) -> None:
        """Train on a segment's batches, on every rank equally many; the pipeline is empty after."""
        while True:
            self.warmup.step(self.step + 1)
            try:
                outputs = self.pipeline.progress(segment)
            except StopIteration:
                return
            self.step += 1
            self.monitor.record(self.step, outputs, learning_rates(self.optimizer))

    def _until_next_evaluation(self) -> int | None:
        limits = []
        if self.max_steps is not None:
            limits.append(self.max_steps - self.step)
        if self.evaluate_every is not None:
            limits.append(self.evaluate_every - self.step % self.evaluate_every)
        return min(limits, default=None)

    def _evaluate(self) -> None:
        report = self.evaluator.evaluate(self.model)
        self.history.append({"step": self.step, "tasks": report})
        self.monitor.evaluated(self.step, report, self.evaluator.unknown)


def _steps(pipeline: TrainPipelineSparseDist[Batch, Outputs], loader: Loader) -> Iterator[Outputs]:
    batches = iter(loader)
    lockstep = Lockstep(batches, loader.reader.empty_batch)
    try:
        while True:
            try:
                yield pipeline.progress(lockstep)
            except StopIteration:
                return
    finally:
        batches.close()
