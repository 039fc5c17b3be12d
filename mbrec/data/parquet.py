"""Reads Parquet files as batches: deals row groups out, shuffles, checks, cuts, pads."""

import glob
import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch.utils.data import IterableDataset, get_worker_info

from mbrec.data.assemble import Assembler
from mbrec.data.batch import Batch
from mbrec.data.block import Block
from mbrec.data.encode import Encoder, Where
from mbrec.data.schema import Columns, Order
from mbrec.tasks import Task

MAX_OPEN_FILES = 16

# Rows of a shuffle buffer, and the order in which they leave it.
Window = tuple[Block, np.ndarray]

# A row group, and the rows [start, stop) of it that are meant.
Span = tuple["RowGroup", int, int]


@dataclass(frozen=True)
class RowGroup:
    """A row group of one of the files; `first_row` counts through the whole data set."""

    file: str
    index: int
    first_row: int
    num_rows: int


class ParquetReader(IterableDataset[Batch]):
    """Streams the batches of one rank from Parquet files.

    Rows are shuffled in two stages: the order of the row groups, and the rows within a buffer of
    consecutive ones. Both depend only on the seed, the epoch and, in dealt order, the stream.

    Args:
        files: Parquet files; their order defines the position of each row.
        columns: the schema.
        tasks: name -> task; the order is that of the batch's label columns.
        global_batch_size: rows of a batch over all ranks; divisible by `world_size`.
        order: see `Order`.
        rank: this rank.
        world_size: ranks that share the data.
        shuffle_rows: rows of the shuffle buffer; 0 reads in file order.
        seed: of the shuffle.
        oracle: read the true probabilities as well, where the schema has some.

    Raises:
        ValueError: if there is no file, a file is not Parquet or lacks a column, or the batch
            size is not divisible.
    """

    def __init__(
        self,
        files: Sequence[str],
        columns: Columns,
        tasks: Mapping[str, Task],
        *,
        global_batch_size: int,
        order: Order = Order.dealt,
        rank: int = 0,
        world_size: int = 1,
        shuffle_rows: int = 0,
        seed: int = 0,
        oracle: bool = True,
    ) -> None:
        if global_batch_size < 1 or global_batch_size % world_size:
            raise ValueError(
                f"expected a global batch size divisible by the {world_size} ranks, "
                f"got {global_batch_size}"
            )
        self.columns = columns
        self.global_batch_size = global_batch_size
        self.batch_size = global_batch_size // world_size
        self.order = order
        self.rank, self.world_size = rank, world_size
        self.shuffle_rows, self.seed, self.epoch = shuffle_rows, seed, 0
        self._assemble = Assembler(columns, tasks, self.batch_size, oracle=oracle)
        self.row_groups = _index(files, self._assemble.encoder)
        self.num_rows = sum(group.num_rows for group in self.row_groups)
        self._open: OrderedDict[str, pq.ParquetFile] = OrderedDict()

    def set_epoch(self, epoch: int) -> None:
        """Choose the shuffle of the next iteration."""
        self.epoch = epoch

    def num_batches(self, num_workers: int = 0) -> int:
        """Return the batches of an epoch on the rank that has most of them."""
        if self.order is Order.exact:
            return math.ceil(self.num_rows / self.global_batch_size)
        streams = max(1, num_workers) * self.world_size
        ends = [self.num_rows * s // streams for s in range(streams + 1)]
        batches = [math.ceil((b - a) / self.batch_size) for a, b in pairwise(ends)]
        return max(sum(batches[rank :: self.world_size]) for rank in range(self.world_size))

    def empty_batch(self) -> Batch:
        """Return a batch of padding rows, for a rank that ran out of data before the others."""
        return self._assemble(self._assemble.empty)

    def locate(self, rows: np.ndarray) -> tuple[list[str], np.ndarray]:
        """Return the file of each row, and its position in that file."""
        first = {}
        for group in self.row_groups:
            first.setdefault(group.file, group.first_row)
        starts, names = np.array(list(first.values())), list(first)
        which = np.searchsorted(starts, rows, side="right") - 1
        return [names[i] for i in which], rows - starts[which]

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        index, count = (worker.id, worker.num_workers) if worker else (0, 1)
        if self.order is Order.exact:
            windows = self._windows(self._spans(0, 1), stream=0)
            start = self.rank * self.batch_size
            # DataLoader takes from its workers in turn: batch t must come from worker t % count.
            pieces = islice(_cut(windows, self.global_batch_size), index, None, count)
        else:
            stream, streams = index * self.world_size + self.rank, count * self.world_size
            windows = self._windows(self._spans(stream, streams), stream)
            start, pieces = 0, _cut(windows, self.batch_size)
        # Rows are gathered a batch at a time: a thread that gathers a whole buffer at once would
        # hold Python's lock for many steps of the trainer.
        for parts in pieces:
            yield self._assemble(_rows(parts, start, start + self.batch_size))

    def _random(self, epoch: int, *key: int) -> np.random.Generator:
        sequence = np.random.SeedSequence(self.seed, spawn_key=(epoch, *key))
        return np.random.Generator(np.random.Philox(sequence))

    def _spans(self, stream: int, streams: int) -> list[Span]:
        """Return this epoch's row groups of one stream, the first and last perhaps in part.

        The shuffled row groups, one after another, are cut into stretches of equal length: with
        whole row groups only, some ranks would idle at the end of an epoch.
        """
        groups = self.row_groups
        if self.shuffle_rows:
            order = self._random(self.epoch, 0).permutation(len(groups))
            groups = [groups[i] for i in order]
        first = self.num_rows * stream // streams
        last = self.num_rows * (stream + 1) // streams
        spans, position = [], 0
        for group in groups:
            start, stop = max(0, first - position), min(group.num_rows, last - position)
            if start < stop:
                spans.append((group, start, stop))
            position += group.num_rows
        return spans

    def _windows(self, spans: Sequence[Span], stream: int) -> Iterator[Window]:
        buffer: list[Block] = []
        window = 0
        for position, (group, start, stop) in enumerate(spans):
            buffer.append(self._read(group).slice(start, stop))
            last = position == len(spans) - 1
            if last or sum(map(len, buffer)) >= self.shuffle_rows:
                block = Block.concatenate(buffer)
                order = np.arange(len(block))
                if self.shuffle_rows:
                    random = self._random(self.epoch, 1, stream, window)
                    order = random.permutation(len(block))
                yield block, order
                buffer, window = [], window + 1

    def _read(self, group: RowGroup) -> Block:
        file = self._open.pop(group.file, None)
        if file is None:
            file = pq.ParquetFile(group.file, page_checksum_verification=True)
        self._open[group.file] = file
        if len(self._open) > MAX_OPEN_FILES:
            self._open.popitem(last=False)[1].close()
        encoder = self._assemble.encoder
        try:
            table = file.read_row_group(group.index, columns=encoder.names, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise ValueError(
                f"{group.file}: row group {group.index} cannot be read: {error}"
            ) from error
        return encoder.encode(table, group.first_row, Where(group.file, group.index))


def find_files(root: str, patterns: Sequence[str]) -> list[str]:
    """Return the files under `root` that match the patterns, sorted.

    Raises:
        ValueError: naming a pattern that matches nothing.
    """
    found: list[str] = []
    for pattern in patterns:
        matches = sorted(glob.glob(pattern, root_dir=root, recursive=True))
        if not matches:
            raise ValueError(f"expected Parquet files at {Path(root) / pattern}, found none")
        found += [str(Path(root) / name) for name in matches]
    return list(dict.fromkeys(found))


def _index(files: Sequence[str], encoder: Encoder) -> list[RowGroup]:
    groups, first_row = [], 0
    for name in files:
        try:
            with pq.ParquetFile(name) as file:
                metadata, schema = file.metadata, file.schema_arrow
        except (OSError, ValueError, pa.ArrowException) as error:
            raise ValueError(f"{name}: expected a Parquet file: {error}") from error
        encoder.check_types(schema, name)
        for index in range(metadata.num_row_groups):
            num_rows = metadata.row_group(index).num_rows
            if num_rows:
                groups.append(RowGroup(name, index, first_row, num_rows))
            first_row += num_rows
    if not groups:
        raise ValueError(f"expected rows, got none in {len(files)} files ({', '.join(files[:3])})")
    return groups


def _cut(windows: Iterator[Window], size: int) -> Iterator[list[Window]]:
    """Cut a stream of windows into pieces of `size` rows in all; the last may be shorter."""
    parts: list[Window] = []
    missing = size
    for block, order in windows:
        start = 0
        while len(order) - start >= missing:
            yield [*parts, (block, order[start : start + missing])]
            start, parts, missing = start + missing, [], size
        if start < len(order):
            # Taken now, so that the buffer can go before the next one is read.
            rest = block.take(order[start:])
            parts, missing = [*parts, (rest, np.arange(len(rest)))], missing - len(rest)
    if parts:
        yield parts


def _rows(parts: list[Window], start: int, stop: int) -> Block:
    """Return rows [start, stop) of the parts together, in their order."""
    taken = []
    for block, order in parts:
        chosen = order[max(0, start) : max(0, stop)]
        if len(chosen) or not taken:
            taken.append(block.take(chosen))
        start, stop = start - len(order), stop - len(order)
    return Block.concatenate(taken)
