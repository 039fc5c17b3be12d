"""Types for columns of text, chosen for all of their values, block by block."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_TIME = pa.timestamp("us")
# What one value can be, the narrowest first, and what can hold the values of a narrower type.
_KINDS = (
    *(pa.int64(), pa.float64(), pa.bool_(), pa.date32(), _TIME, pa.timestamp("us", "UTC")),
    pa.string(),
)
_WIDER = {pa.int64(): [pa.float64()], pa.date32(): [_TIME]}
_BINARY = pa.array(["0", "1", "0.0", "1.0", "false", "true", "False", "True"])
# Floating-point numbers would change the last digits of such an integer.
_LONG_INTEGER = r"^[+-]?\d{19,}$"
_CODE = r"^[+-]?0\d"  # a number would lose the zero


class TextColumn:
    """A column whose type widens with the values that are seen.

    Integers, then numbers; true and false; dates, then times (ISO 8601); or else strings. All
    values are to be looked at before the first is converted.

    Args:
        name: of the column.
        separator: of the values in a list, for a column of lists; spaces and square brackets
            around values are taken off, and empty values out.
        fixed: the type, of the values in lists if it holds these; default: to be found.
        is_time: refuse missing values and strings.
        is_number: refuse strings.

    Attributes:
        reason: the value, if any, for which the column is one of strings though others are not.
    """

    def __init__(
        self,
        name: str,
        separator: str | None = None,
        fixed: pa.DataType | None = None,
        *,
        is_time: bool = False,
        is_number: bool = False,
    ) -> None:
        self.name, self.reason = name, ""
        self._binary = separator is None
        self._separator, self._kind, self._fixed = separator, fixed, fixed is not None
        self._is_time, self._no_strings = is_time, is_time or is_number

    @property
    def type(self) -> pa.DataType:
        """What holds all values so far."""
        kind = self._kind if self._kind is not None else pa.string()
        return kind if self._separator is None else pa.list_(kind)

    @property
    def is_binary(self) -> bool:
        """Whether there are values, all of them 0 and 1 or false and true, and not kept as text."""
        return self._binary and self._kind is not None and self._kind != pa.string()

    def look(self, array: pa.Array, file: Path, first_row: int) -> None:
        """Widen the type for these strings.

        Args:
            array: of strings.
            file: that they come from, for errors.
            first_row: the row of the first of them, for errors.

        Raises:
            ValueError: naming the file, the row, the column and the value, if one does not fit.
        """
        values, rows, _ = self._values(array)
        there = values.is_valid().to_numpy(zero_copy_only=False)
        if self._is_time and not there.all():
            self._refuse(file, first_row + int(there.argmin()), "a time in every row", "none")
        values, rows = values.drop_null(), rows[there]
        if not len(values):
            return
        self._binary = self._binary and bool(pc.call_function("all", [_is_in(values)]).as_py())
        start = self._kind
        if start is None:
            start = next(kind for kind in _KINDS if _fits(values.slice(0, 1), kind))
        kinds = [start] if self._fixed else [start, *_WIDER.get(start, []), pa.string()]
        kind = next((kind for kind in kinds if _fits(values, kind)), None)
        if kind is None or (kind == pa.string() and (self._no_strings or start != kind)):
            narrow = next((k for k in reversed(kinds) if k != pa.string()), pa.float64())
            first = _first_misfit(values, narrow)
            row, value = first_row + int(rows[first]), repr(values[first].as_py())
            if kind is None or self._no_strings:
                wanted = "a number, date or time" if self._is_time else "a number"
                self._refuse(file, row, "an integer" if self._fixed else wanted, value)
            self.reason = f"{value} in {file}, row {row}"
        self._kind = kind

    def convert(self, array: pa.Array) -> pa.Array:
        """Return strings as values of the column's type."""
        if self._separator is None:
            return array.cast(self.type)
        values, _, lengths = self._values(array)
        offsets = pa.array(np.append(0, np.cumsum(lengths)), pa.int32())
        return pa.ListArray.from_arrays(offsets, values.cast(self.type.value_type))

    def _values(self, array: pa.Array) -> tuple[pa.Array, np.ndarray, np.ndarray]:
        """Return the single values, the row of each, and how many each row has."""
        if self._separator is None:
            return array, np.arange(len(array)), np.ones(len(array), np.int64)
        options = pc.SplitPatternOptions(self._separator)
        lists = pc.call_function("split_pattern", [array.fill_null("")], options)
        trim = pc.TrimOptions(" \t[]")
        values = pc.call_function("utf8_trim", [lists.flatten()], trim)
        there = pc.call_function("not_equal", [values, pa.scalar("")])
        counts = lists.value_lengths().to_numpy(zero_copy_only=False)
        rows = np.repeat(np.arange(len(array)), counts)[there.to_numpy(zero_copy_only=False)]
        return values.filter(there), rows, np.bincount(rows, minlength=len(array))

    def _refuse(self, file: Path, row: int, expected: str, got: str) -> None:
        raise ValueError(
            f"{file}: row {row}, column '{self.name}': expected {expected}, got {got}; correct it, "
            "or name what stands for a missing value with --null-values"
        )


def _is_in(values: pa.Array) -> pa.Array:
    return pc.call_function("is_in", [values], pc.SetLookupOptions(_BINARY))


def _fits(values: pa.Array, kind: pa.DataType) -> bool:
    try:
        values.cast(kind)
    except pa.ArrowInvalid:
        return False
    patterns = {pa.float64(): f"{_LONG_INTEGER}|{_CODE}", pa.int64(): _CODE}
    if kind not in patterns:
        return True
    options = pc.MatchSubstringOptions(patterns[kind])
    found = pc.call_function("match_substring_regex", [values], options)
    return not pc.call_function("any", [found]).as_py()


def _first_misfit(values: pa.Array, kind: pa.DataType) -> int:
    """Return the position of the first value that is not of a type; there is one."""
    start, stop = 0, len(values)
    while stop - start > 1:
        middle = (start + stop) // 2
        if _fits(values.slice(start, middle - start), kind):
            start = middle
        else:
            stop = middle
    return start
