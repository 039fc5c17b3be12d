"""How many steps a measurement of the hook takes. Imports nothing heavy: the settings read it."""

from dataclasses import dataclass

BLOCK_SECONDS, LEAST_BLOCK_STEPS = 0.5, 10
WARMUP_PAIRS, LEAST_PAIRS = 2, 17
# Half of them are warm-up, the others are timed to choose the length of a block.
FIRST_STEPS = 20
# Blocks in which each part of the hook is timed.
SPLIT_BLOCKS = 4


@dataclass(frozen=True)
class Plan:
    """The blocks of a measurement.

    Attributes:
        block_steps: steps of each.
        pairs: of a block with the hook and one without, that count.
    """

    block_steps: int = LEAST_BLOCK_STEPS
    pairs: int = LEAST_PAIRS

    @property
    def split_steps(self) -> int:
        """Steps in which each part of the hook is timed."""
        return SPLIT_BLOCKS * self.block_steps

    @property
    def steps(self) -> int:
        """Steps in all, with those that do not count."""
        return FIRST_STEPS + 2 * (WARMUP_PAIRS + self.pairs) * self.block_steps + self.split_steps


def plan(step_seconds: float, epoch_steps: int, max_steps: int | None) -> Plan:
    """Return a plan of as many pairs as there are steps for, but never of too few.

    Args:
        step_seconds: that a step takes.
        epoch_steps: of all epochs; with too few the rows are read again.
        max_steps: no more than that, whatever the epochs say; at least `Plan().steps`.
    """
    block_steps = max(LEAST_BLOCK_STEPS, round(BLOCK_SECONDS / step_seconds))
    left = (epoch_steps if max_steps is None else max_steps) - FIRST_STEPS
    if max_steps is not None:
        fewest = 2 * (WARMUP_PAIRS + LEAST_PAIRS) + SPLIT_BLOCKS
        block_steps = min(block_steps, left // fewest)
    pairs = (left // block_steps - SPLIT_BLOCKS) // 2 - WARMUP_PAIRS
    return Plan(block_steps, max(LEAST_PAIRS, pairs))
