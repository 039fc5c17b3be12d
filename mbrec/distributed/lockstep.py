"""Ranks in lockstep: all of them take the same number of batches.

Shapes: K tasks.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from mbrec.balance.backward.ranks import start_sum

# Batches that the ranks vote on at a time; no more than a loader reads ahead.
VOTED_BATCHES = 4


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

    The ranks tell each other which of their next batches they have, and how many unmasked
    samples and positive labels each holds: one small collective on the CPU for a few batches, which
    runs ahead, so that nobody waits for it. A rank without a batch gets one of padding; no row is
    lost, no rank waits for one that has left. Each batch goes on with the global counts.

    A rank whose reader stalls when the job is asked to stop votes for it, and all ranks stop before
    the same batch.

    Args:
        batches: this rank's batches.
        padding: makes a batch of padding rows.
        limit: stop after that many batches, on every rank the same.

    Attributes:
        exhausted: True once no rank has a batch left; False after a stop at the limit.
        stopped: True once the job was asked to stop and a rank's next batch does not come.
    """

    def __init__(
        self,
        batches: Iterator[B],
        padding: Callable[[], B],
        *,
        limit: int | None = None,
    ) -> None:
        self._batches = batches
        self._padding = padding
        self._left = limit
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
        have_n = torch.arange(size) < len(found)
        stop_n = ~have_n & self._stalled
        votes_n2 = torch.stack([stop_n, have_n], dim=1).double()
        counts_nK = torch.stack([batch.counts_K for batch in batches])
        positives_nK = torch.stack([batch.positives_K for batch in batches])
        told = torch.cat([votes_n2, counts_nK, positives_nK], dim=1)
        return batches, start_sum(told.flatten())

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
