"""The folder of a run: its name, whether this job may write to it, and its lock."""

import os
import time
from pathlib import Path

from mbrec import UserError
from mbrec.config.settings import Config
from mbrec.distributed.agreement import from_rank_0
from mbrec.files import atomic
from mbrec.job import run_lock

# Folders of a run that files are added to.
WRITTEN = ("checkpoint", "tensorboard")


def prepare(config: Config) -> Path:
    """Return the folder of this run, the same on every rank; rank 0 makes it.

    Collective: every rank must call it.

    Raises:
        UserError: on every rank, if a finished run is there, or a restart could not find it.
    """
    return from_rank_0(lambda: _new(config))


def _new(config: Config) -> Path:
    """Make and lock the folder of a run.

    Raises:
        UserError: if this job may not write to it.
    """
    folder = Path(config.run.folder) / run_name(config)
    # A measurement would end a run that is under way.
    fresh = config.resume.path == "none" or config.trainer.measure_overhead
    begun = (folder / "checkpoint").exists() and fresh
    try:
        if begun or (folder / "metrics.json").exists():
            more = f"run.name=NEW resume.path={folder} continues it"
            raise UserError(f"{folder} holds one; {more}")
        folder.mkdir(parents=True, exist_ok=True)
        atomic.check_no_links(folder, *WRITTEN)
        if not run_lock.take(folder):
            raise UserError(f"another job is writing to {folder}; wait for it, or stop it")
    except ValueError as error:
        raise UserError(f"expected a new run, got run.name={folder.name}: {error}") from error
    return folder


def run_name(config: Config) -> str:
    """Return the name of a run or of a sweep; without one, the time, which each rank has its own.

    Raises:
        UserError: if a restart could not find it.
    """
    name = config.run.name or os.environ.get("MBREC_RUN_ID")
    if name is None and os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0":
        raise UserError(
            "expected run.name=NAME (or MBREC_RUN_ID) with --max-restarts, got none: a restart has "
            "to find the run that it continues"
        )
    return name or time.strftime("%Y-%m-%d_%H-%M-%S")
