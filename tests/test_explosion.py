"""An explosion is told from noise, from a slow drift and from the beginning of a run."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbrec.explosion import MIN_VALUES, ExplosionGuard, Guard, OnExplosion, explosion_guard


def guard(**changes: float) -> ExplosionGuard:
    made = explosion_guard(Guard(**changes))  # pyright: ignore[reportArgumentType]
    assert made is not None
    return made


def first_alarm(made: ExplosionGuard, values: list[float]) -> int | None:
    for step, value in enumerate(values, 1):
        if made.update(step, {"loss": value}) is not None:
            return step
    return None


@given(level=st.floats(1e-9, 1e9), at=st.integers(MIN_VALUES + 1, 300), times=st.floats(10.1, 1e6))
@settings(max_examples=50, deadline=None)
def test_an_explosion_is_told_after_patience_steps_whatever_the_scale(level, at, times):
    values = [level] * (at - 1) + [level * times] * 20
    assert first_alarm(guard(), values) == at + 4


@given(seed=st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_noise_and_a_drift_are_no_explosion(seed):
    choose = random.Random(seed)
    values = [math.exp(choose.gauss(0, 0.6)) * 1.01**step for step in range(500)]
    assert first_alarm(guard(), values) is None


def test_single_outliers_are_no_explosion():
    values = [1.0 if step % 7 else 1000.0 for step in range(1, 400)]
    assert first_alarm(guard(), values) is None


def test_a_long_explosion_does_not_become_normal():
    made = guard(patience=1000)
    assert first_alarm(made, [1.0] * 100 + [50.0] * 900) is None
    assert made.suspicious


def test_nothing_is_called_an_explosion_before_there_is_a_normal():
    assert first_alarm(guard(), [1.0] * 5 + [1e9] * 50) is None


def test_a_value_that_is_no_number_is_too_large():
    assert first_alarm(guard(), [1.0] * 50 + [math.nan] * 5) == 55


def test_the_alarm_says_which_figure_and_since_when():
    made = guard(patience=3)
    for step in range(1, 51):
        made.update(step, {"loss": 1.0, "gradient norm": 0.5})
    for step in (51, 52, 53):
        alarm = made.update(step, {"loss": 2.0, "gradient norm": 50.0})
    assert alarm is not None
    assert (alarm.first, alarm.what, alarm.value, alarm.median) == (51, "gradient norm", 50.0, 0.5)
    assert "gradient norm has grown since step 51, to 50" in str(alarm)
    assert made.not_finite(54).first == 51
    made.reset()
    assert not made.suspicious
    assert made.not_finite(60).first == 60


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
    assert explosion_guard(Guard(explosion=OnExplosion.off)) is None
    assert Guard().rollbacks == 0
    assert Guard(explosion=OnExplosion.rollback).rollbacks == 2


def test_what_is_normal_outlives_a_resume():
    before = guard()
    first_alarm(before, [1.0] * 60)
    after = guard()
    after.load(before.state())
    assert first_alarm(after, [50.0] * 10) == 5
    for wrong in ({"loss": "1"}, {"loss": [math.inf]}, {"loss": ["1"]}, {"loss": 3}):
        with pytest.raises(ValueError, match="normal loss"):
            guard().load(wrong)
