"""The views of the run itself: head, settings, data."""

import datetime
import json
from collections.abc import Mapping
from typing import Any

import yaml

from mbrec.monitor.summary import parameter_table
from mbrec.study.report.findings import figure
from mbrec.study.report.run_folder import Run, mapping, number, numbers

# Shown elsewhere: as the data and its tasks, or as the name of the run.
_ELSEWHERE = ("data.columns.", "tasks.", "run.")
_STATES = {
    "starting": "starting; it has done no step",
    "running": "running when it last wrote; it may have been killed since",
    "resumable": "stopped and saved; the same command goes on",
    "stopped": "stopped, and not saved",
}


def head(run: Run) -> dict[str, Any]:
    """Return the head of the page: what run this is and its state."""
    missing = [*run.missing]
    written = max((int(line.steps[-1]) for line in run.events.lines.values()), default=0)
    if run.events.sittings and written < run.last_step:
        missing.append(
            f"The curves end at step {written:,} of {run.last_step:,}: figures are written every "
            "monitor.every steps, and the last were lost when the run ended."
        )
    name = f"Run {run.path.resolve().name}"
    return {"name": name, "facts": _facts(run), "missing": missing}


def _facts(run: Run) -> dict[str, str]:
    state = str(run.status.get("state", "not known"))
    reason = str(run.status.get("reason") or "")
    ended = number(run.status.get("time"))
    speed, ranks = number(run.metrics.get("rows_per_second")), _ranks(run)
    parameters = numbers(run.metrics.get("parameters"))
    counts = {name: int(count) for name, count in parameters.items()}
    return {
        "state": _STATES.get(state, state) + (f" ({reason})" if reason else ""),
        "steps": f"{run.last_step:,}",
        "started": _time(run.events.sittings[0].start) if run.events.sittings else "",
        "last written": _time(ended) if ended else "",
        "duration": _duration(run, ended),
        "balancer": run.balancer if run.config else "",
        "speed": f"{speed:,.0f} rows/s" if speed else "",
        "ranks": f"{ranks:,.0f}" if ranks else "",
        "device": _device(run),
        "parameters": parameter_table(counts).partition(": ")[2] if sum(counts.values()) else "",
        "versions": ", ".join(f"{n} {v}" for n, v in run.state.versions.items())
        if run.state
        else "",
    }


def _ranks(run: Run) -> float | None:
    ranks = number(run.metrics.get("world_size"))
    return ranks or (run.state.world_size if run.state else None)


def _device(run: Run) -> str:
    if run.state is None or not run.state.random:
        return ""
    # A generator of its own is saved where there is a GPU.
    return "GPU (CUDA)" if "cuda" in run.state.random[0] else "CPU"


def _duration(run: Run, ended: float | None) -> str:
    spans = [sitting.seconds for sitting in run.events.sittings]
    if not spans:
        return ""
    if len(spans) == 1:
        since = (ended or 0.0) - run.events.sittings[0].start
        # After a clock was set back, only what passed between two events is known.
        return _seconds(spans[0] if run.events.clock_went_back else max(since, spans[0]))
    return f"{_seconds(sum(spans))}, in {len(spans)} parts"


def _seconds(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, hours = seconds / 60, seconds / 3600
    return f"{minutes:.0f} min" if minutes < 120 else f"{hours:.1f} h"


def _time(seconds: float) -> str:
    if not 0 <= seconds < 1e11:
        return ""
    return datetime.datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")


def settings(run: Run, defaults: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the settings that are not the default job's, and all of them to unfold.

    Args:
        run: the run.
        defaults: the settings of the default job.
    """
    if not run.config:
        return None
    default, chosen = flat(defaults), flat(run.config)
    rows = [
        [key, plain(value), plain(default[key]) if key in default else "not in the default job"]
        for key, value in chosen.items()
        if not key.startswith(_ELSEWHERE) and (key not in default or default[key] != value)
    ]
    whole = yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)
    return {"rows": rows, "whole": whole}


def flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the settings of a nested mapping by their dotted keys.

    >>> flat({"a": {"b": 1}, "c": [2]})
    {'a.b': 1, 'c': [2]}
    """
    found: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def plain(value: Any) -> str:
    """Return a setting as YAML has it, in a line."""
    return value if isinstance(value, str) else json.dumps(value)


def data(run: Run) -> dict[str, Any] | None:
    """Return the rows that the run was trained and evaluated on, and its tasks."""
    return {"sources": _sources(run), "rows": _tasks(run)} if run.config else None


def _sources(run: Run) -> dict[str, str]:
    synthetic = run.setting("data.synthetic")
    batch, columns = number(run.setting("trainer.global_batch_size")), "data.columns"
    trained = f"up to {run.last_step * batch:,.0f}" if batch else ""
    scored = max((found.get("count", 0) for found in run.figures.values()), default=0)
    return {
        "folder": str(run.setting("data.path") or ""),
        "simulated": _changed_world(mapping(synthetic)) if synthetic else "",
        "training files": _joined(run.setting("data.train")),
        "evaluation files": _joined(run.setting("data.evaluation")),
        "rows trained on": f"{trained} ({run.last_step:,} steps of {batch:,.0f})" if batch else "",
        "rows evaluated": f"{scored:,.0f}" if scored else "",
        "features": f"{len(mapping(run.setting(f'{columns}.categorical')))} categorical, "
        f"{len(mapping(run.setting(f'{columns}.numerical')))} numerical",
    }


def _changed_world(world: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {plain(value)}" for key, value in world.items())


def _joined(patterns: Any) -> str:
    return ", ".join(map(str, patterns)) if isinstance(patterns, list) else ""


def _tasks(run: Run) -> list[list[str]]:
    labels, tasks = (mapping(run.setting(key)) for key in ("data.columns.labels", "tasks"))
    rows = []
    for name in run.tasks:
        task, found = mapping(tasks.get(name)), run.figures.get(name, {})
        label, rate, count = str(task.get("label", "")), found.get("rate"), found.get("count")
        positives = None if rate is None or count is None else rate * count
        rows.append(
            [
                name,
                label if labels.get(label, label) == label else f"{label}: {labels[label]}",
                str(task.get("given") or ""),
                plain(task.get("weight", "")),
                "-" if rate is None else figure(rate),
                "-" if count is None else f"{count:,.0f}",
                "-" if positives is None else f"{positives:,.0f}",
            ]
        )
    return rows
