"""The training loop. It knows no task, balancer or column by name."""

import logging
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import NoReturn

from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.optim.keyed import CombinedOptimizer

from mbrec.checkpoint.state import History, Progress
from mbrec.distributed.interrupt import Interrupt, Interrupted
from mbrec.distributed.lockstep import Lockstep
from mbrec.metrics.outputs import Outputs
from mbrec.reader.batch import Batch
from mbrec.reader.loader import Loader
from mbrec.training.evaluator import Evaluator, Report
from mbrec.training.explosion_guard import Explosion, ExplosionGuard
from mbrec.training.finite_guard import FiniteGuard, NotFiniteInputs
from mbrec.training.loss_feed import LossFeed
from mbrec.training.optimizers import Warmup, learning_rates
from mbrec.training.recorder import Recorder
from mbrec.training.run_saver import RunSaver

log = logging.getLogger(__name__)


@dataclass
class Trainer:
    """Trains a model for some epochs or steps, with evaluations between.

    Attributes:
        pipeline: runs a step; torchrec overlaps copies and all-to-alls with compute.
        max_rollbacks: explosions to tolerate.
        saver: None for a run that is not saved.
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
    monitor: Recorder
    guard: FiniteGuard
    interrupt: Interrupt
    epochs: int
    explosion: ExplosionGuard | None = None
    max_rollbacks: int = 0
    saver: RunSaver | None = None
    max_steps: int | None = None
    evaluate_every: int | None = None
    step: int = 0
    history: History = field(default_factory=list)
    _feed: LossFeed = field(default_factory=LossFeed, init=False)
    _taken: int = field(default=0, init=False)
    _rates: dict[str, float] = field(default_factory=dict, init=False)
    _due: bool = field(default=False, init=False)
    _next_epoch: int = field(default=0, init=False)
    _resumed: bool = field(default=False, init=False)

    def resume(self, saved: Progress) -> None:
        """Continue where a checkpoint was saved, with the rest of its epoch.

        Raises:
            ValueError: if its position is in other rows, or the state of a guard does not fit.
        """
        self.step, self.history = saved.step, list(saved.history)
        self._rates = saved.learning_rates
        self.guard.skipped = int(saved.guard.get("skipped", 0))
        if self.explosion is not None:
            self.explosion.load(saved.guard.get("levels", {}))
        self.loader.reader.resume(saved.position)
        self._next_epoch, self._resumed = self.loader.reader.epoch, True

    def fit(self) -> Report:
        """Train, and return the evaluation at the end.

        Raises:
            Interrupted: on every rank after the same step, once that is saved.
            FloatingPointError: on every rank, if a value is not finite, or training explodes.
            NotFiniteInputs: the same, if it was not finite in the batch already.
        """
        self.model.train()
        try:
            self._fit()
        except Interrupted as stop:
            log.info("%s: stopping after step %d", stop, self.step)
            self._save_at_stop()
            raise
        finally:
            self.monitor.close()
        return self.history[-1]["tasks"]

    def _fit(self) -> None:
        if self._until_evaluation() == 0:
            self._evaluate()  # it was under way when the run was saved
        while not self._is_finished():
            if not self._resumed:
                self.loader.reader.set_epoch(self._next_epoch)
            self._train_epoch()
            self._resumed = False
            self._next_epoch = self.loader.reader.epoch + 1
        self.monitor.finish_training()
        # Before the last evaluation, which may fail.
        self._save(now=True)
        if not self.history or self.history[-1]["step"] != self.step:
            self._evaluate()

    def _is_finished(self) -> bool:
        if self.saver is not None and self.saver.is_enough(self.history):
            return True
        if self.max_steps is not None:
            return self.step >= self.max_steps
        return self._next_epoch >= self.epochs

    def _train_epoch(self) -> None:
        self._taken = 0
        with closing(iter(self.loader)) as batches:
            while True:
                # A segment ends before an evaluation, and its end drains the pipeline: a batch
                # in flight would be scored, and not trained on.
                segment = Lockstep(
                    batches,
                    self.loader.reader.empty_batch,
                    limit=self._limit(),
                    interrupt=self.interrupt,
                )
                self.train(segment)
                self._roll_back(self._watch(rest=True))
                if segment.exhausted or self.step == self.max_steps:
                    break
                self.monitor.flush()
                self._evaluate()
                self.monitor.resume()
                if self._is_finished():
                    break
        if not self._taken and not self._resumed:
            raise ValueError("expected at least one batch of training rows in an epoch, got none")

    def train(self, segment: Lockstep, look: Callable[[Outputs], object] | None = None) -> None:
        """Train on a segment's batches, on every rank equally many; the pipeline is empty after.

        Args:
            segment: the batches.
            look: takes what a step leaves, in place of the monitor, the explosion guard and the
                saver.

        Raises:
            Interrupted: on every rank after the same step.
        """
        look = look or self._after_step
        while True:
            self.guard.step_number = self.step + 1
            self.warmup.step(self.step + 1)
            try:
                outputs = self.pipeline.progress(segment)
            except StopIteration:
                if segment.stopped:
                    self.interrupt.stop()
                return
            self.step += 1
            self._taken += 1
            self._rates = learning_rates(self.optimizer)
            look(outputs)

    def _after_step(self, outputs: Outputs) -> None:
        # A save says how each task stands after the last step.
        self._due = self._due or (self.saver is not None and self.saver.is_due(self.step))
        alarm = self._watch(rest=self._due)
        if not self.guard.last_skipped:
            self.monitor.record(self.step, outputs, self._rates)
        else:
            self.monitor.skip(self.step, self.guard.skipped)
            if self.guard.problem is not None:
                at_fault = isinstance(self.guard.problem, NotFiniteInputs)
                if self.explosion is None or at_fault:
                    self._stop(self.guard.problem)
                self._watch(rest=True)
                alarm = self.explosion.not_finite(self.step)
        self._roll_back(alarm)
        # A model that may be exploding is not saved; the next calm step makes up for it.
        if self._due and not self._is_suspicious:
            self._save()

    def _watch(self, *, rest: bool) -> Explosion | None:
        """Show the explosion guard the losses that have arrived; return its first alarm, or None.

        Collective: every rank must call it. With `rest` it waits for those under way as well.
        """
        if self.explosion is None:
            return None
        losses, self.guard.losses = self.guard.losses, None
        seen = []
        if losses is not None:
            seen += self._feed.add(losses, of_all_ranks=self.guard.of_all_ranks)
        if rest:
            seen += self._feed.rest()
        alarms = [self.explosion.update(step) for step in seen]
        return next((alarm for alarm in alarms if alarm is not None), None)

    def _roll_back(self, alarm: Explosion | None) -> None:
        """Load a checkpoint from before an explosion, if there is an alarm; or stop."""
        if alarm is None:
            return
        assert self.explosion is not None
        load = self.max_rollbacks > 0
        loaded = None if self.saver is None else self.saver.roll_back(alarm, load=load)
        if loaded is None:
            self._stop(
                self.guard.problem
                or FloatingPointError(
                    f"step {self.step}: {alarm}. Lower the learning rates, or check the rows of "
                    "these steps; guard.explosion=rollback continues from the last sound "
                    "checkpoint, guard.max_rollbacks times"
                )
            )
        self.max_rollbacks -= 1
        self.guard.problem = None
        self._feed.rest()
        self.explosion.reset()
        # Evaluations of a model that is no longer there.
        self.history[:] = [entry for entry in self.history if entry["step"] <= loaded]

    def _stop(self, why: FloatingPointError) -> NoReturn:
        """Stop, on every rank, once the save under way is on the disk."""
        if self.saver is not None:
            self.saver.wait()
        raise why

    @property
    def _is_suspicious(self) -> bool:
        return self.explosion is not None and self.explosion.suspicious

    def _save_at_stop(self) -> None:
        self._watch(rest=True)
        if not self._is_suspicious:
            self._save(now=True)
        elif self.saver is not None:
            log.warning("not saved: training may be exploding; the checkpoint before is kept")
            self.saver.wait()

    def _save(self, *, now: bool = False) -> None:
        self._due = False
        if self.saver is not None:
            # What comes after may be lost; the figures up to the checkpoint are written.
            self.monitor.flush()
            self.saver.save(self._progress(), now=now)
            self.monitor.resume()

    def _progress(self) -> Progress:
        levels = {} if self.explosion is None else self.explosion.state()
        return Progress(
            step=self.step,
            position=self.loader.state(self._taken),
            learning_rates=self._rates,
            history=list(self.history),
            guard={"skipped": self.guard.skipped, "levels": levels},
        )

    def _limit(self) -> int | None:
        """Return the steps of the next segment; None: as many as there are rows."""
        limits = [self._until_evaluation()]
        if self.max_steps is not None:
            limits.append(self.max_steps - self.step)
        return min((limit for limit in limits if limit is not None), default=None)

    def _until_evaluation(self) -> int | None:
        """Return the steps until the next evaluation; 0 if it has not been done after the last."""
        if self.evaluate_every is None:
            return None
        done = not self.step or any(entry["step"] == self.step for entry in self.history)
        left = -self.step % self.evaluate_every
        return self.evaluate_every if done and not left else left

    def _evaluate(self) -> None:
        report = self.evaluator.evaluate(self.model)
        self.history.append({"step": self.step, "tasks": report})
        self.monitor.evaluated(self.step, report, self.evaluator.lost)
        if self.saver is not None:
            self.saver.evaluated(self._progress())
