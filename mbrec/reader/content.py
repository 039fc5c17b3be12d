"""What tells data apart whose names and sizes are equal: digests of rows and of vocabularies.

A model has learned what the values mean. On inverted labels, a negated input or the words of a
vocabulary in another order it would train on without an error.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from mbrec.columns.hashing import is_list, is_text
from mbrec.reader.footers import RowGroup
from mbrec.reader.row_groups import RowGroupReader
from mbrec.reader.source import Store

# Of each row group, so many rows at its beginning and its end.
SAMPLED_ROWS = 100
# A few rows cost as much as the row group that they are in, whose pages have to be decoded.
MAX_ROW_GROUPS = 128
MAX_ROWS = 1 << 20


@dataclass(frozen=True)
class Vocabulary:
    """The values of a vocabulary, in order: an id is a position among them.

    Attributes:
        values: how many. A longer vocabulary begins with them if its first ones have this hash.
        sha256: of them, in hex, whatever file and type of the same kind holds them.
    """

    values: int
    sha256: str

    @classmethod
    def of(cls, values: pa.Array) -> "Vocabulary":
        """Return the identity of values: integers or strings, without nulls."""
        digest = hashlib.sha256()
        if pt.is_uint64(values.type):
            digest.update(values.to_numpy().astype("<u8").tobytes())
        elif pt.is_integer(values.type) or pt.is_boolean(values.type):
            digest.update(values.cast(pa.int64()).to_numpy().astype("<i8").tobytes())
        else:
            _feed(digest, values.cast(pa.large_binary()))
        return cls(len(values), digest.hexdigest())

    @classmethod
    def parse(cls, content: object) -> "Vocabulary":
        """Return what `asdict` made of one.

        Raises:
            ValueError: if it did not.
        """
        match content:
            case {"values": int(values), "sha256": str(sha256), **rest} if not rest:
                return cls(values, sha256)
        raise ValueError(f"expected the number and hash of a vocabulary's values, got {content!r}")

    def difference(self, values: pa.Array) -> str | None:
        """Return how other values differ from these, or None."""
        if (found := Vocabulary.of(values)) == self:
            return None
        if found.values == self.values:
            return f"{self.values:,} values -> as many, others or in another order"
        same = found.values > self.values and Vocabulary.of(values.slice(0, self.values)) == self
        how = "which begin with the same" if same else "which begin otherwise"
        return f"{self.values:,} values -> {found.values:,}, {how}"


@dataclass(frozen=True)
class Content:
    """What files hold, as far as it is looked at.

    Attributes:
        columns: column that is read -> digest of its first and last rows in the row groups.
        statistics: digest of what the footers say of these columns, for every row group.
        files: digest of the SHA-256 of all files, by the data set's manifest; None without one.
    """

    columns: dict[str, str] = field(default_factory=dict)
    statistics: str = ""
    files: str | None = None

    def plain(self) -> dict[str, Any]:
        """Return it in types that JSON has."""
        return asdict(self)

    @classmethod
    def parse(cls, content: object) -> "Content":
        """Return what `plain` made of one.

        Raises:
            ValueError: if it did not.
        """
        match content:
            case {
                "columns": dict(columns),
                "statistics": str(statistics),
                "files": None | str() as files,
                **rest,
            } if not rest and all(type(text) is str for pair in columns.items() for text in pair):
                return cls(columns, statistics, files)
        raise ValueError(f"expected digests of what the files hold, got {content!r:.200}")

    def differences(self, now: "Content") -> list[str]:
        """Return what is known to be another in other files, in words; nothing if nothing is."""
        both = [name for name in self.columns if name in now.columns]
        changed = [f"'{name}'" for name in both if self.columns[name] != now.columns[name]]
        found = [f"the values of {', '.join(changed)}"] if changed else []
        # Of other columns there are other statistics.
        if self.columns.keys() == now.columns.keys() and self.statistics != now.statistics:
            found.append("sizes or statistics of row groups")
        if None not in (self.files, now.files) and self.files != now.files:
            found.append("the SHA-256 of files")
        return found


def content_of(groups: Sequence[RowGroup], store: Store, reader: RowGroupReader) -> Content:
    """Return what some files hold.

    Args:
        groups: the row groups of the files that have rows.
        store: where the files are.
        reader: of the columns that count.

    Raises:
        ValueError: if one of them cannot be read, or the manifest is none.
    """
    digests: dict[str, Any] = {}
    for group in sampled(groups):
        rows = reader.read(group)
        for name, column in zip(rows.schema.names, rows.columns, strict=True):
            digest = digests.setdefault(name, hashlib.blake2b(digest_size=8))
            _feed(digest, _ends(column))
    columns = {name: digest.hexdigest() for name, digest in digests.items()}
    statistics = _digest(group.statistics for group in groups)
    files = list(dict.fromkeys(group.file for group in groups))
    return Content(columns, statistics, _hash_of_files(files, store))


def sampled(groups: Sequence[RowGroup]) -> list[RowGroup]:
    """Return the row groups whose rows are looked at: all, or as many as are cheap to decode.

    They are spread evenly, the first and the last among them.
    """
    rows = max(1, sum(group.num_rows for group in groups))
    number = min(len(groups), MAX_ROW_GROUPS, max(2, MAX_ROWS * len(groups) // rows))
    chosen = np.linspace(0, len(groups) - 1, number).round().astype(int)
    return [groups[i] for i in chosen.tolist()]


def _hash_of_files(files: Sequence[str], store: Store) -> str | None:
    known = store.manifest.files if store.manifest else {}
    return _digest(known[file].sha256 for file in files) if known.keys() >= set(files) else None


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()


def _ends(column: pa.Array) -> pa.Array:
    """Return the first and the last rows of a column, as one array without a dictionary."""
    if len(column) <= 2 * SAMPLED_ROWS:
        return _plain(column)
    first, last = column[:SAMPLED_ROWS], column[len(column) - SAMPLED_ROWS :]
    return pa.concat_arrays([_plain(first), _plain(last)])


def _plain(array: pa.Array) -> pa.Array:
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    return array.dictionary_decode() if pt.is_dictionary(array.type) else array


def _feed(digest: Any, array: pa.Array) -> None:
    """Add values to a digest: which are null, how long they are, and what they are.

    Not Arrow's own buffers, in which equal values can differ: below nulls, and by their offsets.
    """
    array = _plain(array)
    digest.update(f"{len(array)} {array.null_count};".encode())
    if array.null_count:
        digest.update(array.is_valid().to_numpy(zero_copy_only=False).tobytes())
        array = array.drop_null()
    if is_list(array.type):
        digest.update(pc.call_function("list_value_length", [array]).to_numpy().tobytes())
        _feed(digest, array.flatten())
    elif is_text(array.type):
        digest.update(pc.call_function("binary_length", [array]).to_numpy().tobytes())
        digest.update(_text(array))
    elif pt.is_boolean(array.type) or pt.is_primitive(array.type):
        digest.update(array.to_numpy(zero_copy_only=False).tobytes())
    else:
        digest.update(repr(array.to_pylist()).encode())


def _text(array: pa.Array) -> bytes:
    """Return the bytes of strings, one after the other."""
    array = array.cast(pa.large_binary())
    _, offsets, values = array.buffers()
    if values is None or not len(array):
        return b""
    ends = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    return values.slice(int(ends[0]), int(ends[-1] - ends[0])).to_pybytes()
