"""Columns that give a label away because they are known only after it.

Each column is judged alone, on the sampled rows, by how well it tells a label.

Shapes: n sampled rows, L levels (different values) of a column; the last level is a missing value.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from mbrec.prepare.describe.labels import Label
from mbrec.prepare.describe.scan import is_list, is_text

# AUC of a single column from which it is left out or marked, and how large the lower end of its
# interval has to be: with few positive rows, an AUC may be that high by chance.
LEFT_OUT, MARKED = (0.95, 0.90), (0.85, 0.75)
FEW = 20  # positives or negatives, in all or in a half, that show nothing
# A column is an effect of a label if it has a value in enough rows, not in most, and the label is 1
# in all but a few of these, which would be as unlikely as this if they were others.
_ENOUGH, _MOST, _PURE, _UNLIKELY = FEW, 0.9, 0.999, 1e-9
# An id may tell a label that only a few ids ever have: those of some robots, say.
_MANY_LEVELS = 200
# Rates are fitted on one half of the rows and scored on the other. Halves are made of blocks, so
# that neighbouring rows, which may belong together, are seldom in both.
_BLOCKS = 64
_PRIOR_ROWS = 1.0  # weight of the mean rate in a level's rate
_BINS = 100  # of a number with many values, for its rates
_DEVIATIONS = 2.0  # from an AUC to its lower bound


@dataclass
class Levels:
    """A column's values in the sampled rows, as numbers of its different values.

    Attributes:
        codes: int64 (n); a missing value has the last.
        is_ordered: whether codes rise with the values.
        blank: bool (L), which levels stand for nothing: missing, zero, and the empty text.
        bins: int64 (L), the level with which a level's rate is counted.
    """

    codes: np.ndarray
    is_ordered: bool
    blank: np.ndarray
    bins: np.ndarray


@dataclass(frozen=True)
class Evidence:
    """How well a column tells a label.

    Attributes:
        auc: the best one found, of the column's order (either direction, missing values at either
            end) and of rates by level, which are fitted out of sample.
        low: the lower end of its interval, at two standard errors.
        levels: number of the column's values that have rates; numbers have bins.
        spread: how many of them the positive rows are spread over: 1 / (sum of squared shares).
    """

    auc: float
    low: float
    levels: int
    spread: float

    def reaches(self, limit: tuple[float, float]) -> bool:
        """Whether the AUC and the lower end of its interval reach a limit."""
        return self.auc >= limit[0] and self.low >= limit[1]


def find_leak(
    column: pa.ChunkedArray, labels: Sequence[Label], *, is_number: bool
) -> tuple[str, bool] | None:
    """Return why a column of the sample tells a label too well, and whether that is certain."""
    levels = read_levels(column.combine_chunks(), binned=is_number)
    found: list[tuple[Evidence, Label]] = []
    for label, one in itertools.product(labels, levels):
        rows, purity, blank = only_with(one, label.positive)
        enough = _ENOUGH <= rows <= _MOST * len(one.codes)
        if enough and purity >= _PURE and label.positive.mean() ** rows <= _UNLIKELY:
            described = "filled in" if blank else "other than its usual value"
            reason = f"{described} only where {_is_one(label)}: an effect of it, known afterwards"
            return reason, True
        evidence = judge(one, label.positive)
        if evidence and evidence.reaches(MARKED):
            found.append((evidence, label))
    if not found:
        return None
    best, label = max(found, key=lambda pair: (pair[0].reaches(LEFT_OUT), pair[0].auc))
    reason = f"alone it tells where {_is_one(label)} with an AUC of {best.auc:.3f}"
    is_spread = best.levels <= _MANY_LEVELS or best.spread >= FEW
    if is_spread and best.reaches(LEFT_OUT):
        return f"{reason}: probably known afterwards", True
    return f"LEAK? {reason}; is it known before?", False


def untested(label: Label) -> str:
    """Return why no column was tested for giving a label away; an empty text if some were."""
    positives = int(label.positive.sum())
    if min(positives, len(label.positive) - positives) >= FEW:
        return ""
    return f"too few of its rows to test features for leaks ({positives:,} positive)"


def read_levels(array: pa.Array, *, binned: bool) -> list[Levels]:
    """Return the levels of a column; of lists, those of their lengths and of their first values.

    Args:
        array: of numbers, booleans, strings, or lists of these.
        binned: whether it is a number, whose neighbouring values mean much the same.
    """
    if not is_list(array.type):
        return [_levels(array, binned)]
    lengths = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    first = array.flatten().take(pa.array(starts, mask=lengths == 0))
    return [_levels(pa.array(lengths), binned=True), _levels(first, binned=False)]


def judge(levels: Levels, positive: np.ndarray) -> Evidence | None:
    """Return how well a column tells a label, bool (n), or None if too few rows show it."""
    count = len(levels.bins)
    halves = np.arange(len(positive)) * _BLOCKS // max(len(positive), 1) % 2
    keys = levels.codes + count * halves
    all_2L = np.bincount(keys, minlength=2 * count).reshape(2, -1)
    pos_2L = np.bincount(keys[positive], minlength=2 * count).reshape(2, -1)
    neg_2L = all_2L - pos_2L
    pos_L, neg_L = pos_2L.sum(axis=0), neg_2L.sum(axis=0)
    positives, negatives = int(pos_L.sum()), int(neg_L.sum())
    if min(positives, negatives) < FEW:
        return None
    auc = _auc_of_rates(levels, pos_2L, neg_2L)
    if levels.is_ordered:
        # A missing value is the highest, or the lowest.
        for pos, neg in ((pos_L, neg_L), (np.roll(pos_L, 1), np.roll(neg_L, 1))):
            auc = max(auc, _auc(pos, neg), 1 - _auc(pos, neg))
    shares = np.bincount(levels.bins, pos_L) / positives
    spread = 1 / float(np.square(shares).sum())
    return Evidence(auc, auc_bound(auc, positives, negatives), len(np.unique(levels.bins)), spread)


def only_with(levels: Levels, positive: np.ndarray) -> tuple[int, float, bool]:
    """Return in how many rows a column has a value, and in what share of these a label is 1.

    It has none where it is blank, or where it has the usual value, which most rows have whose label
    is 0; the third value is whether that one is blank, too.
    """
    rows_L = np.bincount(levels.codes, minlength=len(levels.bins))
    pos_L = np.bincount(levels.codes[positive], minlength=len(levels.bins))
    usual = int((rows_L - pos_L).argmax())
    has_value = ~levels.blank
    has_value[usual] = False
    rows = int(rows_L[has_value].sum())
    return rows, float(pos_L[has_value].sum()) / max(rows, 1), bool(levels.blank[usual])


def auc_bound(auc: float, positives: int, negatives: int) -> float:
    """Return a lower bound of an AUC, by the standard error of Hanley and McNeil (1982).

    The AUC is first moved a little towards a half, or a perfect one would have no error.
    """
    few = min(positives, negatives)
    a = (auc * few + 0.5) / (few + 1)
    both_positives, both_negatives = a / (2 - a), 2 * a * a / (1 + a)
    variance = a * (1 - a) + (positives - 1) * (both_positives - a * a)
    variance += (negatives - 1) * (both_negatives - a * a)
    return a - _DEVIATIONS * math.sqrt(max(variance, 0.0) / (positives * negatives))


def _is_one(label: Label) -> str:
    return f"{label.column} is 1" if label.is_plain else label.outcome


def _levels(array: pa.Array, binned: bool) -> Levels:
    if is_text(array.type):
        encoded = array.dictionary_encode()
        count = len(encoded.dictionary)
        codes = encoded.indices.fill_null(count).to_numpy(zero_copy_only=False).astype(np.int64)
        blank = pc.call_function("equal", [encoded.dictionary, pa.scalar("", array.type)])
        blank = blank.to_numpy(zero_copy_only=False).astype(bool)
        return Levels(codes, False, np.append(blank, True), np.arange(count + 1))
    array = array.cast(pa.int8()) if pt.is_boolean(array.type) else array
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    values = array.drop_null().to_numpy(zero_copy_only=False)
    if pt.is_floating(array.type):
        numbers = ~np.isnan(values)
        valid[valid], values = numbers, values[numbers]
    different, places, rows = np.unique(values, return_inverse=True, return_counts=True)
    count = len(different)
    codes = np.full(len(array), count, np.int64)
    codes[valid] = places
    bins = np.arange(count + 1)
    if binned and count > _BINS:
        bins = np.append((np.cumsum(rows) - rows) * _BINS // len(values), _BINS)
    return Levels(codes, True, np.append(different == 0, True), bins)


def _auc_of_rates(levels: Levels, pos_2L: np.ndarray, neg_2L: np.ndarray) -> float:
    """Return the AUC of the rates by level, each half scored with the rates of the other."""
    total, weight = 0.0, 0
    for scored in (0, 1):
        pos_L, neg_L = (
            np.bincount(levels.bins, counts, minlength=len(levels.bins))
            for counts in (pos_2L[1 - scored], neg_2L[1 - scored])
        )
        if min(pos_L.sum(), neg_L.sum(), pos_2L[scored].sum(), neg_2L[scored].sum()) < FEW // 2:
            return 0.5
        prior = pos_L.sum() / (pos_L.sum() + neg_L.sum())
        rates = (pos_L + _PRIOR_ROWS * prior) / (pos_L + neg_L + _PRIOR_ROWS)
        ranks = np.unique(rates, return_inverse=True)[1][levels.bins]
        positives = int(pos_2L[scored].sum())
        counts = [np.bincount(ranks, c[scored]) for c in (pos_2L, neg_2L)]
        total, weight = total + positives * _auc(*counts), weight + positives
    return total / weight


def _auc(pos_L: np.ndarray, neg_L: np.ndarray) -> float:
    """Return the chance that a positive row has a higher level than a negative one."""
    below = np.cumsum(neg_L) - neg_L
    return float((pos_L * (below + neg_L / 2)).sum() / (pos_L.sum() * neg_L.sum()))
