import os
import subprocess
import sys

import pytest

from mbrec.job import run_lock


def test_a_second_process_is_kept_out_while_the_first_runs(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert not run_lock.take(tmp_path)
    finally:
        holder.kill()
        holder.communicate()
    # With its process the lock is gone, however that ended.
    assert run_lock.take(tmp_path)


def test_a_command_that_needs_a_folder_for_itself_says_who_has_it(tmp_path):
    with run_lock.alone(tmp_path / "runs", "study"):
        command = [sys.executable, "-c", TRY_ALONE, str(tmp_path / "runs")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "expected a study of its own" in done.stdout
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "entered\n"


def test_a_process_may_take_a_folder_twice_and_keeps_it(tmp_path):
    before = _open_files()
    with run_lock.released_after(tmp_path):
        assert run_lock.take(tmp_path)
        assert run_lock.take(tmp_path)
        assert _open_files() == before + 1
    assert _open_files() == before


def test_after_the_job_others_may_enter_and_nothing_stays_open(tmp_path):
    def others() -> str:
        command = [sys.executable, "-c", TRY, str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    before = _open_files()
    with pytest.raises(ValueError, match="of the job"), run_lock.released_after(tmp_path):
        assert run_lock.take(tmp_path)
        assert others() == "kept out"
        raise ValueError("of the job")
    assert others() == "entered"
    assert _open_files() == before


def test_what_a_killed_process_has_not_finished_is_removed_and_nothing_else(tmp_path):
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    mark = "0123456789abcdef"
    stale = [folder / f".{mark}.status.json.tmp", folder / f".{mark}.a\nb.tmp"]
    kept = [f".{mark}.tmp", f".{mark}.status.json", f"{mark}.a.tmp", ".0123.a.tmp", "a.tmp"]
    (folder / "sub").mkdir(parents=True)
    for path in (*stale, *(folder / name for name in kept), elsewhere):
        path.touch()
    (folder / f".{mark}.link.tmp").symlink_to(elsewhere)
    (folder / f".{mark}.folder.tmp").mkdir()
    before = set(folder.iterdir())
    with run_lock.released_after(folder):
        assert run_lock.take(folder)
        assert set(folder.iterdir()) == (before - set(stale)) | {folder / ".lock"}
        # No process may tidy up what this one, which has the folder, is writing.
        stale[0].touch()
        subprocess.run([sys.executable, "-c", TRY, str(folder)], check=True)
        assert run_lock.take(folder)
        assert stale[0].exists()
    assert elsewhere.exists()


def test_a_rank_that_never_took_the_folder_releases_nothing(tmp_path):
    with run_lock.released_after(tmp_path):
        pass
    assert not (tmp_path / ".lock").exists()


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


HOLD = """
import fcntl, sys
file = open(sys.argv[1] + "/.lock", "a")
fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
print("held", flush=True)
sys.stdin.read()
"""

TRY_ALONE = """
import sys
from pathlib import Path
from mbrec.job import run_lock
try:
    with run_lock.alone(Path(sys.argv[1]), "study"):
        print("entered")
except ValueError as error:
    print(error)
"""

TRY = """
import sys
from pathlib import Path
from mbrec.job import run_lock
print("entered" if run_lock.take(Path(sys.argv[1])) else "kept out")
"""
