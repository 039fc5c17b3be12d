"""How much the tasks of a run conflict: figures that are made of the Gramians alone.

Shapes: K tasks, S steps, C pairs of tasks. All mathematics in float64. A task is active in a step
where its gradient is not zero.
"""

import logging
import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from mbrec.balance import Balancer
from mbrec.balance.solvers.interior import isolate, minimise

log = logging.getLogger(__name__)

# Shares of the total weight that count as all of it, and as none.
ALL, NONE = 0.99, 1e-3


def conflict_figures(gramian_SKK: Tensor, weights_SK: Tensor) -> dict[str, Tensor]:
    """Return how much the tasks conflict in each step, (S,); NaN where that is not defined.

    * `share`: of the pairs of active tasks, those with a negative cosine;
    * `dominance`: the largest gradient norm over the smallest, of two active tasks or more;
    * `weighted_dominance`: the same after weighting (He et al. 2024, Figure 2 (c) and (e));
    * `stationarity`, `stationarity_relative`: see `stationarity`; over the smallest norm.

    >>> opposed_SKK = torch.tensor([[[1.0, -2.0], [-2.0, 4.0]]], dtype=torch.float64)
    >>> figures = conflict_figures(opposed_SKK, torch.tensor([[0.5, 0.25]]))
    >>> {name: round(value.item(), 4) for name, value in figures.items()}
    {'share': 1.0, 'dominance': 2.0, 'weighted_dominance': 1.0, \
'stationarity': 0.0, 'stationarity_relative': 0.0}
    """
    squares_SK = gramian_SKK.diagonal(dim1=1, dim2=2)
    active_SK, norms_SK = squares_SK > 0, squares_SK.sqrt()
    i, j = torch.triu_indices(*gramian_SKK.shape[1:], offset=1)
    pairs_SC = active_SK[:, i] & active_SK[:, j]
    opposed_SC = pairs_SC & (gramian_SKK[:, i, j] < 0)
    distance, smallest = stationarity(gramian_SKK), _smallest(norms_SK, active_SK)
    return {
        "share": opposed_SC.sum(1) / pairs_SC.sum(1),
        "dominance": _dominance(norms_SK, active_SK),
        "weighted_dominance": _dominance(norms_SK * weights_SK.abs(), active_SK),
        "stationarity": distance,
        "stationarity_relative": distance / smallest,
    }


def stationarity(gramian_SKK: Tensor) -> Tensor:
    """Return how far each step is from Pareto stationarity, (S,); NaN without an active task.

    It is min over w in the simplex of |sum_k w_k z_k| (He et al. 2024, eq. 2): 0 where some
    weighting of the gradients cancels, so that no direction improves every task, and at most the
    smallest norm. Gramians of products in float32 give no less than about 3e-4 of that.

    >>> stationarity(torch.eye(2, dtype=torch.float64)[None]).round(decimals=6)
    tensor([0.7071], dtype=torch.float64)
    """
    squares_SK = gramian_SKK.diagonal(dim1=1, dim2=2)
    active_SK = squares_SK > 0
    mean_S = squares_SK.sum(1) / active_SK.sum(1).clamp_min(1)
    scale_S = torch.where(mean_S > 0, mean_S, 1.0)
    unit_SKK = gramian_SKK / scale_S[:, None, None]
    matrix_SKK, cost_SK = isolate(unit_SKK, active_SK)
    start_SK = torch.full_like(cost_SK, 1.0 / cost_SK.shape[1])
    weights_SK = minimise(
        lambda w_SK: ((matrix_SKK * w_SK[:, None]).sum(2) + cost_SK, matrix_SKK),
        start_SK,
        simplex=True,
    )
    weights_SK = torch.where(active_SK, weights_SK, 0.0)
    square_S = (weights_SK[:, :, None] * unit_SKK * weights_SK[:, None]).sum((1, 2))
    found_S = (square_S.clamp_min(0.0) * scale_S).sqrt()
    return torch.minimum(found_S, _smallest(squares_SK.sqrt(), active_SK))


def mean_cosines(gramian_SKK: Tensor) -> Tensor:
    """Return the mean cosine of each pair, (K, K), over the steps in which both are active.

    NaN for a pair that never was; the diagonal is 1 but for rounding.
    """
    norms_SK = gramian_SKK.diagonal(dim1=1, dim2=2).sqrt()
    # 0 / 0 where a task is not active.
    return (gramian_SKK / (norms_SK[:, :, None] * norms_SK[:, None, :])).nanmean(0)


