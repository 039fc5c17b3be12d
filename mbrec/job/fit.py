"""Trains one configuration, and saves the run."""

import logging
import os
from pathlib import Path
from typing import Any

import torch.distributed as dist
from omegaconf import OmegaConf

from mbrec.config import saved
from mbrec.config.settings import Config
from mbrec.distributed import process
from mbrec.distributed.failures import named_failures
from mbrec.distributed.interrupt import Interrupt, Interrupted
from mbrec.distributed.process import Runtime
from mbrec.files import sealed
from mbrec.job import build, resume, run_folder, run_lock
from mbrec.job.build import Sharded
from mbrec.job.overhead import Meter
from mbrec.job.status import RESUMABLE_EXIT_CODE, Status
from mbrec.monitor import hparams, summary
from mbrec.reader.dataset import save_vocabularies
from mbrec.training.trainer import Trainer

log = logging.getLogger("mbrec")


def train(config: Config, overrides: list[str], interrupt: Interrupt) -> int:
    """Join the processes of the job and train; return the exit status."""
    runtime = process.start(timeout_s=config.runtime.timeout_s)
    try:
        train_one(config, overrides, runtime, interrupt)
    except Interrupted:
        return exit_status("resumable" if config.is_saved else "failed")
    return 0


def exit_status(state: str) -> int:
    """Return the exit status of a process whose run, or sweep, ends in a state."""
    # torchrun would start a process again that does not end with 0.
    restarts = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"
    return {"resumable": 0 if restarts else RESUMABLE_EXIT_CODE, "failed": 1}.get(state, 0)


def train_one(
    config: Config, overrides: list[str], runtime: Runtime, interrupt: Interrupt
) -> dict[str, Any]:
    """Train one configuration in the process group that is there, and save the run.

    Args:
        config: `run` says in which folder.
        overrides: the command line, for TensorBoard's table of hyperparameters.
        runtime: this process.
        interrupt: checked between steps.

    Returns:
        what is in `metrics.json`.

    Raises:
        Interrupted: on every rank, once the run is saved.
        PeerFailure: if another rank has failed, and this one not.
    """
    interrupt.join(runtime.store if runtime.world_size > 1 else None)
    folder = run_folder.prepare(config)
    status = Status(folder, runtime.rank)
    metrics, stopped = {}, ""
    named = named_failures(runtime, last_words=lambda why: status.write("failed", reason=why))
    with run_lock.released_after(folder), status.of_failure(), named:
        try:
            metrics = _fit(config, overrides, runtime, folder, interrupt, status)
        except Interrupted as stop:
            state, stopped = "resumable" if config.is_saved else "stopped", str(stop)
            status.write(state, reason=stopped)
            if runtime.rank == 0:
                print(f"{state}: stopped by {stop} after step {status.step}, see {folder}")
        dist.barrier()
    if stopped:
        raise Interrupted(stopped)
    return metrics


def _fit(
    config: Config,
    overrides: list[str],
    runtime: Runtime,
    folder: Path,
    interrupt: Interrupt,
    status: Status,
) -> dict[str, Any]:
    source = resume.source(config, folder)
    trainer, sharded = build.trainer(config, runtime, folder, source=source, interrupt=interrupt)
    log.info("%d processes on %s, run folder %s", runtime.world_size, runtime.device.type, folder)
    log.info(summary.parameter_table(sharded.parameters))
    if runtime.rank == 0:
        # With what the data set filled in: the model is scored with the same numbers.
        saved.write(folder, config)
        # Another data set, or the same prepared again, may give the same words other ids.
        reader = trainer.loader.reader
        save_vocabularies(config.data.columns, reader.store, reader.vocabularies, folder)
    status.follow(trainer)
    trainer.monitor.flushed = status.refresh
    part = _measure if config.trainer.measure_overhead else _finish
    found, text = part(config, runtime, trainer, sharded)
    metrics = {
        "step": trainer.step,
        "world_size": runtime.world_size,
        "parameters": sharded.parameters,
        **found,
    }
    if runtime.rank == 0:
        if not config.trainer.measure_overhead:
            chosen = hparams.settings(OmegaConf.structured(config), overrides)
            hparams.write(folder / "tensorboard", chosen, list(config.tasks))
        sealed.write_json(folder / "metrics.json", metrics)
        print(f"{text}; saved in {folder}")
    status.write("finished")
    return metrics


def _measure(
    config: Config, runtime: Runtime, trainer: Trainer, sharded: Sharded
) -> tuple[dict[str, Any], str]:
    """Train in blocks with the hook and without; return the figures, and what to say of them."""
    assert sharded.hook is not None
    shown = config.monitor.progress and runtime.rank == 0
    found = Meter(trainer, sharded.hook, runtime.device, progress=shown).measure()
    where = f"on {runtime.world_size} processes, {runtime.device.type}"
    # Whoever compares runs refuses those with this key.
    return {"measurement": found.figures()}, f"{found.describe()}\n{where}"


def _finish(
    config: Config, runtime: Runtime, trainer: Trainer, sharded: Sharded
) -> tuple[dict[str, Any], str]:
    """Train to the end; return the evaluations, and what to say of them."""
    final = trainer.fit()
    speed = trainer.monitor.rows_per_second
    found = {"rows_per_second": speed, "tasks": final, "history": trainer.history}
    return found, f"{summary.table(final)}\ntrained at {speed:,.0f} rows/s"
