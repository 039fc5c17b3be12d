"""The place in the data that an error is reported at."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

# Rows are only looked up to report an error; until then it is enough to know how.
Rows = np.ndarray | Callable[[], np.ndarray]


@dataclass(frozen=True)
class Where:
    """A column of a row group of a file.

    Attributes:
        file: as the user knows it.
        row_group: its number in the file.
        name: of the column.
        start: the row of the row group that is numbered 0 here.
        counts: how many rows have each of the values that are looked at; default: one.
    """

    file: str
    row_group: int
    name: str = ""
    start: int = 0
    counts: np.ndarray | None = None

    def column(self, name: str) -> "Where":
        """Return the same place in a column."""
        return Where(self.file, self.row_group, name, self.start, self.counts)

    def refuse(
        self,
        bad: np.ndarray,
        values: np.ndarray | pa.Array | None,
        expected: str,
        rows: Rows | None = None,
        *,
        remedy: str = "",
    ) -> None:
        """Raise for the first True in `bad`.

        Args:
            bad: bool, one a value.
            values: the values, or None where they are null.
            expected: what would have been right.
            rows: the row of each value in the row group, or what returns them; default: its
                index.
            remedy: what a user may do about it.

        Raises:
            ValueError: naming file, row group, row, column, value, what was expected and the
                remedy.
        """
        if not bad.any():
            return
        first = int(bad.argmax())
        numbers = rows() if callable(rows) else rows
        row = self.start + (first if numbers is None else int(numbers[first]))
        got = "null" if values is None else values[first]
        if isinstance(got, pa.Scalar):
            got = _shown(got)
        many = int(bad.sum() if self.counts is None else self.counts[bad].sum())
        raise ValueError(
            f"{self.file}: row group {self.row_group}, row {row}, column '{self.name}': "
            f"expected {expected}, got {got} ({many} such in this row group)"
            + (f"; {remedy}" if remedy else "")
        )


def _shown(value: pa.Scalar) -> str:
    try:
        return repr(value.as_py())[:100]
    except UnicodeDecodeError:
        return repr(value.cast(pa.binary()).as_py())[:100]
