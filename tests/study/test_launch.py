"""A study trains its jobs once, resumes where it was stopped, and does not hide a failure."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ranks import run_command

from mbrec.study import launch, worker
from mbrec.study.job_groups import Outcome
from mbrec.study.jobs import Job

SMALL = ("data/preset=tiny", "trainer.global_batch_size=256", "trainer.steps=6")


def study(data, *settings, only=()):
    return [
        Job(f"w/{name}/seed_0", (*SMALL, f"data.path={data}", *overrides), only)
        for name, *overrides in settings
    ]


def start_in_forks(module, arguments, folder, *, processes):
    ended = run_command(module, *arguments, cwd=Path.cwd(), processes=processes)
    assert ended.returncode == 0, ended.stderr


@pytest.fixture(scope="module")
def done(tiny_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    jobs = study(
        tiny_data,
        ("equal", "balancer=equal"),
        ("nex", "balancer=equal", "optimizer.dense_lr=1e30", "trainer.steps=40"),
        ("mgda", "balancer=mgda"),
    )
    jobs += study(tiny_data, ("single", "balancer=equal"), only=("cvr",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "start", start_in_forks)
        return folder, jobs, launch.run(jobs, folder)


@pytest.mark.slow
def test_each_job_is_an_ordinary_run_and_an_explosion_is_a_result(done):
    folder, jobs, results = done
    equal, nex, mgda, single = (results[job] for job in jobs)
    assert list(equal.tasks) == list(mgda.tasks) == ["ctr", "cvr", "conv_imp"]
    assert list(single.tasks) == ["cvr"]
    assert equal.tasks["ctr"]["ne"] != mgda.tasks["ctr"]["ne"]
    assert nex.reason.startswith("FloatingPointError")
    assert not nex.tasks
    assert all((folder / job.folder / "config.yaml").exists() for job in jobs)
    assert all((folder / job.folder / "tensorboard").is_dir() for job in jobs)


@pytest.mark.slow
def test_what_is_done_is_not_trained_again(done, monkeypatch):
    folder, jobs, results = done
    monkeypatch.setattr(subprocess, "Popen", None)  # starting a process would fail
    assert launch.run([*jobs, *jobs], folder) == results


class FailingGroups:
    """Takes the place of `mbrec.study.job_groups.JobGroups`: every job fails in the same way."""

    rank = 0

    def __init__(self, interrupt, *, timeout_s):
        pass

    def share(self, make):
        return make()

    def run(self, job, *, timeout_s):
        return Outcome("failed", None, "ValueError: expected weights to be 3 finite numbers")


def test_a_wrong_setting_ends_the_study_and_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mbrec.study.job_groups.JobGroups", FailingGroups)
    monkeypatch.setattr("mbrec.distributed.interrupt.Interrupt.install", lambda self: None)
    jobs = study("nowhere", ("bad",), ("after",))
    launch.write_plan(tmp_path / "plan.json", jobs)
    assert worker.work(tmp_path / "plan.json", tmp_path) == 1
    assert "w/bad/seed_0: ValueError: expected weights" in capsys.readouterr().err
    assert "failed: w/bad/seed_0" in json.loads((tmp_path / "status.json").read_text())["reason"]
    assert not any((tmp_path / job.folder).exists() for job in jobs)


SCRIPT = """
import json, signal, sys
from pathlib import Path
from mbrec.study import launch
from mbrec.study.jobs import read_plan
signal.signal(signal.SIGTERM, signal.default_int_handler)
try:
    jobs = list(read_plan(Path(sys.argv[1])).values())
    launch.run(jobs, Path(sys.argv[2]), processes=1)
except KeyboardInterrupt:
    sys.exit(75)
"""


@pytest.mark.slow
def test_a_stopped_study_goes_on_after_the_last_finished_job(tiny_data, tmp_path, monkeypatch):
    jobs = study(tiny_data, ("first",), ("second", "trainer.steps=1000000"))
    plan, folder = tmp_path / "jobs.json", tmp_path / "study"
    launch.write_plan(plan, jobs)
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(plan), str(folder)])
    running = folder / jobs[1].folder / "config.yaml"
    deadline = time.monotonic() + 120
    while not running.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 75
    first = folder / jobs[0].folder / "metrics.json"
    before, written = json.loads(first.read_text()), first.stat().st_mtime_ns
    assert not (folder / jobs[1].folder / "metrics.json").exists()
    todo = []
    monkeypatch.setattr(launch, "_train", lambda jobs, *_: todo.extend(jobs))
    with pytest.raises(ValueError, match="expected a result of w/second"):
        launch.run(jobs, folder, processes=1)
    assert todo == jobs[1:]
    assert json.loads(first.read_text()) == before
    assert first.stat().st_mtime_ns == written
    assert not [pid for pid in os.listdir("/proc") if pid.isdigit() and of(pid, str(plan))]


def of(pid: str, word: str) -> bool:
    try:
        return word in Path("/proc", pid, "cmdline").read_text()
    except OSError:
        return False
