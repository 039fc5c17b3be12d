"""Writes a schema down, with a comment behind each line."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mbrec.prepare.describe.guess import Guess, Role
from mbrec.prepare.describe.labels import Label
from mbrec.prepare.describe.layout import TRAIN
from mbrec.prepare.describe.leaks import untested
from mbrec.prepare.describe.names import clean_name, quoted, unique_name
from mbrec.prepare.describe.profile import FEW_IDS, Field, Profile
from mbrec.prepare.describe.scaling import number
from mbrec.prepare.duplicates import percent

# Words and paths that YAML takes as they stand, but for those that it gives a meaning.
_PLAIN = re.compile(r"[A-Za-z_][\w.]*(/[\w.]+)*|([A-Za-z_]|\.{0,2}/)[\w./*-]*", re.ASCII)
_MEANINGFUL = {"yes", "no", "on", "off", "true", "false", "null", "none", "y", "n"}
_REFERENCE = re.compile(r"(\\*)\$\{")
_COMMENT_AT = 64
_BUCKETS = 10


def write_draft(
    profile: Profile,
    labels: Sequence[Label],
    guesses: Mapping[str, Guess],
    rates: Mapping[str, Mapping[str, float]],
    command: str,
) -> str:
    """Return the YAML of a data set's configuration.

    Args:
        profile: of the data set.
        labels: in the order of the draft.
        guesses: column -> what it is used as.
        rates: label -> split -> rate.
        command: that writes the draft.

    Raises:
        ValueError: if no column can be a feature with a table, which a model needs.
    """
    names = _feature_names(guesses)
    sections: dict[Role, list[tuple[str, str]]] = {Role.categorical: [], Role.numerical: []}
    for column, guessed in guesses.items():
        if guessed.role in sections:
            line = f"{_scalar(names[column])}: {_inline(guessed.settings)}"
            about = [*_about(profile.fields[column], profile), guessed.reason]
            sections[guessed.role].append((line, "; ".join(filter(None, about))))
    if not sections[Role.categorical]:
        reason = "a model needs at least one table, and there are no ids"
        sections[Role.categorical].append((_buckets(profile, guesses), reason))
    lines = _header(profile, command)
    lines += [
        f"path: {_scalar(profile.path)}",
        f"train: {_inline(profile.layout.train)}",
        f"evaluation: {_inline(profile.layout.evaluation)}",
        "columns:",
    ]
    for role, section in sections.items():
        lines += [f"  {role.value}:", *_aligned(section)] if section else []
    lines += _labels(profile, labels, rates)
    lines += _left_out(profile, guesses, names)
    return "\n".join(lines) + "\n"


def remarks(labels: Sequence[Label], guesses: Mapping[str, Guess]) -> list[str]:
    """Return what a user should know about the draft before training, in lines."""
    lines = [
        f"label {label.name}: {label.expression} ({label.reason})"
        for label in labels
        if label.expression != quoted(label.column)
    ]
    lines += [f"label {x.name}: {reason}" for x in labels if (reason := untested(x))]
    for name, guessed in guesses.items():
        if guessed.instead:
            lines.append(f"left out {name}: {guessed.reason}")
        elif guessed.is_suspect:
            lines.append(f"check {name}: {guessed.reason}")
    return [_one_line(line) for line in lines]


def _header(profile: Profile, command: str) -> list[str]:
    rows = ", ".join(f"{name} {count:,}" for name, count in profile.rows.items())
    if profile.manifest is not None and profile.manifest.duplicates_dropped:
        dropped = profile.manifest.duplicates_dropped
        share = percent(dropped, dropped + sum(profile.rows.values()))
        rows += f"; {dropped:,} duplicates ({share}) were dropped"
    lines = [f"Drafted by: {command}", f"Rows: {rows}", *profile.layout.notes, ""]
    lines += ["Each line below is a guess, with its reason: review and edit it. Settings: see"]
    lines += ["mbrec/columns/schema.py. A column that is not named is not read."]
    if len(profile.layout.train) > 1 and "validation" in str(profile.layout.train):
        train, validation = profile.layout.train[:2]
        lines += ["", "To choose settings without the test rows, add"]
        lines += [f"  'data.train=[{train}]' 'data.evaluation=[{validation}]'"]
    return [f"# {_one_line(line)}".rstrip() for line in lines]


def _feature_names(guesses: Mapping[str, Guess]) -> dict[str, str]:
    names: dict[str, str] = {}
    for column, guessed in guesses.items():
        if (guessed.instead or guessed.role) in (Role.categorical, Role.numerical):
            names[column] = unique_name(clean_name(column), set(names.values()))
            if names[column] != column:
                guessed.settings["column"] = column
    return names


def _about(column: Field, profile: Profile) -> list[str]:
    """Return type, values and missing values of a column, for its comment."""
    found = [_type(column), *_values(column, profile)]
    if column.stats.nulls:
        found.append(f"{percent(column.stats.nulls, profile.rows[TRAIN])} missing")
    elif column.elsewhere.nulls:
        found.append("missing in other files")
    if column.stats.not_finite and not column.has_infinities:
        found.append(f"{column.stats.not_finite:,} NaN")
    return found


def _type(column: Field) -> str:
    kind = str(column.type).removeprefix("large_")
    kind = {"double": "float64", "float": "float32", "halffloat": "float16"}.get(kind, kind)
    return f"lists of {kind}" if column.is_list else kind


def _values(column: Field, profile: Profile) -> list[str]:
    stats, found = column.stats, []
    if column.is_text:
        found.append(f"{column.distinct or 0:,} different")
    elif stats.min is not None and stats.max is not None:
        # The statistics are floating-point numbers, in which larger integers lose digits.
        rounded = column.is_integer and max(-stats.min, stats.max) > 2**53
        found.append(f"{'about ' if rounded else ''}{number(stats.min)} to {number(stats.max)}")
    if column.is_integer and column.distinct is not None:
        ids = stats.cardinality or 0
        sampled = not profile.sample.is_whole and column.distinct < ids <= FEW_IDS
        found.append(f"{'at least ' if sampled else ''}{column.distinct:,} different")
    if column.is_float and not column.is_list and stats.quantiles:
        found.append(f"median {number(stats.quantiles[50])}")
    if column.is_list:
        longest, mean = stats.max_length or 0, stats.mean_length or 0
        found.append(f"up to {longest:,} per row, {mean:.1f} on average")
    return found


def _buckets(profile: Profile, guesses: Mapping[str, Guess]) -> str:
    """Return a feature with a table, where all columns are numbers."""
    numbers = [profile.fields[c] for c, g in guesses.items() if g.role is Role.numerical]
    fitting = [c for c in numbers if len(set(c.stats.quantiles or [])) > 2]
    if not fitting:
        raise ValueError(
            f"expected a column of ids, codes or numbers in {profile.path}, got none that fits: "
            + "; ".join(f"{name}: {g.reason}" for name, g in guesses.items() if g.reason)[:500]
        )
    column = max(fitting, key=lambda c: len(set(c.stats.quantiles or [])))
    settings: dict[str, Any] = {"column": column.name}
    if profile.manifest is None:
        edges = (column.stats.quantiles or [])[10 : 10 * _BUCKETS : 10]
        settings["boundaries"] = sorted({float(f"{edge:.6g}") for edge in edges})
    else:
        settings["num_buckets"] = _BUCKETS
    if column.has_nulls or column.stats.not_finite:
        settings["missing"] = "row"
    return f"{clean_name(column.name)}_bucket: {_inline(settings)}"


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
        found = ", ".join(f"{split} {rate:.4g}" for split, rate in rates[label.name].items())
        about = (_type(profile.fields[label.column]), found, label.reason, untested(label))
        line = f"{_scalar(label.name)}: {_scalar(label.expression)}"
        section.append((line, "; ".join(filter(None, about))))
    return ["  labels:  # and their rates", *_aligned(section)]


def _left_out(
    profile: Profile, guesses: Mapping[str, Guess], names: Mapping[str, str]
) -> list[str]:
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
    lines += [f"  #   {_one_line(name)}: not in the manifest" for name in missing]
    return ["  # Left out:", *lines] if lines else []


def _aligned(section: Sequence[tuple[str, str]]) -> list[str]:
    at = min(_COMMENT_AT, max(len(line) for line, _ in section))
    return [f"    {line:<{at}}  # {_one_line(about)}".rstrip(" #") for line, about in section]


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_inline(v)}" for key, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(int(value)) if value == math.floor(value) and abs(value) < 1e15 else repr(value)
    if isinstance(value, int) or (_PLAIN.fullmatch(value) and value.lower() not in _MEANINGFUL):
        return str(value)
    # OmegaConf's references are escaped, and the backslashes before them.
    literal = _REFERENCE.sub(lambda match: match[1] * 2 + r"\${", value)
    text = json.dumps(literal, ensure_ascii=False)
    # YAML has no place for control characters, and takes some others for the end of a line.
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in text)


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
