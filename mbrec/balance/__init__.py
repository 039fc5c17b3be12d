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

from mbrec.balance.balancer import Balancer, ElementwiseBalancer, GramianBalancer, ParameterBalancer
from mbrec.balance.hook import BalanceHook
from mbrec.balance.methods.alignedmtl import AlignedMTL
from mbrec.balance.methods.cagrad import CAGrad
from mbrec.balance.methods.conflictfree import ConFIG
from mbrec.balance.methods.dbmtl import DBMTL
from mbrec.balance.methods.equal import Equal
from mbrec.balance.methods.famo import FAMO
from mbrec.balance.methods.gradcraft import GradCraft
from mbrec.balance.methods.graddrop import GradDrop
from mbrec.balance.methods.gradvac import GradVac
from mbrec.balance.methods.imtlg import IMTLG
from mbrec.balance.methods.mgda import MGDA
from mbrec.balance.methods.moco import MoCo
from mbrec.balance.methods.multibalance import MultiBalance
from mbrec.balance.methods.nashmtl import NashMTL
from mbrec.balance.methods.pcgrad import PCGrad
from mbrec.balance.methods.sdmgrad import SDMGrad
from mbrec.balance.methods.static import Static
from mbrec.balance.methods.torchjd import TorchJD
from mbrec.balance.methods.uncertainty import Uncertainty
from mbrec.balance.methods.upgrad import UPGrad

__all__ = [
    "DBMTL",
    "FAMO",
    "IMTLG",
    "MGDA",
    "AlignedMTL",
    "BalanceHook",
    "Balancer",
    "CAGrad",
    "ConFIG",
    "ElementwiseBalancer",
    "Equal",
    "GradCraft",
    "GradDrop",
    "GradVac",
    "GramianBalancer",
    "MoCo",
    "MultiBalance",
    "NashMTL",
    "PCGrad",
    "ParameterBalancer",
    "SDMGrad",
    "Static",
    "TorchJD",
    "UPGrad",
    "Uncertainty",
]  # fmt: skip
