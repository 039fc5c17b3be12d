"""Which files of a folder are trained on and which are evaluated on, going by their names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mbrec.columns.manifest import Manifest
from mbrec.prepare.describe.partitions import escape, natural, times
from mbrec.prepare.writer import VOCABULARY
from mbrec.reader.source import Store

TRAIN = "train"

_TRAIN_NAMES = ("train", "training")
_TEST_NAMES = ("test", "testing", "evaluation", "eval")
_VALIDATION_NAMES = ("validation", "valid", "val", "dev")
_HELD_OUT = 10  # without folders for it, one in so many files


@dataclass
class Layout:
    """The splits of a data set.

    Attributes:
        splits: name -> files in the order of their rows; the first one is `train`.
        train: patterns of the files to train on.
        evaluation: patterns of the files to evaluate on.
        notes: what a user should know of how the files were split.
    """

    splits: dict[str, list[str]]
    train: list[str]
    evaluation: list[str]
    notes: list[str] = field(default_factory=list)

    @property
    def others(self) -> list[str]:
        """Files outside of the split `train`, each once."""
        files = [file for name in list(self.splits)[1:] for file in self.splits[name]]
        return [file for file in dict.fromkeys(files) if file not in set(self.splits[TRAIN])]


def find_layout(store: Store, manifest: Manifest | None) -> Layout:
    """Return the splits of a folder.

    A folder `train` (and `test`, `evaluation`, `validation`) tells them. Without one, all files are
    one data set, whose last files are those to evaluate on.

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
        _refuse_several(files, store)
        together = [file for name in folders for file in folders[name]]
        return _cut(together, "no folder train/: all files are taken for one data set")
    test, validation = _named(folders, _TEST_NAMES), _named(folders, _VALIDATION_NAMES)
    if test is None and validation is None:
        return _cut(folders[train], f"no folder test/: the last files of {train}/ stand for it")
    splits = {TRAIN: folders.pop(train)}
    splits |= {name: folders.pop(name) for name in (validation, test) if name is not None}
    notes = [f"not used: {', '.join(sorted(folders))}"] if folders else []
    patterns = {name: _pattern(name, files) for name, files in splits.items()}
    patterns[TRAIN] = _pattern(train, splits[TRAIN])
    # What settings were chosen on is trained on at last, for the days before the test.
    learnt = [TRAIN, validation] if test and validation else [TRAIN]
    evaluated = test or validation or ""
    return Layout(splits, [patterns[n] for n in learnt if n], [patterns[evaluated]], notes)


def _refuse_several(files: Sequence[str], store: Store) -> None:
    parts = [file.split("/") for file in files]
    homes = {p[0] for p in parts if len(p) > 2 and p[1].lower() in _TRAIN_NAMES}
    if homes:
        found = ", ".join(store.display(home) for home in sorted(homes))
        raise ValueError(f"expected the folder of a data set, got one of data sets: {found}")


def _named(folders: Mapping[str, Sequence[str]], names: Sequence[str]) -> str | None:
    return next((f for name in names for f in folders if f.lower() == name), None)


def _pattern(folder: str, files: Sequence[str]) -> str:
    deep = any("/" in file.removeprefix(f"{folder}/") for file in files)
    return f"{escape(folder)}/{'**/' if deep else ''}*.parquet"


def _cut(files: Sequence[str], note: str) -> Layout:
    """Split files that no folder splits: by time, else by folder, else by file."""
    named, how = _units(files)
    patterns = list(named)
    if len(patterns) == 1:
        note = (
            "there is one file: it is evaluated on the rows that it was trained on, which says "
            "nothing of new rows; split it by time, into train/ and test/"
        )
        return Layout({TRAIN: list(files), "evaluation": list(files)}, patterns, patterns, [note])
    first = len(patterns) - max(1, round(len(patterns) / _HELD_OUT))
    splits = {
        TRAIN: [file for pattern in patterns[:first] for file in named[pattern]],
        "evaluation": [file for pattern in patterns[first:] for file in named[pattern]],
    }
    note += f"; evaluated on{how}: {', '.join(patterns[first:][:3])}"
    return Layout(splits, patterns[:first], patterns[first:], [note])


def _units(files: Sequence[str]) -> tuple[dict[str, list[str]], str]:
    """Return pattern -> its files, the oldest first as far as names tell, and what they are."""
    folders: dict[str, list[str]] = {}
    for file in sorted(files, key=natural):
        folders.setdefault(file.rpartition("/")[0], []).append(file)
    if len(folders) == 1:
        return {escape(file): [file] for file in sorted(files, key=natural)}, ""
    units: dict[str, list[str]] = {}
    if (found := times(list(folders))) is not None:
        # All that is of one time, whatever the other partitions are, is trained or evaluated on.
        for folder in sorted(folders, key=lambda folder: (found[folder][1], natural(folder))):
            units.setdefault(f"{found[folder][0]}/*.parquet", []).extend(folders[folder])
        if len(units) > 1:
            return {pattern: sorted(units[pattern]) for pattern in units}, " the last times"
    named = {f"{escape(k)}/*.parquet" if k else "*.parquet": v for k, v in folders.items()}
    return named, " the last folders by name, which tell no time,"
