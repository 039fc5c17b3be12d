"""Several processes write the same synthetic log, and none outlives the writing."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tqdm import tqdm

from mbrec.config.synthetic import Synthetic
from mbrec.prepare.synthetic import files as world_files
from mbrec.prepare.synthetic.files import write
from mbrec.prepare.synthetic.world import World

SETTINGS = Synthetic(
    rows=4_000,
    num_users=50,
    num_items=40,
    num_tags=30,
    rows_per_shard=100,
    drift=0.5,
    history_length=3,
    raw_dense=True,
    delay=1.0,
)
ENDLESS = replace(SETTINGS, rows=20_000_000, rows_per_shard=1_000)


def read_bytes(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def is_running(pid: str) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def at_first_rows(monkeypatch: pytest.MonkeyPatch, action: Any) -> None:
    """Calls something in this process as soon as another one has written rows."""

    def update(bar: Any, rows: int) -> None:
        assert multiprocessing.active_children()
        monkeypatch.undo()
        action()

    monkeypatch.setattr(tqdm, "update", update)


def test_files_are_the_same_whatever_the_number_of_processes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = []
    for processes in (1, 2, 3):
        write(SETTINGS, tmp_path / str(processes), processes=processes, progress=True)
        written.append(read_bytes(tmp_path / str(processes)))
        assert " 4000/4000 " in capsys.readouterr().err
    assert len(written[0]) == 7
    assert written[0] == written[1] == written[2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "3"]
    assert not multiprocessing.active_children()


def test_mapped_world_draws_the_same_rows(tmp_path: Path) -> None:
    world = World(SETTINGS)
    world.save(tmp_path / "arrays")
    mapped = World.load(SETTINGS, tmp_path / "arrays")
    assert mapped.shard(3, 500).table().equals(world.shard(3, 500).table())
    assert not mapped.arrays["user_effects"].flags.writeable


@pytest.mark.timeout(30)
def test_interrupt_ends_every_process_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    running: list[int] = []

    def remove(path: Path, ignore_errors: bool = False) -> None:
        running.append(len(multiprocessing.active_children()))
        remove_tree(path, ignore_errors)

    at_first_rows(monkeypatch, interrupt)
    remove_tree = shutil.rmtree
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", remove)
        write(ENDLESS, tmp_path / "log", processes=2)
    assert running == [0]
    assert not list(tmp_path.iterdir())


@pytest.mark.timeout(30)
def test_killed_process_is_an_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill_one() -> None:
        pid = multiprocessing.active_children()[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    at_first_rows(monkeypatch, kill_one)
    with pytest.raises(ChildProcessError, match=r"got one that was killed; .* fewer processes"):
        write(ENDLESS, tmp_path / "log", processes=2)
    assert not multiprocessing.active_children()
    assert not list(tmp_path.iterdir())


def test_error_in_a_process_is_raised_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save_one_array_too_few(world: World, folder: Path) -> None:
        folder.mkdir(parents=True)
        for name, array in world.arrays.items():
            if name != "tags":
                np.save(folder / f"{name}.npy", array)

    monkeypatch.setattr(World, "save", save_one_array_too_few)
    with pytest.raises(KeyError, match="tags") as error:
        write(SETTINGS, tmp_path / "log", processes=2)
    assert "world.py" in str(error.value.__cause__), "the trace of the other process"
    assert not multiprocessing.active_children()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_processes_end_when_the_one_that_started_them_is_killed(tmp_path: Path) -> None:
    program = (
        "import multiprocessing, sys, time, threading\n"
        "from mbrec.config.synthetic import Synthetic\n"
        "from mbrec.prepare.synthetic.files import write\n"
        "def tell():\n"
        "    while len(multiprocessing.active_children()) < 2:\n"
        "        time.sleep(0.02)\n"
        "    print(*(child.pid for child in multiprocessing.active_children()), flush=True)\n"
        "threading.Thread(target=tell, daemon=True).start()\n"
        "write(Synthetic(rows=100_000_000), sys.argv[1], processes=2)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = parent.stdout.readline().split()
        parent.kill()
    assert len(pids) == 2
    until = time.monotonic() + 30
    while any(map(is_running, pids)):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_processes_grow_with_the_rows_up_to_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    numbers = [
        world_files.sensible_processes(Synthetic(rows=rows))
        for rows in (8_192, 200_000, 1_999_999, 2_000_000, 100_000_000)
    ]
    assert numbers == [1, 1, 1, 2, 4]


def test_no_processes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected processes >= 1, got 0"):
        write(SETTINGS, tmp_path / "log", processes=0)
