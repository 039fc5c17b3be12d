"""Blocks behave as lists of rows, and batches say what the files say."""

from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mbrec.columns.block import Bag, Block
from mbrec.columns.hashing import hash_ids
from mbrec.columns.schema import Categorical, Columns
from mbrec.columns.where import Where
from mbrec.config.tasks import Task
from mbrec.reader.assemble import Assembler

# A row: one-hot ids, bags, dense, labels, weight, oracle, position.
Row = tuple[list[int], list[list[int]], list[float], list[float], float, list[float], int]


def to_block(rows: list[Row]) -> Block:
    def column(part: int, width: int, dtype: type) -> np.ndarray:
        return np.array([row[part] for row in rows], dtype).reshape(len(rows), width)

    bags = []
    for f in range(2):
        lists = [row[1][f] for row in rows]
        values = np.array([value for bag in lists for value in bag], np.int64)
        # The weights of the second feature follow from its ids, so that rows can be compared.
        weights = (values / 8).astype(np.float32) if f else None
        bags.append(Bag(values, np.cumsum([0, *map(len, lists)]), weights))
    return Block(
        np.ascontiguousarray(column(0, 2, np.int64).T),
        bags,
        column(2, 1, np.float32),
        column(3, 2, np.float32),
        column(4, 1, np.float32)[:, 0],
        column(5, 1, np.float64),
        column(6, 1, np.int64)[:, 0],
    )


def to_rows(block: Block) -> list[Row]:
    bags = [
        [bag.values[start:stop].tolist() for start, stop in pairwise(bag.offsets)]
        for bag in block.bags
    ]
    assert all(len(lists) == len(block) for lists in bags)
    plain, weighted = block.bags
    assert plain.weights is None
    assert weighted.weights is not None
    assert np.array_equal(weighted.own(weighted.weights) * 8, weighted.own(weighted.values))
    return list(
        zip(
            block.ids_Fn.T.tolist(),
            [list(lists) for lists in zip(*bags, strict=True)],
            block.dense_nN.tolist(),
            block.labels_nL.tolist(),
            block.weights_n.tolist(),
            block.oracle_nO.tolist(),
            block.rows_n.tolist(),
            strict=True,
        )
    )


numbers = st.floats(0, 1, width=16)
bag = st.lists(st.integers(0, 9), max_size=3)
row = st.tuples(
    st.lists(st.integers(0, 9), min_size=2, max_size=2),
    st.lists(bag, min_size=2, max_size=2),
    st.lists(numbers, min_size=1, max_size=1),
    st.lists(numbers, min_size=2, max_size=2),
    numbers,
    st.lists(numbers, min_size=1, max_size=1),
    st.integers(0, 10**12),
)


@st.composite
def blocks(draw: st.DrawFn) -> tuple[Block, list[Row]]:
    """Return a block after some cuts, choices and concatenations, and the same done to a list."""
    rows: list[Row] = draw(st.lists(row, max_size=8))
    block = to_block(rows)
    for step in draw(st.lists(st.sampled_from(["take", "slice", "halves", "add"]), max_size=6)):
        n = len(rows)
        if step == "take":
            order = draw(st.lists(st.integers(0, n - 1), max_size=12)) if n else []
            block, rows = block.take(np.array(order, np.int64)), [rows[i] for i in order]
        elif step == "slice":
            start, stop = sorted(draw(st.tuples(st.integers(0, n), st.integers(0, n))))
            block, rows = block.slice(start, stop), rows[start:stop]
        elif step == "halves":
            cut = draw(st.integers(0, n))
            block = Block.concatenate([block.slice(cut, n), block.slice(0, cut)])
            rows = rows[cut:] + rows[:cut]
        else:
            other: list[Row] = draw(st.lists(row, max_size=4))
            cut = draw(st.integers(0, len(other)))
            block = Block.concatenate([block, to_block(other).slice(cut, len(other)), block])
            rows = rows + other[cut:] + rows
    return block, rows


@settings(deadline=None, max_examples=200)
@given(blocks())
def test_block_is_a_list_of_rows(pair: tuple[Block, list[Row]]) -> None:
    block, rows = pair
    assert len(block) == len(rows)
    assert to_rows(block) == rows


@pytest.mark.parametrize("steps", list(product(["take", "slice", "tail", "swap"], repeat=3)))
def test_any_three_steps_make_the_list_of_rows(steps: tuple[str, ...]) -> None:
    rows: list[Row] = [
        ([i, 2 * i], [[i] * (i % 3), [i, 9 - i]], [i / 8], [0, 1], 1.0, [0.5], i) for i in range(8)
    ]
    block = to_block(rows)
    for step in steps:
        n = len(rows)
        if step == "take":
            block, rows = block.take(np.arange(n)[::-2]), rows[::-2]
        elif step == "slice":
            block, rows = block.slice(1, n - 1), rows[1 : n - 1]
        elif step == "tail":
            block, rows = block.slice(n // 2, n), rows[n // 2 :]
        else:
            parts = [block.slice(2, n), block.slice(0, 1), block.slice(1, 2)]
            block, rows = Block.concatenate(parts), rows[2:] + rows[:2]
        if not rows:
            break
        assert to_rows(block) == rows


def test_slices_share_memory_and_rows_taken_do_not() -> None:
    block = to_block([([i, i], [[i], [i, i]], [0.5], [0, 1], 1.0, [0.5], i) for i in range(4)])
    parts = [block.slice(1, 3), block.take(np.array([1, 2]))]
    before = [to_rows(part) for part in parts]
    assert before[0] == before[1]
    for values in (block.ids_Fn, block.dense_nN, *(bag.values for bag in block.bags)):
        values[:] = 9
    block.bags[1].weights[:] = 9 / 8
    assert to_rows(parts[0]) != before[0]
    assert to_rows(parts[1]) == before[1]


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
    batch = assembler(assembler.encoder.encode(table, 0, Where("file", 0)))
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
