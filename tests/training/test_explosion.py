"""An explosion is told from noise, from slow learning and from the beginning of a run."""

import json
import math
import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbrec.metrics.best_constant import UNTRAINED, BinaryConstant
from mbrec.training.explosion_guard import (
    BAD_NE,
    FLOOR,
    Explosion,
    ExplosionGuard,
    Guard,
    OnExplosion,
    StepLosses,
    explosion_guard,
    warnings_of,
)

ROWS = 64.0


def guard(tasks: Iterable[str] = ("ctr",), **changes: float) -> ExplosionGuard:
    made = explosion_guard(Guard(**changes), list(tasks))  # pyright: ignore[reportArgumentType]
    assert made is not None
    return made


def step(number: int, per_row: float, positives: float = 16.0, rows: float = ROWS) -> StepLosses:
    return StepLosses(number, [per_row * rows], [rows], [positives])


def first_alarm(made: ExplosionGuard, values: Iterable[float], start: int = 1) -> int | None:
    for number, value in enumerate(values, start):
        if made.update(step(number, value)) is not None:
            return number
    return None


@given(
    at=st.integers(2, 400),
    times=st.floats(1.1, 1e6),
    patience=st.integers(1, 20),
    factor=st.floats(1.5, 100),
)
@settings(max_examples=30, deadline=None)
def test_an_explosion_is_told_after_patience_steps(at, times, patience, factor):
    # Never below the loss of the untrained model, which is thus the reference throughout.
    level = [UNTRAINED] * (at - 1) + [UNTRAINED * factor * times] * (patience + 10)
    made = guard(patience=patience, factor=factor)
    # What is just above the threshold has to add up to more than chance gives.
    excess = math.ceil(20.0 / (ROWS * UNTRAINED * factor * min(times - 1, 1)))
    assert first_alarm(made, level) == at + max(patience, excess) - 1


@given(seed=st.integers(0, 2**32), rate=st.floats(0.001, 0.999), rows=st.integers(1, 300))
@settings(max_examples=30, deadline=None)
def test_a_model_that_knows_the_rate_is_never_an_explosion(seed, rate, rows):
    choose, made = random.Random(seed), guard()
    for number in range(1, 300):
        positives = sum(choose.random() < rate for _ in range(rows))
        loss = -(positives * math.log(rate) + (rows - positives) * math.log1p(-rate))
        assert made.update(StepLosses(number, [loss], [rows], [positives])) is None


def test_an_untrained_model_is_no_explosion_however_rare_the_positives_are():
    """Its loss is 90 times that of the best constant, for as long as it learns nothing."""
    made = guard()
    for number in range(1, 1000):
        assert made.update(step(number, UNTRAINED, positives=float(number % 16 == 0))) is None
        assert not made.suspicious


def test_inputs_that_are_not_scaled_make_a_bad_beginning_and_no_explosion():
    assert first_alarm(guard(), (max(40.0 * 0.97**n, 0.5) for n in range(500))) is None


@given(outlier=st.floats(10.0, 1e30), window=st.integers(20, 200))
@settings(max_examples=30, deadline=None)
def test_an_outlier_in_step_1_hides_no_explosion_after_a_window(outlier, window):
    made = guard(window=window)
    calm = [outlier] + [0.5] * window
    assert first_alarm(made, [*calm, 50.0, 50.0]) is None
    assert first_alarm(made, [50.0], start=window + 4) == window + 4


def test_outliers_in_the_first_window_hide_no_explosion_after_two():
    calm = [1e8 if number % 10 == 0 else 0.5 for number in range(101)] + [0.5] * 100
    assert first_alarm(guard(window=100), [*calm, *[50.0] * 3]) == 204


def test_a_single_batch_is_no_explosion_however_large_its_loss():
    values = [1e30 if number % 7 == 3 else 0.5 for number in range(400)]
    assert first_alarm(guard(), values) is None


def test_batches_without_a_positive_do_not_hide_an_explosion():
    """A model that is too sure of the negatives loses where there is a positive, and only there."""
    made, alarms = guard(), []
    for number in range(1, 896):
        positive, healthy = number % 16 == 0, number < 800
        loss = (7.0 if healthy else 500.0) / ROWS if positive else 0.001 * healthy
        alarms.append(made.update(step(number, loss, float(positive))))
    first = next(alarm for alarm in alarms if alarm is not None)
    assert alarms.index(first) + 1 == 800 + 2 * 16
    assert first.first == 800


def test_labels_that_are_all_the_same_allow_a_small_loss():
    made = guard()
    for number in range(1, 2000):
        small = 1e-7 if number % 50 > 10 else 4 * FLOOR
        assert made.update(step(number, small, positives=ROWS)) is None


def test_a_rate_that_changes_is_no_explosion():
    """The constant has to relearn the rate as the model has to."""
    made, rate = guard(), 0.01
    for number in range(1, 1500):
        true = 0.01 if number // 300 % 2 == 0 else 0.9
        rate += (true - rate) * 0.02
        loss = -(true * math.log(rate) + (1 - true) * math.log1p(-rate))
        assert made.update(step(number, loss, positives=ROWS * true)) is None


