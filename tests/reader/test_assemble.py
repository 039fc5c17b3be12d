"""Batches are the rows of all windows in order, and say what the files say."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mbrec.columns.encode import EncodedRows, Part
from mbrec.columns.hashing import hash_ids
from mbrec.columns.schema import Categorical, Columns, Numerical
from mbrec.columns.where import Where
from mbrec.config.tasks import Task
from mbrec.reader.assemble import Assembler

SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=12)
PIECES = Assembler(
    Columns(
        {
            "id": Categorical(1_000),
            "cut": Categorical(1_000, multi_hot=True, max_length=5),
            "other": Categorical(1_000, column="id"),
            "heavy": Categorical(1_000, multi_hot=True, weights="w"),
        },
        {"x": Numerical()},
        {"y": "y"},
        "wt",
        {"t": "__p"},
    ),
    {"t": Task("y"), "given": Task("y", given="y"), "plain": Task("y")},
    1,
)


def encoded(first: int, stop: int, memory: EncodedRows | None) -> EncodedRows:
    """Rows that say where they are, with lists of 0, 1 or 2 ids."""
    places = np.arange(first, stop)
    lists = [[i] * (i % 3) for i in places.tolist()]
    columns = {"id": places, "cut": lists, "heavy": lists, "x": places.astype(np.float32)}
    columns |= {"wt": places, "w": [[i / 2 for i in ids] for ids in lists]}
    columns |= {"y": (places % 2).astype(np.int8), "__p": places / 1_000}
    part = Part(pa.record_batch(columns), first, Where("f", 0))
    return PIECES.encoder.encode([part], stop - first, memory)


@settings(deadline=None)
@given(SIZES, st.integers(1, 30), st.booleans(), st.data())
def test_batches_are_the_rows_in_order_wherever_windows_end(
    lengths: list[int], size: int, shuffle: bool, data: st.DataObject
) -> None:
    firsts = np.cumsum([0, *lengths]).tolist()
    orders = [np.arange(n) for n in lengths]
    if shuffle:  # Some rows of each window in any order.
        orders = [np.random.default_rng(n).permutation(n)[: n - n % 3 or n] for n in lengths]

    def windows() -> Iterator[tuple[EncodedRows, np.ndarray]]:
        # As the reader does it: the next window overwrites the one before.
        rows = PIECES.encoder.empty
        for order, (first, stop) in zip(orders, pairwise(firsts), strict=True):
            rows = encoded(first, stop, rows)
            yield rows, order

    expected = [i + at for at, order in zip(firsts, orders, strict=False) for i in order.tolist()]
    PIECES.batch_size = size
    batches = list(PIECES.batches(windows()))  # All at once: none shares memory with a window.
    assert len(batches) == -(-len(expected) // size)
    padded = expected + [-1] * (size * len(batches) - len(expected))
    assert [row for batch in batches for row in batch.rows_B.tolist()] == padded
    lists = [[i] * (i % 3) if i >= 0 else [] for i in padded]
    ids = [[i] if i >= 0 else [] for i in padded]
    for key, values in {"id": ids, "cut": lists, "other": ids, "heavy": lists}.items():
        jagged = [batch.sparse[key] for batch in batches]
        assert [row.tolist() for part in jagged for row in part.to_dense()] == values
        if key == "heavy":
            given = [part.to_dense_weights() or [] for part in jagged]
            weights = [row.tolist() for part in given for row in part]
            assert weights == [[i / 2 for i in row] for row in values]
    real = np.maximum(padded, 0)
    mask = np.array(padded) >= 0
    for name, column in {
        "dense_BN": real,
        "weights_B": real,
        "labels_BK": np.stack([real % 2] * 3, 1),
        "masks_BK": np.stack([mask, real % 2, mask], 1),
    }.items():
        found = np.concatenate([getattr(batch, name) for batch in batches])
        assert found.reshape(column.shape).tolist() == column.tolist()
    oracle = torch.cat([batch.oracle_BK for batch in batches if batch.oracle_BK is not None])
    oracle = oracle.numpy()
    assert oracle[mask, 0].tolist() == (real[mask] / 1_000).tolist()
    assert np.isnan(oracle[:, 1:]).all()
    assert np.isnan(oracle[~mask]).all()


# What a batch says


@pytest.fixture(scope="module")
def log(new_log: Any) -> Any:
    return new_log([[40, 0, 17], [30]])


N, B = 87, 100  # One batch with 13 rows of padding.


def test_bags_are_the_lists_of_the_file_in_config_order(log: Any) -> None:
    (batch,) = log.batches(global_batch_size=B)
    table = log.table.to_pydict()
    words = [hash_ids(np.array(ids, np.int64), 11).tolist() for ids in table["word_ids"]]
    expected = {
        "user": [[i] for i in table["user_id"]],
        "tags": table["tags"],
        "query": [[i] for i in hash_ids(np.array(table["query"]), 16).tolist()],
        "words": words,
        "item": [[i] for i in table["item"]],
    }
    assert batch.sparse.keys() == list(expected)
    for key, lists in expected.items():
        jagged = batch.sparse[key]
        assert jagged.lengths().tolist() == [len(ids) for ids in lists] + [0] * (B - N)
        assert jagged.values().tolist() == [i for ids in lists for i in ids]
        assert [] in lists or key not in ("tags", "words")
    flat = [i for lists in expected.values() for ids in lists for i in ids]
    assert batch.sparse.values().tolist() == flat
    assert batch.sparse.values().dtype == torch.int64


@pytest.mark.parametrize("order", [["tags", "user"], ["user", "tags"], ["tags"], ["user"]])
def test_features_keep_their_order_whatever_their_kind(log: Any, order: list[str]) -> None:
    columns = replace(log.columns, categorical={k: log.columns.categorical[k] for k in order})
    (batch,) = replace(log, columns=columns).batches(global_batch_size=B)
    table = log.table.to_pydict()
    lists = {"tags": table["tags"], "user": [[i] for i in table["user_id"]]}
    assert batch.sparse.keys() == order
    assert batch.sparse.values().tolist() == [i for k in order for ids in lists[k] for i in ids]


def test_dense_is_the_transformed_and_standardised_number(log: Any) -> None:
    (batch,) = log.batches(global_batch_size=B)
    age, views = (log.table[name].to_numpy() for name in ("age", "num_views"))
    expected = np.stack([(age - 3.0) / 2.0, (np.log(1.0 + views) - 0.5) / 1.5], axis=1)
    assert batch.dense_BN.dtype == torch.float32
    np.testing.assert_allclose(batch.dense_BN[:N].numpy(), expected, rtol=1e-6, atol=1e-6)
    assert not batch.dense_BN[N:].any()


def test_labels_masks_weights_and_counts_are_those_of_the_tasks(log: Any) -> None:
    (batch,) = log.batches(global_batch_size=B)
    click, buy, like, weight = (
        log.table[name].to_numpy().astype(np.float64) for name in ("click", "is_buy", "like", "wt")
    )
    assert (buy * (1 - click)).any(), "expected a purchase without a click, which must not count"
    labels, masks = (
        np.stack([click, like, buy * click], 1),
        np.stack([click**0, click**0, click], 1),
    )
    np.testing.assert_allclose(batch.labels_BK[:N].numpy(), labels, rtol=1e-6)
    assert np.array_equal(batch.masks_BK[:N].numpy(), masks)
    np.testing.assert_allclose(batch.weights_B[:N].numpy(), weight, rtol=1e-6)
    assert batch.counts_K.dtype == batch.positives_K.dtype == torch.float64
    np.testing.assert_allclose(batch.counts_K.numpy(), weight @ masks, rtol=1e-6)
    np.testing.assert_allclose(batch.positives_K.numpy(), weight @ labels, rtol=1e-6)


def test_row_counts_for_a_task_if_its_given_label_is_above_zero(log: Any) -> None:
    tasks = {"cvr": Task("buy", given="like")}
    like = np.where(np.arange(N) % 3 == 0, 0.0, log.table["like"].to_numpy())
    position = log.table.column_names.index("like")
    table = log.table.set_column(position, "like", [like])
    assembler = Assembler(log.columns, tasks, B)
    (rows,) = table.combine_chunks().to_batches()
    batch = assembler.batch(assembler.encoder.encode([Part(rows, 0, Where("file", 0))], N))
    assert np.array_equal(batch.masks_BK[:N, 0].numpy(), like > 0)
    buy = table["is_buy"].to_numpy()
    assert np.array_equal(batch.labels_BK[:N, 0].numpy(), buy & (like > 0))


def test_oracle_is_that_of_each_task_and_nan_where_there_is_none(log: Any) -> None:
    (batch,) = log.batches(global_batch_size=B)
    oracle = batch.oracle_BK[:N].numpy()
    assert oracle.dtype == np.float64
    assert np.array_equal(oracle[:, 0], log.table["__p_click"].to_numpy())
    assert np.isnan(oracle[:, 1]).all()
    assert np.array_equal(oracle[:, 2], log.table["__p_buy"].to_numpy())


def test_batch_without_an_oracle_has_none(log: Any) -> None:
    (batch,) = log.batches(global_batch_size=B, tasks={"like": Task("like")})
    assert batch.oracle_BK is None


def test_rows_weigh_one_without_a_weight_column(log: Any) -> None:
    columns = replace(log.columns, weight=None)
    (batch,) = replace(log, columns=columns).batches(global_batch_size=B)
    assert batch.weights_B.tolist() == [1.0] * N + [0.0] * (B - N)
    assert batch.counts_K.tolist() == [N, N, log.table["click"].to_numpy().sum()]


def assert_padding(batch: Any, start: int) -> None:
    assert (batch.rows_B[start:] == -1).all()
    for part in (batch.masks_BK, batch.weights_B, batch.labels_BK, batch.dense_BN):
        assert not part[start:].any()
    for jagged in batch.sparse.to_dict().values():
        assert not jagged.lengths()[start:].any()


def test_padding_counts_for_nothing(log: Any) -> None:
    (batch,) = log.batches(global_batch_size=B)
    assert batch.rows_B[:N].tolist() == list(range(N))
    assert len(batch.rows_B) == len(batch.sparse["user"].lengths()) == B
    assert_padding(batch, N)
    (exact,) = log.batches(global_batch_size=N)
    assert torch.equal(exact.counts_K, batch.counts_K)
    assert log.rows_of(exact) == log.rows_of(batch)[:N]


def test_empty_batch_is_all_padding_and_shaped_as_the_others(log: Any) -> None:
    reader = log.reader(global_batch_size=B)
    empty, (batch,) = reader.empty_batch(), list(reader)
    assert_padding(empty, 0)
    assert not empty.counts_K.any()
    for name in ("dense_BN", "labels_BK", "masks_BK", "weights_B", "counts_K", "oracle_BK"):
        here, there = getattr(empty, name), getattr(batch, name)
        assert (here.shape, here.dtype) == (there.shape, there.dtype), name
    assert empty.sparse.keys() == batch.sparse.keys()
    assert empty.sparse.values().dtype == batch.sparse.values().dtype


@pytest.mark.parametrize(
    ("tasks", "unknown"),
    [
        ({"a": Task("click"), "b": Task("share")}, ["share"]),
        ({"a": Task("buy", given="view")}, ["view"]),
        ({"a": Task("share", given="view"), "b": Task("share")}, ["share", "view"]),
    ],
)
def test_unknown_label_is_named_with_those_there_are(
    tasks: dict[str, Task], unknown: list[str]
) -> None:
    columns = Columns({"user": Categorical(5)}, labels={"click": "c", "buy": "b"})
    with pytest.raises(ValueError) as caught:
        Assembler(columns, tasks, 4)
    assert str(caught.value) == (
        f"expected labels of the data set (click, buy), got tasks that need {', '.join(unknown)}"
    )
