"""Composes a command line, once a start, into the checked configuration of a job.

Hydra reports a misspelled key at length, and on every rank; this reports it once, in a second, with
the key that was probably meant.
"""

import difflib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import hydra
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import configure_log
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from mbrec import UserError
from mbrec.config.model import Boundary
from mbrec.config.settings import Config, parse

# What these ask for Hydra shows itself, and trains nothing.
QUESTIONS = ("-h", "--help", "--hydra-help", "-c", "--cfg", "-i", "--info", "--version")
QUESTIONS += ("-sc", "--shell-completion")


@dataclass(frozen=True)
class Composed:
    """The configuration of a job, with what made it.

    Attributes:
        config: checked.
        overrides: of the command line, without Hydra's own.
        hydra: Hydra's own settings.
    """

    config: Config
    overrides: list[str]
    hydra: DictConfig

    @property
    def folder(self) -> Path | None:
        """The folder of the run, where it has a name."""
        return folder_of(self.config)


@contextmanager
def shipped_configs() -> Iterator[None]:
    """Let Hydra compose from the shipped configurations."""
    with initialize_config_module("mbrec.configs", version_base="1.3", job_name="train"):
        yield


def asks(arguments: Sequence[str]) -> bool:
    """Return whether a command line only asks what there is."""
    return any(text.partition("=")[0] in QUESTIONS for text in arguments)


def show(arguments: Sequence[str]) -> None:
    """Let Hydra show its help, the composed configuration, or where it comes from."""
    sys.argv = ["mbrec", *arguments]
    hydra.main(version_base="1.3", config_path="pkg://mbrec.configs", config_name="train")(
        lambda node: None
    )()


def composed(overrides: list[str]) -> Composed:
    """Return the checked configuration of a job; within `shipped_configs`.

    Raises:
        UserError: in a few lines, what is wrong and what was probably meant.
    """
    if flags := [text for text in overrides if text.startswith("-")]:
        raise UserError(f"expected key=value, --config-dir or --help, got {flags[0]}")
    try:
        node = compose("train", overrides=overrides, return_hydra_config=True)
    except HydraException as error:
        raise UserError(describe(error)) from error
    own = node.hydra
    with open_dict(node):
        del node["hydra"]
    _check_hydra(own)
    config = parse(node)
    if config.runtime.plugins and not any("runtime.plugins=" in text for text in overrides):
        raise UserError("expected runtime.plugins on the command line, got it from a file")
    _check_tasks(config, overrides)
    if any(
        text.lstrip("+~").startswith(("balancer", "hook.", "runtime.plugins")) for text in overrides
    ):
        _check_balancer(config)
    _check_folder(config)
    return Composed(config, list(own.overrides.task), own)


def _check_folder(config: Config) -> None:
    """Refuse a folder without data, and one whose data would not be what is trained on."""
    path = config.data.path
    if config.data.synthetic is not None and (Path(path) / "manifest.json").exists():
        raise UserError(
            f"expected a folder for simulated data in data.path, got {path}, which holds a data "
            f"set; to train on that: data=NAME ('mbrec describe {path} name=NAME' drafts it)"
        )
    if config.data.synthetic is None and "://" not in path and not Path(path).is_dir():
        raise UserError(f"expected the folder of a data set in data.path, got {path}")


def configure_logging(own: DictConfig) -> None:
    """Set up logging as Hydra's settings say; each rank resolves what depends on its number."""
    own = DictConfig({"hydra": own})
    own.hydra.runtime.output_dir = os.path.abspath(own.hydra.run.dir)
    configure_log(own.hydra.job_logging, own.hydra.verbose)


def folder_of(config: Config) -> Path | None:
    """Return the folder of a run, where it has a name."""
    name = config.run.name or os.environ.get("MBREC_RUN_ID")
    return Path(config.run.folder) / name if name else None


