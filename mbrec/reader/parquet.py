"""Reads Parquet files as batches: deals rows out, shuffles, checks, cuts, pads."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from typing import Any

import numpy as np
import pyarrow as pa
from torch.utils.data import IterableDataset, get_worker_info

from mbrec.columns.encode import EncodedRows, Part
from mbrec.columns.schema import Columns, Order
from mbrec.columns.where import Where
from mbrec.config.tasks import Task
from mbrec.reader import position, windows
from mbrec.reader.assemble import Assembler
from mbrec.reader.batch import Batch
from mbrec.reader.content import Content, content_of
from mbrec.reader.footers import Footers, check_files
from mbrec.reader.position import Position, Stretch
from mbrec.reader.row_groups import RowGroupReader
from mbrec.reader.source import LOCAL, Store

log = logging.getLogger(__name__)

_RESTART = "begin again in a new run (run.name=NEW resume.path=none)"
_REMEDY = f"give the data that the run began with (data.path, data.train), or {_RESTART}"


@dataclass(frozen=True)
class _Share:
    """The rows of the global batches that one reader makes batches of."""

    batch_size: int
    rank: int
    world_size: int
    worker: int
    num_workers: int

    def of(self, places: np.ndarray) -> np.ndarray:
        """Return whether each row is one of them, by its place in the order of all rows."""
        batches, ranks = np.divmod(places // self.batch_size, self.world_size)
        return (ranks == self.rank) & (batches % self.num_workers == self.worker)


class ParquetReader(IterableDataset[Batch]):
    """Streams the batches of one rank from Parquet files.

    Rows are shuffled in two stages: the order of the row groups, and the rows within windows that
    hold rows of at least 8 of them; see `windows.plan`. Both depend only on the seed, the epoch
    and, in dealt order, the stream.

    Args:
        files: Parquet files, relative to the store; their order defines the position of each row.
        columns: the schema, resolved.
        tasks: name -> task; the order is that of the batch's label columns.
        global_batch_size: rows of a batch over all ranks; divisible by `world_size`.
        order: see `Order`.
        rank: this rank.
        world_size: ranks that share the data.
        shuffle_rows: rows of a window of the shuffle; 0 reads in file order.
        seed: of the shuffle.
        oracle: read the true probabilities as well, where the schema has some.
        store: where the files are; default: this machine.
        vocabularies: of the features that have one; by the name of the file.
        once: returns the footers that a function reads, or what it read on another rank; see
            `mbrec.distributed.agreement`. Default: reads them here.

    Raises:
        ValueError: if there is no file, files are not Parquet or lack columns, or the batch size
            is not divisible.
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
        store: Store = LOCAL,
        vocabularies: Mapping[str, pa.Array] | None = None,
        once: Callable[[Callable[[], Footers]], Footers] = lambda read: read(),
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
        self._assemble = Assembler(
            columns, tasks, self.batch_size, oracle=oracle, vocabularies=vocabularies
        )
        self.store, self.vocabularies = store, vocabularies or {}
        encoder = self._assemble.encoder
        self._footers = once(lambda: check_files(files, encoder, store))
        self.row_groups = self._footers.row_groups
        self.num_rows = sum(group.num_rows for group in self.row_groups)
        self._resumed: Position | None = None
        self._row_groups = self._new_row_group_reader()

    @cached_property
    def content(self) -> Content:
        """What the files hold. It is read when it is asked for, or set if another rank has read it.

        Raises:
            ValueError: if a row group cannot be read.
        """
        # Not with files that stay open: the reader goes to other processes.
        return content_of(self.row_groups, self.store, self._new_row_group_reader())

    def set_epoch(self, epoch: int) -> None:
        """Choose the shuffle of the next iteration, which begins at its first row."""
        self.epoch, self._resumed = epoch, None

    def num_batches(self, num_workers: int = 0) -> int:
        """Return the batches of the next iteration on the rank that has most of them."""
        ranks = range(self.world_size)
        return max(sum(self._available(rank, num_workers)) for rank in ranks)

    def state(self, batches: int, num_workers: int = 0) -> dict[str, Any]:
        """Return the position after some batches of the iteration, the same on every rank.

        It follows from the number of batches that each rank has taken, so that nothing has to be
        asked of workers or other ranks, and batches read ahead do not count.

        Args:
            batches: that training has taken from each rank's loader.
            num_workers: of each rank's loader.

        Returns:
            a few lines of JSON, for `resume`.
        """
        begin = self._begin(num_workers)
        if self.order is Order.dealt:
            rows = [0] * len(begin.unread)
            turns = [0] * self.world_size
            for rank in range(self.world_size):
                available = self._available(rank, num_workers)
                read = position.batches_read(batches, available)
                rows[rank :: self.world_size] = [count * self.batch_size for count in read]
                turns[rank] = position.next_worker(read, available)
            begin = begin.after(rows).turned(turns)
        else:
            begin = begin.after([batches * self.global_batch_size])
        content = {"content": self.content.plain()}
        return {"version": position.VERSION, **self._identity(), **content, **begin.plain()}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Let the next iteration begin where another left off.

        The number of ranks and workers may differ: each unread row is still read exactly once.

        Args:
            state: from `state`, of a reader of the same data.

        Raises:
            ValueError: if the state is of other data, another order or another shuffle.
        """
        differences = self._differences(state)
        what = f" ({'; '.join(differences)} differ)" if differences else ""
        for key, value in self._identity().items():
            if (found := state.get(key)) != value:
                if key == "windows":
                    raise ValueError(
                        "expected a position in the shuffle of this release, got one of an earlier "
                        f"release, which read the rows in another order; {_RESTART}"
                    )
                raise ValueError(
                    f"expected a position with {key}={value}, got {found}: it belongs to other "
                    f"rows, or to another order of them{what}; {_REMEDY}"
                )
        if differences:
            raise ValueError(
                f"expected a position in the rows of {self.store.name or 'these files'}, got one "
                f"in others of the same sizes{what}; {_REMEDY}"
            )
        self._resumed = Position.parse(state, self.num_rows)
        self.epoch = self._resumed.epoch

    @property
    def columns_read(self) -> list[str]:
        """The columns that are read from the files."""
        return self._assemble.encoder.names

    def empty_batch(self) -> Batch:
        """Return a batch of padding rows, for a rank that ran out of data before the others."""
        return self._assemble.batch(self._assemble.encoder.encode([], 0))

    def locate(self, rows: np.ndarray) -> tuple[list[str], np.ndarray]:
        """Return the file of each row, and its position in that file."""
        first = {}
        for group in self.row_groups:
            first.setdefault(group.file, group.first_row)
        starts, names = np.array(list(first.values())), list(map(self.store.display, first))
        which = np.searchsorted(starts, rows, side="right") - 1
        return [names[i] for i in which], rows - starts[which]

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        index, count = (worker.id, worker.num_workers) if worker else (0, 1)
        begin = self._begin(count)
        if self.order is Order.dealt:
            stretches = begin.unread[index * self.world_size + self.rank]
            yield from self._assemble.batches(self._windows(begin, stretches))
            return
        # DataLoader takes from its workers in turn: batch t must come from worker t % count.
        share = _Share(self.batch_size, self.rank, self.world_size, index, count)
        batches = self._assemble.batches(self._windows(begin, begin.unread[0], share))
        total = position.num_batches(begin.sizes[0], self.global_batch_size)
        # Of the last, short batch this rank may have no row.
        yield from islice(chain(batches, [self.empty_batch()]), len(range(index, total, count)))

    def streams(self, num_workers: int = 0) -> int:
        """Return how many parts an epoch is dealt in, each with an order of its own."""
        return 1 if self.order is Order.exact else max(1, num_workers) * self.world_size

    def _begin(self, num_workers: int) -> Position:
        readers = self.streams(num_workers)
        if self._resumed is not None:
            return self._resumed.dealt(readers)
        return Position.start(self.epoch, self.num_rows, readers)

    def _available(self, rank: int, num_workers: int) -> list[int]:
        """Return how many batches each worker of a rank has."""
        sizes = self._begin(num_workers).sizes
        if self.order is Order.exact:
            return [position.num_batches(sizes[0], self.global_batch_size)]
        own = sizes[rank :: self.world_size]
        return [position.num_batches(size, self.batch_size) for size in own]

    def _identity(self) -> dict[str, Any]:
        """Return what the order of the rows depends on, beside the epoch and the streams."""
        layout = [[g.file.rpartition("/")[2], g.num_rows, g.num_bytes] for g in self.row_groups]
        digest = hashlib.sha256(json.dumps(layout).encode()).hexdigest()[:16]
        shuffle = {"shuffle_rows": self.shuffle_rows, "seed": self.seed}
        if self.shuffle_rows:
            many = windows.has_many_files(self.row_groups)
            shuffle["windows"] = windows.VERSION_OF_MANY_FILES if many else windows.VERSION
        return {"order": self.order.name, **shuffle, "rows": self.num_rows, "files": digest}

    def _differences(self, state: Mapping[str, Any]) -> list[str]:
        """Return what the rows of a position hold otherwise than these, in words."""
        if state.get("version") == position.WITHOUT_CONTENT and "content" not in state:
            if self.rank == 0:
                log.warning(
                    "the position is of an earlier release: names and sizes of its rows were "
                    "compared with the data, and not what the rows hold"
                )
            return []
        if (found := state.get("version")) != position.VERSION:
            raise ValueError(f"expected a position with version={position.VERSION}, got {found}")
        try:
            before = Content.parse(state.get("content"))
        except ValueError as error:
            raise ValueError(f"expected a position with content: {error}") from error
        return before.differences(self.content)

    def _new_row_group_reader(self) -> RowGroupReader:
        encoder, footers = self._assemble.encoder, self._footers.tails
        return RowGroupReader(self.store, encoder.names, encoder.lists, encoder.strings, footers)

    def _random(self, *key: int) -> np.random.Generator:
        sequence = np.random.SeedSequence(self.seed, spawn_key=key)
        return np.random.Generator(np.random.Philox(sequence))

    def _spans(self, epoch: int, stream: int, streams: int) -> list[windows.Slice]:
        """Return an epoch's row groups of one stream, the first and last perhaps in part.

        The shuffled row groups, one after another, are cut into stretches of equal length: with
        whole row groups only, some ranks would idle at the end of an epoch.
        """
        groups = self.row_groups
        if self.shuffle_rows:
            groups = windows.shuffled(groups, self._random(epoch, 0))
        first = self.num_rows * stream // streams
        last = self.num_rows * (stream + 1) // streams
        spans, at = [], 0
        for group in groups:
            start, stop = max(0, first - at), min(group.num_rows, last - at)
            if start < stop:
                spans.append(windows.Slice(group, start, stop))
            at += group.num_rows
        return spans

    def _windows(
        self, begin: Position, stretches: Sequence[Stretch], share: _Share | None = None
    ) -> Iterator[tuple[EncodedRows, np.ndarray]]:
        """Yield the rows of some stretches, a window at a time, and the order of their batches.

        Each window is overwritten by the next one.

        Args:
            begin: the position that the stretches belong to.
            stretches: of the rows.
            share: which of them to yield; default: all.
        """
        rows = self._assemble.encoder.empty
        read = 0
        for stretch in stretches:
            self._row_groups.forget()
            at = 0
            spans = self._spans(begin.epoch, stretch.stream, begin.streams)
            for window, slices in enumerate(windows.plan(spans, self.shuffle_rows)):
                size = sum(part.num_rows for part in slices)
                first, last = max(0, stretch.start - at), min(size, stretch.stop - at)
                at += size
                if first >= last:
                    continue
                rows = self._assemble.encoder.encode(map(self._read, slices), size, rows)
                order = np.arange(size)
                if self.shuffle_rows:
                    random = self._random(begin.epoch, 1, stretch.stream, window)
                    order = random.permutation(size)
                order = order[first:last]
                if share is not None:
                    order = order[share.of(np.arange(read, read + last - first))]
                    read += last - first
                yield rows, order

    def _read(self, part: windows.Slice) -> Part:
        group, start, stop, is_last = part
        rows = self._row_groups.read(group, start, stop, is_last=is_last)
        where = Where(self.store.display(group.file), group.index, start=start)
        return Part(rows, group.first_row + start, where)
