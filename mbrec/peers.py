"""Names the rank that has failed or no longer answers, and ends the processes that hang."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mbrec.collective_errors import is_of_collective

if TYPE_CHECKING:
    from mbrec.distributed import Runtime

# Every rank that is alive notices a failure within this time, on a busy machine as well.
ANSWER_S = 5.0
# The reason of a rank that has failed by itself arrives within this time.
WAIT_S = 0.5
POLL_S = 0.05


class Store(Protocol):
    """A store of torch.distributed."""

    def set(self, key: str, value: str) -> None:
        """Set a key."""
        ...

    def get(self, key: str) -> bytes:
        """Return the value of a key, once it is there."""
        ...

    def check(self, keys: list[str]) -> bool:
        """Return whether all keys are there."""
        ...


class PeerFailure(ConnectionError):
    """Another rank has failed, has died or no longer answers; this one is sound."""


def introduce(store: Store, rank: int) -> None:
    """Tell the other ranks which process this one is."""
    store.set(f"process/{rank}", f"{socket.gethostname()} {os.getpid()}")


def dead(store: Store, ranks: Sequence[int]) -> list[int]:
    """Return those of the ranks whose process has surely ended; nothing is known of other hosts."""
    return [rank for rank in ranks if state_of(store, rank) in ("gone", "Z")]


def stopped(store: Store, ranks: Sequence[int]) -> list[int]:
    """Return those of the ranks whose process on this host is stopped, as by SIGSTOP."""
    return [rank for rank in ranks if state_of(store, rank) == "T"]


def kill(store: Store, ranks: Sequence[int]) -> None:
    """Kill those of the ranks that torchrun started beside this one.

    The job is over, and torchrun would wait for one that is stopped. A process that torchrun did
    not start, whose number one of them may have had, is left alone.
    """
    for rank in ranks:
        pid = _process(store, rank)
        with suppress(OSError):
            if pid is not None and _stat(pid)[1] == str(os.getppid()):
                os.kill(pid, signal.SIGKILL)


def state_of(store: Store, rank: int) -> str:
    """Return the state of a rank's process as the kernel calls it; "gone"; "" if unknown."""
    pid = _process(store, rank)
    if pid is None:
        return ""
    try:
        return _stat(pid)[0]
    except OSError:
        return "gone"


def _process(store: Store, rank: int) -> int | None:
    """Return the number of a rank's process, if it is on this machine."""
    if not store.check([f"process/{rank}"]):
        return None
    host, _, pid = store.get(f"process/{rank}").decode().rpartition(" ")
    return int(pid) if host == socket.gethostname() else None


