"""Composes and checks the jobs of a sweep, before any of them is started."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig

from mbrec.config import composer
from mbrec.config.saved import load, path_of, plain
from mbrec.config.settings import Config
from mbrec.study.sweep.jobs import Job, expand

FLAGS = ("-m", "--multirun")


def without_flag(arguments: Sequence[str]) -> list[str] | None:
    """Return a command line without `-m`, or None if it asks for no sweep."""
    rest = [text for text in arguments if text not in FLAGS]
    return None if composer.asks(rest) or len(rest) == len(arguments) else rest


@dataclass(frozen=True)
class Plan:
    """A sweep that can be run.

    Attributes:
        jobs: what to train.
        configs: of the jobs, in the same order.
        hydra: its own settings, which are of the whole sweep.
    """

    jobs: list[Job]
    configs: list[Config]
    hydra: DictConfig

    @property
    def folder(self) -> Path | None:
        """The folder of the sweep, where it has a name."""
        return composer.folder_of(self.configs[0])


def plan(arguments: list[str]) -> Plan:
    """Compose and check every job of a sweep.

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
                configs.append(composer.composed(job.overrides).config)
            except ValueError as error:
                raise ValueError(f"job {number} of {len(jobs)} ({job.title}): {error}") from error
    if len(places := {(config.run.folder, config.run.name) for config in configs}) > 1:
        names = ", ".join(f"{folder}/{name}" for folder, name in sorted(places, key=str))
        raise ValueError(f"expected one run.folder and run.name for all jobs, got {names}")
    found = Plan(jobs, configs, hydra)
    if found.folder is not None:
        _check_begun(found, found.folder)
    return found


def _check_begun(found: Plan, folder: Path) -> None:
    """Compare a sweep with what was trained of it before.

    Raises:
        ValueError: if its folder is a run's, or a job was begun with other settings.
    """
    if path_of(folder) is not None or (folder / "checkpoint").exists():
        raise ValueError(f"expected a sweep, got run.name={folder.name}, which is a single run")
    for job, config in zip(found.jobs, found.configs, strict=True):
        if (path := path_of(folder / job.name)) is None:
            continue
        if changed := _changed(path, config):
            raise ValueError(
                f"expected the sweep that was begun in {folder}, got other settings for "
                f"{job.name}: {'; '.join(changed)}\nrun.name=NEW begins another one"
            )


def _changed(path: Path, config: Config) -> list[str]:
    """Return what a run computes that the `config.yaml` of another one says otherwise.

    Columns are left out: a data set completes them.
    """
    from mbrec.checkpoint.state import differences
    from mbrec.job.compatibility import OUTSIDE

    # As in an evaluation, no class may come from a file.
    saved, current = plain(load(path, ["runtime.plugins=[]"])), plain(config)
    changed = differences(saved, current)
    return [text for text in changed if not text.startswith((*OUTSIDE, "data.columns."))]


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
