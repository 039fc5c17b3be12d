"""The contracts: what a balancer is, by what it needs to see of the K gradients.

Shapes: B batch, K tasks, P parameters. A row is a task's gradient.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mbrec.balance.arguments import check_count
from mbrec.balance.state import NamedState

Row = tuple[Tensor, ...]


class Balancer(NamedState):
    """Combines K gradients into one; the base of all methods.

    State lives in buffers, never in parameters, so no optimizer ever sees it. It changes by
    assignment, `self.weight = moved_K`, and never in place: what it was can then be put back.

    Args:
        num_tasks: K, at least 1.

    Attributes:
        task_names: K names, in row order.
        ok: bool tensor, False where the last input held a non-finite value.
        constant_weights: the weights of a method that needs no statistics, or None.
        needs_losses: whether it needs the K losses; see `BalanceHook.observe`.

    Raises:
        ValueError: if `num_tasks` is not a positive integer.

    >>> from mbrec.balance import MultiBalance
    >>> balancer = MultiBalance(2)
    >>> balancer.name_tasks(["ctr", "cvr"])
    >>> [key for key in balancer.state_dict() if key.startswith("weight")]
    ['weight.ctr', 'weight.cvr']
    """

    constant_weights: tuple[float, ...] | None = None
    needs_losses: bool = False

    def __init__(self, num_tasks: int) -> None:
        check_count("num_tasks", num_tasks, low=1)
        super().__init__(num_tasks)
        self.ok: Tensor = torch.tensor(True)

    def initial_share(self, task: str) -> float | None:
        """Return the share of all weight a task starts with, or None where weights are no state."""
        return None

    def check(
        self, gramian_KK: Tensor, losses_K: Tensor | None, active_K: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Set `ok`, and return the Gramian, the active tasks and the losses, all finite.

        Raises:
            ValueError: if a shape is wrong, losses are needed and not there, or the state is not.
        """
        self.check_values(gramian_KK.device)
        size = self.num_tasks
        if gramian_KK.shape != (size, size):
            raise ValueError(
                f"expected a Gramian of {size} x {size} for {size} tasks, "
                f"got shape {tuple(gramian_KK.shape)}"
            )
        if losses_K is not None and losses_K.shape != (size,):
            raise ValueError(f"expected {size} losses, got shape {tuple(losses_K.shape)}")
        if losses_K is None and self.needs_losses:
            raise ValueError(
                f"expected the losses of the tasks for {type(self).__name__}, got none; call "
                "hook.observe(losses_K) between forward and backward"
            )
        gramian_KK = gramian_KK.double()
        total = gramian_KK.sum()
        if losses_K is not None:
            total = total + losses_K.sum()
        ok = self.ok = _is_finite(total)
        if losses_K is not None:
            losses_K = torch.where(ok, losses_K.double(), 1.0) if self.needs_losses else None
        gramian_KK = torch.where(ok, gramian_KK, 0.0)
        nonzero_K = gramian_KK.diagonal() > 0
        return gramian_KK, nonzero_K if active_K is None else nonzero_K & active_K, losses_K


def _is_finite(total: Tensor) -> Tensor:
    # A sum is finite if all its terms are, and a finite number less itself is 0: two operations
    # where isfinite().all() takes six.
    return total - total == 0


