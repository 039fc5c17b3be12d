"""Columns that give a label away, since they are known only after it."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from mbrec.prepare.describe.alone import FEW, Levels, Told, judge, only_with, read_levels
from mbrec.prepare.describe.label_names import Label
from mbrec.prepare.describe.profile import Profile

# AUC of a single column from which it is left out or marked, and how large the lower end of its
# interval has to be: with few positive rows, an AUC may be that high by chance.
LEFT_OUT, MARKED = (0.95, 0.90), (0.85, 0.75)
# A column is an effect of a label if it says something in enough rows, not in most, and the label
# is 1 in all but a few of these, which would be as unlikely as this if they were others.
_ENOUGH, _MOST, _PURE, _UNLIKELY = FEW, 0.9, 0.999, 1e-9
# An id may tell a label that only a few ids ever have: those of some robots, say.
_MANY_LEVELS = 200
_COLUMNS = 16  # that are in memory together


@dataclass(frozen=True)
class Leak:
    """What speaks against a column as a feature.

    Attributes:
        reason: for people.
        is_certain: whether it is to be left out.
    """

    reason: str
    is_certain: bool


def find_leaks(
    profile: Profile, labels: Sequence[Label], columns: Mapping[str, bool]
) -> dict[str, Leak]:
    """Return the columns that tell a label too well, each judged alone on the sampled rows.

    Args:
        profile: of the data set.
        labels: in the sampled rows.
        columns: that may become features, none of them a label's -> whether it is a number.
    """
    leaks: dict[str, Leak] = {}
    names = list(columns) if labels else []
    for start in range(0, len(names), _COLUMNS):
        group = names[start : start + _COLUMNS]
        rows = pa.concat_tables(profile.sample.read(group))
        for name in group:
            levels = read_levels(rows[name].combine_chunks(), binned=columns[name])
            if leak := _leak(levels, labels):
                leaks[name] = leak
    return leaks


def untested(label: Label) -> str:
    """Return why no column was tested for giving a label away; an empty text if some were."""
    positives = int(label.positive.sum())
    if min(positives, len(label.positive) - positives) >= FEW:
        return ""
    return f"too few of its rows to test features for leaks ({positives:,} positive)"


def _leak(levels: Sequence[Levels], labels: Sequence[Label]) -> Leak | None:
    for label, one in itertools.product(labels, levels):
        rows, purity, blank = only_with(one, label.positive)
        enough = _ENOUGH <= rows <= _MOST * len(one.codes)
        if enough and purity >= _PURE and label.positive.mean() ** rows <= _UNLIKELY:
            said = "filled in" if blank else "other than its usual value"
            said = f"{said} only where {_is_one(label)}: an effect of it, known afterwards"
            return Leak(said, is_certain=True)
    told = [(judge(one, label.positive), label) for label in labels for one in levels]
    likely = [(found, label) for found, label in told if found and _reaches(found, MARKED)]
    if not likely:
        return None
    best, label = max(likely, key=lambda pair: (_reaches(pair[0], LEFT_OUT), pair[0].auc))
    said = f"alone it tells where {_is_one(label)} with an AUC of {best.auc:.3f}"
    is_spread = best.levels <= _MANY_LEVELS or best.spread >= FEW
    if is_spread and _reaches(best, LEFT_OUT):
        return Leak(f"{said}: rather known afterwards than before", is_certain=True)
    return Leak(f"LEAK? {said}; is it known before?", is_certain=False)


def _reaches(told: Told, limit: tuple[float, float]) -> bool:
    return told.auc >= limit[0] and told.low >= limit[1]


def _is_one(label: Label) -> str:
    return f"{label.column} is 1" if label.is_plain else label.outcome
