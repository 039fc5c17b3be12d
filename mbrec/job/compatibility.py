"""Whether a run may continue a checkpoint: features, vocabularies, other settings, rows."""

import logging
from collections.abc import Mapping
from typing import Any, cast

import torch.distributed as dist
from omegaconf import OmegaConf

from mbrec import UserError
from mbrec.checkpoint.match import Layout
from mbrec.checkpoint.state import RunState, differences
from mbrec.columns.schema import Categorical, Numerical
from mbrec.config.saved import plain
from mbrec.config.settings import Config
from mbrec.distributed.agreement import from_rank_0
from mbrec.reader import dataset
from mbrec.reader.content import Content
from mbrec.reader.parquet import ParquetReader

log = logging.getLogger(__name__)

# Settings that say how a run is carried out, not what it computes.
OUTSIDE = ("run.", "resume.", "monitor.", "runtime.", "checkpoint.")


def check_vocabularies(saved: RunState, reader: ParquetReader) -> None:
    """Compare the vocabularies of the data with those of a checkpoint.

    Collective: every rank must call it.

    Raises:
        UserError: on every rank, if rank 0 finds that some differ.
    """

    def check() -> None:
        fix = (
            "give the data that the model was trained on (data.path), or name the features in "
            "resume.allow_dropped and, under other names, in resume.allow_new"
        )
        unknown = dataset.check_vocabularies(
            reader.columns, reader.vocabularies, saved.vocabularies, fix
        )
        known = saved.config["data"]["columns"]["categorical"]
        if old := [name for name in unknown if name in known]:
            log.warning("%s", dataset.describe_unknown(old))

    from_rank_0(check)


def warn_of_evaluation(saved: RunState, reader: ParquetReader) -> None:
    """Warn if the evaluations before and after a resume cannot be compared.

    Raises:
        UserError: if the checkpoint does not say what they were made on.
    """
    if not (saved.evaluation and saved.history):
        return
    differences = Content.parse(saved.evaluation).differences(reader.content)
    if differences and reader.rank == 0:
        log.warning(
            "the evaluations before this one were made on other rows, and their figures do not "
            "compare with later ones (checkpoint.best and patience do compare them): %s differ",
            "; ".join(differences),
        )


def check_settings(saved: RunState, config: Config, now: Layout) -> None:
    """Compare the settings of a checkpoint with those of the run that continues it.

    What changes the meaning of what was learned is refused; the rest is logged.

    Raises:
        UserError: naming each feature that is read in another way than it was.
    """
    current = plain(config)
    check_features(saved, current)
    if dist.get_rank() != 0:
        return
    changed = [d for d in differences(saved.config, current) if not d.startswith(OUTSIDE)]
    if changed:
        log.warning(
            "resumed with other settings than it was saved with:\n  %s", "\n  ".join(changed)
        )
    if saved.world_size != dist.get_world_size():
        log.warning(
            "resumed on %d ranks, saved on %d: random states start again, the rest is the same",
            dist.get_world_size(),
            saved.world_size,
        )
    if saved.plan != now.plan:
        log.info("tables are moved: %s -> %s", saved.plan, now.plan)


def check_features(saved: RunState, current: Mapping[str, Any]) -> None:
    """Compare how features are read with how they were when a checkpoint was saved.

    Raises:
        UserError: naming each feature that is read in another way than it was.
    """
    try:
        changed = _changed_features(saved.config["data"]["columns"], current["data"]["columns"])
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"expected the columns of a run in its checkpoint, got none: {error}"
        ) from error
    if changed:
        raise UserError(
            "expected the features of the checkpoint, whose ids and scales the model has learned, "
            "got others:\n  " + "\n  ".join(changed)
        )


def _changed_features(before: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    found = []
    for kind, features in (("categorical", Categorical), ("numerical", Numerical)):
        both = [name for name in before[kind] if name in here[kind]]
        # What an earlier release could not say had the meaning that is the default now.
        default = OmegaConf.to_container(OmegaConf.structured(features), enum_to_str=True)
        old = {name: {**cast(dict[str, Any], default), **before[kind][name]} for name in both}
        found += differences(old, {name: here[kind][name] for name in both})
    if list(before["numerical"]) != list(here["numerical"]):
        found.append(f"numerical: {list(before['numerical'])} -> {list(here['numerical'])}")
    return found
