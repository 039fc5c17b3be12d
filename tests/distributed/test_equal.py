"""`Equal` trains, bit for bit, the model without the hook."""

from pathlib import Path

import pytest
import torch
from jobs import compose, parameters
from ranks import run_ranks

STEPS = 20


def trained(data: str, *, with_hook: bool, statistics: bool):
    from mbrec.distributed import process
    from mbrec.distributed.lockstep import Lockstep
    from mbrec.job import build, readers
    from mbrec.reader.loader import Loader

    config = compose(Path(data), "balancer=equal", f"monitor.balance={statistics}".lower())
    runtime = process.start()
    reader = readers.train_reader(config, runtime)
    sharded = build.shard(config, runtime, with_hook=with_hook)
    batches = iter(Loader(reader))
    segment = Lockstep(batches, reader.empty_batch, limit=STEPS)
    losses = []
    try:
        while True:
            losses.append(sharded.pipeline.progress(segment).losses_K.tolist())
    except StopIteration:
        batches.close()
    return losses, parameters(sharded.model), sharded.hook and sharded.hook.gramian is not None


def one_of_each(data: str):
    return [
        trained(data, with_hook=with_hook, statistics=statistics)
        for with_hook, statistics in ((False, False), (True, False), (True, True))
    ]


@pytest.mark.parametrize("world_size", [1, 2])
def test_equal_is_bitwise_the_model_without_the_hook(world_size, tiny_data, tmp_path):
    for bare, hooked, watched in run_ranks(one_of_each, world_size, tmp_path, str(tiny_data)):
        assert len(bare[0]) > 5
        assert (hooked[2], watched[2]) == (False, True)  # statistics only when asked for
        for losses, state, _ in (hooked, watched):
            assert losses == bare[0]
            for key, parts in bare[1].items():
                for (_, expected), (_, value) in zip(parts, state[key], strict=True):
                    assert torch.equal(torch.as_tensor(expected), torch.as_tensor(value)), key
