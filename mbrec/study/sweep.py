"""A sweep: `-m` trains a job for each combination of the values that settings are given.

The values are written as Hydra has them: `a,b`, `choice(a,b)`, `range(1,4)`, `glob(*)`. Hydra's own
launcher is not used: each process would make folders of its own, and one that fails would leave the
others waiting for it.
"""

import hashlib
import itertools
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig

from mbrec.config import composer
from mbrec.config.saved import load, path_of, plain
from mbrec.config.settings import Config
from mbrec.distributed.interrupt import Interrupt
from mbrec.study.jobs import Job

FLAGS = ("-m", "--multirun")
# File systems end at 255 bytes; a digest takes the place of the rest.
MAX_NAME = 120


@dataclass(frozen=True)
class Plan:
    """A sweep that can be run.

    Attributes:
        jobs: to train, each in the folder of its name.
        configs: of the jobs, in the same order.
        hydra: its own settings, for the whole sweep.
    """

    jobs: list[Job]
    configs: list[Config]
    hydra: DictConfig

    @property
    def folder(self) -> Path | None:
        """The folder of the sweep, where it has a name."""
        return composer.folder_of(self.configs[0])


def without_flag(arguments: Sequence[str]) -> list[str] | None:
    """Return a command line without `-m`, or None if it asks for no sweep."""
    rest = [text for text in arguments if text not in FLAGS]
    return None if composer.asks(rest) or len(rest) == len(arguments) else rest


def plan(arguments: list[str]) -> Plan:
    """Compose and check every job of a sweep, before any of them starts.

    Args:
        arguments: the command line without its `-m`.

    Raises:
        ValueError: in a few lines, which job is wrong and how.
    """
    overrides = composer.with_folder(arguments)
    if flags := [text for text in overrides if text.startswith("-")]:
        raise ValueError(f"expected no other option than --config-dir with -m, got {flags[0]}")
    with composer.shipped_configs():
        jobs, hydra = _jobs(overrides)
        configs = []
        for number, job in enumerate(jobs, 1):
            try:
                configs.append(composer.composed(list(job.overrides)).config)
            except ValueError as error:
                title = _title(job.swept)
                raise ValueError(f"job {number} of {len(jobs)} ({title}): {error}") from error
    if len(places := {(config.run.folder, config.run.name) for config in configs}) > 1:
        names = ", ".join(f"{folder}/{name}" for folder, name in sorted(places, key=str))
        raise ValueError(f"expected one run.folder and run.name for all jobs, got {names}")
    found = Plan(jobs, configs, hydra)
    if found.folder is not None:
        _check_begun(found, found.folder)
    return found


def run(sweep: Plan, interrupt: Interrupt) -> str:
    """Run the jobs of a sweep that are not finished; return its state.

    Collective: every rank must call it.

    Args:
        sweep: the jobs.
        interrupt: ends the sweep once the present job is saved.

    Raises:
        RanksLost: if a rank is gone, or stuck in a job that failed on another.
        ValueError: if another process has the sweep's folder.
    """
    from mbrec.study import runner  # torch, which a misspelled setting must not wait for
    from mbrec.study.job_groups import JobGroups, RanksLost

    groups = JobGroups(interrupt, timeout_s=sweep.configs[0].runtime.timeout_s)
    folder = Path(groups.share(partial(_make_folder, sweep)))
    jobs = {job.name: job for job in sweep.jobs}
    configs = dict(zip(jobs, sweep.configs, strict=True))
    try:
        return runner.run(
            jobs, lambda job: configs[job.name], folder, groups, interrupt, stop_at_failure=False
        )
    except RanksLost as lost:
        raise RanksLost(
            f"{lost}. Finished jobs are kept: the same command with run.name={folder.name} "
            "resumes, with this job last"
        ) from lost


def _make_folder(sweep: Plan) -> str:
    """Make the folder of the sweep, or find it; on rank 0 alone."""
    from mbrec.job import run_lock
    from mbrec.job.run_folder import run_name

    config = sweep.configs[0]
    folder = Path(config.run.folder) / run_name(config)
    folder.mkdir(parents=True, exist_ok=True)
    # Until this process ends.
    if not run_lock.take(folder):
        raise ValueError(f"expected a sweep of its own, got {folder}, which another job writes to")
    return str(folder)


def _jobs(overrides: list[str]) -> tuple[list[Job], DictConfig]:
    """Return the jobs of a sweep, and Hydra's own settings."""
    try:
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        parsed = parser.parse_overrides(overrides)
        single = [str(o.input_line) for o in parsed if not o.is_sweep_override()]
        hydra = compose("train", overrides=single, return_hydra_config=True).hydra
        values = hydra.sweeper.params or {}
        # A sweep that an experiment describes; the command line comes after it.
        parsed = parser.parse_overrides([f"{k}={v}" for k, v in values.items()]) + parsed
    except HydraException as error:
        raise ValueError(composer.describe(error)) from error
    for part in ("launcher", "sweeper"):
        if not hydra[part]._target_.startswith("hydra._internal.core_plugins.basic_"):
            raise ValueError(
                f"expected Hydra's basic launcher and sweeper, got {hydra[part]._target_}: the "
                "ranks of a job are torchrun's; let the other one start scripts/train.sh"
            )
    if moved := [o.input_line for o in parsed if o.key_or_group.startswith("hydra.sweep.")]:
        raise ValueError(f"expected run.folder=DIR and run.name=NAME for a sweep, got {moved[0]}")
    return expand(parsed), hydra


