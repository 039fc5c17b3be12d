"""Timing that a noisy machine cannot fool: blocks in random order, medians with an interval."""

import math
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mbrec.balance.backward.spans import Part


@dataclass(frozen=True)
class Spread:
    """A median with a 95 % interval of the median.

    Attributes:
        low: lower end of the interval.
        high: upper end.
    """

    median: float
    low: float
    high: float

    def text(self, digits: int = 2) -> str:
        """Return `median (low to high)`."""
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def spread(values: Sequence[float]) -> Spread:
    """Return the median and the order statistics that cover it with probability 0.95 or more.

    Of fewer than six values no two cover it so often; their whole range is returned.

    >>> spread([3.0, 1.0, 2.0, 5.0, 4.0, 9.0, 7.0, 8.0, 6.0]).text(0)
    '5 (2 to 8)'
    """
    ordered = sorted(values)
    count, below, cut = len(ordered), 1, 0
    # The number of values below the median is binomial: `below` of the 2^count outcomes leave at
    # most `cut` there, and as many leave at most `cut` above.
    while (wider := below + math.comb(count, cut + 1)) * 40 <= 2**count:
        below, cut = wider, cut + 1
    return Spread(statistics.median(ordered), ordered[cut], ordered[count - 1 - cut])


def interleave(
    blocks: Sequence[Callable[[], object]],
    wait: Callable[[], object],
    *,
    rounds: int,
    warmup: int = 2,
    seed: int = 0,
) -> list[list[float]]:
    """Return the seconds of each block in each round; the order within a round is random.

    Args:
        wait: returns when all work is done, on every rank; called around each block.
        rounds: that count.
        warmup: rounds before, that do not.
        seed: of the order, which is the same on every rank.
    """
    seconds: list[list[float]] = [[] for _ in blocks]
    order, generator = list(range(len(blocks))), random.Random(seed)
    for number in range(warmup + rounds):
        generator.shuffle(order)
        for index in order:
            wait()
            start = time.perf_counter()
            blocks[index]()
            wait()
            if number >= warmup:
                seconds[index].append(time.perf_counter() - start)
    return seconds


def drop(baseline: Sequence[float], measured: Sequence[float]) -> Spread:
    """Return by how many per cent the rate fell, round by round: the paper's QPS drop."""
    return spread([100 * (1 - a / b) for a, b in zip(baseline, measured, strict=True)])


class PartClock:
    """Adds up the seconds of each part of a hook's work; for `BalanceHook.mark_parts`.

    Args:
        wait: returns when the device has done its work, without which a GPU's time would be
            counted where the host waits for it.
    """

    def __init__(self, wait: Callable[[], object] = lambda: None) -> None:
        self.seconds: defaultdict[Part, float] = defaultdict(float)
        self._wait = wait
        self._since = time.perf_counter()

    def __call__(self, part: "Part") -> None:
        """Take the time since the last call for that of a part."""
        self._wait()
        now = time.perf_counter()
        self.seconds[part] += now - self._since
        self._since = now

    @property
    def inside(self) -> float:
        """Seconds in the hook itself: all but the heads, and what lies outside."""
        return sum(s for part, s in self.seconds.items() if part not in ("outside", "heads"))
