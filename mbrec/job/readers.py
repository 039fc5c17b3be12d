"""Configuration -> rows: opens the data set, completes its schema, and makes its readers."""

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mbrec import UserError
from mbrec.columns import manifest
from mbrec.columns.schema import Order
from mbrec.config.settings import Config
from mbrec.distributed import process
from mbrec.distributed.agreement import after_rank_0, from_rank_0
from mbrec.reader import dataset, verify, windows
from mbrec.reader.parquet import ParquetReader
from mbrec.reader.source import Store, open_store

log = logging.getLogger(__name__)


def data_folder(config: Config, runtime: process.Runtime, *, write_it: bool = True) -> str:
    """Return the folder of the data set; rank 0 writes a synthetic one if it is not there.

    Raises:
        UserError: if it is not there, and is not to be written.
    """
    settings = config.data.synthetic
    if settings is None:
        return config.data.path
    from mbrec.prepare.synthetic.files import write

    folder = Path(config.data.path) / settings.fingerprint
    if not write_it and not folder.exists():
        raise UserError(
            f"expected the synthetic data set of the run, {folder}; `mbrec synthetic` writes it"
        )

    def write_once() -> None:
        if not folder.exists():
            log.info("writing %s synthetic rows to %s", f"{settings.rows:,}", folder)
            write(settings, folder, progress=config.monitor.progress)

    after_rank_0(runtime.store, runtime.rank, f"writing {folder}", write_once)
    return str(folder)


def open_data(config: Config, runtime: process.Runtime, *, write_it: bool = True) -> Store:
    """Return the data set with its manifest, which fills in what the schema in `config` leaves out.

    Raises:
        UserError: if the manifest does not say it, or the files are not those it lists.
    """
    store = open_store(data_folder(config, runtime, write_it=write_it))
    found = None
    if store.exists(manifest.NAME):
        found = manifest.load(store.filesystem, store.root)
        store = replace(store, manifest=found)
        if problems := verify.check_sizes(store.filesystem, store.root, found):
            raise UserError("the files are not those of the manifest:\n  " + "\n  ".join(problems))
    config.data.columns = dataset.resolve(config.data.columns, found, store)
    return store


def train_reader(config: Config, runtime: process.Runtime) -> ParquetReader:
    """Return the reader of this rank's training rows."""
    store = open_data(config, runtime)
    _warn_of_age(store, runtime)
    reader = ParquetReader(
        store.find(config.data.train),
        config.data.columns,
        config.tasks,
        global_batch_size=config.trainer.global_batch_size,
        order=config.data.order,
        rank=runtime.rank,
        world_size=runtime.world_size,
        shuffle_rows=config.data.shuffle_rows,
        seed=config.trainer.seed,
        oracle=False,
        store=store,
        vocabularies=dataset.load_vocabularies(config.data.columns, store),
        once=from_rank_0,
    )
    warn_of_poor_shuffle(reader, config.data.num_workers)
    return reader


def warn_of_poor_shuffle(reader: ParquetReader, num_workers: int) -> None:
    """Warn if each reader has fewer row groups than a window of the shuffle should mix."""
    streams, found = reader.streams(num_workers), len(reader.row_groups)
    # Fewer rows than fill a window are mixed as they are.
    fits = reader.num_rows / streams <= reader.shuffle_rows or not reader.shuffle_rows
    if not reader.rank and not fits and found / streams < windows.MIXED_ROW_GROUPS:
        log.warning(
            "the shuffle is poor: expected at least %d row groups for each reader, got %d for %d; "
            "use fewer workers, data.order=exact, or files with smaller row groups",
            windows.MIXED_ROW_GROUPS,
            found,
            streams,
        )


def evaluation_reader(
    config: Config,
    runtime: process.Runtime,
    run: Path | None = None,
    learned: Mapping[str, Any] | None = None,
) -> ParquetReader:
    """Return the reader of this rank's evaluation rows, under any number of ranks.

    Args:
        config: the run's configuration.
        runtime: this process.
        run: folder of a finished run, whose vocabularies are its model's; default: the data set's.
            Its settings may come from anywhere, so nothing is written for them.
        learned: what the checkpoint that is scored says of the vocabularies in that folder.

    Raises:
        UserError: if a vocabulary in the folder is not the one that the model has learned.
    """
    store = open_data(config, runtime, write_it=run is None)
    if run is not None:
        _warn_of_age(store, runtime)
    vocabularies = dataset.load_vocabularies(
        config.data.columns, open_store(str(run)) if run else store
    )
    if run is not None:
        fix = f"the files in {run} were damaged or replaced; copy the run again"
        columns = config.data.columns
        unknown = dataset.check_vocabularies(columns, vocabularies, learned or {}, fix)
        if unknown and runtime.rank == 0:
            log.warning("%s", dataset.describe_unknown(unknown))
    return ParquetReader(
        store.find(config.data.evaluation),
        config.data.columns,
        config.tasks,
        global_batch_size=batch_size(config, runtime) * runtime.world_size,
        order=Order.dealt,
        rank=runtime.rank,
        world_size=runtime.world_size,
        store=store,
        vocabularies=vocabularies,
        once=from_rank_0,
    )


def identify(reader: ParquetReader) -> None:
    """Let a reader's positions say what its files hold, as rank 0 reads it.

    Collective: every rank must call it.

    Raises:
        UserError: on every rank, if a row group cannot be read.
    """
    reader.content = from_rank_0(lambda: reader.content)


def _warn_of_age(store: Store, runtime: process.Runtime) -> None:
    if store.manifest is not None and store.manifest.warning and runtime.rank == 0:
        log.warning("%s: %s", store.name, store.manifest.warning)


def warn_of_overlap(train: ParquetReader, evaluation: ParquetReader) -> None:
    """Warn if rows that are trained on are evaluated on."""
    files = [{group.file for group in reader.row_groups} for reader in (train, evaluation)]
    if (both := sorted(files[0] & files[1])) and train.rank == 0:
        log.warning("%d files are trained on and evaluated on, such as %s", len(both), both[0])


def batch_size(config: Config, runtime: process.Runtime) -> int:
    """Return the rows of a batch on one rank."""
    return math.ceil(config.trainer.global_batch_size / runtime.world_size)
