"""Names the ranks that no longer answer, when a collective has failed, and ends hung ones."""

import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

import torch.distributed as dist

# gloo raises RuntimeErrors without a class of their own.
_OF_GLOO = re.compile(r"gloo|pair closure|[Cc]onnection (closed|reset)|[Tt]imed out")
# Long enough for whoever is alive to notice as well.
WAIT_S = 0.5


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


def introduce(store: Store, rank: int) -> None:
    """Tell the other ranks which process this one is."""
    store.set(f"process/{rank}", f"{socket.gethostname()} {os.getpid()}")


def suspects(store: Store, silent: list[int]) -> list[int]:
    """Return those of the silent ranks that are surely gone or stopped; all, if none surely is.

    The others may only be busy: they have not come to the collective that failed.
    """
    sure = [rank for rank in silent if _state(_process(store, rank)) in ("gone", "T", "Z")]
    return sure or silent


def dead(store: Store, ranks: list[int]) -> list[int]:
    """Return those of the ranks whose process has surely ended; nothing is known of other hosts."""
    return [rank for rank in ranks if _state(_process(store, rank)) in ("gone", "Z")]


def end_hung(store: Store, ranks: list[int]) -> None:
    """Kill those of the ranks that torchrun started beside this one.

    The job is over, and torchrun would wait half a minute for one that is stopped. A process that
    torchrun did not start, whose number one of them may have had, is left alone.
    """
    for rank in ranks:
        pid = _process(store, rank)
        with suppress(OSError):
            if pid is not None and _stat(pid)[1] == str(os.getppid()):
                os.kill(pid, signal.SIGKILL)


def _process(store: Store, rank: int) -> int | None:
    """Return the number of a rank's process, if it is on this machine."""
    if not store.check([f"process/{rank}"]):
        return None
    host, _, pid = store.get(f"process/{rank}").decode().rpartition(" ")
    return int(pid) if host == socket.gethostname() else None


def _state(pid: int | None) -> str:
    """Return the state of a process as the kernel calls it; "gone", or "" where nobody knows."""
    if pid is None:
        return ""
    try:
        return _stat(pid)[0]
    except OSError:
        return "gone"


def _stat(pid: int) -> list[str]:
    """Return state, parent and more of a process."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def silent_ranks(store: Store, rank: int, world_size: int) -> list[int] | None:
    """Return the ranks that have not noticed the failure as well: dead ones, or hung ones.

    None if the store is gone, and nobody can be asked.

    Args:
        store: of the process group.
        rank: this one, which has noticed it.
        world_size: how many there are.
    """
    try:
        store.set(f"failed/{rank}", "")
        time.sleep(WAIT_S)
        return [r for r in range(world_size) if not store.check([f"failed/{r}"])]
    except RuntimeError:
        return None


@contextmanager
def named_failures(store: Store, rank: int, world_size: int) -> Iterator[None]:
    """Tell the other ranks why this one fails; turn what another one's failure does into its name.

    Raises:
        ConnectionError: naming the ranks that do not answer, or what another one has told.
        ChildProcessError: if a reader process has died.
    """
    try:
        yield
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if reason.startswith("DataLoader worker"):
            told: Exception | None = ChildProcessError(
                f"{reason}; a reader process that is killed has mostly taken too much memory: "
                "lower data.num_workers or data.shuffle_rows"
            )
        elif is_of_collective(error):
            told = _failure_of_another(store, rank, world_size, reason)
        else:
            told = None
        if told is not None and isinstance(told, ConnectionError):
            raise told from error
        with suppress(RuntimeError):  # nobody can be told without a store
            store.set(f"failed/{rank}", str(told or error)[:1000])
        if told is None:
            raise
        raise told from error


def is_of_collective(error: Exception) -> bool:
    """Return whether a collective has failed, which mostly another rank is the cause of."""
    if not isinstance(error, RuntimeError):
        return False
    return isinstance(error, dist.DistError) or bool(_OF_GLOO.search(str(error)))


def _failure_of_another(
    store: Store, rank: int, world_size: int, reason: str
) -> ConnectionError | None:
    silent = silent_ranks(store, rank, world_size)
    if silent is None:
        return ConnectionError(
            f"torchrun no longer answers, or the rank 0 whose store the ranks share ({reason})"
        )
    for other in range(world_size):
        if other not in silent and (text := store.get(f"failed/{other}").decode()):
            return ConnectionError(f"rank {other} has failed: {text}")
    if not silent:
        return None
    found = suspects(store, silent)
    end_hung(store, found)
    names = ", ".join(map(str, found))
    return ConnectionError(
        f"rank {names} no longer answers: it has died, is stopped, or took longer than "
        f"runtime.timeout_s ({reason:.200})"
    )
