"""Trains the jobs of a plan: `torchrun ... -m mbrec.study.worker PLAN FOLDER`.

Started by `mbrec.study.launch`.
"""

import logging
import sys
from functools import lru_cache
from pathlib import Path

from hydra import compose
from hydra.errors import HydraException
from omegaconf import DictConfig

from mbrec.config import composer
from mbrec.config import settings as configuration
from mbrec.config.errors import USER_ERRORS, plain_errors
from mbrec.distributed.interrupt import Interrupt
from mbrec.job.status import RESUMABLE_EXIT_CODE
from mbrec.study.jobs import Job, read_plan

# A job of a study is an ordinary run, but quiet; one that is interrupted begins again.
QUIET = ("monitor.progress=false", "checkpoint.enabled=false")
# For ranks that come late at the start; in a job, its own runtime.timeout_s.
TIMEOUT_S = 600
SEED = "trainer.seed="


def configured(job: Job) -> configuration.Config:
    """Return the configuration of a job.

    Raises:
        ValueError: if a key or a value is wrong.
    """
    seeds = [word for word in job.overrides if word.startswith(SEED)]
    others = tuple(word for word in job.overrides if word not in seeds)
    try:
        config = configuration.parse(_composed(others))
        if seeds:
            config.trainer.seed = int(seeds[-1].removeprefix(SEED))
    except (HydraException, *USER_ERRORS) as error:
        raise ValueError(f"{job.name}: {error}") from error
    if job.only:
        config.tasks = {task: config.tasks[task] for task in job.only}
    return config


@lru_cache(maxsize=256)
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    """Compose once for all seeds: it takes as long as many steps of a small job."""
    with composer.shipped_configs():
        return compose("train", overrides=[*QUIET, *overrides])


def work(plan: Path, folder: Path) -> int:
    """Train all jobs of a plan that are not finished; return the exit status.

    A job that a guard ends is a result. Any other failure ends the study: it would also happen to
    the jobs that follow, or leave a gap in the tables.
    """
    from mbrec.study import job_groups, runner

    interrupt = Interrupt()
    interrupt.install()
    groups = job_groups.JobGroups(interrupt, timeout_s=TIMEOUT_S)
    jobs = read_plan(plan)
    state = runner.run(jobs, configured, folder, groups, interrupt, stop_at_failure=True)
    return {"finished": 0, "resumable": RESUMABLE_EXIT_CODE}.get(state, 1)


def main() -> None:
    """Run the command line."""
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    plan, folder = map(Path, sys.argv[1:])
    with plain_errors():
        status = work(plan, folder)
    raise SystemExit(status)


if __name__ == "__main__":
    main()
