"""Eigenvalues of K x K matrices, and what is made of them, without host synchronisation.

Shapes: K tasks.
"""

import torch
from torch import Tensor

SWEEPS = 9
# The share of a vector's square that float32 gradients can bring into the range of a Gramian.
NOISE = 1e-10


def eigh(matrix_KK: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues (K,), in no order, and eigenvectors in columns (K, K).

    torch.linalg.eigh reads its status back to the host, which would stop a GPU's queue; there,
    Jacobi rotations with a fixed number of sweeps do it. On a CPU there is nothing to wait for.
    """
    if matrix_KK.is_cpu:
        values_K, vectors_KK = torch.linalg.eigh(matrix_KK)
        return values_K, vectors_KK
    return jacobi(matrix_KK)


def jacobi(matrix_KK: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues and eigenvectors by parallel Jacobi rotations (Brent and Luk 1985).

    >>> values_K, _ = jacobi(torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64))
    >>> values_K.sort().values
    tensor([1., 3.], dtype=torch.float64)
    """
    num_tasks = matrix_KK.shape[0]
    half = (num_tasks + 1) // 2
    odd = 2 * half - num_tasks
    # An odd size gets a zero row and column, which no rotation touches.
    a = torch.nn.functional.pad(matrix_KK, (0, odd, 0, odd))
    v = torch.eye(2 * half, dtype=a.dtype, device=a.device)
    for _ in range(SWEEPS * max(1, 2 * half - 1)):
        cos, sin = _rotations(a, half)
        a = _rotate(_rotate(a, cos, sin, half).mT, cos, sin, half)
        v = _rotate(v, cos, sin, half)
        # The next round pairs other rows: all but the first move on by one place.
        a, v = _move_on(_move_on(a, half).mT, half), _move_on(v, half)
    # The rows of v are eigenvectors; the padding's has nothing but its last entry.
    values, vectors = a.diagonal(), v[:, :num_tasks].mT
    if odd:
        padding = v[:, -1].abs().argmax().view(1)
        kept = (torch.arange(num_tasks, device=a.device) >= padding).to(torch.int64)
        kept = kept + torch.arange(num_tasks, device=a.device)
        values, vectors = values.gather(0, kept), vectors.index_select(1, kept)
    return values, vectors


def _rotations(a: Tensor, half: int) -> tuple[Tensor, Tensor]:
    p, q = a.diagonal()[:half], a.diagonal()[half:]
    off = a[:half, half:].diagonal()
    angle = 0.5 * torch.atan2(2.0 * off, q - p)
    # Of the two angles, the smaller one makes the sweeps converge.
    angle = angle - torch.where(angle.abs() > torch.pi / 4, angle.sign() * (torch.pi / 2), 0.0)
    return angle.cos()[:, None], angle.sin()[:, None]


def _rotate(a: Tensor, cos: Tensor, sin: Tensor, half: int) -> Tensor:
    top, bottom = a[:half], a[half:]
    return torch.cat([cos * top - sin * bottom, sin * top + cos * bottom])


def _move_on(a: Tensor, half: int) -> Tensor:
    top, bottom = a[:half], a[half:]
    if half == 1:
        return a
    return torch.cat([top[:1], bottom[:1], top[1:-1], bottom[1:], top[-1:]])


def nonzero(values_K: Tensor) -> Tensor:
    """Return which eigenvalues are more than the rounding of float32 gradients leaves."""
    return values_K > values_K.max() * len(values_K) * torch.finfo(torch.float32).eps


def pseudo_inverse_times(matrix_KK: Tensor, vector_K: Tensor) -> Tensor:
    """Return matrix^+ vector for a symmetric positive matrix; 0 for a vector outside its range.

    What float32 gradients leave of such a vector is rounding, and must not pass for a direction.
    """
    values_K, vectors_KK = eigh(matrix_KK)
    kept_K = nonzero(values_K)
    along_K = torch.where(kept_K, vectors_KK.mT @ vector_K, 0.0)
    within = along_K.square().sum() > NOISE * vector_K.square().sum()
    inverse_K = torch.where(kept_K & within, 1.0 / values_K, 0.0)
    return vectors_KK @ (inverse_K * along_K)


def cosine_matrix(gramian_KK: Tensor, active_K: Tensor) -> tuple[Tensor, Tensor]:
    """Return norms (K,) and cosines (K, K); an inactive task has norm 1 and cosine 0."""
    norms_K = torch.where(active_K, gramian_KK.diagonal(), 1.0).sqrt()
    both_KK = active_K & active_K[:, None]
    return norms_K, torch.where(both_KK, gramian_KK / (norms_K * norms_K[:, None]), 0.0)


def unit_gramian(gramian_KK: Tensor, active_K: Tensor) -> tuple[Tensor, Tensor]:
    """Return the Gramian over its mean diagonal, and that mean, both over the active tasks.

    Gramians of representations have a trace of 1e-6 or less; solvers want numbers of size 1.
    """
    diagonal_K = torch.where(active_K, gramian_KK.diagonal(), 0.0)
    mean = diagonal_K.sum() / active_K.sum().clamp_min(1)
    mean = torch.where(mean > 0, mean, 1.0)
    both_KK = active_K & active_K[:, None]
    return torch.where(both_KK, gramian_KK / mean, 0.0), mean


def uniform_over(active_K: Tensor) -> Tensor:
    """Return 1 / number of active tasks for those, 0 for the others; float64."""
    return active_K.double() / active_K.sum().clamp_min(1)
