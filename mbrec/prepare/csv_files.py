"""Finds CSV files and reads them as text, with errors that name file, row and column."""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pcsv

from mbrec.reader.source import is_hidden

# "NA" is not among them: it is Namibia as well.
NULLS = ("null", "NULL", "nan", "NaN", r"\N")


@dataclass(frozen=True)
class Dialect:
    """How CSV files are written; `null_values` stand for missing values, quoted or not."""

    delimiter: str = ","
    null_values: Sequence[str] = ("", *NULLS)


def find_files(sources: Sequence[Path]) -> list[Path]:
    """Return the files, and the .csv and .csv.gz files in the folders, by name; no hidden ones.

    Raises:
        ValueError: naming what does not exist, or is a folder without such files.
    """
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


def read_header(file: Path, dialect: Dialect) -> list[str]:
    """Return the names of the columns.

    Raises:
        ValueError: if the first line does not look like names, or some are alike.
    """
    try:
        with pa.input_stream(str(file)) as stream:
            line = stream.read(1 << 20).partition(b"\n")[0]
        names = next(
            csv.reader([line.decode("utf-8-sig").strip("\r")], delimiter=dialect.delimiter), []
        )
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: expected a line of column names in UTF-8: {error}") from error
    if not names or "" in names or len(set(names)) < len(names):
        raise ValueError(f"{file}: expected a first line of different column names, got {names}")
    if all(re.fullmatch(r"[-+.\deE]+", name) for name in names):
        raise ValueError(f"{file}: expected a first line of column names, got the numbers {names}")
    return names


def read_text(
    file: Path, schema: pa.Schema, dialect: Dialect, block: int
) -> Iterator[pa.RecordBatch]:
    """Yield a file's rows as strings.

    Args:
        file: plain or .gz.
        schema: the columns, all of strings.
        dialect: how the file is written.
        block: bytes of the file that are read at a time.

    Raises:
        ValueError: naming the file and what pyarrow could not read, by row where it knows.
    """
    convert = pcsv.ConvertOptions(
        column_types=schema,
        strings_can_be_null=True,
        null_values=list(dialect.null_values),
    )
    parse = pcsv.ParseOptions(delimiter=dialect.delimiter, newlines_in_values=True)
    # Without threads pyarrow can say which row it could not read.
    read = pcsv.ReadOptions(block_size=block, use_threads=False)
    try:
        with pcsv.open_csv(str(file), read, parse, convert) as reader:
            yield from reader
    except (pa.ArrowInvalid, OSError) as error:
        text = re.sub(r"column #(\d+)", lambda m: f"column '{schema.names[int(m[1])]}'", str(error))
        if "straddling" in text:
            text = f"a quoted value is not closed, or a row is larger than {block} bytes"
        raise ValueError(f"{file}: {' '.join(text.split())}") from error
