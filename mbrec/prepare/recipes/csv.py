"""A log in CSV files.

The files are read once, as text, into a compressed copy beside OUT; types are chosen for all of
their values, so that no late value comes as a surprise. The copy is then sorted by time, in
partitions where it is large, split and written. Memory holds a block of the files, a partition, and
for each row 16 bytes for the order by time and 16 for finding duplicates.

Rows that equal an earlier one in every column are events of their own unless a time says otherwise:
in a log of `city,device,clicked` nearly all rows do. With --time, they are dropped as long as they
are few; --duplicates decides otherwise. Values are compared, not their texts: 0.5 equals .50.
"""

import argparse
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from mbrec.prepare.delimited import BLOCK_BYTES, Format, read_delimited, read_header
from mbrec.prepare.duplicates import Duplicates, Policy, percent
from mbrec.prepare.recipe import SPLITS, add_duplicates, add_options
from mbrec.prepare.spill import Spill
from mbrec.prepare.text_columns import TextColumn
from mbrec.prepare.writer import DatasetWriter, check_folder, summary
from mbrec.reader.source import is_hidden

TITLE = "a log in CSV files, plain or .gz"
DESCRIPTION = (
    "Turn a log in CSV files into Parquet. Types are found from all values: integers, numbers, "
    "booleans, dates, times (ISO 8601), or else strings."
)
EPILOG = "While it runs, a hidden folder beside OUT holds a copy of the rows, or two."
# "NA" is not among them: it is Namibia as well.
NULLS = ("null", "NULL", "nan", "NaN", r"\N")
_OPTIONS = {
    "time": "column to order the rows by: numbers, dates or times (default: the order of the "
    "files)",
    "validation": "share of the rows before the test rows (%(default)s)",
    "test": "share of the last rows (%(default)s)",
    "labels": "columns that are predicted (default: those of 0 and 1)",
    "lists": "columns that hold several values each",
    "list_separator": "what stands between the values of a list (%(default)s)",
    "strings": "columns to keep as strings, whatever they look like",
    "ids": "columns that have to be integers",
    "null_values": "what stands for a missing value, beside an empty one (default: "
    f"{','.join(NULLS)})",
    "delimiter": r"between columns, \t for tabs (%(default)s)",
}
_DELIMITERS = {r"\t": "\t", "tab": "\t"}
_MAX_PARTITIONS = 512
_RANK = ""  # no column of a CSV file has this name


