"""What each column can be used as: an id, a number, weights of a list, or nothing."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
import pyarrow.compute as pc

from mbrec.prepare.describe import scaling
from mbrec.prepare.describe.clock import time_format
from mbrec.prepare.describe.labels import Label
from mbrec.prepare.describe.layout import TRAIN
from mbrec.prepare.describe.leaks import find_leak
from mbrec.prepare.describe.names import (
    AFTERWARDS,
    CODES,
    EVENTS,
    HISTORIES,
    NUMBERS,
    WEIGHTS,
    words,
)
from mbrec.prepare.describe.profile import Field, Profile

# Rows of the largest table that a draft asks for.
LARGEST_TABLE = 5_000_000
_WORTH_HASHING = 10_000
_SPARSE = 4
_LONG_LIST = 100
_LONGEST_CUT = 1_000
_FEW = 1_000  # whole numbers with fewer different values may as well be ids
_HASHED = 2.0**40  # beyond it, an integer is more likely a hash than a number
_TEXT_CHARACTERS, _TEXT_WORDS = 60, 5


class Role(Enum):
    """What a column is used as."""

    label = "label"
    categorical = "categorical"
    numerical = "numerical"
    weights = "weights"
    left_out = "left_out"


@dataclass
class Guess:
    """What a column is used as, and why.

    Attributes:
        role: see `Role`.
        settings: of the feature, as in the YAML.
        reason: for the role or the settings; may be empty.
        instead: the role, with these settings, that a column left out on suspicion would have.
        is_suspect: whether it is a feature that may be known only after a label.
    """

    role: Role
    settings: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    instead: Role | None = None
    is_suspect: bool = False

    def leave_out(self, reason: str) -> None:
        """Make no feature of it, on a suspicion."""
        if self.role is not Role.left_out:
            self.instead, self.role = self.role, Role.left_out
        self.reason = reason


def guess(profile: Profile, labels: list[Label], kept_out: dict[str, str]) -> dict[str, Guess]:
    """Return what each column is used as, from the labels and reasons of `find_labels`."""
    found = {label.column: Guess(Role.label, reason=label.reason) for label in labels}
    for name, column in profile.fields.items():
        if name in found:
            continue
        suspicion = kept_out.get(name) or _suspicion(column)
        if unfit := _unfit(column, profile.rows[TRAIN]):
            reason = "; ".join(filter(None, (suspicion, unfit)))
            found[name] = Guess(Role.left_out, reason=reason)
        else:
            found[name] = _feature(column, profile)
            if suspicion:
                found[name].leave_out(suspicion)
    for name, one in found.items():
        if one.role not in (Role.categorical, Role.numerical):
            continue
        column = profile.sample.table[name]
        if leak := find_leak(column, labels, is_number=one.role is Role.numerical):
            reason, is_certain = leak
            if is_certain:
                one.leave_out(reason)
            else:
                one.is_suspect = True
                one.reason = "; ".join(filter(None, (reason, one.reason)))
    _pair_weights(profile, found)
    return {name: found[name] for name in profile.fields}


def hash_size(distinct: int) -> int:
    """Return about twice the number of values, in round numbers, at most `LARGEST_TABLE`."""
    wanted = max(100, 2 * distinct)
    step = 10 ** max(0, len(str(wanted)) - 2)
    return min(-(-wanted // step) * step, LARGEST_TABLE)


def _unfit(column: Field, rows: int) -> str | None:
    """Return why a column cannot be a feature at all, or None."""
    stats, name = column.stats, column.name.lower()
    if not column.is_everywhere:
        return "not in all files"
    if stats.nulls == rows or (column.is_list and not column.lengths.any()):
        return "empty in the training rows"
    if time_format(column):
        return "a time: rows to come have others; derive the hour or an age from it"
    if not (column.is_integer or column.is_float or column.is_text):
        return "no feature takes this type; write numbers, strings, or lists of these"
    if name in WEIGHTS and not column.is_text and (stats.min or 0) >= 0:
        return f"a weight by its name; `weight: {column.name}` weights rows with it"
    if not stats.nulls and not column.is_list and _is_constant(column):
        return "the same value in all training rows"
    if column.is_text and not column.is_list and _is_prose(column):
        return "free text"
    if _is_unique(column, rows):
        return "another value in nearly every row"
    return scaling.unfit(column) if column.is_float else None


def _suspicion(column: Field) -> str | None:
    """Return why a column is known only after an outcome, by its name, or None."""
    name = column.name.lower()
    if name in AFTERWARDS:
        return "known only afterwards, by its name"
    if name in EVENTS and column.is_text and 0 < (column.distinct or 0) <= 20:
        value = column.seen[0].as_py()
        return f"what happened, by its name; a label may be: {column.name} == {value!r}"
    return None


def _feature(column: Field, profile: Profile) -> Guess:
    if column.is_list and column.is_float:
        return Guess(Role.left_out, reason="lists of numbers, and no lists of ids to weight")
    if column.is_text or column.is_list or (column.is_integer and _looks_like_id(column)):
        return _categorical(column, has_manifest=profile.manifest is not None)
    settings, reason = scaling.settings(column, written=profile.manifest is None)
    return Guess(Role.numerical, settings, reason)


def _categorical(column: Field, *, has_manifest: bool) -> Guess:
    settings, reasons = _ids(column, has_manifest)
    if column.is_list:
        settings["multi_hot"] = True
        if (column.stats.max_length or 0) > _LONG_LIST:
            most = int(np.quantile(column.lengths, 0.99, method="higher"))
            settings["max_length"] = max(1, min(most, _LONGEST_CUT))
            is_history = not HISTORIES.isdisjoint(words(column.name))
            settings["keep"] = "last" if is_history else "first"
            kept = "last ids: the newest, if they end with these" if is_history else "first ids"
            reasons.append(f"99% are no longer than {most:,}, longer ones keep their {kept}")
    if column.has_nulls:
        settings["missing"] = "row"
    if "hash_size" not in settings and _may_be_unknown(column):
        settings["out_of_vocabulary"] = "oov"
        if not column.is_text:
            reasons.append("other files have ids outside of these")
    return Guess(Role.categorical, settings, "; ".join(reasons))


def _ids(column: Field, has_manifest: bool) -> tuple[dict[str, Any], list[str]]:
    """Return how values become ids, and why."""
    stats, distinct = column.stats, column.distinct or 1
    if column.is_text:
        mark = None if column.is_list else _separator(column)
        reasons = [f"lists separated by {mark}? then prepare them as lists"] if mark else []
        if has_manifest and stats.vocabulary:
            return {"vocabulary": stats.vocabulary}, reasons
        return {"hash_size": hash_size(distinct)}, ["no vocabulary, so hashed", *reasons]
    ids = stats.cardinality
    if ids is None:
        return {"hash_size": hash_size(distinct)}, ["negative ids, or beyond 2^63"]
    if ids > LARGEST_TABLE or (ids > _WORTH_HASHING and ids > _SPARSE * distinct + _FEW):
        return {"hash_size": hash_size(distinct)}, ["few of many possible ids"]
    return ({} if has_manifest else {"cardinality": ids}), []


def _separator(column: Field) -> str | None:
    seen = column.seen[:_FEW].to_pylist()
    return next((m for m in "|;," if sum(m in value for value in seen) > len(seen) / 2), None)


def _may_be_unknown(column: Field) -> bool:
    """Whether rows outside the statistics may have ids outside of them."""
    elsewhere = column.elsewhere
    if column.is_text or not elsewhere.is_known:
        return True
    return elsewhere.least < 0 or elsewhere.most >= (column.stats.cardinality or 0)


def _looks_like_id(column: Field) -> bool:
    named, stats = set(words(column.name)), column.stats
    if named & CODES or str(column.type) == "bool":
        return True
    ids, largest = stats.cardinality, stats.max
    # A cardinality beyond the largest id was stated by who prepared the data.
    if ids is not None and largest is not None and (ids > largest + 1 or ids <= 3):
        return True
    if named & NUMBERS:
        return False
    if (column.distinct or 1) <= _FEW:
        return True
    least, most = stats.min or 0, stats.max or 0
    if least < 0:
        return max(-least, most) > _HASHED
    # Sizes crowd near zero; ids do not.
    median = stats.quantiles[50] if stats.quantiles else 0.0
    return most > _HASHED or (stats.mean or 0) <= 3 * median


def _is_constant(column: Field) -> bool:
    if column.is_text:
        return (column.distinct or 0) <= 1
    if column.is_integer and (column.distinct or 0) > 1:
        return False  # statistics are floating-point numbers, which are equal beyond 2^53
    return column.stats.min == column.stats.max and not column.stats.not_finite


def _is_unique(column: Field, rows: int) -> bool:
    if column.is_list or not (column.is_text or (column.is_integer and _looks_like_id(column))):
        return False
    return (column.distinct or 0) >= max(20, 0.95 * (rows - column.stats.nulls))


def _is_prose(column: Field) -> bool:
    if (column.distinct or 0) <= _FEW:
        return False
    characters = pc.call_function("utf8_length", [column.seen])
    spaces = pc.call_function("count_substring", [column.seen], pc.MatchSubstringOptions(" "))
    length, breaks = (float(np.mean(counts.to_numpy())) for counts in (characters, spaces))
    return length > _TEXT_CHARACTERS or breaks + 1 > _TEXT_WORDS


def _pair_weights(profile: Profile, found: dict[str, Guess]) -> None:
    """Use lists of numbers as the weights of lists of ids that are always as long."""
    columns = profile.fields
    bags = [
        n for n, g in found.items() if g.role is Role.categorical and g.settings.get("multi_hot")
    ]
    for name, guessed in found.items():
        column = columns[name]
        if not (column.is_list and column.is_float and guessed.role is Role.left_out):
            continue
        if column.stats.null_values or column.stats.not_finite or not column.lengths.any():
            continue
        fitting = [n for n in bags if np.array_equal(columns[n].lengths, column.lengths)]
        if fitting:
            bag = max(fitting, key=lambda n: len({*words(name)} & {*words(n)}))
            bags.remove(bag)
            found[bag].settings["weights"] = name
            found[name] = Guess(Role.weights, reason=f"as many numbers as {bag} has ids, always")
