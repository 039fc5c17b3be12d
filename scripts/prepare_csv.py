"""Turns a log in CSV files into the Parquet folders that training reads.

The files are read once, as text, into a compressed copy beside OUT; types are chosen for all of
their values, so that no late value comes as a surprise. The copy is then sorted by time, in
partitions where it is large, split and written. Memory holds a block of the files, a partition, and
for each row 16 bytes for the order by time and 16 for finding duplicates.

Rows that equal an earlier one in every column are events of their own unless a time says otherwise:
in a log of `city,device,clicked` nearly all rows do. With --time, they are dropped as long as they
are few; --duplicates decides otherwise. Values are compared, not their texts: 0.5 equals .50.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from mbrec.prepare.csv_files import NULLS, Dialect, find_files, read_header, read_text
from mbrec.prepare.duplicates import Duplicates, Policy, percent
from mbrec.prepare.script import add_duplicates
from mbrec.prepare.text_columns import TextColumn
from mbrec.prepare.writer import DatasetWriter, check_folder, summary

SPLITS = ("train", "validation", "test")
_BAR: dict[str, Any] = {"unit_scale": True, "mininterval": 1, "disable": None}
_MAX_PARTITIONS = 512
_RANK = ""  # no column of a CSV file has this name


@dataclass(frozen=True)
class Options:
    """How the files are read and what their columns are; see the command line's help."""

    time: str | None = None
    validation: float = 0.1
    test: float = 0.1
    lists: Sequence[str] = ()
    list_separator: str = "|"
    strings: Sequence[str] = ()
    ids: Sequence[str] = ()
    labels: Sequence[str] = ()
    dialect: Dialect = field(default_factory=Dialect)
    duplicates: Policy | None = None
    overwrite: bool = False


