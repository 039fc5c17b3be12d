"""Files with a column `c` that is read as a feature, a label or the weight."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mbrec.columns.schema import Categorical, Columns, Numerical, Transform
from mbrec.config.tasks import Task
from mbrec.reader.parquet import ParquetReader

I64, F64, STR = pa.int64(), pa.float64(), pa.string()
IDS, NUMBERS = pa.list_(I64), pa.list_(F64)
VOCABULARIES = {"w.parquet": pa.array(["a", "b"]), "n.parquet": pa.array([10, 20])}

ID, BAG = Categorical(5), Categorical(5, multi_hot=True)
HASHED, HASHED_BAG = Categorical(hash_size=7), Categorical(hash_size=7, multi_hot=True)
WORD, NUMBER = (Categorical(2, vocabulary=name) for name in VOCABULARIES)
WORDS = Categorical(2, vocabulary="w.parquet", multi_hot=True)
BUCKET = Categorical(boundaries=[0.5])
WEIGHTED = Categorical(5, multi_hot=True, weights="w")
DENSE, LOG = Numerical(), Numerical(Transform.log1p)
CLIPPED = Numerical(Transform.log1p, clip=[-2.0, 9.0])


def schema(part: Any) -> Columns:
    """Return a schema that reads the column `c` as a feature, a label or the weight."""
    categorical, numerical, labels = {"id": ID}, {}, {"y": "y"}
    if isinstance(part, Categorical):
        categorical["c"] = part
    elif isinstance(part, Numerical):
        numerical["c"] = part
    elif part is not None:
        labels["y"] = part
    return Columns(categorical, numerical, labels, None if part is not None else "c")


def write(folder: Path, **columns: pa.Array) -> list[str]:
    """Write rows 0 and 1 to a file, and the others, by threes, to the row groups of another."""
    n = len(next(iter(columns.values())))
    plain = {"id": pa.array([0] * n), "y": pa.array([1] * n)}
    table = pa.table({name: columns.get(name, plain.get(name)) for name in {**plain, **columns}})
    files = [str(folder / "part-0.parquet"), str(folder / "part-1.parquet")]
    pq.write_table(table[:2], files[0])
    pq.write_table(table[2:], files[1], row_group_size=3)
    return files


def reader(files: list[str], columns: Columns, **options: Any) -> ParquetReader:
    tasks, options = {"task": Task("y")}, {"global_batch_size": 2, **options}
    return ParquetReader(files, columns, tasks, vocabularies=VOCABULARIES, **options)
