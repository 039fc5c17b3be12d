"""How well a column alone tells a label: exact where possible, bounded where it is an estimate."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbrec.prepare.describe.leaks import auc_bound, judge, only_with, read_levels

RANDOM = np.random.default_rng(11)


def evidence(values, positive, *, binned=False):
    """Return the evidence of the best of a column's levels."""
    array = values if isinstance(values, pa.Array) else pa.array(values)
    found = [judge(one, np.asarray(positive)) for one in read_levels(array, binned=binned)]
    return max(found, key=lambda one: one.auc if one else 0)


def click(rows, rate=0.1):
    return RANDOM.random(rows) < rate


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=60, max_size=90))
def test_the_auc_of_an_order_is_the_share_of_pairs_in_it(rows):
    values, positive = (np.array(column) for column in zip(*rows, strict=True))
    if min(positive.sum(), (~positive).sum()) < 20:
        assert evidence(values, positive) is None
        return
    pairs = np.sign(values[positive][:, None] - values[~positive][None, :])
    exact = 0.5 + pairs.mean() / 2
    # Rates by level may find more, never less.
    assert evidence(values, positive).auc >= max(exact, 1 - exact) - 1e-12


@pytest.mark.parametrize("kind", ["both ends", "missing", "lists", "first of lists", "late bins"])
def test_what_no_order_shows_is_found(kind):
    positive = click(6_000)
    noise = RANDOM.normal(size=6_000)
    columns = {
        "both ends": np.where(positive, np.sign(noise) * (3 + np.abs(noise)), np.tanh(noise)),
        "missing": np.where(positive, np.nan, noise),
        "lists": pa.array([[7] * int(p) for p in positive]),
        "first of lists": pa.array([[1 + p, 0][: 1 + k % 2] for k, p in enumerate(positive)]),
        "late bins": np.where(positive, np.round(noise, 1) + 0.05, np.round(noise, 1)),
    }  # fmt: skip
    binned = kind in ("both ends", "missing")
    assert evidence(columns[kind], positive, binned=binned).low > 0.95


@pytest.mark.parametrize("ids", [30, 3_000, 30_000, 10**9])
@pytest.mark.parametrize("rate", [0.3, 0.01])
def test_ids_that_only_memorise_are_no_evidence(ids, rate):
    positive = click(30_000, rate)
    found = evidence(RANDOM.integers(0, ids, 30_000), positive)
    assert abs(found.auc - 0.5) < 0.1
    texts = pa.array([f"v{k}" for k in RANDOM.integers(0, ids, 30_000)])
    assert abs(evidence(texts, positive).auc - 0.5) < 0.1


def test_neighbouring_rows_of_one_session_are_no_evidence_for_each_other():
    session = np.arange(20_000) // 10
    positive = np.repeat(click(2_000, 0.2), 10)
    texts = pa.array([f"s{k}" for k in RANDOM.permutation(2_000)[session]])
    assert evidence(texts, positive).auc < 0.6


def test_few_positives_are_no_evidence_and_some_are_little():
    rows = np.arange(5_000)
    assert evidence(rows, rows < 3) is None
    assert evidence(rows, rows >= 3) is None
    some, many = evidence(rows, rows < 22), evidence(rows, rows < 400)
    assert some.auc == many.auc == 1
    assert 0.85 < some.low < 0.95 < many.low < 1


@pytest.mark.parametrize(("auc", "positives"), [(0.97, 50), (0.9, 30), (0.8, 300)])
def test_the_bound_is_below_most_aucs_and_near_them(auc, positives):
    # Two normal distributions that far apart have this AUC.
    distance = {0.97: 2.660, 0.9: 1.812, 0.8: 1.190}[auc]
    below, found = 0, []
    for _ in range(300):
        negative = np.sort(RANDOM.normal(size=2_000))
        places = np.searchsorted(negative, RANDOM.normal(distance, 1, positives))
        bound = auc_bound(float(places.mean() / 2_000), positives, 2_000)
        below += bound <= auc
        found.append(bound)
    assert below >= 285
    assert auc - np.mean(found) < 0.12


def test_the_rows_in_which_a_column_has_a_value():
    positive = np.array([True, True, False, False, False, False])
    for values, expected in (
        (pa.array([3, 4, None, 0, None, 0]), (2, 1.0, True)),
        (pa.array(["a", "b", "", None, "", ""]), (2, 1.0, True)),
        (pa.array(["a", "none", "none", "none", "none", "b"]), (2, 0.5, False)),
        (pa.array([2, 5, 1, 1, 1, 1]), (2, 1.0, False)),
        (pa.array([None, None], pa.float64()).take(pa.array([0] * 6)), (0, 0.0, True)),
    ):
        assert only_with(read_levels(values, binned=False)[0], positive) == expected
