"""Starts the processes that train a study's jobs, and collects the results."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from mbrec.config.errors import plain_errors
from mbrec.files import atomic
from mbrec.job.status import RESUMABLE_EXIT_CODE
from mbrec.study.jobs import Job, Result, read_result, write_plan


def run(jobs: Sequence[Job], folder: Path, *, processes: int = 2) -> dict[Job, Result]:
    """Return the results of jobs; those that are not finished are trained, one after the other.

    Args:
        jobs: to train; repetitions are ignored.
        folder: of the study. With the same folder an interrupted study resumes.
        processes: ranks of each job.

    Raises:
        KeyboardInterrupt: if the processes were asked to stop.
        ValueError: if they failed, or a job's settings are wrong.
    """
    jobs = list(dict.fromkeys(jobs))
    todo = [job for job in jobs if read_result(folder / job.folder) is None]
    # Measurements of time come last, when nobody is likely to watch the study and disturb them.
    todo.sort(key=lambda job: job.measures)
    if todo:
        _train(todo, folder, processes)
    results = {}
    for job in jobs:
        result = read_result(folder / job.folder)
        if result is None:
            raise ValueError(f"expected a result of {job.name} in {folder}, found none")
        results[job] = result
    return results


def default_processes() -> int:
    """Return how many processes a study trains on: one per GPU, two where there is none.

    A power of two, which batch sizes are multiples of.
    """
    import torch  # seconds, which --help must not wait for

    return 1 << ((torch.cuda.device_count() or 2).bit_length() - 1)


@contextmanager
def resumable() -> Iterator[None]:
    """End a command as users expect: short errors, and status 75 after a stop.

    SIGTERM is as Ctrl-C: the run under way begins again next time, and no process is left behind.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with plain_errors():
        try:
            yield
        except KeyboardInterrupt:
            print("stopped; the same command resumes", file=sys.stderr)
            raise SystemExit(RESUMABLE_EXIT_CODE) from None


def _train(jobs: Sequence[Job], folder: Path, processes: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    plan = folder / "plan.json"
    write_plan(plan, jobs)
    print(f"{len(jobs)} runs to train in {folder}, on {processes} processes", file=sys.stderr)
    start("mbrec.study.worker", [str(plan), str(folder)], folder, processes=processes)


def start(module: str, arguments: Sequence[str], folder: Path, *, processes: int) -> None:
    """Run a module on several processes of this machine, and wait for its end.

    Args:
        module: whose `main` does the work.
        arguments: of the module.
        folder: whose console.log gets what the processes print; progress and errors go to stderr.
        processes: ranks.

    Raises:
        KeyboardInterrupt: if the processes were asked to stop.
        ValueError: if they failed.
    """
    # torchrun, which ends with this process; --standalone would listen on all interfaces.
    command = [sys.executable, "-m", "mbrec.distributed.launcher", str(os.getpid())]
    command += ["--rdzv-backend", "mbrec-loopback", "--rdzv-endpoint", "127.0.0.1:0"]
    command += ["--nproc-per-node", str(processes), "-m", module, *arguments]
    console = folder / "console.log"
    descriptor = atomic.open_own(console, os.O_WRONLY | os.O_APPEND)
    with os.fdopen(descriptor, "a") as out:
        process = subprocess.Popen(command, stdout=out, env=environment(processes))
        try:
            code = process.wait()
        except KeyboardInterrupt:
            # A terminal sends the signal to the processes as well; they end after their step.
            process.send_signal(signal.SIGTERM)
            _wait_for(process)
            raise
    if code != 0:
        raise ValueError(
            f"the processes of the study ended with status {code}; see above for the first error, "
            f"and {console}. Once that is fixed, the same command resumes after the last finished "
            "run"
        )


def _wait_for(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of processes that were asked to stop, even if Ctrl-C is pressed again."""
    while process.poll() is None:
        try:
            process.wait()
        except KeyboardInterrupt:
            print("stopping after the step under way", file=sys.stderr)


def environment(processes: int) -> Mapping[str, str]:
    """Return the variables that the processes start with: as many threads as there are cores.

    Args:
        processes: ranks on this machine.
    """
    threads = max(1, len(os.sched_getaffinity(0)) // processes)
    return {"OMP_NUM_THREADS": str(threads), "TORCH_CPP_LOG_LEVEL": "ERROR", **os.environ}
