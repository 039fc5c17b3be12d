"""Gradient balancing of a shared representation, inside the one backward pass.

Needs torch alone, and works in any model that has a shared bottom and K task heads:

>>> import torch
>>> from mbrec.balance import BalanceHook, MultiBalance
>>> _ = torch.manual_seed(0)
>>> bottom = torch.nn.Linear(4, 8)
>>> heads = torch.nn.ModuleList([torch.nn.Linear(8, 1) for _ in range(3)])
>>> hook = BalanceHook(MultiBalance(num_tasks=3), task_names=["ctr", "cvr", "conv_imp"])
>>> shared_BH = bottom(torch.randn(16, 4))
>>> losses = [head(view).square().mean() for head, view in zip(heads, hook(shared_BH), strict=True)]
>>> sum(losses).backward()                      # the heads get their own gradients, the bottom one
>>> round(float(hook.weights.sum()), 6)         # the weights of the three tasks, on the simplex
1.0
"""

from mbrec.balance.balancer import Balancer, GramianBalancer
from mbrec.balance.equal import Equal
from mbrec.balance.hook import BalanceHook
from mbrec.balance.multibalance import MultiBalance

__all__ = ["BalanceHook", "Balancer", "Equal", "GramianBalancer", "MultiBalance"]
