"""Writes a schema down, with a comment behind each line."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mbrec.prepare.describe.column_names import clean_name, quoted, unique_name
from mbrec.prepare.describe.guess import Guess, Role
from mbrec.prepare.describe.label_names import Label
from mbrec.prepare.describe.layout import TRAIN
from mbrec.prepare.describe.leaks import untested
from mbrec.prepare.describe.profile import FEW_IDS, Field, Profile
from mbrec.prepare.describe.scaling import number
from mbrec.prepare.duplicates import percent

_WORD = re.compile(r"[A-Za-z_][\w.]*(/[\w.]+)*", re.ASCII)
# What YAML takes for something other than a string.
_MEANINGFUL = {"yes", "no", "on", "off", "true", "false", "null", "none", "y", "n"}
_REFERENCE = re.compile(r"(\\*)\$\{")
_COMMENT_AT = 64
_BUCKETS = 10


@dataclass
class Draft:
    """The YAML of a data set, and what is in it.

    Attributes:
        text: for `configs/data/NAME.yaml`.
        labels: names of the labels.
        categorical: feature -> its column.
    """

    text: str
    labels: list[str]
    categorical: dict[str, str]


def write_draft(
    profile: Profile,
    labels: Sequence[Label],
    guesses: Mapping[str, Guess],
    rates: Mapping[str, Mapping[str, float]],
    command: str,
) -> Draft:
    """Return the draft of a data set's configuration.

    Args:
        profile: of the data set.
        labels: in order.
        guesses: for each column.
        rates: label -> split -> rate.
        command: that wrote the draft.

    Raises:
        ValueError: if no column can be a feature with a table, which a model needs.
    """
    names = _feature_names(profile, guesses)
    lines = [*_header(profile, command), *_files(profile), "columns:"]
    categorical = {names[c]: c for c, g in guesses.items() if g.role is Role.categorical}
    section = [
        _feature(name, profile.fields[column], guesses[column], profile)
        for name, column in categorical.items()
    ]
    if not section:
        section, bucketised = _buckets(profile, guesses)
        categorical |= bucketised
    lines += ["  categorical:", *_aligned(section)]
    numerical = [
        _feature(names[c], profile.fields[c], g, profile)
        for c, g in guesses.items()
        if g.role is Role.numerical
    ]
    if numerical:
        lines += ["  numerical:", *_aligned(numerical)]
    lines += _labels(profile, labels, rates)
    lines += _rest(profile, guesses, names)
    return Draft("\n".join(lines) + "\n", [label.name for label in labels], categorical)


def remarks(labels: Sequence[Label], guesses: Mapping[str, Guess]) -> list[str]:
    """Return what a user should know of the draft before training, a line each."""
    lines = [
        f"label {_one_line(label.name)}: {_one_line(label.expression)} ({_one_line(label.reason)})"
        for label in labels
        if label.expression != quoted(label.column)
    ]
    untold = [(label.name, reason) for label in labels if (reason := untested(label))]
    lines += [f"label {_one_line(name)}: {reason}" for name, reason in untold]
    for name, guessed in guesses.items():
        if guessed.instead:
            lines.append(f"left out {_one_line(name)}: {_one_line(guessed.reason)}")
        elif guessed.is_suspect:
            lines.append(f"check {_one_line(name)}: {_one_line(guessed.reason)}")
    return lines


def _header(profile: Profile, command: str) -> list[str]:
    rows = ", ".join(f"{name} {count:,}" for name, count in profile.rows.items())
    lines = [f"Drafted by {command}", f"Rows: {rows}"]
    if profile.manifest is not None and profile.manifest.duplicates_dropped:
        dropped = profile.manifest.duplicates_dropped
        share = percent(dropped, dropped + sum(profile.rows.values()))
        lines[-1] += f"; {dropped:,} duplicates ({share}) were dropped"
    lines += [*profile.layout.notes, ""]
    lines += ["Every line below is a guess, with its reason; look them over. Settings: see"]
    lines += ["mbrec/columns/schema.py. A column that is not named is not read."]
    if len(profile.layout.train) > 1 and "validation" in str(profile.layout.train):
        validation = profile.layout.train[1]
        lines += ["", "To choose settings, leave the test rows alone and add"]
        lines += [f"  'data.train=[{profile.layout.train[0]}]' 'data.evaluation=[{validation}]'"]
    return [f"# {_one_line(line)}".rstrip() for line in lines]


def _files(profile: Profile) -> list[str]:
    return [
        f"path: {_scalar(profile.path)}",
        f"train: {_inline(profile.layout.train)}",
        f"evaluation: {_inline(profile.layout.evaluation)}",
    ]


def _feature_names(profile: Profile, guesses: Mapping[str, Guess]) -> dict[str, str]:
    names: dict[str, str] = {}
    for column, guessed in guesses.items():
        if (guessed.instead or guessed.role) in (Role.categorical, Role.numerical):
            names[column] = unique_name(clean_name(column), set(names.values()))
            if names[column] != column:
                guessed.settings["column"] = column
    return names


def _feature(name: str, column: Field, guessed: Guess, profile: Profile) -> tuple[str, str]:
    about = [_type(column), *_values(column, profile), *_missing(column, profile), guessed.reason]
    return f"{_scalar(name)}: {_inline(guessed.settings)}", "; ".join(filter(None, about))


def _type(column: Field) -> str:
    kind = str(column.type).removeprefix("large_")
    kind = {"double": "float64", "float": "float32", "halffloat": "float16"}.get(kind, kind)
    return f"lists of {kind}" if column.is_list else kind


def _values(column: Field, profile: Profile) -> list[str]:
    stats, found = column.stats, []
    if column.is_text:
        found.append(f"{column.distinct or 0:,} different")
    elif stats.min is not None and stats.max is not None:
        about = "about " if column.is_integer and _is_rounded(stats.min, stats.max) else ""
        found.append(f"{about}{number(stats.min)} to {number(stats.max)}")
    if column.is_integer and column.distinct is not None:
        sampled = not profile.sample.is_whole and column.distinct < (stats.cardinality or 0)
        least = "at least " if sampled and (stats.cardinality or 0) <= FEW_IDS else ""
        found.append(f"{least}{column.distinct:,} different")
    if column.is_float and not column.is_list and stats.quantiles:
        found.append(f"median {number(stats.quantiles[50])}")
    if column.is_list:
        found.append(
            f"up to {stats.max_length or 0:,} a row, {stats.mean_length or 0:.1f} on average"
        )
    return found


def _is_rounded(least: float, most: float) -> bool:
    """Whether integers may have lost digits as the floating-point numbers of the statistics."""
    return max(-least, most) > 2**53


def _missing(column: Field, profile: Profile) -> list[str]:
    nulls, found = column.stats.nulls, []
    if nulls:
        found.append(f"{_percent(nulls / profile.rows[TRAIN])} missing")
    elif column.elsewhere.nulls:
        found.append("missing in other files")
    if column.stats.not_finite and not column.has_infinities:
        found.append(f"{column.stats.not_finite:,} NaN")
    return found


def _buckets(
    profile: Profile, guesses: Mapping[str, Guess]
) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Return a feature with a table for a data set of numbers alone: no model is without one."""
    numbers = [profile.fields[c] for c, g in guesses.items() if g.role is Role.numerical]
    fitting = [c for c in numbers if len(set(c.stats.quantiles or [])) > 2]
    if not fitting:
        raise ValueError(
            f"expected a column of ids, codes or numbers in {profile.path}, got none that fits: "
            + "; ".join(f"{name}: {g.reason}" for name, g in guesses.items() if g.reason)[:500]
        )
    column = max(fitting, key=lambda c: len(set(c.stats.quantiles or [])))
    settings: dict[str, Any] = {"column": column.name, "num_buckets": _BUCKETS}
    if profile.manifest is None:
        quantiles = column.stats.quantiles or []
        edges = sorted({quantiles[10 * i] for i in range(1, _BUCKETS)})
        settings = {"column": column.name, "boundaries": [float(f"{e:.6g}") for e in edges]}
        settings["boundaries"] = sorted(set(settings["boundaries"]))
    if column.has_nulls or column.stats.not_finite:
        settings["missing"] = "row"
    name = f"{clean_name(column.name)}_bucket"
    line = f"{name}: {_inline(settings)}", "a model needs at least one table, and there are no ids"
    return [line], {name: column.name}


