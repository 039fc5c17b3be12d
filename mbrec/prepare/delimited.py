"""Reads delimited text files in pieces, and says where one of them is not as it should be.

What `scripts/prepare_*.py` share: memory holds one piece, whatever the size of the file, and every
error names the file, the line, the column and the value.
"""

import csv
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
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
class Piece:
    """Some consecutive rows of a file.

    Attributes:
        path: the file.
        first_line: line in the file of the first row, from 1.
        table: the rows, in the order of the file.
    """

    path: Path
    first_line: int
    table: pa.Table

    def refuse(self, bad: npt.ArrayLike, column: str, expected: str) -> None:
        """Raise for the first True in `bad`, one for each row.

        Raises:
            ValueError: naming the file, the line, the column, what was expected and the value.
        """
        where = np.asarray(bad, bool)
        if where.any():
            row = int(where.argmax())
            raise ValueError(
                f"{self.path}: line {self.first_line + row}, column {column}: expected {expected}, "
                f"got {show(self.table[column][row].as_py())}"
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
    delimiter: str = ",",
    optional: Collection[str] = (),
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[Piece]:
    """Read columns of a file, plain or .gz, in pieces; a bar shows the rows on a terminal.

    Args:
        path: the file.
        types: name -> type of the columns to read, in this order. Strings stay as they are.
        names: names of all columns of a file whose first line is a row; default: the first line
            has them.
        delimiter: between the values of a line; quotes have no meaning.
        optional: columns whose empty numbers are null; elsewhere they are errors.
        block_bytes: size of a piece in the (uncompressed) file; no line can be longer.

    Raises:
        ValueError: naming the file, and the line, column and value that cannot be read.
        OSError: if the file cannot be read.
    """
    try:
        yield from _pieces(path, types, names, delimiter, optional, block_bytes)
    except pa.ArrowInvalid as error:
        _refuse_file(path, names or _header(path, delimiter), error)
    except OSError as error:
        if str(path) in str(error):
            raise
        raise OSError(f"{path}: {error}") from error


def show(value: Any) -> str:
    """Return a value as an error shows it: short, on one line."""
    text = "none" if value is None else repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _pieces(
    path: Path,
    types: Mapping[str, pa.DataType],
    names: Sequence[str] | None,
    delimiter: str,
    optional: Collection[str],
    block_bytes: int,
) -> Iterator[Piece]:
    known = list(names or _header(path, delimiter))
    if missing := [name for name in types if name not in known]:
        raise ValueError(
            f"{path}: expected the columns {', '.join(missing)}, got a file with {', '.join(known)}"
        )
    read = pcsv.ReadOptions(
        block_size=block_bytes,
        # Without threads pyarrow can say which line it could not read.
        use_threads=False,
        column_names=known,
        skip_rows=0 if names else 1,
    )
    parse = pcsv.ParseOptions(delimiter=delimiter, quote_char=False)
    convert = pcsv.ConvertOptions(column_types=dict(types), include_columns=list(types))
    line = 1 if names else 2
    bar = tqdm(desc=path.name, unit=" rows", unit_scale=True, mininterval=1, disable=None)
    with pcsv.open_csv(str(path), read, parse, convert) as reader, bar:
        for batch in reader:
            piece = Piece(path, line, pa.Table.from_batches([batch]))
            for name in types:
                if name not in optional and piece.table[name].null_count:
                    piece.refuse(piece.table[name].is_null().to_numpy(), name, "a value")
            yield piece
            line += len(batch)
            bar.update(len(batch))


def _header(path: Path, delimiter: str) -> list[str]:
    with pa.input_stream(str(path)) as stream:
        first = stream.read(1 << 16).partition(b"\n")[0]
    text = first.decode("utf-8-sig", errors="replace").strip("\r")
    return next(csv.reader([text], delimiter=delimiter), [])


def _refuse_file(path: Path, names: Sequence[str], error: Exception) -> NoReturn:
    said = str(error).replace("Empty CSV file", "expected rows, got an empty file")
    for pattern, ours in (
        (r"In CSV column #(\d+): ", lambda match: f"column {names[int(match[1])]}: "),
        (r"(column .*?: )Row #(\d+): ", r"line \2, \1"),
        (r"CSV conversion error to ([^:]+): invalid value ", r"expected \1, got "),
        (r"CSV parse error: Row #(\d+): E", r"line \1: e"),
    ):
        said = re.sub(pattern, ours, said)
    said = "".join(c if c.isprintable() else " " for c in said)
    raise ValueError(f"{path}: {said if len(said) < 300 else said[:297] + '...'}") from error
