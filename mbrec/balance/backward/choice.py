"""Which kind of backward a hook has, and which arguments exclude each other."""

import torch.distributed as dist
from torch import nn

from mbrec.balance.backward.merging import (
    Backward,
    ElementwiseBackward,
    GramianBackward,
    LaggedBackward,
)
from mbrec.balance.backward.parameters import ParameterBackward
from mbrec.balance.balancer import Balancer, ElementwiseBalancer, GramianBalancer, ParameterBalancer


def choose_backward(
    balancer: Balancer,
    group: dist.ProcessGroup | None,
    parameters: nn.Module | None,
    lag: int,
    accumulate: int,
) -> Backward:
    """Return the kind of backward that a hook's arguments ask for; see `BalanceHook`.

    Raises:
        ValueError: if two of them do not go together, with the reason.
    """
    name, shifted = type(balancer).__name__, lag or accumulate > 1
    if parameters is not None:
        if shifted or not isinstance(balancer, GramianBalancer | ParameterBalancer):
            raise ValueError(
                f"expected a method that weighs whole gradients, lag=0 and accumulate=1 beside "
                f"parameters, got {name}, lag={lag}, accumulate={accumulate}"
            )
        return ParameterBackward(balancer, group, parameters)
    if isinstance(balancer, ParameterBalancer):
        raise ValueError(
            f"expected parameters=module for {name} (in a job hook.at=interaction or numerical), "
            "got none: it averages each task's gradient over steps, and the rows of a "
            "representation are other samples in each step"
        )
    if isinstance(balancer, ElementwiseBalancer):
        if shifted:
            got = f"got lag={lag}, accumulate={accumulate}"
            why = "its choice for each element needs this batch's signs"
            raise ValueError(f"expected lag=0 and accumulate=1 for {name}, {got}: {why}")
        return ElementwiseBackward(balancer, group)
    if not isinstance(balancer, GramianBalancer):
        raise ValueError(f"expected a GramianBalancer or a sibling of it, got {name}")
    if shifted:
        return LaggedBackward(balancer, group, accumulate)
    return GramianBackward(balancer, group)
