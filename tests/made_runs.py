"""Folders of runs that were never trained: event files, config.yaml, metrics.json, status.json."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard.writer import FileWriter

from mbrec.files.sealed import with_digest, write_json
from mbrec.monitor import event_files

TASKS = ("ctr", "cvr", "conv_imp")
START = 1_790_000_000.0


def make_run(
    folder: Path,
    tasks: Sequence[str] = TASKS,
    /,
    *,
    steps: int = 40,
    balance: bool = True,
    conflict: bool = False,
    **config: Any,
) -> Path:
    """Write a finished run whose figures are known; see `figures`."""
    folder.mkdir(parents=True)
    write_events(folder, figures(tasks, steps, balance=balance, conflict=conflict))
    write_config(folder, tasks, **config)
    write_metrics(folder, tasks, step=steps)
    status = {"state": "finished", "step": steps, "reason": "", "time": START + 90.0, "pid": 1}
    write_json(folder / "status.json", status)
    return folder


def figures(
    tasks: Sequence[str], steps: int, *, balance: bool = True, conflict: bool = False
) -> list[tuple[int, dict[str, float]]]:
    """Return (step, tag -> value): task k has norm k + 1 and weight 1 / (k + 1), over their sum."""
    wave = np.random.default_rng(0).normal(size=(steps, len(tasks) + 1))
    shares = [1 / (k + 1) for k in range(len(tasks))]
    found = []
    for step in range(1, steps + 1):
        noise = wave[step - 1]
        level = math.exp(-step / steps)
        losses = {f"loss/{t}": level + 0.02 * noise[k] for k, t in enumerate(tasks)}
        values = {**losses, "loss": sum(losses.values()), "learning_rate/dense": 0.005}
        values |= {f"weight/{t}": shares[k] / sum(shares) for k, t in enumerate(tasks)}
        if balance:
            values |= {f"grad_norm/{t}": k + 1.0 for k, t in enumerate(tasks)}
            values |= {f"weighted_norm/{t}": 1 / sum(shares) for t in tasks}
            for number, (a, b) in enumerate(combinations(tasks, 2)):
                values[f"cosine/{a}-{b}"] = math.tanh(0.2 * noise[-1] + 0.1 * number - 0.3)
        if conflict:
            values |= {"conflict/share": 0.25, "conflict/dominance": float(len(tasks))}
            values |= {"conflict/weighted_dominance": 1.0, "conflict/stationarity": 0.1}
            values["conflict/stationarity_relative"] = 0.5 + 0.1 * math.tanh(noise[0])
        if step % 10 == 0:
            values |= {f"train_ne/{t}": 1.1 - step / steps / 5 for t in tasks}
            values |= {f"evaluation_ne/{t}": 1.2 - step / steps / 5 for t in tasks}
            values |= {"rows_per_second": 1000.0 + step, "out_of_vocabulary/user": 0.05}
            values["evaluation_out_of_vocabulary/user"] = 0.125
            values |= {"truncated/tags": 0.25, "evaluation_truncated/tags": 0.5}
            if conflict:
                values["conflict/vertex"] = 0.0
                ranks = [(r, k, t) for r in (0, 1) for k, t in enumerate(tasks)]
                values |= {f"rank_weight/{r}/{t}": 0.1 * r + 0.01 * k for r, k, t in ranks}
        found.append((step, values))
    return found


def write_events(
    folder: Path,
    points: Iterable[tuple[int, Mapping[str, float]]],
    *,
    resumed: int = 0,
    back: Mapping[int, float] = {},
) -> None:
    """Write an event file as a run does, a second a step; of one that goes on after a step.

    Args:
        folder: of the run.
        points: step -> tag -> value.
        resumed: the step after which it goes on.
        back: step -> seconds by which the clock is set back before it.
    """
    folder = folder / "tensorboard"
    writer = FileWriter(str(folder), filename_suffix=event_files.suffix(folder))
    if resumed:
        start = SessionLog(status=SessionLog.START)
        writer.add_event(Event(step=resumed + 1, session_log=start))
    for step, values in points:
        summary = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        late = sum(seconds for at, seconds in back.items() if at <= step)
        writer.add_summary(Summary(value=summary), step, START + step - late)
    writer.close()


def write_config(folder: Path, tasks: Sequence[str], /, **changed: Any) -> None:
    """Write a config.yaml; `changed` replaces its sections."""
    content = {
        "data": {
            "path": "/data/shop",
            "train": ["train/*.parquet"],
            "evaluation": ["test/*.parquet"],
            "columns": {
                "categorical": {"user": {"cardinality": 9}},
                "numerical": {},
                "labels": {"click": "clicked", "buy": "event == 'buy'"},
            },
            "synthetic": None,
        },
        "tasks": {t: {"label": "click", "given": None, "weight": 1.0} for t in tasks},
        "balancer": {"_target_": "mbrec.balance.MultiBalance", "lr": 0.1},
        "trainer": {"global_batch_size": 256, "seed": 0},
        "monitor": {"every": 10, "balance": True},
        "guard": {"factor": 10.0, "patience": 5, "explosion": "stop"},
        **changed,
    }
    text = with_digest(yaml.safe_dump(content, sort_keys=False))
    (folder / "config.yaml").write_text(text)


def write_metrics(folder: Path, tasks: Sequence[str], /, *, step: int = 40, **changed: Any) -> None:
    """Write a metrics.json: NE is 0.9 for the first task, and 0.05 more for each that follows."""
    found = {
        task: {
            "count": 40_000.0,
            "rate": 0.1 / 4**k,
            "ne": 0.9 + 0.05 * k,
            "auc": 0.7 - 0.01 * k,
            "calibration": 1.0 + 0.08 * k,
            "log_loss": 0.3,
        }
        for k, task in enumerate(tasks)
    }
    content = {
        "step": step,
        "rows_per_second": 1234.5,
        "world_size": 2,
        "parameters": {"categorical": 900, "heads": 100},
        "tasks": found,
        "history": [{"step": step, "tasks": found}],
        **changed,
    }
    write_json(folder / "metrics.json", content)
