"""Reads row groups, verified, whole or in slices, with a few files held open."""

from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mbrec.reader.footers import RowGroup, open_file
from mbrec.reader.source import Store

MAX_OPEN_FILES = 16

# Decoding fewer rows at a time would cost more.
_MIN_DECODED_ROWS = 4_096

# Others may count the nulls of lists, and of lists that are null or empty, in another way.
_COUNTS_NULLS = "parquet-cpp-arrow"


class RowGroupReader:
    """Reads the same columns of row groups, whole or in slices of several side by side.

    Args:
        store: of the files.
        columns: names of the columns.
        lists: those of them that hold lists.
        strings: paths of those that may hold strings, to be read as dictionaries.
        footers: of files, as far as they are known.
    """

    def __init__(
        self,
        store: Store,
        columns: Sequence[str],
        lists: Sequence[str] = (),
        strings: Sequence[str] = (),
        footers: Mapping[str, bytes] | None = None,
    ) -> None:
        self._store, self._footers = store, footers or {}
        self._columns, self._lists, self._strings = list(columns), list(lists), list(strings)
        self._files: OrderedDict[str, _Open] = OrderedDict()
        self._begun: dict[RowGroup, _Decoder] = {}

    def read(
        self, group: RowGroup, start: int = 0, stop: int | None = None, *, is_last: bool = True
    ) -> pa.RecordBatch:
        """Return rows [start, stop) of a row group; default: all.

        A row group is decoded once if its slices are asked for in order. It is compared with its
        footer when the last slice is, before that is returned.

        Args:
            group: the row group.
            start: of the rows.
            stop: of the rows; default: the row group's end.
            is_last: whether no later rows of it will be asked for.

        Raises:
            ValueError: if it cannot be read, or is not what the file says it is.
        """
        stop = group.num_rows if stop is None else stop
        decoder = self._begun.pop(group, None)
        try:
            if decoder is None or decoder.position > start:
                pieces = group.num_rows if is_last else max(stop - start, _MIN_DECODED_ROWS)
                decoder = self._decoder(group, pieces)
            decoder.skip(start - decoder.position)
            rows = decoder.take(stop - start)
            if is_last:
                decoder.finish()
            else:
                decoder.look_ahead()
                self._begun[group] = decoder
        except (OSError, ValueError, pa.ArrowException) as error:
            where = f"{self._store.display(group.file)}: row group {group.index}"
            raise ValueError(f"{where} cannot be read: {error}") from error
        return rows

    def forget(self) -> None:
        """Drop the row groups that are read in part; the next slice of one begins it again."""
        self._begun.clear()

    def _decoder(self, group: RowGroup, rows: int) -> "_Decoder":
        opened = self._files.pop(group.file, None)
        if opened is None:
            known = self._footers.get(group.file)
            file = open_file(group.file, self._store, self._strings, known)
            opened = file, _leaves(file.schema_arrow)
        self._files[group.file] = opened
        in_use = {group.file, *(begun.file for begun in self._begun)}
        idle = [name for name in self._files if name not in in_use]
        for name in idle[: max(0, len(self._files) - MAX_OPEN_FILES)]:
            self._files.pop(name)[0].close()
        return _Decoder(opened, group, self._columns, self._lists, rows)


