"""What a schema makes of ids that are missing, unknown, weighted or too many."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from one_column import F64, I64, IDS, NUMBERS, STR, reader, schema, write
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig

from mbrec.columns.encode import Part
from mbrec.columns.hashing import hash_ids, hash_strings
from mbrec.columns.schema import (
    Categorical,
    Columns,
    Keep,
    MissingId,
    Numerical,
    Order,
    OutOfVocabulary,
)
from mbrec.columns.where import Where
from mbrec.config.tasks import Task
from mbrec.reader.assemble import Assembler

OOV = {"out_of_vocabulary": OutOfVocabulary.oov}
HASH = {"out_of_vocabulary": OutOfVocabulary.hash}
ROW = {"missing": MissingId.row}
WORDS, NUMBERED = {"vocabulary": "w.parquet"}, {"vocabulary": "n.parquet"}
FAR = [2**63 - 1, -(2**63), -1, 5, 2**32]


def hashes(values: list[Any], size: int, salt: int = 0) -> list[int]:
    if isinstance(values[0], str):
        return hash_strings(pa.array(values), size, salt).tolist()
    return hash_ids(np.array(values), size, salt).tolist()


# The feature, the type of its column, its values, and the ids that come out.
ONE_HOT: dict[str, tuple[dict[str, Any], pa.DataType, list[Any], list[int]]] = {
    "unknown ids have a row": ({"cardinality": 5, **OOV}, I64, [4, *FAR, 0], [4, *[5] * 5, 0]),
    "unknown ids of int8": ({"cardinality": 5, **OOV}, pa.int8(), [4, -128, 127, 5], [4, 5, 5, 5]),
    "unknown ids of uint64": ({"cardinality": 5, **OOV}, pa.uint64(), [4, 2**64 - 1], [4, 5]),
    "unknown ids are hashed": (
        {"cardinality": 5, **HASH}, I64, [4, *FAR, 0], [4, *hashes(FAR, 5), 0]
    ),
    "unknown ids are hashed with a salt": (
        {"cardinality": 5, "salt": 3, **HASH}, I64, [4, *FAR, 0], [4, *hashes(FAR, 5, 3), 0]
    ),
    "missing ids have a row": ({"cardinality": 5, **ROW}, I64, [4, None, 0, None], [4, 6, 0, 6]),
    "missing and unknown ids": ({"cardinality": 5, **ROW, **OOV}, I64, [None, 5, 4], [6, 5, 4]),
    "missing and hashed ids": (
        {"cardinality": 5, **ROW, **HASH}, I64, [None, 9, 4], [6, *hashes([9], 5), 4]
    ),
    "missing hashes": ({"hash_size": 7, **ROW}, I64, [None, -9], [8, *hashes([-9], 7)]),
    "missing words": ({"hash_size": 7, **ROW}, STR, ["x", None], [*hashes(["x"], 7), 8]),
    "words": ({"cardinality": 2, **WORDS}, STR, ["b", "a", "b"], [1, 0, 1]),
    "words as bytes": ({"cardinality": 2, **WORDS}, pa.binary(), [b"b", b"a"], [1, 0]),
    "unknown words": ({"cardinality": 2, **WORDS, **OOV}, STR, ["b", "", "A", "a"], [1, 2, 2, 0]),
    "hashed words": (
        {"cardinality": 2, **WORDS, **HASH}, STR, ["b", "x", "yy"], [1, *hashes(["x", "yy"], 2)]
    ),
    "missing and unknown words": (
        {"cardinality": 2, **WORDS, **OOV, **ROW}, STR, [None, "x", "a"], [3, 2, 0]
    ),
    "numbered": ({"cardinality": 2, **NUMBERED}, pa.int16(), [20, 10], [1, 0]),
    "unknown numbers": ({"cardinality": 2, **NUMBERED, **OOV}, I64, [20, 0, 1, 10], [1, 2, 2, 0]),
    "hashed numbers": (
        {"cardinality": 2, **NUMBERED, **HASH}, I64, [20, 0, -1], [1, *hashes([0, -1], 2)]
    ),
    "flags are no numbers of a vocabulary": (
        {"cardinality": 2, **NUMBERED, **OOV}, pa.bool_(), [True, False], [2, 2]
    ),
    "buckets": ({"boundaries": [0.0, 1.0]}, F64, [-0.5, 0.0, 0.5, 1.0, 1e300], [0, 1, 1, 2, 2]),
    "missing buckets": (
        {"boundaries": [0.0], **ROW}, F64, [-1.0, math.nan, None, 1.0], [0, 3, 3, 1]
    ),
    "missing buckets of integers": ({"boundaries": [0.5], **ROW}, I64, [0, None, 1], [0, 3, 1]),
}  # fmt: skip

# The same for lists.
MULTI_HOT: dict[str, tuple[dict[str, Any], pa.DataType, list[Any], list[list[int]]]] = {
    "unknown ids": ({"cardinality": 5, **OOV}, IDS, [[9, 1, -1], [], [0]], [[5, 1, 5], [], [0]]),
    "hashed ids": ({"cardinality": 5, **HASH}, IDS, [[9, 1]], [[*hashes([9], 5), 1]]),
    "missing list": ({"cardinality": 5, **ROW}, IDS, [[1], None, []], [[1], [6], []]),
    "missing ids": ({"cardinality": 5, **ROW}, IDS, [[1, None], [None]], [[1, 6], [6]]),
    "first ids": ({"cardinality": 5, "max_length": 2}, IDS, [[1, 2, 9], []], [[1, 2], []]),
    "last ids": (
        {"cardinality": 5, "max_length": 2, "keep": Keep.last}, IDS, [[9, 1, 2], [], [3], [4, 0]],
        [[1, 2], [], [3], [4, 0]],
    ),
    "last of a missing list": (
        {"cardinality": 5, "max_length": 1, "keep": Keep.last, **ROW}, IDS, [None, [1, None]],
        [[6], [6]],
    ),
    "first of a missing list": ({"cardinality": 5, "max_length": 1, **ROW}, IDS, [None], [[6]]),
    "words": ({"cardinality": 2, **WORDS}, pa.list_(STR), [["b", "a", "b"], []], [[1, 0, 1], []]),
    "unknown words": (
        {"cardinality": 2, **WORDS, **OOV, **ROW}, pa.list_(STR), [["x", None, "b"]], [[2, 3, 1]]
    ),
    "numbered": ({"cardinality": 2, **NUMBERED}, pa.large_list(I64), [[20], [10]], [[1], [0]]),
    "hashed": ({"hash_size": 7}, pa.list_(STR), [["x", "y"]], [hashes(["x", "y"], 7)]),
}  # fmt: skip


def read(files: list[str], columns: Columns) -> list[Any]:
    """Return what the batches say of `c` in each row, lists if it is multi-hot."""
    found = []
    for batch in reader(files, columns):
        rows = [ids.tolist() for ids in batch.sparse["c"].to_dense()]
        found += [ids for ids, row in zip(rows, batch.rows_B.tolist(), strict=True) if row >= 0]
    return found


@pytest.mark.parametrize("name", ONE_HOT)
@pytest.mark.parametrize("dictionary", [False, True])
def test_ids_are_exactly_the_rows_of_their_policy(
    name: str, dictionary: bool, tmp_path: Path
) -> None:
    options, kind, values, expected = ONE_HOT[name]
    feature = Categorical(**options)
    column = pa.array(values, kind)
    if dictionary and kind in (STR, pa.binary()):
        column = column.dictionary_encode()  # As pandas writes categories.
    found = read(write(tmp_path, c=column), schema(feature))
    assert found == [[i] for i in expected]
    assert all(0 <= i < feature.num_embeddings for i in expected)


@pytest.mark.parametrize("name", MULTI_HOT)
def test_lists_are_exactly_the_rows_of_their_policy(name: str, tmp_path: Path) -> None:
    options, kind, values, expected = MULTI_HOT[name]
    feature = Categorical(multi_hot=True, **options)
    assert read(write(tmp_path, c=pa.array(values, kind)), schema(feature)) == expected
    assert all(0 <= i < feature.num_embeddings for ids in expected for i in ids)


def test_ids_of_unknown_and_missing_values_train_their_own_rows_alone(tmp_path: Path) -> None:
    feature = Categorical(5, **OOV, **ROW)
    files = write(tmp_path, c=pa.array([99, None, 3, -1, None, 2**40]))
    config = EmbeddingBagConfig(
        name="c", embedding_dim=4, num_embeddings=feature.num_embeddings, feature_names=["c"]
    )
    tables = EmbeddingBagCollection(tables=[config])
    total = torch.zeros(())
    for batch in reader(files, schema(feature)):
        total = total + tables(batch.sparse)["c"].sum()
    total.backward()
    (table,) = tables.parameters()
    assert table.grad is not None
    assert table.grad[:, 0].tolist() == [0.0, 0.0, 0.0, 1.0, 0.0, 3.0, 2.0]


@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize("bad", [False, True])
def test_dictionaries_in_a_file_make_no_difference(
    as_list: bool, bad: bool, tmp_path: Path
) -> None:
    words = [*"abbaabab", "x" if bad else "a", "a", "y" if bad else "b", "x" if bad else "b", "a"]
    feature = Categorical(2, **WORDS, multi_hot=as_list)
    outcomes = []
    for stored in (True, False):
        column = pa.array([[word] for word in words] if as_list else words)
        table = pa.table({"id": [0] * 13, "y": [1] * 13, "c": column})
        file = str(tmp_path / "rows.parquet")
        pq.write_table(table, file, use_dictionary=stored, row_group_size=7)
        try:
            outcomes.append(read([file], schema(feature)))
        except ValueError as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]
    if bad:  # Of three values, two of them alike, the first is told.
        assert "row group 1, row 1, column 'c': expected one of" in outcomes[0]
        assert "got 'x' (3 such in this row group)" in outcomes[0]


# Bags with weights, names, counts


def test_weights_of_a_bag_reach_the_batch_in_its_order(new_log: Any) -> None:
    columns = Columns(
        {
            "plain": Categorical(9, multi_hot=True, column="tags"),
            "id": Categorical(50, column="user_id"),
            "heavy": Categorical(
                9, multi_hot=True, column="word_ids", weights="w", max_length=2, **OOV
            ),
        },
        labels={"y": "click"},
    )
    ids = [[(7 * i + k) % 11 for k in range(i % 4)] for i in range(40)]
    weights = [[i + k / 8 for k in range(i % 4)] for i in range(40)]
    replace = {"word_ids": pa.array(ids), "w": pa.array(weights, NUMBERS)}
    log = new_log([[7, 9], [13, 0, 11]], replace, columns)
    options = {"tasks": {"t": Task("y")}, "global_batch_size": 16, "shuffle_rows": 20}
    seen = []
    for batch in log.batches(workers=2, **options):
        sparse = batch.sparse
        assert sparse.weights().dtype == torch.float32
        assert len(sparse.weights()) == len(sparse.values())
        assert sparse["plain"].weights().tolist() == [1.0] * len(sparse["plain"].values())
        assert sparse["id"].weights().tolist() == [1.0] * len(sparse["id"].values())
        heavy = sparse["heavy"]
        found = zip(batch.rows_B.tolist(), heavy.to_dense(), heavy.to_dense_weights(), strict=True)
        for row, values, numbers in found:
            if row >= 0:
                seen.append(row)
                assert values.tolist() == [min(i, 9) for i in ids[row][:2]]
                assert numbers.tolist() == weights[row][:2]
    assert sorted(seen) == list(range(40))
    empty = log.reader(**options).empty_batch().sparse
    assert len(empty.weights()) == len(empty.values()) == 0
    assert empty.weights().dtype == torch.float32


def test_weights_of_some_rows_are_their_own() -> None:
    bag = Categorical(9, multi_hot=True, weights="w")
    assembler = Assembler(Columns({"c": bag}, labels={"y": "y"}), {"t": Task("y")}, 3)
    columns = {"c": [[1], [2, 3], [], [4]], "w": [[0.5], [1.5, 2.5], [], [3.5]], "y": [1] * 4}
    rows = assembler.encoder.encode([Part(pa.record_batch(columns), 0, Where("file", 0))], 4)
    for start, expected in ((0, [0.5, 1.5, 2.5]), (1, [1.5, 2.5, 3.5]), (2, [3.5])):
        part = rows.slice(start, min(start + 3, 4))
        assert assembler.batch(part).sparse.weights().tolist() == expected


@pytest.mark.parametrize("name", ["c.d", "c.list.element", "a name", "ünïcode", "c-d", "class"])
def test_columns_may_have_any_name(name: str, tmp_path: Path) -> None:
    file, words = str(tmp_path / "rows.parquet"), [["a"], ["b", "a"], []]
    columns = Columns(
        {
            "id": Categorical(5, column=name),
            "bag": Categorical(2, multi_hot=True, column=f"{name}s", weights=f"{name}w", **WORDS),
        },
        {"x": Numerical(column=f"{name}x")},
        {"y": f"`{name} y` == 'yes'"},
    )
    weights = [[0.5], [1.5, 2.5], []]
    values = [[3, 0, 4], words, weights, [1.0, 2.0, 3.0], ["yes", "no", "yes"]]
    names = [name, f"{name}s", f"{name}w", f"{name}x", f"{name} y"]
    pq.write_table(pa.table(dict(zip(names, values, strict=True))), file)
    (batch,) = reader([file], columns, global_batch_size=3)
    assert batch.sparse.values().tolist() == [3, 0, 4, 0, 1, 0]
    assert batch.sparse["bag"].weights().tolist() == [0.5, 1.5, 2.5]
    assert batch.dense_BN.tolist() == [[1.0], [2.0], [3.0]]
    assert batch.labels_BK.tolist() == [[1.0], [0.0], [1.0]]


def test_batch_without_weighted_bags_has_no_weights(new_log: Any) -> None:
    assert new_log([[3]]).batches()[0].sparse.weights_or_none() is None


COUNTED = Columns(
    {
        "plain": Categorical(9, multi_hot=True, column="tags"),
        "words": Categorical(20, multi_hot=True, column="word_ids", **OOV, **ROW),
        "item": Categorical(700, **OOV),
        "hashed": Categorical(20, column="user_id", **HASH),
    },
    labels={"y": "click"},
)


@pytest.mark.parametrize("order", list(Order), ids=lambda order: order.name)
@pytest.mark.parametrize("world", [1, 2])
def test_unknown_ids_are_counted_over_all_batches(new_log: Any, order: Order, world: int) -> None:
    log = new_log([[40, 17], [30]], None, COUNTED)
    options = {"tasks": {"t": Task("y")}, "order": order, "world_size": world}
    total = torch.zeros(2, 2, dtype=torch.float64)
    for rank in range(world):
        for batch in log.batches(rank=rank, global_batch_size=10, shuffle_rows=9, **options):
            assert batch.lost_2C.dtype == torch.float64
            total += batch.lost_2C
    words = [i for ids in log.table["word_ids"].to_pylist() for i in ids]
    items = log.table["item"].to_pylist()
    unknown = [sum(not 0 <= i < 20 for i in words), sum(i >= 700 for i in items)]
    assert all(unknown)
    # What is unknown, and what there is; padding and features without a row count for nothing.
    assert total.tolist() == [unknown, [len(words), len(items)]]
    assert COUNTED.lost_ids == ["out_of_vocabulary/words", "out_of_vocabulary/item"]
    empty = log.reader(**options).empty_batch()
    assert empty.lost_2C.tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_missing_ids_are_not_counted_as_unknown(tmp_path: Path) -> None:
    column = pa.array([None, 9, 1, None, 2, 3])
    batches = list(reader(write(tmp_path, c=column), schema(Categorical(5, **OOV, **ROW))))
    assert sum(batch.lost_2C for batch in batches).tolist() == [[1.0], [6.0]]


CUT = Columns(
    {
        "plain": Categorical(9, multi_hot=True, column="tags"),
        "words": Categorical(hash_size=20, multi_hot=True, column="word_ids", max_length=2),
        "again": Categorical(
            20, multi_hot=True, column="word_ids", max_length=1, keep=Keep.last, **OOV, **ROW
        ),
    },
    labels={"y": "click"},
)


@pytest.mark.parametrize("order", list(Order), ids=lambda order: order.name)
@pytest.mark.parametrize("world", [1, 2])
def test_ids_that_are_cut_off_are_counted_over_all_batches(
    new_log: Any, order: Order, world: int
) -> None:
    log = new_log([[40, 17], [30]], None, CUT)
    options = {"tasks": {"t": Task("y")}, "order": order, "world_size": world}
    total = torch.zeros(2, 3, dtype=torch.float64)
    for rank in range(world):
        for batch in log.batches(rank=rank, global_batch_size=10, shuffle_rows=9, **options):
            total += batch.lost_2C
    lists = log.table["word_ids"].to_pylist()
    last, ids = [ids[-1] for ids in lists if ids], sum(map(len, lists))
    kept = [sum(min(len(ids), most) for ids in lists) for most in (2, 1)]
    unknown = sum(not 0 <= i < 20 for i in last)
    assert unknown
    assert ids > kept[0] > kept[1] == len(last)
    lost = [unknown, ids - kept[0], ids - kept[1]]
    assert total.tolist() == [lost, [len(last), ids, ids]]
    names = ["out_of_vocabulary/again", "truncated/words", "truncated/again"]
    assert names == CUT.lost_ids
    assert log.reader(**options).empty_batch().lost_2C.tolist() == [[0.0] * 3] * 2


def test_nothing_is_counted_without_a_row_for_the_unknown(new_log: Any) -> None:
    assert new_log([[3]]).batches()[0].lost_2C is None
