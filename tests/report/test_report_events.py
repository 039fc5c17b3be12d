"""What is read of TensorBoard's files, and how a long line is made short."""

import math

import numpy as np
import pytest
from made_runs import START, write_events

from mbrec.report.events import MOST_POINTS, Line, from_history, read, smooth, thin


def ramp(first, last):
    return [(step, {"loss": float(step)}) for step in range(first, last + 1)]


def test_lines_are_what_was_written(tmp_path):
    write_events(tmp_path, [(1, {"loss": 0.5, "weight/a/b": 2.0}), (3, {"loss": 0.25})])
    found = read(tmp_path / "tensorboard")
    assert found.lines["loss"].steps.tolist() == [1, 3]
    assert found.lines["loss"].values.tolist() == [0.5, 0.25]
    assert list(found.by_task("weight", ["c", "a/b"])) == ["a/b"]


def test_what_a_resumed_run_does_anew_takes_the_place_of_what_was_lost(tmp_path):
    write_events(tmp_path, ramp(1, 30))
    again = [(step, {"loss": -1.0}) for step in range(21, 41)]
    write_events(tmp_path, again, resumed=20)
    found = read(tmp_path / "tensorboard")
    assert found.lines["loss"].steps.tolist() == list(range(1, 41))
    assert found.lines["loss"].values[19:21].tolist() == [20.0, -1.0]
    assert len(found.sittings) == 2
    assert found.sittings[0].start == START + 1


def test_values_that_are_not_finite_are_left_out_and_counted(tmp_path):
    points = [(1, {"loss": math.nan, "gone": math.inf}), (2, {"loss": 1.0})]
    write_events(tmp_path, points)
    found = read(tmp_path / "tensorboard")
    assert found.lines["loss"].values.tolist() == [1.0]
    assert "gone" not in found.lines
    assert found.not_finite == 2


def test_an_event_that_was_cut_off_ends_the_file(tmp_path):
    write_events(tmp_path, ramp(1, 30))
    (path,) = (tmp_path / "tensorboard").iterdir()
    path.write_bytes(path.read_bytes()[:-7])
    assert read(tmp_path / "tensorboard").lines["loss"].steps[-1] == 29


def test_files_beside_the_events_are_not_read(tmp_path):
    write_events(tmp_path, ramp(1, 2))
    (tmp_path / "tensorboard/notes.txt").write_text("none of TensorBoard's")
    assert len(read(tmp_path / "tensorboard").lines["loss"]) == 2


def test_a_long_line_keeps_its_peaks_and_dips():
    values = np.sin(np.arange(123_457) / 9)
    values[[54_321, 99_999]] = 40.0, -7.0
    line = Line(np.arange(len(values)), values)
    short = thin(line)
    assert len(short) <= MOST_POINTS
    assert short.steps[short.values.argmax()] == 54_321
    assert short.steps[short.values.argmin()] == 99_999
    assert np.all(np.diff(short.steps) > 0)
    assert np.array_equal(line.values[short.steps], short.values)


def test_a_short_line_is_drawn_as_it_is():
    line = Line(np.arange(MOST_POINTS), np.arange(MOST_POINTS))
    assert thin(line) is line
    short = Line(np.arange(9), np.arange(9))
    assert smooth(short) is short


def test_a_smooth_line_does_not_see_a_spike_and_a_mean_sees_a_share():
    values = np.full(1000, 2.0)
    values[::100] = 1e6
    assert set(smooth(Line(np.arange(1000), values)).values) == {2.0}
    shares = Line(np.arange(1000), np.arange(1000) % 2)
    assert set(smooth(shares, np.mean).values) == {0.5}


@pytest.mark.parametrize("entry", [3, {"step": "a"}, {"step": True}, {"step": 1, "tasks": [2]}])
def test_evaluations_of_metrics_json_that_are_none_are_left_out(entry):
    good = {"step": 5, "tasks": {"ctr": {"ne": 0.9, "auc": None}}}
    assert {t: x.values.tolist() for t, x in from_history([entry, good]).items()} == {
        "evaluation_ne/ctr": [0.9]
    }
