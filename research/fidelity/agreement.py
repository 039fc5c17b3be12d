"""How far two Gramians of the same K gradients lead a balancer to the same weights.

One is of the gradients of the representation, the other of the parameters below it. Shapes: K
tasks. B (q, K) has the former in columns, A B (p, K) the latter; w_M is the point of the simplex
at which |M w| is least.
"""

from dataclasses import dataclass

import torch
from scipy.stats import kendalltau, rankdata
from torch import Tensor

from mbrec.balance import IMTLG, MGDA, MultiBalance
from mbrec.balance.solvers.spectrum import cosine_matrix

# Smaller differences of weights are ties: a solver leaves them at the edge of the simplex.
TIE_DIGITS = 6


@dataclass(frozen=True)
class Agreement:
    """How alike the weights are that a method finds from two Gramians.

    Attributes:
        cosine: between the two vectors of weights; two non-negative ones are seldom far apart.
        distance: half the sum of the absolute differences; on the simplex, the share of the
            weight that lies elsewhere, 0 to 1.
        tau: Kendall's rank correlation (tau-b), or None where one has all weights equal.
        same_ranking: whether the tasks have the same order.
        same_top: whether the task with the largest weight is the same.
    """

    cosine: float
    distance: float
    tau: float | None
    same_ranking: bool
    same_top: bool


def agreement(first_K: Tensor, second_K: Tensor) -> Agreement:
    """Return how alike two vectors of weights are.

    >>> agreement(torch.tensor([0.2, 0.5, 0.3]), torch.tensor([0.1, 0.5, 0.4])).same_ranking
    True
    """
    first_K, second_K = first_K.double(), second_K.double()
    a_K, b_K = (weights_K.numpy().round(TIE_DIGITS) for weights_K in (first_K, second_K))
    tau = float(kendalltau(a_K, b_K)[0])  # pyright: ignore[reportArgumentType] (scipy has no types)
    return Agreement(
        float(torch.nn.functional.cosine_similarity(first_K, second_K, dim=0)),
        float((first_K - second_K).abs().sum() / 2),
        None if tau != tau else tau,
        bool((rankdata(a_K) == rankdata(b_K)).all()),
        bool(a_K.argmax() == b_K.argmax()),
    )


def least_norm_weights(gramian_KK: Tensor) -> Tensor:
    """Return w_M of M'M, the weights of MGDA."""
    return MGDA(len(gramian_KK))(gramian_KK)


def norm(weights_K: Tensor, gramian_KK: Tensor) -> float:
    """Return |M w| from M'M."""
    return float((weights_K @ gramian_KK @ weights_K).clamp_min(0.0).sqrt())


def surrogate_ratio(weights_K: Tensor, gramian_KK: Tensor, best_K: Tensor | None = None) -> float:
    """Return |A B w| / min |A B w| over the simplex, the currency of Lemma 4.1.

    Args:
        weights_K: on the simplex; those of the representation make it a test of the surrogate.
        gramian_KK: of the parameters' gradients.
        best_K: its least-norm weights, where they are known.

    Returns:
        at least 1, but for rounding; 1 is as good as the parameters' own weights. Infinity where
        the least norm is 0 and is missed.
    """
    least = norm(least_norm_weights(gramian_KK) if best_K is None else best_K, gramian_KK)
    reached = norm(weights_K, gramian_KK)
    if least == 0.0:
        return 1.0 if reached == 0.0 else float("inf")
    return reached / least


def stretch(representation_KK: Tensor, parameters_KK: Tensor) -> tuple[float, float] | None:
    """Return the least and the largest |A x| / |x| where x is a combination of the K gradients.

    The lemma and its proof apply A to such combinations alone, so these will do for its s1 and
    s2. They come from the two Gramians, whatever the size of the batch, and s1 is often positive
    where A has no full rank. None where gradients that are not zero depend on each other.
    """
    active_K = representation_KK.diagonal() > 0
    G_KK, H_KK = (g_KK[active_K][:, active_K] for g_KK in (representation_KK, parameters_KK))
    norms_K = G_KK.diagonal().sqrt()
    scale_KK = torch.outer(norms_K, norms_K)
    factor_KK, failed = torch.linalg.cholesky_ex(G_KK / scale_KK)
    if failed or not len(norms_K):
        return None
    half_KK = torch.linalg.solve_triangular(factor_KK, H_KK / scale_KK, upper=False)
    pencil_KK = torch.linalg.solve_triangular(factor_KK, half_KK.T, upper=False)
    values_K = torch.linalg.eigvalsh((pencil_KK + pencil_KK.T) / 2).clamp_min(0.0).sqrt()
    return float(values_K[0]), float(values_K[-1])


def condition(representation_KK: Tensor, parameters_KK: Tensor) -> float | None:
    """Return the lemma's bound of `surrogate_ratio`, s2 / s1 of `stretch`; None without an s1."""
    found = stretch(representation_KK, parameters_KK)
    return found[1] / found[0] if found is not None and found[0] > 0 else None


def cosine_gap(first_KK: Tensor, second_KK: Tensor) -> float:
    """Return the mean absolute difference of the cosines between tasks; 0 for one task."""
    cosines = [cosine_matrix(g_KK, g_KK.diagonal() > 0)[1] for g_KK in (first_KK, second_KK)]
    above = torch.triu_indices(len(first_KK), len(first_KK), 1)
    gaps = (cosines[0] - cosines[1]).abs()[above[0], above[1]]
    return float(gaps.mean()) if gaps.numel() else 0.0


def norm_gap(first_KK: Tensor, second_KK: Tensor) -> float:
    """Return by what factor the ratios of the tasks' norms differ, at most; 1 where they agree."""
    active_K = (first_KK.diagonal() > 0) & (second_KK.diagonal() > 0)
    if not bool(active_K.any()):
        return 1.0
    factors_K = (second_KK.diagonal() / first_KK.diagonal())[active_K].sqrt()
    return float(factors_K.max() / factors_K.min())


class Weighing:
    """The weights of three methods along one sequence of Gramians of K tasks."""

    def __init__(self, num_tasks: int) -> None:
        self._moving = MultiBalance(num_tasks)
        self._momentary = {"MGDA": MGDA(num_tasks), "IMTL-G": IMTLG(num_tasks)}

    def feed(self, gramian_KK: Tensor) -> None:
        """Take the Gramian of the next step."""
        self._moving(gramian_KK)
        self._gramian_KK = gramian_KK

    def weights(self) -> dict[str, Tensor]:
        """Return method -> weights_K at the last step; those of MultiBalance are its running w."""
        found = {name: method(self._gramian_KK) for name, method in self._momentary.items()}
        return {**found, "MultiBalance": self._moving.weight.clone()}
