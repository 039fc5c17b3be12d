"""What the statistics of columns say, against what numpy and Python say of the whole."""

import math
from collections import Counter
from datetime import date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mbrec.columns.manifest import Column
from mbrec.prepare import statistics
from mbrec.prepare.statistics import Statistics

PIECES = [1, 170, 10**9]


def gather(array: Any, piece: int = 10**9, **cardinality: int) -> Statistics:
    """Return the statistics of a column `x`, given in pieces."""
    table = pa.table({"x": array})
    found = Statistics(table.schema, cardinality)
    for start in range(0, len(table), piece):
        found.update(table.slice(start, piece))
    return found


def column(array: Any, piece: int = 10**9, **cardinality: int) -> Column:
    return gather(array, piece, **cardinality).columns()["x"]


def vocabulary(found: Statistics) -> list[str] | None:
    return {name: table["value"].to_pylist() for name, table in found.vocabularies()}.get("x")


@pytest.mark.parametrize("piece", PIECES)
def test_moments_are_those_of_all_values(piece):
    random = np.random.default_rng(0)
    values = random.lognormal(size=1_500) * 1_000
    missing = random.random(1_500) < 0.1
    found = column(pa.array(values, mask=missing), piece)
    there = values[~missing]
    assert found.nulls == missing.sum() > 0
    assert (found.min, found.max) == (there.min(), there.max())
    assert found.mean == pytest.approx(there.mean(), rel=1e-12)
    assert found.std == pytest.approx(there.std(), rel=1e-12)
    assert found.log1p_mean == pytest.approx(np.log1p(there).mean(), rel=1e-12)
    assert found.log1p_std == pytest.approx(np.log1p(there).std(), rel=1e-12)
    assert found.quantiles is not None
    assert found.quantiles == pytest.approx(np.quantile(there, np.linspace(0, 1, 101)), rel=0.1)
    assert found.cardinality is found.vocabulary is found.not_finite is None


def test_a_small_spread_around_a_large_mean_survives():
    small = np.arange(1_000) % 7
    found = column(1e15 + small, 10)
    assert found.mean == pytest.approx(1e15 + small.mean(), abs=0.2)
    assert found.std == pytest.approx(small.std(), rel=1e-9)


def test_values_that_are_not_finite_are_counted_and_left_out():
    found = column([1.0, math.inf, 3.0, math.nan, -math.inf, None], 2)
    assert (found.nulls, found.not_finite, found.mean, found.min, found.max) == (1, 3, 2.0, 1, 3)
    found = column([math.nan, None])
    assert found.to_dict() == {"nulls": 1, "not_finite": 1}


def test_figures_beyond_floating_point_are_left_out():
    found = column([1e308, -1e308, 1e308], 1)
    assert (found.min, found.max) == (-1e308, 1e308)
    assert found.std is found.mean is None
    assert Column(**found.to_dict()) == found


@pytest.mark.parametrize("piece", [1, 10**9])
def test_values_of_minus_one_and_less_have_no_log1p(piece):
    found = column([5.0, -1.0, 7.0], piece)
    assert found.log1p_mean is found.log1p_std is None
    assert found.to_dict()["log1p_mean"] is None  # said, not left out
    assert column([5.0, -0.5], piece).log1p_mean == pytest.approx(
        (math.log1p(5) + math.log1p(-0.5)) / 2
    )


def test_quantiles_do_not_depend_on_the_pieces_and_are_of_a_bounded_sample(monkeypatch):
    monkeypatch.setattr(statistics, "SAMPLE", 2_000)
    values = np.random.default_rng(1).permutation(50_000).astype(float)
    found = [gather(values, piece) for piece in (777, 5_000, 50_000)]
    quantiles = [f.columns()["x"].quantiles for f in found]
    assert quantiles[0] == quantiles[1] == quantiles[2]
    sample = found[0]._columns["x"].values.sample.values
    assert 1_000 < len(sample) <= 2_000
    assert quantiles[0] == pytest.approx(np.linspace(0, 50_000, 101), abs=2_500)
    assert (quantiles[0][0], quantiles[0][-1]) == (0, 49_999)  # the ends are of all values


def test_cardinality_of_integers_is_the_largest_and_one():
    assert column([3, None, 0, 11], 1).cardinality == 12
    assert column(pa.array([True, False])).cardinality == 2
    assert column(pa.array([], pa.int64())).cardinality == 0
    assert column([3, -1]).cardinality is None
    assert column(pa.array([2**64 - 1], pa.uint64())).cardinality is None
    assert column(pa.array([2**60], pa.int64())).cardinality == 2**60 + 1


