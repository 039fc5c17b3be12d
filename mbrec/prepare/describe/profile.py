"""Everything that must be known about a data set before its schema is drafted."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as pt
from pyarrow import fs

from mbrec.columns import manifest
from mbrec.columns.manifest import Column, Manifest
from mbrec.columns.schema import HIDDEN_PREFIX
from mbrec.prepare.describe.layout import TRAIN, Layout, find_layout
from mbrec.prepare.describe.scan import (
    Range,
    Sample,
    count_distinct,
    is_list,
    is_text,
    read_batches,
    read_footers,
    read_sample,
    read_schema,
)
from mbrec.prepare.statistics import Statistics
from mbrec.reader.source import Store, open_store

log = logging.getLogger(__name__)

# Up to here, the sample shows well enough how many of the ids there are.
FEW_IDS = 100_000


@dataclass
class Field:
    """A column.

    Attributes:
        type: of the values; for a column of lists, of the values in them.
        stats: of the training rows.
        seen: different integers or strings in the sample, most frequent first.
        times_seen: how often each of these occurs there.
        lengths: of the lists in the sample.
        distinct: number of different integers or strings; an estimate if there are many.
        elsewhere: what the footers of the files outside the training split state.
        is_everywhere: whether all of these files have the column.
        has_infinities: whether a footer states an infinity.
    """

    name: str
    type: pa.DataType
    is_list: bool
    stats: Column
    seen: pa.Array = field(default_factory=lambda: pa.nulls(0))
    times_seen: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    lengths: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    distinct: int | None = None
    elsewhere: Range = field(default_factory=Range)
    is_everywhere: bool = True
    has_infinities: bool = False

    @property
    def is_integer(self) -> bool:
        """Whether the values are integers, or true and false."""
        return pt.is_integer(self.type) or pt.is_boolean(self.type)

    @property
    def is_float(self) -> bool:
        """Whether the values are floating-point numbers."""
        return pt.is_floating(self.type)

    @property
    def is_text(self) -> bool:
        """Whether the values are strings."""
        return is_text(self.type)

    @property
    def has_nulls(self) -> bool:
        """Whether a value is missing in some row of some split, as far as is known."""
        return bool(self.stats.nulls or self.stats.null_values or self.elsewhere.nulls)

    @property
    def two_values(self) -> set[float]:
        """The two values that single numbers in the training rows have; else an empty set."""
        ends = {end for end in (self.stats.min, self.stats.max) if end is not None}
        if self.is_list or self.has_infinities or len(ends) < 2:
            return set()
        if self.is_float:
            return ends if ends == set(self.stats.quantiles or []) else set()
        return ends if self.distinct == 2 or ends == {0, 1} else set()


@dataclass
class Profile:
    """A data set.

    Attributes:
        path: as the user wrote it.
        schema: the columns that a model may read.
        manifest: if it states what its columns hold.
        rows: of each split.
        fields: the columns of `schema`, by name; with a manifest, those that are in it.
        sample: of the training rows.
    """

    path: str
    store: Store
    layout: Layout
    schema: pa.Schema
    manifest: Manifest | None
    rows: dict[str, int]
    fields: dict[str, Field]
    sample: Sample

    @property
    def declared(self) -> list[str]:
        """Columns whose rates the manifest gives: labels, according to who prepared the data."""
        if self.manifest is None or self.manifest.notes.get("labels_guessed"):
            return []
        splits = self.manifest.splits.values()
        names = dict.fromkeys(name for split in splits for name in split.label_rates)
        return [name for name in names if name in self.fields]


def read_profile(path: str) -> Profile:
    """Find out what a data set holds, given its folder or the URI of one.

    Statistics come from its manifest; without one, all training rows are read.

    Raises:
        ValueError: if there is no such folder, or no Parquet file in it, or one cannot be read.
    """
    store = open_store(path)
    found = store.filesystem.get_file_info(store.root or ".")
    if found.type == fs.FileType.NotFound:
        raise ValueError(f"expected a folder of Parquet files, got {path}, which does not exist")
    if found.type == fs.FileType.File:
        raise ValueError(f"expected a folder of Parquet files, got {path}, which is a file")
    known = None
    if store.exists(manifest.NAME):
        known = manifest.load(store.filesystem, store.root)
        if known.warning:
            log.warning("%s", known.warning)
    layout = find_layout(store, known)
    train = layout.splits[TRAIN]
    everything = read_schema(store, train[0])
    schema = pa.schema([c for c in everything if not c.name.startswith(HIDDEN_PREFIX)])
    if known is not None and known.columns:
        rows = {n: sum(known.files[f].rows for f in files) for n, files in layout.splits.items()}
        columns: Mapping[str, Column] = known.columns
    else:
        known = None
        rows = {n: read_footers(store, files)[0] for n, files in layout.splits.items()}
        statistics = Statistics(schema, {})
        for _, table in read_batches(store, train, schema, "reading", rows[TRAIN]):
            statistics.update(table)
        columns = statistics.columns()
    if not rows[TRAIN]:
        raise ValueError(f"expected rows to train on in {path}, got none in {len(train)} files")
    sample = read_sample(store, train, schema)
    fields = {c.name: _field(c, columns, sample.table) for c in schema if c.name in columns}
    profile = Profile(path, store, layout, schema, known, rows, fields, sample)
    _count_distinct(profile)
    _read_other_files(profile)
    return profile


def _field(column: pa.Field, columns: Mapping[str, Column], sample: pa.Table) -> Field:
    array: Any = sample[column.name].combine_chunks()
    found = Field(column.name, column.type, is_list(column.type), columns[column.name])
    if found.is_list:
        lengths = array.value_lengths().fill_null(0)
        found.lengths = lengths.to_numpy(zero_copy_only=False)
        found.type, array = column.type.value_type, array.flatten()
    if found.is_integer or found.is_text:
        counted = pa.Table.from_struct_array(array.drop_null().value_counts())
        counted = counted.sort_by([("counts", "descending"), ("values", "ascending")])
        found.seen = counted["values"].combine_chunks()
        found.times_seen = counted["counts"].to_numpy()
        found.distinct = found.stats.cardinality if found.is_text else len(found.seen)
    return found


def _count_distinct(profile: Profile) -> None:
    """Estimate the number of different integers where the sample does not show it."""
    if profile.sample.is_whole:
        return
    integers = [column for column in profile.fields.values() if column.is_integer]
    ids = {column.name: column.stats.cardinality for column in integers}
    many = [name for name, count in ids.items() if count is None or count > FEW_IDS]
    if many:
        schema = pa.schema([profile.schema.field(name) for name in many])
        files = profile.layout.splits[TRAIN]
        found = count_distinct(profile.store, files, schema, profile.rows[TRAIN])
        for name, distinct in found.items():
            profile.fields[name].distinct = distinct


def _read_other_files(profile: Profile) -> None:
    """Add what the statistics of the training rows do not show."""
    store, others = profile.store, profile.layout.others
    fields = profile.fields.values()
    elsewhere = read_footers(store, others)[1]
    for column in fields if others else []:
        column.is_everywhere = column.name in elsewhere
        column.elsewhere = elsewhere.get(column.name, column.elsewhere)
    # Footers show neither missing lists nor NaN.
    hidden = [c.name for c in fields if c.is_everywhere and (c.is_list or c.is_float)]
    if others and hidden:
        schema = pa.schema([profile.schema.field(name) for name in hidden])
        table = read_sample(store, others, schema).table
        for name in hidden:
            missing = _count_missing(table[name].combine_chunks())
            elsewhere[name].nulls = max(elsewhere[name].nulls, missing)
    train: dict[str, Range] = {}
    if any(column.is_float and column.stats.not_finite for column in fields):
        train = read_footers(store, profile.layout.splits[TRAIN])[1]
    for column in fields:
        ranges = (column.elsewhere, train.get(column.name, Range()))
        column.has_infinities = any(found.has_infinities for found in ranges)


def _count_missing(array: Any) -> int:
    """Count nulls and NaN, those in lists too."""
    if is_list(array.type):
        return array.null_count + _count_missing(array.flatten())
    if not pt.is_floating(array.type):
        return array.null_count
    return int(np.isnan(array.to_numpy(zero_copy_only=False)).sum())
