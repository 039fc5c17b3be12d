"""Checks of constructor arguments, with messages that say what was expected."""

from collections.abc import Sequence

import torch
from torch import Tensor


def check_number(name: str, value: float, *, low: float, below: float = torch.inf) -> None:
    """Raise ValueError unless `value` is a number in [low, below)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value < below:
        raise ValueError(f"expected {name} to be a number in [{low:g}, {below:g}), got {value!r}")


def check_count(name: str, value: int, *, low: int) -> None:
    """Raise ValueError unless `value` is an integer of at least `low`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(f"expected {name} to be an integer of at least {low}, got {value!r}")


def check_choice(name: str, value: str | int, choices: Sequence[str | int]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if isinstance(value, bool) or value not in choices:
        known = ", ".join(str(choice) for choice in choices)
        raise ValueError(f"expected {name} to be one of {known}, got {value!r}")


def task_weights(name: str, weights: Sequence[float] | None, num_tasks: int) -> Tensor:
    """Return K weights that sum to 1, float64; uniform ones for None.

    Raises:
        ValueError: unless they are K finite non-negative numbers with a positive sum.
    """
    if weights is None:
        return torch.full((num_tasks,), 1.0 / num_tasks, dtype=torch.float64)
    weights_K = torch.tensor(list(weights), dtype=torch.float64)
    finite = bool(torch.isfinite(weights_K).all()) and bool((weights_K >= 0).all())
    if weights_K.shape != (num_tasks,) or not finite or not float(weights_K.sum()) > 0:
        raise ValueError(
            f"expected {name} to be {num_tasks} non-negative numbers with a positive sum, "
            f"got {list(weights)}"
        )
    return weights_K / weights_K.sum()
