"""The tables' first values: the same under any plan and number of ranks."""

import hashlib

import torch
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torchrec.distributed.model_parallel import DistributedModelParallel

# Part of the contract of `init_tables`: another size gives other tables.
CHUNK_ROWS = 4096


@torch.no_grad()
def init_tables(model: DistributedModelParallel, seed: int) -> None:
    """Fill every table from its own seed: the same values under any plan and number of ranks.

    DMP would call an initialiser on each shard on its own rank, without its offset. Values are
    uniform in +-1/sqrt(rows), as torchrec's own.
    """
    for key, value in model.state_dict().items():
        if ".embedding_bags." not in key:
            continue
        if isinstance(value, ShardedTensor):
            size = value.metadata().size
            parts = [(part.tensor, part.metadata.shard_offsets) for part in value.local_shards()]
        else:
            size, parts = value.shape, [(value, [0, 0])]
        table, (num_rows, dim) = key.split(".")[-2], size
        for tensor, (row, column) in parts:
            rows = _table_rows(table, row, len(tensor), dim, num_rows**-0.5, seed)
            tensor.copy_(rows[:, column : column + tensor.shape[1]])


def _table_rows(
    table: str, start: int, count: int, dim: int, bound: float, seed: int
) -> torch.Tensor:
    if not count:
        return torch.empty(0, dim)
    first, last = start // CHUNK_ROWS, (start + count - 1) // CHUNK_ROWS
    parts = []
    for chunk in range(first, last + 1):
        key = f"{seed}/{table}/{chunk}".encode()  # hash() is salted per process
        number = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1
        generator = torch.Generator().manual_seed(number)
        parts.append(torch.empty(CHUNK_ROWS, dim).uniform_(-bound, bound, generator=generator))
    return torch.cat(parts)[start - first * CHUNK_ROWS :][:count]
