"""Predictions of an evaluation, as Parquet files that join back to the data.

Shapes: B rows, K tasks.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mbrec.files import atomic
from mbrec.metrics.outputs import Outputs
from mbrec.reader.parquet import ParquetReader


@contextmanager
def writer(
    path: Path, tasks: Sequence[str], reader: ParquetReader
) -> Iterator[Callable[[Outputs], None]]:
    """Write one file of this rank's rows: file, row, and prediction and label by task.

    `file` and `row` say where in the data set a row came from. A prediction is float64: near 1,
    float32 would make ties of rows that the model tells apart. It is null where it is not finite, a
    label where the task's mask takes the row out. The file is there at the end of the `with`
    statement, and not after an error.

    Yields:
        A function that adds the rows of a step; padding is left out.

    Raises:
        ValueError: if the file exists.
    """
    if os.path.lexists(path):
        raise ValueError(f"expected a new file for predictions, got {path}, which exists")
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = [pa.field("file", pa.dictionary(pa.int32(), pa.string()))]
    fields += [pa.field("row", pa.int64())]
    fields += [pa.field(f"prediction_{task}", pa.float64()) for task in tasks]
    fields += [pa.field(f"label_{task}", pa.float32()) for task in tasks]
    schema = pa.schema(fields)
    with atomic.replacing(path) as file, pq.ParquetWriter(file, schema) as parquet:

        def write(outputs: Outputs) -> None:
            parquet.write_table(pa.table(_columns(outputs, reader), schema=schema))

        yield write


def _columns(outputs: Outputs, reader: ParquetReader) -> list[pa.Array]:
    real = outputs.rows_B >= 0
    files, rows = reader.locate(outputs.rows_B[real].cpu().numpy())
    columns = [pa.array(files).dictionary_encode(), pa.array(rows)]
    predictions = outputs.predictions_BK[real].cpu().numpy()
    labels, masked = outputs.labels_BK[real].cpu().numpy(), outputs.masks_BK[real].cpu() == 0
    tasks = range(predictions.shape[1])
    bad = ~np.isfinite(predictions)
    columns += [pa.array(predictions[:, k], mask=bad[:, k]) for k in tasks]
    return [*columns, *(pa.array(labels[:, k], mask=masked[:, k].numpy()) for k in tasks)]