def _check_begun(found: Plan, folder: Path) -> None:
    """Compare a sweep with the jobs that were trained of it before.

    Raises:
        ValueError: if its folder is a run's, or a job began with other settings.
    """
    if path_of(folder) is not None or (folder / "checkpoint").exists():
        raise ValueError(f"expected a sweep, got run.name={folder.name}, which is a single run")
    for job, config in zip(found.jobs, found.configs, strict=True):
        if (path := path_of(folder / job.name)) is None:
            continue
        if changed := _changed(path, config):
            raise ValueError(
                f"expected the sweep that began in {folder}, got other settings for {job.name}: "
                f"{'; '.join(changed)}\nrun.name=NEW begins another one"
            )


def _changed(path: Path, config: Config) -> list[str]:
    """Return how the settings that a job is computed with differ from those in `config.yaml`.

    Columns are left out: a data set completes them.
    """
    from mbrec.checkpoint.state import differences
    from mbrec.job.compatibility import OUTSIDE

    # As in an evaluation, no class may come from a file.
    saved, current = plain(load(path, ["runtime.plugins=[]"])), plain(config)
    changed = differences(saved, current)
    return [text for text in changed if not text.startswith((*OUTSIDE, "data.columns."))]


def expand(overrides: Sequence[Override]) -> list[Job]:
    """Return the jobs of a sweep: all combinations, the last setting changes fastest.

    Args:
        overrides: as Hydra parses them; of several for one setting the last counts.

    Raises:
        ValueError: if values cannot be listed, are for Hydra's own settings, or come twice.
    """
    chosen = {override.get_key_element(): override for override in overrides}
    values = {key: _values(override) for key, override in chosen.items()}
    keys = [key for key, override in chosen.items() if override.is_sweep_override()]
    found = []
    for combination in itertools.product(*values.values()):
        texts = dict(zip(values, combination, strict=True))
        swept = {key.lstrip("+"): texts[key].partition("=")[2] for key in keys}
        found.append((swept, combination))
    if not found:
        raise ValueError("expected at least one value of each setting, got none")
    names = Counter(_name(swept) for swept, _ in found)
    jobs = []
    for swept, combination in found:
        name = _name(swept)
        # Characters that folders do not have may be all that tells two jobs apart.
        name = name if names[name] == 1 else _digested(name, swept)
        jobs.append(Job(name, combination, swept=swept))
    if len({job.name for job in jobs}) < len(jobs):
        (twice, _), *_ = Counter(_title(swept) for swept, _ in found).most_common(1)
        raise ValueError(f"expected each value once, got {twice} twice")
    return jobs


def _values(override: Override) -> list[str]:
    """Return a setting with each of its values, as overrides for Hydra."""
    if not override.is_sweep_override():
        return [str(override.input_line)]
    if override.is_hydra_override():
        raise ValueError(f"expected one value of a setting of Hydra, got {override.input_line}")
    if not override.is_discrete_sweep():
        raise ValueError(
            f"expected values that can be listed, as choice(...) or range(...), got "
            f"{override.input_line}"
        )
    key = override.get_key_element()
    with _same_shuffle(str(override.input_line)):
        return [f"{key}={value}" for value in override.sweep_string_iterator()]


@contextmanager
def _same_shuffle(seed: str) -> Iterator[None]:
    """Let `shuffle(...)` give the same order in every process, and when the sweep resumes."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def _title(swept: Mapping[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in swept.items())


def _name(swept: Mapping[str, str]) -> str:
    """Return a folder's name for swept values.

    Without `=` and `,`: it can be written as a value on a command line.

    >>> _name({"balancer": "equal", "tasks": "[ctr,cvr]", "optimizer.dense_lr": "1e-05"})
    'balancer-equal--tasks-ctr_cvr--optimizer.dense_lr-1e-05'
    """
    name = "--".join(f"{_plain(key)}-{_plain(value)}" for key, value in swept.items()) or "0"
    return name if len(name) <= MAX_NAME else _digested(name, swept)


def _plain(text: str) -> str:
    return re.sub(r"[^-\w.+@]+", "_", text, flags=re.ASCII).strip("_")


def _digested(name: str, swept: Mapping[str, str]) -> str:
    digest = hashlib.blake2b(repr(sorted(swept.items())).encode(), digest_size=4).hexdigest()
    return f"{name[: MAX_NAME - 10]}--{digest}"