class _Decoder:
    """Decodes a row group from its beginning, and counts what it finds.

    A page's checksum leaves out its header, whose count of values can lose the end of a list, or
    make nulls of the bits that fill its last byte.

    Args:
        opened: the file.
        group: of it.
        columns: to read.
        lists: those of them that hold lists.
        rows: to decode at a time.

    Attributes:
        position: the next row.
    """

    def __init__(
        self,
        opened: "_Open",
        group: RowGroup,
        columns: Sequence[str],
        lists: Sequence[str],
        rows: int,
    ) -> None:
        (self._file, self._leaves), self._group = opened, group
        self._columns, self._lists = columns, lists
        self._batches = self._file.iter_batches(
            rows, row_groups=[group.index], columns=list(columns), use_threads=False
        )
        self._ready: deque[pa.RecordBatch] = deque()
        self._counts = {name: _Count() for name in columns}
        self.position = 0

    def take(self, rows: int) -> pa.RecordBatch:
        """Return the next rows.

        Raises:
            ValueError: if there are fewer.
        """
        taken = []
        while rows:
            batch = self._next()
            if len(batch) > rows:
                self._ready.appendleft(batch.slice(rows))
                batch = batch.slice(0, rows)
            taken.append(batch)
            rows -= len(batch)
            self.position += len(batch)
        if len(taken) == 1:
            return taken[0]
        columns = [pa.concat_arrays(parts) for parts in zip(*taken, strict=True)]
        return pa.RecordBatch.from_arrays(columns, names=taken[0].schema.names)

    def look_ahead(self) -> None:
        """Make sure that there are more rows: the last one found may have lost the end of a list.

        Raises:
            ValueError: if there are none.
        """
        if not self._ready:
            self._ready.append(self._next())

    def skip(self, rows: int) -> None:
        """Decode rows that are not wanted."""
        while rows:
            rows -= len(self.take(min(rows, _MIN_DECODED_ROWS)))

    def finish(self) -> None:
        """Decode what is left, and compare all of it with the footer.

        Raises:
            ValueError: if it differs.
        """
        self.skip(self._group.num_rows - self.position)
        if extra := sum(map(len, self._batches)):
            self._refuse_rows(self.position + extra)
        metadata = self._file.metadata.row_group(self._group.index)
        counts_nulls = (self._file.metadata.created_by or "").startswith(_COUNTS_NULLS)
        for name, count in self._counts.items():
            if not count.is_doubtful:
                continue
            footer = metadata.column(self._leaves[name])
            if problem := count.damage(footer, counts_nulls=counts_nulls):
                raise ValueError(f"column '{name}': {problem}: the file is damaged")

    def _next(self) -> pa.RecordBatch:
        if self._ready:
            return self._ready.popleft()
        for batch in self._batches:
            if len(batch):
                for name, count in self._counts.items():
                    if problem := count.add(batch.column(name), nested=name in self._lists):
                        raise ValueError(f"column '{name}': {problem}: the file is damaged")
                return batch
        return self._refuse_rows(self.position)

    def _refuse_rows(self, found: int) -> NoReturn:
        raise ValueError(
            f"expected {self._group.num_rows:,} rows, got {found:,}: the file is damaged"
        )


@dataclass
class _Count:
    """What was found in a column.

    Attributes:
        values, nulls: as a footer counts them.
        is_doubtful: whether it could have lost values unseen.
    """

    values: int = 0
    nulls: int = 0
    is_doubtful: bool = False

    def add(self, column: pa.Array, *, nested: bool) -> str | None:
        """Take in the next rows; return what is wrong with them, or None."""
        flat = column.flatten() if nested else column
        # An empty list counts as one value, which is null; so does a null list.
        missing = int((_lengths(column) == 0).sum()) if nested else 0
        self.values += len(flat) + missing
        self.nulls += flat.null_count + missing
        is_dictionary = pa.types.is_dictionary(flat.type)
        self.is_doubtful |= nested or is_dictionary or self.nulls > 0
        if is_dictionary and _exceeds(flat):
            return "expected a dictionary of all values, got a part of it"
        return None

    def damage(self, footer: pq.ColumnChunkMetaData, *, counts_nulls: bool) -> str | None:
        """Return how the column differs from what the footer says, or None."""
        if self.values != footer.num_values:
            return f"expected {footer.num_values:,} values, got {self.values:,}"
        said = footer.statistics if counts_nulls else None
        if said is not None and said.has_null_count and said.null_count != self.nulls:
            return f"expected {said.null_count:,} nulls, got {self.nulls:,}"
        return None


# A file, and the number of each column's (first) leaf among all of its leaves.
_Open = tuple[pq.ParquetFile, dict[str, int]]


def _leaves(schema: pa.Schema) -> dict[str, int]:
    ends = list(accumulate((_width(field.type) for field in schema), initial=0))
    return dict(zip(schema.names, ends, strict=False))


def _width(kind: pa.DataType) -> int:
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    return sum(_width(kind.field(i).type) for i in range(kind.num_fields)) or 1


def _exceeds(column: pa.DictionaryArray) -> bool:
    largest = pc.call_function("max", [column.indices]).as_py()
    return largest is not None and largest >= len(column.dictionary)


def _lengths(column: pa.Array) -> np.ndarray:
    if column.null_count or pa.types.is_fixed_size_list(column.type):
        return pc.call_function("list_value_length", [column]).fill_null(0).to_numpy(False)
    return np.diff(column.offsets.to_numpy())
