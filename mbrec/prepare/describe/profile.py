"""Everything that is to be known of a data set before its schema is drafted."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.types as pt
from pyarrow import fs

from mbrec.columns import manifest
from mbrec.columns.manifest import Column, Manifest
from mbrec.columns.schema import HIDDEN_PREFIX
from mbrec.prepare.describe.footers import Footers, Range, read_footers
from mbrec.prepare.describe.layout import TRAIN, Layout, find_layout
from mbrec.prepare.describe.sample import Sample
from mbrec.prepare.describe.scan import count_distinct, is_list, is_text, read_batches, read_schema
from mbrec.prepare.statistics import Statistics
from mbrec.reader.source import Store, open_store

log = logging.getLogger(__name__)

# Up to here, the sample tells well enough how many of the ids there are.
FEW_IDS = 100_000


@dataclass
class Field:
    """A column.

    Attributes:
        name: in the files.
        type: of the values; of the values in the lists for a column of lists.
        is_list: whether it holds lists.
        stats: what the training rows hold.
        distinct: how many different values; of many, an estimate. None of what is not counted.
        elsewhere: what the footers of the other files say.
        is_everywhere: whether all of these have the column.
        has_infinities: whether the footers say so.
        lengths: of the lists in the sample.
    """

    name: str
    type: pa.DataType
    is_list: bool = False
    stats: Column = field(default_factory=Column)
    distinct: int | None = None
    elsewhere: Range = field(default_factory=Range)
    is_everywhere: bool = True
    has_infinities: bool = False
    lengths: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

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
        inside = self.stats.null_values or 0
        return bool(self.stats.nulls or inside or self.elsewhere.nulls)

    @property
    def is_binary(self) -> bool:
        """Whether the training rows hold 0 and 1, both of them and nothing else."""
        stats = self.stats
        if self.is_list or (stats.min, stats.max) != (0, 1) or stats.not_finite:
            return False
        return self.is_integer or (self.is_float and {0.0, 1.0} == set(stats.quantiles or []))


@dataclass
class Profile:
    """A data set.

    Attributes:
        path: as the user wrote it.
        store: the folder.
        layout: its splits.
        schema: the columns that a model may see.
        manifest: what the data set says of itself, if it says anything of its columns.
        rows: of each split.
        fields: the columns of `schema`, by name.
        sample: some of the training rows.
        hidden: columns that no model may see.
    """

    path: str
    store: Store
    layout: Layout
    schema: pa.Schema
    manifest: Manifest | None
    rows: dict[str, int]
    fields: dict[str, Field]
    sample: Sample
    hidden: list[str]

    @property
    def declared(self) -> list[str]:
        """Columns whose rates the manifest gives: labels, by the word of who prepared the data."""
        if self.manifest is None or self.manifest.notes.get("labels_guessed"):
            return []
        splits = self.manifest.splits.values()
        names = dict.fromkeys(name for split in splits for name in split.label_rates)
        return [name for name in names if name in self.fields]


def look_at(path: str) -> Profile:
    """Find out what a data set holds.

    What its manifest says is taken from there; without one, all training rows are read.

    Args:
        path: a folder, or the URI of one.

    Raises:
        ValueError: if there is no such folder, or no Parquet file in it, or one cannot be read.
    """
    store = open_store(path)
    found = store.filesystem.get_file_info(store.root or ".")
    if found.type == fs.FileType.NotFound:
        raise ValueError(f"expected a folder of Parquet files, got {path}, which is not there")
    if found.type == fs.FileType.File:
        raise ValueError(f"expected a folder of Parquet files, got {path}, which is a file")
    known = None
    if store.exists(manifest.NAME):
        known = manifest.load(store.filesystem, store.root)
        if known.warning:
            log.warning("%s", known.warning)
    layout = find_layout(store, known)
    if known is not None and not known.columns:
        known = None
    train = layout.splits[TRAIN]
    everything = read_schema(store, train[0])
    hidden = [name for name in everything.names if name.startswith(HIDDEN_PREFIX)]
    schema = pa.schema([column for column in everything if column.name not in hidden])
    if known is not None:
        rows = {n: sum(known.files[f].rows for f in files) for n, files in layout.splits.items()}
        columns = known.columns
    else:
        rows = {n: read_footers(store, files).rows for n, files in layout.splits.items()}
        columns = _scan(store, train, schema, rows[TRAIN])
    if not rows[TRAIN]:
        raise ValueError(f"expected rows to train on in {path}, got none in {len(train)} files")
    sample = Sample(store, train, schema)
    fields = _fields(schema, columns, sample)
    profile = Profile(path, store, layout, schema, known, rows, fields, sample, hidden)
    _count(profile)
    _look_elsewhere(profile)
    return profile


def _fields(schema: pa.Schema, columns: Mapping[str, Column], sample: Sample) -> dict[str, Field]:
    fields = {}
    for column in schema:
        if column.name in columns:
            nested = is_list(column.type)
            kind = column.type.value_type if nested else column.type
            found = Field(column.name, kind, nested, columns[column.name])
            found.lengths = sample.lengths.get(column.name, found.lengths)
            fields[column.name] = found
    return fields


def _scan(store: Store, files: Sequence[str], schema: pa.Schema, rows: int) -> dict[str, Column]:
    statistics = Statistics(schema, {})
    for _, table in read_batches(store, files, schema, "reading", rows):
        statistics.update(table)
    return statistics.columns()


def _count(profile: Profile) -> None:
    """Set how many different values columns have."""
    many = []
    for name, column in profile.fields.items():
        if column.is_text:
            column.distinct = column.stats.cardinality
        elif name in profile.sample.counts:
            column.distinct = len(profile.sample.counts[name])
            ids = column.stats.cardinality
            if not profile.sample.is_whole and (ids is None or ids > FEW_IDS):
                many.append(profile.schema.field(name))
    if many:
        rows, files = profile.rows[TRAIN], profile.layout.splits[TRAIN]
        found = count_distinct(profile.store, files, pa.schema(many), rows)
        for name, distinct in found.items():
            profile.fields[name].distinct = distinct


def _look_elsewhere(profile: Profile) -> None:
    """Note what the statistics of the training rows do not tell."""
    store, others = profile.store, profile.layout.others
    fields = profile.fields.values()
    footers = read_footers(store, others)
    for column in fields if others else []:
        column.is_everywhere = column.name in footers.columns
        column.elsewhere = footers.columns.get(column.name, column.elsewhere)
    # Footers tell nothing of missing lists, nor of NaN.
    untold = [c.name for c in fields if c.is_everywhere and (c.is_list or c.is_float)]
    if others and untold:
        schema = pa.schema([profile.schema.field(name) for name in untold])
        for name, missing in Sample(store, others, schema).missing.items():
            span = profile.fields[name].elsewhere
            span.nulls = max(span.nulls, missing)
    train = Footers()
    if any(column.is_float and column.stats.not_finite for column in fields):
        train = read_footers(store, profile.layout.splits[TRAIN])
    for column in fields:
        spans = [column.elsewhere, train.columns.get(column.name, Range())]
        ends = [(span.least, span.most) for span in spans]
        column.has_infinities = any(least == -math.inf or most == math.inf for least, most in ends)
