"""Types for columns of text, chosen for all of their values, block by block."""

import re
from pathlib import Path
from typing import Any

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
# Texts that a cast to a number would take, though it loses what they say: pattern, and why.
_LOSSES = (
    (r"^[+-]?0[xX]", "hexadecimal"),
    (r"^[+-]?0\d", "a number would lose the zeros before it"),
)
# Of floating-point numbers alone. An exponent without a sign or a point is as likely part of an id.
_FLOAT_LOSSES = (
    *_LOSSES,
    (r"^\+?\d+[eE]\d+$", "an exponent, unless it is an id; 1.2e4 and 12e+4 are numbers"),
)
_WHOLE = r"^[+-]?\d{16,}(\.\d*)?$"
_NOT_ZERO = r"^[+-]?[0.]*[1-9]"
_LONG = 16  # characters of 2^53
_EXACT = 2.0**53  # floating-point numbers skip integers beyond it


class TextColumn:
    """A column whose type widens with the values that are seen.

    Integers, then numbers; true and false; dates, then times (ISO 8601); or else strings. Strings,
    too, where a number would say less than the text: 0x10, 0010, 12e4, 1e400, inf, or integers
    beyond 2^53 among floating-point numbers. `look` sees all values before the first is converted.

    Args:
        name: of the column.
        separator: of the values in a list, for a column of lists; spaces and square brackets
            around values are taken off, and empty values out.
        fixed: the type, of the values in lists if it holds these; default: to be found.
        is_time: refuse missing values and strings.
        is_number: refuse strings.

    Attributes:
        reason: the value, if any, for which the column is one of strings though others are not,
            where it stands, and why it is no number if it looks like one.
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
        # The first integer that a floating-point number would change: text, file and row.
        self._long: tuple[str, Path, int] | None = None
        self._decimals, self._padded = 0, ""

    @property
    def type(self) -> pa.DataType:
        """What holds all values so far."""
        kind = self._kind if self._kind is not None else pa.string()
        return kind if self._separator is None else pa.list_(kind)

    @property
    def is_binary(self) -> bool:
        """Whether there are values, all of them 0 and 1 or false and true, and not kept as text."""
        return self._binary and self._kind is not None and self._kind != pa.string()

    @property
    def padded(self) -> str:
        """A number like 5.10 where others have fewer decimals, or an empty text: 5.1 equals it."""
        decimals = len(self._padded.partition(".")[2])
        return self._padded if self._kind == pa.float64() and self._decimals < decimals else ""

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
            if start == pa.string() and _loss(values[0].as_py()):
                self.reason = f"{_show(values[0].as_py())} in {file}, row {first_row + rows[0]}"
        if start == pa.int64() and self._long is None:
            self._note_long(values, rows + first_row, file)
        kinds = [start] if self._fixed else [start, *_WIDER.get(start, []), pa.string()]
        if start == pa.int64() and self._long and pa.float64() in kinds:
            kinds.remove(pa.float64())
        kind = next((kind for kind in kinds if _fits(values, kind)), None)
        if kind is None or (kind == pa.string() and (self._no_strings or start != kind)):
            self._explain(kind, kinds, values, rows + first_row, file)
        if kind == pa.float64():
            self._note_decimals(values)
        self._kind = kind

    def _explain(
        self,
        kind: pa.DataType | None,
        kinds: list[pa.DataType],
        values: pa.Array,
        rows: np.ndarray,
        file: Path,
    ) -> None:
        """Say for which value the column is one of strings, or refuse it."""
        narrow = next((k for k in reversed(kinds) if k != pa.string()), pa.float64())
        first = _first_misfit(values, narrow)
        value, at, row = values[first].as_py(), file, int(rows[first])
        if self._long and _fits(values.slice(first, 1), pa.float64()):
            # It is a number; the one that rules numbers out came before.
            value, at, row = self._long
        if kind is None or self._no_strings:
            wanted = "a number, date or time" if self._is_time else "a number"
            self._refuse(at, row, "an integer" if self._fixed else wanted, _show(value))
        self.reason = f"{_show(value)} in {at}, row {row}"

    def _note_long(self, values: pa.Array, rows: np.ndarray, file: Path) -> None:
        long = _are_long(values)
        if long.any():
            first = int(long.argmax())
            self._long = values[first].as_py(), file, int(rows[first])

    def _note_decimals(self, values: pa.Array) -> None:
        """Note how numbers are written, for `padded`."""
        if self._decimals == 1 and self._padded:
            return  # there is no more to know
        points = pc.call_function("find_substring", [values], pc.MatchSubstringOptions("."))
        lengths = pc.call_function("binary_length", [values])
        places, ends = (a.to_numpy(zero_copy_only=False) for a in (points, lengths))
        decimals = (ends - places - 1)[(places >= 0) & (ends > places + 1)]
        if not len(decimals):
            return
        self._decimals = min(self._decimals or int(decimals.min()), int(decimals.min()))
        if not self._padded:
            padded = values.filter(_matches(values, r"^[^eE]*\.\d+0$"))
            self._padded = padded[0].as_py() if len(padded) else ""

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
        text = "" if self._no_strings else f", or take the column as text: --strings {self.name}"
        raise ValueError(
            f"{file}: row {row}, column '{self.name}': expected {expected}, got {got}; correct it, "
            f"name what stands for a missing value with --null-values{text}"
        )


def _is_in(values: pa.Array) -> pa.Array:
    return pc.call_function("is_in", [values], pc.SetLookupOptions(_BINARY))


def _fits(values: pa.Array, kind: pa.DataType) -> bool:
    try:
        cast = values.cast(kind)
    except pa.ArrowInvalid:
        return False
    if kind not in (pa.int64(), pa.float64()):
        return True
    losses = _LOSSES if kind == pa.int64() else _FLOAT_LOSSES
    if _any(_matches(values, "|".join(pattern for pattern, _ in losses))):
        return False
    if kind == pa.int64():
        return True
    numbers = cast.to_numpy(zero_copy_only=False)
    if np.isinf(numbers).any():
        return False
    if (np.abs(numbers) >= _EXACT).any() and _are_long(values).any():
        return False
    zeros = numbers == 0
    return not (zeros.any() and _any(_matches(values.filter(pa.array(zeros)), _NOT_ZERO)))


def _are_long(values: pa.Array) -> np.ndarray:
    """Tell which values are numbers whose whole part a floating-point number may change."""
    lengths = pc.call_function("binary_length", [values]).to_numpy(zero_copy_only=False)
    long = lengths >= _LONG
    if long.any():
        long[long] = _matches(values.filter(pa.array(long)), _WHOLE).to_numpy(zero_copy_only=False)
    if long.any():
        numbers = values.filter(pa.array(long)).cast(pa.float64()).to_numpy(zero_copy_only=False)
        long[long] = np.abs(numbers) >= _EXACT
    return long


def _loss(value: str) -> str:
    """Return why a text that looks like a number is taken for none, or an empty text."""
    for pattern, why in _FLOAT_LOSSES:
        if re.search(pattern, value):
            return why
    try:
        number = float(value)
    except ValueError:
        return ""
    if np.isinf(number):
        return "infinite, or too large for a number"
    if number == 0 and re.search(_NOT_ZERO, value):
        return "too small for a number"
    return "a floating-point number would change its digits" if re.search(_WHOLE, value) else ""


def _show(value: str) -> str:
    why = _loss(value)
    return f"{value!r} ({why})" if why else repr(value)


def _matches(values: pa.Array, pattern: str) -> Any:
    options = pc.MatchSubstringOptions(pattern)
    return pc.call_function("match_substring_regex", [values], options)


def _any(found: Any) -> bool:
    return bool(pc.call_function("any", [found]).as_py())


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
