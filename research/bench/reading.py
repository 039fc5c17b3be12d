"""The reader beside pyarrow, and beside the model that it feeds; and what it keeps in memory."""

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mbrec.monitor.timing import Spread, interleave, spread
from mbrec.reader.parquet import ParquetReader
from mbrec.reader.source import Store

BLOCK_ROWS = 500_000
ROUNDS = 11
MODEL_STEPS = 20


@dataclass(frozen=True)
class Speed:
    """Rows a second of some contenders, and their ratio to the first."""

    rows_per_second: dict[str, float]
    ratios: dict[str, Spread]

    def lines(self) -> list[str]:
        """Return a line a contender."""
        first, *_ = self.rows_per_second
        lines = []
        for name, rate in self.rows_per_second.items():
            ratio = f"{self.ratios[name].text()} of {first}" if name != first else ""
            lines.append(f"{name:<34}{rate:>12,.0f} rows/s  {ratio}".rstrip())
        return lines


def compare(blocks: dict[str, Callable[[], int]], *, rounds: int = ROUNDS) -> Speed:
    """Time blocks in turn.

    Args:
        blocks: name -> what is timed; it returns its number of rows, the same each time.
        rounds: that count.
    """
    rows = {name: block() for name, block in blocks.items()}
    seconds = interleave(list(blocks.values()), lambda: None, rounds=rounds)
    rates = {
        name: [rows[name] / s for s in times] for name, times in zip(blocks, seconds, strict=True)
    }
    first, *_ = rates
    return Speed(
        {name: spread(values).median for name, values in rates.items()},
        {
            name: spread([a / b for a, b in zip(values, rates[first], strict=True)])
            for name, values in rates.items()
        },
    )


def beside_arrow(make: Callable[..., ParquetReader]) -> Speed:
    """Time pyarrow and the reader on the same columns, one thread each.

    Args:
        make: returns a reader; takes its options by keyword.
    """
    shuffled, ordered = make(), make(shuffle_rows=0)
    passes = max(1, BLOCK_ROWS // shuffled.num_rows)
    files = list(dict.fromkeys(group.file for group in shuffled.row_groups))
    names = shuffled.columns_read

    def arrow() -> int:
        for _ in range(passes):
            for file in files:
                with shuffled.store.filesystem.open_input_file(shuffled.store.path(file)) as source:
                    pq.ParquetFile(source).read(columns=names, use_threads=False)
        return passes * shuffled.num_rows

    def reading(reader: ParquetReader) -> Callable[[], int]:
        def read() -> int:
            for epoch in range(passes):
                reader.set_epoch(epoch)
                for _ in reader:
                    pass
            return passes * reader.num_rows

        return read

    return compare(
        {
            "pyarrow, columns into memory": arrow,
            "reader, in file order": reading(ordered),
            f"reader, shuffle {shuffled.shuffle_rows:,}": reading(shuffled),
        }
    )


def beside_model(reader: ParquetReader, pipeline: Any) -> Speed:
    """Time the reader, and training on batches in memory, in this process.

    Args:
        reader: of the rows.
        pipeline: trains on an iterator of batches.
    """
    kept = list(islice(iter(reader), MODEL_STEPS))

    def train() -> int:
        held = islice(cycle(kept), MODEL_STEPS)
        try:
            while True:
                pipeline.progress(held)
        except StopIteration:
            return MODEL_STEPS * reader.batch_size

    def read() -> int:
        for _ in reader:
            pass
        return reader.num_rows

    return compare({"training, batches in memory": train, "reader": read})


def peak_memory(
    store: Store, files: Sequence[str], rows: Sequence[int], options: dict[str, Any]
) -> dict[int, float]:
    """Return rows -> MiB that reading so many rows adds to a fresh process at its peak.

    Args:
        store: of the files.
        files: read over and over until there are enough rows.
        rows: to be read, roughly.
        options: of the reader.
    """
    found: dict[int, float] = {}
    context = multiprocessing.get_context("spawn")
    for wanted in rows:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(
            target=_measure, args=(sender, store.name, files, wanted, options)
        )
        process.start()
        sender.close()
        try:
            number, mebibytes = receiver.recv()
        except EOFError as error:
            raise ValueError("the process that measures memory ended without a result") from error
        finally:
            process.join()
        found[number] = mebibytes
    return found


def _measure(
    sender: Any, folder: str, files: Sequence[str], wanted: int, options: dict[str, Any]
) -> None:
    from mbrec.reader.source import open_store

    store = open_store(folder)
    once = ParquetReader(files, store=store, **options)
    list(islice(iter(once), 1))  # what is loaded once does not count
    before = _peak_kib()
    reader = ParquetReader(
        list(files) * max(1, round(wanted / once.num_rows)), store=store, **options
    )
    for _ in reader:
        pass
    sender.send((reader.num_rows, (_peak_kib() - before) / 1024))
    sender.close()


def _peak_kib() -> int:
    # Not getrusage: there a process begins with the peak of the one that started it.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])
