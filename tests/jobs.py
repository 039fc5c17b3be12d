"""Small training jobs for tests: the real configuration on the tiny synthetic world."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_module
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torchrec.distributed.model_parallel import DistributedModelParallel

from mbrec.config.settings import Config, parse


def compose(data: Path, *overrides: str) -> Config:
    """Return the default job's configuration on the tiny data set in `data`."""
    tiny = ["data/preset=tiny", f"data.path={data}", "monitor.progress=false"]
    tiny += ["trainer.global_batch_size=256", "model.embedding_dim=16"]
    with initialize_config_module("mbrec.configs", version_base="1.3"):
        return parse(hydra_compose("train", overrides=[*tiny, *overrides]))


def train(
    data: str,
    folder: str,
    overrides: list[str],
    each_step: Callable[[Any, Any], Any] | None = None,
) -> dict[str, Any]:
    """Train on the ranks of the group; return the report, the parameters and a trace.

    Args:
        data: folder of the synthetic data sets.
        folder: of the run.
        overrides: of the configuration.
        each_step: called with the trainer's hook and the outputs after each step.
    """
    from mbrec.distributed import process
    from mbrec.job import build

    config = compose(Path(data), *overrides)
    runtime = process.start()
    trainer, sharded = build.trainer(config, runtime, Path(folder))
    trace = []
    record = trainer.monitor.record

    def traced(step: int, outputs: Any, rates: Any) -> None:
        trace.append(each_step(sharded.hook, outputs) if each_step else None)
        record(step, outputs, rates)

    trainer.monitor.record = traced
    report = trainer.fit()
    return {"report": report, "state": parameters(sharded.model), "trace": trace}


def parameters(model: DistributedModelParallel) -> dict[str, list[tuple[list[int], torch.Tensor]]]:
    """Return this rank's parts of each parameter: offsets and values."""
    parts = {}
    for key, value in model.state_dict().items():
        if isinstance(value, ShardedTensor):
            parts[key] = [
                (list(s.metadata.shard_offsets), s.tensor.detach().clone().numpy())
                for s in value.local_shards()
            ]
        else:
            parts[key] = [([0] * value.dim(), value.detach().clone().numpy())]
    return parts


def gather(ranks: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Return whole parameters from the parts that the ranks returned."""
    whole = {}
    for key in ranks[0]:
        parts = [part for rank in ranks for part in rank[key]]
        if not parts:
            continue
        sizes = [[o + n for o, n in zip(off, value.shape, strict=True)] for off, value in parts]
        shape = [max(size) for size in zip(*sizes, strict=True)] if sizes[0] else []
        tensor = torch.full(shape, float("nan"), dtype=torch.float64)
        for offsets, value in parts:
            region = tuple(slice(o, o + n) for o, n in zip(offsets, value.shape, strict=True))
            tensor[region] = torch.as_tensor(value, dtype=torch.float64)
        whole[key] = tensor
    return whole
