"""Trains a model: `torchrun --nproc-per-node 2 -m mbrec.train [key=value ...]`."""

import gc
import logging
import sys

import hydra
from omegaconf import DictConfig, OmegaConf

from mbrec import check
from mbrec.errors import plain_errors

log = logging.getLogger("mbrec")


def train(node: DictConfig) -> None:
    """Train what a composed configuration describes, and save the run."""
    config = check.parsed(node)

    import torch.distributed as dist

    from mbrec import build, checkpoint, distributed, report
    from mbrec.data.stored import save_vocabularies

    runtime = distributed.start(timeout_s=config.runtime.timeout_s)
    folder = build.run_folder(config, runtime)
    trainer, sharded = build.trainer(config, runtime, folder)
    log.info("%d processes on %s, run folder %s", runtime.world_size, runtime.device.type, folder)
    log.info(report.parameter_table(sharded.parameters))
    if runtime.rank == 0:
        # With what the data set filled in: the model is scored with the same numbers.
        OmegaConf.save(OmegaConf.structured(config), folder / "config.yaml")
        # Another data set, or the same prepared again, may give the same words other ids.
        save_vocabularies(config.data.columns, trainer.loader.reader.store, folder)

    def save() -> None:
        target = folder / "checkpoint" / f"step_{trainer.step:08d}"
        meta = {"step": trainer.step, "tasks": list(config.tasks)}
        meta |= {"world_size": runtime.world_size}
        checkpoint.save(target, sharded.model, sharded.optimizer, meta)

    final = trainer.fit(save if config.run.checkpoint else None)
    step = trainer.step
    if runtime.rank == 0:
        summary = {
            "step": step,
            "rows_per_second": trainer.monitor.rows_per_second,
            "world_size": runtime.world_size,
            "parameters": sharded.parameters,
            "tasks": final,
            "history": trainer.history,
        }
        report.write_json(folder / "metrics.json", summary)
        print(report.table(final))
        print(f"trained at {trainer.monitor.rows_per_second:,.0f} rows/s; saved in {folder}")
    dist.barrier()


@hydra.main(version_base="1.3", config_path="pkg://mbrec.configs", config_name="train")
def _main(node: DictConfig) -> None:
    with plain_errors():
        train(node)


def main() -> None:
    """Run the command line."""
    with plain_errors():
        check.check(sys.argv[1:])
    _main()
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
