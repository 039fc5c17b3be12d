"""The hook at the boundary: one autograd node that merges K task gradients into one.

Shapes: B batch, K tasks, H representation. W ranks of a process group.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mbrec.balance.balancer import Balancer
from mbrec.balance.ranks import sum_over_ranks, world_size

Representation = Tensor | tuple[Tensor, ...]


class BalanceHook(nn.Module):
    """Fans a shared representation out to K views and merges their gradients (He et al. 2024).

    Forward gives K views of the representation, one a task head, without a copy. In the ordinary
    backward pass the K gradients arrive here together; their K x K Gramian over the global batch
    (one small collective) goes to the balancer; the weighted sum of the gradients goes on into the
    shared bottom. The heads' own gradients pass untouched. In eval mode, under `no_grad` and
    where the representation needs no gradient the hook is the identity.

    Nothing is synchronised with the host. Backward must reach the hook once a forward, and each
    rank of the group must run it equally often: the sum over ranks is a collective.

    Args:
        balancer: what turns the Gramian into weights.
        task_names: K names that the state is saved by; default "0" .. "K-1".
        process_group: the ranks that hold slices of one global batch; default: the default group
            where torch.distributed is initialised, else this process alone. Give the hook a
            group of its own where other collectives run during backward.
        statistics: compute the Gramian also for a balancer that does not need it (`Equal`), to
            watch norms and cosines. Without it such a balancer costs nothing, checks nothing for
            finiteness, and leaves `gramian` None.

    Attributes:
        weights: float64 (K,), the effective weights on the raw gradients in the last backward.
        gramian: float64 (K, K), inner products over the global batch, or None before the first.
        losses: float64 (K,), the observed losses over the global batch, or None.
        ok: bool tensor, False where the last backward met a non-finite value; it then merged to
            zero and changed no state.
        skipped: int64 tensor, how often that has happened.
        loss_scale: what the loss was multiplied by (AMP); statistics are divided by it.

    Raises:
        ValueError: if it is no balancer, or task_names does not fit it.
    """

    def __init__(
        self,
        balancer: Balancer,
        *,
        task_names: Sequence[str] | None = None,
        process_group: dist.ProcessGroup | None = None,
        statistics: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(balancer, Balancer):
            raise ValueError(f"expected a Balancer, got {balancer!r}")
        self.balancer = balancer
        if task_names is not None:
            balancer.name_tasks(task_names)
        self.process_group = process_group
        self.statistics = statistics or balancer.constant_weights is None
        self.loss_scale: float | Tensor = 1.0
        constant = balancer.constant_weights or (0.0,) * balancer.num_tasks
        self.weights: Tensor
        self.register_buffer("weights", torch.tensor(constant).double(), persistent=False)
        self.gramian: Tensor | None = None
        self.losses: Tensor | None = None
        self.ok: Tensor
        self.register_buffer("ok", torch.tensor(True), persistent=False)
        self.skipped: Tensor
        self.register_buffer("skipped", torch.tensor(0), persistent=False)
        self._observed: tuple[Tensor, Tensor | None] | None = None

    def forward(self, shared: Representation) -> tuple[Representation, ...]:
        """Return K views of the representation, in task order.

        Args:
            shared: a tensor with the batch first, or a tuple of them (their Gramians add).

        Raises:
            ValueError: if it is neither.
        """
        num_tasks = self.balancer.num_tasks
        parts = shared if isinstance(shared, tuple) else (shared,)
        if not parts or not all(isinstance(part, Tensor) for part in parts):
            raise ValueError(f"expected a tensor or a tuple of tensors, got {type(shared)}")
        needs_grad = torch.is_grad_enabled() and any(part.requires_grad for part in parts)
        if not (self.training and needs_grad):
            return (shared,) * num_tasks
        views = _FanOut.apply(self, *parts)
        if not isinstance(shared, tuple):
            return views
        size = len(parts)
        return tuple(views[k * size : (k + 1) * size] for k in range(num_tasks))

    def observe(self, losses_K: Tensor, counts_K: Tensor | None = None) -> None:
        """Tell the hook this batch's losses, between forward and backward.

        Args:
            losses_K: this rank's losses; the global loss is their mean over the ranks.
            counts_K: unmasked samples of each task in the *global* batch, where it is known; a
                task with none keeps its state.
        """
        self._observed = (losses_K.detach(), counts_K)

    @property
    def grad_norms(self) -> Tensor | None:
        """Norms of the K raw gradients over the global batch, float64 (K,)."""
        return None if self.gramian is None else self.gramian.diagonal().sqrt()

    @property
    def cosines(self) -> Tensor | None:
        """Cosines between the K raw gradients, float64 (K, K); 0 where a gradient is zero."""
        norms_K = self.grad_norms
        if norms_K is None or self.gramian is None:
            return None
        inverse_K = torch.where(norms_K > 0, 1.0 / norms_K, 0.0)
        return self.gramian * inverse_K * inverse_K[:, None]

    def adapt_state_dict(
        self,
        state_dict: Mapping[str, Tensor],
        *,
        new: Iterable[str] = (),
        dropped: Iterable[str] = (),
    ) -> dict[str, Tensor]:
        """Return a saved state of other tasks, made to fit this hook's.

        A new task starts at its prior share, and the others' weights are rescaled to make room;
        a dropped task's weight is shared among the rest in proportion.

        Args:
            state_dict: what `state_dict()` of the earlier hook gave.
            new: the tasks of this hook that the saved state does not have.
            dropped: the tasks of the saved state that this hook does not have.

        Raises:
            ValueError: if a task is new or dropped without being named so.
        """
        own = self.state_dict()
        new, dropped = set(new), set(dropped)
        states = self.balancer.task_states()
        gone = {f"balancer.{state}.{task}" for state in states for task in dropped}
        adapted = {key: value.clone() for key, value in state_dict.items() if key not in gone}
        for key in (f"balancer.{state}.{task}" for state in states for task in new):
            if key in own and key not in adapted:
                adapted[key] = own[key].clone()
        if adapted.keys() != own.keys():
            raise ValueError(
                f"expected the saved tasks to differ by new={sorted(new)} and "
                f"dropped={sorted(dropped)}, got differences in "
                f"{sorted(adapted.keys() ^ own.keys())}"
            )
        shares = {t: self.balancer.initial_share(t) for t in self.balancer.task_names}
        _rescale_weights(adapted, shares, new)
        return adapted

    def _backward(self, grads_K: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        observed, self._observed = self._observed, None
        constant = self.balancer.constant_weights
        if constant is not None and not self.statistics:
            return tuple(_constant_sum(grads, constant) for grads in zip(*grads_K, strict=True))
        losses_K, counts_K = (None, None) if observed is None else observed
        self.gramian, self.losses = self._reduce(_gramian(grads_K), losses_K)
        active_K = None if counts_K is None else counts_K > 0
        self.weights = self.balancer(self.gramian, losses_K=self.losses, active_K=active_K)
        self.ok = self.balancer.ok
        self.skipped += ~self.ok
        return tuple(
            _weighted_sum(grads, self.weights, self.ok) for grads in zip(*grads_K, strict=True)
        )

    def _reduce(self, gramian_KK: Tensor, losses_K: Tensor | None) -> tuple[Tensor, Tensor | None]:
        # A loss is the mean of the ranks' losses, so each rank's rows carry 1/W (hence 1/W^2).
        num_tasks = self.balancer.num_tasks
        if losses_K is None:
            packed = gramian_KK.flatten()
        else:
            packed = torch.cat([gramian_KK.flatten(), losses_K.double()])
        packed = sum_over_ranks(packed, self.process_group)
        ranks = world_size(self.process_group)
        total_KK = packed[: num_tasks**2].view(num_tasks, num_tasks)
        gramian_KK = total_KK / (ranks * self.loss_scale) ** 2
        return gramian_KK, None if losses_K is None else packed[num_tasks**2 :] / ranks


class _FanOut(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hook: BalanceHook, *parts: Tensor) -> tuple[Tensor, ...]:
        ctx.hook = hook
        return tuple(part.view_as(part) for _ in range(hook.balancer.num_tasks) for part in parts)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] (as torch documents it)
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, ...]:
        num_tasks = ctx.hook.balancer.num_tasks
        size = len(grads) // num_tasks
        rows = [grads[k * size : (k + 1) * size] for k in range(num_tasks)]
        return (None, *ctx.hook._backward(rows))


def _gramian(grads_K: list[tuple[Tensor, ...]]) -> Tensor:
    """Return the local inner products, float64; products and sums in float32 or better."""
    flat_K = [[_at_least_float32(part).reshape(-1) for part in grads] for grads in grads_K]
    num_tasks = len(flat_K)
    rows = []
    for i in range(num_tasks):
        for j in range(num_tasks):
            if j < i:
                rows.append(rows[j * num_tasks + i])
            else:
                dots = [torch.dot(a, b) for a, b in zip(flat_K[i], flat_K[j], strict=True)]
                rows.append(sum(dots[1:], dots[0].double()))
    return torch.stack(rows).view(num_tasks, num_tasks)


def _at_least_float32(grad: Tensor) -> Tensor:
    return grad.float() if grad.dtype in (torch.float16, torch.bfloat16) else grad


def _constant_sum(grads: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    # Last task first, one at a time: the order in which autograd itself adds K branches.
    scaled = [g if w == 1.0 else g * w for g, w in zip(grads, weights, strict=True)]
    merged = scaled[-1]
    for grad in reversed(scaled[:-1]):
        merged = merged + grad
    return merged


def _weighted_sum(grads: Sequence[Tensor], weights_K: Tensor, ok: Tensor) -> Tensor:
    weights = weights_K.to(_at_least_float32(grads[0]).dtype).unbind()
    merged = grads[-1] * weights[-1]
    for grad, weight in zip(reversed(grads[:-1]), reversed(weights[:-1]), strict=True):
        merged.addcmul_(grad, weight)
    # 0 * nan is nan: only a fill keeps a non-finite gradient out of the fused tables.
    return merged.masked_fill_(~ok, 0.0)


def _rescale_weights(
    state: dict[str, Tensor], shares: Mapping[str, float | None], new: set[str]
) -> None:
    """Give new tasks their prior share of the weight, and the kept ones the rest."""
    known = {task: share for task, share in shares.items() if share is not None}
    room = 1.0 - sum(share for task, share in known.items() if task in new)
    kept = {task: state[f"balancer.weight.{task}"] for task in known if task not in new}
    total = sum(float(weight) for weight in kept.values())
    prior = sum(known[task] for task in kept)
    for task, weight in kept.items():
        # A dropped task may have held all the weight; the others then start over.
        share = float(weight) / total if total > 0 else known[task] / prior
        weight.fill_(room * share)
    for task in new & known.keys():
        state[f"balancer.weight.{task}"].fill_(known[task])
