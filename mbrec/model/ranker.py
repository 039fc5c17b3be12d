"""The ranking model: a shared bottom, the balancing hook, and one head a task.

Shapes: B batch, K tasks, H representation, N numerical features, D width of all embeddings.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torchrec.modules.mlp import MLP

from mbrec.balance import BalanceHook
from mbrec.config.tasks import Reduction, Task
from mbrec.metrics.outputs import Outputs
from mbrec.model.embeddings import CategoricalModule
from mbrec.model.losses import masked_bce, summed
from mbrec.model.numerical import NumericalModule
from mbrec.reader.batch import Batch

# Its square, times the rows of any batch, fits into float32.
LARGEST_GRADIENT = 1e15


class TableGuard(nn.Module):
    """Lets no gradient through to the tables that is not finite, or that the hook has refused.

    Tables update themselves inside backward, where no optimizer can be held back. It is a module
    so that torchrec's tracing keeps it whole.

    Attributes:
        hook_ok: the verdict of the hook, which comes earlier in backward.
        ok: bool tensor, False where the last gradient was not let through.
        features_BD: what the tables gave in the last forward of training.
    """

    ok: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("ok", torch.tensor(True), persistent=False)
        self.hook_ok: Callable[[], Tensor] | None = None
        self.features_BD: Tensor | None = None

    def forward(self, features_BD: Tensor) -> Tensor:
        """Return the features as they are."""
        if not (self.training and features_BD.requires_grad):
            return features_BD
        self.features_BD = features_BD.detach()
        guarded: Any = _Guarded.apply(features_BD, self)
        return guarded


class _Guarded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features_BD: Tensor, guard: TableGuard) -> Tensor:
        ctx.guard = guard
        return features_BD.view_as(features_BD)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] (as torch documents it)
        ctx: Any, grad_BD: Tensor
    ) -> tuple[Tensor, None]:
        guard: TableGuard = ctx.guard
        # NaN is neither. The tables sum squares, which must be finite as well.
        least, largest = torch.aminmax(grad_BD)
        guard.ok = (least > -LARGEST_GRADIENT) & (largest < LARGEST_GRADIENT)
        if guard.hook_ok is not None:
            guard.ok = guard.ok & guard.hook_ok()
        if guard.ok.device.type == "cpu":
            # No copy where nothing is wrong; on a GPU the look would be a sync.
            return grad_BD if guard.ok else torch.zeros_like(grad_BD), None
        return torch.where(guard.ok, grad_BD, 0.0), None


class SharedBottom(nn.Module):
    """Embeddings and numerical features, side by side, through the interaction module.

    Args:
        numerical: the numerical module, or None for data without numerical features.
        interaction: maps (B, categorical + numerical width) to (B, H).
        table_guard: between the tables and the rest; None leaves it out.
    """

    def __init__(
        self,
        categorical: CategoricalModule,
        numerical: NumericalModule | None,
        interaction: nn.Module,
        table_guard: TableGuard | None = None,
    ) -> None:
        super().__init__()
        self.categorical = categorical
        self.table_guard = table_guard
        self.numerical = numerical
        self.interaction = interaction

    @property
    def widths(self) -> dict[str, int]:
        """Parts of the interaction's input -> their widths, in order."""
        numerical = {} if self.numerical is None else {"(numerical)": self.numerical.out_features}
        return {**self.categorical.widths, **numerical}

    def forward(self, batch: Batch) -> Tensor:
        """Return the shared representation (B, H)."""
        features = self.categorical(batch.sparse)
        if self.table_guard is not None:
            features = self.table_guard(features)
        if self.numerical is not None:
            features = torch.cat([features, self.numerical(batch.dense_BN)], dim=1)
        return self.interaction(features)


