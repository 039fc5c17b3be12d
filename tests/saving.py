"""Saves small things through the real `Saver`, in this process or on ranks of a test."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mbrec.checkpoint.saver import Saver
from mbrec.checkpoint.state import RunState


class Plain:
    """Stands for a sharded model: some tensors under their names."""

    def __init__(self, **tensors: Tensor) -> None:
        self.tensors = tensors or {
            "bottom.weight": torch.arange(12.0).view(3, 4),
            "heads.mlps.ctr.bias": torch.arange(5.0),
            "heads.hook.balancer.step": torch.tensor(7),
        }

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.tensors)


@contextmanager
def alone() -> Iterator[None]:
    """Make this process the only rank of a group."""
    before = os.environ.get("GLOO_SOCKET_IFNAME")
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()
        if before is None:
            del os.environ["GLOO_SOCKET_IFNAME"]


def run_state(step: int, **changes: Any) -> RunState:
    """Return the state of a run that needs nothing but its step."""
    values: dict[str, Any] = {
        "step": step,
        "position": {},
        "tasks": ["ctr"],
        "inputs": {"user": 4},
        "tables": {"user": ["user"]},
        "plan": {"user": "table_wise on rank 0"},
        "world_size": dist.get_world_size() if dist.is_initialized() else 1,
        "learning_rates": {"dense": 0.1},
        "random": [{"cpu": "00"}],
        "balancer": {"class": "Equal"},
        "guard": {"skipped": 0},
        "history": [],
        "config": {"seed": 1},
        "schema_hash": "0" * 16,
        "vocabularies": {},
        "evaluation": {},
        "versions": {},
        "time": 1.5,
    }
    return RunState(**values | changes)


@contextmanager
def saver(run: Path, model: Any = None, **settings: Any) -> Iterator[Saver]:
    """Save into the folder of a run; nothing is under way in the end. A collective."""
    settings = {"background": False} | settings
    found = Saver(run / "checkpoint", model or Plain(), None, **settings)
    try:
        yield found
    finally:
        with suppress(OSError):
            found.wait()


def save(run: Path, *steps: int, **settings: Any) -> list[Path]:
    """Save some steps, one after the other; return their folders. A collective."""
    with saver(run, **settings) as target:
        for step in steps:
            target.save_now(run_state(step))
    return [run / "checkpoint" / f"step_{step:08d}" for step in steps]
