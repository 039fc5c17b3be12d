"""The manifest of a prepared data set: its files, splits, and what its columns hold.

It says which bytes belong to the data set and saves its readers from scanning the rows. It
comes with the data, so nothing in it is trusted: what is not as it should be is refused by name,
and so is a manifest that its own digest does not belong to.
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

from mbrec.files.sealed import digest

NAME = "manifest.json"
VERSION = 2
# Without a digest, and without those of footers; still read, with a warning.
WITHOUT_DIGEST = 1
QUANTILES = 101
MAX_BYTES = 64 << 20

# As pyarrow does: one read has the footer of most files.
_TAIL = 1 << 16

# A path as every file system takes it: no drives, URLs, patterns or control characters.
_UNFIT = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|\[\]]')
_LARGEST = 2**63 - 1
_INTEGERS = ("cardinality", "nulls", "null_values", "not_finite", "max_length")
_NUMBERS = ("mean_length", "min", "max", "mean", "std", "log1p_mean", "log1p_std")
_TEXTS = ("first", "last", "vocabulary", "note")


@dataclass
class File:
    """A file of the data set.

    Attributes:
        rows: of it.
        bytes: its size.
        sha256: of its bytes, in hex.
        footer_sha256: of a Parquet file's footer, which no checksum in the file covers.
    """

    rows: int
    bytes: int
    sha256: str
    footer_sha256: str | None = None


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
        said = _without_none(self)
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
        version: of the format that it was read from.
    """

    files: dict[str, File]
    splits: dict[str, Split]
    columns: dict[str, Column] = field(default_factory=dict)
    duplicates_dropped: int = 0
    notes: dict[str, Any] = field(default_factory=dict)
    version: int = field(default=VERSION, compare=False)

    @property
    def warning(self) -> str | None:
        """What a manifest of this version does not protect, or None."""
        if self.version == VERSION:
            return None
        return (
            f"{NAME} is of an earlier release and has no digest: its statistics, and the footers "
            "of the files, are not protected against damage; prepare the data again to protect them"
        )

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
            "files": {name: _without_none(file) for name, file in self.files.items()},
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
        version = top.integer("version", 0)
        if version not in (VERSION, WITHOUT_DIGEST):
            known = f"{VERSION} or {WITHOUT_DIGEST}, which this release reads"
            _refuse(where, "version", known, version)
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
        return cls(files, splits, columns, dropped, notes, version)


def load(filesystem: fs.FileSystem, root: str) -> Manifest:
    """Read and check the manifest of the data set at `root`.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: naming the file and the key that is not as it should be; or if the content is
            not what was written.
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
    found = Manifest.from_dict(decoded, path)
    if not _is_sealed(decoded):
        raise ValueError(
            f"{path}: expected the content that its digest belongs to, got another: it was damaged "
            "or edited; copy it again, or prepare the data again"
        )
    return found


def load_folder(folder: str | Path) -> Manifest:
    """Read and check the manifest of a data set on this machine; see `load`."""
    return load(fs.LocalFileSystem(), str(folder))


def save(manifest: Manifest, folder: str | Path) -> None:
    """Write `manifest.json` into a folder on this machine."""
    (Path(folder) / NAME).write_text(sealed(manifest.to_dict()), encoding="utf-8")


def sealed(content: Mapping[str, Any]) -> str:
    """Return the text of a manifest's content, with its digest."""
    # As it will be read: JSON has neither tuples nor keys that are numbers.
    plain = json.loads(json.dumps(content, allow_nan=False))
    plain = {"version": plain["version"], "digest": digest(plain), **plain}
    text = json.dumps(plain, indent=2, ensure_ascii=False)
    # Lists of numbers on one line each; a line break never stands inside a JSON string.
    text = re.sub(r'\[\n\s+([^\[\]{}"]*?)\n\s+\]', lambda m: f"[{' '.join(m[1].split())}]", text)
    return text + "\n"


def _is_sealed(content: Mapping[str, Any]) -> bool:
    # A digest that is there counts, whatever has become of the version.
    if "digest" not in content:
        return content.get("version") == WITHOUT_DIGEST
    try:
        rest = {key: value for key, value in content.items() if key != "digest"}
        return content["digest"] == digest(rest)
    except RecursionError:
        return False


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
    """Return what a manifest says of a Parquet file on this machine."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        footer = hashlib.sha256(read_footer(file)).hexdigest()
        return File(rows, path.stat().st_size, sha256, footer)


def read_footer(file: Any) -> bytes:
    """Return what follows the pages of a Parquet file that is open."""
    size = file.seek(0, 2) or file.tell()
    file.seek(max(0, size - _TAIL))
    tail = file.read(_TAIL)
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if len(tail) < min(length, size):
        file.seek(max(0, size - length))
        tail = file.read(length)
    return tail[-length:]


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
    hashes = {"sha256": at.text("sha256")}
    if at.content.get("footer_sha256") is not None:
        hashes["footer_sha256"] = at.text("footer_sha256")
    for key, value in hashes.items():
        if not re.fullmatch("[0-9a-f]{64}", value):
            _refuse(at.where, f"{at.key}.{key}", "64 hexadecimal digits", value)
    return File(at.integer("rows"), at.integer("bytes"), **hashes)


def _without_none(content: Any) -> dict[str, Any]:
    return {key: value for key, value in asdict(content).items() if value is not None}


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
