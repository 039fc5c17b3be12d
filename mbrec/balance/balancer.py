"""The contracts: what a balancer is, and how its state is kept by the names of the tasks.

Shapes: K tasks.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Balancer(nn.Module):
    """Combines the K gradients of a shared representation into one.

    State lives in buffers, never in parameters, so no optimizer ever sees it. What belongs to a
    task is saved as one tensor a task, `<state>.<task>`, and loaded strictly by that name: the
    order of the tasks in a config is free, and a renamed task is an error.

    Args:
        num_tasks: K, at least 1.

    Attributes:
        task_names: K names, in row order.
        ok: bool tensor, False where the last input held a non-finite value.

    Raises:
        ValueError: if `num_tasks` is not a positive integer.
    """

    # The weights of a method that needs no statistics, or None.
    constant_weights: tuple[float, ...] | None = None

    def __init__(self, num_tasks: int) -> None:
        super().__init__()
        if not isinstance(num_tasks, int) or isinstance(num_tasks, bool) or num_tasks < 1:
            raise ValueError(f"expected num_tasks to be a positive integer, got {num_tasks!r}")
        self.num_tasks = num_tasks
        self.task_names: tuple[str, ...] = tuple(str(k) for k in range(num_tasks))
        self.ok: Tensor = torch.tensor(True)
        self._task_states: list[str] = []

    def name_tasks(self, names: Sequence[str]) -> None:
        """Give the tasks the names that the saved state goes by, in row order.

        Raises:
            ValueError: if there are not K distinct names, or one is empty or holds a dot.
        """
        if len(names) != self.num_tasks or len(set(names)) != len(names):
            raise ValueError(f"expected {self.num_tasks} distinct task names, got {list(names)}")
        if bad := [name for name in names if not name or "." in name]:
            raise ValueError(f"expected task names that are not empty and hold no dot, got {bad}")
        self.task_names = tuple(names)

    def register_task_state(self, name: str, value_K: Tensor) -> None:
        """Add a buffer with one entry a task; `state_dict` holds it as `<name>.<task>`."""
        self.register_buffer(name, value_K, persistent=False)
        self._task_states.append(name)

    def task_states(self) -> dict[str, Tensor]:
        """Return the state that has one entry a task, by name; for a monitor to watch."""
        return {state: getattr(self, state) for state in self._task_states}

    def initial_share(self, task: str) -> float | None:
        """Return the weight a task starts with, or None where weights are not state."""
        return None

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for state in self._task_states:
            for task, value in zip(self.task_names, getattr(self, state), strict=True):
                destination[f"{prefix}{state}.{task}"] = value

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        expected = {
            f"{prefix}{state}.{task}": (state, k)
            for state in self._task_states
            for k, task in enumerate(self.task_names)
        }
        starts = tuple(f"{prefix}{state}." for state in self._task_states)
        own = {key for key in state_dict if starts and key.startswith(starts)}
        for key in sorted(own & expected.keys()):
            state, k = expected[key]
            with torch.no_grad():
                getattr(self, state)[k].copy_(state_dict[key])
        rest = {key: value for key, value in state_dict.items() if key not in own}
        super()._load_from_state_dict(
            rest, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        missing_keys.extend(sorted(expected.keys() - own))
        unexpected_keys.extend(sorted(own - expected.keys()))


class GramianBalancer(Balancer):
    """A balancer that needs only the inner products of the K gradients.

    Call it on a Gramian to get the weights: `MultiBalance(num_tasks=3)(gramian_KK)`. A subclass
    implements `weigh`, and updates its state only where `ok` is true, so that a batch with a
    non-finite value leaves no trace.
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
            losses_K: losses over the global batch, for the finite check.
            active_K: bool; False where a task has no unmasked sample in the global batch. A task
                whose gradient is exactly zero is inactive as well.

        Returns:
            weights_K: 0 for inactive tasks; all 0 where an input is not finite.

        Raises:
            ValueError: if the Gramian is not K x K.
        """
        if gramian_KK.shape != (self.num_tasks, self.num_tasks):
            raise ValueError(
                f"expected a Gramian of {self.num_tasks} x {self.num_tasks} for "
                f"{self.num_tasks} tasks, got shape {tuple(gramian_KK.shape)}"
            )
        gramian_KK = gramian_KK.double()
        ok = torch.isfinite(gramian_KK).all()
        if losses_K is not None:
            ok = ok & torch.isfinite(losses_K).all()
        self.ok = ok
        gramian_KK = torch.where(ok, gramian_KK, 0.0)
        nonzero_K = gramian_KK.diagonal() > 0
        active_K = nonzero_K if active_K is None else nonzero_K & active_K
        with torch.no_grad():
            return self.weigh(gramian_KK, active_K, ok)

    def weigh(self, gramian_KK: Tensor, active_K: Tensor, ok: Tensor) -> Tensor:
        """Return weights_K and update the state. All inputs are finite.

        Args:
            gramian_KK: float64; all zero where `ok` is False.
            active_K: bool; the tasks that take part.
            ok: bool, no dimension; False where state must not change.
        """
        raise TypeError(f"{type(self).__name__} does not implement weigh")
