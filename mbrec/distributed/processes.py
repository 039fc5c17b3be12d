"""The processes of the ranks, as the kernel shows them to one another.

A number of a process means something in one namespace of one machine only: hosts may share a name,
as containers with the host's network do, and each container counts processes of its own. So a rank
publishes where it is as well, and of ranks that are elsewhere nothing is said.
"""

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch._C._distributed_c10d import Store

# Of the table of processes in the store: a line a rank, so that one request reads all of them.
KEY = "processes"
# What follows the name in /proc/PID/stat (see proc(5), which counts from 1 and has two before).
STATE, PARENT, START = 0, 1, 19


@dataclass(frozen=True)
class Seen:
    """Ranks whose process has surely ended, and those whose process is stopped; sorted."""

    dead: list[int]
    stopped: list[int]


def introduce(store: Store, rank: int) -> None:
    """Write into the store which process this rank is."""
    add(store, KEY, entry(rank, os.getpid()))


def add(store: Store, key: str, line: str) -> None:
    """Add a line to the value of a key, which all ranks may add to."""
    cast(Any, store).append(key, line)  # torch's type stubs lack it


def entry(rank: int, pid: int) -> str:
    """Return a rank's line in the table: where its process is, the process and its start.

    Where the kernel does not show that, as without /proc, the rank stands alone.
    """
    if place := _place():
        with suppress(OSError):
            return f"{rank} {place} {pid} {_stat(pid)[START]}\n"
    return f"{rank}\n"


class Processes:
    """Those processes of ranks that this one can see: in its namespace of its machine.

    The store is read until all ranks have introduced themselves.
    """

    def __init__(self, store: Store, ranks: Iterable[int]) -> None:
        self._store = store
        self._ranks = set(ranks)
        self._unknown = set(self._ranks)
        self._place = _place()
        self._here: dict[int, tuple[int, str]] = {}  # rank -> process, its start

    def look(self) -> Seen:
        """Return which of the ranks are not at work, as far as that can be seen."""
        self._read()
        states = {rank: self._state(*process) for rank, process in sorted(self._here.items())}
        return Seen(
            [rank for rank, state in states.items() if state in ("gone", "Z")],
            [rank for rank, state in states.items() if state == "T"],
        )

    def kill(self, ranks: Iterable[int]) -> None:
        """Kill those of the ranks that torchrun started beside this one.

        The job is over, and torchrun would wait for one that is stopped. A process that torchrun
        did not start, whose number one of them may have had, is left alone.
        """
        self._read()
        for rank in self._here.keys() & set(ranks):
            pid, start = self._here[rank]
            with suppress(OSError):
                stat = _stat(pid)
                if (stat[PARENT], stat[START]) == (str(os.getppid()), start):
                    os.kill(pid, signal.SIGKILL)

    def _read(self) -> None:
        if not self._unknown or not self._place or not self._store.check([KEY]):
            return
        for line in self._store.get(KEY).decode().splitlines():
            rank, _, process = line.partition(" ")
            place, _, start = process.rpartition(" ")
            place, _, pid = place.rpartition(" ")
            if int(rank) in self._ranks and place == self._place:
                self._here[int(rank)] = int(pid), start
            self._unknown.discard(int(rank))

    def _state(self, pid: int, start: str) -> str:
        """Return the state of a process as the kernel calls it; "gone"; "" if unknown."""
        try:
            stat = _stat(pid)
        except (FileNotFoundError, ProcessLookupError):
            return "gone" if _place() == self._place else ""
        except OSError:
            return ""
        return stat[STATE] if stat[START] == start else "gone"


def _place() -> str:
    """Return the machine, since it was started, and the namespace; empty if they are unknown."""
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            return ""  # /proc shows the processes of another namespace
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _stat(pid: int) -> list[str]:
    """Return state, parent and more of a process."""
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].decode().split()
