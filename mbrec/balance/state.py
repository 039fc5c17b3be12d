"""State of a balancer, saved by the names of the tasks.

Shapes: K tasks.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from mbrec.balance.values import KeptValues


class NamedState(KeptValues):
    """Buffers with one entry a task or a pair of tasks, saved and loaded by name.

    `state_dict` holds `<state>.<task>`, and `<state>.<task>.<other>` for ordered pairs, so the
    order of the tasks in a config is free, and a task that was renamed is an error.
    """

    def __init__(self, num_tasks: int) -> None:
        super().__init__()
        self.num_tasks = num_tasks
        self.task_names: tuple[str, ...] = tuple(str(k) for k in range(num_tasks))
        self._task_states: list[str] = []
        self._pair_states: list[str] = []

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
        for child in self.children():
            if isinstance(child, NamedState):
                child.name_tasks(names)

    def register_task_state(self, name: str, value_K: Tensor) -> None:
        """Add a buffer with one entry a task in its first dimension."""
        self.register_buffer(name, value_K, persistent=False)
        self._task_states.append(name)

    def register_pair_state(self, name: str, value_KK: Tensor) -> None:
        """Add a buffer with one entry an ordered pair of tasks; its diagonal is not saved."""
        self.register_buffer(name, value_KK, persistent=False)
        self._pair_states.append(name)

    def task_states(self) -> dict[str, Tensor]:
        """Return the state that has one number a task, by name; for a monitor to watch."""
        states = {state: getattr(self, state) for state in self._task_states}
        return {state: value_K for state, value_K in states.items() if value_K.dim() == 1}

    def state_of(self, tasks: Iterable[str]) -> set[str]:
        """Return the names under which the state of some tasks is saved, pairs included."""
        tasks, names = set(tasks), set(self.task_names)
        found = {f"{state}.{task}" for state in self._task_states for task in tasks}
        return found | {
            f"{state}.{a}.{b}"
            for state in self._pair_states
            for a, b in permutations(tasks | names, 2)
            if a in tasks or b in tasks
        }

    def adapt(
        self,
        own: Mapping[str, Tensor],
        saved: Mapping[str, Tensor],
        shares: Mapping[str, float],
        *,
        new: set[str],
        dropped: set[str],
    ) -> dict[str, Tensor]:
        """Return a saved state made to fit other tasks; see `BalanceHook.adapt_state_dict`.

        Args:
            own: the state of a fresh balancer of the tasks.
            saved: the state of a balancer of the earlier tasks.
            shares: the share of all weight that each task starts with, where weights are state.
            new: tasks that `saved` does not have.
            dropped: tasks that only `saved` has.
        """
        lagged = {key for key in own.keys() | saved.keys() if key.startswith("lagged_weight.")}
        if lagged & own.keys() and lagged & saved.keys():
            lagged = set()  # No change of lag, so these follow the tasks.
        gone = (self.state_of(dropped) | lagged) - own.keys()
        adapted = {key: value.clone() for key, value in saved.items() if key not in gone}
        added = ((self.state_of(new) | lagged) & own.keys()) - adapted.keys()
        adapted |= {key: own[key].clone() for key in added}
        if adapted.keys() != own.keys():
            raise ValueError(
                f"expected the saved tasks to differ by new={sorted(new)} and "
                f"dropped={sorted(dropped)}, got differences in "
                f"{sorted(adapted.keys() ^ own.keys())}"
            )
        if shares and (new or dropped):  # else to the last bit what was saved
            weights = {task: adapted[f"weight.{task}"] for task in shares}
            rescale_shares(weights, shares, new & shares.keys())
        return adapted

    def _entries(self) -> dict[str, Tensor]:
        """Return a view of each entry, by the name it is saved under."""
        tasks = list(enumerate(self.task_names))
        found = {f"{s}.{task}": getattr(self, s)[k] for s in self._task_states for k, task in tasks}
        for state in self._pair_states:
            for (i, a), (j, b) in permutations(tasks, 2):
                found[f"{state}.{a}.{b}"] = getattr(self, state)[i, j]
        return found

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.update({prefix + name: view for name, view in self._entries().items()})

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
        expected = self._entries()
        starts = tuple(f"{prefix}{state}." for state in (*self._task_states, *self._pair_states))
        saved = {key[len(prefix) :]: value for key, value in state_dict.items()
                 if starts and key.startswith(starts)}  # fmt: skip
        if strict and saved.keys() != expected.keys():
            raise ValueError(
                f"expected the state of the tasks {', '.join(self.task_names)}, got "
                f"{_difference(saved.keys(), expected.keys())}; "
                "BalanceHook.adapt_state_dict adds and drops tasks, and goes to another lag; the "
                "state of another method does not load"
            )
        with torch.no_grad():
            for name in saved.keys() & expected.keys():
                expected[name].copy_(saved[name])
        rest = {k: v for k, v in state_dict.items() if k.removeprefix(prefix) not in saved}
        super()._load_from_state_dict(
            rest, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


def _difference(got: Iterable[str], expected: Iterable[str]) -> str:
    got, expected = set(got), set(expected)
    parts = {"nothing for": expected - got, "the unknown": got - expected}
    return " and ".join(f"{what} {', '.join(sorted(n))}" for what, n in parts.items() if n)


def rescale_shares(
    weights: Mapping[str, Tensor], shares: Mapping[str, float], new: set[str]
) -> None:
    """Give new tasks their share of the weight, and the kept ones the rest, in place.

    Args:
        weights: the weight of each task, whose sum is meant to be 1.
        shares: the weight that each starts with.
        new: the tasks that start now.
    """
    kept = [task for task in weights if task not in new]
    room = 1.0 - sum(shares[task] for task in new)
    total = sum(float(weights[task]) for task in kept)
    prior = sum(shares[task] for task in kept)
    for task in kept:
        # A dropped task may have held all the weight; the others then start over.
        share = float(weights[task]) / total if total > 0 else shares[task] / prior
        weights[task].fill_(room * share)
    for task in new:
        weights[task].fill_(shares[task])
