"""Comparison of a run with others on the same rows and tasks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mbrec.study.estimate import ne_gains
from mbrec.study.pages import decimals
from mbrec.study.report.run_folder import MEASUREMENT, Run, load, mapping
from mbrec.study.report.sections import flat, plain

# What decides which rows are read, and what a task is; the place of the files does not.
_ROWS = ("train", "evaluation", "synthetic")
_TASK = ("given", "label")
# Which rows were scored: their number and their rate, of each task.
_SCORED = ("count", "rate")
# Settings that change neither which rows are read nor the model; some settings below them do: a
# warm start, and an end before the last step.
_OUTSIDE = ("run.", "resume.", "monitor.", "runtime.", "checkpoint.")
_OUTSIDE += ("data.path", "data.num_workers", *(f"data.{key}" for key in _ROWS))
_OWN = ("auto", "none")  # resume.path of a run that starts or resumes by itself
_INSIDE = ("resume.path", "checkpoint.best", "checkpoint.patience")


def baselines(run: Run, paths: Sequence[Path]) -> list[Run]:
    """Return the runs to compare with.

    Raises:
        ValueError: naming a run that cannot be compared with, and why.
    """
    if paths and (reason := _alone(run)):
        raise ValueError(
            f"expected a run to compare with others, got {run.path}, which {reason}; leave out "
            "against=..."
        )
    found = []
    for path in paths:
        other = load(path)
        if reason := _unfit(run, other):
            raise ValueError(
                f"expected a run on the same rows and tasks in against=..., got {path}: {reason}; "
                "leave it out"
            )
        found.append(other)
    return found


def _alone(run: Run) -> str:
    """Return why a run is to be compared with no other, or nothing."""
    if MEASUREMENT in run.metrics:
        return "only measured its overhead, and trained in steps that other runs do not have"
    if not run.figures or not run.config:
        return "has no final evaluation, or no saved settings"
    return ""


def _unfit(run: Run, other: Run) -> str:
    """Return why a run is no baseline of another, or nothing."""
    if other.path.resolve() == run.path.resolve():
        return "it is the same run"
    if reason := _alone(other):
        return f"it {reason}"
    for what, (here, there) in _definitions(run, other).items():
        if here != there:
            return f"its {what} differ: {_short(there)} instead of {_short(here)}"
    for task, figures in run.figures.items():
        found = other.figures.get(task, {})
        for name in _SCORED:
            if figures.get(name) != found.get(name):
                return (
                    f"it was evaluated on other rows: {name} of {task} is {found.get(name)} "
                    f"instead of {figures.get(name)}"
                )
    return ""


def _definitions(run: Run, other: Run) -> dict[str, tuple[Any, Any]]:
    pairs: dict[str, tuple[Any, Any]] = {}
    for key in _ROWS:
        pairs[f"data.{key}"] = (run.setting(f"data.{key}"), other.setting(f"data.{key}"))
    pairs["tasks"] = (_tasks(run), _tasks(other))
    return pairs


def _tasks(run: Run) -> dict[str, list[Any]]:
    """Return task -> what it is given and predicts, whatever the labels are called."""
    tasks, labels = (mapping(run.setting(key)) for key in ("tasks", "data.columns.labels"))
    named = {name: [mapping(task).get(key) for key in _TASK] for name, task in tasks.items()}
    return {
        name: [labels.get(str(label), label) for label in found]
        for name, found in sorted(named.items())
        if name in run.figures
    }


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


def view(run: Run, others: Sequence[Run]) -> dict[str, Any] | None:
    """Return the comparison of a run with its baselines, where there are any."""
    found = [
        {
            "name": _name(other, others),
            "balancer": other.balancer,
            "rows": _rows(run, other),
            "changed": _changed(run, other),
        }
        for other in others
    ]
    return {"others": found} if found else None


def _changed(run: Run, other: Run) -> list[list[str]]:
    here, there = _of_training(run), _of_training(other)
    return [
        [key, *(plain(node[key]) if key in node else "-" for node in (here, there))]
        for key in dict.fromkeys([*here, *there])
        if here.get(key) != there.get(key)
    ]


def _of_training(run: Run) -> dict[str, Any]:
    """Return the settings that change the trained model."""
    settings = flat(run.config)
    if settings.get("resume.path") in _OWN:
        del settings["resume.path"]
    if settings.get("checkpoint.patience") is None:
        # What is kept as the best ends nothing.
        settings.pop("checkpoint.best", None)
    return {
        key: value
        for key, value in settings.items()
        if key in _INSIDE or not key.startswith(_OUTSIDE)
    }


def _name(other: Run, others: Sequence[Run]) -> str:
    names = [run.path.resolve().name for run in others]
    name = other.path.resolve().name
    return name if names.count(name) == 1 else str(other.path)


def _rows(run: Run, other: Run) -> list[list[str]]:
    rows, gains = [], []
    for task in run.figures:
        here, there = run.figures[task], other.figures.get(task, {})
        gain = ne_gain(here, there)
        if gain is not None:
            gains.append(gain)
        auc = [found.get("auc") for found in (here, there)]
        rows.append(
            [
                task,
                decimals(here.get("ne")),
                decimals(there.get("ne")),
                "-" if gain is None else f"{gain:+.3f}",
                "-" if auc[0] is None or auc[1] is None else f"{auc[0] - auc[1]:+.4f}",
                decimals(there.get("calibration")),
            ]
        )
    if len(gains) > 1:
        rows.append(["mean of the tasks", "", "", f"{sum(gains) / len(gains):+.3f}", "", ""])
    return rows


def ne_gain(here: Mapping[str, float], there: Mapping[str, float]) -> float | None:
    """Return by how many per cent NE is lower here than there, or None if one is not known."""
    new, base = here.get("ne"), there.get("ne")
    return None if new is None or not base else ne_gains([base], [new])[0]
