"""A shop's log with every kind of column, as a user might bring it."""

from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mbrec.prepare.writer import DatasetWriter


def make_log(rows: int, *, first: int = 0, seed: int = 0) -> pa.Table:
    """Rows from the `first` on; a day has 500 of them. Later ones have ids that earlier lack."""
    random = np.random.default_rng([seed, first])
    clicked = random.random(rows) < 0.2
    bought = (clicked & (random.random(rows) < 0.4)) | (random.random(rows) < 0.01)
    lengths = random.integers(0, 4, rows)
    at = [datetime(2024, 3, 1) + timedelta(days=(first + i) / 500) for i in range(rows)]
    age = random.integers(18, 80, rows).astype(object)
    age[::11] = None
    city = np.array([f"city {k}" for k in random.integers(0, 30 + first // 100, rows)], object)
    city[::7] = None
    return pa.table(
        {
            "time": pa.array(at, pa.timestamp("us")),
            "request": [f"r{first + i:07}" for i in range(rows)],
            "user_id": random.integers(0, 60, rows) * 7_919_000,
            "item_id": random.integers(0, 80 + first // 50, rows),
            "city": pa.array(city, pa.string()),
            "tags": [[f"t{k}" for k in random.integers(0, 9, n)] for n in lengths],
            "related": pa.array([random.integers(0, 40, n) for n in lengths], pa.list_(pa.int32())),
            "related_score": [random.random(n).tolist() for n in lengths],
            "price": np.exp(random.normal(3, 1, rows)),
            "age": pa.array(age, pa.int64()),
            "is_member": random.random(rows) < 0.3,
            "clicked": clicked.astype(np.int8),
            "bought": bought.astype(np.int8),
            "paid_cents": np.where(bought, random.integers(100, 9_000, rows), 0),
            "country": ["DE"] * rows,
            "__p_click": random.random(rows),
        }
    )


def make_oddities(rows: int, *, late: bool = False) -> pa.Table:
    """Columns with strange names, types and values; where `late`, some values are missing."""
    random = np.random.default_rng(int(late))
    gaps = [None if late and i % 3 == 0 else i % 4 for i in range(rows)]
    long = [random.integers(0, 50, n).tolist() for n in random.integers(0, 300, rows)]
    return pa.table(
        {
            "is click": random.random(rows) < 0.2,
            "class": pa.array(random.integers(0, 7, rows), pa.int8()),
            "a.b": random.normal(size=rows),
            "a": random.integers(0, 20, rows),
            "2nd price (EUR)": np.exp(3 * random.normal(size=rows)),
            "Yes": pa.array([f"v{i % 5}" for i in range(rows)]).dictionary_encode(),
            "on": random.integers(0, 5, rows),
            "line\nbreak": random.integers(0, 4, rows),
            "back`tick": random.integers(0, 4, rows),
            "ref${x}": random.integers(0, 4, rows),
            "größe": random.normal(size=rows),
            "cauchy": random.standard_cauchy(rows),
            "hashes": random.integers(0, 200, rows).astype(np.uint64) * np.uint64(2**56),
            "codes": random.integers(-5, 20, rows),
            "balance": random.integers(-5_000, 20_000, rows),
            "nan": np.where(random.random(rows) < 0.1, np.nan, random.normal(size=rows)),
            "infinite": np.where(random.random(rows) < 0.1, np.inf, random.normal(size=rows)),
            "brand_id": np.where(random.random(rows) < 0.1, np.nan, random.integers(0, 9, rows)),
            "gap_code": pa.array(gaps, pa.int64()),
            "gap": pa.array([g and float(g + i) for i, g in enumerate(gaps)], pa.float64()),
            "gap_nan": np.where(
                (np.arange(rows) % 3 == 0) & late, np.nan, random.normal(size=rows)
            ),
            "gap_list": [None if late and i % 3 == 0 else [i % 4] * (i % 2) for i in range(rows)],
            "coupon": pa.array([1 if i % 7 == 0 else None for i in range(rows)]),
            "long": long,
            "words": [["a", "b"][: i % 3] if i % 10 else None for i in range(rows)],
            "vector": [[0.5, i / rows] for i in range(rows)],
            "decimal": pa.array([Decimal("1.5")] * rows),
            "struct": pa.array([{"x": 1, "y": [2, 3]}] * rows),
            "binary": pa.array([b"x"] * rows),
            "empty": pa.nulls(rows, pa.int64()),
            "date": [date(2024, 1, 1 + 10 * late + i * 9 // rows) for i in range(rows)],
            "yyyymmdd": [20240101 + 10 * late + i * 9 // rows for i in range(rows)],
            "comment": [" ".join(map(str, random.random(6))) for _ in range(rows)],
        }
    )


def prepare(folder: Path, **options: Any) -> Path:
    """Write a prepared data set with a manifest, in which only some labels are declared."""
    table = make_log(2_000)
    options = {"labels": ["clicked", "bought"], "row_group_rows": 400, **options}
    with DatasetWriter(folder, table.schema, **options) as writer:
        writer.add("train", table)
        writer.add("validation", make_log(500, first=2_000))
        writer.add("test", make_log(500, first=2_500))
        writer.finish()
    return folder


def write(folder: Path, tables: dict[str, pa.Table]) -> Path:
    """Write plain Parquet files."""
    for name, table in tables.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, folder / name, row_group_size=300)
    return folder
