"""A job does not outlive the process that started it, however early that ends."""

import os
import signal
import subprocess
import sys

import pytest

from mbrec.study import launch

# In place of torchrun: says that it runs, and goes on until a signal ends it.
TORCHRUN = """
import sys, time, types
module = types.ModuleType("torch.distributed.run")
module.main = lambda: (print("begun", sys.argv[1:], flush=True), time.sleep(600))
sys.modules |= {"torch": module, "torch.distributed": module, "torch.distributed.run": module}
from mbrec.distributed import launcher
launcher.main()
"""


def launched(parent: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", TORCHRUN, str(parent), "--nproc-per-node", "2"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_parent_that_was_gone_before_python_started_ends_the_job():
    # Its number is that of no parent any more: whoever takes in orphans has another one.
    gone = subprocess.Popen(["true"])
    gone.wait()
    process = launched(gone.pid)
    try:
        _, told = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == -signal.SIGTERM
    assert told == "launcher: the process that started this job is gone; the job stops\n"


def test_torchrun_runs_with_its_arguments_as_long_as_the_parent_lives():
    process = launched(os.getpid())
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun ['--nproc-per-node', '2']\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.2)  # two looks at the parent
    finally:
        process.kill()
        process.communicate()


def test_a_study_names_itself_as_the_parent(tmp_path, monkeypatch):
    commands = []

    class Done:
        def __init__(self, command: list[str], **options: object) -> None:
            commands.append(command)

        def wait(self) -> int:
            return 0

    monkeypatch.setattr(subprocess, "Popen", Done)
    launch.start("module", ["argument"], tmp_path, processes=3)
    ((_, *command),) = commands
    assert command[:3] == ["-m", "mbrec.distributed.launcher", str(os.getpid())]
    assert command[-5:] == ["--nproc-per-node", "3", "-m", "module", "argument"]
