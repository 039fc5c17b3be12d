"""Jobs that would wait without end: a stalled reader, full shared memory, no loopback."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import ROOT, TORCHRUN, Job, as_root, with_signal

from mbrec.checkpoint import folder

LONG = ["trainer.epochs=1000", "checkpoint.every=10", "checkpoint.keep=3"]

STALLING = """
import os, time
from pathlib import Path
from mbrec.balance import MultiBalance
from mbrec.reader.parquet import ParquetReader

class Ordinary(MultiBalance):
    pass

whole = ParquetReader.__iter__

def stalling(reader):
    for number, batch in enumerate(whole(reader)):
        if number == 20 and os.environ["RANK"] == "1":
            Path(os.environ["STALLS"]).touch()
            time.sleep(600)
        yield batch

ParquetReader.__iter__ = stalling
"""


def left(job: Job, seconds: float = 20.0) -> list[int]:
    """The processes of a job that are left after a while."""
    end = time.monotonic() + seconds
    while (found := job.members()) and time.monotonic() < end:
        time.sleep(0.05)
    return found


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.nightly)])
def test_a_signal_to_a_rank_that_waits_for_one_whose_reader_stalls_saves_the_run(
    tiny_data, tmp_path, monkeypatch, figure, workers
):
    (tmp_path / "stalling.py").write_text(STALLING)
    stalls = tmp_path / "stalls"
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("STALLS", str(stalls))
    options = ["trainer.epochs=1000", "checkpoint.every=1000", f"data.num_workers={workers}"]
    options += ["balancer=custom", "balancer._target_=stalling.Ordinary"]
    with Job(tmp_path, tiny_data, [*options, "runtime.plugins=[stalling]"], None) as job:
        job.wait_for(lambda job: stalls.exists())
        start = time.monotonic()
        with_signal(job.ranks()[0], signal.SIGTERM)
        job.wait_for(lambda job: job.status.get("state") == "resumable", 60)
        seconds = time.monotonic() - start
        assert job.end() == 75, job.text[-3000:]
        newest, problems = folder.newest_verified(folder.finished(job.run / "checkpoint"))
        assert newest is not None and not problems
        assert folder.step_of(newest) == job.status["step"] <= 20
        assert not left(job)
    figure("R10", stalled_reader_seconds=round(seconds, 2))


def test_a_killed_script_leaves_no_process_and_the_run_goes_on(tiny_data, tmp_path, figure):
    with Job(tmp_path, tiny_data, LONG, None) as job:
        job.wait_for(lambda job: bool(job.steps))
        start = time.monotonic()
        with_signal(job.process.pid, signal.SIGKILL)
        assert not left(job, 60), job.text[-3000:]
        seconds = time.monotonic() - start
        assert "the process that started this job is gone" in job.text
        assert job.status["state"] == "resumable", job.text[-3000:]
        newest, problems = folder.newest_verified(folder.finished(job.run / "checkpoint"))
        assert newest is not None and not problems
        assert folder.step_of(newest) == job.status["step"]
    figure("R8", killed_script_seconds=round(seconds, 2))


def alone(*command: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run a command in namespaces of its own; it is over when this returns."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False
    )


@as_root
def test_shared_memory_that_is_too_small_for_the_readers_ends_the_job_in_a_line(
    tiny_data, tmp_path
):
    small = 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"'
    job = [sys.executable, "-m", "mbrec.train", "data/preset=tiny", f"data.path={tiny_data}"]
    job += ["run.name=job", "data.num_workers=2", "monitor.progress=false"]
    job += ["trainer.global_batch_size=2048"]
    done = alone("unshare", "-m", "bash", "-c", small, "bash", *job, cwd=tmp_path)
    assert done.returncode == 1, done.stderr[-3000:]
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert "through shared memory" in line
    assert "of 65,536 bytes free" in line
    assert "--shm-size" in line
    assert "data.num_workers=0" in line


DOWN = 'exec "$@"'
IPV6_ALONE = 'ip link set lo up && ip address del 127.0.0.1/8 dev lo && exec "$@"'


@as_root
@pytest.mark.parametrize("network", [DOWN, IPV6_ALONE])
def test_a_machine_without_loopback_is_told_before_anything_starts(tmp_path, network):
    if network == IPV6_ALONE and shutil.which("ip") is None:
        pytest.skip("there is no command to take an address away")
    enter = ["unshare", "-n", "bash", "-c", network, "bash"]
    done = alone(*enter, sys.executable, "-m", "mbrec.check", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: expected a loopback interface with the address 127.0.0.1")
    assert "ip link set lo up" in done.stderr


@as_root
@pytest.mark.nightly
def test_a_machine_without_loopback_is_told_by_torchrun_and_by_a_single_process(tmp_path):
    job = ["-m", "mbrec.train", "data/preset=tiny"]
    for command in ([*TORCHRUN, *job], job):
        done = alone("unshare", "-n", sys.executable, *command, cwd=tmp_path)
        assert done.returncode == 1
        assert "expected a loopback interface" in done.stderr
