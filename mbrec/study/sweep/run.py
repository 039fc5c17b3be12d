"""Runs a sweep: its jobs in turn, on all ranks, with a table that is written as they end."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from mbrec.distributed.interrupt import Interrupt
from mbrec.job import run_lock
from mbrec.job.run_folder import run_name
from mbrec.job.status import Status
from mbrec.study.job_groups import Turns, TurnsOver
from mbrec.study.sweep.plan import Plan
from mbrec.study.sweep.table import MARKDOWN, SweepTable

log = logging.getLogger("mbrec")


def run(plan: Plan, train: Callable[..., Any], interrupt: Interrupt) -> str:
    """Run what is not finished of a sweep, and return its state, as in a run's `status.json`.

    A job that fails is marked in the table, and the others go on. Every rank calls it.

    Args:
        plan: the jobs.
        train: trains one: of its configuration, its overrides, this process, and `interrupt`.
        interrupt: ends the sweep once the present job is saved.

    Raises:
        TurnsOver: if a rank is gone, or stuck in a job that failed on another.
        ValueError: if another process has the sweep's folder.
    """
    turns = Turns(interrupt, timeout_s=plan.configs[0].runtime.timeout_s)
    folder = Path(turns.share(partial(_make_folder, plan)))
    table = SweepTable(folder, plan.jobs)
    status = Status(folder, turns.rank)
    status.follow(table)
    with status.of_failure():
        try:
            stopped = _train_in_turn(plan, train, interrupt, turns, folder, table)
        finally:
            if turns.rank == 0:
                table.write()
                print(table)
                done, jobs = table.step, len(plan.jobs)
                print(f"{done} of {jobs} jobs are finished; saved in {folder / MARKDOWN}")
    if stopped:
        status.write("resumable", reason=stopped)
    elif table.failures:
        status.write("failed", reason=f"failed: {', '.join(table.failures)}")
    else:
        status.write("finished")
    return status.state


def _train_in_turn(
    plan: Plan,
    train: Callable[..., Any],
    interrupt: Interrupt,
    turns: Turns,
    folder: Path,
    table: SweepTable,
) -> str:
    """Train what is not finished; return why the sweep was stopped, if it was."""
    jobs = {job.name: (job, config) for job, config in zip(plan.jobs, plan.configs, strict=True)}
    names = turns.share(table.to_do)
    for number, name in enumerate(names, len(jobs) - len(names) + 1):
        job, config = jobs[name]
        config.run.folder, config.run.name = str(folder), name
        log.info("job %d of %d: %s", number, len(jobs), job.title)
        train_it = partial(train, config, job.overrides, interrupt=interrupt)
        try:
            outcome = turns.run(train_it, timeout_s=config.runtime.timeout_s)
        except TurnsOver as over:
            table.failures[name] = str(over)
            raise TurnsOver(
                f"{over}. What is finished is kept: the same command with run.name={folder.name} "
                f"goes on, with {name} last"
            ) from over
        if outcome.state == "failed":
            table.failures[name] = outcome.reason
        if outcome.state == "interrupted":
            return outcome.reason
        if turns.rank == 0:
            table.write()
    return ""


def _make_folder(plan: Plan) -> str:
    """Make the folder of the sweep, or find it; for this process alone."""
    config = plan.configs[0]
    folder = Path(config.run.folder) / run_name(config)
    folder.mkdir(parents=True, exist_ok=True)
    # Until this process ends.
    if not run_lock.take(folder):
        raise ValueError(f"expected a sweep of its own, got {folder}, which another job writes to")
    return str(folder)
