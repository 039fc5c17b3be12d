"""The Ali-CCP data set: its files, its fields, and how their packed features become columns.

A line of sample_skeleton_*.csv is an impression: SAMPLE,CLICK,CONVERSION,COMMON,COUNT,FEATURES.
COMMON names a line of common_features_*.csv (COMMON,COUNT,FEATURES) with the features that many
impressions of a user share. FEATURES are FIELD\\x02ID\\x03VALUE, joined by \\x01.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pcsv
from pyarrow.compute import MatchSubstringOptions, SetLookupOptions, call_function

from mbrec.prepare.delimited import Piece, find_file, read_delimited

# One id a row: the user, the profile; then the item, and the position on the page.
USER_IDS = ("101", "121", "122", "124", "125", "126", "127", "128", "129")
SAMPLE_IDS = ("205", "206", "207", "216", "301")
# Lists of ids with values: what the user did before; then the item's intention nodes, and
# combinations of the item with what the user did.
USER_BAGS = ("109_14", "110_14", "127_14", "150_14")
SAMPLE_BAGS = ("210", "508", "509", "702", "853")
LABELS = ("click", "conversion")

_COMMON = "common_feature_index"
_FEATURES = "feature_list"
_COMMON_TYPES = {_COMMON: pa.string(), _FEATURES: pa.string()}
_COMMON_NAMES = (_COMMON, "feature_num", _FEATURES)
_SAMPLE_NAMES = ("sample_id", *LABELS, *_COMMON_NAMES)
_SAMPLE_TYPES = {"sample_id": pa.int64(), **dict.fromkeys(LABELS, pa.int8()), **_COMMON_TYPES}
# Rows that get their user's lists at a time.
_JOIN_ROWS = 1 << 14
_TRIPLE = r"[0-9_]+\x02[0-9]+\x03[-+.0-9eE]+"
_VALID = f"^(?:{_TRIPLE}(?:\x01{_TRIPLE})*)?$"
# Makes a triple a line of a table that pyarrow can read.
_AS_CSV = bytes.maketrans(b"\x01\x02\x03", b"\n,,")


def column(field: str) -> str:
    """Return the column of a field."""
    return f"field_{field}"


def weights(field: str) -> str:
    """Return the column with the values of a field's list."""
    return f"field_{field}_weights"


def _fields(ids: Sequence[str], bags: Sequence[str]) -> list[pa.Field]:
    lists = {column(f): pa.list_(pa.int64()) for f in bags}
    lists |= {weights(f): pa.list_(pa.float32()) for f in bags}
    return [pa.field(column(f), pa.int64()) for f in ids] + [pa.field(*f) for f in lists.items()]


SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.int64()),
        *_fields(USER_IDS, USER_BAGS),
        *_fields(SAMPLE_IDS, SAMPLE_BAGS),
        *(pa.field(name, pa.int8()) for name in LABELS),
    ]
)


@dataclass
class Counts:
    """What was left out: impressions with a conversion but no click, ids, and list entries."""

    conversions_without_click: int = 0
    ids_beyond_the_first: int = 0
    list_entries_cut: int = 0


class Common:
    """The features that impressions share, in memory: those of row i belong to `names[i]`.

    Args:
        path: common_features_train.csv or common_features_test.csv.
        longest: entries that a list keeps, those with the largest values.
        counts: is added to.
        block_bytes: size of the pieces in which the file is read.

    Raises:
        ValueError: if a line cannot be read, or a name has two.
    """

    def __init__(self, path: Path, longest: int, counts: Counts, block_bytes: int) -> None:
        self.path = path
        names, tables = [], [pa.schema(_fields(USER_IDS, USER_BAGS)).empty_table()]
        for piece in read_delimited(
            path, _COMMON_TYPES, names=_COMMON_NAMES, block_bytes=block_bytes
        ):
            names.append(piece.table[_COMMON].combine_chunks())
            tables.append(unpack(piece, USER_IDS, USER_BAGS, longest, counts))
        self.names = pa.chunked_array(names, pa.string()).combine_chunks()
        self.table = pa.concat_tables(tables).combine_chunks()
        if len(self.names.unique()) < len(self.names):
            found = self.names.value_counts()
            twice = found.field(0)[int(np.argmax(found.field(1).to_numpy()))]
            raise ValueError(f"{path}: expected one line for each {_COMMON}, got two for {twice}")

    def positions(self, piece: Piece) -> pa.Array:
        """Return the row of each impression."""
        names = piece.table[_COMMON].combine_chunks()
        found = call_function("index_in", [names], SetLookupOptions(self.names))
        piece.refuse(found.is_null().to_numpy(False), _COMMON, f"one of {self.path.name}")
        return found


