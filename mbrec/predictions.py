"""Predictions of an evaluation, as Parquet files that join back to the data.

Shapes: B rows, K tasks.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mbrec.data.parquet import ParquetReader
from mbrec.model import Outputs


class PredictionWriter:
    """Writes one file of this rank's rows: file, row, and prediction and label by task.

    `file` and `row` say where in the data set a row came from. A prediction is float64: near 1,
    float32 would make ties of rows that the model tells apart. It is null where it is not finite, a
    label where the task's mask takes the row out.

    Args:
        path: the file, which must not exist.
        tasks: names, in the order of the columns.
        reader: where the rows came from.
    """

    def __init__(self, path: Path, tasks: Sequence[str], reader: ParquetReader) -> None:
        if path.exists():
            raise ValueError(f"expected a new file for predictions, got {path}, which exists")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._tasks, self._reader = list(tasks), reader
        fields = [pa.field("file", pa.dictionary(pa.int32(), pa.string()))]
        fields += [pa.field("row", pa.int64())]
        fields += [pa.field(f"prediction_{task}", pa.float64()) for task in tasks]
        fields += [pa.field(f"label_{task}", pa.float32()) for task in tasks]
        self._schema = pa.schema(fields)
        self._writer = pq.ParquetWriter(path, self._schema)

    def write(self, outputs: Outputs) -> None:
        """Add the rows of a step; padding is left out."""
        real = outputs.rows_B >= 0
        files, rows = self._reader.locate(outputs.rows_B[real].cpu().numpy())
        columns = [pa.array(files).dictionary_encode(), pa.array(rows)]
        predictions = outputs.predictions_BK[real].cpu().numpy()
        labels, masked = outputs.labels_BK[real].cpu().numpy(), outputs.masks_BK[real].cpu() == 0
        tasks = range(len(self._tasks))
        bad = ~np.isfinite(predictions)
        columns += [pa.array(predictions[:, k], mask=bad[:, k]) for k in tasks]
        columns += [pa.array(labels[:, k], mask=masked[:, k].numpy()) for k in tasks]
        self._writer.write_table(pa.table(columns, schema=self._schema))

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()