@dataclass(frozen=True)
class Options:
    """How the files are read and what their columns are; see the command line's help."""

    time: str | None = None
    validation: float = 0.1
    test: float = 0.1
    labels: Sequence[str] = ()
    lists: Sequence[str] = ()
    list_separator: str = "|"
    strings: Sequence[str] = ()
    ids: Sequence[str] = ()
    null_values: Sequence[str] = NULLS
    delimiter: str = ","
    duplicates: Policy | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not (0 <= self.validation < 1 and 0 <= self.test < 1):
            raise ValueError(
                "expected shares for validation and test in [0, 1), got "
                f"{self.validation} and {self.test}"
            )
        if len(self.separator) != 1 or not self.separator.isascii() or self.separator in '"\r\n':
            raise ValueError(f"--delimiter: expected one character, got {self.delimiter!r}")
        if not self.list_separator:
            raise ValueError("--list-separator: expected at least one character, got none")
        if both := {self.time, *self.labels} & {*self.lists, *self.strings}:
            raise ValueError(f"expected times and labels that are no lists or strings, got {both}")
        if both := {*self.ids} & {*self.strings}:
            raise ValueError(f"expected either --ids or --strings, got both for {both}")

    @property
    def separator(self) -> str:
        """What is between columns."""
        return _DELIMITERS.get(self.delimiter, self.delimiter)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `run` takes, besides the folder to write."""
    sources = "files, or folders of them"
    parser.add_argument("sources", metavar="FILE.csv", type=Path, nargs="+", help=sources)
    add_options(parser, Options, _OPTIONS)
    says = "default: with --time, drop them if they are at most 1%%; otherwise keep"
    add_duplicates(parser, says)


def run(sources: Sequence[Path], out: Path, **options: Any) -> list[str]:
    """Prepare as the command line says; return what to print."""
    manifest, remarks = prepare(sources, out, Options(**options))
    return [*remarks, summary(manifest)]


def prepare(
    sources: Sequence[Path],
    out: Path,
    options: Options,
    *,
    block_bytes: int = BLOCK_BYTES,
    partition_bytes: int = 1 << 27,
) -> tuple[dict[str, Any], list[str]]:
    """Write the splits and the manifest under `out`.

    Args:
        sources: CSV files, plain or .gz, or folders of them.
        out: the folder to create; it appears only when everything in it is complete.
        options: see the command line's help.
        block_bytes: size of the pieces in which the files are read.
        partition_bytes: text that is sorted at a time.

    Returns:
        The manifest, and what was guessed, one item per line.

    Raises:
        ValueError: if a file, column or value is missing or wrong, or `out` exists.
    """
    check_folder(out, options.overwrite)
    files = _find_files(sources)
    columns = _columns(files, options)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        work = Path(folder)
        with Spill(work / "rows") as copy:
            num_rows, size = _copy(files, columns, options, copy, block_bytes)
        policy, kept = _policy(copy, columns, options, num_rows)
        labels = list(options.labels) or [column.name for column in columns if column.is_binary]
        schema = pa.schema([(column.name, column.type) for column in columns])
        ends = _ends(num_rows, options)
        chosen: Any = {"overwrite": options.overwrite, "duplicates": policy}
        with DatasetWriter(out, schema, labels=labels, **chosen) as writer:
            pieces = _in_order(copy, columns, options.time, num_rows, -(-size // partition_bytes))
            bar = tqdm(total=num_rows, desc="writing", unit=" rows", unit_scale=True, disable=None)
            for first, rows in pieces:
                _add(writer, _converted(rows, columns), first, ends)
                bar.update(len(rows))
            notes = {
                "source": [file.name for file in files],
                "order": f"by {options.time}" if options.time else "of the files",
                "labels": labels,
                "labels_guessed": not options.labels,
            }
            manifest = writer.finish(notes=notes)
    return manifest, _remarks(columns, labels, options) + kept


def _find_files(sources: Sequence[Path]) -> list[Path]:
    """Return the files, and the .csv and .csv.gz files in the folders, by name; no hidden ones."""
    files: list[Path] = []
    for source in sources:
        if source.is_dir():
            named = (p for p in source.iterdir() if p.name.endswith((".csv", ".csv.gz")))
            found = [path for path in named if not is_hidden(path.name)]
            if not found:
                raise ValueError(f"{source}: expected .csv or .csv.gz files in it, found none")
            files += sorted(found)
        elif not source.is_file():
            raise ValueError(f"{source}: no such file or folder")
        else:
            files.append(source)
    return files


def _columns(files: Sequence[Path], options: Options) -> list[TextColumn]:
    names = _header(files[0], options)
    for file in files[1:]:
        if (others := _header(file, options)) != names:
            raise ValueError(f"{file}: expected the columns of {files[0]}, {names}, got {others}")
    for flag in ("time", "lists", "strings", "ids", "labels"):
        given = getattr(options, flag) or ()
        for name in [given] if isinstance(given, str) else given:
            if name not in names:
                raise ValueError(f"--{flag}: expected one of {', '.join(names)}, got {name}")
    fixed = dict.fromkeys(options.strings, pa.string()) | dict.fromkeys(options.ids, pa.int64())
    return [
        TextColumn(
            name,
            options.list_separator if name in options.lists else None,
            fixed.get(name),
            is_time=name == options.time,
            is_number=name in options.labels,
        )
        for name in names
    ]


def _header(file: Path, options: Options) -> list[str]:
    names = read_header(file, options.separator)
    if not names or "" in names or len(set(names)) < len(names):
        raise ValueError(f"{file}: expected a first line of different column names, got {names}")
    if all(re.fullmatch(r"[-+.\deE]+", name) for name in names):
        raise ValueError(f"{file}: expected a first line of column names, got the numbers {names}")
    return names


def _copy(
    files: Sequence[Path],
    columns: Sequence[TextColumn],
    options: Options,
    copy: Spill,
    block_bytes: int,
) -> tuple[int, int]:
    """Copy all rows as text, and find the types; return the number of rows and bytes."""
    num_rows = size = 0
    types = {column.name: pa.string() for column in columns}
    written = Format(options.separator, quoted=True, null_values=["", *options.null_values])
    for file in files:
        for piece in read_delimited(
            file,
            types,
            format=written,
            optional=types,
            block_bytes=block_bytes,
        ):
            for column in columns:
                array = piece.table[column.name].combine_chunks()
                column.look(array, file, piece.first_line)
            copy.add(piece.table, np.zeros(len(piece.table), np.int64))
            num_rows, size = num_rows + len(piece.table), size + piece.table.nbytes
    if not num_rows:
        raise ValueError(f"{files[0]}: expected rows below the column names, got none")
    return num_rows, size


def _policy(
    copy: Spill, columns: Sequence[TextColumn], options: Options, num_rows: int
) -> tuple[Policy, list[str]]:
    """Return the policy for equal rows, and a note if some are kept by default.

    They are counted only where the count decides or is printed, and as the writer sees them: .50
    and .5 are one number. Their hashes are freed before the writer collects its own.
    """
    if options.duplicates:
        return options.duplicates, []
    repeated = Duplicates()
    for rows in copy.batches(0):
        repeated.drop(_converted(rows, columns))
    if not repeated.dropped:
        return "keep", []
    if options.time and repeated.are_few:
        return "drop", []
    share = f"{percent(repeated.dropped, num_rows)} of the rows ({repeated.dropped:,})"
    why = "so many are rather events that look alike" if options.time else "no --time tells events"
    return "keep", [
        f"note: {share} equal an earlier row in every column and are kept: {why}; "
        "--duplicates drop keeps one of each"
    ]


def _converted(rows: pa.Table, columns: Sequence[TextColumn]) -> pa.Table:
    """Return rows of text as values of the columns' types."""
    return pa.table({c.name: c.convert(rows[c.name].combine_chunks()) for c in columns})


