"""Trains a model: `torchrun --nproc-per-node 2 -m mbrec.train [key=value ...]`."""

import gc
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log
from omegaconf import DictConfig, OmegaConf

from mbrec import check, sweep_plan
from mbrec.errors import plain_errors
from mbrec.interrupt import Interrupt, Interrupted
from mbrec.status import RESUMABLE_EXIT_CODE

if TYPE_CHECKING:  # --help must not wait for torch
    from mbrec.build import Sharded
    from mbrec.config import Config
    from mbrec.distributed import Runtime
    from mbrec.status import Status
    from mbrec.trainer import Trainer

log = logging.getLogger("mbrec")


def train(node: DictConfig) -> None:
    """Train what a composed configuration describes, and save the run.

    Raises:
        SystemExit: with status 75, if the job was asked to stop and the same command goes on.
    """
    config = check.parsed(node)
    # torch takes seconds to import, and a signal in them is no reason to lose the run.
    interrupt = Interrupt()
    interrupt.install()

    from mbrec import distributed

    runtime = distributed.start(timeout_s=config.runtime.timeout_s)
    try:
        train_one(config, list(HydraConfig.get().overrides.task), runtime, interrupt)
    except Interrupted:
        if not config.is_saved:
            raise SystemExit(1) from None
        _leave_resumable()


def train_one(
    config: "Config", overrides: list[str], runtime: "Runtime", interrupt: Interrupt
) -> dict[str, Any]:
    """Train one configuration in the process group that is there, and save the run.

    Args:
        config: of the run; `run` says in which folder.
        overrides: that made it, to show them.
        runtime: this process.
        interrupt: looked at between steps.

    Returns:
        what is in `metrics.json`.

    Raises:
        Interrupted: on every rank, once the run is saved.
        PeerFailure: if another rank has failed, and this one not.
    """
    import torch.distributed as dist

    from mbrec import resume, run_lock
    from mbrec.peers import named_failures
    from mbrec.status import Status

    interrupt.renew(runtime.store if runtime.world_size > 1 else None)
    folder = resume.run_folder(config, runtime)
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


def _leave_resumable() -> None:
    """End so that a scheduler starts the same command again."""
    # torchrun would start a process again that does not end with 0.
    if os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") == "0":
        raise SystemExit(RESUMABLE_EXIT_CODE)


def _fit(
    config: "Config",
    overrides: list[str],
    runtime: "Runtime",
    folder: Path,
    interrupt: Interrupt,
    status: "Status",
) -> dict[str, Any]:
    from mbrec import atomic, build, hparams, resume, sealed, summary
    from mbrec.data.stored import save_vocabularies

    source = resume.source(config, folder)
    trainer, sharded = build.trainer(config, runtime, folder, source=source, interrupt=interrupt)
    log.info("%d processes on %s, run folder %s", runtime.world_size, runtime.device.type, folder)
    log.info(summary.parameter_table(sharded.parameters))
    if runtime.rank == 0:
        # With what the data set filled in: the model is scored with the same numbers.
        settings = sealed.with_digest(OmegaConf.to_yaml(OmegaConf.structured(config)))
        atomic.write_text(folder / "config.yaml", settings)
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
    config: "Config", runtime: "Runtime", trainer: "Trainer", sharded: "Sharded"
) -> tuple[dict[str, Any], str]:
    """Train in blocks with the hook and without; return the figures, and what to say of them."""
    from mbrec.overhead import Meter

    assert sharded.hook is not None
    shown = config.monitor.progress and runtime.rank == 0
    found = Meter(trainer, sharded.hook, runtime.device, progress=shown).measure()
    where = f"on {runtime.world_size} processes, {runtime.device.type}"
    # Whoever compares runs refuses those with this key.
    return {"measurement": found.figures()}, f"{found.describe()}\n{where}"


def _finish(
    config: "Config", runtime: "Runtime", trainer: "Trainer", sharded: "Sharded"
) -> tuple[dict[str, Any], str]:
    """Train to the end; return the evaluations, and what to say of them."""
    from mbrec import summary

    final = trainer.fit()
    speed = trainer.monitor.rows_per_second
    found = {"rows_per_second": speed, "tasks": final, "history": trainer.history}
    return found, f"{summary.table(final)}\ntrained at {speed:,.0f} rows/s"


def sweep(plan: sweep_plan.Plan) -> None:
    """Train the jobs of a sweep one after the other; save and print their table.

    Raises:
        SystemExit: with status 75, if it was asked to stop and the same command goes on; with 1,
            if a job has failed.
        TurnsOver: if a rank is gone, and with it the sweep.
    """
    configure_log(plan.hydra.job_logging, plan.hydra.verbose)
    interrupt = Interrupt()
    interrupt.install()

    from mbrec import sweep_run

    ended = sweep_run.run(plan, train_one, interrupt)
    if ended == "resumable":
        _leave_resumable()
    elif ended == "failed":
        raise SystemExit(1)


@hydra.main(version_base="1.3", config_path="pkg://mbrec.configs", config_name="train")
def _main(node: DictConfig) -> None:
    with plain_errors():
        train(node)


def main() -> None:
    """Run the command line."""
    with plain_errors():
        swept = sweep_plan.without_flag(sys.argv[1:])
        plan = None if swept is None else sweep_plan.plan(swept)
        if plan is None:
            check.check(sys.argv[1:])
    try:
        if plan is None:
            _main()
        else:
            with plain_errors():
                sweep(plan)
    except SystemExit as ended:
        end_processes(failed=ended.code not in (None, 0, RESUMABLE_EXIT_CODE))
        raise
    end_processes()


def end_processes(*, failed: bool = False) -> None:
    """Leave the process group, if this process ever joined one; after a failure, end at once.

    Ranks that wait in a collective for one that has failed never come to leave the group.
    """
    if "torch" in sys.modules:
        import torch.distributed as dist

        if dist.is_initialized():
            if failed:
                sys.stdout.flush()
                os._exit(1)
            # A model is a cycle that holds its groups: one that is left when the interpreter ends
            # can crash gloo's threads, which then look for it.
            gc.collect()
            dist.destroy_process_group()


if __name__ == "__main__":
    main()
