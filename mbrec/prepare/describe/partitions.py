"""Folders of partitions, as Hive names them (`dt=2024-01-31/`): which of them tell the time."""

import re
from collections.abc import Mapping, Sequence
from urllib.parse import unquote

# Parts of a time, the largest first; anything else that tells one stands between year and hour.
_RANKS = {"year": 0, "yyyy": 0, "quarter": 1, "month": 2, "mm": 2, "week": 3}
_RANKS |= {"hour": 6, "hh": 6, "hr": 6, "minute": 7}
_DATE = 4
_RANKS |= dict.fromkeys(("date", "day", "dt", "ds", "dd", "datetime", "timestamp", "time"), _DATE)
_SUFFIX = re.compile(r"_(date|day|dt|ds|hour|month|week|year)$")
# 2024-01, 20240131, 2024-01-31 and what may follow.
_VALUE = re.compile(r"(19|20)\d\d-?(0[1-9]|1[0-2])(-?(0[1-9]|[12]\d|3[01])([ T_-]?\d\d.*)?)?")
# Hive's name of a partition without a value.
_NOTHING = "__HIVE_DEFAULT_PARTITION__"

# The time of a folder, to be sorted by.
Time = tuple[list[tuple[int, str]], ...]


def times(folders: Sequence[str]) -> dict[str, tuple[str, Time]] | None:
    """Return the time that each folder's partitions tell, with a pattern for all of that time.

    Args:
        folders: below the data set's folder.

    Returns:
        folder -> its path with `*` for the values of other partitions, and what sorts by time; or
        None if there is no partition of a time that all of them have.
    """
    partitions = {folder: _partitions(folder) for folder in folders}
    common = set.intersection(*(set(values) for values in partitions.values()))
    ranks = {
        key: rank
        for key in common
        if (rank := _rank(key, [values[key] for values in partitions.values()])) is not None
    }
    if not ranks:
        return None
    order = sorted(ranks, key=lambda key: (ranks[key], key))
    return {
        folder: (_pattern(folder, ranks), tuple(_time(values[key]) for key in order))
        for folder, values in partitions.items()
    }


def natural(name: str) -> list[tuple[int, str]]:
    """Return what sorts part-2 before part-10."""
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in re.split(r"(\d+)", name)]


def escape(name: str) -> str:
    """Return a pattern that matches a name alone."""
    return re.sub(r"([*?\[])", r"[\1]", name)


def _partitions(folder: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in folder.split("/"))
    return {key: unquote(value) for key, separator, value in pairs if key and separator}


def _rank(key: str, values: Sequence[str]) -> int | None:
    """Return how large a part of a time a partition tells, 0 the largest, or None."""
    name = key.lower()
    known = [value for value in values if value != _NOTHING]
    if name in _RANKS or (suffix := _SUFFIX.search(name)) is None:
        rank = _RANKS.get(name)
    else:
        rank = _RANKS[suffix[1]]
    if rank is not None and known and all(value[:1].isdigit() for value in known):
        return rank
    return _DATE if known and all(map(_VALUE.fullmatch, known)) else None


def _time(value: str) -> list[tuple[int, str]]:
    # Rows of no known time are not those to evaluate on: they come first.
    return [] if value == _NOTHING else natural(value)


def _pattern(folder: str, kept: Mapping[str, int]) -> str:
    parts = []
    for part in folder.split("/"):
        key, separator, _ = part.partition("=")
        parts.append(f"{escape(key)}=*" if separator and key not in kept else escape(part))
    return "/".join(parts)
