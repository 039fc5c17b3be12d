"""The log of a KuaiRand archive day by day, and what its users did before each row.

Training and evaluation want time order, which the archive's logs need not be in; so they are first
spilled into one file per ``date``. Around midnight the order is not strict: some rows have the
date of the day after their time.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from mbrec.prepare.duplicates import Duplicates
from mbrec.prepare.history import History
from mbrec.prepare.recipes.kuairand import LOG_SCHEMA, Features, read_log

# What a history may consist of: videos with one of these labels, or all that were shown.
EVENTS = ("shown", "is_click", "long_view")
_EPOCH = date(1970, 1, 1)
_WHO_WHAT_WHEN = ("user_id", "video_id", "time_ms")


@dataclass
class Day:
    """The rows of a date: their file, in the archive's order, and the times of first and last."""

    date: date
    path: Path
    first: int
    last: int


def spill_days(logs: Sequence[Path], folder: Path, block: int) -> list[Day]:
    """Writes the rows of each date into a file in ``folder``; returns the days in order."""
    folder.mkdir()
    writers: dict[int, Any] = {}
    days: dict[int, Day] = {}
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    bar = tqdm(desc="reading logs", unit=" rows", unit_scale=True, mininterval=1, disable=None)
    with ExitStack() as stack, bar:
        for rows in (rows for path in logs for rows in read_log(path, block)):
            dates = rows["date"].to_numpy()
            for number in np.unique(dates).tolist():
                of_day = rows.filter(pa.array(dates == number))
                times = of_day["time_ms"].to_numpy()
                if number not in writers:
                    path = folder / str(number)
                    file = pa.ipc.new_file(str(path), LOG_SCHEMA, options=options)
                    writers[number] = stack.enter_context(file)
                    date_ = _EPOCH + timedelta(days=number)
                    days[number] = Day(date_, path, int(times[0]), int(times[0]))
                writers[number].write_table(of_day)
                days[number].first = min(days[number].first, int(times.min()))
                days[number].last = max(days[number].last, int(times.max()))
            bar.update(len(dates))
    return [days[number] for number in sorted(days)]


def read_day(day: Day) -> tuple[pa.Table, int]:
    """Returns a day's rows in the order of time, and how many equal to others were left out.

    Rows of the same time are in the order of the archive. Only rows that are equal in every column
    of the log are one; that they have the same date makes it enough to look at one day.
    """
    rows = _read(day, LOG_SCHEMA.names)
    rows = rows.take(np.argsort(rows["time_ms"].to_numpy(), kind="stable"))
    kept = Duplicates().drop(rows).combine_chunks()
    return kept, len(rows) - len(kept)


def _read(day: Day, columns: Sequence[str]) -> pa.Table:
    fields = [LOG_SCHEMA.get_field_index(name) for name in columns]
    options = pa.ipc.IpcReadOptions(included_fields=fields)
    with pa.OSFile(str(day.path)) as file:
        return pa.ipc.open_file(file, options=options).read_all().combine_chunks()


class UserHistories:
    """For the rows of each day, the videos that their user clicked or viewed before.

    A row is given events strictly before its time alone, of the days that it may know. Memory
    holds the last events of every user and those of about two days.

    Args:
        days: in order.
        videos: whose codes the histories have.
        event: what a history consists of, one of `EVENTS`.
        history: an empty one.
    """

    def __init__(self, days: Sequence[Day], videos: Features, event: str, history: History) -> None:
        self._days, self._videos, self._history = list(days), videos, history
        self._label = None if event == "shown" else event
        self._waiting = list(days)

    def of_day(self, day: Day, known_until: date) -> History:
        """Returns a history that answers for the rows of a day.

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
            rows = _read(other, (*_WHO_WHAT_WHEN, *([self._label] if self._label else [])))
            if self._label:
                rows = rows.filter(pa.array(rows[self._label].to_numpy() == 1))
            users, videos, times = (rows[name].to_numpy() for name in _WHO_WHAT_WHEN)
            self._history.add(users, self._videos.positions(videos), times)
        return self._history
