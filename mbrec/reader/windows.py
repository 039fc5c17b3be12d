"""Shuffle buffers: row groups -> windows of rows.

Rows leave a window in random order, so a window must hold rows from many places: the rows of a row
group often belong together (a day, a file, sorted labels).
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mbrec.reader import row_groups
from mbrec.reader.footers import RowGroup

# Of the order of the rows: of all files at once, and of a few at a time.
VERSION = 2
VERSION_OF_MANY_FILES = 3

# Row groups that a window has rows of, at least, where its stream has as many.
MIXED_ROW_GROUPS = 8

# Row groups that are read side by side: each takes the memory of a page per column.
MAX_OPEN_ROW_GROUPS = 16

# Shorter slices would cost more to take than to decode.
MIN_SLICE_ROWS = 256


class Slice(NamedTuple):
    """Rows [start, stop) of a row group.

    Attributes:
        group: the row group.
        start, stop: the rows.
        is_last: whether no later window has rows of this row group.
    """

    group: RowGroup
    start: int
    stop: int
    is_last: bool = True

    @property
    def num_rows(self) -> int:
        """Rows of the slice."""
        return self.stop - self.start


def shuffled(groups: Sequence[RowGroup], random: np.random.Generator) -> list[RowGroup]:
    """Return row groups in random order, those of `MAX_OPEN_FILES` files at a time.

    Rows are read in about that order: a file whose row groups lay anywhere in it would be opened
    for each of them.
    """
    files: dict[str, list[RowGroup]] = {}
    for group in groups:
        files.setdefault(group.file, []).append(group)
    order = np.arange(len(files))
    if has_many_files(groups):
        random.shuffle(order)
    parts = list(files.values())
    found: list[RowGroup] = []
    for some in np.array_split(order, -(-len(files) // row_groups.MAX_OPEN_FILES)):
        mixed = [group for number in some for group in parts[number]]
        found += [mixed[place] for place in random.permutation(len(mixed))]
    return found


def has_many_files(groups: Sequence[RowGroup]) -> bool:
    """Return whether row groups are in more files than are open at a time."""
    return len({group.file for group in groups}) > row_groups.MAX_OPEN_FILES


def plan(spans: Sequence[Slice], size: int) -> Iterator[list[Slice]]:
    """Yield the slices of each window of a stream; together they are the spans, each row once.

    Small row groups fill a window as they are. Large ones are read side by side, up to
    `MAX_OPEN_ROW_GROUPS` of them, and every window takes the next slice of each, in proportion to
    their sizes.

    Args:
        spans: the row groups of the stream in the order of its shuffle, the first and the last
            perhaps in part.
        size: rows of a window, about: it has less than twice as many, or slices of less than
            `2 * MIN_SLICE_ROWS` rows. 0 makes each span a window of its own.
    """
    if not size:
        yield from ([span] for span in spans)
        return
    for bundle in _bundles(spans, size):
        yield from _windows(bundle, size)


def _bundles(spans: Sequence[Slice], size: int) -> list[list[Slice]]:
    """Return consecutive spans whose rows are mixed with each other.

    One that is read side by side, with rows for two windows or more, has at most
    `MAX_OPEN_ROW_GROUPS` spans.
    """
    bundles: list[list[Slice]] = [[]]
    rows = largest = 0
    for span in spans:
        if len(bundles[-1]) >= MAX_OPEN_ROW_GROUPS and rows + span.num_rows >= 2 * size:
            bundles.append([])
            rows = largest = 0
        bundles[-1].append(span)
        rows, largest = rows + span.num_rows, max(largest, span.num_rows)
        if rows >= MIXED_ROW_GROUPS * largest and size <= rows < 2 * size:
            bundles.append([])
            rows = largest = 0
    tail = bundles.pop()
    if bundles and len(tail) < MIXED_ROW_GROUPS:
        # By themselves the last few would not be mixed.
        tail = bundles.pop() + tail
        if len(tail) > MAX_OPEN_ROW_GROUPS and sum(span.num_rows for span in tail) >= 2 * size:
            half = max(len(tail) // 2, len(tail) - MAX_OPEN_ROW_GROUPS)
            bundles.append(tail[:half])
            tail = tail[half:]
    return [*bundles, tail] if tail else bundles


def _windows(bundle: Sequence[Slice], size: int) -> Iterator[list[Slice]]:
    """Yield windows with an equal share of each span."""
    sizes = [span.num_rows for span in bundle]
    count = max(1, min(sum(sizes) // size, max(sizes) // MIN_SLICE_ROWS))
    for number in range(count):
        window = []
        for group, first, last, _ in bundle:
            start = first + (last - first) * number // count
            stop = first + (last - first) * (number + 1) // count
            if start < stop:
                window.append(Slice(group, start, stop, stop == last))
        yield window
