"""What makes a label of an outcome, whatever values it is written with."""

from dataclasses import dataclass

from mbrec.prepare.describe.clock import time_of
from mbrec.prepare.describe.column_names import (
    UNSPECIFIC,
    names_outcome,
    quoted,
    tells_outcome,
    words,
)
from mbrec.prepare.describe.profile import Field, Profile

_YES = frozenset({"1", "yes", "y", "true", "t", "on", "positive", "pos"})
_NO = frozenset({"0", "no", "n", "false", "f", "off", "negative", "neg", ""})
_GAPS = "a label with missing values; fill them when the data is prepared"


@dataclass
class Reading:
    """How a column is read as a label.

    Attributes:
        expression: over the column; empty if there is none.
        said: what the column holds, where the expression is not the column itself.
        fault: why there is no expression.
    """

    expression: str = ""
    said: str = ""
    fault: str = ""


def is_outcome(column: Field, profile: Profile) -> bool:
    """Whether a column is an outcome by its name, and by its values where the name leaves doubts.

    `click` is one whatever it holds; `video_liked` is one if it has two values, such as 0 and 1,
    -1 and 1, or yes and no; `follow_user_num` is none if it is a number.
    """
    stats = column.stats
    if not tells_outcome(column.name) or time_of(column, profile):
        return False
    if not column.is_text and not column.is_list and stats.min == stats.max:
        return False  # the same value everywhere, or none
    return names_outcome(column.name) or has_two_values(column, profile)


def has_two_values(column: Field, profile: Profile) -> bool:
    """Whether a column answers a question: 0 and 1, -1 and 1, or yes and no, beside gaps."""
    if column.is_list:
        return False
    if column.is_text:
        return bool(_positives(column, profile))
    return _values(column) in ({0.0, 1.0}, {-1.0, 1.0})


def read_label(column: Field, profile: Profile, *, guessed: bool) -> Reading:
    """Return how a column is read as a label.

    Args:
        column: to read.
        profile: of the data set.
        guessed: whether its name alone says that it is a label.
    """
    if not column.is_everywhere:
        return Reading(fault="a label that is not in all files")
    if "`" in column.name:
        return Reading(fault="a name that no expression can hold")
    if column.is_text:
        return _read_text(column, profile)
    if column.is_list or not (column.is_integer or column.is_float):
        of = f"lists of {column.type}" if column.is_list else f"type {column.type}"
        return Reading(fault=f"a label of {of}; an expression may make one of it")
    return _read_numbers(column, guessed)


def _read_text(column: Field, profile: Profile) -> Reading:
    name, positives = quoted(column.name), _positives(column, profile)
    if not positives:
        shown = profile.sample.values(column.name)[:1].to_pylist()
        example = f"; a label may be: {name} == {shown[0]!r}" if shown else ""
        return Reading(fault=f"a label of type {column.type}{example}")
    if column.has_nulls:
        return Reading(fault=_GAPS)
    if len(positives) == 1:
        return Reading(f"{name} == {positives[0]!r}", f"{positives[0]!r} or not")
    return Reading(f"{name} in ({', '.join(map(repr, positives))})", "yes or no")


def _read_numbers(column: Field, guessed: bool) -> Reading:
    stats, elsewhere, name = column.stats, column.elsewhere, quoted(column.name)
    least, most = min(stats.min or 0, elsewhere.least), max(stats.max or 0, elsewhere.most)
    if stats.min == stats.max:
        return Reading(fault=f"an outcome that is always {stats.min or 0:g} in the training rows")
    if stats.not_finite and not stats.nulls:
        return Reading(fault=f"{_GAPS}, or take NaN for 0: '{name} > 0'")
    if column.has_nulls:
        return Reading(fault=_GAPS)
    if _values(column) == {-1.0, 1.0} and least == -1 and most == 1:
        return Reading(f"{name} > 0", "-1 and 1")
    if least < 0 or most > 1:
        if least == 0 and _is_count(column):
            return Reading(f"{name} > 0", f"counts up to {most:g}, 1 above 0")
        limit = stats.quantiles[75] if stats.quantiles else most
        return Reading(
            fault=f"an outcome with values {least:g} to {most:g}; a label needs 0 to 1, such as "
            f"'{name} >= {limit:g}'"
        )
    if guessed and not column.is_binary:
        return Reading(fault=f"an outcome with values between 0 and 1; labels=[{name}] takes it")
    return Reading(name)


def _is_count(column: Field) -> bool:
    """Whether a column of numbers of at least 0 counts what its name says."""
    known = names_outcome(column.name) and UNSPECIFIC.isdisjoint(words(column.name))
    whole = column.is_integer or all(q == round(q) for q in column.stats.quantiles or [0.5])
    return known and whole


def _values(column: Field) -> set[float]:
    """Return the two values that a column of numbers has, beside gaps; or an empty set."""
    stats = column.stats
    if stats.min is None or stats.max is None or column.has_infinities:
        return set()
    ends = {stats.min, stats.max}
    if column.is_float:
        return ends if ends == set(stats.quantiles or []) else set()
    return ends if column.distinct == 2 or ends == {0.0, 1.0} else set()


def _positives(column: Field, profile: Profile) -> list[str]:
    """Return the texts for yes of a column that has those for yes and for no alone."""
    seen = profile.sample.values(column.name).to_pylist()
    if len(seen) != column.distinct:
        return []
    found = {value: value.strip().lower() for value in seen}
    if not set(found.values()) <= _YES | _NO or _NO.isdisjoint(found.values()):
        return []
    return sorted(value for value, plain in found.items() if plain in _YES)
