"""Runs a reader ahead of training: a thread, or worker processes."""

import os
import queue
import signal
import threading
from collections.abc import Generator, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from mbrec.data.batch import Batch
from mbrec.data.parquet import ParquetReader

PREFETCHED_BATCHES = 4


class Loader:
    """Iterates over a reader's batches, a few of them ahead of the trainer.

    Args:
        reader: yields ready batches.
        num_workers: reader processes of this rank; 0 reads in a thread, which is the faster of
            the two where cores are few.
        pin_memory: put batches into page-locked memory, for copies to a GPU.
    """

    def __init__(
        self, reader: ParquetReader, *, num_workers: int = 0, pin_memory: bool = False
    ) -> None:
        self.reader = reader
        self.num_workers = num_workers
        self.pin_memory = pin_memory

    def state(self, batches: int) -> dict[str, Any]:
        """Return the position after some batches of the iteration; see `ParquetReader.state`."""
        return self.reader.state(batches, self.num_workers)

    def __iter__(self) -> Generator[Batch]:
        if self.num_workers:
            loader = DataLoader(
                self.reader,
                batch_size=None,
                num_workers=self.num_workers,
                prefetch_factor=PREFETCHED_BATCHES,
                worker_init_fn=obey_parent_alone,
                # It draws a seed for its workers each time. From the generator of training, that
                # would shift what dropout draws in a run that was resumed.
                generator=torch.Generator(),
            )
            return prefetch(iter(loader), pin_memory=self.pin_memory)
        return prefetch(iter(self.reader), pin_memory=self.pin_memory)


def obey_parent_alone(worker: int) -> None:
    """Let a reader process end when its rank says so or has died, and on no other signal.

    A scheduler and a terminal signal every process of a job; a rank that is to save itself still
    needs its readers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_wait_for_parent, args=[os.getppid()], daemon=True).start()


def _wait_for_parent(parent: int) -> None:
    while os.getppid() == parent:
        found = signal.sigtimedwait({signal.SIGTERM}, 1.0)
        if found is not None and found.si_pid == parent:
            os._exit(0)
    os._exit(1)


class _Failure:
    def __init__(self, error: BaseException) -> None:
        self.error = error


def prefetch(
    batches: Iterator[Batch], *, depth: int = PREFETCHED_BATCHES, pin_memory: bool = False
) -> Generator[Batch]:
    """Yield the batches, read ahead by a thread; its errors are raised here.

    Leaving the iterator early (closing it) stops the thread.
    """
    ready: queue.Queue[Batch | _Failure | None] = queue.Queue(depth)
    stop = threading.Event()

    def put(item: Batch | _Failure | None) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def fill() -> None:
        try:
            for batch in batches:
                if not put(batch.pin_memory() if pin_memory else batch):
                    return
            put(None)
        except BaseException as error:  # raised again in the caller's thread
            put(_Failure(error))

    thread = threading.Thread(target=fill, name="prefetch", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, _Failure):
                raise item.error
            yield item
    finally:
        stop.set()
        thread.join()
