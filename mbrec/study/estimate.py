"""Differences between runs on the same batches, with their 95% intervals.

A gain is positive where the new run is better. Intervals are Student's t over seeds.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scipy.stats import t as student

CONFIDENCE = 0.95
POWER = 0.8
# Relative: differences of figures in float64 that are the same.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        mean: of the values.
        half: half the width of its 95% interval; infinite for a single value.
        error: its standard error; infinite for a single value.
        detectable: the true mean that such a sample would have shown with probability 0.8.
        num: number of values.
    """

    mean: float
    half: float
    error: float
    detectable: float
    num: int

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.mean - self.half

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.mean + self.half

    @property
    def is_real(self) -> bool:
        """Whether the interval excludes zero; equal values, up to rounding, have no interval."""
        return self.half > ROUNDING * abs(self.mean) and (self.low > 0 or self.high < 0)

    @property
    def detectable_text(self) -> str:
        """The detectable mean, or a question mark for a single value."""
        return f"{self.detectable:.3f}" if math.isfinite(self.detectable) else "?"

    def text(self, digits: int = 3) -> str:
        """Return `mean ± half`, with a star if the interval excludes zero.

        >>> estimate([1.0, 1.1, 1.2]).text(2)
        '+1.10 ± 0.25 *'
        """
        half = f"{self.half:.{digits}f}" if math.isfinite(self.half) else "?"
        return f"{self.mean:+.{digits}f} ± {half}{' *' if self.is_real else ''}"


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean of paired differences, one per seed.

    Raises:
        ValueError: if there are no values.
    """
    if not values:
        raise ValueError("expected at least one value to estimate a mean from, got none")
    mean, num = statistics.fmean(values), len(values)
    if num == 1:
        return Estimate(mean, math.inf, math.inf, math.inf, 1)
    error = statistics.stdev(values) / math.sqrt(num)
    reach = float(student.ppf((1 + CONFIDENCE) / 2, num - 1))
    more = float(student.ppf(POWER, num - 1))
    return Estimate(mean, reach * error, error, (reach + more) * error, num)


def median_detectable(found: Iterable[Estimate], digits: int = 3) -> str:
    """Return the median of the detectable means, as text; a dash without any.

    Args:
        found: estimates; those of one value are left out.
        digits: after the point.

    >>> median_detectable([estimate([0.0, 0.1]), estimate([0.0, 0.2])])
    '1.056'
    """
    values = [one.detectable for one in found if math.isfinite(one.detectable)]
    return f"{statistics.median(values):.{digits}f}" if values else "-"


def ne_gains(base: Sequence[float], new: Sequence[float]) -> list[float]:
    """Return by how many per cent the NE of each seed is lower: the paper's NE gain.

    >>> [round(gain, 3) for gain in ne_gains([0.8, 0.9], [0.796, 0.909])]
    [0.5, -1.0]
    """
    return [100 * (b - n) / b for b, n in zip(base, new, strict=True)]


def differences(base: Sequence[float], new: Sequence[float]) -> list[float]:
    """Return new - base, seed by seed."""
    return [n - b for b, n in zip(base, new, strict=True)]


def mean_of_tasks(by_task: Sequence[Sequence[float]]) -> list[float]:
    """Return the mean over tasks of each seed's gains: the paper's average of all tasks."""
    return [statistics.fmean(values) for values in zip(*by_task, strict=True)]
