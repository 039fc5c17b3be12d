"""The lines of a run: the values in TensorBoard's event files, by tag.

Shapes: N points of a line.
"""

import logging
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import (
    Event,  # pyright: ignore[reportAttributeAccessIssue] (protobuf makes it at import)
    SessionLog,  # pyright: ignore[reportAttributeAccessIssue] (protobuf makes it at import)
)

from mbrec.monitor import event_files

log = logging.getLogger(__name__)

# More cannot be told apart on a screen.
MOST_POINTS = 1000
# Points of the line through a noisy one.
BLOCKS = 50
# Seconds by which clocks are adjusted all the time.
TOLERANCE = 1.0


@dataclass(frozen=True)
class Line:
    """A figure over the steps of a run.

    Attributes:
        steps: (N,), rising.
        values: (N,), all finite.
    """

    steps: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def last_half(self) -> np.ndarray:
        """The values of the later half of the points; of one point, that one."""
        return self.values[len(self) // 2 :]


@dataclass(frozen=True)
class Sitting:
    """The part of a run that one process wrote.

    Attributes:
        start: time of the first event, in seconds since 1970.
        seconds: from the first event to the last; without the steps at which the clock went back.
        clock_went_back: whether it did.
    """

    start: float
    seconds: float
    clock_went_back: bool

    @classmethod
    def of(cls, steps: Sequence[int], times: Sequence[float]) -> "Sitting":
        """Return the sitting that wrote events at these steps and times.

        >>> Sitting.of([1, 2, 3], [100.0, 104.0, 52.0])
        Sitting(start=100.0, seconds=4.0, clock_went_back=True)
        """
        times_N = np.array(times)[np.lexsort((times, steps))]
        passed_N = np.diff(times_N)
        back = bool((passed_N < -TOLERANCE).any())
        return cls(float(times_N[0]), float(passed_N.clip(min=0).sum()), back)


@dataclass
class Events:
    """The contents of a run's event files.

    Attributes:
        lines: tag -> its points; none is empty.
        sittings: of each file with figures, in order.
        not_finite: values that were left out, because they are no finite numbers.
        damaged: name of a file -> its records that cannot be read; of such as follow one another
            and have lost their lengths, one.
    """

    lines: dict[str, Line] = field(default_factory=dict)
    sittings: list[Sitting] = field(default_factory=list)
    not_finite: int = 0
    damaged: dict[str, int] = field(default_factory=dict)

    @property
    def clock_went_back(self) -> bool:
        """Whether the machine's clock was set back while the run was under way."""
        within = any(sitting.clock_went_back for sitting in self.sittings)
        ends = [(a.start + a.seconds, b.start) for a, b in pairwise(self.sittings)]
        return within or any(start < end - TOLERANCE for end, start in ends)

    def below(self, name: str) -> dict[str, Line]:
        """Return the lines whose tag is `name/...`, by what comes after it."""
        prefix = f"{name}/"
        found = {t.removeprefix(prefix): x for t, x in self.lines.items() if t.startswith(prefix)}
        return dict(sorted(found.items()))

    def by_task(self, name: str, tasks: Iterable[str]) -> dict[str, Line]:
        """Return task -> the line `name/task`, of the tasks that have one, in their order."""
        found = {task: self.lines.get(f"{name}/{task}") for task in tasks}
        return {task: line for task, line in found.items() if line is not None}

    def cosines(self, tasks: Sequence[str]) -> dict[tuple[str, str], Line]:
        """Return the cosine of each pair of tasks that has one."""
        found = {(a, b): self.lines.get(f"cosine/{a}-{b}") for a, b in combinations(tasks, 2)}
        return {pair: line for pair, line in found.items() if line is not None}


def read(folder: Path) -> Events:
    """Read all event files of a folder, in the order in which they were begun.

    A line is in the order of its steps, whatever the clock said. What is damaged is left out, with
    a warning.

    A job that resumes from a checkpoint says from which step; later steps that the job before had
    written are left out, as in TensorBoard.

    Raises:
        ValueError: naming a file that holds something else.
    """
    points: dict[str, tuple[array[int], array[float]]] = {}
    found = Events()
    for path in event_files.in_order(folder):
        try:
            _read_file(path, points, found)
        except DecodeError as error:
            raise ValueError(f"{path}: expected TensorBoard's events, got {error}") from error
        if lost := found.damaged.get(path.name):
            log.warning("%s is damaged; records that are lost: %d", path, lost)
    for tag, (steps, values) in points.items():
        steps_N, values_N = _in_order(np.array(steps, dtype=np.int64), np.array(values))
        finite_N = np.isfinite(values_N)
        found.not_finite += int((~finite_N).sum())
        if finite_N.any():
            found.lines[tag] = Line(steps_N[finite_N], values_N[finite_N])
    return found


def _read_file(path: Path, points: dict[str, tuple[Any, Any]], found: Events) -> None:
    """Add a file's points. A last event that was cut off by a kill is left out."""
    written: tuple[array[int], array[float]] = array("q"), array("d")
    for record in event_files.records(path):
        if record is None:
            found.damaged[path.name] = found.damaged.get(path.name, 0) + 1
            continue
        event = Event.FromString(record)
        if event.HasField("session_log") and event.session_log.status == SessionLog.START:
            _forget_from(event.step, points)
        for value in event.summary.value:
            if value.HasField("simple_value"):
                # Arrays: a point takes 16 bytes, and there may be tens of millions.
                steps, values = points.setdefault(value.tag, (array("q"), array("d")))
                steps.append(event.step)
                values.append(value.simple_value)
        if any(value.HasField("simple_value") for value in event.summary.value):
            written[0].append(event.step)
            written[1].append(event.wall_time)
    if written[0]:
        found.sittings.append(Sitting.of(*written))


def _in_order(steps_N: np.ndarray, values_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort the points of a line by step; of equal steps the one that was written last is kept."""
    if (np.diff(steps_N) > 0).all():
        return steps_N, values_N
    order_N = np.argsort(steps_N, kind="stable")
    steps_N, values_N = steps_N[order_N], values_N[order_N]
    last_N = np.append(np.diff(steps_N) > 0, True)
    return steps_N[last_N], values_N[last_N]


def _forget_from(step: int, points: dict[str, tuple[Any, Any]]) -> None:
    for tag, (steps, values) in points.items():
        kept = [i for i, at in enumerate(steps) if at < step]
        if len(kept) < len(steps):
            points[tag] = (
                array("q", [steps[i] for i in kept]),
                array("d", [values[i] for i in kept]),
            )


def thin(line: Line, most: int = MOST_POINTS) -> Line:
    """Return at most `most` points of a line, its peaks and dips among them.

    Of each stretch of points the least and the greatest are kept, where they were.

    >>> line = Line(np.arange(10_000), np.zeros(10_000))
    >>> line.values[1234] = 7.0
    >>> short = thin(line)
    >>> len(short) <= 1000, int(short.steps[short.values.argmax()])
    (True, 1234)
    """
    if len(line) <= most:
        return line
    kept: set[int] = set()
    for stretch in np.array_split(np.arange(len(line)), most // 2):
        values = line.values[stretch]
        kept |= {int(stretch[values.argmin()]), int(stretch[values.argmax()])}
    index = np.array(sorted(kept))
    return Line(line.steps[index], line.values[index])


def smooth(line: Line, by: Callable[[np.ndarray], Any] = np.median) -> Line:
    """Return one value for each fiftieth of a line's points, at the middle of their steps.

    Args:
        line: with no more than twice as many points, it is returned as it is.
        by: makes one value of many; a mean suits values that are only ever 0 or 1.
    """
    if len(line) <= 2 * BLOCKS:
        return line
    stretches = np.array_split(np.arange(len(line)), BLOCKS)
    steps = np.array([np.median(line.steps[stretch]) for stretch in stretches])
    return Line(steps, np.array([by(line.values[stretch]) for stretch in stretches]))


def from_history(history: Sequence[Any]) -> dict[str, Line]:
    """Return the lines `evaluation_FIGURE/TASK` of the evaluations in `metrics.json`."""
    points: dict[str, list[tuple[int, float]]] = {}
    for entry in history:
        step = entry.get("step") if isinstance(entry, Mapping) else None
        if type(step) is not int or not 0 <= step < 1 << 62:
            continue
        tasks = entry.get("tasks")
        for task, figures in tasks.items() if isinstance(tasks, Mapping) else ():
            for name, value in figures.items() if isinstance(figures, Mapping) else ():
                if isinstance(value, int | float) and np.isfinite(value):
                    tag = f"evaluation_{name}/{task}"
                    points.setdefault(tag, []).append((step, float(value)))
    return {
        tag: Line(*(np.array(part) for part in zip(*found, strict=True)))
        for tag, found in points.items()
    }
