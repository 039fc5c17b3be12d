"""Writes the synthetic world as Parquet files, by one process or several."""

import json
import multiprocessing
import os
import secrets
import shutil
import signal
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow import parquet
from tqdm import tqdm

from mbrec.columns import manifest
from mbrec.columns.schema import HIDDEN_PREFIX
from mbrec.config.synthetic import LABELS, NUM_DENSE, VERSION, Array, Synthetic
from mbrec.prepare.statistics import Statistics
from mbrec.prepare.synthetic.world import RAW_MISSING, World

TRAIN, EVALUATION = "train", "evaluation"

_SHARDS_PER_FILE = 8
_ROWS_PER_PROCESS = 1_000_000  # with fewer, starting a process takes longer than it saves
_STATISTICS_ROWS = 1_000_000
_OPTIONS: dict[str, Any] = {
    "write_page_checksum": True,
    # Columns of few values. By default, a dictionary of every column is begun, and given up.
    "use_dictionary": ["day", "tags.list.element", *LABELS],
}


@dataclass(frozen=True)
class File:
    """A file to write: its path below the data set, and (index, rows) of its shards."""

    path: str
    shards: list[tuple[int, int]]


@dataclass(frozen=True)
class Written:
    """A file that was written: its path, its entry in the manifest, and each label's sum."""

    path: str
    entry: manifest.File
    label_sums: Array


def write(
    settings: Synthetic,
    folder: str | Path,
    *,
    progress: bool = False,
    processes: int | None = None,
) -> None:
    """Write the data set as Parquet files under `train` and `evaluation`, in time order.

    The folder appears only when it is complete; a complete one is left as it is. The files are the
    same however many processes write them.

    Args:
        settings: of the data set.
        folder: where to write it. Its parents are made as needed.
        progress: whether to show a progress bar.
        processes: number of processes that write; default: one for each million rows, at most one
            per core. More than one are started by `spawn`: a script that calls this needs to have
            an `if __name__ == "__main__"`.

    Raises:
        FileExistsError: if the folder holds something other than this data set.
        ChildProcessError: if one of several processes was killed.
    """
    if processes is not None and processes < 1:
        raise ValueError(f"expected processes >= 1, got {processes}")
    folder = Path(folder)
    if is_written(settings, folder):
        return
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.partial")
    try:
        _fill(settings, partial, progress, processes or sensible_processes(settings))
        partial.rename(folder)
    except OSError:
        # Another process may have finished the same data set in the meantime.
        if not is_written(settings, folder):
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def is_written(settings: Synthetic, folder: Path) -> bool:
    """Return whether the folder holds this data set; false if there is nothing in it.

    Raises:
        FileExistsError: if the folder holds something else.
    """
    if not folder.exists() or not any(folder.iterdir()):
        return False
    world = folder / "world.json"
    found = json.loads(world.read_text()).get("fingerprint") if world.exists() else "other files"
    if found != settings.fingerprint:
        raise FileExistsError(f"expected {settings.fingerprint} in {folder}, got {found}")
    return True


