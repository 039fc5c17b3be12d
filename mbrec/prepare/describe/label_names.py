"""Which columns are labels, and what each is called."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from mbrec.columns.expression import parse
from mbrec.prepare.describe.column_names import clean_name, quoted, unique_name, words
from mbrec.prepare.describe.outcomes import Reading, is_outcome, read_label
from mbrec.prepare.describe.profile import Field, Profile

CLICK, CONVERSION = "click", "conversion"

_CLICKS = ("click", "clicked", "clk")
_CONVERSIONS = (
    *("conversion", "conv", "converted", "convert", "purchase", "purchased", "buy", "bought"),
    *("order", "ordered", "pay", "paid", "install", "installed", "booking", "booked", "subscribed"),
)
_BY_NAME = "its name"
_PREFIX = re.compile(r"^(is|has)_(?=.)")


@dataclass
class Label:
    """A label of the draft.

    Attributes:
        name: that tasks refer to.
        column: that it is read off.
        expression: over columns.
        reason: why it is taken for a label.
        outcome: the expression of the column alone; of a conversion, with or without a click.
        positive: in which of the sampled rows that is 1, or nearer to it than to 0.
    """

    name: str
    column: str
    expression: str
    reason: str
    outcome: str
    positive: np.ndarray = field(default_factory=lambda: np.empty(0, bool))

    @property
    def is_plain(self) -> bool:
        """Whether the outcome is the column as it stands."""
        return self.outcome == quoted(self.column)


def find_labels(
    profile: Profile, wanted: Sequence[str] | None = None
) -> tuple[list[Label], dict[str, str]]:
    """Return the labels, and what keeps other columns from being labels or features.

    Labels are what the manifest gives rates of, and outcomes by their names (see `is_outcome`)
    whose values allow it; if there is none, small columns of 0 and 1.

    Args:
        profile: of the data set.
        wanted: the columns that are labels, if that is known.

    Raises:
        ValueError: if a wanted column is not there, or can be no label.
    """
    outcomes = [c.name for c in profile.fields.values() if is_outcome(c, profile)]
    if wanted is not None and (unknown := [n for n in wanted if n not in profile.fields]):
        raise ValueError(
            f"expected columns of {', '.join(profile.fields)} in labels, got {unknown[0]}"
        )
    reasons = _reasons(profile, outcomes, wanted)
    readings = {name: _read(profile, name, reason) for name, reason in reasons.items()}
    faults = {name: reading.fault for name, reading in readings.items() if reading.fault}
    if wanted is not None and faults:
        name, fault = next(iter(faults.items()))
        raise ValueError(f"expected labels with values 0 to 1, got {name}: {fault}")
    others = [name for name in (*profile.declared, *outcomes) if name not in reasons]
    faults |= dict.fromkeys(others, "an outcome, and no label here")
    found = {name: reading for name, reading in readings.items() if not reading.fault}
    return _named(profile, found, reasons), faults


def _reasons(
    profile: Profile, outcomes: Sequence[str], wanted: Sequence[str] | None
) -> dict[str, str]:
    """Return the columns that should be labels, and why."""
    if wanted is not None:
        return dict.fromkeys(wanted, "as asked for")
    reasons = dict.fromkeys(profile.declared, "a label by the manifest")
    reasons |= {name: _BY_NAME for name in outcomes if name not in reasons}
    if reasons:
        return reasons
    small = [c.name for c in profile.fields.values() if c.is_binary and _is_small(c)]
    return dict.fromkeys(small, "0 and 1 in a small type")


def _read(profile: Profile, name: str, reason: str) -> Reading:
    column, by_name = profile.fields[name], reason == _BY_NAME
    reading = read_label(column, profile, guessed=by_name)
    if by_name and reading.fault:
        reading.fault = f"an outcome by its name: {reading.fault}"
    return reading


def _is_small(column: Field) -> bool:
    return str(column.type) in ("bool", "int8", "uint8")


def _named(profile: Profile, found: dict[str, Reading], reasons: dict[str, str]) -> list[Label]:
    conversion = _first(list(found), _CONVERSIONS)
    click = _first([name for name in found if name != conversion], _CLICKS)
    names = {}
    if click and conversion:
        names = {click: CLICK, conversion: CONVERSION}
    for column in found:
        if column not in names:
            short = _PREFIX.sub("", clean_name(column))
            names[column] = unique_name(short, set(names.values()))
    labels = {}
    for column, reading in found.items():
        plain = "0 and 1" if reasons[column] == _BY_NAME else ""
        reason = ", and ".join(filter(None, (reading.said or plain, reasons[column])))
        labels[column] = Label(
            names[column], column, reading.expression, reason, reading.expression
        )
    _evaluate(profile, list(labels.values()))
    if click and conversion:
        _nest(labels[click], labels[conversion])
    return list(labels.values())


def _evaluate(profile: Profile, labels: Sequence[Label]) -> None:
    """Compute the labels in the sampled rows."""
    if not labels:
        return
    expressions = [parse(label.outcome) for label in labels]
    parts: list[list[np.ndarray]] = [[] for _ in labels]
    for table in profile.sample.read([label.column for label in labels]):
        for expression, part in zip(expressions, parts, strict=True):
            values = expression.evaluate(table).cast(pa.float64())
            part.append(values.to_numpy(zero_copy_only=False) > 0.5)
    for label, part in zip(labels, parts, strict=True):
        label.positive = np.concatenate(part)


def _nest(click: Label, conversion: Label) -> None:
    """Make the conversion one that only clicks have."""
    if not (conversion.positive & ~click.positive).any():
        conversion.reason += f"; only ever with {click.column} in the rows looked at"
        return
    both = [x.outcome if x.is_plain else f"({x.outcome})" for x in (click, conversion)]
    conversion.expression = " * ".join(both)
    conversion.reason += f"; some come without {click.column}, which do not count here"


def _first(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    return next((name for word in wanted for name in names if word in words(name)), None)
