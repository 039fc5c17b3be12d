"""The K gradients of a training step: of the representation, and of the parameters below it.

Shapes: B rows of this rank, K tasks, H representation, F all embeddings of a row, I input of the
interaction module, P parameters of a module. n rows of a sample.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mbrec.balance.backward.ranks import sum_over_ranks, world_size
from mbrec.columns.schema import Columns
from mbrec.model.ranker import Ranker
from mbrec.reader.batch import Batch

MODULES: tuple[str, ...] = ("interaction", "numerical", "categorical")
# All parameters below the representation; their inner products are the sums of the modules'.
BOTTOM = "shared bottom"
TARGETS = (*MODULES, BOTTOM)


@dataclass(frozen=True)
class Sampled:
    """A few rows of a step, from which the Jacobian of the interaction module can be formed.

    Attributes:
        interaction: float64 copy of the module, as it was in the step's forward pass.
        inputs_nI: float64, what went into it.
        grads_KnH: float64, gradients of the representation, of the mean loss over these rows.
    """

    interaction: nn.Module
    inputs_nI: Tensor
    grads_KnH: Tensor


@dataclass(frozen=True)
class StepGradients:
    """A step's K gradients over the global batch: inner products, in float64 and on the CPU.

    Attributes:
        representation_KK: of the representation, as the hook sees them.
        live_KK: of the representation, without its units that are 0 in the forward pass; what
            arrives at those ends at their ReLU.
        grads_KP: module of the shared bottom -> the gradients of its parameters.
        parameters_KK: target -> the inner products of its parameters' gradients.
        residuals_K: target -> estimated norm of eq. 9's e_k, the distance of the batch's gradient
            to that of the population: half the distance between those of two halves of the batch.
        sample: where it was asked for, on every rank of its own rows.
    """

    representation_KK: Tensor
    live_KK: Tensor
    grads_KP: dict[str, Tensor]
    parameters_KK: dict[str, Tensor]
    residuals_K: dict[str, Tensor]
    sample: Sampled | None


class GradientWatch:
    """Watches the K gradients in the ordinary backward pass of training, and changes no bit of it.

    Where they arrive at the hook they are taken down to the modules of the bottom, as
    `BalanceHook(parameters=...)` does it, in two halves of the rows. Even the gradients of the
    embedding tables are found (those that the paper's Table 2 has as N/A): they are scattered
    from the gradients of the embeddings, which end above the tables' fused optimizer. Each
    takes K backward passes through the bottom, twice.

    Args:
        ranker: a model with hook and table guard, before its first step.
        columns: of the data set; they say which features share a table.
    """

    def __init__(self, ranker: Ranker, columns: Columns) -> None:
        bottom, hook = ranker.bottom, ranker.heads.hook
        assert hook is not None and bottom.table_guard is not None
        self._interaction, self._widths = bottom.interaction, bottom.categorical.widths
        modules = {"interaction": bottom.interaction, "numerical": bottom.numerical}
        dense = {name: list(module.parameters()) for name, module in modules.items() if module}
        self._dense = [parameter for parameters in dense.values() for parameter in parameters]
        # table -> the features that share it, and its rows
        self._tables = {
            table: (features, max(columns.categorical[name].num_embeddings for name in features))
            for table, features in columns.tables.items()
        }
        sizes = {name: sum(p.numel() for p in parameters) for name, parameters in dense.items()}
        tables = (rows * self._widths[features[0]] for features, rows in self._tables.values())
        self._sizes = {**sizes, "categorical": sum(tables)}
        self._features_BF: Tensor | None = None
        self._batch: Batch | None = None
        self._inputs_BI: Tensor | None = None
        self._sample_rows = 0
        # This rank's Gramians, gradients of two halves of its rows, and sample.
        self._local: tuple[Tensor, Tensor, Sampled | None] | None = None
        self._handles: list[RemovableHandle] = [
            bottom.table_guard.register_forward_hook(self._see_features),
            ranker.heads.register_forward_pre_hook(self._see_batch),
            hook.register_forward_hook(self._see_views),
        ]

    def close(self) -> None:
        """Leave the model as it was."""
        for handle in self._handles:
            handle.remove()

    def want_sample(self, rows: int) -> None:
        """Let the next step leave a sample of so many rows of each rank."""
        self._sample_rows = rows

        def see(module: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
            handle.remove()  # before the module is copied
            self._inputs_BI = inputs[0].detach()

        handle = self._interaction.register_forward_hook(see)

    def take(self) -> StepGradients:
        """Return the gradients of the last step. Collective: every rank must call it."""
        assert self._local is not None, "a step of training comes first"
        (gramians_2KK, halves_2KP, sample), self._local = self._local, None
        ranks = world_size()
        gramians_2KK = sum_over_ranks(gramians_2KK.flatten()).view_as(gramians_2KK) / ranks**2
        halves_2KP = (sum_over_ranks(halves_2KP.flatten()) / ranks).view_as(halves_2KP)
        halves_2KP = halves_2KP.double().cpu()
        parts = halves_2KP.split(list(self._sizes.values()), dim=2)
        modules = dict(zip(self._sizes, parts, strict=True))
        grads = {name: halves_2KP.sum(0) for name, halves_2KP in modules.items()}
        gramians_KK = {name: grads_KP @ grads_KP.T for name, grads_KP in grads.items()}
        # Each half holds the sum over its rows, divided by the size of the whole batch.
        apart_K = {name: (one - other).norm(dim=1) for name, (one, other) in modules.items()}
        whole_KK = torch.stack(list(gramians_KK.values())).sum(0)
        whole_K = torch.stack(list(apart_K.values())).square().sum(0).sqrt()
        representation_KK, live_KK = gramians_2KK.cpu()
        by_target = {**gramians_KK, BOTTOM: whole_KK}, {**apart_K, BOTTOM: whole_K}
        return StepGradients(representation_KK, live_KK, grads, *by_target, sample)

    def _see_features(self, _: nn.Module, __: object, features_BF: Tensor) -> None:
        self._features_BF = features_BF

    def _see_batch(self, _: nn.Module, inputs: tuple[Tensor, Batch]) -> None:
        self._batch = inputs[1]

    def _see_views(self, _: nn.Module, inputs: tuple[Tensor], views: tuple[Tensor, ...]) -> None:
        if views[0].grad_fn is None or views[0] is inputs[0]:
            return  # not in training
        shared_BH = inputs[0]

        def arrived(grads_K: Sequence[Tensor]) -> None:
            self._local = self._measure(torch.stack(list(grads_K)), shared_BH)

        views[0].grad_fn.register_prehook(arrived)

    def _measure(
        self, rows_KBH: Tensor, shared_BH: Tensor
    ) -> tuple[Tensor, Tensor, Sampled | None]:
        live_KBH = rows_KBH * (shared_BH != 0)
        flat = [rows.double().flatten(1) for rows in (rows_KBH, live_KBH)]
        gramians_2KK = torch.stack([flat_KN @ flat_KN.T for flat_KN in flat])
        even_B1 = (torch.arange(len(shared_BH), device=shared_BH.device) % 2)[:, None]
        halves = [
            torch.stack([self._descend(row_BH * half_B1, shared_BH) for row_BH in rows_KBH])
            for half_B1 in (even_B1, 1 - even_B1)
        ]
        sample = None
        if self._inputs_BI is not None:
            sample, self._inputs_BI = self._sampled(rows_KBH, self._inputs_BI), None
        return gramians_2KK, torch.stack(halves), sample

    def _descend(self, row_BH: Tensor, shared_BH: Tensor) -> Tensor:
        """Return the gradients of all modules' parameters under one of the representation."""
        assert self._features_BF is not None
        *dense, of_features_BF = torch.autograd.grad(
            shared_BH, [*self._dense, self._features_BF], row_BH, retain_graph=True
        )
        parts_Bw = of_features_BF.split(list(self._widths.values()), 1)
        grads_Bw = dict(zip(self._widths, parts_Bw, strict=True))
        tables = [self._scatter(grads_Bw, *table) for table in self._tables.values()]
        return torch.cat([grad.flatten() for grad in (*dense, *tables)])

    def _scatter(
        self, grads_Bw: Mapping[str, Tensor], features: Sequence[str], rows: int
    ) -> Tensor:
        """Return the gradient of a table: each row of a batch adds to the rows of its ids."""
        assert self._batch is not None
        table = grads_Bw[features[0]].new_zeros(rows, self._widths[features[0]])
        for name in features:
            ids = self._batch.sparse[name]
            each = grads_Bw[name].repeat_interleave(ids.lengths(), dim=0)
            weights = ids.weights_or_none()
            table.index_add_(0, ids.values(), each if weights is None else each * weights[:, None])
        return table

    def _sampled(self, rows_KBH: Tensor, inputs_BI: Tensor) -> Sampled:
        chosen_n = rows_for_all(rows_KBH, self._sample_rows)
        # The loss of these rows alone, where the reduction is the mean over a batch.
        scale = rows_KBH.shape[1] / len(chosen_n)
        return Sampled(
            copy.deepcopy(self._interaction).double().cpu(),
            inputs_BI[chosen_n].double().cpu(),
            rows_KBH[:, chosen_n].double().cpu() * scale,
        )


def rows_for_all(rows_KBH: Tensor, count: int) -> Tensor:
    """Return positions of a few rows, half of them such that all tasks learn from them.

    Of a funnel those are rows that were clicked; where there are fewer, others take their place.

    Args:
        rows_KBH: gradients of the representation.
        count: of rows, at most B.
    """
    for_all_B = (rows_KBH != 0).any(2).all(0)
    first = for_all_B.nonzero()[: count // 2, 0]
    rest_B = torch.ones_like(for_all_B)
    rest_B[first] = False
    return torch.cat([first, rest_B.nonzero()[: count - len(first), 0]])
