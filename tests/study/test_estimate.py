"""Intervals equal scipy's paired t-test, and nothing is real whose interval covers zero."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from mbrec.study.estimate import differences, estimate, mean_of_tasks, ne_gains

VALUES = st.lists(st.floats(-5, 5).map(lambda x: round(x, 3)), min_size=2, max_size=12)


@given(VALUES.filter(lambda values: len(set(values)) > 1))
def test_the_interval_is_that_of_a_t_test(values):
    found = estimate(values)
    low, high = ttest_1samp(values, 0).confidence_interval(0.95)
    assert found.low == pytest.approx(low, abs=1e-9)
    assert found.high == pytest.approx(high, abs=1e-9)
    assert found.is_real == (ttest_1samp(values, 0).pvalue < 0.05)


@given(VALUES)
def test_a_star_is_shown_only_where_the_interval_leaves_zero_out(values):
    found = estimate(values)
    outside = not found.low <= 0 <= found.high
    assert found.is_real == (outside and len(set(values)) > 1)
    assert found.text().endswith("*") == found.is_real


def test_equal_values_have_no_interval_and_show_nothing():
    # Of a figure that moves in steps, such as the GAUC of a few groups.
    assert not estimate([0.02, 0.02]).is_real
    assert "*" not in estimate([0.02, 0.02, 0.02]).text()


def test_one_seed_proves_nothing():
    found = estimate([3.0])
    assert not found.is_real
    assert found.detectable == math.inf
    assert found.text() == "+3.000 ± ?"


def test_no_value_is_refused():
    with pytest.raises(ValueError, match="at least one value"):
        estimate([])


def test_the_detectable_gain_is_found_four_times_in_five():
    generator = np.random.default_rng(0)
    samples = generator.normal(0, 1, (4000, 5))
    errors = samples.std(1, ddof=1) / 5**0.5
    known = estimate(list(samples[0])).detectable / errors[0]  # in standard errors
    shifted = samples + known * 5**-0.5
    pvalues = ttest_1samp(shifted, 0, axis=1).pvalue
    assert 0.7 < (pvalues < 0.05).mean() < 0.9


def test_a_lower_ne_is_a_gain_in_per_cent():
    assert ne_gains([0.8], [0.796]) == pytest.approx([0.5])
    assert differences([0.5, 0.6], [0.4, 0.7]) == pytest.approx([-0.1, 0.1])
    assert mean_of_tasks([[1.0, 2.0], [3.0, 6.0]]) == [2.0, 4.0]


def test_seeds_must_pair_up():
    with pytest.raises(ValueError, match="shorter"):
        ne_gains([0.8, 0.9], [0.8])
