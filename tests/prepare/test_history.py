"""Histories hold a user's last events strictly before a row, and none that it may not know."""

from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbrec.prepare.history import History
from mbrec.prepare.recipes.kuairand_days import LOG_SCHEMA, Day, UserHistories
from mbrec.prepare.recipes.kuairand_features import Features
from mbrec.prepare.spill import Spill

# (user, item, time)
Event = tuple[int, int, int]


def column(rows: Sequence[Sequence[int]], at: int) -> np.ndarray:
    return np.array([row[at] for row in rows], np.int64)


def filled(events: Sequence[Event], length: int = 50) -> History:
    history = History(length)
    history.add(column(events, 0), column(events, 1), column(events, 2))
    return history


def asked(history: History, rows: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Histories of (user, time)."""
    return history.before(column(rows, 0), column(rows, 1)).to_pylist()


def by_hand(events: Sequence[Event], user: int, time: int, length: int) -> list[int]:
    past = sorted({(when, what) for who, what, when in events if who == user and when < time})
    return [what for _, what in reversed(past)][:length]


def test_an_event_of_the_very_same_time_is_not_before_a_row():
    history = filled([(1, 7, 100), (1, 8, 101)])
    times = [(1, 99), (1, 100), (1, 101), (1, 102)]
    assert asked(history, times) == [[], [], [7], [8, 7]]


def test_the_newest_event_comes_first_whatever_the_order_in_which_events_were_added():
    history = filled([(1, 7, 300), (1, 8, 100), (1, 9, 200)])
    assert asked(history, [(1, 1000)]) == [[7, 9, 8]]
    history.add(np.array([1]), np.array([5]), np.array([250]))
    assert asked(history, [(1, 1000)]) == [[7, 5, 9, 8]]


def test_a_history_is_cut_to_the_newest_events():
    history = filled([(1, item, item) for item in range(10)], length=3)
    assert asked(history, [(1, 100), (1, 5), (1, 2)]) == [[9, 8, 7], [4, 3, 2], [1, 0]]


def test_users_see_their_own_events_only_and_none_if_they_have_none():
    history = filled([(3, 1, 10), (5, 2, 10), (9, 3, 10)])
    users = [(user, 100) for user in (0, 3, 4, 5, 9, 10)]
    assert asked(history, users) == [[], [1], [], [2], [3], []]


def test_a_history_without_events_gives_empty_lists():
    assert asked(History(3), [(0, 5), (1, 6)]) == [[], []]
    assert asked(History(3), []) == []


def test_an_event_that_is_added_twice_counts_once():
    history = filled([(1, 7, 100), (1, 8, 100), (1, 7, 100)])
    history.add(np.array([1]), np.array([8]), np.array([100]))
    assert asked(history, [(1, 101)]) == [[8, 7]]
    assert len(history) == 2


def test_ids_and_times_at_the_ends_of_their_range_do_not_overflow():
    far = 2**62
    history = filled([(far, 1, far), (-far, 2, -far), (0, 3, 0)])
    rows = [(far, far), (far, far + 1), (-far, -far), (-far, far), (0, 1)]
    assert asked(history, rows) == [[], [1], [], [2], [3]]


def test_a_length_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="expected a history of at least 1 event, got 0"):
        History(0)


small = st.integers(0, 12)
events_of_some_users = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), small), max_size=40)
some_rows = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 13)), max_size=20)


@given(events_of_some_users, some_rows, st.integers(1, 4))
def test_histories_are_those_found_by_hand(events, rows, length):
    found = asked(filled(events, length), rows)
    assert found == [by_hand(events, user, time, length) for user, time in rows]


@given(events_of_some_users, some_rows, st.integers(1, 4), small)
def test_what_is_forgotten_is_in_no_later_history(events, rows, length, time):
    history = filled(events, length)
    later = [(user, at) for user, at in rows if at >= time]
    expected = asked(history, later)
    history.forget(time)
    assert asked(history, later) == expected
    users = {user for user, _, _ in events}
    assert sum(when < time for when in history._times.tolist()) <= length * len(users)


FIRST = date(2022, 4, 25)
# (user, video, time, clicked); the day of a row is given by the list it is in.
Row = tuple[int, int, int, int]


def written(days: Sequence[Sequence[Row]], spilled: Spill) -> list[Day]:
    made = []
    for number, rows in enumerate(days):
        values = {"user_id": column(rows, 0), "video_id": column(rows, 1)}
        values |= {"time_ms": column(rows, 2), "is_click": column(rows, 3)}
        zeros = np.zeros(len(rows))
        table = pa.table({n: values.get(n, zeros) for n in LOG_SCHEMA.names}).cast(LOG_SCHEMA)
        spilled.add(table, np.full(len(rows), number))
        times = values["time_ms"].tolist()
        made.append(Day(FIRST + timedelta(days=number), number, min(times), max(times)))
    return made


# Video 0, 1, 2 ... of the log are 10, 11, 12 ... to the model.
class Videos(Features):
    def positions(self, ids: np.ndarray) -> np.ndarray:
        return ids + 10


VIDEOS = Videos(np.arange(1), pa.table({"x": [0]}), {})


def histories(
    days: Sequence[Sequence[Row]],
    folder: Path,
    known: Sequence[int],
    length: int = 50,
    event: str = "is_click",
) -> list[list[list[int]]]:
    """Histories of the rows of each day, whose rows may know the days up to known[day]."""
    with Spill(folder / f"days_{event}_{known}") as spilled:
        made = written(days, spilled)
    users = UserHistories(spilled, made, VIDEOS, event, History(length))
    return [
        asked(users.of_day(day, FIRST + timedelta(days=until)), [(u, t) for u, _, t, _ in rows])
        for day, rows, until in zip(made, days, known, strict=True)
    ]


def test_only_positive_events_are_in_a_history_in_the_codes_of_the_features(tmp_path):
    rows = [(1, 0, 10, 1), (1, 1, 20, 0), (1, 2, 30, 1), (1, 3, 40, 0)]
    assert histories([rows], tmp_path, [0]) == [[[], [10], [10], [12, 10]]]
    shown = histories([rows], tmp_path, [0], event="shown")
    assert shown == [[[], [10], [11, 10], [12, 11, 10]]]


def test_a_day_knows_the_days_before_it(tmp_path):
    days = [[(1, 0, 10, 1)], [(1, 1, 20, 1), (1, 2, 25, 1)], [(1, 3, 30, 1)]]
    found = histories(days, tmp_path, [2, 2, 2], length=2)
    assert found == [[[]], [[10], [11, 10]], [[12, 11]]]


def test_rows_that_may_know_no_more_than_training_see_its_last_events_however_late_they_are(
    tmp_path,
):
    train, validation, test = [(1, 0, 10, 1)], [(1, 1, 20, 1), (1, 2, 30, 1)], [(1, 3, 99, 1)]
    later = [(1, 4, 200, 1), (1, 5, 300, 1)]
    found = histories([train, validation, test, later], tmp_path, [0, 0, 1, 1])
    assert found == [[[]], [[10], [10]], [[12, 11, 10]], [[12, 11, 10], [12, 11, 10]]]


def test_an_event_counts_by_its_time_where_its_date_is_a_day_late(tmp_path):
    days = [[(1, 0, 10, 1), (1, 1, 50, 1)], [(1, 2, 40, 1), (1, 3, 60, 1)]]
    assert histories(days, tmp_path, [1, 1]) == [[[], [12, 10]], [[10], [11, 12, 10]]]
    # As the last day of train, it may not know the next date, whatever the time.
    assert histories(days, tmp_path, [0, 0]) == [[[], [10]], [[10], [11, 10]]]


a_row = st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 20), st.integers(0, 1))
a_log = st.lists(st.lists(a_row, min_size=1, max_size=8), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)  # it writes files
@given(a_log, st.integers(0, 5), st.integers(0, 5), st.integers(1, 3))
def test_no_row_is_given_an_event_that_it_may_not_know(
    tmp_path_factory, days, train_until, validation_days, length
):
    # Times are in any order, worse than a log has them.
    train_until = min(train_until, len(days) - 1)
    test_from = train_until + validation_days
    known = [train_until if day <= test_from else test_from for day in range(len(days))]
    found = histories(days, tmp_path_factory.mktemp("days"), known, length)
    for day, rows in enumerate(days):
        clicks = [
            (user, video + 10, time)
            for rows_ in days[: known[day] + 1]
            for user, video, time, clicked in rows_
            if clicked
        ]
        assert found[day] == [by_hand(clicks, user, time, length) for user, _, time, _ in rows]
