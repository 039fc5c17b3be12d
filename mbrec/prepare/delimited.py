"""Reads delimited text files in pieces, and says where one of them is not as it should be.

Memory holds one piece, whatever the size of the file. Every error names the file, the line, the
column and the value.
"""

import csv
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pcsv
from tqdm import tqdm

from mbrec.reader.source import is_hidden

BLOCK_BYTES = 1 << 24
_SHOWN = 80  # characters of a value that an error shows


@dataclass(frozen=True)
class Format:
    """How a file is written.

    Attributes:
        delimiter: between the values of a line.
        quoted: values may stand in quotes, with delimiters and line breaks in them, and an empty
            text is null. Otherwise quotes have no meaning, and texts stay as they are.
        null_values: texts that stand for a missing value; default: those of pyarrow.
    """

    delimiter: str = ","
    quoted: bool = False
    null_values: Sequence[str] | None = None

    @property
    def unit(self) -> str:
        """What errors count: where values have line breaks, a row is no line."""
        return "row" if self.quoted else "line"


@dataclass(frozen=True)
class Piece:
    """Some consecutive rows of a file.

    Attributes:
        path: the file.
        first_line: line in the file of the first row, from 1.
        table: the rows, in the order of the file.
        unit: what lines are called: "row" where values may have line breaks.
    """

    path: Path
    first_line: int
    table: pa.Table
    unit: str = "line"

    def refuse(self, bad: npt.ArrayLike, column: str, expected: str) -> None:
        """Raise for the first True in `bad`, one for each row.

        Raises:
            ValueError: naming the file, the line, the column, what was expected and the value.
        """
        where = np.asarray(bad, bool)
        if where.any():
            row = int(where.argmax())
            raise ValueError(
                f"{self.path}: {self.unit} {self.first_line + row}, column {column}: "
                f"expected {expected}, got {show(self.table[column][row].as_py())}"
            )

    def refuse_all_but(self, values: Collection[int], columns: Sequence[str]) -> None:
        """Raise for the first value of integer columns that is not one of `values`.

        Raises:
            ValueError: see `refuse`.
        """
        expected = " or ".join(map(str, values))
        for name in columns:
            known = np.isin(self.table[name].to_numpy(), list(values))
            self.refuse(~known, name, expected)


_PLAIN = Format()


def find_file(folder: Path, *names: str) -> Path:
    """Return the first file of one of these names, plain or .gz, in a folder or those in it.

    Hidden folders in it are left out.

    Raises:
        FileNotFoundError: if there is none.
    """
    for name in names:
        for pattern in (f"{at}{name}{gz}" for at in ("", "*/", "*/*/") for gz in ("", ".gz")):
            for path in sorted(folder.glob(pattern)):
                if path.is_file() and not is_hidden(path.relative_to(folder).as_posix()):
                    return path
    raise FileNotFoundError(
        f"expected {' or '.join(names)} (plain or .gz) in {folder} or a folder in it, found none"
    )


def read_delimited(
    path: Path,
    types: Mapping[str, pa.DataType],
    *,
    names: Sequence[str] | None = None,
    format: Format = _PLAIN,
    optional: Collection[str] = (),
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[Piece]:
    """Read columns of a file, plain or .gz, in pieces; a bar shows the rows on a terminal.

    Args:
        path: the file.
        types: name -> type of the columns to read, in this order.
        names: names of all columns of a file whose first line is a row; default: the first line
            has them.
        format: how it is written.
        optional: columns whose values may be missing; elsewhere this is an error.
        block_bytes: size of a piece in the (uncompressed) file; no line can be longer.

    Raises:
        ValueError: naming the file, and the line, column and value that cannot be read.
        OSError: if the file cannot be read.
    """
    known = list(names or read_header(path, format.delimiter))
    if missing := [name for name in types if name not in known]:
        raise ValueError(
            f"{path}: expected the columns {', '.join(missing)}, got a file with {', '.join(known)}"
        )
    header = 0 if names else 1
    # Without threads pyarrow can say which line it could not read.
    read = pcsv.ReadOptions(
        use_threads=False, block_size=block_bytes, skip_rows=header, column_names=known
    )
    line = 1 + header
    bar = tqdm(desc=path.name, unit=" rows", unit_scale=True, mininterval=1, disable=None)
    try:
        with _naming(path), _open(path, read, types, format) as reader, bar:
            for batch in reader:
                piece = Piece(path, line, pa.Table.from_batches([batch]), format.unit)
                for name in types:
                    if name not in optional and piece.table[name].null_count:
                        piece.refuse(piece.table[name].is_null().to_numpy(), name, "a value")
                yield piece
                line += len(batch)
                bar.update(len(batch))
    except pa.ArrowInvalid as error:
        _refuse_file(path, known, format.unit, block_bytes, error)


def read_header(path: Path, delimiter: str) -> list[str]:
    """Return the values of the first line of a file, plain or .gz."""
    with _naming(path), pa.input_stream(str(path)) as stream:
        first = stream.read(1 << 20).partition(b"\n")[0]
    text = first.decode("utf-8-sig", errors="replace").strip("\r")
    return next(csv.reader([text], delimiter=delimiter), [])


def show(value: Any) -> str:
    """Return a value as an error shows it: short, on one line."""
    text = "none" if value is None else repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the file in errors of the system that do not."""
    try:
        yield
    except OSError as error:
        if str(path) in str(error):
            raise
        raise OSError(f"{path}: {error}") from error


def _open(
    path: Path, read: pcsv.ReadOptions, types: Mapping[str, pa.DataType], format: Format
) -> pcsv.CSVStreamingReader:
    parse = pcsv.ParseOptions(
        delimiter=format.delimiter,
        quote_char='"' if format.quoted else False,
        newlines_in_values=format.quoted,
    )
    convert = pcsv.ConvertOptions(
        column_types=dict(types),
        include_columns=list(types),
        strings_can_be_null=format.quoted,
        null_values=format.null_values,
        timestamp_parsers=[pcsv.ISO8601, "%Y%m%d"],
    )
    return pcsv.open_csv(str(path), read, parse, convert)


def _refuse_file(
    path: Path, names: Sequence[str], unit: str, block_bytes: int, error: Exception
) -> NoReturn:
    said = str(error).replace("Empty CSV file", "expected rows, got an empty file")
    if "straddling" in said:
        said = f"a quoted value is not closed, or a {unit} is larger than {block_bytes} bytes"
    for pattern, ours in (
        (r"In CSV column #(\d+): ", lambda match: f"column {names[int(match[1])]}: "),
        (r"(column .*?: )Row #(\d+): ", rf"{unit} \2, \1"),
        (r"CSV conversion error to ([^:]+): invalid value ", r"expected \1, got "),
        (r"CSV parse error: Row #(\d+): E", rf"{unit} \1: e"),
    ):
        said = re.sub(pattern, ours, said)
    said = "".join(c if c.isprintable() else " " for c in said)
    raise ValueError(f"{path}: {said if len(said) < 300 else said[:297] + '...'}") from error
