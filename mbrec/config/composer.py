"""Composes a command line into the checked configuration of a job.

Hydra reports a misspelled key only after it has started on every rank, at length; this reports it
once, in a second, with the key that was probably meant.
"""

import difflib
import os
import re
from pathlib import Path

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mbrec.config import settings as configuration
from mbrec.config.model import Boundary


def composed(overrides: list[str]) -> configuration.Config:
    """Return the checked configuration of a job; needs Hydra to be initialised.

    Raises:
        ValueError: in a few lines, what is wrong and what was probably meant.
    """
    try:
        node = compose("train", overrides=overrides)
    except HydraException as error:
        raise ValueError(describe(error)) from error
    config = configuration.parse(node)
    _check_plugins(config, overrides)
    _check_tasks(config, overrides)
    if any(
        text.lstrip("+~").startswith(("balancer", "hook.", "runtime.plugins")) for text in overrides
    ):
        _check_balancer(config)
    local = config.data.synthetic is None and "://" not in config.data.path
    if local and not Path(config.data.path).is_dir():
        raise ValueError(f"expected the folder of a data set in data.path, got {config.data.path}")
    return config


def folder_of(config: configuration.Config) -> Path | None:
    """Return the folder of a run, where it has a name."""
    name = config.run.name or os.environ.get("MBREC_RUN_ID")
    return Path(config.run.folder) / name if name else None


def parsed(node: DictConfig) -> configuration.Config:
    """Return the typed form of what Hydra composed for this process.

    Raises:
        ValueError: if a value is missing or wrong, or `runtime.plugins` comes from a file.
    """
    if HydraConfig.get().mode is RunMode.MULTIRUN:
        raise ValueError("expected -m for a sweep, got hydra.mode=MULTIRUN")
    config = configuration.parse(node)
    _check_plugins(config, list(HydraConfig.get().overrides.task))
    return config


def _check_plugins(config: configuration.Config, overrides: list[str]) -> None:
    if config.runtime.plugins and not any("runtime.plugins=" in text for text in overrides):
        raise ValueError("expected runtime.plugins on the command line, got it from a file")


def with_folder(overrides: list[str]) -> list[str]:
    """Put Hydra's option for a folder of configurations into the words that `compose` knows."""
    found, words = [], iter(overrides)
    for text in words:
        flag, equals, folder = text.partition("=")
        if flag not in ("--config-dir", "-cd"):
            found.append(text)
            continue
        folder = Path(folder if equals else next(words, ""))
        if not folder.is_dir():
            raise ValueError(f"expected a folder of configurations in --config-dir, got {folder}")
        found.append(f"hydra.searchpath=[file://{folder.resolve()}]")
    return found


def _check_balancer(config: configuration.Config) -> None:
    """Build the balancer and the hook that every rank will build; needs torch, and two seconds."""
    from torch import nn

    from mbrec.balance import BalanceHook
    from mbrec.config.instantiate import balancer as instantiate_balancer

    balancer = instantiate_balancer(config.balancer, len(config.tasks), config.runtime.plugins)
    below = config.hook.at is not Boundary.representation
    # Any module will do: the real one is made on each rank.
    BalanceHook(balancer, parameters=nn.Linear(1, 1) if below else None, lag=config.hook.lag)


def _check_tasks(config: configuration.Config, overrides: list[str]) -> None:
    for text in overrides:
        if named := re.fullmatch(r"tasks=\[(.*)\]", text):
            names = named[1].replace(" ", "").split(",")
            if len(names) != len(set(names)):
                raise ValueError(f"expected each task once, got {text}")
    known = config.data.columns.labels
    for name, task in config.tasks.items():
        for label in (task.label, task.given):
            if label is not None and label not in known:
                expected = f"expected a label of the data set ({', '.join(known)})"
                raise ValueError(
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
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    guess = f"\nDid you mean {prefix}{near[0]}?" if near else ""
    return f"{guess}\n{has} has: {', '.join(names)}"