def test_an_explosion_does_not_become_normal():
    made = guard(patience=1000)
    assert first_alarm(made, [0.5] * 100 + [50.0] * 900) is None
    assert made.suspicious
    assert first_alarm(made, [50.0] * 200, start=1001) == 1100


def test_a_slow_rise_is_told_and_dated_to_where_it_began():
    made, alarm, number = guard(), None, 0
    while alarm is None:
        number += 1
        alarm = made.update(step(number, 0.5 * 1.01 ** max(number - 300, 0)))
    # Twice the constant's .56 is there after 82 steps, five times as much after 174, and it takes
    # five of these to have an excess of 20 nats.
    assert alarm.first == 300 + 82
    assert number == 300 + 174 + 4


def test_a_task_without_rows_is_left_alone():
    made = guard()
    for number in range(1, 50):
        assert made.update(StepLosses(number, [0.0], [0.0], [0.0])) is None
    # Its first rows are those of an untrained model.
    assert first_alarm(made, [3.0] * 20, start=50) is None


def test_the_alarm_names_the_task_and_the_step():
    made = guard(["ctr", "cvr"], patience=3)
    for number in range(1, 51):
        made.update(StepLosses(number, [32.0, 6.4], [64.0, 8.0], [16.0, 4.0]))
    for number in (51, 52, 53):
        alarm = made.update(StepLosses(number, [64.0, 640.0], [64.0, 8.0], [16.0, 4.0]))
    assert alarm is not None
    assert (alarm.first, alarm.task, alarm.value) == (51, "cvr", 80.0)
    assert "the loss of task 'cvr' has grown since step 51, to 80 per row" in str(alarm)
    assert alarm.constant == pytest.approx(math.log(2), rel=1e-3)
    assert made.not_finite(54).first == 51
    made.reset()
    assert not made.suspicious
    assert made.not_finite(60) == Explosion(60, "", math.inf, 0.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"factor": 1.0},
        {"factor": math.nan},
        {"window": 5},
        {"patience": 0},
        {"max_skipped": -1},
        {"max_rollbacks": -1},
    ],
)
def test_settings_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=f"guard.{next(iter(wrong))}"):
        Guard(**wrong)


def test_the_guard_can_be_off_and_rolls_back_only_when_told():
    assert explosion_guard(Guard(explosion=OnExplosion.off), ["ctr"]) is None
    assert Guard().rollbacks == 0
    assert Guard(explosion=OnExplosion.rollback).rollbacks == 2


def test_how_tasks_stand_outlives_a_resume_to_the_last_bit():
    whole, before, after = guard(), guard(), guard(["new", "ctr"])
    values = [0.3 + 0.1 * math.sin(n) for n in range(60)] + [50.0] * 2
    assert first_alarm(whole, values) is first_alarm(before, values) is None
    after.load({**json.loads(json.dumps(before.state())), "dropped": {}})
    assert after.state()["ctr"] == before.state()["ctr"] == whole.state()["ctr"]
    assert after.suspicious
    alarms = [made.update(step(n, 50.0)) for n in (63, 64, 65) for made in (whole, before)]
    assert alarms[-2] == alarms[-1] is not None


def test_a_state_from_before_it_counted_steps_is_taken():
    made, state = guard(), guard(["ctr"])
    assert first_alarm(state, [0.5] * 50) is None
    old = {k: v for k, v in state.state()["ctr"].items() if k not in ("steps", "peak")}
    made.load({"ctr": old})
    assert made.state()["ctr"] == {**old, "steps": 0, "peak": 0.0}


@pytest.mark.parametrize(
    "change",
    [
        {"reached": "1"},
        {"reached": math.nan},
        {"evidence": -1.0},
        {"sound": None},
        {"constant": 3},
        {"constant": {"positives": 1.0}},
        {"more": 1.0},
    ],
)
def test_a_state_that_the_guard_has_not_written_is_refused(change):
    state = guard().state()
    with pytest.raises(ValueError, match="task 'ctr'"):
        guard().load({"ctr": {**state["ctr"], **change}})


@given(
    positives=st.lists(st.floats(0, 64), min_size=1, max_size=30),
    weight=st.sampled_from([1e-6, 1.0, 1e12]),
)
@settings(max_examples=50, deadline=None)
def test_the_constant_learns_the_rate_and_its_loss_is_finite(positives, weight):
    constant = BinaryConstant()
    for part in positives:
        loss = constant.loss(part * weight, 64 * weight)
        assert 0 < loss < math.inf
        constant.learn(part * weight, 64 * weight, window=20)
    if weight == 1.0:
        same = BinaryConstant()
        for _ in range(200):
            same.learn(positives[0], 64, window=20)
        rate = positives[0] / 64
        best = -sum(p * math.log(p) for p in (rate, 1 - rate) if p > 0)
        assert same.loss(positives[0], 64) / 64 == pytest.approx(best, abs=1e-3)


def test_an_evaluation_that_a_constant_would_win_is_reported():
    report = {"ctr": {"ne": 0.9}, "cvr": {"ne": 1.42, "auc": 0.5}, "like": {"ne": None}, "x": {}}
    (text,) = warnings_of(report)
    assert "the NE of task 'cvr' is 1.42" in text
    assert warnings_of({"ctr": {"ne": BAD_NE - 1e-9}}) == []
