"""Jobs one after the other in the same processes, each in a process group of its own.

A group that outlived its job would carry that job's collectives into the next: a vote that was
under way when a rank failed, a connection that is closed. A new group costs some milliseconds, and
a job that begins in it begins as it does alone.
"""

import gc
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store

from mbrec.config.errors import tell
from mbrec.distributed import process
from mbrec.distributed.collective_errors import is_of_collective
from mbrec.distributed.failures import PeerFailure
from mbrec.distributed.interrupt import Interrupt, Interrupted
from mbrec.distributed.process import Runtime
from mbrec.distributed.processes import Processes, introduce

T = TypeVar("T")

# Ranks that fail together do so within this time.
GRACE_S = 2.0
# A rank that waits for another's address notices its absence only at the group's time-out.
SPARE_S = 30.0
POLL_S = 0.02


class RanksLost(ConnectionError):
    """A rank is gone, or does not come back from a job: no further job can run."""


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """How a job has ended, on all ranks.

    Attributes:
        state: finished; failed; interrupted.
        value: what the job returned on this rank, if it has finished.
        reason: why it has not finished, in one line; of the first rank that failed by itself.
    """

    state: str
    value: T | None
    reason: str


@dataclass(frozen=True)
class _End:
    """How a job has ended on one rank; `own`: not because of another rank; `request`: to stop."""

    state: str
    reason: str = ""
    own: bool = True
    request: str = ""


class JobGroups:
    """Runs jobs one after the other; every rank runs the same jobs in the same order.

    Args:
        interrupt: that the jobs check.
        timeout_s: for ranks that do not answer at the start.

    Attributes:
        rank: of this process.
        world_size: number of processes.
    """

    def __init__(self, interrupt: Interrupt, *, timeout_s: int) -> None:
        self._interrupt = interrupt
        self._store = PrefixStore("job_groups", process.shared_store(timeout_s=timeout_s))
        self._timeout_s = timeout_s
        self.rank, self.world_size, _ = process.place()
        introduce(self._store, self.rank)
        self._processes = Processes(self._store, range(self.world_size))
        self._number = 0
        self._request = ""

    def run(self, job: Callable[[Runtime], T], *, timeout_s: int) -> Outcome[T]:
        """Run a job in a process group of its own, and release what it leaves.

        What it raises is printed on stderr and becomes an outcome. A rank that fails alone leaves
        the group, which ends the job on the others: on gloo at once; NCCL's kernels keep waiting.

        Args:
            job: gets this process in the group, and keeps no reference to its model afterwards.
            timeout_s: of the group, and for ranks that end the job later than this one.

        Raises:
            RanksLost: if a rank is gone, or does not end the job.
        """
        assert not dist.is_initialized(), "each job gets a group that is made for it"
        if self._request:
            return Outcome("interrupted", None, self._request)
        store = self._next_store("job")
        end, value = self._attempt(job, store, timeout_s)
        content = asdict(end) | {"request": self._interrupt.reason}
        store.set(f"ended/{self.rank}", json.dumps(content))
        if end.state == "failed" and not self._all_ended_within(store, GRACE_S):
            # The others may wait for this rank in a collective. They see that it has failed by its
            # connections, which close with the last reference to the group.
            _release()
        stuck = end.state == "failed" and torch.cuda.is_available()
        ends = self._ends(store, 0.0 if stuck else timeout_s + SPARE_S)
        _release()
        if not gc.get_freeze_count():
            # What the imports of the first job have left stays: to collect all of it after every
            # job takes longer than a small job.
            gc.freeze()
        self._request = next((other.request for other in ends if other.request), "")
        state, reason = _of_all(ends)
        return Outcome(state, value if state == "finished" else None, reason)

    def share(self, make: Callable[[], Any]) -> Any:
        """Return on every rank what rank 0 makes, which JSON must be able to hold.

        Raises:
            ValueError: on every rank, if rank 0 raises a ValueError or an OSError.
        """
        store = self._next_store("shared")
        if self.rank == 0:
            try:
                made = {"value": make()}
            except (ValueError, OSError) as error:
                made = {"problem": str(error)}
            store.set("made/0", json.dumps(made))
        self._wait_for(store, "made", [0], self._timeout_s)
        found = json.loads(store.get("made/0"))
        self._have_read(store, self._timeout_s)
        if "problem" in found:
            raise ValueError(found["problem"])
        return found["value"]

    def _next_store(self, kind: str) -> Store:
        self._number += 1
        return PrefixStore(f"{kind}/{self._number}", self._store)

    def _attempt(
        self, job: Callable[[Runtime], T], store: Store, timeout_s: int
    ) -> tuple[_End, T | None]:
        try:
            runtime = process.start(timeout_s=timeout_s, store=PrefixStore("group", store))
            return _End("finished"), job(runtime)
        except Interrupted as stop:
            return _End("interrupted", str(stop)), None
        except Exception as error:
            tell(error)
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            another = isinstance(error, PeerFailure) or is_of_collective(error)
            return _End("failed", reason, own=not another), None

    def _all_ended_within(self, store: Store, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while missing := _missing(store, "ended", range(self.world_size)):
            if time.monotonic() > deadline:
                break
            time.sleep(POLL_S)
        return not missing

    def _ends(self, store: Store, timeout_s: float) -> list[_End]:
        ranks = range(self.world_size)
        self._wait_for(store, "ended", ranks, timeout_s)
        ends = [_End(**json.loads(store.get(f"ended/{rank}"))) for rank in ranks]
        self._have_read(store, timeout_s)
        return ends

    def _have_read(self, store: Store, timeout_s: float) -> None:
        """Return; on rank 0, whose process may hold the store, once all ranks have read it."""
        store.set(f"read/{self.rank}", "")
        if self.rank == 0:
            self._wait_for(store, "read", range(self.world_size), timeout_s)

    def _wait_for(self, store: Store, key: str, ranks: Sequence[int], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while missing := _missing(store, key, ranks):
            time.sleep(POLL_S)
            gone = [rank for rank in self._processes.look().dead if rank in missing]
            names = ", ".join(map(str, gone or missing))
            if gone and _missing(store, key, gone):
                raise RanksLost(f"rank {names} has died, and no further job can run")
            if time.monotonic() > deadline:
                raise RanksLost(
                    f"rank {names} has not ended the job that this one has ended, and no further "
                    "job can run: it does not answer, or waits in a collective for this one"
                )


def _missing(store: Store, key: str, ranks: Sequence[int]) -> list[int]:
    return [rank for rank in ranks if not store.check([f"{key}/{rank}"])]


def _of_all(ends: list[_End]) -> tuple[str, str]:
    failed = [end for end in ends if end.state == "failed"]
    if failed:
        return "failed", next((end for end in failed if end.own), failed[0]).reason
    stopped = [end for end in ends if end.state == "interrupted"]
    return ("interrupted", stopped[0].reason) if stopped else ("finished", "")


def _release() -> None:
    """Free what a job has left: its model is a cycle that holds its groups and its memory."""
    gc.collect()
    if dist.is_initialized():
        dist.destroy_process_group()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
