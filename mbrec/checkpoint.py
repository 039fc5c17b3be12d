"""Checkpoints of a sharded model, by torch.distributed.checkpoint."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.keyed import CombinedOptimizer

META = "mbrec.json"


def save(
    folder: Path,
    model: DistributedModelParallel,
    optimizer: CombinedOptimizer,
    meta: dict[str, Any],
) -> None:
    """Write a new checkpoint: all ranks their shards, then rank 0 what is not a tensor.

    The folder gets its final name last, so that one without it is never taken for whole.

    Args:
        folder: must not exist.
        model: the sharded model.
        optimizer: of the tables and the dense parameters.
        meta: JSON values, step and tasks for example.
    """
    unfinished = folder.with_name(folder.name + ".tmp")
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    with _quiet():
        dcp_save(state, checkpoint_id=unfinished)
    if dist.get_rank() == 0:
        (unfinished / META).write_text(json.dumps(meta, indent=2) + "\n")
        unfinished.rename(folder)
    dist.barrier()


def load_model(folder: Path, model: DistributedModelParallel) -> None:
    """Fill the model, under whatever plan and number of ranks it is sharded now.

    Raises:
        ValueError: if the checkpoint is of another model.
    """
    state: dict[str, Any] = {"model": model.state_dict()}
    try:
        with _quiet():
            dcp_load(state, checkpoint_id=folder)
    except CheckpointException as error:
        raise ValueError(f"{folder}: expected a checkpoint of this model: {error}") from error
    # Buffers that the state shows piecewise (one tensor a task) are loaded by name.
    result = model.load_state_dict(state["model"])
    if result.missing_keys or result.unexpected_keys:
        raise ValueError(f"{folder}: expected a checkpoint of this model: {result}")


@contextmanager
def _quiet() -> Iterator[None]:
    # torchrec 1.8 has ShardedTensors, and torch's own checkpoint code warns as it reads their size.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Please use DTensor instead", FutureWarning)
        yield


def latest(run: Path) -> Path:
    """Return the newest checkpoint of a run.

    Raises:
        ValueError: if there is none.
    """
    found = sorted((run / "checkpoint").glob("step_*[0-9]"))
    if not found:
        raise ValueError(f"expected a checkpoint in {run / 'checkpoint'}, found none")
    return found[-1]
