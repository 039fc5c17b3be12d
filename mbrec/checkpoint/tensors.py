"""The tensors of a checkpoint: model and optimizers, under names that no sharding plan changes."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.keyed import CombinedOptimizer

from mbrec.checkpoint.folder import read_manifest
from mbrec.checkpoint.metadata import read_index
from mbrec.checkpoint.tensor_files import Reader, TensorsOnly

Tensors = dict[str, Any]

# torchrec 1.8 has ShardedTensors, and torch's own checkpoint code warns as it reads their size; in
# the background too, where a filter for a while would not be safe.
warnings.filterwarnings("ignore", "Please use DTensor instead", FutureWarning)


@dataclass(frozen=True)
class Saved:
    """What a checkpoint says that it holds: name -> size and type of each tensor."""

    folder: Path
    sizes: dict[str, tuple[int, ...]]
    dtypes: dict[str, torch.dtype]


def collect(model: DistributedModelParallel, optimizer: CombinedOptimizer | None) -> Tensors:
    """Return every tensor of this rank that training changes; loading into them loads the model."""
    found: Tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    if optimizer is not None:
        # Before the first step too: what is saved then is complete, and what is loaded has a place.
        start_state(optimizer)
        for param, values in optimizer.state_dict()["state"].items():
            # Without the name of the optimizer; a table has the same state under any placement.
            name = param.partition(".")[2]
            found |= {f"optimizer.{name}.{kind}": value for kind, value in values.items()}
    return found


def start_state(optimizer: CombinedOptimizer) -> None:
    """Make the state of optimizers that would make it at their first step, to load into.

    A parameter that nothing is loaded for starts at step 0, with moments of 0.
    """
    for _, part in optimizer.optimizers:
        if part.params and not part.state:
            # A step with gradients of 0, which leaves the parameters as they are.
            part.init_state()
            part.zero_grad()
            for values in part.state.values():
                values["step"].zero_()


def num_bytes(tensors: Tensors) -> int:
    """Return the bytes that this rank would write; what all ranks hold counts on rank 0 alone."""
    total = 0
    for value in tensors.values():
        if isinstance(value, ShardedTensor):
            total += sum(shard.tensor.nbytes for shard in value.local_shards())
        elif dist.get_rank() == 0:
            total += value.nbytes
    return total


def write(folder: Path, tensors: Tensors, group: dist.ProcessGroup) -> None:
    """Write the tensors of all ranks, durably. Collective in the group.

    Raises:
        OSError: on every rank, if one could not write.
    """
    try:
        dcp_save(_nested(tensors), storage_writer=FileSystemWriter(folder), process_group=group)
    except CheckpointException as error:  # a BaseException: `except Exception` would miss it
        raise OSError(f"{folder}: {reason(error)}") from error


def inspect(folder: Path) -> Saved:
    """Return what a checkpoint that verified holds.

    Raises:
        ValueError: naming what is not as it should be.
    """
    index = read_index(folder, read_manifest(folder)).state_dict_metadata
    tensors = {k: t for k, t in index.items() if isinstance(t, TensorStorageMetadata)}
    sizes = {key: tuple(tensor.size) for key, tensor in tensors.items()}
    return Saved(folder, sizes, {k: t.properties.dtype for k, t in tensors.items()})


def read(folder: Path, tensors: Tensors) -> None:
    """Fill tensors from a checkpoint that verified, under whatever plan and number of ranks.

    It has all of them, under the same names and in the same sizes. Collective: every rank must call
    it.

    Raises:
        ValueError: on every rank, if one could not be filled.
    """
    reader = Reader(folder, read_manifest(folder))
    try:
        dcp_load(_nested(tensors), storage_reader=reader, planner=TensorsOnly())
    except CheckpointException as error:
        raise ValueError(
            f"{folder}: expected a checkpoint of this model: {reason(error)}"
        ) from error


def reason(error: CheckpointException) -> str:
    """Return what went wrong on the first rank that failed, and on how many."""
    rank, (failure, _) = min(error.failures.items())
    others = f", and {len(error.failures) - 1} more" if len(error.failures) > 1 else ""
    return f"{type(failure).__name__} on rank {rank}{others}: {failure}"


def size_of(value: Tensor | ShardedTensor) -> tuple[int, ...]:
    """Return the size of the whole tensor, all shards together."""
    return tuple(value.metadata().size if isinstance(value, ShardedTensor) else value.shape)


def _nested(tensors: Tensors) -> dict[str, Tensors]:
    # torch wants the same keys at the top on every rank; below them, ranks have their own.
    parts: dict[str, Tensors] = {"model": {}, "optimizer": {}}
    for key, value in tensors.items():
        part, _, name = key.partition(".")
        parts[part][name] = value
    return {part: values for part, values in parts.items() if values}
