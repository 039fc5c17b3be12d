"""Which columns are labels, what each is called, and how often each is 1."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from mbrec.columns.expression import parse
from mbrec.prepare.describe.clock import days, find_clock, time_format
from mbrec.prepare.describe.names import (
    UNSPECIFIC,
    clean_name,
    mentions_outcome,
    names_outcome,
    quoted,
    unique_name,
    words,
)
from mbrec.prepare.describe.profile import Field, Profile
from mbrec.prepare.describe.scan import read_batches

CLICK, CONVERSION = "click", "conversion"

_CLICKS = ("click", "clicked", "clk")
_CONVERSIONS = (
    *("conversion", "conv", "converted", "convert", "purchase", "purchased", "buy", "bought"),
    *("order", "ordered", "pay", "paid", "install", "installed", "booking", "booked", "subscribed"),
)
_BY_NAME = "its name"
_PREFIX = re.compile(r"^(is|has)_(?=.)")
_YES = frozenset({"1", "yes", "y", "true", "t", "on", "positive", "pos"})
_NO = frozenset({"0", "no", "n", "false", "f", "off", "negative", "neg", ""})
_GAPS = "a label with missing values; fill them when the data is prepared"


@dataclass
class Label:
    """A label of the draft.

    Attributes:
        name: that tasks refer to.
        column: that it is read from.
        expression: over columns.
        reason: why it is a label.
        outcome: the expression of the column alone; of a conversion, with or without a click.
        positive: in which of the sampled rows that is 1, or nearer to it than to 0.
    """

    name: str
    column: str
    expression: str
    reason: str
    outcome: str
    positive: np.ndarray

    @property
    def is_plain(self) -> bool:
        """Whether the outcome is the column as it stands."""
        return self.outcome == quoted(self.column)


@dataclass
class LabelRates:
    """How often labels are 1.

    Attributes:
        labels: their names.
        clock: the column that states the day; None where places are files.
        are_dates: whether days count from 1970-01-01.
        splits: name -> place (day, or number of the file) -> rows, and the sum of each label.
    """

    labels: list[str]
    clock: str | None
    are_dates: bool
    splits: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)

    def by_label(self) -> dict[str, dict[str, float]]:
        """Return label -> split -> rate; NaN where there is no row."""
        sums = {split: sum(at.values(), np.zeros(1)) for split, at in self.splits.items()}
        return {
            label: {s: float(n[k] / n[0]) if n[0] else float("nan") for s, n in sums.items()}
            for k, label in enumerate(self.labels, start=1)
        }


@dataclass
class _Reading:
    """A column as a label: its expression, and what it holds; or why it cannot be one."""

    expression: str = ""
    contents: str = ""
    fault: str = ""


def find_labels(
    profile: Profile, wanted: Sequence[str] | None = None
) -> tuple[list[Label], dict[str, str]]:
    """Return the labels, and the reasons why other outcomes are neither labels nor features.

    Labels are the columns that the manifest gives rates of, and outcomes by their names (see
    `is_outcome`) whose values allow it; if there are none, small columns of 0 and 1.

    Args:
        profile: of the data set.
        wanted: the columns that are labels, if the user named them.

    Raises:
        ValueError: if a wanted column does not exist, or cannot be a label.
    """
    fields = profile.fields
    if unknown := [name for name in wanted or () if name not in fields]:
        raise ValueError(f"expected columns of {', '.join(fields)} in labels, got {unknown[0]}")
    outcomes = [column.name for column in fields.values() if is_outcome(column)]
    reasons = _reasons(profile, outcomes, wanted)
    readings = {}
    for name, reason in reasons.items():
        readings[name] = _read(fields[name], guessed=reason == _BY_NAME)
        if readings[name].fault and reason == _BY_NAME:
            readings[name].fault = f"an outcome by its name: {readings[name].fault}"
    faults = {name: reading.fault for name, reading in readings.items() if reading.fault}
    if wanted is not None and faults:
        name, fault = next(iter(faults.items()))
        raise ValueError(f"expected labels with values 0 to 1, got {name}: {fault}")
    others = [name for name in (*profile.declared, *outcomes) if name not in reasons]
    found = {name: reading for name, reading in readings.items() if name not in faults}
    faults |= dict.fromkeys(others, "an outcome, and not a label here")
    return _labels(profile, found, reasons), faults


def is_outcome(column: Field) -> bool:
    """Whether a column is an outcome by its name, and by its values where the name leaves doubts.

    `click` is one whatever it holds; `video_liked` is one if it has two values, such as 0 and 1,
    -1 and 1, or yes and no; `follow_user_num` is not if it is a number.
    """
    stats = column.stats
    if not mentions_outcome(column.name) or time_format(column):
        return False
    if not column.is_text and not column.is_list and stats.min == stats.max:
        return False  # the same value everywhere, or none
    answers = column.two_values in ({0.0, 1.0}, {-1.0, 1.0}) or bool(_positives(column))
    return names_outcome(column.name) or answers


def count_labels(profile: Profile, labels: Sequence[Label]) -> LabelRates:
    """Read the labels of all rows, and their days.

    Raises:
        ValueError: naming a file that cannot be read, or a label that cannot be computed.
    """
    clock = find_clock(profile)
    written = time_format(clock) if clock else None
    expressions = [parse(label.expression) for label in labels]
    names = [name for expression in expressions for name in expression.columns]
    names += [clock.name] if clock else []
    schema = pa.schema([profile.schema.field(name) for name in dict.fromkeys(names)])
    rates = LabelRates([x.name for x in labels], clock and clock.name, written != "count")
    places = 0
    for split, files in profile.layout.splits.items():
        sums = rates.splits.setdefault(split, {})
        title, rows = f"labels of {split}", profile.rows[split]
        for file, table in read_batches(profile.store, files, schema, title, rows):
            values = [np.ones(len(table))]
            values += [np.nan_to_num(_numbers(x.evaluate(table))) for x in expressions]
            at = np.full(len(table), places + file)
            if clock is not None and written is not None:
                at = days(table[clock.name].combine_chunks(), written)
            found, where = np.unique(at, return_inverse=True)
            totals = np.stack([np.bincount(where, column) for column in values], axis=1)
            for place, total in zip(found.tolist(), totals, strict=True):
                sums[place] = sums.get(place, 0) + total
        places += len(files)
    return rates


def manifest_rates(profile: Profile, labels: Sequence[Label]) -> dict[str, dict[str, float]] | None:
    """Return label -> split -> rate if the manifest has all of them."""
    known = profile.manifest.splits if profile.manifest else {}
    try:
        return {
            label.name: {
                split: known[split].label_rates[label.expression] for split in profile.layout.splits
            }
            for label in labels
        }
    except KeyError:
        return None


def _reasons(
    profile: Profile, outcomes: Sequence[str], wanted: Sequence[str] | None
) -> dict[str, str]:
    """Return the columns that should be labels, and why."""
    if wanted is not None:
        return dict.fromkeys(wanted, "as requested")
    reasons = dict.fromkeys(profile.declared, "a label according to the manifest")
    reasons |= {name: _BY_NAME for name in outcomes if name not in reasons}
    if reasons:
        return reasons
    small = [c for c in profile.fields.values() if str(c.type) in ("bool", "int8", "uint8")]
    binary = [c.name for c in small if c.two_values == {0.0, 1.0}]
    return dict.fromkeys(binary, "0 and 1 in a small type")


def _read(column: Field, *, guessed: bool) -> _Reading:
    """Return how a column is read as a label; `guessed` if only its name suggests that."""
    if not column.is_everywhere:
        return _Reading(fault="a label that is not in all files")
    if "`" in column.name:
        return _Reading(fault="a name that no expression can hold")
    if column.is_text:
        return _read_text(column)
    if column.is_list or not (column.is_integer or column.is_float):
        of = f"lists of {column.type}" if column.is_list else f"type {column.type}"
        return _Reading(fault=f"a label of {of}; an expression may make one of it")
    return _read_numbers(column, guessed)


def _read_text(column: Field) -> _Reading:
    name, positives = quoted(column.name), _positives(column)
    if not positives:
        shown = column.seen[:1].to_pylist()
        example = f"; a label may be: {name} == {shown[0]!r}" if shown else ""
        return _Reading(fault=f"a label of type {column.type}{example}")
    if column.has_nulls:
        return _Reading(fault=_GAPS)
    if len(positives) == 1:
        return _Reading(f"{name} == {positives[0]!r}", f"{positives[0]!r} or not")
    return _Reading(f"{name} in ({', '.join(map(repr, positives))})", "yes or no")


def _read_numbers(column: Field, guessed: bool) -> _Reading:
    stats, elsewhere, name = column.stats, column.elsewhere, quoted(column.name)
    least, most = min(stats.min or 0, elsewhere.least), max(stats.max or 0, elsewhere.most)
    if stats.min == stats.max:
        return _Reading(fault=f"an outcome that is always {stats.min or 0:g} in the training rows")
    if stats.not_finite and not stats.nulls:
        return _Reading(fault=f"{_GAPS}, or take NaN for 0: '{name} > 0'")
    if column.has_nulls:
        return _Reading(fault=_GAPS)
    if column.two_values == {-1.0, 1.0} and least == -1 and most == 1:
        return _Reading(f"{name} > 0", "-1 and 1")
    if least < 0 or most > 1:
        if least == 0 and _is_count(column):
            return _Reading(f"{name} > 0", f"counts up to {most:g}, 1 above 0")
        limit = stats.quantiles[75] if stats.quantiles else most
        return _Reading(
            fault=f"an outcome with values {least:g} to {most:g}; a label needs 0 to 1, such as "
            f"'{name} >= {limit:g}'"
        )
    if guessed and (column.two_values != {0.0, 1.0} or stats.not_finite):
        return _Reading(fault=f"an outcome with values between 0 and 1; labels=[{name}] takes it")
    return _Reading(name)


def _is_count(column: Field) -> bool:
    """Whether a column of numbers of at least 0 counts what its name says."""
    known = names_outcome(column.name) and UNSPECIFIC.isdisjoint(words(column.name))
    whole = column.is_integer or all(q == round(q) for q in column.stats.quantiles or [0.5])
    return known and whole


def _positives(column: Field) -> list[str]:
    """Return the texts for yes of a column whose texts are all for yes or for no."""
    if not column.is_text or column.is_list or len(column.seen) != column.distinct:
        return []
    found = {value: value.strip().lower() for value in column.seen.to_pylist()}
    if not set(found.values()) <= _YES | _NO or _NO.isdisjoint(found.values()):
        return []
    return sorted(value for value, plain in found.items() if plain in _YES)


def _labels(profile: Profile, found: dict[str, _Reading], reasons: dict[str, str]) -> list[Label]:
    conversion = _first(list(found), _CONVERSIONS)
    click = _first([name for name in found if name != conversion], _CLICKS)
    names = {click: CLICK, conversion: CONVERSION} if click and conversion else {}
    for column in found:
        if column not in names:
            short = _PREFIX.sub("", clean_name(column))
            names[column] = unique_name(short, set(names.values()))
    labels = {}
    for column, reading in found.items():
        plain = "0 and 1" if reasons[column] == _BY_NAME else ""
        reason = ", and ".join(filter(None, (reading.contents or plain, reasons[column])))
        expression = reading.expression
        positive = _numbers(parse(expression).evaluate(profile.sample.table)) > 0.5
        labels[column] = Label(names[column], column, expression, reason, expression, positive)
    if click and conversion:
        _nest(labels[click], labels[conversion])
    return list(labels.values())


def _nest(click: Label, conversion: Label) -> None:
    """Make the conversion one that only clicks have."""
    if not (conversion.positive & ~click.positive).any():
        conversion.reason += f"; only ever with {click.column} in the sampled rows"
        return
    both = [x.outcome if x.is_plain else f"({x.outcome})" for x in (click, conversion)]
    conversion.expression = " * ".join(both)
    conversion.reason += f"; some come without {click.column}, which do not count here"


def _first(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    return next((name for word in wanted for name in names if word in words(name)), None)


def _numbers(array: pa.Array) -> np.ndarray:
    return array.cast(pa.float64()).to_numpy(zero_copy_only=False)
