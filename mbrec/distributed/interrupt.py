"""SIGTERM and SIGINT: all ranks stop after the same step, so that it can be saved."""

import itertools
import os
import signal
import socket
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn, Protocol, cast

# A terminal's Ctrl-C reaches each process, and torchrun passes it on at once: one wish, not two.
PATIENCE_S = 2.0

# Several jobs may run in one process group, on every rank in the same order.
_jobs = itertools.count()


class Store(Protocol):
    """What all ranks can read and write; a store of torch.distributed."""

    def check(self, keys: list[str]) -> bool:
        """Return whether all keys are there."""
        ...

    def get(self, key: str) -> bytes:
        """Return the value of a key, once it is there."""
        ...

    def set(self, key: str, value: str) -> None:
        """Set a key."""
        ...

    def compare_set(self, key: str, expected_value: str, desired_value: str) -> bytes:
        """Set a key that is not there; return what it holds then."""
        ...


class Interrupted(Exception):
    """The job was asked to stop, and every rank has stopped after the same step."""


class Interrupt:
    """A wish to stop that any rank may have, and all ranks follow after the same tick.

    The first rank with the wish writes into the store at which tick to stop: a few ticks on, which
    no rank can have passed, since every step waits for all ranks. Looking there costs a fiftieth of
    what a collective does.

    A rank that waits for a batch which does not come reaches no tick. It asks `wished`, and all
    ranks stop before that batch: see `mbrec.distributed.lockstep.Lockstep`.

    Args:
        store: of the process group; None where there is one rank.

    Attributes:
        store: of the process group of the job; see `renew`.
    """

    def __init__(self, store: Store | None = None) -> None:
        self.store = store
        self._key = f"interrupt/{next(_jobs)}"
        self._renewed = 0
        self._tick = 0
        self._reason: str | None = None
        self._heard = False
        self._since = 0.0
        self._agreed: tuple[int, str] | None = None

    @property
    def wish(self) -> str:
        """Why this rank would stop; empty where it would not."""
        return self._reason or ""

    @property
    def stopping(self) -> bool:
        """Whether this rank knows of a wish to stop, its own or another one's."""
        return self._heard or self._reason is not None or self._agreed is not None

    def wished(self) -> bool:
        """Return whether any rank wishes to stop; for a rank that waits for something."""
        if not self.stopping and self.store is not None:
            self._heard = self.store.check([self._wish_key])
        return self.stopping

    def renew(self, store: Store | None) -> None:
        """Begin another job, in another process group; a wish that was not followed is kept.

        Args:
            store: of that group; None where there is one rank.
        """
        self.store, self._tick, self._agreed, self._heard = store, 0, None, False
        self._renewed += 1
        self._key = f"{self._key.partition(' ')[0]} {self._renewed}"
        if self._reason is not None and store is not None:
            store.set(self._wish_key, self._reason)

    def request(self, reason: str) -> None:
        """Ask all ranks to stop; may be called from a signal handler or another thread."""
        self._reason = self._reason or reason

    def check(self, margin: int = 2) -> None:
        """Count a tick; every rank calls it between the same steps.

        Args:
            margin: ticks that another rank can be ahead of this one, and one more.

        Raises:
            Interrupted: on every rank at the same tick.
        """
        self._tick += 1
        if self.store is None:
            if self._reason is not None:
                raise Interrupted(self._reason)
            return
        if self._agreed is None:
            if self._reason is not None:
                wish = f"{self._tick + margin} {self._reason}"
                self._agreed = _parse(self.store.compare_set(self._key, "", wish))
            elif self.store.check([self._key]):
                self._agreed = _parse(self.store.get(self._key))
        if self._agreed is not None and self._tick >= self._agreed[0]:
            raise Interrupted(self._agreed[1])

    def stop(self) -> NoReturn:
        """Stop here; every rank calls it between the same steps.

        Raises:
            Interrupted: always.
        """
        if self._reason is None and self.store is not None and self.store.check([self._wish_key]):
            raise Interrupted(self.store.get(self._wish_key).decode())
        raise Interrupted(self._reason or "another rank's wish")

    def install(self) -> None:
        """Take SIGTERM and SIGINT as wishes; a second one, a while later, ends at once.

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
                # A process that has others is told of their ends in the same way.
                if number in (signal.SIGTERM, signal.SIGINT):
                    self._receive(number)

    def _receive(self, number: int) -> None:
        now = time.monotonic()
        if self._since and now - self._since > PATIENCE_S:
            os._exit(128 + number)
        self._since = self._since or now
        self.request(signal.Signals(number).name)
        if (store := self.store) is not None:
            with suppress(RuntimeError):  # the main thread meets a store that is gone
                # The main thread may be using its own connection, or waiting for an answer.
                own: Store = cast(Any, store).clone()  # torch's type stubs lack it
                own.set(self._wish_key, self.wish)

    @property
    def _wish_key(self) -> str:
        return f"{self._key} wish"


def _parse(value: bytes) -> tuple[int, str]:
    tick, _, reason = value.decode().partition(" ")
    return int(tick), reason
