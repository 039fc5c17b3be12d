"""No difference is called real whose interval covers zero."""

from hypothesis import given
from hypothesis import strategies as st

from mbrec.study.contrast import Contrast, contrast
from mbrec.study.paired import estimate
from mbrec.study.verdict import UNKNOWN, judge, verdict

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
    return Contrast(estimates, estimate([0.0, 0.0]))


UP, DOWN, OPEN = [1.0, 1.1, 0.9], [-1.0, -1.1, -0.9], [-1.0, 1.0, 0.1]


def test_some_better_and_some_worse_is_a_seesaw():
    found = verdict(gains(ctr=DOWN, cvr=UP, like=OPEN), gains(ctr=OPEN, cvr=OPEN, like=DOWN))
    assert found.overall == "seesaw: cvr better, ctr worse"
    assert found.negative_transfer == ["like"]


def test_gains_without_a_loss_that_shows_are_told_as_that():
    assert verdict(gains(ctr=OPEN, cvr=UP), gains(ctr=UP)).overall == "cvr better, no loss shown"
    assert verdict(gains(ctr=DOWN, cvr=OPEN), gains()).overall == "ctr worse, no gain shown"
    assert verdict(gains(ctr=OPEN, cvr=OPEN), gains()).overall == UNKNOWN


def test_an_explosion_is_a_verdict_of_its_own():
    nan = float("nan")
    lost = contrast({"ctr": [0.9, 0.9]}, {"ctr": [0.9, nan]})
    assert verdict(lost, gains(ctr=UP)).overall == "NEX: a guard ended a run"
    baseless = contrast({"ctr": [0.9, nan]}, {"ctr": [0.9, 0.9]})
    assert verdict(baseless, gains(ctr=UP)).overall.startswith("NEX of equal weights")
    # A single-task model that exploded says nothing of the balancer against equal weights.
    assert verdict(gains(ctr=UP), baseless).overall == "ctr better, no loss shown"


def test_of_a_run_that_exploded_no_transfer_is_known():
    nan = float("nan")
    baseless = contrast({"ctr": [0.9, nan]}, {"ctr": [0.9, 0.9]})
    unknown = verdict(gains(ctr=UP), baseless)
    assert unknown.negative_transfer is unknown.positive_transfer is None
    known = verdict(gains(ctr=UP), gains(ctr=OPEN))
    assert known.negative_transfer == known.positive_transfer == []
    assert verdict(gains(ctr=UP), gains(ctr=UP)).positive_transfer == ["ctr"]