class ConflictWatch:
    """Keeps the last steps' Gramians, and says when a balancer has given all weight to one task.

    A step is on a vertex where one of two or more active tasks has at least 99 % of the weight and
    of the weighted norms, or where an active task has at most 0.1 % of both. Both count because
    methods that even out norms give large weights to small gradients.

    Args:
        balancer: of the hook; one with constant weights is never on a vertex.
        every: steps of a window.
    """

    def __init__(self, tasks: Sequence[str], balancer: Balancer, *, every: int) -> None:
        self.tasks = list(tasks)
        self._every = every
        self._moving = balancer.constant_weights is None
        self._remedy = _remedy(balancer)
        self._told: set[str] = set()
        size = len(self.tasks)
        self._gramian_SKK = torch.zeros(0, size, size, dtype=torch.float64)
        self._weights_SK = torch.zeros(0, size, dtype=torch.float64)

    def update(self, gramian_SKK: Tensor, weights_SK: Tensor) -> list[dict[str, float | None]]:
        """Take the steps since the last call; return the figures of each, by their tags."""
        last = slice(-self._every, None)
        self._gramian_SKK = torch.cat([self._gramian_SKK, gramian_SKK])[last]
        self._weights_SK = torch.cat([self._weights_SK, weights_SK])[last]
        figures = conflict_figures(gramian_SKK, weights_SK)
        tags = [f"conflict/{name}" for name in figures]
        rows = torch.stack(list(figures.values()), 1).tolist()
        return [
            {t: None if math.isnan(v) else v for t, v in zip(tags, row, strict=True)}
            for row in rows
        ]

    def vertex(self) -> dict[str, float]:
        """Return the share of the window's steps that are on a vertex; warn once of a task on it.

        Nothing for constant weights.
        """
        if not self._moving:
            return {}
        active_SK = self._gramian_SKK.diagonal(dim1=1, dim2=2) > 0
        all_SK, none_SK = _extremes(self._gramian_SKK, self._weights_SK, active_SK)
        if len(active_SK) == self._every:
            alone = (active_SK.sum(1) < 2)[:, None]
            everything = self._through_window(all_SK, all_SK | alone)
            nothing = self._through_window(none_SK, none_SK | ~active_SK)
            self._warn(everything, f"at least {ALL:.0%} of the weight")
            # Where one has everything, it goes without saying that the others have nothing.
            self._warn([] if everything else nothing, "next to no weight")
        return {"conflict/vertex": (all_SK | none_SK).any(1).double().mean().item()}

    def cosines(self) -> Tensor | None:
        """Return the mean cosines (K, K) of the window, or None before it is full."""
        full = len(self._gramian_SKK) == self._every
        return mean_cosines(self._gramian_SKK) if full else None

    def _through_window(self, there_SK: Tensor, or_idle_SK: Tensor) -> list[str]:
        """Return the tasks of which something is true in all steps, but those without them."""
        stays_K = (or_idle_SK.all(0) & there_SK.any(0)).tolist()
        return [task for task, stays in zip(self.tasks, stays_K, strict=True) if stays]

    def _warn(self, found: Iterable[str], what: str) -> None:
        for task in found:
            if task not in self._told:
                self._told.add(task)
                log.warning(
                    "task '%s' has had %s for %d steps: %s",
                    task,
                    what,
                    self._every,
                    self._remedy,
                )


def _smallest(lengths_SK: Tensor, active_SK: Tensor) -> Tensor:
    """Return the smallest length of the active tasks; NaN where there is none."""
    smallest_S = torch.where(active_SK, lengths_SK, torch.inf).amin(1)
    return torch.where(active_SK.any(1), smallest_S, torch.nan)


def _dominance(lengths_SK: Tensor, active_SK: Tensor) -> Tensor:
    smallest_S = _smallest(lengths_SK, active_SK)
    ratio_S = torch.where(active_SK, lengths_SK, 0.0).amax(1) / smallest_S
    return torch.where((active_SK.sum(1) > 1) & (smallest_S > 0), ratio_S, torch.nan)


def _extremes(gramian_SKK: Tensor, weights_SK: Tensor, active_SK: Tensor) -> tuple[Tensor, Tensor]:
    """Return which tasks have all weight in a step, and which active ones have none; (S, K)."""
    weights_SK = torch.where(active_SK, weights_SK.abs(), 0.0)
    lengths_SK = weights_SK * gramian_SKK.diagonal(dim1=1, dim2=2).sqrt()
    shares_2SK = torch.stack([weights_SK, lengths_SK])
    # 0 / 0 is neither all nor nothing.
    shares_2SK = shares_2SK / shares_2SK.sum(2, keepdim=True)
    several = (active_SK.sum(1) > 1)[:, None]
    return several & (shares_2SK >= ALL).all(0), active_SK & (shares_2SK <= NONE).all(0)


def _remedy(balancer: Balancer) -> str:
    parts = []
    if isinstance(lr := getattr(balancer, "lr", None), float | int) and lr > 0:
        parts.append(f"lower balancer.lr ({lr:g})")
    if getattr(balancer, "prior_in_output", None) is False:
        # The update balances the weights and the prior: the stronger that, the further they go.
        strength = getattr(balancer, "prior_strength", 0.0)
        parts.append(f"lower balancer.prior_strength ({strength:g})")
        parts.append("set balancer.prior_in_output=true")
    parts.append("take another balancer (docs/balancers.md says which keep every task)")
    return ", or ".join(parts)