def prepare(
    sources: Sequence[Path],
    out: Path,
    options: Options,
    *,
    block_bytes: int = 1 << 24,
    partition_bytes: int = 1 << 27,
) -> tuple[dict[str, Any], list[str]]:
    """Writes the splits and the manifest under ``out``.

    Args:
        sources: CSV files, plain or .gz, or folders of them.
        out: The folder to create; it appears only when everything in it is complete.
        options: See the command line's help.
        block_bytes: Size of the pieces in which the files are read.
        partition_bytes: Text that is sorted at a time.

    Returns:
        The manifest, and what was guessed, a line each.

    Raises:
        ValueError: If a file, column or value is missing or wrong, or ``out`` exists.
    """
    check_folder(out, options.overwrite)
    files = find_files(sources)
    columns = _columns(files, options)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as work:
        copy = Path(work) / "rows"
        num_rows, size = _copy(files, columns, options, copy, block_bytes)
        policy, kept = _policy(copy, columns, options, num_rows)
        labels = list(options.labels) or [column.name for column in columns if column.is_binary]
        schema = pa.schema([(column.name, column.type) for column in columns])
        ends, pieces = _ends(num_rows, options), -(-size // partition_bytes)
        chosen: Any = {"overwrite": options.overwrite, "duplicates": policy}
        with (
            DatasetWriter(out, schema, labels=labels, **chosen) as writer,
            tqdm(total=num_rows, desc="writing", unit=" rows", **_BAR) as bar,
        ):
            for first, rows in _in_order(copy, columns, options, num_rows, pieces):
                _add(writer, _converted(rows, columns), first, ends)
                bar.update(len(rows))
            notes = _notes(files, labels, options)
            manifest = writer.finish(notes=notes)
    return manifest, _remarks(columns, labels, options) + kept


def _notes(files: Sequence[Path], labels: Sequence[str], options: Options) -> dict[str, Any]:
    return {
        "source": [file.name for file in files],
        "order": f"by {options.time}" if options.time else "of the files",
        "labels": labels,
        "labels_guessed": not options.labels,
    }


def _columns(files: Sequence[Path], options: Options) -> list[TextColumn]:
    names = read_header(files[0], options.dialect)
    for file in files[1:]:
        if (others := read_header(file, options.dialect)) != names:
            raise ValueError(f"{file}: expected the columns of {files[0]}, {names}, got {others}")
    for flag in ("time", "lists", "strings", "ids", "labels"):
        given = getattr(options, flag) or ()
        for name in [given] if isinstance(given, str) else given:
            if name not in names:
                raise ValueError(f"--{flag}: expected one of {', '.join(names)}, got {name}")
    if both := {options.time, *options.labels} & {*options.lists, *options.strings}:
        raise ValueError(f"expected times and labels that are no lists or strings, got {both}")
    if not options.list_separator:
        raise ValueError("--list-separator: expected at least one character, got none")
    if both := {*options.ids} & {*options.strings}:
        raise ValueError(f"expected either --ids or --strings, got both for {both}")
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


def _copy(
    files: Sequence[Path],
    columns: Sequence[TextColumn],
    options: Options,
    to: Path,
    block: int,
) -> tuple[int, int]:
    """Copies all rows as text; returns their number and bytes."""
    num_rows = size = 0
    schema = pa.schema([(column.name, pa.string()) for column in columns])
    with tqdm(desc="reading", unit=" rows", **_BAR) as bar, _new_file(to, schema) as copy:
        for file in files:
            row = 2  # the header is row 1, as an editor shows it
            for batch in read_text(file, schema, options.dialect, block):
                for column, array in zip(columns, batch.columns, strict=True):
                    column.look(array, file, row)
                copy.write_batch(batch)
                row, size = row + len(batch), size + batch.nbytes
                num_rows += len(batch)
                bar.update(len(batch))
    if not num_rows:
        raise ValueError(f"{files[0]}: expected rows below the column names, got none")
    return num_rows, size


def _policy(
    copy: Path, columns: Sequence[TextColumn], options: Options, num_rows: int
) -> tuple[Policy, list[str]]:
    """Returns what becomes of equal rows, and a note if some are kept without being asked for.

    They are counted only where the count decides or is told, and as the writer sees them: .50 and
    .5 are one number. What finds them is gone before the writer needs memory for the same.
    """
    if options.duplicates:
        return options.duplicates, []
    repeated = Duplicates()
    with tqdm(total=num_rows, desc="comparing", unit=" rows", **_BAR) as bar:
        for batch in _batches(copy):
            repeated.drop(_converted(pa.Table.from_batches([batch]), columns))
            bar.update(len(batch))
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
    """Returns rows of text as values of the columns' types."""
    return pa.table({c.name: c.convert(rows[c.name].combine_chunks()) for c in columns})


def _new_file(path: Path, schema: pa.Schema) -> pa.ipc.RecordBatchFileWriter:
    return pa.ipc.new_file(str(path), schema, options=pa.ipc.IpcWriteOptions(compression="lz4"))


def _batches(path: Path, columns: list[int] | None = None) -> Iterator[pa.RecordBatch]:
    options = pa.ipc.IpcReadOptions(included_fields=columns)
    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source, options=options)
        for index in range(reader.num_record_batches):
            yield reader.get_batch(index)


def _ranks(copy: Path, columns: Sequence[TextColumn], time: str) -> np.ndarray | None:
    """Returns each row's place in the order of time; None if they are in order."""
    at = [column.name for column in columns].index(time)
    times = [columns[at].convert(batch.column(0)) for batch in _batches(copy, [at])]
    if not (pa.types.is_floating(times[0].type) or pa.types.is_boolean(times[0].type)):
        times = [a.view(pa.int32() if a.type.bit_width == 32 else pa.int64()) for a in times]
    numbers = np.concatenate([array.to_numpy(zero_copy_only=False) for array in times])
    if (numbers[1:] >= numbers[:-1]).all():
        return None
    ranks = np.empty(len(numbers), np.int64)
    ranks[np.argsort(numbers, kind="stable")] = np.arange(len(numbers))
    return ranks


