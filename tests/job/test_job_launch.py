"""The processes of a job get its arguments and its signals, and its end has the right status."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mbrec import UserError
from mbrec.files.sealed import read_json, write_json
from mbrec.job import launch

RESUMABLE = """echo '{"state": "resumable", "step": 3}' > run/status.json;"""
FAILED = """echo '{"state": "failed", "step": 3}' > run/status.json;"""
STARTING = """echo '{"state": "starting", "step": 0}' > run/status.json;"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Runs a shell script in the place of torchrun, in a folder with a run; gives the status."""
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def run(script: str, *, received: bool = False) -> int:
        monkeypatch.setattr(launch, "_command", lambda *_: ["sh", "-c", script])
        signals = launch.Signals()
        signals.received = received
        return launch.launch([], Path("run"), signals, {})

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_the_processes_asked_for_are_started_with_the_arguments_given(monkeypatch):
    monkeypatch.setenv("MAX_RESTARTS", "2")
    command = launch._command(3, ["run.name=a b"])
    assert command[:4] == [sys.executable, "-m", "mbrec.distributed.launcher", str(os.getpid())]
    assert command[4:] == [
        *("--rdzv-backend", "mbrec-loopback", "--rdzv-endpoint", "127.0.0.1:0"),
        *("--nproc-per-node", "3", "--max-restarts", "2", "-m", "mbrec.train", "run.name=a b"),
    ]


def test_the_processes_share_the_cores_and_have_time_to_save(monkeypatch):
    for name in ("OMP_NUM_THREADS", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(7)))
    found = launch._environment(2, {"MINE": "1"})
    assert (found["OMP_NUM_THREADS"], found["MINE"]) == ("3", "1")
    assert found["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "600"
    assert launch._environment(9, {})["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert launch._environment(2, {})["OMP_NUM_THREADS"] == "5"


@pytest.mark.parametrize("given", ["", "0", "02", "two", "-1", "1.5"])
def test_what_is_no_number_of_processes_is_refused(given, monkeypatch):
    monkeypatch.setenv("NPROC", given)
    with pytest.raises(UserError, match=f"expected a number of processes in NPROC, got '{given}'"):
        launch.num_processes()


def test_there_is_a_process_for_each_gpu_and_two_without_any(monkeypatch, tmp_path):
    monkeypatch.delenv("NPROC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert launch.num_processes() == 2
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho GPU 0\necho GPU 1\necho GPU 2\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert launch.num_processes() == 3
    monkeypatch.setenv("NPROC", "4")
    assert launch.num_processes() == 4


@pytest.mark.parametrize(
    ("before", "status", "code"),
    [
        ("", RESUMABLE, 75),
        ("", FAILED, 1),
        ("", "", 1),
        # Of an earlier job, which this one did not get as far as: no scheduler may loop on it.
        ('{"state": "resumable", "step": 3}', "", 1),
    ],
)
def test_the_status_is_75_if_the_same_command_continues_the_run(start, before, status, code):
    if before:
        Path("run/status.json").write_text(before)
    assert start(f"{status} exit 1") == code
    # With restarts left the processes end with 0, so that torchrun does not start them again.
    Path("run/status.json").unlink(missing_ok=True)
    if code == 75:
        assert start(f"{status} exit 0") == code


@pytest.mark.parametrize(("state", "after"), [("running", "failed"), ("finished", "finished")])
def test_a_job_whose_processes_are_gone_without_a_word_is_marked_as_failed(start, state, after):
    write_json(Path("begun"), {"state": state, "step": 3, "reason": ""})
    assert start("cp begun run/status.json; exit 1") == 1
    assert read_json(Path("run/status.json"))["state"] == after


def test_a_signal_before_the_job_has_begun_returns_75_and_starts_nothing(start, capsys):
    assert start("touch started", received=True) == 75
    assert "goes on with run.name=run" in capsys.readouterr().err
    assert not Path("started").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("said", "code"), [(RESUMABLE, 75), (STARTING, 75), ("", 75), (FAILED, 3)])
def test_a_signal_is_passed_on_and_the_job_may_take_its_time_to_save(start, number, said, code):
    script = f"saves() {{ sleep .3; {said} exit 3; }}; trap saves TERM;"
    script += f"kill -{number.name[3:]} {os.getpid()}; while :; do sleep .02; done"
    assert start(script) == code


def test_a_job_that_a_signal_ends_has_the_status_of_a_shell(start):
    assert start("kill -KILL $$") == 128 + signal.SIGKILL


def test_a_signal_while_the_command_line_is_composed_starts_nothing(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k not in ("MBREC_RUN_ID", "NPROC")}
    code = "import os, signal; from mbrec.study import handover; compose = handover.compose\n"
    code += "def stopped(words): os.kill(os.getpid(), signal.SIGTERM); return compose(words)\n"
    code += "handover.compose = stopped\n"
    code += "from mbrec import train; raise SystemExit(train.main(['run.name=job']))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 75, done.stderr
    assert "goes on with run.name=job" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_status_that_cannot_be_read_is_none(tmp_path):
    assert launch._status(tmp_path) == {}
    for text in ("", "[1]", "{"):
        (tmp_path / "status.json").write_text(text)
        assert launch._status(tmp_path) == {}
    (tmp_path / "status.json").write_text(json.dumps({"state": "x", "time": time.time()}))
    assert launch._status(tmp_path)["state"] == "x"