class GramianBalancer(Balancer):
    """A balancer that needs only the inner products of the K gradients, and perhaps the losses.

    Call it on a Gramian to get the weights: `MultiBalance(num_tasks=3)(gramian_KK)`. A subclass
    implements `weigh`, and updates its state only where `ok` is true, so that a batch with a
    non-finite value leaves no trace.

    >>> class InverseNorm(GramianBalancer):
    ...     def weigh(self, gramian_KK, active_K, ok, losses_K):
    ...         inverse_K = torch.where(active_K, gramian_KK.diagonal().rsqrt(), 0.0)
    ...         return inverse_K / inverse_K.sum()
    >>> InverseNorm(2)(torch.tensor([[4.0, 0.0], [0.0, 1.0]]))
    tensor([0.3333, 0.6667], dtype=torch.float64)
    """

    def forward(
        self,
        gramian_KK: Tensor,
        *,
        losses_K: Tensor | None = None,
        active_K: Tensor | None = None,
    ) -> Tensor:
        """Return the weights on the raw gradients, in float64.

        Args:
            gramian_KK: inner products of the K gradients over the global batch.
            losses_K: losses over the global batch, for the finite check and `needs_losses`.
            active_K: bool; False where a task has no unmasked sample in the global batch. A task
                whose gradient is exactly zero is inactive as well.

        Returns:
            weights_K: all 0 where an input is not finite.

        Raises:
            ValueError: if a shape is wrong, or losses are needed and not there.
        """
        with torch.no_grad():
            gramian_KK, active_K, losses_K = self.check(gramian_KK, losses_K, active_K)
            weights_K = self.weigh(gramian_KK, active_K, self.ok, losses_K)
            if not isinstance(weights_K, Tensor) or weights_K.shape != (self.num_tasks,):
                got = getattr(weights_K, "shape", type(weights_K).__name__)
                raise ValueError(
                    f"expected {type(self).__name__}.weigh to return {self.num_tasks} weights in a "
                    f"tensor, got {got}"
                )
            self.ok = self.ok & _is_finite(weights_K.sum())
            return torch.where(self.ok, weights_K, 0.0)

    def weigh(
        self, gramian_KK: Tensor, active_K: Tensor, ok: Tensor, losses_K: Tensor | None
    ) -> Tensor:
        """Return weights_K and update the state. All inputs are finite.

        Args:
            gramian_KK: float64; all zero where `ok` is False.
            active_K: bool; the tasks that take part.
            ok: bool, no dimension; False where state must not change.
            losses_K: float64, or None without `needs_losses`.
        """
        raise TypeError(f"{type(self).__name__} does not implement weigh")


class ElementwiseBalancer(Balancer):
    """A balancer that treats each element of the K gradients by itself (`GradDrop`).

    Merging is local to a rank, but for a few numbers that are summed over the ranks before.

    >>> class Smallest(ElementwiseBalancer):
    ...     def summarise(self, rows_K, shared, *, rank):
    ...         return torch.zeros(0, dtype=torch.float64)
    ...     def merge(self, rows_K, summary_n, ok):
    ...         parts = zip(*rows_K, strict=True)
    ...         merged = tuple(torch.stack(grads_K).amin(0) for grads_K in parts)
    ...         return merged, torch.ones(self.num_tasks, dtype=torch.float64)
    >>> from mbrec.balance import BalanceHook
    >>> shared_BH = torch.zeros(1, 2, requires_grad=True)
    >>> a_BH, b_BH = BalanceHook(Smallest(2))(shared_BH)
    >>> (a_BH @ torch.tensor([1.0, 4.0]) + b_BH @ torch.tensor([3.0, 2.0])).sum().backward()
    >>> shared_BH.grad
    tensor([[1., 2.]])
    """

    def summarise(self, rows_K: Sequence[Row], shared: Row, *, rank: int) -> Tensor:
        """Return this rank's numbers, (n,) in float64, that `merge` wants summed over the ranks.

        Args:
            rows_K: the K gradients, each in as many parts as the representation has.
            shared: the representation.
            rank: of this process in the hook's group.
        """
        raise TypeError(f"{type(self).__name__} does not implement summarise")

    def merge(self, rows_K: Sequence[Row], summary_n: Tensor, ok: Tensor) -> tuple[Row, Tensor]:
        """Return the merged gradient and the mean factor of each task's elements; update state.

        Args:
            rows_K: the K gradients.
            summary_n: the summary over all ranks.
            ok: bool, no dimension; False where state must not change.
        """
        raise TypeError(f"{type(self).__name__} does not implement merge")


class ParameterBalancer(Balancer):
    """A balancer that needs the K gradients of parameters themselves (`MoCo`).

    >>> class Mean(ParameterBalancer):
    ...     def track(self, num_parameters):
    ...         pass
    ...     def forward(self, grads_KP, *, losses_K=None, active_K=None):
    ...         return torch.full((self.num_tasks,), 1 / self.num_tasks), grads_KP.mean(0)
    >>> Mean(2)(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))[1]
    tensor([0.5000, 0.5000])
    """

    def track(self, num_parameters: int) -> None:
        """Make room for state that has one entry a task and parameter; called once."""
        raise TypeError(f"{type(self).__name__} does not implement track")

    def forward(
        self,
        grads_KP: Tensor,
        *,
        losses_K: Tensor | None = None,
        active_K: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return weights_K, for what is not tracked, and the gradient_P of what is.

        Args:
            grads_KP: gradients of the parameters over the global batch.
            losses_K: losses over the global batch.
            active_K: bool; False where a task has no unmasked sample.
        """
        raise TypeError(f"{type(self).__name__} does not implement forward")
