"""Rows on disk, dealt to compressed files by a number, to be read back one file at a time."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa


class Spill:
    """Files of rows in a new folder; complete after `with`.

    Args:
        folder: to create.

    Attributes:
        folder: of the files.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self._writers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self._writers.values():
            writer.close()

    def add(self, rows: pa.Table, numbers: npt.NDArray[np.int64]) -> None:
        """Append each row to the file of its number."""
        for number in np.unique(numbers).tolist():
            if number not in self._writers:
                options = pa.ipc.IpcWriteOptions(compression="lz4")
                path = str(self.folder / str(number))
                self._writers[number] = pa.ipc.new_file(path, rows.schema, options=options)
            at = numbers == number
            self._writers[number].write_table(rows if at.all() else rows.filter(pa.array(at)))

    @property
    def numbers(self) -> list[int]:
        """The numbers that have rows, rising."""
        return sorted(self._writers)

    def batches(self, number: int, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield the rows of a number as they were added, in pieces.

        Args:
            number: of the file.
            columns: to read; default: all.
        """
        with pa.memory_map(str(self.folder / str(number))) as file:
            fields = None
            if columns is not None:
                schema = pa.ipc.open_file(file).schema
                fields = [schema.get_field_index(name) for name in columns]
            options = pa.ipc.IpcReadOptions(included_fields=fields)
            reader = pa.ipc.open_file(file, options=options)
            for index in range(reader.num_record_batches):
                yield pa.Table.from_batches([reader.get_batch(index)])

    def read(self, number: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Return all rows of a number; see `batches`."""
        return pa.concat_tables(self.batches(number, columns)).combine_chunks()

    def remove(self, number: int) -> None:
        """Delete the file of a number."""
        (self.folder / str(number)).unlink()
