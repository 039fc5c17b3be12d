"""Writes a prepared data set: Parquet files by split, vocabularies, and the manifest."""

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from mbrec.columns.manifest import NAME, Column, File, Manifest, Split, check_path, describe, save
from mbrec.prepare.duplicates import MOST_DROPPED, Duplicates, Policy, percent
from mbrec.prepare.statistics import Statistics

TRAIN = "train"
VOCABULARY = "vocabulary"
ROW_GROUP_ROWS = 8_192
FILE_ROW_GROUPS = 64
_PIECE = 1 << 16  # rows that are hashed and counted together


class DatasetWriter:
    """Writes rows into `FOLDER/SPLIT/part-00000.parquet` and so on, and `FOLDER/manifest.json`.

    Everything is first written into a hidden folder beside it, which takes the folder's name when
    `finish` is through; after an error or an interrupt, nothing is left. To be used in `with`.

    Args:
        folder: to create.
        schema: columns of the files, in order.
        labels: columns of numbers whose mean is kept for each split.
        cardinality: column of ids -> how many there are; default: the largest in train, + 1. The
            attribute of this name may be added to until `finish`.
        overwrite: replace the folder, if it holds a manifest.
        duplicates: the policy for rows that are equal in every column to an earlier one, in any
            split: `keep`; `drop`; or `few`, which drops them, and fails in `finish` if they
            are more than 1% of the rows. The last two take 16 bytes of memory per row.
        row_group_rows: rows of a row group; a file has 64 of these.

    Attributes:
        scratch: a hidden folder for temporary files, which is removed at the end.

    Raises:
        ValueError: if an argument does not fit the schema, or the folder is there already.
    """

    def __init__(
        self,
        folder: str | Path,
        schema: pa.Schema,
        *,
        labels: Sequence[str] = (),
        cardinality: Mapping[str, int] | None = None,
        overwrite: bool = False,
        duplicates: Policy = "keep",
        row_group_rows: int = ROW_GROUP_ROWS,
    ) -> None:
        _check_arguments(schema, labels, cardinality or {}, row_group_rows)
        self.folder, self.schema, self.labels = Path(folder), schema, list(labels)
        self._overwrite, self._row_group_rows = overwrite, row_group_rows
        self.scratch = self.folder.absolute().parent / f".{self.folder.name}.{os.getpid()}.partial"
        self._out = self.scratch / "out"
        self._duplicates = Duplicates() if duplicates != "keep" else None
        self._only_few = duplicates == "few"
        self.cardinality = dict(cardinality or {})
        self._statistics = Statistics(schema, self.cardinality)
        self._splits: dict[str, _SplitWriter] = {}
        self._finished = False

    def __enter__(self) -> Self:
        check_folder(self.folder, self._overwrite)
        self.scratch.mkdir(parents=True)
        self._out.mkdir()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            for split in self._splits.values():
                split.close()
        finally:
            # Where the disk is full, closing fails as well.
            shutil.rmtree(self.scratch, ignore_errors=True)
        if kind is None and not self._finished:
            raise RuntimeError("expected finish() before the end of `with DatasetWriter`, got none")

    def add(self, split: str, table: pa.Table) -> None:
        """Write rows, after those that the split has already.

        Args:
            split: train, validation, test, or another name.
            table: with the columns of the schema, in any order.

        Raises:
            ValueError: if the name is unfit for a folder, or the columns are not the schema's.
        """
        table = _conform(table, self.schema)
        for start in range(0, len(table), _PIECE):
            piece = table.slice(start, _PIECE)
            if self._duplicates:
                piece = self._duplicates.drop(piece)
            if split == TRAIN:
                self._statistics.update(piece)
            self._split(split).add(piece)

    def finish(self, notes: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Complete the files and give the folder its name.

        Args:
            notes: for the manifest, anything that JSON can hold.

        Returns:
            What `manifest.json` holds beside its digest; see `Manifest`.

        Raises:
            ValueError: if there are no rows, too many equal ones, or the folder has appeared
                meanwhile.
        """
        if not self._splits:
            raise ValueError(f"expected rows to write to {self.folder}, got none")
        if self._duplicates and self._only_few and not self._duplicates.are_few:
            _refuse_many(self._duplicates)
        files: dict[str, File] = {}
        for split in self._splits.values():
            files |= split.finish()
        columns = self._statistics.columns() if TRAIN in self._splits else {}
        files |= self._write_vocabularies(columns)
        found = {name: split.summary() for name, split in self._splits.items()}
        splits = {name: split for name, split in found.items() if split.rows}
        dropped = self._duplicates.dropped if self._duplicates else 0
        manifest = Manifest(files, splits, columns, dropped, dict(notes or {}))
        save(manifest, self._out)
        self._appear()
        self._finished = True
        return manifest.to_dict()

    def _split(self, name: str) -> "_SplitWriter":
        if name not in self._splits:
            check_path(name, "split")
            if "/" in name or name in (VOCABULARY, NAME):
                raise ValueError(f"expected a split of another name, got '{name}'")
            args = (self._out, name, self.schema, self.labels, self._row_group_rows)
            self._splits[name] = _SplitWriter(*args)
        return self._splits[name]

    def _write_vocabularies(self, columns: Mapping[str, Column]) -> dict[str, File]:
        files: dict[str, File] = {}
        if not columns:
            return files
        for name, table in self._statistics.vocabularies():
            # Column names may hold anything, paths may not; different names stay different.
            stem = re.sub(r"[^\w-]", "_", name)[:50]
            path = f"{VOCABULARY}/{stem}.parquet"
            while path.lower() in map(str.lower, files):
                path = f"{path.removesuffix('.parquet')}_.parquet"
            (self._out / VOCABULARY).mkdir(exist_ok=True)
            pq.write_table(table, self._out / path, **_OPTIONS)
            files[path] = describe(self._out / path, len(table))
            columns[name].vocabulary = path
        return files

    def _appear(self) -> None:
        check_folder(self.folder, self._overwrite)
        replaced = self.scratch / "replaced"
        if self.folder.exists():
            self.folder.rename(replaced)
        try:
            self._out.rename(self.folder)
        except BaseException:
            if replaced.exists():
                replaced.rename(self.folder)
            raise


def check_folder(folder: Path, overwrite: bool) -> None:
    """Raise a ValueError if the folder is there and not to be overwritten or not one of ours."""
    if not folder.exists() and not folder.is_symlink():
        return
    if not overwrite:
        raise ValueError(f"{folder} exists already: remove it or pass --overwrite")
    if not (folder / NAME).is_file():
        raise ValueError(f"{folder} holds no {NAME}, so it is not overwritten: remove it")


# Every page carries a checksum, which the reader verifies.
# One page per column and row group: between several, a damaged page header can shift values unseen.
_OPTIONS: dict[str, Any] = {"data_page_size": 1 << 27, "dictionary_pagesize_limit": 1 << 27}
_OPTIONS |= {"compression": "zstd", "write_page_checksum": True}


class _SplitWriter:
    """Writes one split in row groups of a fixed size."""

    def __init__(
        self, root: Path, name: str, schema: pa.Schema, labels: Sequence[str], row_group_rows: int
    ) -> None:
        self._root, self._name, self._schema = root, name, schema
        self._row_group_rows = row_group_rows
        self._labels: dict[str, tuple[int, float]] = dict.fromkeys(labels, (0, 0.0))
        self._pending: list[pa.Table] = []
        self._num_pending = self._rows = self._row_groups = 0
        self._file: str | None = None
        self._file_rows = 0
        self._writer: pq.ParquetWriter | None = None
        self._files: dict[str, File] = {}

    def add(self, table: pa.Table) -> None:
        if not len(table):
            return
        self._count_labels(table)
        self._pending.append(table)
        self._num_pending += len(table)
        if self._num_pending < (size := self._row_group_rows):
            return
        rows = pa.concat_tables(self._pending)
        whole = len(rows) - len(rows) % size
        for start in range(0, whole, size):
            self._write(rows.slice(start, size))
        self._pending, self._num_pending = [rows.slice(whole)], len(rows) - whole

    def finish(self) -> dict[str, File]:
        if self._num_pending:
            self._write(pa.concat_tables(self._pending))
        self._complete_file()
        return self._files

    def close(self) -> None:
        """Close the file that is open, if one is."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close()

    def summary(self) -> Split:
        return Split(self._rows, {name: sum_ / n for name, (n, sum_) in self._labels.items() if n})

    def _count_labels(self, table: pa.Table) -> None:
        for name, (count, total) in self._labels.items():
            values = table[name].cast(pa.float64()).drop_null().to_numpy()
            values = values[np.isfinite(values)]
            self._labels[name] = (count + len(values), total + float(values.sum()))

    def _write(self, rows: pa.Table) -> None:
        if self._row_groups % FILE_ROW_GROUPS == 0:
            self._complete_file()
            self._file = f"{self._name}/part-{self._row_groups // FILE_ROW_GROUPS:05}.parquet"
            (self._root / self._name).mkdir(exist_ok=True)
            self._writer = pq.ParquetWriter(self._root / self._file, self._schema, **_OPTIONS)
        assert self._writer is not None
        self._writer.write_table(rows.combine_chunks(), row_group_size=len(rows))
        self._row_groups += 1
        self._rows += len(rows)
        self._file_rows += len(rows)

    def _complete_file(self) -> None:
        if self._writer is None or self._file is None:
            return
        self.close()
        self._files[self._file] = describe(self._root / self._file, self._file_rows)
        self._file_rows = 0


def summary(manifest: Mapping[str, Any]) -> str:
    """Return a table of a manifest's splits: rows, label rates, and the duplicates dropped."""
    splits = manifest["splits"]
    labels = dict.fromkeys(name for split in splits.values() for name in split["label_rates"])
    width = max(20, *(len(name) + 2 for name in ["", *labels]))
    lines = [["", *splits], ["rows", *(f"{split['rows']:,}" for split in splits.values())]]
    for label in labels:
        rates = (split["label_rates"].get(label) for split in splits.values())
        lines.append([label, *("-" if rate is None else f"{rate:.4f}" for rate in rates)])
    dropped = manifest["duplicates_dropped"]
    rows = dropped + sum(split["rows"] for split in splits.values())
    share = f" ({percent(dropped, rows)})" if dropped else ""
    lines.append(["duplicates dropped", f"{dropped:,}{share}"])
    return "\n".join(
        f"{first:<{width}}" + "".join(map("{:>14}".format, rest)) for first, *rest in lines
    )


def _refuse_many(found: Duplicates) -> None:
    share = percent(found.dropped, found.rows)
    raise ValueError(
        f"expected at most {MOST_DROPPED:.0%} of the rows to equal an earlier one, got {share} "
        f"({found.dropped:,} of {found.rows:,}): events that look alike, or repetitions? "
        "--duplicates keep keeps them all, --duplicates drop keeps one of each"
    )


def _check_arguments(
    schema: pa.Schema, labels: Sequence[str], cardinality: Mapping[str, int], row_group_rows: int
) -> None:
    if not schema.names or len(set(schema.names)) < len(schema.names):
        raise ValueError(f"expected columns of different names, got {schema.names}")
    if unknown := [name for name in (*labels, *cardinality) if name not in schema.names]:
        raise ValueError(
            f"expected labels and ids of {', '.join(schema.names)}, got {', '.join(unknown)}"
        )
    for name in labels:
        kind = schema.field(name).type
        if not (pt.is_boolean(kind) or pt.is_integer(kind) or pt.is_floating(kind)):
            raise ValueError(f"label '{name}': expected a column of numbers, got type {kind}")
    if row_group_rows < 1:
        raise ValueError(f"expected at least 1 row per row group, got {row_group_rows}")


def _conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    if sorted(table.column_names) != sorted(schema.names):
        raise ValueError(
            f"expected the columns {', '.join(schema.names)}, got {', '.join(table.column_names)}"
        )
    if (table := table.select(schema.names)).schema == schema:
        return table
    columns = []
    for field in schema:
        try:
            columns.append(table[field.name].cast(field.type))
        except pa.ArrowException as error:
            raise ValueError(f"column '{field.name}': expected {field.type}: {error}") from error
    return pa.table(columns, schema=schema)
