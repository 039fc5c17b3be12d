"""What is read of TensorBoard's files, and how a long line is made short."""

import math

import numpy as np
import pytest
from made_runs import START, write_events

from mbrec.monitor import event_files
from mbrec.study.report.events import MOST_POINTS, Line, from_history, read, smooth, thin


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


def test_a_clock_that_is_set_back_changes_no_line(tmp_path):
    write_events(tmp_path, ramp(1, 30), back={10: 3600.0})
    again = [(step, {"loss": -1.0}) for step in range(21, 41)]
    write_events(tmp_path, again, resumed=20, back={0: 7200.0})
    folder = tmp_path / "tensorboard"
    # The names begin with the time: the second file's is the earlier one.
    for number, path in enumerate(event_files.in_order(folder)):
        ending = path.name.partition(".host")[2] or "." + path.name.split(".", 4)[4]
        path.rename(folder / f"events.out.tfevents.{2_000_000_000 - number}{ending}")
    found = read(folder)
    assert found.lines["loss"].steps.tolist() == list(range(1, 41))
    assert found.lines["loss"].values.tolist() == [*map(float, range(1, 21)), *([-1.0] * 20)]
    assert found.clock_went_back
    assert [sitting.seconds for sitting in found.sittings] == [28.0, 19.0]
    assert [sitting.clock_went_back for sitting in found.sittings] == [True, False]


def test_a_clock_that_is_adjusted_is_not_one_that_was_set_back(tmp_path):
    write_events(tmp_path, ramp(1, 30), back={10: 1.5})
    write_events(tmp_path, ramp(31, 40), resumed=30, back={0: 0.5})
    found = read(tmp_path / "tensorboard")
    assert not found.clock_went_back
    assert found.sittings[0].seconds == pytest.approx(29 - 1.5, abs=0.5)


def test_points_that_lost_their_order_are_sorted_and_the_last_written_counts(tmp_path):
    write_events(tmp_path, [(2, {"loss": 1.0}), (1, {"loss": 2.0}), (2, {"loss": 3.0})])
    line = read(tmp_path / "tensorboard").lines["loss"]
    assert (line.steps.tolist(), line.values.tolist()) == ([1, 2], [2.0, 3.0])


def test_a_flipped_bit_costs_one_point_and_is_told(tmp_path, caplog):
    write_events(tmp_path, ramp(1, 40))
    (path,) = (tmp_path / "tensorboard").iterdir()
    whole, lost = path.read_bytes(), set()
    for at in range(len(whole) // 2, len(whole) // 2 + 60):
        content = bytearray(whole)
        content[at] ^= 16
        path.write_bytes(content)
        caplog.clear()
        found = read(tmp_path / "tensorboard")
        (missing,) = set(range(1, 41)) - set(found.lines["loss"].steps.tolist())
        lost.add(missing)
        assert found.damaged == {path.name: 1}
        (record,) = caplog.records
        assert record.getMessage() == f"{path} is damaged; records that are lost: 1"
    assert len(lost) >= 2
    path.write_bytes(whole)
    assert read(tmp_path / "tensorboard").damaged == {}


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
