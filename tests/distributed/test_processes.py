"""Nothing is said of a process but what its own machine and namespace show."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import gone, stop

from mbrec.distributed import processes
from mbrec.distributed.processes import KEY, Processes, Seen, add, entry, introduce

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

NOTHING = Seen([], [])


def of_gone(rank: int) -> str:
    """The line of a rank whose process has ended."""
    process = subprocess.Popen(["sleep", "600"])
    line = entry(rank, process.pid)
    gone(process)
    return line


def test_only_a_process_that_has_ended_is_dead(store, process):
    introduce(store, 1)
    gone(process(2))
    stop(process(5))
    unread = process(3)
    unread.kill()
    os.waitid(os.P_PID, unread.pid, os.WEXITED | os.WNOWAIT)  # a zombie
    assert Processes(store, [1, 2, 3, 4, 5]).look() == Seen([2, 3], [5])
    assert Processes(store, [1, 4]).look() == NOTHING


@pytest.mark.parametrize("part", ["boot_id", "namespace"])
def test_nothing_is_said_of_a_process_of_another_machine_or_namespace(store, part):
    line = of_gone(1)
    rank, boot, namespace, pid, start = line.split()
    assert namespace == os.readlink("/proc/self/ns/pid")
    other = {
        "boot_id": [rank, "0" + boot[1:] + "0", namespace],
        "namespace": [rank, boot, "pid:[7]"],
    }
    add(store, KEY, " ".join([*other[part], pid, start]) + "\n")
    assert Processes(store, [1]).look() == NOTHING
    add(store, KEY, line)
    assert Processes(store, [1]).look() == Seen([1], [])


def test_a_number_that_another_process_has_now_is_that_of_a_dead_one(store, process):
    stranger = process(2)
    rank, boot, namespace, pid, start = entry(1, stranger.pid).split()
    add(store, KEY, f"{rank} {boot} {namespace} {pid} {int(start) - 1}\n")
    seen = Processes(store, [1, 2])
    assert seen.look() == Seen([1], [])
    seen.kill([1])
    with pytest.raises(subprocess.TimeoutExpired):
        stranger.wait(0.5)


def test_where_the_kernel_shows_no_processes_nothing_is_known(store, monkeypatch):
    add(store, KEY, of_gone(1))
    here = Processes(store, [1])
    assert here.look() == Seen([1], [])
    # No /proc, or that of another namespace.
    monkeypatch.setattr(processes, "_place", lambda: "")
    assert here.look() == NOTHING
    assert Processes(store, [1]).look() == NOTHING
    assert entry(1, os.getpid()) == "1\n"


def test_a_process_whose_file_cannot_be_read_is_not_dead(store, process, monkeypatch):
    process(1)

    def unreadable(path: Path) -> bytes:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(Path, "read_bytes", unreadable)
    assert Processes(store, [1]).look() == NOTHING


def test_a_process_that_torchrun_did_not_start_is_left_alone(store, process, monkeypatch):
    stranger = process(1)
    monkeypatch.undo()  # a child of this process is no child of its parent
    Processes(store, [1, 2]).kill([1, 2])
    with pytest.raises(subprocess.TimeoutExpired):
        stranger.wait(0.5)


def test_a_process_has_the_name_that_it_wants(store, process):
    """The name stands in the line that is read, and may be no text."""
    name = b"a) T 1 \xff"
    command = f"import time; open('/proc/self/comm', 'wb').write({name!r}); print(flush=True)"
    named = subprocess.Popen(
        [sys.executable, "-c", f"{command}; time.sleep(600)"], stdout=subprocess.PIPE
    )
    try:
        assert named.stdout is not None
        named.stdout.readline()
        add(store, KEY, entry(1, named.pid))
        assert Processes(store, [1]).look() == NOTHING
    finally:
        named.kill()
        named.communicate()
    assert Processes(store, [1]).look() == Seen([1], [])
