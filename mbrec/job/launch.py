"""Starts the processes of a training job, passes signals on to them, and says how the job ended."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from mbrec import UserError
from mbrec.job import status

# A save may take longer than the half minute that torchrun gives its processes after a signal.
SHUTDOWN_TIMEOUT_S = 600


class Signals:
    """SIGTERM and SIGINT: passed on as soon as there is a job to pass them to.

    Attributes:
        received: whether one has come.
    """

    def __init__(self) -> None:
        self.received = False
        self._job: subprocess.Popen[bytes] | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        if self._job is not None:
            self._job.terminate()

    def wait(self, job: "subprocess.Popen[bytes]") -> int:
        """Return the exit status of a job that gets the signals."""
        self._job = job
        if self.received:
            job.terminate()
        code = job.wait()
        return code if code >= 0 else 128 - code


def launch(
    arguments: Sequence[str], folder: Path, signals: Signals, variables: Mapping[str, str]
) -> int:
    """Train in processes of this machine.

    Args:
        arguments: the command line.
        folder: of the run.
        signals: of this process.
        variables: of the processes' environment.

    Returns:
        the exit status: 75 if the run was stopped and the same command continues it.

    Raises:
        UserError: if NPROC is not a number of processes.
    """
    processes = num_processes()
    before = _status(folder)
    if signals.received:
        return _resumable(folder)
    job = subprocess.Popen(_command(processes, arguments), env=_environment(processes, variables))
    code = signals.wait(job)
    # torchrun returns 1 whatever its processes do, and 0 after a stop where it may restart them.
    after = _status(folder)
    state = after.get("state")
    if after == before:
        if signals.received:  # before the processes could take the signal: nothing has changed
            return _resumable(folder)
    elif state == "resumable" or (state == "starting" and signals.received):
        return _resumable(folder)
    if code != 0 and state in ("starting", "running"):  # rank 0 could not say that it has failed
        status.mark_failed(folder)
    return code


def num_processes() -> int:
    """Return NPROC; without it one process per GPU, or two where there is none.

    Raises:
        UserError: if it is not a number of processes.
    """
    given = os.environ.get("NPROC")
    if given is None:
        return _num_gpus() or 2
    if not given.isdecimal() or given.startswith("0"):
        raise UserError(f"expected a number of processes in NPROC, got '{given}'")
    return int(given)


def _num_gpus() -> int:
    # torch would take seconds to say so.
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(
        ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False
    )
    return len(listed.stdout.splitlines())


def _command(processes: int, arguments: Sequence[str]) -> list[str]:
    # torchrun, which ends with this process, however that ends; --standalone would listen on all
    # interfaces.
    launcher = [sys.executable, "-m", "mbrec.distributed.launcher", str(os.getpid())]
    launcher += ["--rdzv-backend", "mbrec-loopback", "--rdzv-endpoint", "127.0.0.1:0"]
    launcher += ["--nproc-per-node", str(processes)]
    launcher += ["--max-restarts", os.environ.get("MAX_RESTARTS", "0")]
    return [*launcher, "-m", "mbrec.train", *arguments]


def _environment(processes: int, variables: Mapping[str, str]) -> dict[str, str]:
    threads = max(1, len(os.sched_getaffinity(0)) // processes)
    defaults = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(SHUTDOWN_TIMEOUT_S)}
    defaults["OMP_NUM_THREADS"] = str(threads)
    given = {name: value for name, value in os.environ.items() if value or name not in defaults}
    return {**defaults, **given, **variables}


def _status(folder: Path) -> dict[str, Any]:
    """Return a run's status, whatever it says; empty where there is none."""
    try:
        content = json.loads((folder / status.NAME).read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _resumable(folder: Path) -> int:
    print(f"train: stopped; goes on with run.name={folder.name}", file=sys.stderr)
    return status.RESUMABLE_EXIT_CODE
