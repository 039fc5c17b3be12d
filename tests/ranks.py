"""Runs a function on several gloo ranks, in processes of their own on this machine."""

import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

# A server that has imported torchrec once forks each rank in a fraction of a second.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["mbrec.job.build"])


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
