"""The manifest of a prepared data set: its files, splits, and what its columns hold.

It says which bytes belong to the data set and saves whoever reads it from scanning the rows. It
comes with the data, so nothing in it is trusted: what is not as it should be is refused by name.
"""

import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from pyarrow import fs

NAME = "manifest.json"
VERSION = 1
QUANTILES = 101
MAX_BYTES = 64 << 20

# A path as every file system takes it: no drives, URLs, patterns or control characters.
_UNFIT = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|\[\]]')
_LARGEST = 2**63 - 1
_INTEGERS = ("cardinality", "nulls", "null_values", "not_finite", "max_length")
_NUMBERS = ("mean_length", "min", "max", "mean", "std", "log1p_mean", "log1p_std")
_TEXTS = ("first", "last", "vocabulary", "note")


@dataclass
class File:
    """A file of the data set: its rows, its size in bytes, and the SHA-256 of these, in hex."""

    rows: int
    bytes: int
    sha256: str


@dataclass
class Split:
    """Rows of a split, and the mean of each label over them."""

    rows: int
    label_rates: dict[str, float] = field(default_factory=dict)


@dataclass
class Column:
    """What a column holds in the training rows; None where it does not apply.

    Attributes:
        nulls: rows without a value.
        cardinality: of integers, the largest + 1 (or what the script gave; None if some are
            negative); of strings, how many different ones there are.
        vocabulary: of strings, the file with the different ones, most frequent first.
        max_length, mean_length: of lists that are not null.
        null_values: of lists, the nulls in them.
        not_finite: infinities and NaN; all figures below leave them out.
        min, max, mean, std: of numbers, or of the numbers in lists; `std` of the population.
        log1p_mean, log1p_std: of log(1 + x); None where there are values <= -1.
        quantiles: 0 %, 1 % ... 100 %, of a sample.
        first, last: of dates and times.
        note: what else a reader should know.
    """

    nulls: int = 0
    cardinality: int | None = None
    vocabulary: str | None = None
    max_length: int | None = None
    mean_length: float | None = None
    null_values: int | None = None
    not_finite: int | None = None
    min: float | None = None
    max: float | None = None
    mean: float | None = None
    std: float | None = None
    log1p_mean: float | None = None
    log1p_std: float | None = None
    quantiles: list[float] | None = None
    first: str | None = None
    last: str | None = None
    note: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what the manifest says of the column."""
        said = {key: value for key, value in asdict(self).items() if value is not None}
        if self.mean is not None:
            said |= {"log1p_mean": self.log1p_mean, "log1p_std": self.log1p_std}
        return said


@dataclass
class Manifest:
    """A prepared data set.

    Attributes:
        files: path from the root, with slashes -> file.
        splits: name -> split; its files are those in the folder of that name.
        columns: name -> what the training rows hold.
        duplicates_dropped: rows that were equal to an earlier one.
        notes: what the script added, as JSON.
    """

    files: dict[str, File]
    splits: dict[str, Split]
    columns: dict[str, Column] = field(default_factory=dict)
    duplicates_dropped: int = 0
    notes: dict[str, Any] = field(default_factory=dict)

    def files_of(self, split: str) -> list[str]:
        """Return the paths of a split's files, in the order of their rows.

        Raises:
            ValueError: if there is no such split.
        """
        if split not in self.splits:
            raise ValueError(f"expected a split of {', '.join(self.splits)}, got '{split}'")
        return sorted(name for name in self.files if name.startswith(f"{split}/"))

    def to_dict(self) -> dict[str, Any]:
        """Return the manifest as JSON has it."""
        return {
            "version": VERSION,
            "files": {name: asdict(file) for name, file in self.files.items()},
            "splits": {name: asdict(split) for name, split in self.splits.items()},
            "columns": {name: column.to_dict() for name, column in self.columns.items()},
            "duplicates_dropped": self.duplicates_dropped,
            "notes": self.notes,
        }

    @classmethod
    def from_dict(cls, content: object, where: str = NAME) -> "Manifest":
        """Check a manifest that was read from JSON; keys that are not known are left out.

        Raises:
            ValueError: naming the file (`where`) and the key.
        """
        top = _At(content, where, "manifest")
        if (version := top.get("version", 0)) != VERSION:
            _refuse(where, "version", f"{VERSION}, which this release reads", version)
        files = {name: _file(at) for name, at in top.of("files").items()}
        rows = Counter[str]()
        for name, file in files.items():
            check_path(name, f"{where}: files")
            rows[name.partition("/")[0]] += file.rows
        splits = {name: _split(at) for name, at in top.of("splits").items()}
        columns = {name: _column(at, files) for name, at in top.of("columns", {}).items()}
        for name, split in splits.items():
            if split.rows != rows[name]:
                _refuse(where, f"splits.{name}.rows", f"{rows[name]} as in its files", split.rows)
        notes = _At(top.get("notes", {}), where, "notes").content
        dropped = top.integer("duplicates_dropped", 0)
        return cls(files, splits, columns, dropped, notes)


def load(filesystem: fs.FileSystem, root: str) -> Manifest:
    """Read and check the manifest of the data set at `root`.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: naming the file and the key that is not as it should be.
    """
    path = join(root, NAME)
    info = filesystem.get_file_info(path)
    if not info.is_file:
        raise FileNotFoundError(f"expected a manifest at {path}, found none; see scripts/prepare_*")
    if (info.size or 0) > MAX_BYTES:
        raise ValueError(f"{path}: expected at most {MAX_BYTES} bytes, got {info.size}")
    with filesystem.open_input_stream(path, compression=None) as stream:
        content = stream.read(MAX_BYTES)
    try:
        decoded = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON, got something else: {error}") from error
    return Manifest.from_dict(decoded, path)


def load_folder(folder: str | Path) -> Manifest:
    """Read and check the manifest of a data set on this machine; see `load`."""
    return load(fs.LocalFileSystem(), str(folder))


def save(manifest: Manifest, folder: str | Path) -> None:
    """Write `manifest.json` into a folder on this machine."""
    text = json.dumps(manifest.to_dict(), indent=2, allow_nan=False, ensure_ascii=False)
    # Lists of numbers on one line each; a line break never stands inside a JSON string.
    text = re.sub(r'\[\n\s+([^\[\]{}"]*?)\n\s+\]', lambda m: f"[{' '.join(m[1].split())}]", text)
    (Path(folder) / NAME).write_text(text + "\n", encoding="utf-8")


def join(root: str, name: str) -> str:
    """Return the path of a file below a root, for a file system of pyarrow's."""
    return f"{root.rstrip('/')}/{name}" if root else name


