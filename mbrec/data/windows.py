"""Shuffle buffers: row groups -> windows of rows -> pieces of a batch each."""

from collections.abc import Iterator, Sequence

import numpy as np

from mbrec.data.block import Block
from mbrec.data.preflight import RowGroup

# Rows of a shuffle buffer, and the order in which they leave it.
Window = tuple[Block, np.ndarray]

# A row group, and the rows [start, stop) of it that are meant.
Span = tuple[RowGroup, int, int]


def buffers(spans: Sequence[Span], size: int) -> Iterator[list[Span]]:
    """Yield consecutive spans of at least `size` rows together."""
    buffer: list[Span] = []
    rows = 0
    for span in spans:
        buffer.append(span)
        rows += span[2] - span[1]
        if rows >= size:
            yield buffer
            buffer, rows = [], 0
    if buffer:
        yield buffer


def cut(windows: Iterator[Window], size: int) -> Iterator[list[Window]]:
    """Cut a stream of windows into pieces of `size` rows in all; the last may be shorter."""
    parts: list[Window] = []
    missing = size
    for block, order in windows:
        start = 0
        while len(order) - start >= missing:
            yield [*parts, (block, order[start : start + missing])]
            start, parts, missing = start + missing, [], size
        if start < len(order):
            # Taken now, so that the buffer can go before the next one is read.
            rest = block.take(order[start:])
            parts, missing = [*parts, (rest, np.arange(len(rest)))], missing - len(rest)
    if parts:
        yield parts


def rows(parts: list[Window], start: int, stop: int) -> Block:
    """Return rows [start, stop) of the parts together, in their order."""
    taken = []
    for block, order in parts:
        chosen = order[max(0, start) : max(0, stop)]
        if len(chosen) or not taken:
            taken.append(block.take(chosen))
        start, stop = start - len(order), stop - len(order)
    return Block.concatenate(taken)
