"""Ranks in lockstep: all of them take the same number of batches.

Shapes: K tasks.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from mbrec.balance.backward.ranks import start_sum
from mbrec.distributed.interrupt import Interrupt

# Batches that the ranks vote on at a time. A request to stop waits for two votes at most.
VOTED_BATCHES = 2


class Stalled(Exception):
    """No batch has come, and the job is asked to stop: it stops without one."""


class _Counted(Protocol):
    """A batch, as far as the ranks must agree on it."""

    @property
    def counts_K(self) -> Tensor: ...
    @property
    def positives_K(self) -> Tensor: ...


B = TypeVar("B", bound=_Counted)


class Lockstep(Generic[B]):
    """Iterates over this rank's batches until the last rank has run out of them.

    The ranks tell each other whether they were asked to stop, which of their next batches they
    have, and how many unmasked samples and positive labels each holds: one small collective on the
    CPU for a few batches, which runs ahead, so that no rank waits for it. A rank without a batch
    gets one of padding; no row is lost, no rank waits for one that has left. Each batch is yielded
    with the global counts. All ranks stop before the same batch, however one was asked to.

    Args:
        batches: this rank's batches.
        padding: makes a batch of padding rows.
        limit: stop after that many batches, on every rank the same.
        interrupt: the request to stop; None where none may come.

    Attributes:
        exhausted: True once no rank has a batch left; False after a stop at the limit.
        stopped: True once a rank was asked to stop; the batches voted on with that are dropped.
    """

    def __init__(
        self,
        batches: Iterator[B],
        padding: Callable[[], B],
        *,
        limit: int | None = None,
        interrupt: Interrupt | None = None,
    ) -> None:
        self._batches = batches
        self._padding = padding
        self._left = limit
        self._interrupt = interrupt
        self._ready: deque[B] = deque()
        self._voted: tuple[list[B], Callable[[], torch.Tensor]] | None = None
        self._stalled = False
        self.exhausted = self.stopped = False

    def __iter__(self) -> "Lockstep[B]":
        return self

    def __next__(self) -> B:
        if not self._ready:
            self._take()
        if not self._ready:
            raise StopIteration
        return self._ready.popleft()

    def _take(self) -> None:
        voted = self._voted or self._vote()
        if voted is None:
            return
        # The next vote starts before the answer to this one is read.
        self._voted = self._vote()
        batches, answer = voted
        for batch, row in zip(batches, answer().view(len(batches), -1), strict=True):
            stop, have = row[:2].tolist()
            self.stopped = stop > 0
            self.exhausted = not have and not stop
            if self.stopped or self.exhausted:
                break
            counts_K, positives_K = row[2:].chunk(2)
            batch.counts_K.copy_(counts_K)
            batch.positives_K.copy_(positives_K)
            self._ready.append(batch)
        if (self.stopped or self.exhausted) and self._voted is not None:
            self._voted[1]()  # every rank voted once more; no answer may be left behind
            self._voted, self._left = None, 0

    def _vote(self) -> tuple[list[B], Callable[[], torch.Tensor]] | None:
        size = VOTED_BATCHES if self._left is None else min(VOTED_BATCHES, self._left)
        if self.exhausted or self.stopped or not size:
            return None
        if self._left is not None:
            self._left -= size
        found = self._read(size)
        batches = found + [self._padding() for _ in range(size - len(found))]
        stop = self._stalled or (self._interrupt is not None and self._interrupt.vote())
        have_n = torch.arange(size) < len(found)
        votes_n2 = torch.stack([torch.full((size,), stop), have_n], dim=1).double()
        counts_nK = torch.stack([batch.counts_K for batch in batches])
        positives_nK = torch.stack([batch.positives_K for batch in batches])
        vote = torch.cat([votes_n2, counts_nK, positives_nK], dim=1)
        return batches, start_sum(vote.flatten())

    def _read(self, size: int) -> list[B]:
        """Return the next batches; fewer at the end, or if the reader stalls at a stop."""
        found: list[B] = []
        try:
            while not self._stalled and len(found) < size:
                found.append(next(self._batches))
        except StopIteration:
            pass
        except Stalled:
            self._stalled = True
        return found
