"""Runs functions and commands in processes that start with torchrec imported."""

import gc
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

# A server that has imported torchrec once forks each process in a fraction of a second. The rest is
# what test modules import: a rank imports the one that its function comes from.
PRELOADED = ["mbrec.job.fit", "mbrec.job.build", "hydra", "pytest", "hypothesis.extra.numpy"]
PRELOADED += ["sklearn.metrics", "torchjd.aggregation", "torch.distributed.optim"]
PRELOADED += ["mbrec.prepare.synthetic.files"]
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(PRELOADED)
# What describes a process's place in a job, and what a user sets for one.
PLACE = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MBREC_RUN_ID", "HYDRA_FULL_ERROR"}


def run_ranks(
    target: Callable[..., Any],
    world_size: int,
    folder: Path,
    *args: Any,
    timeout_s: int = 180,
    group: bool = True,
) -> list[Any]:
    """Return what `target(*args)` returned on each rank.

    A rank that fails, or does not answer in time, fails the caller; every process that was
    started here has ended when this returns.

    Args:
        target: a function of a test module.
        world_size: number of ranks.
        folder: a folder of the test's own; the ranks find each other in it.
        args: passed on.
        timeout_s: for all of it.
        group: make a process group; without, the ranks share a store from which they can make one.
    """
    store = folder / f"store_{len(list(folder.iterdir()))}"
    pipes, processes = [], []
    for rank in range(world_size):
        receiver, sender = _context.Pipe(duplex=False)
        process = _context.Process(
            target=_rank,
            args=(sender, rank, world_size, str(store), target, args, group),
        )
        process.start()
        sender.close()
        pipes.append(receiver)
        processes.append(process)
    try:
        return _collect(pipes, timeout_s)
    finally:
        for process in processes:
            process.kill()
            process.join()


def _collect(pipes: list[Connection], timeout_s: int) -> list[Any]:
    answers: dict[int, Any] = {}
    while len(answers) < len(pipes):
        waiting = [pipe for rank, pipe in enumerate(pipes) if rank not in answers]
        ready = wait(waiting, timeout=timeout_s)
        if not ready:
            raise TimeoutError(f"no answer within {timeout_s} s; {sorted(answers)} had answered")
        for pipe in ready:
            assert isinstance(pipe, Connection)
            rank = pipes.index(pipe)
            try:
                ok, answer = pipe.recv()
            except EOFError:
                raise RuntimeError(f"rank {rank} died") from None
            if not ok:
                raise RuntimeError(f"rank {rank} failed:\n{answer}")
            answers[rank] = answer
    return [answers[rank] for rank in range(len(pipes))]


def _rank(
    sender: Connection,
    rank: int,
    world_size: int,
    store: str,
    target: Callable,
    args: tuple,
    group: bool,
) -> None:
    import logging
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    from mbrec.distributed import process as distributed

    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        GLOO_SOCKET_IFNAME="lo",
    )
    torch.set_num_threads(1)
    gc.freeze()  # what the server has imported is no garbage, and its pages stay shared
    logging.disable(logging.WARNING)
    try:
        if group:
            dist.init_process_group(
                "gloo",
                init_method=f"file://{store}",
                rank=rank,
                world_size=world_size,
                timeout=timedelta(seconds=60),
            )
        else:
            distributed.shared_store = lambda *, timeout_s: dist.FileStore(store, world_size)
        answer = (True, target(*args))
        if group:
            dist.barrier()
    except Exception:
        answer = (False, traceback.format_exc())
    sender.send(answer)
    sender.close()
    # Not a normal exit: a peer that failed would keep gloo's threads waiting.
    os._exit(0)


def run_command(
    program: str | Path,
    *arguments: str | Path,
    cwd: Path,
    processes: int = 0,
    timeout_s: float = 200,
    **environment: str,
) -> "subprocess.CompletedProcess[str]":
    """Run a module or script as `python -m` and `python` do, without their imports.

    Args:
        program: the name of a module, or the path of a script.
        arguments: of it.
        cwd: where it runs.
        processes: ranks of one job that do the same, as torchrun starts them; 0: one process that
            is not told of any.
        timeout_s: for all of it.
        environment: changes of this process's environment.
    """
    words = [str(program), *map(str, arguments)]
    with tempfile.TemporaryDirectory() as printed, _places(processes) as places:
        files = [Path(printed, name) for name in ("stdout", "stderr")]
        started = []
        for place in places:
            kept = {key: value for key, value in os.environ.items() if key not in PLACE}
            given = (words, str(cwd), kept | place | environment, [str(file) for file in files])
            started.append(_context.Process(target=_command, args=given))
            started[-1].start()
        code = _end(started, timeout_s)
        return subprocess.CompletedProcess(words, code, *(file.read_text() for file in files))


@contextmanager
def _places(processes: int) -> Iterator[list[Mapping[str, str]]]:
    """Yield the variables that torchrun gives to each rank; it keeps their store, as this does."""
    if processes == 0:
        yield [{}]
        return
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    shared |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    shared |= {"TORCHELASTIC_MAX_RESTARTS": "0", "GLOO_SOCKET_IFNAME": "lo"}
    sizes = dict.fromkeys(["WORLD_SIZE", "LOCAL_WORLD_SIZE"], str(processes))
    yield [
        shared | sizes | dict.fromkeys(["RANK", "LOCAL_RANK"], str(rank))
        for rank in range(processes)
    ]
    del store


def _end(started: list[BaseProcess], timeout_s: float) -> int:
    """Wait for processes; return 0, or the code of the first that failed and ended the others."""
    deadline = time.monotonic() + timeout_s
    code = 0
    try:
        while running := [process for process in started if process.exitcode is None]:
            left = max(0, deadline - time.monotonic())
            wait([process.sentinel for process in running], timeout=left)
            if time.monotonic() > deadline:
                raise TimeoutError(f"still there after {timeout_s} s")
            failed = [p.exitcode for p in running if p.exitcode]
            if failed and not code:
                code = failed[0]
                deadline = min(deadline, time.monotonic() + 30)
                for process in started:
                    process.terminate()
        return code
    finally:
        for process in started:
            process.kill()
            process.join()


def _command(words: list[str], cwd: str, environment: Mapping[str, str], files: list[str]) -> None:
    import torch

    for number, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = list(words)
    torch.set_num_threads(1)
    gc.freeze()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if words[0].endswith(".py"):
        sys.path.insert(0, str(Path(words[0]).parent))
        runpy.run_path(words[0], run_name="__main__")
    else:
        sys.path.insert(0, cwd)
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
