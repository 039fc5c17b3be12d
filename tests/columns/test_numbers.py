"""What a schema makes of numbers that are missing or out of its limits."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mbrec.columns.schema import Categorical, Columns, MissingNumber, Numerical, Transform
from mbrec.config.tasks import Task
from mbrec.reader.parquet import ParquetReader


def dense(part: dict[str, Numerical], values: dict[str, list[Any]], folder: Path) -> list[Any]:
    n = len(next(iter(values.values())))
    columns = Columns({"id": Categorical(5)}, part, {"y": "y"})
    plain = {"id": [0] * n, "y": [1] * n}
    pq.write_table(pa.table({**plain, **values}), folder / "rows.parquet")
    files, tasks = [str(folder / "rows.parquet")], {"t": Task("y")}
    (batch,) = ParquetReader(files, columns, tasks, global_batch_size=n + 1)
    assert not batch.dense_BN[n].any(), "expected zeros as padding"
    return batch.dense_BN[:n].tolist()


MEAN, INDICATOR = MissingNumber.mean, MissingNumber.indicator


@pytest.mark.parametrize(
    ("options", "values", "expected"),
    [
        ({"missing": MEAN}, [1.5, None, math.nan, -2.0], [[1.5], [0.0], [0.0], [-2.0]]),
        ({"missing": MEAN, "mean": 1.0, "std": 2.0}, [5, None, 1], [[2.0], [0.0], [0.0]]),
        ({"missing": MEAN}, [True, None, False], [[1.0], [0.0], [0.0]]),
        ({"missing": MEAN, "transform": Transform.log1p}, [0, None], [[0.0], [0.0]]),
        ({"missing": MEAN, "clip": [1.0, 2.0], "mean": 1.0}, [9, None, 0], [[1.0], [0.0], [0.0]]),
        ({"missing": INDICATOR}, [1.5, None, math.nan], [[1.5, 0.0], [0.0, 1.0], [0.0, 1.0]]),
        ({"missing": INDICATOR, "mean": 3.0}, [3, 4, None], [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]),
        ({"clip": [-1.0, 1.0]}, [-9.0, 0.5, 1e300], [[-1.0], [0.5], [1.0]]),
        ({"clip": [0.0, 9.0], "transform": Transform.log1p}, [-1.0, 99.0], [[0.0], [2.302585]]),
    ],
)
def test_numbers_are_clipped_and_missing_ones_filled(
    options: dict[str, Any], values: list[Any], expected: list[list[float]], tmp_path: Path
) -> None:
    found = dense({"x": Numerical(**options)}, {"x": values}, tmp_path)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_indicator_follows_its_number_in_the_order_of_the_schema(tmp_path: Path) -> None:
    features = {
        "b": Numerical(missing=INDICATOR),
        "a": Numerical(column="other"),
        "c": Numerical(missing=MEAN),
        "d": Numerical(missing=INDICATOR, mean=1.0),
    }
    values = {"d": [None, 5.0], "b": [2.0, None], "other": [3, 4], "c": [None, 7]}
    # b, is b missing, a, c, d, is d missing
    expected = [[2.0, 0.0, 3.0, 0.0, 0.0, 1.0], [0.0, 1.0, 4.0, 7.0, 4.0, 0.0]]
    assert dense(features, values, tmp_path) == expected
    assert Columns({"id": Categorical(5)}, features).dense_width == 6


@pytest.mark.parametrize("missing", [MEAN, INDICATOR])
@pytest.mark.parametrize("bad", [math.inf, -math.inf, 1e39])
def test_missing_numbers_do_not_hide_infinite_ones(
    missing: MissingNumber, bad: float, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"row 2, column 'x': expected a .*, got -?(inf|1e\+39) "):
        dense({"x": Numerical(missing=missing)}, {"x": [1.0, None, bad]}, tmp_path)