def with_folder(overrides: Sequence[str]) -> list[str]:
    """Put Hydra's option for a folder of configurations into the words that `compose` knows."""
    found, words = [], iter(overrides)
    for text in words:
        flag, equals, folder = text.partition("=")
        if flag not in ("--config-dir", "-cd"):
            found.append(text)
            continue
        folder = Path(folder if equals else next(words, ""))
        if not folder.is_dir():
            raise UserError(f"expected a folder of configurations in --config-dir, got {folder}")
        found.append(f"hydra.searchpath=[file://{folder.resolve()}]")
    return found


def _check_hydra(own: DictConfig) -> None:
    """Refuse settings of Hydra's that only its own way of starting a job would follow."""
    if own.mode is RunMode.MULTIRUN:
        raise UserError("expected -m for a sweep, got hydra.mode=MULTIRUN")
    followed = {"callbacks": own.callbacks, "job.env_set": own.job.env_set}
    followed["job.chdir"] = own.job.chdir
    for key, value in followed.items():
        if value:
            raise UserError(
                f"expected job_logging, verbose and searchpath alone of Hydra's settings, got "
                f"hydra.{key}={value}: jobs are not started by Hydra"
            )


def _check_balancer(config: Config) -> None:
    """Build the balancer and the hook that every rank will build; needs torch, and two seconds."""
    from torch import nn

    from mbrec.balance import BalanceHook
    from mbrec.config.instantiate import balancer as instantiate_balancer

    balancer = instantiate_balancer(config.balancer, len(config.tasks), config.runtime.plugins)
    below = config.hook.at is not Boundary.representation
    # Any module will do: the real one is made on each rank.
    BalanceHook(balancer, parameters=nn.Linear(1, 1) if below else None, lag=config.hook.lag)


def _check_tasks(config: Config, overrides: list[str]) -> None:
    for text in overrides:
        if named := re.fullmatch(r"tasks=\[(.*)\]", text):
            names = named[1].replace(" ", "").split(",")
            if len(names) != len(set(names)):
                raise UserError(f"expected each task once, got {text}")
    known = config.data.columns.labels
    for name, task in config.tasks.items():
        for label in (task.label, task.given):
            if label is not None and label not in known:
                expected = f"expected a label of the data set ({', '.join(known)})"
                raise UserError(
                    f"{expected} for task '{name}', got {label}; 'tasks=[...]' chooses others"
                )


def describe(error: HydraException) -> str:
    """Return what Hydra has to say, in a few lines, with what was probably meant."""
    cause = error.__cause__
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        reason = str(cause).splitlines()[0]
        return f"{cause.full_key}: {reason}" + _keys_beside(cause.full_key)
    if option := re.search(r"Could not (?:find|load) '([\w/]+)/([^'/]+)'", str(error)):
        group, name = option.groups()
        options = GlobalHydra.instance().config_loader().get_group_options(group)
        return f"{group} has no option '{name}'" + _meant(name, options, prefix="", has=group)
    if sweeps := re.match("Ambiguous value for argument '([^=]+)=(.*)'", str(error)):
        key, values = sweeps.groups()
        others = f"a list is {key}=[{values}], a text \"{key}='{values}'\""
        return f"expected one value of {key}, got {values}: -m sweeps over them, {others}"
    return "\n".join(line for line in str(error).splitlines()[:3] if line.strip())


def _keys_beside(key: str) -> str:
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(compose("train"), parent) if parent else compose("train")
    if not isinstance(node, DictConfig) or name in node:
        return ""
    prefix = f"{parent}." if parent else ""
    names = [str(other) for other in node]
    return _meant(name, names, prefix=prefix, has=parent or "The configuration")


def _meant(name: str, names: list[str], *, prefix: str, has: str) -> str:
    if name.lower() in names:
        near = [name.lower()]  # the name of a class, where the word for it was asked for
    else:
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    guess = f"\nDid you mean {prefix}{near[0]}?" if near else ""
    return f"{guess}\n{has} has: {', '.join(names)}"
