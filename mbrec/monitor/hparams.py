"""A run's line in TensorBoard's table of hyperparameters, to compare the runs of a sweep."""

import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from torch.utils.tensorboard.summary import hparams
from torch.utils.tensorboard.writer import FileWriter

from mbrec.monitor import event_files

log = logging.getLogger(__name__)

_ALWAYS = (
    "trainer.global_batch_size",
    "trainer.seed",
    "optimizer.dense_lr",
    "optimizer.table_lr",
)
# What says where and how a run ran, and not what was trained.
_LEFT_OUT = ("run.", "data.path", "monitor.", "runtime.")

Settings = dict[str, float | str]


def settings(config: DictConfig, overrides: Iterable[str]) -> Settings:
    """Return the settings that runs of a sweep may differ in.

    >>> node = OmegaConf.create({"balancer": {"_target_": "a.Static", "lr": 0.1}, "data": {}})
    >>> settings(node, ["data=world", "run.name=x"])
    {'data': 'world', 'balancer': 'Static', 'balancer.lr': 0.1}
    """
    found: Settings = {}
    for override in overrides:
        key, _, text = override.lstrip("+").partition("=")
        if not key.startswith(_LEFT_OUT):
            value = _value(config, key)
            # A group has no value, but the name of the option.
            found[key] = text if value is None else value
    found |= {key: value for key in _ALWAYS if (value := _value(config, key)) is not None}
    found["balancer"] = str(config.balancer["_target_"]).rpartition(".")[2]
    arguments = [f"balancer.{key}" for key in config.balancer if key != "_target_"]
    return found | {key: value for key in arguments if (value := _value(config, key)) is not None}


def write(folder: Path, chosen: Settings, tasks: Sequence[str]) -> None:
    """Write the line beside the figures that it refers to: NE and AUC of the last evaluation.

    Without a space on the disk it is left out, with a warning.
    """
    metrics = {f"evaluation_{name}/{task}": 0.0 for name in ("ne", "auc") for task in tasks}
    try:
        # Beside the run's own file, and not in a folder of its own as SummaryWriter would have it:
        # the table finds the figures by folder and tag.
        suffix = event_files.suffix(folder, ".hparams")
        writer = FileWriter(str(folder), filename_suffix=suffix)
        for summary in hparams(dict(chosen), metrics):
            writer.add_summary(summary)
        writer.close()
    except OSError as error:
        log.warning("TensorBoard's table of hyperparameters has no line of this run: %s", error)


def _value(config: DictConfig, key: str) -> float | str | None:
    """Return a number or a word of the configuration, or None where there is another thing."""
    value = OmegaConf.select(config, key) if re.fullmatch(r"\w+(\.\w+)*", key) else None
    return value if isinstance(value, float | int | str) else None
