"""The passes over the K gradients: their inner products, and their weighted sum.

Shapes: K tasks. A row is a task's gradient, in as many parts as the representation has.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

# Elements of a row that are multiplied with all other rows while they are in a CPU's cache.
CHUNK = 1 << 18


def gramian(rows_K: Sequence[tuple[Tensor, ...]]) -> Tensor:
    """Return the inner products (K, K), float64; products and sums in float32 or better.

    Reads the rows and copies none of them (but rows of 16 bits, which are widened, and rows that
    are not contiguous).
    """
    num_tasks = len(rows_K)
    pairs = [(i, j) for i in range(num_tasks) for j in range(i, num_tasks)]
    total = None
    for parts_K in zip(*rows_K, strict=True):
        flat_K = [at_least_float32(part).reshape(-1) for part in parts_K]
        chunk = CHUNK if flat_K[0].is_cpu else max(1, flat_K[0].numel())
        for chunks_K in zip(*(flat.split(chunk) for flat in flat_K), strict=True):
            dots = torch.stack([torch.dot(chunks_K[i], chunks_K[j]) for i, j in pairs]).double()
            total = dots if total is None else total + dots
    assert total is not None
    entry = {pair: index for index, pair in enumerate(pairs)}
    order = [entry[min(i, j), max(i, j)] for i in range(num_tasks) for j in range(num_tasks)]
    values = total.unbind()
    return torch.stack([values[index] for index in order]).view(num_tasks, num_tasks)


def at_least_float32(grad: Tensor) -> Tensor:
    """Return a gradient of 16 bits in float32, another one as it is."""
    return grad.float() if grad.dtype in (torch.float16, torch.bfloat16) else grad


def constant_sum(grads_K: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the weighted sum in autograd's own order: last task first, one at a time."""
    scaled = [g if w == 1.0 else g * w for g, w in zip(grads_K, weights, strict=True)]
    merged = scaled[-1]
    for grad in reversed(scaled[:-1]):
        merged = merged + grad
    return merged


def weighted_sum(
    grads_K: Sequence[Tensor], weights_K: Tensor, ok: Tensor, filler: float = 0.0
) -> Tensor:
    """Return the weighted sum, or `filler` everywhere where not `ok`; in one new tensor."""
    first = at_least_float32(grads_K[-1])
    weights = weights_K.to(first.dtype).unbind()
    merged = first * weights[-1]
    for grad, weight in zip(reversed(grads_K[:-1]), reversed(weights[:-1]), strict=True):
        merged.addcmul_(grad, weight)
    return filled_unless(ok, merged.to(grads_K[-1].dtype), filler)


def filled_unless(ok: Tensor, merged: Tensor, filler: float) -> Tensor:
    """Return `merged`, filled with one number in place where not `ok`."""
    # 0 * nan is nan: only a fill keeps a non-finite gradient out of the fused tables. Reading
    # the flag would wait for a GPU; on a CPU it is there, and spares a pass.
    return merged if ok.is_cpu and bool(ok) else merged.masked_fill_(~ok, filler)