class Heads(nn.Module):
    """The hook, one MLP a task, and the losses.

    They are one module because torchrec's pipelines trace the model down to sharded modules and
    keep a module without one whole: a hook traced on its own would vanish from the graph.

    Args:
        tasks: name -> task; heads run in this order, which makes the merge bitwise under `Equal`.
        in_features: H.
        hook: balances the tasks at the representation; None leaves it out.
        world_size: ranks that share the global batch.

    Attributes:
        seen: the last batch of training with the hook, and its losses_K; to find what went wrong.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task],
        in_features: int,
        hook: BalanceHook | None,
        *,
        reduction: Reduction = Reduction.global_batch,
        world_size: int = 1,
    ) -> None:
        super().__init__()
        self.hook = hook
        self.seen: tuple[Batch, Tensor] | None = None
        self.mlps = nn.ModuleDict({n: _head(in_features, t) for n, t in tasks.items()})
        weights = torch.tensor([task.weight for task in tasks.values()])
        self.task_weights: Tensor
        self.register_buffer("task_weights", weights, persistent=False)
        self.reduction = reduction
        self.world_size = world_size

    def forward(self, shared_BH: Tensor, batch: Batch) -> tuple[Tensor, Outputs]:
        """Return the loss to call backward on, and what metrics need."""
        views = (shared_BH,) * len(self.mlps) if self.hook is None else self.hook(shared_BH)
        logits = [mlp(view) for mlp, view in zip(self.mlps.values(), views, strict=True)]
        logits_BK = torch.cat(logits, dim=1)
        masks_BK = batch.masks_BK * batch.weights_B[:, None]
        losses_K = self.task_weights * masked_bce(
            logits_BK,
            batch.labels_BK,
            masks_BK,
            batch.counts_K,
            reduction=self.reduction,
            world_size=self.world_size,
        )
        if self.hook is not None and self.training:
            self.hook.observe(losses_K, batch.counts_K)
            self.seen = batch, losses_K.detach()
        outputs = Outputs(
            losses_K.detach(),
            probabilities(logits_BK.detach()),
            batch.labels_BK,
            masks_BK,
            batch.rows_B,
            batch.oracle_BK,
            batch.lost_2C,
            None if self.training else batch.dense_BN,
        )
        return losses_K.sum(), outputs

    def log_losses(self, losses_K: Tensor, batch: Batch) -> Tensor:
        """Return the log losses in nats, (K,), that losses of this rank are made of."""
        return summed(
            losses_K / self.task_weights,
            batch.counts_K,
            rows=len(batch.weights_B),
            reduction=self.reduction,
            world_size=self.world_size,
        )


def probabilities(logits_BK: Tensor) -> Tensor:
    """Return the probabilities of logits in float64, NaN where a logit is not finite.

    In float32 all probabilities above 1 - 6e-8 are equal, and near 1 they are few: where most
    labels are positive, rows that the model does tell apart would be ties. An infinite logit comes
    from an overflow, and not from certainty.
    """
    logits_BK = logits_BK.double()
    return torch.where(logits_BK.isfinite(), logits_BK.sigmoid(), torch.nan)


class Ranker(nn.Module):
    """The whole model, from a batch to its loss."""

    def __init__(self, bottom: SharedBottom, heads: Heads) -> None:
        super().__init__()
        self.bottom = bottom
        self.heads = heads

    def forward(self, batch: Batch) -> tuple[Tensor, Outputs]:
        """Return (loss, outputs), as torchrec's pipelines expect."""
        return self.heads(self.bottom(batch), batch)


def count_parameters(model: Ranker) -> dict[str, int]:
    """Return the number of parameters by module, as Table 1 of He et al. 2024 splits them."""
    bottom = model.bottom
    parts: dict[str, nn.Module | None] = {
        "categorical": bottom.categorical,
        "numerical": bottom.numerical,
        "interaction": bottom.interaction,
        "heads": model.heads,
    }
    return {
        name: sum(p.numel() for p in part.parameters())
        for name, part in parts.items()
        if part is not None
    }


def _head(in_features: int, task: Task) -> nn.Module:
    if not task.hidden:
        return nn.Linear(in_features, 1)
    return nn.Sequential(MLP(in_features, list(task.hidden)), nn.Linear(task.hidden[-1], 1))
