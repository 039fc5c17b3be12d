"""What happens inside a reader process: whom it obeys, and what it does with a lost batch."""

import multiprocessing
import multiprocessing.queues
import os
import signal
import threading
from dataclasses import fields, is_dataclass
from typing import Any

SHARED_MEMORY = "/dev/shm"
# A pipe takes so many bytes at once, whole, from several processes.
_REPORT_BYTES = 2000


class Failures:
    """What reader processes could not send to their rank."""

    def __init__(self) -> None:
        self._receiver, self._sender = multiprocessing.Pipe(duplex=False)

    def prepare_worker(self, worker: int) -> None:
        """Make this reader process obey its rank alone, and report a batch that it cannot send.

        Args:
            worker: number of this process.
        """
        obey_parent_alone()

        def report(error: Exception, item: Any) -> None:
            self._sender.send_bytes(lost(error, item).encode()[:_REPORT_BYTES])

        # The queue's thread would print the error and forget the batch: the rank would wait for it
        # without end, or pass it over once the process has ended.
        queue: Any = multiprocessing.queues.Queue
        queue._on_queue_feeder_error = staticmethod(report)

    def raise_reported(self) -> None:
        """Raise what a process has reported.

        Raises:
            OSError: if a batch is lost.
        """
        if self._receiver.poll():
            raise OSError(self._receiver.recv_bytes().decode(errors="replace"))


def obey_parent_alone() -> None:
    """Let a reader process end when its rank says so or has died, and on no other signal.

    A scheduler and a terminal signal every process of a job; a rank that is to save itself still
    needs its readers.
    """
    # It is the rank's, which would take a signal of this process for its own.
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_wait_for_parent, args=[os.getppid()], daemon=True).start()


def lost(error: Exception, item: Any = None) -> str:
    """Return why a batch could not be sent to another process, and what helps.

    Args:
        error: of the sending.
        item: the number of the batch and the batch.
    """
    size = sum(_bytes_of(part) for part in item) if isinstance(item, tuple) else 0
    batch = f"a batch of {size:,} bytes" if size else "a batch"
    return (
        f"expected to send {batch} from a reader process through shared memory, got: {error}"
        f"{_shared_memory()}; give the container more (docker run --shm-size 8g), or set "
        "data.num_workers=0"
    )


def _shared_memory() -> str:
    try:
        found = os.statvfs(SHARED_MEMORY)
    except OSError:
        return ""
    free, size = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    return f"; {SHARED_MEMORY} has {free:,} of {size:,} bytes free"


def _bytes_of(part: Any) -> int:
    if is_dataclass(part):
        return sum(_bytes_of(getattr(part, field.name)) for field in fields(part))
    if hasattr(part, "lengths_or_none"):  # a KeyedJaggedTensor
        return part.values().nbytes + part.lengths().nbytes
    return getattr(part, "nbytes", 0)


def _wait_for_parent(parent: int) -> None:
    while os.getppid() == parent:
        found = signal.sigtimedwait({signal.SIGTERM}, 1.0)
        if found is not None and found.si_pid == parent:
            os._exit(0)
    os._exit(1)