def _stat(pid: int) -> list[str]:
    """Return state, parent and more of a process."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def report(store: Store, rank: int, reason: str) -> None:
    """Tell the other ranks that this one has failed.

    Args:
        store: of the job.
        rank: this one.
        reason: empty if another rank has caused it.
    """
    store.set(f"failed/{rank}", reason[:1000])
    store.set("failure", "")


def reported(store: Store, ranks: Sequence[int]) -> str:
    """Return what a rank that has failed by itself has reported; empty if none has."""
    for rank in ranks:
        if store.check([f"failed/{rank}"]) and (text := store.get(f"failed/{rank}").decode()):
            return f"rank {rank} has failed: {text}"
    return ""


def after_rank_0(
    store: Store, rank: int, name: str, work: Callable[[], object], *, poll_s: float = 0.2
) -> None:
    """Let rank 0 do something long, and the others wait as long as it is alive.

    A collective would end the job after `runtime.timeout_s`.

    Args:
        store: of the job.
        rank: this one.
        name: of the work, different from that of any other work of the job.
        work: done on rank 0.
        poll_s: seconds between two checks.

    Raises:
        PeerFailure: on the other ranks, if rank 0 has failed or died.
    """
    if rank == 0:
        work()
        store.set(f"done/{name}", "")
        return
    while not store.check([f"done/{name}"]):
        if reason := reported(store, [0]):
            raise PeerFailure(reason)
        if dead(store, [0]) and not store.check([f"done/{name}"]):
            raise PeerFailure("rank 0 no longer answers: it has died")
        time.sleep(poll_s)


@contextmanager
def named_failures(
    runtime: "Runtime", *, last_words: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Tell the other ranks why this one fails; turn what another one's failure does into its name.

    A watch runs meanwhile, which ends this process where it cannot notice a failure by itself: see
    `mbrec.watch`.

    Args:
        runtime: this process.
        last_words: called with the reason if the watch ends this process.

    Raises:
        PeerFailure: naming the ranks that do not answer, or what another one has reported.
        ChildProcessError: if a reader process has died.
    """
    from mbrec.watch import Watch

    store, rank = runtime.store, runtime.rank
    watch = Watch(runtime, last_words=last_words) if runtime.world_size > 1 else nullcontext()
    try:
        with watch:
            yield
            store.set(f"left/{rank}", "")
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if reason.startswith("DataLoader worker"):
            raised: Exception | None = _of_reader(reason)
        elif isinstance(error, PeerFailure):
            raised = error
        elif is_of_collective(error):
            raised = _failure_of_another(store, rank, runtime.world_size, reason)
        else:
            raised = None
        if isinstance(raised, PeerFailure):
            with suppress(RuntimeError):
                report(store, rank, "")
        else:
            with suppress(RuntimeError):  # without a store nobody can be told
                report(store, rank, str(raised or error) or type(error).__name__)
                # They cannot end by themselves, as all others do.
                kill(store, stopped(store, [r for r in range(runtime.world_size) if r != rank]))
        if raised is None or raised is error:
            raise
        raise raised from error


def _of_reader(reason: str) -> ChildProcessError:
    remedy = (
        "a reader process that is killed has mostly taken too much memory: lower data.num_workers "
        "or data.shuffle_rows"
    )
    if "Bus error" in reason:
        remedy = (
            "shared memory (/dev/shm) has run out: give the container more (docker run "
            "--shm-size 8g), or set data.num_workers=0"
        )
    return ChildProcessError(f"{reason}; {remedy}")


def _failure_of_another(
    store: Store, rank: int, world_size: int, reason: str
) -> PeerFailure | None:
    others = [other for other in range(world_size) if other != rank]
    try:
        report(store, rank, "")
        silent = _silent(store, others)
        if text := reported(store, others):
            return PeerFailure(text)
        gone = dead(store, others)
        found = [*gone, *stopped(store, others)] or silent or _late(store, others)
        if not found:
            return None
        # Those that answer end by themselves.
        kill(store, [other for other in found if other in silent])
        names = ", ".join(map(str, sorted(set(found))))
        text = (
            f"rank {names} no longer answers: it has died, is stopped, or took longer than "
            "runtime.timeout_s"
        )
        store.set("blamed", text)
        return PeerFailure(f"{text} ({reason:.200})")
    except RuntimeError:
        return PeerFailure(
            f"torchrun no longer answers, or the rank 0 whose store the ranks share ({reason})"
        )


def _silent(store: Store, others: Sequence[int]) -> list[int]:
    """Return the ranks that neither noticed a failure nor have a watch that has heard of it.

    Whoever is alive answers soon; a process that hangs, is stopped or is gone does not.
    """
    start = time.monotonic()
    while True:
        silent = [r for r in others if not _answers(store, r)]
        waited = time.monotonic() - start
        if reported(store, others) or waited > ANSWER_S:
            return silent
        known = len(dead(store, silent)) + len(stopped(store, silent)) == len(silent)
        if known and waited > WAIT_S:
            return silent
        time.sleep(POLL_S)


def _answers(store: Store, rank: int) -> bool:
    return store.check([f"failed/{rank}"]) or store.check([f"heard/{rank}"])


def _late(store: Store, others: Sequence[int]) -> list[int]:
    """Return the ranks that are alive and have not met the failure: they came too late for it."""
    return [rank for rank in others if not store.check([f"failed/{rank}"])]
