"""Trains a model: `torchrun --nproc-per-node 2 -m mbrec.train [key=value ...]`."""

import gc
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig, OmegaConf

from mbrec import check
from mbrec.errors import plain_errors
from mbrec.interrupt import Interrupt, Interrupted

if TYPE_CHECKING:  # --help must not wait for torch
    from mbrec.config import Config
    from mbrec.distributed import Runtime
    from mbrec.status import Status

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

    import torch.distributed as dist

    from mbrec import distributed, resume
    from mbrec.peers import introduce, named_failures
    from mbrec.status import RESUMABLE_EXIT_CODE, Status

    runtime = distributed.start(timeout_s=config.runtime.timeout_s)
    interrupt.store = runtime.store if runtime.world_size > 1 else None
    introduce(runtime.store, runtime.rank)
    folder = resume.run_folder(config, runtime)
    status = Status(folder, runtime.rank)
    with status.of_failure(), named_failures(runtime.store, runtime.rank, runtime.world_size):
        try:
            _fit(config, runtime, folder, interrupt, status)
        except Interrupted as stop:
            state = "resumable" if config.checkpoint.enabled else "stopped"
            status.write(state, reason=str(stop))
            if runtime.rank == 0:
                print(f"{state}: stopped by {stop} after step {status.step}, see {folder}")
        dist.barrier()
    if status.state == "stopped":
        raise SystemExit(1)
    # torchrun would start a process again that does not end with 0.
    if status.state == "resumable" and os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") == "0":
        raise SystemExit(RESUMABLE_EXIT_CODE)


def _fit(
    config: "Config", runtime: "Runtime", folder: Path, interrupt: Interrupt, status: "Status"
) -> None:
    from mbrec import build, resume, summary
    from mbrec.data.stored import save_vocabularies

    source = resume.source(config, folder)
    trainer, sharded = build.trainer(config, runtime, folder, source=source, interrupt=interrupt)
    log.info("%d processes on %s, run folder %s", runtime.world_size, runtime.device.type, folder)
    log.info(summary.parameter_table(sharded.parameters))
    if runtime.rank == 0:
        # With what the data set filled in: the model is scored with the same numbers.
        OmegaConf.save(OmegaConf.structured(config), folder / "config.yaml.tmp")
        (folder / "config.yaml.tmp").rename(folder / "config.yaml")
        # Another data set, or the same prepared again, may give the same words other ids.
        save_vocabularies(config.data.columns, trainer.loader.reader.store, folder)
    status.follow(trainer)
    trainer.monitor.flushed = status.refresh
    final = trainer.fit()
    if runtime.rank == 0:
        metrics = {
            "step": trainer.step,
            "rows_per_second": trainer.monitor.rows_per_second,
            "world_size": runtime.world_size,
            "parameters": sharded.parameters,
            "tasks": final,
            "history": trainer.history,
        }
        summary.write_json(folder / "metrics.json", metrics)
        print(summary.table(final))
        print(f"trained at {trainer.monitor.rows_per_second:,.0f} rows/s; saved in {folder}")
    status.write("finished")


@hydra.main(version_base="1.3", config_path="pkg://mbrec.configs", config_name="train")
def _main(node: DictConfig) -> None:
    with plain_errors():
        train(node)


def main() -> None:
    """Run the command line."""
    with plain_errors():
        check.check(sys.argv[1:])
    try:
        _main()
    except SystemExit:
        end_processes()
        raise
    end_processes()


def end_processes() -> None:
    """Leave the process group, if this process ever joined one."""
    if "torch" in sys.modules:
        import torch.distributed as dist

        if dist.is_initialized():
            # A model is a cycle that holds its groups: one that is left when the interpreter ends
            # can crash gloo's threads, which then look for it.
            gc.collect()
            dist.destroy_process_group()


if __name__ == "__main__":
    main()
