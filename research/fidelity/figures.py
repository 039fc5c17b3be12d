"""The figures of a training run that was watched: of its steps, and of its parameters at the end.

Shapes: K tasks.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from research.fidelity.agreement import (
    Agreement,
    agreement,
    condition,
    cosine_gap,
    least_norm_weights,
    norm,
    norm_gap,
    surrogate_ratio,
)
from research.fidelity.gradients import StepGradients
from research.fidelity.spectrum import Spectrum


@dataclass(frozen=True)
class Figures:
    """One step, and the parameters of one of `TARGETS`.

    Attributes:
        weights: method -> agreement of its weights at the representation and at the target.
        surrogate: |AB w_B| / min |AB w|: 1 if the representation's least-norm weights are as
            good for the target's gradients as the target's own.
        live: the same, with the least-norm weights of the representation's units that are not 0.
        uniform: the same, with equal weights.
        bound: s2 / s1 on what the K gradients span, the lemma's bound of `surrogate`; or None.
        cosine_gap: mean absolute difference of the cosines between tasks.
        norm_gap: by what factor the ratios of the tasks' norms differ.
        residuals: task by task, the estimated residual of eq. 9 over the norm of the gradient.
        residual_over_least: the largest residual over min |AB w|; above 1 the lower bound of
            Theorem 1 is negative, and says nothing.
        dead: task by task, the share of the representation's squared gradient at units that
            are 0, which reaches no parameter.
    """

    step: int
    target: str
    weights: dict[str, Agreement]
    surrogate: float
    live: float
    uniform: float
    bound: float | None
    cosine_gap: float
    norm_gap: float
    residuals: list[float]
    residual_over_least: float | None
    dead: list[float]


@dataclass(frozen=True)
class Frozen:
    """The worth of the weights of batches of one size, at parameters that stand still.

    The population is all rows that were read; means are over the batches that it is cut into.

    Attributes:
        ratio: `Figures.surrogate`, median over the batches.
        bound: `Figures.bound`, median over the batches.
        residual: root mean square of eq. 9's residual over that of the gradient, mean of tasks.
        representation: |grad F w| / min |grad F w| on the population's gradients, with w the
            least-norm weights of a batch's representation gradients; mean.
        own: the same with those of the batch's parameter gradients.
        uniform: the same with equal weights.
    """

    rows: int
    target: str
    ratio: float
    bound: float | None
    residual: float
    representation: float
    own: float
    uniform: float


@dataclass(frozen=True)
class Run:
    """The figures of one training run.

    Attributes:
        batch_size: rows per step, of all ranks.
        figures: of each measured step and target.
        spectra: of the interaction module at the first, a middle and the last step.
        frozen: of the trained model, by batch size and target; not of all variants.
    """

    variant: str
    seed: int
    batch_size: int
    steps: int
    tasks: list[str]
    figures: list[Figures] = field(default_factory=list)
    spectra: list[Spectrum] = field(default_factory=list)
    frozen: list[Frozen] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)

    @classmethod
    def of(cls, plain: dict[str, Any]) -> "Run":
        """Return the run of which `plain` returned the values."""
        figures = [
            Figures(**{**f, "weights": {m: Agreement(**a) for m, a in f["weights"].items()}})
            for f in plain["figures"]
        ]
        spectra = [Spectrum(**found) for found in plain["spectra"]]
        frozen = [Frozen(**found) for found in plain["frozen"]]
        return cls(**{**plain, "figures": figures, "spectra": spectra, "frozen": frozen})


def figures_of(
    step: int,
    target: str,
    found: StepGradients,
    own: Mapping[str, Tensor],
    theirs: Mapping[str, Tensor],
) -> Figures:
    """Return the figures of a step and a target.

    Args:
        step: its number, from 1.
        target: one of `TARGETS`.
        found: the gradients of the step.
        own: method -> weights_K at the representation.
        theirs: method -> weights_K at the target.
    """
    Z_KK = found.representation_KK
    G_KK, residuals_K = found.parameters_KK[target], found.residuals_K[target]
    uniform_K = torch.full_like(own["MGDA"], 1 / len(own["MGDA"]))
    least = norm(theirs["MGDA"], G_KK)
    return Figures(
        step,
        target,
        {method: agreement(own[method], theirs[method]) for method in own},
        surrogate=surrogate_ratio(own["MGDA"], G_KK, theirs["MGDA"]),
        live=surrogate_ratio(least_norm_weights(found.live_KK), G_KK, theirs["MGDA"]),
        uniform=surrogate_ratio(uniform_K, G_KK, theirs["MGDA"]),
        bound=condition(Z_KK, G_KK),
        cosine_gap=cosine_gap(Z_KK, G_KK),
        norm_gap=norm_gap(Z_KK, G_KK),
        residuals=_shares(residuals_K, G_KK.diagonal().sqrt()),
        residual_over_least=float(residuals_K.max()) / least if least > 0 else None,
        dead=[1 - live for live in _shares(found.live_KK.diagonal(), Z_KK.diagonal())],
    )


def _shares(part_K: Tensor, whole_K: Tensor) -> list[float]:
    return torch.where(whole_K > 0, part_K / whole_K, 1.0).tolist()
