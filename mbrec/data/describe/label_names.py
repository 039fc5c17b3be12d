"""Which columns are labels, and what each is called."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mbrec.data.describe.column_names import OUTCOMES, clean_name, quoted, unique_name, words
from mbrec.data.describe.profile import Field, Profile

CLICK, CONVERSION = "click", "conversion"

_CLICKS = ("click", "clicked", "clk")
_CONVERSIONS = (
    *("conversion", "conv", "converted", "convert", "purchase", "purchased", "buy", "bought"),
    *("order", "ordered", "pay", "paid", "install", "installed", "booking", "booked", "subscribed"),
)
_PREFIX = re.compile(r"^(is|has)_(?=.)")


@dataclass
class Label:
    """A label of the draft.

    Attributes:
        name: that tasks refer to.
        column: that it is read off.
        expression: over columns.
        reason: why it is taken for a label.
    """

    name: str
    column: str
    expression: str
    reason: str


def find_labels(
    profile: Profile, wanted: Sequence[str] | None = None
) -> tuple[list[Label], dict[str, str]]:
    """Return the labels, and what keeps other columns from being labels or features.

    Labels are what the manifest gives rates of, and columns of 0 and 1 with a telling name; if
    there is none, small columns of 0 and 1.

    Args:
        profile: of the data set.
        wanted: the columns that are labels, if that is known.

    Raises:
        ValueError: if a wanted column is not there, or can be no label.
    """
    reasons: dict[str, str] = {}
    declared = profile.declared
    telling = [c.name for c in profile.fields.values() if c.is_binary and _tells(c.name)]
    if wanted is not None:
        for name in wanted:
            if name not in profile.fields:
                raise ValueError(
                    f"expected columns of {', '.join(profile.fields)} in labels, got {name}"
                )
            reasons[name] = "as asked for"
    else:
        reasons |= dict.fromkeys(declared, "a label by the manifest")
        reasons |= {name: "0 and 1, and its name" for name in telling if name not in reasons}
    if not reasons:
        small = [c.name for c in profile.fields.values() if c.is_binary and _is_small(c)]
        reasons = dict.fromkeys(small, "0 and 1 in a small type")
    faults = {name: fault for name in reasons if (fault := _fault(profile.fields[name]))}
    if wanted is not None and faults:
        name, fault = next(iter(faults.items()))
        raise ValueError(f"expected labels with values 0 to 1, got {name}: {fault}")
    others = [name for name in (*declared, *telling) if name not in reasons]
    faults |= dict.fromkeys(others, "an outcome, and no label here")
    found = {name: reason for name, reason in reasons.items() if name not in faults}
    return _named(profile, found), faults


def _tells(name: str) -> bool:
    return not OUTCOMES.isdisjoint(words(name))


def _is_small(column: Field) -> bool:
    return str(column.type) in ("bool", "int8", "uint8")


def _fault(column: Field) -> str | None:
    """Return what makes training stop at a label, if anything does."""
    stats, elsewhere = column.stats, column.elsewhere
    name = quoted(column.name)
    if not column.is_everywhere:
        return "a label that is not in all files"
    if column.is_list or not (column.is_integer or column.is_float):
        return f"a label of type {column.type}; an expression may make one of it"
    if column.has_nulls or stats.not_finite:
        return "a label with missing values; fill them when the data is prepared"
    if stats.min == stats.max:
        return f"an outcome that is always {stats.min or 0:g} in the training rows"
    least = min(stats.min or 0, elsewhere.least)
    most = max(stats.max or 0, elsewhere.most)
    if least < 0 or most > 1:
        limit = stats.quantiles[75] if stats.quantiles else most
        return (
            f"an outcome with values {least:g} to {most:g}; a label needs 0 to 1, such as "
            f"'{name} >= {limit:g}'"
        )
    return "a name that no expression can hold" if "`" in column.name else None


def _named(profile: Profile, found: dict[str, str]) -> list[Label]:
    conversion = _first(found, _CONVERSIONS)
    click = _first([name for name in found if name != conversion], _CLICKS)
    names = {}
    if click and conversion:
        names = {click: CLICK, conversion: CONVERSION}
    for column in found:
        if column not in names:
            short = _PREFIX.sub("", clean_name(column))
            names[column] = unique_name(short, set(names.values()))
    labels = [Label(names[c], c, quoted(c), reason) for c, reason in found.items()]
    for label in labels:
        if click and conversion and label.column == conversion:
            if _implies(profile, conversion, click):
                label.reason += f"; only ever with {click} in the rows looked at"
            else:
                label.expression = f"{quoted(click)} * {quoted(conversion)}"
                label.reason += f"; some come without {click}, which do not count here"
    return labels


def _first(names: Sequence[str] | dict[str, str], wanted: Sequence[str]) -> str | None:
    return next((name for word in wanted for name in names if word in words(name)), None)


def _implies(profile: Profile, column: str, other: str) -> bool:
    filled = profile.sample.filled
    return not (filled[column] & ~filled[other]).any()
