"""Writes checkpoints, in the background if wanted, and lives through a failure to write."""

import logging
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.staging import BlockingAsyncStager
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.keyed import CombinedOptimizer

from mbrec.checkpoint import folder, tensors
from mbrec.checkpoint.state import RunState
from mbrec.checkpoint.tensors import Tensors
from mbrec.config.checkpoints import Best

log = logging.getLogger(__name__)

# So many periodic saves may fail in a row before the job stops.
MAX_FAILURES = 3
# Beyond that it is worth a line.
LONG_WAIT_S = 5.0
# Beside the tensors: JSON, and what a file system takes for files.
SPARE_BYTES = 1 << 20


class Saver:
    """Saves a run's model, optimizers and state into new folders. Every call is a collective.

    Args:
        checkpoints: the folder of all checkpoints of the run.
        model: sharded.
        optimizer: of the tables and the dense parameters.
        keep: how many of the newest checkpoints are kept.
        background: write from a copy in memory, while the caller goes on.
        failed: called in the background when the last save allowed to fail has failed.
        timeout: for a rank that does not answer.

    Attributes:
        last_step: of the newest checkpoint that was written, or None.
        failures: saves that have failed in a row.
    """

    def __init__(
        self,
        checkpoints: Path,
        model: DistributedModelParallel,
        optimizer: CombinedOptimizer,
        *,
        keep: int = 2,
        background: bool = True,
        failed: Callable[[str], None] = lambda reason: None,
        timeout: timedelta | None = None,
    ) -> None:
        self.checkpoints = checkpoints
        self._model, self._optimizer = model, optimizer
        self._keep, self._background, self._failed = keep, background, failed
        # Its collectives run beside those of training, which must not mix with them.
        group = dist.new_group(backend="gloo", timeout=timeout)
        assert isinstance(group, dist.ProcessGroup)
        self._group = group
        self._under_way: tuple[int, Future[str | None]] | None = None
        self.last_step: int | None = None
        self.failures = 0

    def save(self, state: RunState) -> None:
        """Save, and return once the tensors are copied; a failure shows in the next call.

        Args:
            state: of this rank; rank 0's is written, with the random states of all.

        Raises:
            OSError: on every rank, if too many saves have failed in a row.
        """
        waited = time.perf_counter()
        self.wait()
        waited = time.perf_counter() - waited
        if waited > LONG_WAIT_S and dist.get_rank(self._group) == 0:
            log.warning("training waited %.0f s for the save before; save less often", waited)
        if state.step == self.last_step:
            return
        begun = time.perf_counter()
        found = {"": tensors.collect(self._model, self._optimizer)}
        if not self._background:
            self._finish(state.step, self._write(state, found[""], 0.0))
            return
        staged: dict[str, Tensors] = BlockingAsyncStager().stage(found)
        # So long training has stood still.
        copied = time.perf_counter() - begun
        self._under_way = state.step, _in_background(lambda: self._write(state, staged[""], copied))

    def wait(self) -> None:
        """Wait for the save under way.

        Raises:
            OSError: on every rank, if too many saves have failed in a row.
        """
        if self._under_way is not None:
            (step, future), self._under_way = self._under_way, None
            self._finish(step, future.result())

    def save_now(self, state: RunState) -> None:
        """Save, and return when it is on the disk.

        Raises:
            OSError: on every rank, if it failed.
        """
        self.save(state)
        self.wait()
        if self.last_step != state.step:
            raise OSError(f"step {state.step} could not be saved; what was saved before is intact")

    def mark_best(self, best: Best, name: str) -> None:
        """Keep the checkpoint of a step as the best so far; its folder is never pruned."""
        self.wait()

        def write() -> None:
            if dist.get_rank(self._group) == 0:
                folder.mark_best(self.checkpoints, best.step, name, best.value)

        if (problem := self._agree(write)) and dist.get_rank(self._group) == 0:
            log.warning("the best checkpoint could not be marked: %s", problem)

    def _finish(self, step: int, problem: str | None) -> None:
        if problem is None:
            self.last_step, self.failures = step, 0
            return
        self.failures += 1
        if self.failures >= MAX_FAILURES:
            raise OSError(f"{self.failures} checkpoints in a row could not be written: {problem}")

    def _write(self, state: RunState, found: Tensors, copied: float) -> str | None:
        """Write a checkpoint; return what went wrong, on every rank the same."""
        begun = time.perf_counter()
        target = folder.step_folder(self.checkpoints, state.step)
        unfinished = target.with_name(target.name + folder.UNFINISHED)
        problem = self._agree(lambda: self._prepare(unfinished, target, found))
        if problem is None:
            problem = self._agree(lambda: tensors.write(unfinished, found, self._group))
        if problem is None:
            problem = self._publish(state, unfinished, target)
        if problem is not None:
            self._give_up(state.step, unfinished, problem)
        elif dist.get_rank(self._group) == 0:
            written = time.perf_counter() - begun
            log.info("saved %s, copied in %.3f s, written in %.2f s", target, copied, written)
        return problem

    def _prepare(self, unfinished: Path, target: Path, found: Tensors) -> None:
        needed = torch.tensor(tensors.num_bytes(found))
        dist.all_reduce(needed, group=self._group)
        if dist.get_rank(self._group) != 0:
            return
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        for path in folder.leftovers(self.checkpoints):
            folder.delete(path)
        if target.exists():
            raise OSError(f"{target}: expected a new folder, got one that is there")
        free = shutil.disk_usage(self.checkpoints).free
        if free < needed + SPARE_BYTES:
            raise OSError(
                f"{self.checkpoints}: expected {int(needed) + SPARE_BYTES:,} free bytes, got "
                f"{free:,}; make room, or lower checkpoint.keep"
            )
        unfinished.mkdir()

    def _publish(self, state: RunState, unfinished: Path, target: Path) -> str | None:
        files: dict[str, folder.File] = {}
        rank = dist.get_rank(self._group)

        def describe() -> None:
            files.update({p.name: folder.describe(p) for p in unfinished.glob(f"__{rank}_*")})

        if problem := self._agree(describe):
            return problem
        parts: list[tuple[dict[str, folder.File], dict[str, str]]]
        parts = [(files, state.random[0])] * dist.get_world_size(self._group)
        dist.all_gather_object(parts, parts[0], group=self._group)

        def finish() -> None:
            if rank != 0:
                return
            state.random = [random for _, random in parts]
            state.write(unfinished)
            for name in (folder.STATE, folder.METADATA):
                files[name] = folder.describe(unfinished / name)
            for found, _ in parts:
                files.update(found)
            folder.write_manifest(unfinished, files)
            folder.publish(unfinished, target)

        if problem := self._agree(finish):
            return problem
        # It is whole from here on, whatever becomes of older ones.
        if (problem := self._agree(self._prune)) and rank == 0:
            log.warning("older checkpoints could not be deleted: %s", problem)
        return None

    def _prune(self) -> None:
        if dist.get_rank(self._group) == 0:
            best = folder.read_best(self.checkpoints)
            folder.prune(self.checkpoints, keep=self._keep, also=set() if best is None else {best})

    def _agree(self, part: Callable[[], None]) -> str | None:
        """Do this rank's part; return the first problem of any rank, on every rank."""
        problem = None
        try:
            part()
        except (OSError, ValueError) as error:  # ValueError: a state that JSON has no text for
            problem = f"{error} (rank {dist.get_rank(self._group)})"
        problems: list[str | None] = [None] * dist.get_world_size(self._group)
        dist.all_gather_object(problems, problem, group=self._group)
        return next((text for text in problems if text is not None), None)

    def _give_up(self, step: int, unfinished: Path, problem: str) -> None:
        if dist.get_rank(self._group) == 0:
            shutil.rmtree(unfinished, ignore_errors=True)
            log.error("checkpoint of step %d could not be written: %s", step, problem)
        if self.failures + 1 >= MAX_FAILURES:
            self._failed(problem)


def _in_background(part: Callable[[], str | None]) -> "Future[str | None]":
    """Start a thread that does not keep a process alive whose peers are gone."""
    future: Future[str | None] = Future()

    def run() -> None:
        try:
            future.set_result(part())
        except BaseException as error:  # raised again in the caller's thread
            future.set_exception(error)

    threading.Thread(target=run, name="checkpoint", daemon=True).start()
    return future
