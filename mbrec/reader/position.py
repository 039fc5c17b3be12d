"""Where in the data training stands: which rows of an epoch are still unread.

An epoch starts with S streams, one for each loader worker of each rank, and each has an order of
its own rows that the seed, the epoch and S decide. What is unread later is a few intervals of
those orders; a resumed run, under any number of ranks and workers, shares the intervals out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

VERSION = 2
# That of positions from before they said what the rows hold.
WITHOUT_CONTENT = 1


@dataclass(frozen=True)
class Stretch:
    """Rows [start, stop) of the order of a stream that the epoch started with."""

    stream: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Position:
    """What is unread of an epoch.

    Attributes:
        epoch: its number.
        streams: S, which the orders of the rows belong to.
        unread: for each reader of now, its stretches, in order.
    """

    epoch: int
    streams: int
    unread: tuple[tuple[Stretch, ...], ...]

    @staticmethod
    def start(epoch: int, num_rows: int, streams: int) -> "Position":
        """Return the beginning of an epoch: every stream has all of its rows before it."""
        unread = tuple((Stretch(s, 0, _size(num_rows, s, streams)),) for s in range(streams))
        return Position(epoch, streams, unread)

    @property
    def sizes(self) -> list[int]:
        """Unread rows of each reader."""
        return [sum(map(len, stretches)) for stretches in self.unread]

    def dealt(self, readers: int) -> "Position":
        """Return the same unread rows, dealt to a number of readers, equally many to each."""
        if readers == len(self.unread):
            return self
        rows = [stretch for stretches in self.unread for stretch in stretches]
        total = sum(map(len, rows))
        ends = [total * reader // readers for reader in range(readers + 1)]
        unread = tuple(_cut(rows, a, b) for a, b in pairwise(ends))
        return Position(self.epoch, self.streams, unread)

    def after(self, rows: Sequence[int]) -> "Position":
        """Return the position after each reader has read that many of its rows."""
        pairs = zip(self.unread, rows, self.sizes, strict=True)
        unread = tuple(_cut(s, min(n, size), size) for s, n, size in pairs)
        return Position(self.epoch, self.streams, unread)

    def turned(self, first: Sequence[int]) -> "Position":
        """Return the same unread rows, with a worker of each rank in the place of its first.

        A loader begins with its first worker, and continues in turn.

        Args:
            first: of each rank, the worker to begin with.
        """
        ranks, readers = len(first), len(self.unread)
        places = ((i + first[i % ranks] * ranks) % readers for i in range(readers))
        return Position(self.epoch, self.streams, tuple(self.unread[place] for place in places))

    def plain(self) -> dict[str, Any]:
        """Return it in types that JSON has."""
        unread = [[[s.stream, s.start, s.stop] for s in stretches] for stretches in self.unread]
        return {"epoch": self.epoch, "streams": self.streams, "unread": unread}

    @staticmethod
    def parse(content: Mapping[str, Any], num_rows: int) -> "Position":
        """Return a position that was saved.

        Args:
            content: what `plain` returned.
            num_rows: of the data set.

        Raises:
            ValueError: if it is not a position in a data set of that size.
        """
        try:
            epoch, streams = _count(content["epoch"]), _count(content["streams"])
            unread = tuple(
                tuple(Stretch(*(_count(number) for number in stretch)) for stretch in stretches)
                for stretches in content["unread"]
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"expected a position in the data, got {content!r:.200}") from error
        if not streams or not unread:
            raise ValueError(f"expected a position with streams, got {content!r:.200}")
        taken = sorted((s.stream, s.start, s.stop) for stretches in unread for s in stretches)
        fits = all(s < streams and a <= b <= _size(num_rows, s, streams) for s, a, b in taken)
        pairs = pairwise(taken)
        if not fits or any(s == t and b > c for (s, _, b), (t, c, _) in pairs):
            raise ValueError(
                f"expected a position in {num_rows:,} rows, each of them once, got {content!r:.200}"
            )
        return Position(epoch, streams, unread)


def batches_read(batches: int, available: Sequence[int]) -> list[int]:
    """Return how many batches came from each worker of a rank, after some in all.

    A loader takes from its workers in turn and passes over those that have run out.

    Args:
        batches: taken from the loader.
        available: batches that each worker had.
    """
    low, high = 0, max(available, default=0)
    while low < high:  # the largest number of complete rounds
        middle = (low + high + 1) // 2
        if sum(min(count, middle) for count in available) <= batches:
            low = middle
        else:
            high = middle - 1
    read = [min(count, low) for count in available]
    left = batches - sum(read)
    for worker, count in enumerate(available):
        if left and count > low:
            read[worker], left = read[worker] + 1, left - 1
    return read


def next_worker(read: Sequence[int], available: Sequence[int]) -> int:
    """Return the worker of a rank whose turn it is, after some batches of each."""
    pairs = enumerate(zip(read, available, strict=True))
    return min(((count, worker) for worker, (count, had) in pairs if count < had), default=(0, 0))[
        1
    ]


def num_batches(rows: int, batch_size: int) -> int:
    """Return the batches that a reader makes of its rows."""
    return math.ceil(rows / batch_size)


def _size(num_rows: int, stream: int, streams: int) -> int:
    """Return the rows of a stream."""
    return num_rows * (stream + 1) // streams - num_rows * stream // streams


def _cut(stretches: Sequence[Stretch], start: int, stop: int) -> tuple[Stretch, ...]:
    """Return the rows [start, stop) of the stretches, one after another."""
    kept = []
    for stretch in stretches:
        first, last = max(0, start), min(len(stretch), stop)
        if first < last:
            begin = stretch.start
            kept.append(Stretch(stretch.stream, begin + first, begin + last))
        start, stop = start - len(stretch), stop - len(stretch)
    return tuple(kept)


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise ValueError(f"expected a count, got {value!r}")
    return value