def read_split(
    folder: Path, split: str, *, longest: int, counts: Counts, block_bytes: int
) -> Iterator[pa.Table]:
    """Read the impressions of one split with all their features, as `SCHEMA`.

    Args:
        folder: holds the files, plain or .gz, or the folders with them.
        split: train or test.
        longest: entries that a list keeps, those with the largest values.
        counts: is added to.
        block_bytes: size of the pieces in which the files are read.

    Raises:
        ValueError: naming file, line, column and value of what is wrong.
        OSError: if a file is missing or cannot be read.
    """
    samples = find_file(folder, f"sample_skeleton_{split}.csv")
    common = Common(find_file(folder, f"common_features_{split}.csv"), longest, counts, block_bytes)
    for piece in read_delimited(
        samples, _SAMPLE_TYPES, names=_SAMPLE_NAMES, block_bytes=block_bytes
    ):
        piece.refuse_all_but((0, 1), LABELS)
        own = unpack(piece, SAMPLE_IDS, SAMPLE_BAGS, longest, counts)
        at = common.positions(piece)
        click, conversion = (piece.table[name].to_numpy() for name in LABELS)
        dirty = (conversion == 1) & (click == 0)
        counts.conversions_without_click += int(dirty.sum())
        kept = np.flatnonzero(~dirty)
        for start in range(0, len(kept), _JOIN_ROWS):
            rows = pa.array(kept[start : start + _JOIN_ROWS])
            yield _join(piece.table.take(rows), common.table.take(at.take(rows)), own.take(rows))


def _join(*tables: pa.Table) -> pa.Table:
    columns = {name: table[name] for table in tables for name in table.column_names}
    return pa.table({name: columns[name] for name in SCHEMA.names}, SCHEMA)


def unpack(
    piece: Piece, ids: Sequence[str], bags: Sequence[str], longest: int, counts: Counts
) -> pa.Table:
    """Turn the packed features of some lines into columns.

    Args:
        piece: lines with a column of packed features.
        ids: fields of which a row keeps the first id; null where it has none.
        bags: fields that become lists of ids and of values, largest values first; empty where a
            row has none.
        longest: entries that a list keeps.
        counts: is added to.

    Raises:
        ValueError: if features cannot be read, or are of another field.
    """
    rows, triples = _triples(piece)
    fields = triples["field"]
    _refuse_fields(piece, rows, fields, (*ids, *bags))
    code = {name: i for i, name in enumerate(fields.dictionary.to_pylist())}
    codes = fields.indices.to_numpy()
    all_ids, all_values = triples["id"].to_numpy(), triples["value"].to_numpy()
    columns: dict[str, pa.Array] = {}
    for field in (*ids, *bags):
        at = np.flatnonzero(codes == code.get(field, -1))
        owners, own_ids, values = rows[at], all_ids[at], all_values[at]
        if field in ids:
            columns[column(field)] = _first(owners, own_ids, len(piece.table), counts)
        else:
            order = np.lexsort((-values, owners))
            starts, order = _cut(owners[order], order, len(piece.table), longest)
            counts.list_entries_cut += len(owners) - len(order)
            columns[column(field)] = pa.ListArray.from_arrays(starts, own_ids[order])
            columns[weights(field)] = pa.ListArray.from_arrays(starts, values[order])
    return pa.table(columns, pa.schema(_fields(ids, bags)))


