"""Starts training jobs as a user does, and finds their processes, to break them."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
TORCHRUN = ["-m", "torch.distributed.run", "--rdzv-backend", "mbrec-loopback"]
TORCHRUN += ["--rdzv-endpoint", "127.0.0.1:0", "--nproc-per-node", "2"]

as_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None,
    reason="makes namespaces, which needs root",
)


class Job:
    """A training job in a session of its own; used as a context, it leaves no process behind.

    Args:
        folder: where it runs.
        data: folder of the synthetic data sets.
        options: of the configuration.
        torchrun: further arguments of torchrun; None starts it by scripts/train.sh.
    """

    def __init__(
        self, folder: Path, data: Path, options: list[str], torchrun: list[str] | None
    ) -> None:
        self.run = folder / "outputs" / "job"
        self._log = folder / "log"
        arguments = ["data/preset=tiny", f"data.path={data}", "run.name=job", *options]
        arguments += ["monitor.progress=false", "trainer.global_batch_size=128"]
        command = [str(ROOT / "scripts/train.sh"), *arguments]
        if torchrun is not None:
            command = [sys.executable, *TORCHRUN, *torchrun, "-m", "mbrec.train", *arguments]
        unset = {"MBREC_RUN_ID", "NPROC", "RANK", "HYDRA_FULL_ERROR", "MAX_RESTARTS"}
        env = {key: value for key, value in os.environ.items() if key not in unset}
        env |= {"OMP_NUM_THREADS": "1", "MBREC_VENV": str(Path(sys.executable).parents[1])}
        self._mark = f"MBREC_TEST_JOB={uuid.uuid4().hex}"
        env |= dict([self._mark.split("=")])
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True
            )

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self.members():
            with_signal(pid, signal.SIGKILL)
        self.process.wait(30)

    @property
    def text(self) -> str:
        """What the job has printed."""
        return self._log.read_text(errors="replace")

    @property
    def status(self) -> dict[str, Any]:
        """The run's status.json; empty before there is one."""
        path = self.run / "status.json"
        return json.loads(path.read_text()) if path.exists() else {}

    @property
    def steps(self) -> list[int]:
        """The steps that are saved."""
        return sorted(int(p.name[5:]) for p in (self.run / "checkpoint").glob("step_*[0-9]"))

    def members(self) -> list[int]:
        """The processes of the job that are alive: launcher, ranks and their readers."""
        return [pid for pid, _ in self._alive()]

    def ranks(self) -> dict[int, int]:
        """Rank -> process."""
        found = {pid: int(m[1]) for pid, e in self._alive() if (m := re.search(r"\0RANK=(\d+)", e))}
        # A reader process has its rank's environment, and the rank as its parent.
        return {rank: pid for pid, rank in found.items() if parent_of(pid) not in found}

    def _alive(self) -> Iterator[tuple[int, str]]:
        """Yield the job's processes and environments; torchrun puts ranks into new sessions."""
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                environment = path.read_bytes().decode(errors="replace")
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
            if self._mark in environment:
                yield int(path.parent.name), environment

    def wait_for(self, what: Callable[["Job"], bool], seconds: float = 90) -> float:
        """Wait until something is so; return how long that took.

        Raises:
            AssertionError: if the job has ended before, or it took too long.
        """
        start = time.monotonic()
        while not what(self):
            assert time.monotonic() - start < seconds, (
                f"waited for {seconds} s\n{self.text[-3000:]}"
            )
            ended = self.process.poll() is not None and not what(self)
            assert not ended, (
                f"the job has ended with {self.process.returncode}\n{self.text[-3000:]}"
            )
            time.sleep(0.02)
        return time.monotonic() - start

    def end(self, seconds: float = 90) -> int:
        """Wait until the job has ended; return its exit status."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still there after {seconds} s\n{self.text[-3000:]}") from None


def with_signal(pid: int, number: int) -> None:
    """Send a signal, if the process is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def parent_of(pid: int) -> int:
    """Return the parent of a process; 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Stop a process of this one, as SIGSTOP does, and wait until it is."""
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)


def gone(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process of this one, and wait for its end."""
    process.kill()
    process.wait()
