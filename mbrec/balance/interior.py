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


def minimise(derivatives: Derivatives, start: Tensor, active: Tensor, *, simplex: bool) -> Tensor:
    """Return the minimiser of a convex function over x >= 0, and over sum(x) = 1 if asked for.

    A primal-dual interior point method with a fixed number of steps (Nocedal and Wright 2006,
    chapter 14). Where several points are minimal it returns their centre, so that equal tasks
    get equal weights.

    Args:
        derivatives: x (..., K) -> gradient (..., K) and Hessian (..., K, K), of size about 1.
        start: (..., K), positive where active; sums to 1 over the active ones if `simplex`.
        active: bool, (..., K); the other coordinates come out 0.
        simplex: whether the coordinates sum to 1.

    >>> Q = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    >>> half = torch.full((2,), 0.5, dtype=torch.float64)
    >>> minimise(lambda x: (x @ Q, Q), half, half > 0, simplex=True)
    tensor([0.3333, 0.6667], dtype=torch.float64)
    """
    x = torch.where(active, start, 1.0)
    slack = torch.ones_like(x)
    price = torch.zeros_like(x[..., :1])
    among = active.to(x.dtype)
    count = among.sum(-1, keepdim=True).clamp_min(1.0)
    both = among.unsqueeze(-1) * among.unsqueeze(-2)
    for _ in range(STEPS):
        gradient, hessian = derivatives(x * among)
        barrier = (x * slack * among).sum(-1, keepdim=True) / count
        target = (SHRINK * barrier).clamp_min(FLOOR)
        ratio = torch.where(active, slack / x, 1.0)
        matrix = hessian * both + torch.diag_embed(ratio + RIDGE)
        residual = (target / x + price - gradient) * among
        sides = torch.stack([residual, among], -1) if simplex else residual.unsqueeze(-1)
        solved, _ = torch.linalg.solve_ex(matrix, sides)
        dx = solved[..., 0]
        if simplex:
            along = solved[..., 1]
            missing = 1.0 - (x * among).sum(-1, keepdim=True)
            rise = (missing - dx.sum(-1, keepdim=True)) / along.sum(-1, keepdim=True)
            dx, price_step = dx + rise * along, rise
        else:
            price_step = torch.zeros_like(price)
        ds = torch.where(active, target / x - slack - ratio * dx, 0.0)
        length = _longest_step(torch.cat([x, slack], -1), torch.cat([dx, ds], -1))
        x, slack = x + length * dx, slack + length * ds
        price = price + length * price_step
    return x * among


def _longest_step(point: Tensor, step: Tensor) -> Tensor:
    limits = torch.where(step < 0, -point / step, torch.inf)
    return (TO_BOUNDARY * limits.amin(-1, keepdim=True)).clamp_max(1.0)
