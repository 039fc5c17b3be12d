"""The Jacobian of the representation, and Lemma 4.1 and Theorem 1 of the paper on its numbers.

Shapes: n rows, H representation, K tasks, P parameters. A (P, nH) is the transposed Jacobian
dZ/dtheta, Z (K, nH) has the gradients of the representation as rows, so that A Z' are the tasks'
gradients of the parameters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from research.fidelity.agreement import least_norm_weights

# Of the largest singular value; float64 leaves 1e-15.
ZERO = 1e-9


@dataclass(frozen=True)
class Spectrum:
    """Singular values of A, and the sides of the paper's inequalities.

    Attributes:
        num_parameters: P.
        num_outputs: nH.
        num_dead: units of the representation, of all rows, on which no parameter has an effect.
        num_zeros: singular values that are 0, those of the dead units included; A has no more
            than P others.
        largest: s2.
        smallest_positive: the least that is not 0; s1 where none is.
        conditions: number of rows -> s2 / s1 of those that are not 0, on the first rows alone.
        curve: all singular values in descending order, 101 points.
        lemma: the five sides of Lemma 4.1, in ascending order.
        lemma_live: the same without the dead units, which leaves A B as it is; s1 is then that of
            the other columns.
        theorem: the four sides of Theorem 1, with the batch for the population.
    """

    step: int
    num_parameters: int
    num_outputs: int
    num_dead: int
    num_zeros: int
    largest: float
    smallest_positive: float
    conditions: list[tuple[int, float]]
    curve: list[float]
    lemma: list[float]
    lemma_live: list[float]
    theorem: list[float]

    @property
    def condition(self) -> float:
        """s2 / s1 among the singular values that are not 0."""
        return self.largest / self.smallest_positive

    @property
    def holds(self) -> bool:
        """Whether the chains ascend, up to rounding."""
        return all(map(ascends, (self.lemma, self.lemma_live, self.theorem)))


def jacobian(module: nn.Module, inputs_nI: Tensor) -> Tensor:
    """Return A of a module (P, nH): one backward pass per number of the representation."""
    parameters, columns = list(module.parameters()), []
    for number in module(inputs_nI).flatten():
        grads = torch.autograd.grad(number, parameters, retain_graph=True, materialize_grads=True)
        columns.append(torch.cat([grad.flatten() for grad in grads]))
    return torch.stack(columns, 1)


def lemma(A: Tensor, rows_KN: Tensor, singular: tuple[float, float]) -> list[float]:
    """Return the five sides of Lemma 4.1: s1 |B w_B|, s1 |B w_AB|, |AB w_AB|, |AB w_B|, s2 |B w_B|.

    Args:
        A: (P, N).
        rows_KN: B', the gradients of the representation.
        singular: s1 and s2, bounds of |A x| / |x|.
    """
    B, AB = rows_KN.T, A @ rows_KN.T
    of_B, of_AB = least_norm_weights(B.T @ B), least_norm_weights(AB.T @ AB)
    s1, s2 = singular
    B_of_B, B_of_AB = (float((B @ weights_K).norm()) for weights_K in (of_B, of_AB))
    AB_of_B, AB_of_AB = (float((AB @ weights_K).norm()) for weights_K in (of_B, of_AB))
    return [s1 * B_of_B, s1 * B_of_AB, AB_of_AB, AB_of_B, s2 * B_of_B]


def theorem(
    A: Tensor, rows_KN: Tensor, population_KP: Tensor, singular: tuple[float, float]
) -> list[float]:
    """Return the four sides of Theorem 1, which bounds the least |grad F w| from both sides.

    s1 |Z'w| - e, min |grad F w|, |grad F w| and s2 |Z'w| + e, with w the least-norm weights of
    the representation and e the largest residual of eq. 9, the distance of a task's gradient over
    the population to that of the batch.

    Args:
        A: (P, N).
        rows_KN: Z, of the batch.
        population_KP: the tasks' gradients of the parameters over the population.
        singular: s1 and s2.
    """
    population = population_KP.T
    residual = float((population - A @ rows_KN.T).norm(dim=0).max())
    of_Z = least_norm_weights(rows_KN @ rows_KN.T)
    of_F = least_norm_weights(population_KP @ population)
    least, (s1, s2) = float((rows_KN.T @ of_Z).norm()), singular
    reached = (float((population @ weights_K).norm()) for weights_K in (of_F, of_Z))
    return [s1 * least - residual, *reached, s2 * least + residual]


def ascends(sides: Sequence[float], tolerance: float = 1e-9) -> bool:
    """Return whether numbers ascend, up to a share of the largest."""
    slack = tolerance * max(abs(side) for side in sides)
    return all(a <= b + slack for a, b in pairwise(sides))


def spectrum(
    step: int, module: nn.Module, inputs_nI: Tensor, grads_KnH: Tensor, population_KP: Tensor
) -> Spectrum:
    """Return the spectrum of a module's Jacobian on a few rows, and the paper's inequalities.

    Args:
        step: of training.
        module: maps (n, I) to (n, H); as all tensors in float64.
        inputs_nI: of the module.
        grads_KnH: gradients of the representation of the mean loss over the rows.
        population_KP: gradients of the module's parameters over many more rows.
    """
    A, rows_KN = jacobian(module, inputs_nI), grads_KnH.flatten(1)
    # A is far taller than wide: what is left of it after QR has its singular values.
    R, width = torch.linalg.qr(A, mode="r").R, A.shape[1] // len(inputs_nI)
    values = _singular_values(R)
    positive = _positive(values)
    num_zeros = len(values) - len(positive)
    powers = [2**i for i in range(len(inputs_nI).bit_length())]
    parts = {rows: _positive(_singular_values(R[:, : rows * width])) for rows in powers}
    live = (A != 0).any(0)
    num_dead = int((~live).sum())
    least, s2 = float(positive[-1]), float(values[0])
    bounds = (0.0 if num_zeros else least, s2)
    of_live = (0.0 if num_zeros > num_dead else least, s2)
    places = torch.linspace(0, len(values) - 1, 101).round().long()
    return Spectrum(
        step=step,
        num_parameters=A.shape[0],
        num_outputs=A.shape[1],
        num_dead=num_dead,
        num_zeros=num_zeros,
        largest=s2,
        smallest_positive=least,
        conditions=[(rows, float(part[0] / part[-1])) for rows, part in parts.items()],
        curve=values.where(values > ZERO * s2, 0.0)[places].tolist(),
        lemma=lemma(A, rows_KN, bounds),
        lemma_live=lemma(A[:, live], rows_KN[:, live], of_live),
        theorem=theorem(A, rows_KN, population_KP, bounds),
    )


def _singular_values(matrix: Tensor) -> Tensor:
    """Return as many singular values as there are columns, in descending order."""
    values = torch.linalg.svdvals(matrix)
    return torch.cat([values, values.new_zeros(matrix.shape[1] - len(values))])


def _positive(values: Tensor) -> Tensor:
    return values[values > ZERO * values[0]]
