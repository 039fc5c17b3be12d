"""Every exported method, and a small model to run it in; for the tests of all of them."""

from importlib.util import find_spec

import torch
from torch import nn

import mbrec.balance
from mbrec.balance import (
    BalanceHook,
    Balancer,
    ElementwiseBalancer,
    GramianBalancer,
    ParameterBalancer,
    TorchJD,
)

B, D, H = 8, 6, 8
TASKS = ("ctr", "cvr", "like")
# The seed of each task's head; "share" comes and goes.
SEEDS = {"ctr": 11, "cvr": 22, "like": 33, "share": 44}
STATIC = {"ctr": 0.2, "cvr": 0.5, "like": 0.3, "share": 0.4}
# Settings under which a method reads other inputs, or keeps more state, than by default.
VARIANTS = {
    "GradDrop of elements": ("GradDrop", {"marginalise": False}),
    "DBMTL of log losses": ("DBMTL", {"log_loss": True, "target": "max", "ema_decay": 0.5}),
    "MGDA of losses": ("MGDA", {"normalise": "loss+"}),
    "MultiBalance of inner products": ("MultiBalance", {"update": "inner", "ema": "unit"}),
    "MoCo without losses": ("MoCo", {"normalise": "none"}),
}


def methods(*kinds: type[Balancer]) -> list[str]:
    """Return the exported methods of some kinds, and their variants."""
    kinds = kinds or (GramianBalancer, ElementwiseBalancer, ParameterBalancer)
    labels = [name for name in mbrec.balance.__all__ if not name.endswith(("Balancer", "Hook"))]
    if find_spec("torchjd") is None:
        labels.remove(TorchJD.__name__)
    assert len(labels) > 15
    return [label for label in [*labels, *VARIANTS] if isinstance(make(label), kinds)]


def make(label: str, tasks=TASKS) -> Balancer:
    """Return a fresh balancer."""
    required = {
        "Static": {"weights": [STATIC[task] for task in tasks]},
        "TorchJD": {"weighting": "UPGradWeighting"},
    }
    name, arguments = VARIANTS.get(label, (label, required.get(label, {})))
    return getattr(mbrec.balance, name)(len(tasks), **arguments)


class Model(nn.Module):
    """A shared bottom in two parts, any method's hook, and one head a task.

    A method of parameter gradients has the upper part as its target, the others with `at_module`.
    Equal names have equal heads, whatever their place.
    """

    def __init__(self, label: str | None, tasks=TASKS, *, at_module=False, **options) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bottom = nn.Sequential(nn.Linear(D, H), nn.Tanh())
        self.module = nn.Linear(H, H)
        self.heads = nn.ModuleDict()
        for task in tasks:
            # Alike, so that the tasks' gradients agree on some batches and conflict on others.
            torch.manual_seed(0)
            head = nn.Sequential(nn.Linear(H, H), nn.ReLU(), nn.Linear(H, 1))
            torch.manual_seed(SEEDS[task])
            for parameter in head.parameters():
                parameter.data += 0.15 * torch.randn_like(parameter)
            self.heads[task] = head
        self.hook = None
        if label is not None:
            balancer, options = make(label, tasks), {"statistics": True} | options
            if at_module or isinstance(balancer, ParameterBalancer):
                options["parameters"] = self.module
            self.hook = BalanceHook(balancer, task_names=tasks, **options)

    def forward(self, x_BD):
        """Return the logits."""
        shared_BH = self.module(self.bottom(x_BD))
        views = (shared_BH,) * len(self.heads) if self.hook is None else self.hook(shared_BH)
        logits = [head(view) for head, view in zip(self.heads.values(), views, strict=True)]
        return torch.cat(logits, 1)

    def losses(self, x_BD, labels, network: nn.Module | None = None):
        """Return K losses, each the mean over the rows; `network` is what wraps this model."""
        logits_BK = (network or self)(x_BD)
        y_BK = torch.stack([labels[task] for task in self.heads], 1)
        bce = nn.functional.binary_cross_entropy_with_logits
        return bce(logits_BK, y_BK, reduction="none").mean(0)


def batch(step: int, rows=slice(None)):
    """Return inputs, and the labels of all tasks there are."""
    generator = torch.Generator().manual_seed(step)
    x_BD = torch.randn(B, D, generator=generator)
    labels = {task: (torch.rand(B, generator=generator) < 0.5).float()[rows] for task in SEEDS}
    return x_BD[rows], labels


def backward(model: Model, step: int, *, scale=1.0, counts_K=None):
    """Run one step's backward; return the gradients of the parameters."""
    model.zero_grad()
    losses_K = model.losses(*batch(step))
    if model.hook is not None:
        model.hook.observe(losses_K, counts_K)
    (scale * losses_K).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
