"""Writes the synthetic world as Parquet files, by one process or several."""

import json
import multiprocessing
import os
import secrets
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow import parquet

from mbrec.columns import manifest
from mbrec.columns.schema import HIDDEN_PREFIX
from mbrec.config.synthetic import LABELS, NUM_DENSE, VERSION, Synthetic
from mbrec.prepare.statistics import Statistics
from mbrec.prepare.synthetic.parts import EVALUATION, TRAIN, Written, plan, write_files
from mbrec.prepare.synthetic.processes import write_together
from mbrec.prepare.synthetic.world import RAW_MISSING, World

_ROWS_PER_PROCESS = 1_000_000  # with fewer, starting a process takes longer than it saves
_ROWS_LOOKED_AT = 1_000_000  # for the statistics of columns


def write(
    settings: Synthetic,
    folder: str | Path,
    *,
    progress: bool = False,
    processes: int | None = None,
) -> None:
    """Writes the data set as Parquet files under `train` and `evaluation`, in time order.

    The folder appears only when it is complete; a complete one is left as it is. The files are the
    same however many processes write them.

    Args:
        settings: What to write.
        folder: Where to. Its parents are made as needed.
        progress: Whether to show a progress bar.
        processes: How many write; default: one for each million rows, at most one a core. More
            than one are started by `spawn`: a script that calls this needs to have an
            `if __name__ == "__main__"`.

    Raises:
        FileExistsError: If the folder holds something other than this data set.
        ChildProcessError: If one of several processes was killed.
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
    """Returns whether the folder holds this data set; false if there is nothing in it.

    Raises:
        FileExistsError: If the folder holds something else.
    """
    if not folder.exists() or not any(folder.iterdir()):
        return False
    world = folder / "world.json"
    found = json.loads(world.read_text()).get("fingerprint") if world.exists() else "other files"
    if found != settings.fingerprint:
        raise FileExistsError(f"expected {settings.fingerprint} in {folder}, got {found}")
    return True


def sensible_processes(settings: Synthetic) -> int:
    """Returns how many processes write a data set soonest on this machine."""
    if multiprocessing.current_process().daemon:  # such a process may start no others
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(cores or 1, settings.rows // _ROWS_PER_PROCESS))


def _fill(settings: Synthetic, folder: Path, progress: bool, processes: int) -> None:
    from tqdm import tqdm

    world, files = World(settings), plan(settings)
    for split in (TRAIN, EVALUATION):
        (folder / split).mkdir(parents=True)
    if processes > 1:
        parts = write_together(world, folder, files, min(processes, len(files)))
    else:
        parts = write_files(world, folder, files)
    written = []
    # Closed at once: after an interrupt, no process may go on while its files are removed.
    with closing(parts), tqdm(total=settings.rows, unit=" rows", disable=not progress) as bar:
        for part in parts:
            if isinstance(part, Written):
                written.append(part)
            else:
                bar.update(part)
    description = _description(world)
    (folder / "world.json").write_text(json.dumps(description, indent=2) + "\n")
    manifest.save(_manifest(settings, folder, written), folder)


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
    """Statistics of the columns that a model may see, in the first rows to train on."""
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
        if rows >= _ROWS_LOOKED_AT:
            break
        table = parquet.ParquetFile(folder / path).read(columns=visible)
        statistics.update(table)
        rows += len(table)
    columns = statistics.columns()
    if rows < settings.train_rows:
        for column in columns.values():
            column.note = f"statistics of the first {rows:,} rows"
    return columns
