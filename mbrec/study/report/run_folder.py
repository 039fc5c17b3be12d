"""The folder of a run, finished or not, as plain data."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mbrec.checkpoint import folder as checkpoints
from mbrec.checkpoint import state as checkpoint_state
from mbrec.config import saved
from mbrec.files import sealed
from mbrec.job import status as run_status
from mbrec.study.report import events
from mbrec.study.report.events import Events
from mbrec.study.run_table import MARKDOWN

log = logging.getLogger(__name__)

METRICS, TENSORBOARD = "metrics.json", "tensorboard"
# The key of `metrics.json` that only a run which measures its own overhead has.
MEASUREMENT = "measurement"


@dataclass
class Run:
    """The contents of a run's folder.

    Attributes:
        path: the folder.
        status: `status.json`.
        config: the saved settings.
        metrics: `metrics.json`.
        events: of TensorBoard.
        state: of the newest checkpoint.
        put_aside: names of the quarantined checkpoints.
        missing: what is missing or damaged, in sentences.
    """

    path: Path
    status: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    events: Events = field(default_factory=Events)
    state: checkpoint_state.RunState | None = None
    put_aside: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def tasks(self) -> list[str]:
        """Names, in row order, from the first file that has them."""
        named = mapping(self.config.get("tasks")) or mapping(self.metrics.get("tasks"))
        return list(named or self.events.below("loss"))

    @property
    def balancer(self) -> str:
        """The class of the balancer; "the balancer" if it is not known."""
        target = mapping(self.config.get("balancer")).get("_target_")
        return str(target).rpartition(".")[2] if target else "the balancer"

    @property
    def figures(self) -> dict[str, dict[str, float]]:
        """The evaluation at the end: task -> figure -> value; empty if there was none."""
        tasks = mapping(self.metrics.get("tasks"))
        return {task: numbers(figures) for task, figures in tasks.items()}

    @property
    def last_step(self) -> int:
        """Steps done, as far as they are known."""
        steps = [number(part.get("step")) or 0 for part in (self.status, self.metrics)]
        written = [int(line.steps[-1]) for line in self.events.lines.values()]
        return max(*(int(step) for step in steps), *written, 0)

    def setting(self, key: str) -> Any:
        """Return a setting by its dotted key, or None."""
        node: Any = self.config
        for part in key.split("."):
            node = mapping(node).get(part)
        return node


def load(path: Path) -> Run:
    """Read the folder of a run.

    Raises:
        ValueError: if it is none, or a file of it is not what it should be.
    """
    names = (run_status.NAME, saved.JSON, saved.YAML, METRICS, TENSORBOARD)
    if not any((path / name).exists() for name in names):
        raise ValueError(
            f"expected the folder of a run, with one of {', '.join(names)}, got {path}"
        )
    if (path / MARKDOWN).exists():
        jobs = sorted(str(found.parent) for found in path.rglob(saved.YAML))
        raise ValueError(
            f"expected the folder of a run, got a sweep's, {path}: its table is {path / MARKDOWN}, "
            f"its runs are {', '.join(jobs) or 'not there yet'}"
        )
    run = Run(path)
    run.status = _json(run, run_status.NAME, "how the run stands is not known")
    if (settings := saved.path_of(path)) is not None:
        run.config = saved.read(settings, dict)
    else:
        run.missing.append(f"There is no {saved.JSON}: the run ended before the model was built.")
    run.metrics = _json(run, METRICS, "the run has not finished, and has no final evaluation")
    _read_events(run)
    _read_checkpoints(run)
    return run


def _json(run: Run, name: str, without: str) -> dict[str, Any]:
    path = run.path / name
    if not path.exists():
        run.missing.append(f"There is no {name}: {without}.")
        return {}
    return sealed.read_json(path)


def _read_events(run: Run) -> None:
    folder = run.path / TENSORBOARD
    if folder.is_dir():
        run.events = events.read(folder)
    if not run.events.lines:
        run.missing.append(
            f"There are no figures in {TENSORBOARD}/: no curves of the training are shown."
        )
    for name, lost in run.events.damaged.items():
        run.missing.append(
            f"{TENSORBOARD}/{name} is damaged. Records that are lost, and missing from the curves: "
            f"{lost:,}."
        )
    if run.events.clock_went_back:
        run.missing.append(
            "The machine's clock was set back while the run was under way: the times and the "
            "duration are not exact. The curves are in the order of the steps."
        )
    if run.events.not_finite:
        run.missing.append(
            f"{run.events.not_finite:,} values in {TENSORBOARD}/ are no finite numbers: they are "
            "left out of the curves."
        )
    history = run.metrics.get("history")
    # The same figures; TensorBoard's files may be gone.
    evaluations = events.from_history(history if isinstance(history, list) else [])
    run.events.lines = {**evaluations, **run.events.lines}


def _read_checkpoints(run: Run) -> None:
    folder = run.path / "checkpoint"
    run.put_aside = [path.name for path in checkpoints.quarantined(folder)]
    if not (found := checkpoints.finished(folder)):
        run.missing.append("There is no checkpoint: versions and device are not known.")
        return
    try:
        run.state = checkpoint_state.read_verified(found[-1])
    except ValueError as error:
        log.warning("the newest checkpoint is not read: %s", error)
        run.missing.append(f"The newest checkpoint tells nothing: {error}")


def mapping(value: Any) -> dict[str, Any]:
    """Return a mapping with strings as keys, or an empty one in the place of anything else."""
    return {str(k): v for k, v in value.items()} if isinstance(value, Mapping) else {}


def number(value: Any) -> float | None:
    """Return a finite number, or None in the place of anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e300 and math.isfinite(value) else None


def numbers(value: Any) -> dict[str, float]:
    """Return the entries of a mapping that are finite numbers."""
    found = {name: number(part) for name, part in mapping(value).items()}
    return {name: part for name, part in found.items() if part is not None}
