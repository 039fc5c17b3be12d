"""Columns of dates and times, however they are written."""

import math
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from mbrec.prepare.describe.profile import Field, Profile

# Names of the time of a row, the best first.
_ROW_TIMES = (
    *("date", "day", "dt", "ds", "datetime", "timestamp", "ts", "time", "time_ms", "timestamp_ms"),
    *("event_date", "event_day", "event_time", "event_timestamp", "log_date", "log_time"),
    *("request_time", "impression_time", "server_time", "hour_ts"),
)
_SUFFIX = re.compile(r"_(date|day|dt|time|timestamp|ts|ms|at)$")
_ISO_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
# Counted from 1970, for times from 1980 to 2100.
_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_EARLIEST, _LATEST = 315_532_800, 4_102_444_800
_SECONDS_PER_DAY = 86_400
_MOST_DAYS = 36_600


def time_format(column: Field) -> str | None:
    """Return how a column states the time, or None if it does not.

    Returns:
        `date`, `timestamp`, `text` (ISO 8601), `digits` (20240131), a unit since 1970 (`s`, `ms`,
        `us`, `ns`), or `count` (of days, from any start).
    """
    if column.is_list:
        return None
    if pt.is_date(column.type):
        return "date"
    if pt.is_timestamp(column.type):
        return "timestamp"
    if column.is_integer and _are_digits(column.stats.quantiles or []):
        return "digits"
    name = column.name.lower()
    if name not in _ROW_TIMES and not _SUFFIX.search(name):
        return None
    if column.is_text:
        seen = column.seen[:100].to_pylist()
        return "text" if seen and all(_ISO_DAY.match(value) for value in seen) else None
    least, most = column.stats.min, column.stats.max
    if not (column.is_integer or column.is_float) or least is None or most is None:
        return None
    for unit, factor in _UNITS.items():
        if least >= _EARLIEST * factor and most <= _LATEST * factor:
            return unit
    counts = name in _ROW_TIMES and column.is_integer and least >= 0 and most <= _MOST_DAYS
    return "count" if counts else None


def find_clock(profile: Profile) -> Field | None:
    """Return the column with the time of the rows, if there is one without gaps."""
    clocks = [c for c in profile.fields.values() if time_format(c) and not c.has_nulls]
    ranks = {name: rank for rank, name in enumerate(_ROW_TIMES)}
    return min(clocks, key=lambda c: ranks.get(c.name.lower(), len(ranks)), default=None)


def days(array: Any, written: str) -> np.ndarray:
    """Return the day of each value since 1970-01-01; for `count`, the value.

    Args:
        array: of a column.
        written: its `time_format`.

    Raises:
        ValueError: if a value is not a time.
    """
    if written == "text":
        array = pc.call_function("utf8_slice_codeunits", [array], pc.SliceOptions(0, 10))
    elif written == "digits":
        date = pc.StrptimeOptions("%Y%m%d", "s")
        array = pc.call_function("strptime", [array.cast(pa.string())], date)
    elif written == "timestamp":
        # In UTC, and without a database of time zones.
        array = array.cast(pa.int64()).cast(pa.timestamp(array.type.unit))
    if written in ("text", "digits", "timestamp", "date"):
        array = array.cast(pa.date32(), safe=False).cast(pa.int32())
    values = array.to_numpy(zero_copy_only=False)
    if written in _UNITS:
        values = values // (_SECONDS_PER_DAY * _UNITS[written])
    return values.astype(np.int64)


def _are_digits(quantiles: list[float]) -> bool:
    months = {math.floor(value / 100) % 100 for value in quantiles}
    monthly = {value % 100 for value in quantiles}
    inside = all(19_800_101 <= value <= 21_001_231 for value in quantiles)
    return bool(quantiles) and inside and months <= {*range(1, 13)} and monthly <= {*range(1, 32)}
