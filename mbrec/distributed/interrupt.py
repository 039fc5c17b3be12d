"""SIGTERM and SIGINT: all ranks stop after the same step, so that it can be saved."""

import os
import signal
import socket
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, cast

if TYPE_CHECKING:  # signals are handled before torch, which takes seconds to import
    from torch._C._distributed_c10d import Store

# A terminal's Ctrl-C reaches each process, and torchrun passes it on at once: one request, not two.
PATIENCE_S = 2.0
KEY = "interrupt"


class Interrupted(Exception):
    """The job was asked to stop, and every rank has stopped after the same step."""


class Interrupt:
    """A request to stop, which any rank may get.

    The ranks learn of it in the votes of `mbrec.distributed.lockstep.Lockstep`, and stop before the
    same batch. A rank that waits for a batch, and comes to no vote, finds it in the store.

    Args:
        store: of the job; None where there is one rank.

    Attributes:
        reason: why this rank stops, or would; empty without a request.
    """

    def __init__(self, store: "Store | None" = None) -> None:
        self._store = store
        self._first_signal = 0.0
        self.reason = ""

    def join(self, store: "Store | None") -> None:
        """Begin another job; a request that came before it is kept."""
        self._store = store

    def request(self, reason: str) -> None:
        """Ask all ranks to stop; may be called from a signal handler or another thread."""
        self.reason = self.reason or reason

    def vote(self) -> bool:
        """Return whether this rank was asked to stop, once the other ranks can read why."""
        if self.reason and self._store is not None:
            self._store.compare_set(KEY, "", self.reason)  # the first reason stays
        return bool(self.reason)

    def requested(self) -> bool:
        """Return whether any rank was asked to stop; for a rank that waits for something."""
        if not self.reason and self._store is not None and self._store.check([KEY]):
            self.reason = self._store.get(KEY).decode()
        return bool(self.reason)

    def stop(self) -> NoReturn:
        """Stop here, on every rank, after a vote to stop.

        Raises:
            Interrupted: always, with the same reason on every rank.
        """
        if self._store is not None:
            self.reason = self._store.get(KEY).decode()
        raise Interrupted(self.reason)

    def install(self) -> None:
        """Take SIGTERM and SIGINT as requests; a second one, a while later, ends at once.

        Python handles a signal when the main thread runs Python, which a collective that waits for
        another rank may keep it from. So a thread receives the signals as well.
        """
        receiver, sender = socket.socketpair()
        sender.setblocking(False)
        threading.Thread(target=self._listen, args=[receiver], name="signals", daemon=True).start()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)
        signal.set_wakeup_fd(sender.detach(), warn_on_full_buffer=False)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.request(signal.Signals(number).name)

    def _listen(self, receiver: socket.socket) -> None:
        while numbers := receiver.recv(64):
            for number in numbers:
                # The ends of other processes arrive in the same way.
                if number in (signal.SIGTERM, signal.SIGINT):
                    self._receive(number)

    def _receive(self, number: int) -> None:
        now = time.monotonic()
        if self._first_signal and now - self._first_signal > PATIENCE_S:
            os._exit(128 + number)
        self._first_signal = self._first_signal or now
        self.request(signal.Signals(number).name)
        if (store := self._store) is not None:
            with suppress(RuntimeError):  # the main thread meets a store that is gone
                # The main thread may be using its own connection, or waiting for an answer.
                own: Store = cast(Any, store).clone()  # torch's type stubs lack it
                own.compare_set(KEY, "", self.reason)