def test_a_given_cardinality_is_kept_and_checked():
    assert column([3, 4], x=100).cardinality == 100
    assert column([[3], [4, 99]], x=100).cardinality == 100
    for bad, value in (([3, 100], 100), ([-2, 5], -2)):
        with pytest.raises(ValueError, match=rf"column 'x': expected ids in \[0, 100\).*{value}"):
            column(bad, x=100)


@pytest.mark.parametrize("kind", [pa.list_, pa.large_list])
@pytest.mark.parametrize("piece", [1, 10**9])
def test_lists_have_lengths_and_their_values_figures(kind, piece):
    lists = [[1, 2, 3], [], None, [10], [None, 5]]
    found = column(pa.array(lists, kind(pa.int16())), piece)
    assert (found.nulls, found.max_length, found.mean_length) == (1, 3, 6 / 4)
    assert (found.null_values, found.cardinality, found.max, found.mean) == (1, 11, 10, 21 / 5)
    empty = column(pa.array([[], None], kind(pa.int16())), piece)
    assert (empty.nulls, empty.max_length, empty.mean_length, empty.mean) == (1, 0, 0, None)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), None], ids=str)
@pytest.mark.parametrize("piece", PIECES)
def test_vocabularies_have_the_most_frequent_first_and_ties_by_value(kind, piece):
    random = np.random.default_rng(2)
    words = [f"w{k}" for k in (random.integers(0, 40, 500) ** 2 // 40).tolist()] + [None, "zoë"]
    array = pa.array(words, kind) if kind else pa.array(words).dictionary_encode()
    found = gather(array, piece)
    counts = Counter(word for word in words if word is not None)
    expected = sorted(counts, key=lambda word: (-counts[word], word))
    assert vocabulary(found) == expected
    assert len(set(counts.values())) < len(counts)  # there are ties
    assert (found.columns()["x"].cardinality, found.columns()["x"].nulls) == (len(expected), 1)


def test_lists_of_strings_have_a_vocabulary():
    found = gather([["b", "a"], None, [], ["b", None]])
    assert vocabulary(found) == ["b", "a"]
    assert (found.columns()["x"].cardinality, found.columns()["x"].max_length) == (2, 2)


def test_pending_counts_are_put_together_before_they_pile_up(monkeypatch):
    texts = pa.array(np.arange(400_000) % 70_000).cast(pa.string())
    found = gather(texts, 20_000)
    assert sum(map(len, found._columns["x"].values.pending)) < 300_000
    assert found.columns()["x"].cardinality == 70_000


@pytest.mark.parametrize("limit", ["MAX_VOCABULARY", "MAX_VOCABULARY_BYTES"])
def test_too_many_strings_are_estimated_and_have_no_vocabulary(limit, monkeypatch):
    monkeypatch.setattr(statistics, limit, 1_000)
    monkeypatch.setattr(statistics, "SAMPLE", 2_000)
    texts = pa.array(np.arange(60_000) % 30_000).cast(pa.string())
    found = gather(texts, 5_000)
    assert vocabulary(found) is None
    said = found.columns()["x"]
    assert said.cardinality == pytest.approx(30_000, rel=0.1)
    assert said.note is not None and "hash" in said.note


def test_dates_and_times_have_a_first_and_a_last():
    days = [date(2022, 5, 1), None, date(2021, 1, 31)]
    found = column(pa.array(days), 1)
    assert (found.first, found.last, found.nulls) == ("2021-01-31", "2022-05-01", 1)
    times = pa.array([datetime(2022, 5, 1, 12, 30), datetime(2021, 1, 31)], pa.timestamp("s"))
    assert column(times).first == "2021-01-31 00:00:00"
    assert column(times.cast(pa.timestamp("ms", "UTC"))).last == "2022-05-01 12:30:00.000Z"
    assert column(pa.array([None], pa.date32())).first is None


def test_hidden_columns_have_no_statistics_and_strange_ones_only_nulls():
    table = pa.table({"__p": [0.5, None], "s": pa.array([{"a": 1}, None])})
    found = Statistics(table.schema, {})
    found.update(table)
    assert {name: c.to_dict() for name, c in found.columns().items()} == {"s": {"nulls": 1}}