def check_path(name: str, where: str) -> None:
    """Refuse a path that could lead out of the folder of the data set.

    Raises:
        ValueError: if it is absolute, hidden, a URL, has `..` in it or characters with a meaning.
    """
    hidden = any(part.strip()[:1] in ("", ".") for part in name.split("/"))
    if len(name) > 1024 or _UNFIT.search(name) or hidden:
        _refuse(where, "", "a path below the folder of the data set, with plain slashes", name)


def describe(path: Path, rows: int) -> File:
    """Return what a manifest says of a file on this machine."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return File(rows, path.stat().st_size, sha256)


class _At:
    """An object of the JSON, and how errors call it."""

    def __init__(self, content: object, where: str, key: str) -> None:
        if not isinstance(content, dict):
            _refuse(where, key, "an object", content)
        self.content: dict[str, object] = content
        self.where, self.key = where, key

    def _name(self, key: str) -> str:
        return key if self.key == "manifest" else f"{self.key}.{key}"

    def get(self, key: str, default: object = None) -> object:
        """Return a value; None as a default stands for one that has to be there."""
        if key not in self.content and default is None:
            raise ValueError(f"{self.where}: expected the key '{self._name(key)}', got none")
        return self.content.get(key, default)

    def of(self, key: str, default: object = None) -> "dict[str, _At]":
        own = self._name(key)
        content = _At(self.get(key, default), self.where, own).content
        return {name: _At(at, self.where, f"{own}.{name}") for name, at in content.items()}

    def integer(self, key: str, default: object = None) -> int:
        value = self.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LARGEST:
            _refuse(self.where, self._name(key), "an integer in [0, 2^63)", value)
        return value

    def number(self, key: str) -> float:
        return _number(self.get(key), self.where, self._name(key))

    def text(self, key: str) -> str:
        if not isinstance(value := self.get(key), str):
            _refuse(self.where, self._name(key), "a string", value)
        return value


def _file(at: _At) -> File:
    sha256 = at.text("sha256")
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        _refuse(at.where, f"{at.key}.sha256", "64 hexadecimal digits", sha256)
    return File(at.integer("rows"), at.integer("bytes"), sha256)


def _split(at: _At) -> Split:
    check_path(at.key.removeprefix("splits."), f"{at.where}: splits")
    rates = _At(at.get("label_rates", {}), at.where, f"{at.key}.label_rates")
    return Split(at.integer("rows"), {name: rates.number(name) for name in rates.content})


def _column(at: _At, files: Mapping[str, File]) -> Column:
    there = {key for key, value in at.content.items() if value is not None}
    known: dict[str, Any] = {}
    readers: list[tuple[tuple[str, ...], Callable[[str], Any]]] = [
        (_INTEGERS, at.integer),
        (_NUMBERS, at.number),
        (_TEXTS, at.text),
    ]
    for keys, read in readers:
        known |= {key: read(key) for key in keys if key in there}
    if (file := known.get("vocabulary")) is not None and file not in files:
        _refuse(at.where, f"{at.key}.vocabulary", "one of the files", file)
    if "quantiles" in there:
        key, values = f"{at.key}.quantiles", at.get("quantiles")
        if not isinstance(values, list) or len(values) != QUANTILES:
            _refuse(at.where, key, f"{QUANTILES} numbers", values)
        known["quantiles"] = [_number(value, at.where, key) for value in values]
        if known["quantiles"] != sorted(known["quantiles"]):
            _refuse(at.where, key, "rising numbers", values)
    return Column(**known)


def _number(value: object, where: str, key: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        _refuse(where, key, "a number", value)
    if not -sys.float_info.max <= value <= sys.float_info.max:
        _refuse(where, key, "a finite number", value)
    return float(value)


def _refuse(where: str, key: str, expected: str, got: object) -> NoReturn:
    shown = repr(got) if len(repr(got)) <= 80 else f"{repr(got)[:77]}..."
    raise ValueError(f"{where}: {key + ': ' if key else ''}expected {expected}, got {shown}")
