"""Rows that were there before are dropped, and no others."""

import math

import numpy as np
import pyarrow as pa
import pytest

from mbrec.prepare import duplicates
from mbrec.prepare.duplicates import Duplicates


def rows_with_repeats(n: int, different: int, seed: int = 0) -> pa.Table:
    """Random rows, most of them several times; `place` tells them apart by hand."""
    random = np.random.default_rng(seed)
    key = random.integers(0, different, n)
    tags = [[k % 3, None] if k % 7 else None for k in key.tolist()]
    return pa.table(
        {
            "id": key,
            "text": pa.array(key % 97).cast(pa.string()),
            "number": np.where(key % 5 == 0, np.nan, key / 3),
            "tags": pa.array(tags, pa.list_(pa.int64())),
        }
    )


def first_of_each(tables: list[pa.Table]) -> list[int]:
    """Return the ids in the order in which they first come."""
    return list(dict.fromkeys(i for table in tables for i in table["id"].to_pylist()))


@pytest.mark.parametrize("size", [1, 7, 1_000, 50_000])
def test_the_first_of_equal_rows_stays_wherever_the_tables_are_cut(size):
    table = rows_with_repeats(300 * size if size < 10 else 50_000, 2_000)
    tables = [table.slice(start, size) for start in range(0, len(table), size)]
    seen = Duplicates()
    kept = pa.concat_tables([seen.drop(piece) for piece in tables])
    assert kept["id"].to_pylist() == first_of_each(tables)
    assert seen.dropped == len(table) - len(kept) > 0


def test_rows_that_differ_anywhere_stay():
    table = rows_with_repeats(1, 1)
    rows = [table]
    for name, value in {"id": 1, "text": "1", "number": 0.5, "tags": [0]}.items():
        column = pa.array([value], table.schema.field(name).type)
        rows.append(table.set_column(table.column_names.index(name), name, column))
    seen = Duplicates()
    assert len(seen.drop(pa.concat_tables(rows))) == len(rows)
    assert seen.dropped == 0


def test_missing_values_equal_each_other():
    table = pa.table({"x": [None, math.nan, None, math.nan], "y": [None] * 4})
    seen = Duplicates()
    assert len(seen.drop(table)) == 2
    assert len(seen.drop(table)) == 0
    assert seen.dropped == 6


def test_a_table_without_repeats_is_returned_as_it_is():
    table = pa.table({"x": [1, 2, 3]})
    seen = Duplicates()
    assert seen.drop(table) is table
    assert len(seen.drop(table.slice(0, 0))) == 0


def test_rows_that_share_one_of_their_hashes_are_told_apart(monkeypatch):
    def weak(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        key = table["id"].to_numpy().astype(np.uint64)
        return key % np.uint64(10), key

    monkeypatch.setattr(duplicates, "hash_rows", weak)
    table = rows_with_repeats(2_000, 300)
    tables = [table.slice(start, 90) for start in range(0, len(table), 90)]
    seen = Duplicates()
    kept = pa.concat_tables([seen.drop(piece) for piece in tables])
    assert kept["id"].to_pylist() == first_of_each(tables)


def test_memory_is_16_bytes_a_row_in_a_few_runs():
    seen = Duplicates()
    for start in range(0, 100_000, 500):
        seen.drop(pa.table({"x": np.arange(start, start + 500)}))
    assert sum(array.nbytes for run in seen._runs for array in run) == 16 * 100_000
    assert len(seen._runs) <= 5