def _triples(piece: Piece) -> tuple[npt.NDArray[np.int64], dict[str, pa.Array]]:
    """All triples of the lines, and the row of each, by way of pyarrow's reader of CSV."""
    text = piece.table[_FEATURES].combine_chunks()
    rows = np.flatnonzero(call_function("binary_length", [text]).to_numpy())
    text = text.take(pa.array(rows))
    types = {"field": pa.dictionary(pa.int32(), pa.string()), "id": pa.int64()}
    types["value"] = pa.float32()
    if not len(rows):
        return rows, {name: pa.array([], kind) for name, kind in types.items()}
    counts = call_function("count_substring", [text], MatchSubstringOptions("\x01")).to_numpy() + 1
    # One more separator behind each row's last triple, so that it ends a line as well.
    ended = call_function("binary_join_element_wise", [text, pa.scalar(""), pa.scalar("\x01")])
    lines = pa.BufferReader(ended.buffers()[2].to_pybytes().translate(_AS_CSV))
    try:
        table = pcsv.read_csv(
            lines,
            pcsv.ReadOptions(column_names=list(types)),
            pcsv.ParseOptions(quote_char=False, ignore_empty_lines=False),
            pcsv.ConvertOptions(column_types=types, null_values=[]),
        )
    except pa.ArrowInvalid:
        _refuse_line(piece)
    if len(table) != counts.sum() or not np.isfinite(table["value"].to_numpy()).all():
        _refuse_line(piece)
    table = table.unify_dictionaries().combine_chunks()
    return np.repeat(rows, counts), {name: table[name].combine_chunks() for name in types}


def _first(
    owners: npt.NDArray[np.int64], ids: npt.NDArray[np.int64], rows: int, counts: Counts
) -> pa.Array:
    """The first id of each row, null where there is none."""
    at = np.flatnonzero(np.diff(owners, prepend=-1))
    counts.ids_beyond_the_first += len(ids) - len(at)
    values, missing = np.zeros(rows, np.int64), np.ones(rows, bool)
    values[owners[at]], missing[owners[at]] = ids[at], False
    return pa.array(values, mask=missing)


def _cut(
    owners: npt.NDArray[np.int64], order: npt.NDArray[np.int64], rows: int, longest: int
) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """Offsets of lists of at most `longest` entries, and the entries that are left of `order`."""
    lengths = np.bincount(owners, minlength=rows)
    rank = np.arange(len(owners)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    offsets = np.concatenate([[0], np.cumsum(np.minimum(lengths, longest))])
    return pa.array(offsets, pa.int32()), order[rank < longest]


def _refuse_fields(
    piece: Piece, rows: npt.NDArray[np.int64], fields: pa.DictionaryArray, known: Sequence[str]
) -> None:
    names = fields.dictionary.to_pylist()
    strange = [i for i, name in enumerate(names) if name not in known]
    if strange:
        bad = np.zeros(len(piece.table), bool)
        bad[rows[fields.indices.to_numpy() == strange[0]]] = True
        expected = f"fields of {', '.join(known)} and not '{names[strange[0]]}'"
        piece.refuse(bad, _FEATURES, expected)


def _refuse_line(piece: Piece) -> NoReturn:
    text = piece.table[_FEATURES]
    fits = call_function("match_substring_regex", [text], MatchSubstringOptions(_VALID)).to_numpy()
    piece.refuse(~fits, _FEATURES, r"FIELD\x02ID\x03VALUE, joined by \x01")
    last = piece.first_line + len(text) - 1
    raise ValueError(
        f"{piece.path}: lines {piece.first_line} to {last}, column {_FEATURES}: expected ids of 64 "
        "bits and finite values, got others"
    )
