"""Trains a model: `torchrun --nproc-per-node 2 -m mbrec.train [key=value ...]`."""

import os
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log
from omegaconf import DictConfig

from mbrec.config import composer
from mbrec.config.errors import plain_errors
from mbrec.distributed.interrupt import Interrupt, Interrupted
from mbrec.distributed.shutdown import end_processes
from mbrec.job.check import check
from mbrec.job.status import RESUMABLE_EXIT_CODE
from mbrec.study import sweep as sweeps


def train(node: DictConfig) -> None:
    """Train what a composed configuration describes, and save the run.

    Raises:
        SystemExit: with status 75, if the job was asked to stop and the same command goes on.
    """
    config = composer.parsed(node)
    # torch takes seconds to import, and a signal in them is no reason to lose the run.
    interrupt = Interrupt()
    interrupt.install()

    from mbrec.distributed import process
    from mbrec.job.fit import train_one

    runtime = process.start(timeout_s=config.runtime.timeout_s)
    try:
        train_one(config, list(HydraConfig.get().overrides.task), runtime, interrupt)
    except Interrupted:
        if not config.is_saved:
            raise SystemExit(1) from None
        _leave_resumable()


def _leave_resumable() -> None:
    """End so that a scheduler starts the same command again."""
    # torchrun would start a process again that does not end with 0.
    if os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") == "0":
        raise SystemExit(RESUMABLE_EXIT_CODE)


def sweep(plan: sweeps.Plan) -> None:
    """Train the jobs of a sweep one after the other; save and print their table.

    Raises:
        SystemExit: with status 75, if it was asked to stop and the same command goes on; with 1,
            if a job has failed.
        RanksLost: if a rank is gone, and with it the sweep.
    """
    configure_log(plan.hydra.job_logging, plan.hydra.verbose)
    interrupt = Interrupt()
    interrupt.install()

    ended = sweeps.run(plan, interrupt)
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
        swept = sweeps.without_flag(sys.argv[1:])
        plan = None if swept is None else sweeps.plan(swept)
        if plan is None:
            check(sys.argv[1:])
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


if __name__ == "__main__":
    main()