def sensible_processes(settings: Synthetic) -> int:
    """Return the number of processes that write a data set soonest on this machine."""
    if multiprocessing.current_process().daemon:  # such a process may start no others
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(cores or 1, settings.rows // _ROWS_PER_PROCESS))


def _fill(settings: Synthetic, folder: Path, progress: bool, processes: int) -> None:
    world, files = World(settings), _plan(settings)
    for split in (TRAIN, EVALUATION):
        (folder / split).mkdir(parents=True)
    if processes > 1:
        writing = _write_together(world, folder, files, min(processes, len(files)))
    else:
        writing = (_write_file(world, folder, file) for file in files)
    written = []
    # Closed at once: after an interrupt, no process may continue while its files are removed.
    with closing(writing), tqdm(total=settings.rows, unit=" rows", disable=not progress) as bar:
        for file in writing:
            written.append(file)
            bar.update(file.entry.rows)
    (folder / "world.json").write_text(json.dumps(_description(world), indent=2) + "\n")
    manifest.save(_manifest(settings, folder, written), folder)


def _plan(settings: Synthetic) -> list[File]:
    """Return the files in time order; each can be written without the others."""
    files, size = [], settings.rows_per_shard
    for split, first, total in (
        (TRAIN, 0, settings.train_rows),
        (EVALUATION, settings.train_shards, settings.evaluation_rows),
    ):
        rows = [min(size, total - start) for start in range(0, total, size)]
        shards = list(enumerate(rows, start=first))
        for number, start in enumerate(range(0, len(shards), _SHARDS_PER_FILE)):
            path = f"{split}/part-{number:05d}.parquet"
            files.append(File(path, shards[start : start + _SHARDS_PER_FILE]))
    return files


def _write_file(world: World, folder: Path, file: File) -> Written:
    """Write a file, with a row group for each shard."""
    path, sums = folder / file.path, np.zeros(len(LABELS), dtype=np.int64)
    with parquet.ParquetWriter(path, world.shard(0, 0).table().schema, **_OPTIONS) as writer:
        for index, rows in file.shards:
            shard = world.shard(index, rows)
            writer.write_table(shard.table(), row_group_size=rows)
            sums += shard.labels.sum(axis=0)
    rows = sum(rows for _, rows in file.shards)
    return Written(file.path, manifest.describe(path, rows), sums)


def _write_together(
    world: World, folder: Path, files: Sequence[File], processes: int
) -> Generator[Written]:
    """Write files in several processes, which end with this one, however it ends."""
    arrays = folder / ".world"
    world.save(arrays)
    spawn = multiprocessing.get_context("spawn")  # safe beside threads, unlike fork
    pool = ProcessPoolExecutor(processes, mp_context=spawn, initializer=_start_process)
    try:
        waiting = [pool.submit(_write_mapped, world.settings, arrays, folder, f) for f in files]
        for future in as_completed(waiting):
            yield future.result()
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "expected a process that writes rows to finish, got one that was killed; if memory ran "
            "short, write with fewer processes"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
    shutil.rmtree(arrays)


def _start_process() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one decides
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def _write_mapped(settings: Synthetic, arrays: Path, folder: Path, file: File) -> Written:
    return _write_file(World.load(settings, arrays), folder, file)


def _description(world: World) -> dict[str, Any]:
    settings = world.settings
    document = {
        "version": VERSION,
        "fingerprint": settings.fingerprint,
        "settings": settings.plain(),
        "intercepts": dict(zip(LABELS, world.intercepts.tolist(), strict=True)),
    }
    if settings.raw_dense:
        document["raw_dense"] = {
            f"x{column}_raw": {"of": f"x{column}", "transform": "exp", "nulls": RAW_MISSING}
            for column in range(NUM_DENSE)
        }
    return document


def _manifest(settings: Synthetic, folder: Path, written: list[Written]) -> manifest.Manifest:
    files = {part.path: part for part in sorted(written, key=lambda part: part.path)}
    splits = {}
    for split in (TRAIN, EVALUATION):
        parts = [part for path, part in files.items() if path.startswith(f"{split}/")]
        rows = sum(part.entry.rows for part in parts)
        rates = np.sum([part.label_sums for part in parts], axis=0) / rows
        splits[split] = manifest.Split(rows, dict(zip(LABELS, rates.tolist(), strict=True)))
    notes = {"source": "simulated", "fingerprint": settings.fingerprint}
    columns = _columns(settings, folder, [path for path in files if path.startswith(f"{TRAIN}/")])
    entries = {path: part.entry for path, part in files.items()}
    return manifest.Manifest(entries, splits, columns, notes=notes)


def _columns(settings: Synthetic, folder: Path, paths: list[str]) -> dict[str, manifest.Column]:
    """Return statistics of the columns that a model may read, of the first rows to train on."""
    cardinality = {
        "day": settings.days,
        "user": settings.num_users,
        "item": settings.num_items,
        "tags": settings.num_tags,
    }
    if settings.history_length:
        cardinality["history"] = settings.num_items
    schema = parquet.read_schema(folder / paths[0])
    visible = [name for name in schema.names if not name.startswith(HIDDEN_PREFIX)]
    statistics, rows = Statistics(schema, cardinality), 0
    for path in paths:
        if rows >= _STATISTICS_ROWS:
            break
        table = parquet.ParquetFile(folder / path).read(columns=visible)
        statistics.update(table)
        rows += len(table)
    columns = statistics.columns()
    if rows < settings.train_rows:
        for column in columns.values():
            column.note = f"statistics of the first {rows:,} rows"
    return columns
