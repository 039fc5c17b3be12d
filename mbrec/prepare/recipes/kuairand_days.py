"""The log of a KuaiRand archive day by day, and what its users did before each row.

Training and evaluation want time order, which the archive's logs need not be in; so they are first
spilled into one file per `date`. Around midnight the order is not strict: some rows have the
date of the day after their time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from mbrec.prepare.delimited import Format, read_delimited
from mbrec.prepare.duplicates import Duplicates
from mbrec.prepare.history import History
from mbrec.prepare.recipes.kuairand_features import Features
from mbrec.prepare.spill import Spill

# What a history consists of: all videos that were shown, or those with one of these labels.
Event = Literal["shown", "is_click", "long_view"]
_EPOCH = date(1970, 1, 1)
_WHO_WHAT_WHEN = ("user_id", "video_id", "time_ms")

HOURS = 24
TABS = 15  # the data set's description gives 0..14
_RARE_LABELS = ("is_comment", "is_follow", "is_forward", "is_hate")
LOG_LABELS = ("is_click", "long_view", "is_like", "is_profile_enter", *_RARE_LABELS)
_LOG_TIMES = ("play_time_ms", "duration_ms", "profile_stay_time", "comment_stay_time")
_LOG_OTHERS = (*_LOG_TIMES, "is_rand")
_LOG_TYPES = {
    "user_id": pa.int64(),
    "video_id": pa.int64(),
    "date": pa.timestamp("s"),
    "hourmin": pa.int32(),
    "time_ms": pa.int64(),
    "tab": pa.int32(),
    **dict.fromkeys(LOG_LABELS, pa.int8()),
    # No features: most are known after the impression only. They tell which rows are duplicates.
    **dict.fromkeys(_LOG_OTHERS, pa.float64()),
}
# Exclusive upper bounds.
_LOG_BOUNDS = {"hourmin": HOURS * 100, "tab": TABS, **dict.fromkeys(LOG_LABELS, 2)}
# Dates as days since 1970.
LOG_SCHEMA = pa.schema([*(_LOG_TYPES | {"date": pa.int32()}).items()])


@dataclass
class Day:
    """The rows of a date: their number in the spilled log, and the times of first and last."""

    date: date
    number: int
    first: int
    last: int


def spill_days(logs: Sequence[Path], spilled: Spill, block_bytes: int) -> list[Day]:
    """Write the rows of each date into a file, in the archive's order; return the days in order."""
    days: dict[int, Day] = {}
    for rows in (rows for path in logs for rows in _read_log(path, block_bytes)):
        dates, times = rows["date"].to_numpy(), rows["time_ms"].to_numpy()
        spilled.add(rows, dates)
        for number in np.unique(dates).tolist():
            of_day = times[dates == number]
            first, last = int(of_day.min()), int(of_day.max())
            day = days.setdefault(number, Day(_EPOCH + timedelta(number), number, first, last))
            day.first, day.last = min(day.first, first), max(day.last, last)
    return [days[number] for number in sorted(days)]


def read_day(spilled: Spill, day: Day) -> tuple[pa.Table, int]:
    """Return a day's rows in the order of time, and how many equal to others were left out.

    Rows of the same time are in the order of the archive. Only rows that are equal in every column
    of the log are one; that they have the same date makes it enough to look at one day.
    """
    rows = spilled.read(day.number)
    rows = rows.take(np.argsort(rows["time_ms"].to_numpy(), kind="stable"))
    kept = Duplicates().drop(rows).combine_chunks()
    return kept, len(rows) - len(kept)


def _read_log(path: Path, block_bytes: int) -> Iterator[pa.Table]:
    for piece in read_delimited(
        path, _LOG_TYPES, format=Format(quoted=True), optional=_LOG_OTHERS, block_bytes=block_bytes
    ):
        for name, bound in _LOG_BOUNDS.items():
            values = piece.table[name].to_numpy()
            piece.refuse((values < 0) | (values >= bound), name, f"0 to {bound - 1}")
        days = piece.table["date"].cast(pa.date32()).cast(pa.int32())
        yield piece.table.set_column(2, LOG_SCHEMA.field("date"), days)


class UserHistories:
    """For the rows of each day, the videos that their user clicked or viewed before.

    A row is given events strictly before its time alone, of the days that it may know. Memory
    holds the last events of every user and those of about two days.

    Args:
        spilled: the log.
        days: in order.
        videos: whose codes the histories have.
        event: what a history consists of.
        history: an empty one.
    """

    def __init__(
        self, spilled: Spill, days: Sequence[Day], videos: Features, event: Event, history: History
    ) -> None:
        self._spilled, self._videos, self._history = spilled, videos, history
        self._days = list(days)
        self._label = None if event == "shown" else event
        self._waiting = list(days)

    def of_day(self, day: Day, known_until: date) -> History:
        """Return a history that answers for the rows of a day.

        Args:
            day: the days are to be asked for in order.
            known_until: the last day whose events these rows may know; none before the last call's.
        """
        later = self._days[self._days.index(day) :]
        self._history.forget(min(other.first for other in later))
        # A later date has events that are earlier than this one's last rows.
        due = [d for d in self._waiting if d.date <= known_until and d.first < day.last]
        for other in due:
            self._waiting.remove(other)
            names = (*_WHO_WHAT_WHEN, *([self._label] if self._label else []))
            rows = self._spilled.read(other.number, names)
            if self._label:
                rows = rows.filter(pa.array(rows[self._label].to_numpy() == 1))
            users, videos, times = (rows[name].to_numpy() for name in _WHO_WHAT_WHEN)
            self._history.add(users, self._videos.positions(videos), times)
        return self._history
