"""Several processes that write parts of one synthetic data set, and end together."""

import multiprocessing
import os
import shutil
import signal
import traceback
from collections.abc import Generator, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import cast

from mbrec.config.synthetic import Synthetic
from mbrec.prepare.synthetic.parts import File, Written, write_files
from mbrec.prepare.synthetic.world import World

Pipe = tuple[Connection, Connection]  # to receive from and to send to


def write_together(
    world: World, folder: Path, files: list[File], processes: int
) -> Generator[int | Written]:
    """Writes files as `write_files` does, in several processes, and yields what it yields.

    However this ends, by an error here or there or by an interrupt, the processes end as well.

    Raises:
        ChildProcessError: If one of them was killed.
    """
    context = multiprocessing.get_context("spawn")  # safe beside threads, unlike fork
    arrays = folder / ".world"
    world.save(arrays)
    workers: dict[Connection, BaseProcess] = {}
    try:
        for k in range(processes):
            receiving, sending = cast(Pipe, context.Pipe(duplex=False))
            arguments = (world.settings, arrays, folder, files[k::processes], sending)
            process = context.Process(target=_work, args=arguments, daemon=True)
            process.start()
            workers[receiving] = process
            sending.close()  # so that the end of the process is the end of the pipe
        yield from _received(workers)
    finally:
        for receiving, process in workers.items():
            process.terminate()
            process.join()
            receiving.close()
    shutil.rmtree(arrays)


def _received(workers: dict[Connection, BaseProcess]) -> Iterator[int | Written]:
    waiting = dict(workers)
    while waiting:
        for ready in wait(list(waiting)):
            pipe = cast(Connection, ready)
            try:
                message = pipe.recv()
            except EOFError:
                process = waiting.pop(pipe)
                process.join()
                if code := process.exitcode:
                    raise ChildProcessError(
                        f"expected a process that writes rows to finish, got exit code {code}; if "
                        "memory ran short, write with fewer processes"
                    ) from None
                continue
            if isinstance(message, Exception):
                raise message
            yield message


def _work(
    settings: Synthetic, arrays: Path, folder: Path, files: list[File], pipe: Connection
) -> None:
    """Writes files in a process of its own and sends what `write_files` yields, or an error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one decides
    try:
        for part in write_files(World.load(settings, arrays), folder, files):
            pipe.send(part)
    except BrokenPipeError:
        os._exit(1)  # the process that started this one is gone
    except OSError as error:
        pipe.send(error)
    except Exception:
        pipe.send(RuntimeError(f"in a process that writes rows:\n{traceback.format_exc()}"))
