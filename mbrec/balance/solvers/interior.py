"""A small convex solver without host synchronisation, shared by several balancers.

Shapes: K tasks; leading dimensions "..." are problems that are solved side by side.
"""

from collections.abc import Callable

import torch
from torch import Tensor

STEPS = 20
# The barrier shrinks by this a step, down to the floor; problems are scaled to size 1.
SHRINK, FLOOR = 0.03, 1e-18
# On the matrix alone: keeps it regular where rows depend on each other, and moves no solution.
RIDGE = 1e-12
TO_BOUNDARY = 0.995

Derivatives = Callable[[Tensor], tuple[Tensor, Tensor]]


def minimise(
    derivatives: Derivatives, start: Tensor, *, simplex: bool, free: int = 0, steps: int = STEPS
) -> Tensor:
    """Return the minimiser of a convex function over x >= 0, and over sum(x) = 1 if asked for.

    A primal-dual interior point method with a fixed number of steps (Nocedal and Wright 2006,
    chapter 14). Where several points are minimal it returns their centre, so that equal tasks
    get equal weights.

    Args:
        derivatives: x (..., K) -> gradient (..., K) and Hessian (..., K, K), of size about 1.
        start: (..., K), positive; sums to 1 if `simplex`.
        simplex: whether the coordinates sum to 1.
        free: so many of the last coordinates are outside that sum.
        steps: more than the default only where the function is not quadratic.

    >>> Q = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    >>> half = torch.full((2,), 0.5, dtype=torch.float64)
    >>> minimise(lambda x: (x @ Q, Q), half, simplex=True)
    tensor([0.3333, 0.6667], dtype=torch.float64)
    """
    x, slack = start, torch.ones_like(start)
    price = torch.zeros_like(x[..., :1])
    ones = torch.ones_like(x)
    if free:
        ones[..., -free:] = 0.0
    for _ in range(steps):
        gradient, hessian = derivatives(x)
        target = (SHRINK * (x * slack).mean(-1, keepdim=True)).clamp_min(FLOOR)
        ratio = slack / x
        pull = target / x
        matrix = hessian.clone(memory_format=torch.contiguous_format)
        matrix.diagonal(dim1=-2, dim2=-1).add_(ratio).add_(RIDGE)
        residual = torch.addcmul(pull - gradient, price, ones)
        sides = torch.stack([residual, ones], -1) if simplex else residual.unsqueeze(-1)
        solved, _ = torch.linalg.solve_ex(matrix, sides)
        dx = solved[..., 0]
        if simplex:
            along = solved[..., 1]
            missing = 1.0 - ((x + dx) * ones).sum(-1, keepdim=True)
            rise = missing / (along * ones).sum(-1, keepdim=True)
            dx = dx + rise * along
        else:
            rise = torch.zeros_like(price)
        x, slack, length = _move(x, slack, dx, pull - slack - ratio * dx)
        price = price + length * rise
    return x


def _move(x: Tensor, slack: Tensor, dx: Tensor, ds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the next point, short of the nearest boundary, and how much of the step it takes."""
    point, step = torch.cat([x, slack], -1), torch.cat([dx, ds], -1)
    nearest = (-step / point).amax(-1, keepdim=True)
    length = TO_BOUNDARY / nearest.clamp_min(TO_BOUNDARY)
    x, slack = (point + length * step).chunk(2, -1)
    return x, slack, length


def isolate(matrix_KK: Tensor, active_K: Tensor) -> tuple[Tensor, Tensor]:
    """Return a matrix and a cost under which inactive coordinates go to 0 and touch no other.

    Args:
        matrix_KK: zero in the rows and columns of the inactive tasks.
        active_K: bool.
    """
    cost_K = torch.where(active_K, 0.0, 10.0).to(matrix_KK.dtype)
    return matrix_KK + torch.diag_embed(0.1 * cost_K), cost_K
