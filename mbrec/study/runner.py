"""Runs jobs one after the other, on all ranks, with a table that is written as they end."""

import logging
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mbrec.config.settings import Config
from mbrec.distributed.interrupt import Interrupt
from mbrec.distributed.process import Runtime
from mbrec.files.sealed import write_json
from mbrec.job import run_lock
from mbrec.job.fit import train_one
from mbrec.job.status import Status
from mbrec.study.job_groups import JobGroups, Outcome, RanksLost
from mbrec.study.jobs import EXPLOSION, FAILURE, Job
from mbrec.study.pages import decimals
from mbrec.study.run_table import MARKDOWN, RunTable

log = logging.getLogger("mbrec")


def run(
    jobs: Mapping[str, Job],
    configure: Callable[[Job], Config],
    folder: Path,
    groups: JobGroups,
    interrupt: Interrupt,
    *,
    stop_at_failure: bool,
) -> str:
    """Run the jobs that are not finished; return the state, as in a run's `status.json`.

    Collective: every rank must call it.

    Args:
        jobs: folder below `folder` -> job.
        configure: returns the configuration of a job.
        folder: of the jobs and their table, on rank 0 already there.
        groups: that the jobs run in.
        interrupt: ends the run once the present job is saved.
        stop_at_failure: end at a job that fails, and count a job that a guard ended as a result.
            Otherwise the table marks jobs that failed, and the others are trained.

    Raises:
        RanksLost: if a rank is gone, or stuck in a job that failed on another.
        ValueError: if the configuration of a job is wrong.
    """
    table = RunTable(folder, jobs)
    status = Status(folder, groups.rank)
    status.follow(table)
    with status.of_failure():
        try:
            stopped = _run_in_turn(
                jobs, configure, folder, groups, interrupt, table, stop_at_failure=stop_at_failure
            )
        finally:
            if groups.rank == 0:
                table.write()
                print(table)
                done = f"{table.step} of {len(jobs)} jobs are finished"
                print(f"{done}; saved in {folder / MARKDOWN}", flush=True)
    if stopped:
        status.write("resumable", reason=stopped)
    elif table.failures:
        status.write("failed", reason=f"failed: {', '.join(table.failures)}")
    else:
        status.write("finished")
    return status.state


def _run_in_turn(
    jobs: Mapping[str, Job],
    configure: Callable[[Job], Config],
    folder: Path,
    groups: JobGroups,
    interrupt: Interrupt,
    table: RunTable,
    *,
    stop_at_failure: bool,
) -> str:
    """Train the jobs that are not finished; return why this was stopped, if it was."""
    # All ranks must skip what one finds finished.
    names = groups.share(table.to_do)
    started = time.monotonic()
    for number, name in enumerate(names, 1):
        job, config, path = jobs[name], configure(jobs[name]), folder / name
        config.run.folder, config.run.name = str(path.parent), path.name
        log.info("job %d of %d: %s", number, len(names), job.name)
        train = partial(_train, config, job, interrupt)
        try:
            outcome = groups.run(train, timeout_s=config.runtime.timeout_s)
        except RanksLost as lost:
            table.failures[name] = str(lost)
            raise
        if outcome.state == "interrupted":
            return outcome.reason
        explosion = stop_at_failure and outcome.reason.startswith(EXPLOSION)
        if explosion and groups.rank == 0:
            write_json(path / FAILURE, {"reason": outcome.reason})
        if outcome.state == "failed" and not explosion:
            table.failures[name] = outcome.reason
        if groups.rank == 0:
            _print_progress(number, len(names), job, outcome, time.monotonic() - started)
            table.write()
        if table.failures and stop_at_failure:
            break
    return ""


def _train(config: Config, job: Job, interrupt: Interrupt, runtime: Runtime) -> dict[str, Any]:
    """Train one job, in the process group that is there; return its metrics."""
    run = Path(config.run.folder, str(config.run.name))
    if runtime.rank == 0 and not config.is_saved:
        run.mkdir(parents=True, exist_ok=True)
        # Where another process trains, train_one fails on all ranks.
        if run_lock.take(run):
            # An interrupted job without a checkpoint begins again: the steps that it had written
            # would be taken for this one's.
            shutil.rmtree(run / "tensorboard", ignore_errors=True)
    return train_one(config, list(job.overrides), runtime, interrupt)


def _print_progress(
    number: int, total: int, job: Job, outcome: Outcome[dict[str, Any]], seconds: float
) -> None:
    left = seconds / number * (total - number)
    tasks = {} if outcome.value is None else outcome.value.get("tasks", {})
    figures = " ".join(f"{name} {decimals(of_task['ne'])}" for name, of_task in tasks.items())
    print(
        f"[{number}/{total}] {job.name}: {figures or outcome.reason or 'measured'} "
        f"({seconds / number:.1f} s per run, {left / 60:.0f} min left)",
        file=sys.stderr,
        flush=True,
    )
