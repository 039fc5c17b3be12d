"""What the hook adds to a step, at the boundary alone: a step that does nothing else.

Shapes: B batch, K tasks, H representation.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from mbrec.balance import BalanceHook
from mbrec.monitor.timing import PartClock, Spread, interleave, spread

BANDWIDTH_BYTES = 1 << 28


@dataclass(frozen=True)
class Size:
    """K tasks, B rows and H features of the representation."""

    num_tasks: int
    batch: int
    width: int

    @property
    def bytes_of_gradient(self) -> int:
        """Size of one task's gradient in float32."""
        return 4 * self.batch * self.width

    @property
    def least_bytes(self) -> int:
        """What any balancer moves: it reads K gradients twice, and writes one."""
        return (2 * self.num_tasks + 1) * self.bytes_of_gradient


@dataclass(frozen=True)
class Added:
    """What a hook adds to the boundary step, in seconds, and the time inside the hook itself."""

    added: Spread
    inside: Spread


class Boundary:
    """K heads that only scale the representation, so that a step is little but the boundary."""

    def __init__(self, size: Size, device: torch.device) -> None:
        torch.manual_seed(0)
        self.shared_BH = torch.randn(size.batch, size.width, device=device, requires_grad=True)
        self.rows_KBH = [torch.randn_like(self.shared_BH) for _ in range(size.num_tasks)]
        self.losses_K = torch.linspace(0.1, 0.5, size.num_tasks, device=device)

    def step(self, hook: BalanceHook | None) -> None:
        """Run forward and backward once."""
        views = (self.shared_BH,) * len(self.rows_KBH) if hook is None else hook(self.shared_BH)
        if hook is not None:
            hook.observe(self.losses_K)
        heads = zip(views, self.rows_KBH, strict=True)
        loss = torch.stack([(view * row).sum() for view, row in heads]).sum()
        loss.backward()
        self.shared_BH.grad = None


def copy_bandwidth(device: torch.device, wait: Callable[[], object]) -> float:
    """Return the bytes per second that a copy of tensors beyond any cache reads and writes."""
    source = torch.zeros(BANDWIDTH_BYTES // 4, device=device)
    target = torch.empty_like(source)
    (seconds,) = interleave([lambda: target.copy_(source)], wait, rounds=15)
    return 2 * BANDWIDTH_BYTES / spread(seconds).median


def added_time(
    hook: BalanceHook, size: Size, device: torch.device, wait: Callable[[], object], *, rounds: int
) -> Added:
    """Return what a hook adds: steps with and without it take turns, in random order."""
    boundary = Boundary(size, device)
    on, off = interleave(
        [lambda: boundary.step(hook), lambda: boundary.step(None)], wait, rounds=rounds, warmup=3
    )
    inside = []
    for _ in range(rounds):
        clock = PartClock(wait)
        hook.mark_parts(clock)
        boundary.step(hook)
        inside.append(clock.inside)
    hook.mark_parts(None)
    return Added(spread([a - b for a, b in zip(on, off, strict=True)]), spread(inside))


def sync_free(hook: BalanceHook, size: Size, device: torch.device) -> bool:
    """Return whether a step never makes the host wait for a GPU."""
    boundary = Boundary(size, device)
    boundary.step(hook)
    torch.cuda.set_sync_debug_mode("error")
    try:
        boundary.step(hook)
    except RuntimeError:
        return False
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return True


def fits(size: Size, limit_bytes: float) -> bool:
    """Return whether rows, gradients and what autograd keeps of them fit into a memory."""
    return (3 * size.num_tasks + 3) * size.bytes_of_gradient < limit_bytes
