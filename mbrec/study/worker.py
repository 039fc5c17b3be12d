"""Trains the jobs of a plan, one after the other: `torchrun ... -m mbrec.study.worker PLAN FOLDER`.

Started by `mbrec.study.launch`.
"""

import logging
import shutil
import sys
import time
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf import DictConfig

from mbrec.config import settings as configuration
from mbrec.config.errors import USER_ERRORS, plain_errors
from mbrec.distributed.interrupt import Interrupt
from mbrec.files.sealed import write_json
from mbrec.job import run_lock
from mbrec.job.status import RESUMABLE_EXIT_CODE
from mbrec.study.jobs import EXPLOSION, FAILURE, Job, found, read_plan

if TYPE_CHECKING:
    from mbrec.distributed.process import Runtime

# A run of a study is ordinary, but quiet; a job that is interrupted begins anew.
QUIET = ("monitor.progress=false", "checkpoint.enabled=false")
# For ranks to come at the start; in a job, its own runtime.timeout_s.
TIMEOUT_S = 600
SEED = "trainer.seed="


def composed(job: Job, run: Path) -> configuration.Config:
    """Return the configuration of a job whose run is in the folder `run`.

    Raises:
        ValueError: if a key or a value is wrong.
    """
    seeds = [word for word in job.overrides if word.startswith(SEED)]
    config = configuration.parse(_composed(tuple(w for w in job.overrides if w not in seeds)))
    if seeds:
        config.trainer.seed = int(seeds[-1].removeprefix(SEED))
    if job.only:
        config.tasks = {task: config.tasks[task] for task in job.only}
    config.run.folder, config.run.name = str(run.parent), run.name
    return config


@lru_cache(maxsize=256)
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    """Compose once for all seeds: it takes as long as many steps of a small job."""
    with initialize_config_module("mbrec.configs", version_base="1.3"):
        return compose("train", overrides=[*QUIET, *overrides])


def train(
    config: configuration.Config, job: Job, interrupt: Interrupt, runtime: "Runtime"
) -> dict[str, Any]:
    """Train one job, in the process group that is there; return its metrics."""
    from mbrec.job.fit import train_one

    run = Path(config.run.folder, str(config.run.name))
    if runtime.rank == 0:
        run.mkdir(parents=True, exist_ok=True)
        # Where another process trains there, train_one tells all ranks.
        if run_lock.take(run):
            # Of a job that was interrupted, and begins anew: its steps would be taken for this
            # one's.
            shutil.rmtree(run / "tensorboard", ignore_errors=True)
    return train_one(config, list(job.overrides), runtime, interrupt)


def work(plan: Path, folder: Path) -> int:
    """Train all jobs of a plan that are not done; return the exit status.

    A job that a guard ends is a result. Any other failure ends the study: it would meet the jobs
    that follow as well, or leave a gap in the tables.
    """
    from mbrec.study.job_groups import Turns

    interrupt = Interrupt()
    interrupt.install()
    turns = Turns(interrupt, timeout_s=TIMEOUT_S)
    planned = read_plan(plan)
    # What one rank finds done, all have to pass over.
    todo = turns.share(
        lambda: [n for n, (_, below) in enumerate(planned) if found(folder / below) is None]
    )
    jobs = [(planned[number][0], folder / planned[number][1]) for number in todo]
    started = time.monotonic()
    for number, (job, run) in enumerate(jobs, start=1):
        config = _composed_or_named(job, run)
        train_it = partial(train, config, job, interrupt)
        outcome = turns.run(train_it, timeout_s=config.runtime.timeout_s)
        if outcome.state == "interrupted":
            return RESUMABLE_EXIT_CODE
        exploded = outcome.reason.startswith(EXPLOSION)
        if outcome.state == "failed" and not exploded:
            if turns.rank == 0:
                print(f"{job.name}: {outcome.reason}", file=sys.stderr)
            return 1
        if turns.rank == 0:
            if exploded:
                write_json(run / FAILURE, {"reason": outcome.reason})
            _tell(number, len(jobs), job, outcome, time.monotonic() - started)
    return 0


def _composed_or_named(job: Job, run: Path) -> configuration.Config:
    try:
        return composed(job, run)
    except (HydraException, *USER_ERRORS) as error:
        raise ValueError(f"{job.name}: {error}") from error


def _tell(number: int, total: int, job: Job, outcome: Any, seconds: float) -> None:
    left = seconds / number * (total - number)
    tasks = {} if outcome.value is None else outcome.value.get("tasks", {})
    figures_of = " ".join(f"{name} {_number(figures['ne'])}" for name, figures in tasks.items())
    print(
        f"[{number}/{total}] {job.name}: {figures_of or outcome.reason or 'measured'} "
        f"({seconds / number:.1f} s a run, {left / 60:.0f} min left)",
        file=sys.stderr,
        flush=True,
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def main() -> None:
    """Run the command line."""
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    plan, folder = map(Path, sys.argv[1:])
    with plain_errors():
        status = work(plan, folder)
    raise SystemExit(status)


if __name__ == "__main__":
    main()