def _labels(
    profile: Profile, labels: Sequence[Label], rates: Mapping[str, Mapping[str, float]]
) -> list[str]:
    if not labels:
        return [
            "  # No column looks like a label: name some before you train, as in",
            "  #   labels: {clicked: clicked, liked: rating >= 4, bought: event == 'buy'}",
            "  labels: {}",
        ]
    section = []
    for label in labels:
        parts = [_type(profile.fields[label.column])]
        parts += [f"{split} {rate:.4g}" for split, rate in rates[label.name].items()]
        said = f"{parts[0]}; {', '.join(parts[1:])}; {label.reason}"
        said = "; ".join(filter(None, (said, untested(label))))
        section.append((f"{_scalar(label.name)}: {_scalar(label.expression)}", said))
    return ["  labels:  # and their rates", *_aligned(section)]


def _rest(profile: Profile, guesses: Mapping[str, Guess], names: Mapping[str, str]) -> list[str]:
    lines = []
    for name, guessed in guesses.items():
        if guessed.role is Role.left_out:
            column = profile.fields[name]
            about = "; ".join([_type(column), *_values(column, profile)])
            lines.append(f"  #   {_one_line(name)}: {_one_line(guessed.reason)} ({about})")
            if guessed.instead:
                line = f"{_scalar(names[name])}: {_inline(guessed.settings)}"
                lines.append(f"  #     to take it back, add below {guessed.instead.value}:")
                lines.append(f"  #       {line}")
    missing = [name for name in profile.schema.names if name not in profile.fields]
    lines += [f"  #   {_one_line(name)}: the manifest does not tell of it" for name in missing]
    return ["  # Left out:", *lines] if lines else []


def _aligned(section: Sequence[tuple[str, str]]) -> list[str]:
    at = min(_COMMENT_AT, max(len(line) for line, _ in section))
    return [f"    {line:<{at}}  # {_one_line(said)}".rstrip(" #") for line, said in section]


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_inline(v)}" for key, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return str(int(value)) if value == math.floor(value) and abs(value) < 1e15 else repr(value)
    if (_WORD.fullmatch(value) and value.lower() not in _MEANINGFUL) or _is_pattern(value):
        return value
    # What OmegaConf would take for a reference is escaped for it, and the backslashes before that.
    literal = _REFERENCE.sub(lambda match: match[1] * 2 + r"\${", value)
    quoted = json.dumps(literal, ensure_ascii=False)
    # YAML has no place for control characters, and takes some others for the end of a line.
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in quoted)


def _is_pattern(text: str) -> bool:
    """Whether it is a path that YAML takes as it stands."""
    return re.fullmatch(r"([A-Za-z_]|\.{0,2}/)[\w./*-]*", text, re.ASCII) is not None and (
        text.lower() not in _MEANINGFUL
    )


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.4g} %"


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
