"""How well one column alone tells a label, with an honest bound on it.

Shapes: n sampled rows, L levels (different values) of a column; the last level is a missing value.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from mbrec.prepare.describe.scan import is_list, is_text

# Rates are fitted on one half of the rows and scored on the other. Halves are made of blocks, so
# that neighbouring rows, which may belong together, are seldom in both.
_BLOCKS = 64
_PRIOR_ROWS = 1.0  # that a level's rate is drawn towards the mean by
_BINS = 100  # of a number with many values, for its rates
FEW = 20  # positives or negatives, in all or in a half, that tell nothing
_DEVIATIONS = 2.0  # from an AUC to its lower bound


@dataclass
class Levels:
    """A column's values in the sampled rows, as numbers of its different values.

    Attributes:
        codes: int64 (n); a missing value has the last.
        count: L.
        is_ordered: whether codes rise with the values.
        blank: bool (L), which levels stand for nothing: missing, zero, and the empty text.
        bins: int64 (L), the level that a level's rate is counted with.
    """

    codes: np.ndarray
    count: int
    is_ordered: bool
    blank: np.ndarray
    bins: np.ndarray
    rows: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.rows = np.bincount(self.codes, minlength=self.count)


@dataclass(frozen=True)
class Told:
    """How well a column tells a label.

    Attributes:
        auc: the best that was found, of the column's order (either direction, missing values at
            either end) and of rates by level, which are fitted out of sample.
        low: the lower end of its interval, at two standard errors.
        levels: for how many values of the column there are rates; numbers have bins.
        spread: over how many of them the positive rows are spread: 1 / (sum of squared shares).
    """

    auc: float
    low: float
    levels: int
    spread: float


def read_levels(array: pa.Array, *, binned: bool) -> list[Levels]:
    """Return the levels of a column; of lists, those of their lengths and of their first values.

    Args:
        array: of numbers, booleans, strings, or lists of these.
        binned: whether it is a number, whose neighbouring values are much the same.
    """
    if not is_list(array.type):
        return [_levels(array, binned)]
    lengths = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    first = array.flatten().take(pa.array(starts, mask=lengths == 0))
    return [_levels(pa.array(lengths), binned=True), _levels(first, binned=False)]


def judge(levels: Levels, positive: np.ndarray) -> Told | None:
    """Return how well a column tells a label, or None where too few rows say so.

    Args:
        levels: of the column.
        positive: bool (n), where the label is 1.
    """
    halves = np.arange(len(positive)) * _BLOCKS // max(len(positive), 1) % 2
    keys = levels.codes + levels.count * halves
    all_2L = np.bincount(keys, minlength=2 * levels.count).reshape(2, -1)
    pos_2L = np.bincount(keys[positive], minlength=2 * levels.count).reshape(2, -1)
    neg_2L = all_2L - pos_2L
    positives, negatives = int(pos_2L.sum()), int(neg_2L.sum())
    if min(positives, negatives) < FEW:
        return None
    found = [_auc_of_rates(levels, pos_2L, neg_2L)]
    pos_L, neg_L = pos_2L.sum(axis=0), neg_2L.sum(axis=0)
    if levels.is_ordered:
        found.append(_auc_of_order(pos_L, neg_L))
    auc, bound = max(found), auc_bound(max(found), positives, negatives)
    shares = np.bincount(levels.bins, pos_L) / positives
    return Told(auc, bound, len(np.unique(levels.bins)), 1 / float(np.square(shares).sum()))


def only_with(levels: Levels, positive: np.ndarray) -> tuple[int, float, bool]:
    """Return in how many rows a column says something, and in what share of these a label is 1.

    It says nothing where it is blank, or has the value that most rows have whose label is 0; the
    third value is whether that one is blank, too.
    """
    pos_L = np.bincount(levels.codes[positive], minlength=levels.count)
    usual = int((levels.rows - pos_L).argmax())
    says = ~levels.blank
    says[usual] = False
    rows = int(levels.rows[says].sum())
    return rows, float(pos_L[says].sum()) / max(rows, 1), bool(levels.blank[usual])


def auc_bound(auc: float, positives: int, negatives: int) -> float:
    """Return a lower bound of an AUC, by the standard error of Hanley and McNeil (1982).

    The AUC is first drawn a little towards a half, or a perfect one would have no error.
    """
    few = min(positives, negatives)
    a = (auc * few + 0.5) / (few + 1)
    both_positives, both_negatives = a / (2 - a), 2 * a * a / (1 + a)
    variance = a * (1 - a) + (positives - 1) * (both_positives - a * a)
    variance += (negatives - 1) * (both_negatives - a * a)
    return a - _DEVIATIONS * math.sqrt(max(variance, 0.0) / (positives * negatives))


def _levels(array: pa.Array, binned: bool) -> Levels:
    if is_text(array.type):
        encoded = array.dictionary_encode()
        count = len(encoded.dictionary)
        codes = encoded.indices.fill_null(count).to_numpy(zero_copy_only=False).astype(np.int64)
        blank = pc.call_function("equal", [encoded.dictionary, pa.scalar("", array.type)])
        blank = blank.to_numpy(zero_copy_only=False).astype(bool)
        return Levels(codes, count + 1, False, np.append(blank, True), np.arange(count + 1))
    array = array.cast(pa.int8()) if pt.is_boolean(array.type) else array
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    values = array.drop_null().to_numpy(zero_copy_only=False)
    if pt.is_floating(array.type):
        numbers = ~np.isnan(values)
        valid[valid], values = numbers, values[numbers]
    different, places = np.unique(values, return_inverse=True)
    count = len(different)
    codes = np.full(len(array), count, np.int64)
    codes[valid] = places
    bins = np.arange(count + 1)
    if binned and count > _BINS:
        rows = np.bincount(places, minlength=count)
        bins[:-1] = (np.cumsum(rows) - rows) * _BINS // len(values)
        bins[-1] = _BINS
    return Levels(codes, count + 1, True, np.append(different == 0, True), bins)


def _auc_of_order(pos_L: np.ndarray, neg_L: np.ndarray) -> float:
    """Return the AUC of a column's order: the best of both directions and places of the missing."""
    found = []
    for place in (0, -1):
        order = np.roll(np.arange(len(pos_L)), 1 + place)
        found.append(_auc(pos_L[order], neg_L[order]))
    return max(max(auc, 1 - auc) for auc in found)


def _auc_of_rates(levels: Levels, pos_2L: np.ndarray, neg_2L: np.ndarray) -> float:
    """Return the AUC of the rates by level, each half scored with the rates of the other."""
    total, weight = 0.0, 0
    for scored in (0, 1):
        pos_L, neg_L = (
            np.bincount(levels.bins, counts, minlength=levels.count)
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
