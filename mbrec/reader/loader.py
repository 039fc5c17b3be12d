"""Runs a reader ahead of training: a thread, or worker processes."""

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader

from mbrec.distributed.lockstep import Stalled
from mbrec.reader import workers
from mbrec.reader.batch import Batch
from mbrec.reader.parquet import ParquetReader

PREFETCHED_BATCHES = 4
POLL_S = 0.2
# For a read that is under way when its batches are no longer wanted.
LAST_READ_S = 10.0


class StopRequest(Protocol):
    """A request to stop; see `mbrec.distributed.interrupt.Interrupt`."""

    @property
    def reason(self) -> str:
        """Why this rank stops; empty without a request that it knows of."""
        ...

    def requested(self) -> bool:
        """Return whether any rank was asked to stop."""
        ...


class Loader:
    """Iterates over a reader's batches, a few of them ahead of the trainer.

    Args:
        reader: yields ready batches.
        num_workers: reader processes of this rank; 0 reads in a thread, which is the faster of
            the two where cores are few.
        pin_memory: put batches into page-locked memory, for copies to a GPU.
        interrupt: checked while a batch does not come.
    """

    def __init__(
        self,
        reader: ParquetReader,
        *,
        num_workers: int = 0,
        pin_memory: bool = False,
        interrupt: StopRequest | None = None,
    ) -> None:
        self.reader = reader
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self._interrupt = interrupt

    def state(self, batches: int) -> dict[str, Any]:
        """Return the position after some batches of the iteration; see `ParquetReader.state`."""
        return self.reader.state(batches, self.num_workers)

    def __iter__(self) -> Generator[Batch]:
        if not self.num_workers:
            return prefetch(
                iter(self.reader), pin_memory=self.pin_memory, interrupt=self._interrupt
            )
        failures = workers.Failures()
        try:
            batches = iter(
                DataLoader(
                    self.reader,
                    batch_size=None,
                    num_workers=self.num_workers,
                    prefetch_factor=PREFETCHED_BATCHES,
                    worker_init_fn=failures.prepare_worker,
                    # It draws a seed for its workers each time. From the generator of training,
                    # that would shift what dropout draws in a run that was resumed.
                    generator=torch.Generator(),
                )
            )
        except OSError as error:  # its queues are in shared memory as well
            raise OSError(workers.lost(error)) from error
        return prefetch(
            batches,
            pin_memory=self.pin_memory,
            interrupt=self._interrupt,
            look=failures.raise_reported,
        )


class _Failure:
    def __init__(self, error: BaseException) -> None:
        self.error = error


def prefetch(
    batches: Iterator[Batch],
    *,
    depth: int = PREFETCHED_BATCHES,
    pin_memory: bool = False,
    interrupt: StopRequest | None = None,
    look: Callable[[], None] = lambda: None,
) -> Generator[Batch]:
    """Yield the batches, read ahead by a thread; its errors are raised here.

    Leaving the iterator early (closing it) stops the thread. It is not waited for where a job is
    to stop: a read that stalls must not keep the job from being saved.

    Args:
        batches: to read.
        depth: how many are read ahead.
        pin_memory: put them into page-locked memory.
        interrupt: checked while no batch comes.
        look: called meanwhile and before each batch; raises what the thread cannot notice.

    Raises:
        Stalled: if no batch comes, and the job is asked to stop.
    """
    ready: queue.Queue[Batch | _Failure | None] = queue.Queue(depth)
    stop = threading.Event()
    arguments = (batches, ready, stop, pin_memory)
    thread = threading.Thread(target=_fill, args=arguments, name="prefetch", daemon=True)
    thread.start()
    # What an iterator holds, such as processes, is released where it may take its time.
    del batches, arguments
    try:
        while (item := _next(ready, interrupt, look)) is not None:
            if isinstance(item, _Failure):
                raise item.error
            yield item
    finally:
        stop.set()
        thread.join(0.0 if interrupt is not None and interrupt.reason else LAST_READ_S)


def _next(
    ready: "queue.Queue[Batch | _Failure | None]",
    interrupt: StopRequest | None,
    look: Callable[[], None],
) -> Batch | _Failure | None:
    while True:
        try:
            item = ready.get(timeout=POLL_S)
        except queue.Empty:
            look()
            if interrupt is not None and interrupt.requested():
                raise Stalled from None
        else:
            # A batch that was lost is passed over in silence once its worker has ended.
            look()
            return item


def _fill(
    batches: Iterator[Batch],
    ready: "queue.Queue[Batch | _Failure | None]",
    stop: threading.Event,
    pin_memory: bool,
) -> None:
    def put(item: Batch | _Failure | None) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    try:
        for batch in batches:
            if not put(batch.pin_memory() if pin_memory else batch):
                return
        put(None)
    except BaseException as error:  # raised again in the caller's thread
        put(_Failure(error))
