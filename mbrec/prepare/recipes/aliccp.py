"""The Ali-CCP data set: its files, its fields, and how their packed features become columns.

Impressions, clicks and purchases of the recommender of a Taobao app, split by time into train and
test: Ma et al., "Entire Space Multi-Task Model: An Effective Approach for Estimating Post-Click
Conversion Rate", SIGIR 2018, https://doi.org/10.1145/3209978.3210104.

A line of sample_skeleton_*.csv is an impression: SAMPLE,CLICK,CONVERSION,COMMON,COUNT,FEATURES.
COMMON names a line of common_features_*.csv (COMMON,COUNT,FEATURES) with the features that many
impressions of a user share. FEATURES are FIELD\\x02ID\\x03VALUE, joined by \\x01.

As published for the AITM model (Xi et al., KDD 2021, https://doi.org/10.1145/3447548.3467071), a
tenth of the training rows at random is validation, and impressions with a conversion but no click
are dropped and counted. Equal rows are not looked for: each has a number of its own.

What users did before is up to thousands of entries per impression. The lists are cut to those of
the largest values, which bounds the files of 85 million rows. Memory holds
the common features of one split and a piece of the impressions, about 4 GB.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow.compute import (
    ExtractRegexOptions,
    SetLookupOptions,
    SplitPatternOptions,
    call_function,
)

from mbrec.prepare.delimited import BLOCK_BYTES, Piece, find_file, read_delimited
from mbrec.prepare.recipe import Recipe, add_by_share
from mbrec.prepare.writer import DatasetWriter

# One id per row: the user, the profile; then the item, and the position on the page.
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
# 18 digits fit into 64 bits, whatever they are.
_TRIPLE = (
    r"^(?P<field>[0-9_]+)\x02(?P<id>[0-9]{1,18})"
    r"\x03(?P<value>[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)$"
)
# What is left out, as the report calls it.
_DIRTY, _SECOND, _CUT = "conversions_without_click", "ids_beyond_the_first", "list_entries_cut"
_SOURCE = "https://tianchi.aliyun.com/dataset/408"

Ints = npt.NDArray[np.int64]


def _fields(ids: Sequence[str], bags: Sequence[str]) -> list[tuple[str, pa.DataType]]:
    return [
        *((f"field_{name}", pa.int64()) for name in ids),
        *((f"field_{name}", pa.list_(pa.int64())) for name in bags),
        *((f"field_{name}_weights", pa.list_(pa.float32())) for name in bags),
    ]


SCHEMA = pa.schema(
    [
        ("sample_id", pa.int64()),
        *_fields(USER_IDS, USER_BAGS),
        *_fields(SAMPLE_IDS, SAMPLE_BAGS),
        *((name, pa.int8()) for name in LABELS),
    ]
)


def write(
    writer: DatasetWriter,
    source: Path,
    *,
    validation: float = 0.1,
    history: int = 50,
    seed: int = 0,
    block_bytes: int = BLOCK_BYTES,
) -> dict[str, Any]:
    """Add all rows; see `Recipe`."""
    if history < 1:
        raise ValueError(f"expected at least 1 entry of a history, got {history}")
    left_out = {s: Counter({_DIRTY: 0, _SECOND: 0, _CUT: 0}) for s in ("train", "test")}
    for split, counts in left_out.items():
        for table in _read_split(source, split, history, counts, block_bytes):
            add_by_share(writer, split, table, "sample_id", validation, seed)
    return {
        "data_set": "Ali-CCP",
        "source": _SOURCE,
        "history": history,
        "validation": validation,
        "seed": seed,
        "left_out": {split: dict(counts) for split, counts in left_out.items()},
    }


def _read_split(
    folder: Path, split: str, longest: int, counts: Counter[str], block_bytes: int
) -> Iterator[pa.Table]:
    samples = find_file(folder, f"sample_skeleton_{split}.csv")
    common_file = find_file(folder, f"common_features_{split}.csv")
    names, common = _load_common(common_file, longest, counts, block_bytes)
    known = SetLookupOptions(names)
    for piece in read_delimited(
        samples, _SAMPLE_TYPES, names=_SAMPLE_NAMES, block_bytes=block_bytes
    ):
        piece.refuse_all_but((0, 1), LABELS)
        own = _unpack(piece, SAMPLE_IDS, SAMPLE_BAGS, longest, counts)
        at = call_function("index_in", [piece.table[_COMMON].combine_chunks()], known)
        piece.refuse(at.is_null().to_numpy(False), _COMMON, f"one of {common_file.name}")
        click, conversion = (piece.table[name].to_numpy() for name in LABELS)
        dirty = (conversion == 1) & (click == 0)
        counts[_DIRTY] += int(dirty.sum())
        kept = np.flatnonzero(~dirty)
        for start in range(0, len(kept), _JOIN_ROWS):
            rows = pa.array(kept[start : start + _JOIN_ROWS])
            parts = piece.table.take(rows), common.take(at.take(rows)), own.take(rows)
            columns = {name: part[name] for part in parts for name in part.column_names}
            yield pa.table({name: columns[name] for name in SCHEMA.names}, SCHEMA)


def _load_common(
    path: Path, longest: int, counts: Counter[str], block_bytes: int
) -> tuple[pa.Array, pa.Table]:
    """Return the names of the features that impressions share, and these; row i is of name i."""
    names, tables = [], [pa.schema(_fields(USER_IDS, USER_BAGS)).empty_table()]
    for piece in read_delimited(path, _COMMON_TYPES, names=_COMMON_NAMES, block_bytes=block_bytes):
        names.append(piece.table[_COMMON].combine_chunks())
        tables.append(_unpack(piece, USER_IDS, USER_BAGS, longest, counts))
    together = pa.chunked_array(names, pa.string()).combine_chunks()
    if len(together.unique()) < len(together):
        found = together.value_counts()
        twice = found.field(0)[int(np.argmax(found.field(1).to_numpy()))]
        raise ValueError(f"{path}: expected one line for each {_COMMON}, got two for {twice}")
    return together, pa.concat_tables(tables).combine_chunks()


def _unpack(
    piece: Piece, ids: Sequence[str], bags: Sequence[str], longest: int, counts: Counter[str]
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
    rows, fields, all_ids, all_values = _triples(piece)
    names = fields.dictionary.to_pylist()
    codes = fields.indices.to_numpy()
    for code, name in enumerate(names):
        if name not in (*ids, *bags):
            expected = f"fields of {', '.join((*ids, *bags))} and not '{name}'"
            piece.refuse(_mark(rows[codes == code], len(piece.table)), _FEATURES, expected)
    columns: dict[str, pa.Array] = {}
    for field in (*ids, *bags):
        at = np.flatnonzero(codes == (names.index(field) if field in names else -1))
        owners, own_ids, values = rows[at], all_ids[at], all_values[at]
        if field in ids:
            columns[f"field_{field}"] = first = _first(owners, own_ids, len(piece.table))
            counts[_SECOND] += len(owners) - len(first) + first.null_count
        else:
            order = np.lexsort((-values, owners))
            starts, order = _cut(owners[order], order, len(piece.table), longest)
            counts[_CUT] += len(owners) - len(order)
            columns[f"field_{field}"] = pa.ListArray.from_arrays(starts, own_ids[order])
            columns[f"field_{field}_weights"] = pa.ListArray.from_arrays(starts, values[order])
    return pa.table(columns).select([name for name, _ in _fields(ids, bags)])


def _triples(piece: Piece) -> tuple[Ints, pa.DictionaryArray, Ints, npt.NDArray[np.float32]]:
    """Return the row, field, id and value of every feature of the lines."""
    text = piece.table[_FEATURES].combine_chunks()
    there = np.flatnonzero(call_function("binary_length", [text]).to_numpy())
    lists = call_function(
        "split_pattern", [text.take(pa.array(there))], SplitPatternOptions("\x01")
    )
    rows = np.repeat(there, lists.value_lengths().to_numpy())
    found = call_function("extract_regex", [lists.flatten()], ExtractRegexOptions(_TRIPLE))
    field, ids, values = found.flatten()
    numbers = values.cast(pa.float32()).fill_null(np.nan).to_numpy()
    bad = _mark(rows[~np.isfinite(numbers)], len(text))
    piece.refuse(bad, _FEATURES, r"FIELD\x02ID\x03VALUE, joined by \x01, with finite values")
    return rows, field.dictionary_encode(), ids.cast(pa.int64()).to_numpy(), numbers


def _mark(rows: Ints, length: int) -> npt.NDArray[np.bool_]:
    marked = np.zeros(length, bool)
    marked[rows] = True
    return marked


def _first(owners: Ints, ids: Ints, rows: int) -> pa.Array:
    """Return the first id of each row, null where there is none."""
    at = np.flatnonzero(np.diff(owners, prepend=-1))
    values = np.zeros(rows, np.int64)
    values[owners[at]] = ids[at]
    return pa.array(values, mask=~_mark(owners[at], rows))


def _cut(owners: Ints, order: Ints, rows: int, longest: int) -> tuple[pa.Array, Ints]:
    """Return offsets of lists of at most `longest` entries, and the rest of `order`."""
    lengths = np.bincount(owners, minlength=rows)
    rank = np.arange(len(owners)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    offsets = np.concatenate([[0], np.cumsum(np.minimum(lengths, longest))])
    return pa.array(offsets, pa.int32()), order[rank < longest]


def _report(notes: Mapping[str, Any]) -> list[str]:
    lines = []
    for split, counts in notes["left_out"].items():
        said = ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in counts.items())
        lines.append(f"left out of {split}: {said}")
    return lines


RECIPE = Recipe(
    title="the Ali-CCP data set",
    files="folder with sample_skeleton_*.csv and common_features_*.csv, plain or .gz",
    terms=f"{_SOURCE}, where the licence is too; unpack sample_train.tar.gz and "
    "sample_test.tar.gz into one folder",
    schema=SCHEMA,
    labels=LABELS,
    write=write,
    options={
        "validation": "share of the training rows that becomes validation (%(default)s)",
        "history": "entries that a list keeps, those with the largest values (%(default)s)",
        "seed": "of the validation rows (%(default)s)",
    },
    report=_report,
    published="Published (AITM's files; after the impressions with a conversion but no click, 230 "
    "of\ntrain and 226 of test): 42,299,905 rows of train and validation together, 43,016,614 of "
    "test.\nCounted in train by others: 1,644,256 clicks (0.0389) and 8,802 conversions "
    "(0.00021); in test\n1,673,447 (0.0389) and 9,195 (0.00021). ESMM reports 84 million "
    "impressions, 3.4 million clicks\nand 18 thousand conversions.",
)
