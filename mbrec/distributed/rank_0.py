"""Reads once per job, on rank 0, and lets every rank have it."""

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")


def from_rank_0(read: Callable[[], T]) -> T:
    """Return what rank 0 reads. Collective where there is a process group.

    Raises:
        ValueError: on every rank, if it cannot be read.
    """
    if not dist.is_initialized():
        return read()
    found: list[tuple[T | None, str]] = [(None, "")]
    if dist.get_rank() == 0:
        try:
            found = [(read(), "")]
        except ValueError as error:
            found = [(None, str(error) or type(error).__name__)]
    dist.broadcast_object_list(found, src=0)
    value, error = found[0]
    if error:
        raise ValueError(error)
    return value  # pyright: ignore[reportReturnType]
