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


def end_hung(store: Store, ranks: list[int]) -> None:
    """Kill those of the silent ranks that torchrun started beside this one.

    The job is over, and torchrun would wait half a minute for one that is stopped. A process that
    torchrun did not start, whose number one of them may have had, is left alone.
    """
    for rank in ranks:
        if not store.check([f"process/{rank}"]):
            continue
        host, _, pid = store.get(f"process/{rank}").decode().rpartition(" ")
        with suppress(OSError):
            parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
            if host == socket.gethostname() and int(parent) == os.getppid():
                os.kill(int(pid), signal.SIGKILL)


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
    """Turn the failure of another process into an error that names it.

    Raises:
        ConnectionError: naming the ranks that do not answer.
        ChildProcessError: if a reader process has died.
    """
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if reason.startswith("DataLoader worker"):
            raise ChildProcessError(
                f"{reason}; a reader process that is killed has mostly taken too much memory: "
                "lower data.num_workers or data.shuffle_rows"
            ) from error
        if not isinstance(error, dist.DistError) and not _OF_GLOO.search(str(error)):
            raise
        silent = silent_ranks(store, rank, world_size)
        if silent is None:
            raise ConnectionError(
                f"torchrun no longer answers, or the rank 0 whose store the ranks share ({reason})"
            ) from error
        if not silent:
            raise
        end_hung(store, silent)
        names = ", ".join(map(str, silent))
        raise ConnectionError(
            f"rank {names} no longer answers: it has died, is stopped, or took longer than "
            f"runtime.timeout_s ({reason:.200})"
        ) from error
