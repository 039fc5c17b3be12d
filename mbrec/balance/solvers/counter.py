"""Random numbers as a function of a counter: the same on every rank and device, without state.

A torch.Generator keeps its position on the host, differs between devices, and would have to be
saved. These numbers depend on (seed, step, index) alone, and the step is a tensor.
"""

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

# Constants of the 32-bit finaliser of MurmurHash3 (public domain), as signed integers.
_FIRST, _SECOND = 0x85EBCA6B - (1 << 32), 0xC2B2AE35 - (1 << 32)
_GOLDEN = 0x9E3779B1 - (1 << 32)


def uniform(index: Tensor, *, seed: int, step: Tensor) -> Tensor:
    """Return a float32 number in [0, 1) for each index.

    Args:
        index: integers; their low 32 bits count.
        seed: of the sequence.
        step: integer tensor without dimension.

    >>> step = torch.tensor(7)
    >>> drawn = uniform(torch.arange(10_000), seed=1, step=step)
    >>> abs(float(drawn.mean()) - 0.5) < 0.01
    True
    >>> bool((drawn == uniform(torch.arange(10_000), seed=1, step=step)).all())
    True
    """
    key = _mix(step.to(torch.int32) + _signed(seed * 0x9E3779B1))
    mixed = _mix(_low(index) * _GOLDEN + key)
    mixed = _mix(mixed.add_(_mix(key + 1)))
    return ((mixed >> 8) & 0xFFFFFF).float() * 2.0**-24


def task_keys(names: Sequence[str]) -> list[int]:
    """Return a number for each task that depends on its name and not on its place."""
    return [zlib.crc32(name.encode()) for name in names]


def pair_keys(names: Sequence[str]) -> list[list[int]]:
    """Return a number for each ordered pair of tasks that depends on the names alone."""
    keys = task_keys(names)
    return [[_signed(a * 0x01000193 + b * 0x9E3779B1) for b in keys] for a in keys]


def _low(index: Tensor) -> Tensor:
    return index if index.dtype == torch.int32 else (index & 0xFFFFFFFF).to(torch.int32)


def _signed(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >= 1 << 31 else value


def _mix(value: Tensor) -> Tensor:
    value = value ^ ((value >> 16) & 0xFFFF)
    value = value.mul_(_FIRST)
    value ^= (value >> 13) & 0x7FFFF
    value *= _SECOND
    value ^= (value >> 16) & 0xFFFF
    return value
