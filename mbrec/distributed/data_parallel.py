"""Dense gradients are added in the same order at every step of every process.

DistributedDataParallel sums gradients in buckets, and lays the buckets out again after a process's
first step, in the order in which the gradients arrived. Where a gradient lies in a bucket decides
in which order an all-reduce adds the ranks' values. From three ranks on that changes the last bits,
so a process that resumes a run, and takes its first step again, would train another model than one
that was never interrupted. Here the layout is final before the first step.
"""

from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torchrec.distributed.model_parallel import DefaultDataParallelWrapper, DistributedModelParallel
from torchrec.distributed.types import ShardingEnv


class _LastFirst(DistributedDataParallel):
    """Fills its buckets from the last layer to the first, as backward does.

    A bucket is reduced while backward computes the next one, which only helps if the buckets are
    filled in that order.
    """

    def _build_params_for_reducer(self) -> tuple[list[nn.Parameter], list[bool]]:
        parameters, sparse = super()._build_params_for_reducer()
        return parameters[::-1], sparse[::-1]


class DataParallel(DefaultDataParallelWrapper):
    """Wraps the dense part of a model; give it to DistributedModelParallel."""

    def _ddp_wrap(
        self,
        dmp: DistributedModelParallel,
        env: ShardingEnv,
        device: torch.device,
        ddp_ignore_param_names: set[str],
    ) -> None:
        dense: Any = dmp._dmp_wrapped_module
        _LastFirst._set_params_and_buffers_to_ignore_for_model(dense, ddp_ignore_param_names)
        wrapped: Any = _LastFirst(
            dense.to(device),
            device_ids=None if device.type == "cpu" else [device],
            process_group=env.process_group,
            gradient_as_bucket_view=True,
            broadcast_buffers=False,
            static_graph=True,
            bucket_cap_mb=self._bucket_cap_mb,
        )
        dmp._dmp_wrapped_module = wrapped


def fix_buckets(model: nn.Module) -> None:
    """Lay out the gradients of every DistributedDataParallel inside a model, once and for all.

    Collective: every rank must call it, before the first step.

    Raises:
        RuntimeError: if a layout is final already.
    """
    for wrapper in wrappers(model):
        # What DDP itself does after the first step, with its parameters in the order in which it
        # was given them; it lays them out once only.
        wrapper.reducer._push_all_rebuilt_params()
        if not wrapper.reducer._rebuild_buckets():
            raise RuntimeError("expected gradients without a final layout, got one that is final")


def wrappers(model: nn.Module) -> list[DistributedDataParallel]:
    """Return every DistributedDataParallel inside a sharded model.

    torchrec wraps the data-parallel tables of a collection on their own, and keeps them in a list
    that `modules()` does not see.
    """
    modules = list(model.modules())
    lookups = [lookup for module in modules for lookup in getattr(module, "_lookups", ())]
    return [m for m in (*modules, *lookups) if isinstance(m, DistributedDataParallel)]