def _in_order(
    copy: Path, columns: Sequence[TextColumn], options: Options, num_rows: int, partitions: int
) -> Iterator[tuple[int, pa.Table]]:
    """Yields the rows in the order of time, and the place of the first of each piece."""
    ranks = _ranks(copy, columns, options.time) if options.time else None
    if ranks is None:
        first = 0
        for batch in _batches(copy):
            yield first, pa.Table.from_batches([batch])
            first += len(batch)
        return
    size = -(-num_rows // min(partitions, _MAX_PARTITIONS))
    paths = [copy.with_name(f"partition-{index}") for index in range(-(-num_rows // size))]
    _partition(copy, ranks, size, paths)
    for index, path in enumerate(paths):
        rows = pa.Table.from_batches(_batches(path))
        yield index * size, rows.take(pa.array(np.argsort(rows[_RANK].to_numpy())))
        path.unlink()


def _partition(copy: Path, ranks: np.ndarray, size: int, paths: Sequence[Path]) -> None:
    """Deals the rows to files of ``size`` rows each, in the order of their ranks."""
    start, writers = 0, list[Any]()
    with ExitStack() as stack:
        for batch in _batches(copy):
            mine = ranks[start : start + len(batch)]
            batch = batch.append_column(_RANK, pa.array(mine))
            if not writers:
                writers = [stack.enter_context(_new_file(path, batch.schema)) for path in paths]
            for index in np.unique(mine // size).tolist():
                writers[index].write_batch(batch.filter(pa.array(mine // size == index)))
            start += len(batch)


def _ends(num_rows: int, options: Options) -> list[int]:
    """Returns where train, validation and test end."""
    test = round(num_rows * options.test)
    validation = round(num_rows * options.validation)
    if not test + validation < num_rows:
        shares = f"shares of {options.validation:g} and {options.test:g} of {num_rows} rows"
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


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def share(text: str) -> float:
    """Reads a number in [0, 1), for argparse, which names this function in its errors."""
    if not 0 <= (share := float(text)) < 1:
        raise ValueError
    return share


def _one_character(text: str) -> str:
    text = {r"\t": "\t", "tab": "\t"}.get(text, text)
    if len(text) != 1 or not text.isascii() or text in '"\r\n':
        raise argparse.ArgumentTypeError(f"expected one character, got {text!r}")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Turn a log in CSV files, plain or .gz, into Parquet: OUT/train, "
        "OUT/validation, OUT/test, vocabularies of strings, and OUT/manifest.json. Types are found "
        "from all values: integers, numbers, booleans, dates, times (ISO 8601), or else strings.",
        epilog="While it runs, a hidden folder beside OUT holds a copy of the rows, or two.",
    )
    add = parser.add_argument
    add("sources", metavar="FILE.csv", type=Path, nargs="+", help="files, or folders of them")
    add("out", metavar="OUT", type=Path, help="folder to create")
    time = "column to order the rows by: numbers, dates or times (default: the order of the files)"
    add("--time", metavar="COLUMN", help=time)
    part: dict[str, Any] = {"type": share, "default": 0.1, "metavar": "SHARE"}
    add("--validation", help="share of the rows before the test rows (%(default)s)", **part)
    add("--test", help="share of the last rows (%(default)s)", **part)
    some: dict[str, Any] = {"type": _names, "default": [], "metavar": "A,B"}
    add("--labels", help="columns that are predicted (default: those of 0 and 1)", **some)
    add("--lists", help="columns that hold several values each", **some)
    between = "what stands between the values of a list (%(default)s)"
    add("--list-separator", default="|", metavar="TEXT", help=between)
    add("--strings", help="columns to keep as strings, whatever they look like", **some)
    add("--ids", help="columns that have to be integers", **some)
    nulls = "what stands for a missing value, beside an empty one (default: %(default)s)"
    add("--null-values", default=",".join(NULLS), metavar="A,B", help=nulls)
    delimiter = "between columns, \\t for tabs (%(default)s)"
    add("--delimiter", type=_one_character, default=",", help=delimiter)
    add_duplicates(
        parser, None, "default: with --time, drop them if they are at most 1%%; otherwise keep"
    )
    add("--overwrite", action="store_true", help="replace OUT if it holds a manifest.json")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    args = vars(_parser().parse_args(argv))
    sources, out = args.pop("sources"), args.pop("out")
    dialect = Dialect(args.pop("delimiter"), ["", *args.pop("null_values").split(",")])
    try:
        manifest, remarks = prepare(sources, out, Options(dialect=dialect, **args))
    except (ValueError, OSError) as error:
        print(f"prepare_csv: {error}", file=sys.stderr)
        return 2
    print("\n".join([*remarks, summary(manifest)]))
    print(f"written to {out}; next: python -m mbrec.prepare.describe {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