def _ranks(copy: Spill, column: TextColumn) -> np.ndarray | None:
    """Return each row's place in the order of time; None if they are in order."""
    texts = (rows[column.name].combine_chunks() for rows in copy.batches(0, [column.name]))
    times = [column.convert(array) for array in texts]
    if not (pa.types.is_floating(times[0].type) or pa.types.is_boolean(times[0].type)):
        times = [a.view(pa.int32() if a.type.bit_width == 32 else pa.int64()) for a in times]
    numbers = np.concatenate([array.to_numpy(zero_copy_only=False) for array in times])
    if (numbers[1:] >= numbers[:-1]).all():
        return None
    ranks = np.empty(len(numbers), np.int64)
    ranks[np.argsort(numbers, kind="stable")] = np.arange(len(numbers))
    return ranks


def _in_order(
    copy: Spill, columns: Sequence[TextColumn], time: str | None, num_rows: int, partitions: int
) -> Iterator[tuple[int, pa.Table]]:
    """Yield the rows in the order of time, and the place of the first of each piece."""
    first = 0
    of_time = [column for column in columns if column.name == time]
    ranks = _ranks(copy, of_time[0]) if of_time else None
    if ranks is None:
        for rows in copy.batches(0):
            yield first, rows
            first += len(rows)
        return
    size = -(-num_rows // min(partitions, _MAX_PARTITIONS))
    with Spill(copy.folder.with_name("partitions")) as parts:
        for rows in copy.batches(0):
            mine = ranks[first : first + len(rows)]
            parts.add(rows.append_column(_RANK, pa.array(mine)), mine // size)
            first += len(rows)
    for number in parts.numbers:
        rows = parts.read(number)
        yield number * size, rows.take(pa.array(np.argsort(rows[_RANK].to_numpy())))
        parts.remove(number)


def _ends(num_rows: int, options: Options) -> list[int]:
    """Return where train, validation and test end."""
    test = round(num_rows * options.test)
    validation = round(num_rows * options.validation)
    if test + validation >= num_rows:
        shares = f"{options.validation} and {options.test} of {num_rows} rows"
        raise ValueError(f"expected validation and test to leave rows for train, got {shares}")
    return [num_rows - test - validation, num_rows - test, num_rows]


def _add(writer: DatasetWriter, table: pa.Table, first: int, ends: Sequence[int]) -> None:
    for split, start, end in zip(SPLITS, [0, *ends], ends, strict=False):
        low, high = max(start - first, 0), min(end - first, len(table))
        if low < high:
            writer.add(split, table.slice(low, high - low))


def _remarks(columns: Sequence[TextColumn], labels: Sequence[str], options: Options) -> list[str]:
    lines = [f"columns: {', '.join(f'{c.name} {c.type}' for c in columns)}"]
    lines += [f"column '{c.name}' holds strings because of {c.reason}" for c in columns if c.reason]
    lines += [
        f"note: column '{c.name}' has {c.padded} beside numbers with fewer decimals; if these are "
        f"names (versions), of which {c.padded} is not {float(c.padded)}, add --strings {c.name}"
        for c in columns
        if c.padded
    ]
    if not options.labels:
        lines.append(f"labels, a guess (or add --labels A,B): {', '.join(labels) or 'none'}")
    if not options.time:
        lines.append("note: split in the order of the files; if time is another, add --time COLUMN")
    return lines
