"""Which files of a folder are trained on and which are evaluated on, going by their names."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote

from mbrec.columns.manifest import Manifest
from mbrec.prepare.writer import VOCABULARY
from mbrec.reader.source import Store

TRAIN = "train"

_TRAIN_NAMES = (TRAIN, "training")
_TEST_NAMES = ("test", "testing", "evaluation", "eval")
_VALIDATION_NAMES = ("validation", "valid", "val", "dev")
_HELD_OUT = 10  # one in this number of files, where no folder holds any out

# Folders of partitions as Hive names them, `dt=2024-01-31/`. Parts of a time, the largest first;
# anything else that is a time stands between year and hour.
_RANKS = {"year": 0, "yyyy": 0, "quarter": 1, "month": 2, "mm": 2, "week": 3}
_RANKS |= {"hour": 6, "hh": 6, "hr": 6, "minute": 7}
_DATE = 4
_RANKS |= dict.fromkeys(("date", "day", "dt", "ds", "dd", "datetime", "timestamp", "time"), _DATE)
_SUFFIX = re.compile(r"_(date|day|dt|ds|hour|month|week|year)$")
# 2024-01, 20240131, 2024-01-31 and what may follow.
_TIME = re.compile(r"(19|20)\d\d-?(0[1-9]|1[0-2])(-?(0[1-9]|[12]\d|3[01])([ T_-]?\d\d.*)?)?")
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"

_SortKey = list[tuple[int, str]]


@dataclass
class Layout:
    """The splits of a data set.

    Attributes:
        splits: name -> files in the order of their rows; the first one is `train`.
        train: patterns of the files to train on.
        evaluation: patterns of the files to evaluate on.
        notes: what a user should know about how the files were split.
    """

    splits: dict[str, list[str]]
    train: list[str]
    evaluation: list[str]
    notes: list[str] = field(default_factory=list)

    @property
    def others(self) -> list[str]:
        """Files outside the split `train`, each once."""
        files = [file for name in list(self.splits)[1:] for file in self.splits[name]]
        return [file for file in dict.fromkeys(files) if file not in set(self.splits[TRAIN])]


def find_layout(store: Store, manifest: Manifest | None) -> Layout:
    """Return the splits of a folder.

    They are its folders `train` and `test`, `evaluation` or `validation`. Without `train`, all
    files are one data set, whose last files are evaluated on.

    Raises:
        ValueError: if there is no Parquet file.
    """
    if manifest is None:
        files = store.find(["**/*.parquet"])
    else:
        files = [file for name in manifest.splits for file in manifest.files_of(name)]
    folders: dict[str, list[str]] = {}
    for file in files:
        parts = file.split("/")
        if parts[0] != VOCABULARY:
            folders.setdefault(parts[0] if len(parts) > 1 else "", []).append(file)
    if not folders:
        raise ValueError(f"expected Parquet files at {store.display('**/*.parquet')}, found none")
    train = _named(folders, _TRAIN_NAMES)
    if train is None:
        together = [file for name in folders for file in folders[name]]
        _refuse_several(together, store)
        return _cut(together, "no folder train/: all files are taken as one data set")
    test, validation = _named(folders, _TEST_NAMES), _named(folders, _VALIDATION_NAMES)
    if test is None and validation is None:
        return _cut(folders[train], f"no folder test/: the last files of {train}/ serve as one")
    patterns = {name: _pattern(name, files) for name, files in folders.items()}
    splits = {TRAIN: folders.pop(train)}
    splits |= {name: folders.pop(name) for name in (validation, test) if name is not None}
    notes = [f"not used: {', '.join(sorted(folders))}"] if folders else []
    # Rows that settings were chosen on are trained on as well, for they come just before the test.
    learned = [train, validation] if test and validation else [train]
    evaluated = test or validation or ""
    return Layout(splits, [patterns[name] for name in learned], [patterns[evaluated]], notes)


def _refuse_several(files: Sequence[str], store: Store) -> None:
    parts = [file.split("/") for file in files]
    homes = {p[0] for p in parts if len(p) > 2 and p[1].lower() in _TRAIN_NAMES}
    if homes:
        found = ", ".join(store.display(home) for home in sorted(homes))
        raise ValueError(f"expected the folder of one data set, got one of several: {found}")


def _named(folders: Mapping[str, Sequence[str]], names: Sequence[str]) -> str | None:
    return next((f for name in names for f in folders if f.lower() == name), None)


def _pattern(folder: str, files: Sequence[str]) -> str:
    deep = any("/" in file.removeprefix(f"{folder}/") for file in files)
    return f"{_escape(folder)}/{'**/' if deep else ''}*.parquet"


def _cut(files: Sequence[str], note: str) -> Layout:
    """Split files that no folder splits: by time, else by folder, else by file."""
    named, how = _units(files)
    patterns = list(named)
    if len(patterns) == 1:
        note = (
            "there is one file: it is evaluated on the rows that it was trained on, which shows "
            "nothing about new rows; split it by time, into train/ and test/"
        )
        return Layout({TRAIN: list(files), "evaluation": list(files)}, patterns, patterns, [note])
    first = len(patterns) - max(1, round(len(patterns) / _HELD_OUT))
    train, evaluation = patterns[:first], patterns[first:]
    splits = {
        TRAIN: [file for pattern in train for file in named[pattern]],
        "evaluation": [file for pattern in evaluation for file in named[pattern]],
    }
    note += f"; evaluated on{how}: {', '.join(evaluation[:3])}"
    return Layout(splits, train, evaluation, [note])


def _units(files: Sequence[str]) -> tuple[dict[str, list[str]], str]:
    """Return pattern -> its files, the oldest first as far as names show, and what they are."""
    folders: dict[str, list[str]] = {}
    for file in sorted(files, key=_natural):
        folders.setdefault(file.rpartition("/")[0], []).append(file)
    if len(folders) == 1:
        return {_escape(file): [file] for found in folders.values() for file in found}, ""
    units: dict[str, list[str]] = {}
    if times := _times(list(folders)):
        # All files of one time, whatever their other partitions are, stay together.
        for folder in sorted(folders, key=lambda folder: (times[folder][1], _natural(folder))):
            units.setdefault(f"{times[folder][0]}/*.parquet", []).extend(folders[folder])
        if len(units) > 1:
            return {pattern: sorted(units[pattern]) for pattern in units}, " the last times"
    named = {f"{_escape(k)}/*.parquet" if k else "*.parquet": v for k, v in folders.items()}
    return named, " the last folders by name, which show no time,"


def _times(folders: Sequence[str]) -> dict[str, tuple[str, list[_SortKey]]]:
    """Return folder -> its path with `*` for partitions that are no time, and what sorts by time.

    Empty if there is no partition of a time that all folders have.
    """
    partitions = {folder: _partitions(folder) for folder in folders}
    ranks = {}
    for key in set.intersection(*(set(values) for values in partitions.values())):
        rank = _rank(key, [values[key] for values in partitions.values()])
        if rank is not None:
            ranks[key] = rank
    order = sorted(ranks, key=lambda key: (ranks[key], key))
    return {
        folder: (_without_others(folder, ranks), [_time(values[key]) for key in order])
        for folder, values in partitions.items()
        if ranks
    }


def _partitions(folder: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in folder.split("/"))
    return {key: unquote(value) for key, separator, value in pairs if key and separator}


def _rank(key: str, values: Sequence[str]) -> int | None:
    """Return how large a part of a time a partition is, 0 the largest; None if it is no time."""
    name = key.lower()
    known = [value for value in values if value != _NO_VALUE]
    suffix = _SUFFIX.search(name)
    rank = _RANKS.get(name, _RANKS[suffix[1]] if suffix else None)
    if rank is not None and known and all(value[:1].isdigit() for value in known):
        return rank
    return _DATE if known and all(map(_TIME.fullmatch, known)) else None


def _time(value: str) -> _SortKey:
    # Rows without a time come first: they are not those to evaluate on.
    return [] if value == _NO_VALUE else _natural(value)


def _without_others(folder: str, kept: Mapping[str, int]) -> str:
    parts = []
    for part in folder.split("/"):
        key, separator, _ = part.partition("=")
        parts.append(f"{_escape(key)}=*" if separator and key not in kept else _escape(part))
    return "/".join(parts)


def _natural(name: str) -> _SortKey:
    """Return what sorts part-2 before part-10."""
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in re.split(r"(\d+)", name)]


def _escape(name: str) -> str:
    """Return a pattern that matches a name alone."""
    return re.sub(r"([*?\[])", r"[\1]", name)
