"""Finds rows that were seen before, anywhere in a data set, in 16 bytes of memory per row."""

from typing import Literal

import numpy as np
import pyarrow as pa

from mbrec.columns.hashing import Hashes, hash_rows

# A run is merged into the one before it once that is at most this many times as long. Larger values
# copy more and search less.
_RATIO = 8

# Rows by their two hashes, in the order of the first.
_Run = tuple[Hashes, Hashes]

# The policy for rows that equal an earlier one: all kept, all but the first dropped, or dropped
# as long as they are few. Many equal rows are rather events that look alike than repetitions.
Policy = Literal["keep", "drop", "few"]
MOST_DROPPED = 0.01  # share of the rows that `few` drops


class Duplicates:
    """Keeps the first of all rows that are equal in every column.

    Nulls equal nulls and NaN equals NaN. Rows are compared by 128 bits of hashes: among 10 billion
    different rows, the chance that any is taken for another is below 1e-18.

    Attributes:
        rows: rows seen so far.
        dropped: of these, the rows that were dropped.
    """

    def __init__(self) -> None:
        self.rows = self.dropped = 0
        self._runs: list[_Run] = []

    def drop(self, table: pa.Table) -> pa.Table:
        """Return a table without the rows that were in it, or in an earlier one, before."""
        self.rows += len(table)
        run, rows = _first_of_equals(*hash_rows(table))
        new = np.ones(len(rows), bool)
        for other in self._runs:
            new &= ~_are_in(run, other)
        if not new.all():
            run, rows = (run[0][new], run[1][new]), rows[new]
        self._add(run)
        if len(rows) == len(table):
            return table
        self.dropped += len(table) - len(rows)
        kept = np.zeros(len(table), bool)
        kept[rows] = True
        return table.filter(pa.array(kept))

    @property
    def are_few(self) -> bool:
        """Whether they are no more than may be dropped without being asked for."""
        return self.dropped <= MOST_DROPPED * self.rows

    def _add(self, run: _Run) -> None:
        if not len(run[0]):
            return
        self._runs.append(run)
        while len(self._runs) > 1 and len(self._runs[-2][0]) <= _RATIO * len(self._runs[-1][0]):
            last = self._runs.pop()
            self._runs[-1] = _merge(self._runs[-1], last)


def percent(part: int, whole: int) -> str:
    """Return a share of rows for people; one that is not zero never reads as zero.

    >>> percent(9_988, 10_000), percent(1, 3_001), percent(1, 10**9)
    ('99.88%', '0.03%', '<0.01%')
    """
    share = 100 * part / max(whole, 1)
    return f"{share:.2f}%" if share >= 0.01 or not part else "<0.01%"


def _first_of_equals(first: Hashes, second: Hashes) -> tuple[_Run, np.ndarray]:
    """Return the different rows, sorted, and the position of the first of each."""
    order = np.argsort(first)
    if (np.diff(first[order]) == 0).any():
        order = np.lexsort((second, first))  # stable: of equals, the first stays the first
        alike = (np.diff(first[order]) == 0) & (np.diff(second[order]) == 0)
        order = order[np.append(True, ~alike)]
    return (first[order], second[order]), order


def _are_in(run: _Run, other: _Run) -> np.ndarray:
    """Return which rows of a run are in another."""
    found = np.zeros(len(run[0]), bool)
    at = np.searchsorted(other[0], run[0])
    rows = np.arange(len(at))
    # More than one turn only where different rows share their first hash.
    while len(rows):
        rows = rows[at[rows] < len(other[0])]
        rows = rows[other[0][at[rows]] == run[0][rows]]
        equal = other[1][at[rows]] == run[1][rows]
        found[rows[equal]] = True
        rows = rows[~equal]
        at[rows] += 1
    return found


def _merge(one: _Run, other: _Run) -> _Run:
    at = np.searchsorted(one[0], other[0])
    return np.insert(one[0], at, other[0]), np.insert(one[1], at, other[1])
