"""A difference is called real only if its 95% interval excludes zero."""

from hypothesis import given
from hypothesis import strategies as st

from mbrec.study.estimate import estimate
from mbrec.study.gains import BETTER, UNKNOWN, WORSE, Gains, compared, judge

SEEDS = st.lists(st.floats(-2, 2), min_size=1, max_size=6)


@given(SEEDS)
def test_a_verdict_needs_an_interval_on_one_side_of_zero(values):
    found = estimate(values)
    word = judge(found)
    assert word != "better" or found.low > 0
    assert word != "worse" or found.high < 0
    if found.half > 1e-6 * abs(found.mean):  # a sample, and not one value again and again
        assert (word == UNKNOWN) == (found.low <= 0 <= found.high)


def gains(**by_task):
    estimates = {task: estimate(values) for task, values in by_task.items()}
    return Gains(estimates, estimate([0.0, 0.0]))


UP, DOWN, OPEN = [1.0, 1.1, 0.9], [-1.0, -1.1, -0.9], [-1.0, 1.0, 0.1]


def test_some_better_and_some_worse_is_a_seesaw():
    assert gains(ctr=DOWN, cvr=UP, like=OPEN).verdict == "seesaw: cvr better, ctr worse"


def test_gains_without_a_loss_that_shows_are_told_as_that():
    assert gains(ctr=OPEN, cvr=UP).verdict == "cvr better, no loss shown"
    assert gains(ctr=DOWN, cvr=OPEN).verdict == "ctr worse, no gain shown"
    assert gains(ctr=OPEN, cvr=OPEN).verdict == UNKNOWN


def test_an_explosion_is_a_verdict_of_its_own():
    nan = float("nan")
    lost = compared({"ctr": [0.9, 0.9]}, {"ctr": [0.9, nan]})
    assert lost.verdict == "NEX: a guard ended a run"
    baseless = compared({"ctr": [0.9, nan]}, {"ctr": [0.9, 0.9]})
    assert baseless.verdict.startswith("NEX of equal weights")


def test_of_a_run_that_exploded_no_transfer_is_known():
    nan = float("nan")
    unknown = compared({"ctr": [0.9, nan]}, {"ctr": [0.9, 0.9]})
    assert unknown.tasks_that_are(WORSE) is unknown.tasks_that_are(BETTER) is None
    known = gains(ctr=OPEN)
    assert known.tasks_that_are(WORSE) == known.tasks_that_are(BETTER) == []
    assert gains(ctr=UP, cvr=DOWN).tasks_that_are(BETTER) == ["ctr"]
    assert gains(ctr=UP, cvr=DOWN).tasks_that_are(WORSE) == ["cvr"]
