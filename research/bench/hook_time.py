"""The hook's own time in a real job: forward, backward, and waiting for the other ranks apart."""

from collections.abc import Callable
from dataclasses import dataclass

from mbrec.balance import BalanceHook
from mbrec.monitor.timing import PartClock


@dataclass(frozen=True)
class HookTime:
    """Seconds of a block of steps, on this rank.

    Attributes:
        inside: forward and backward of the hook, without the collective.
        collective: starting the sum over the ranks, and waiting for it.
    """

    inside: float
    collective: float

    def describe(self, steps: int, block_s: float) -> str:
        """Return both in microseconds a step, and in per cent of a block of steps."""
        return (
            f"hook itself {1e6 * self.inside / steps:,.0f} us a step = "
            f"{100 * self.inside / block_s:.2f} %; collective with the wait for the peers "
            f"{1e6 * self.collective / steps:,.0f} us = {100 * self.collective / block_s:.2f} %"
        )


def hook_time(hook: BalanceHook, block: Callable[[], object]) -> HookTime:
    """Return the time in the hook while a block of steps runs on the CPU."""
    clock = PartClock()
    hook.mark_parts(clock)
    block()
    hook.mark_parts(None)
    collective = clock.seconds["collective"]
    return HookTime(clock.inside - collective, collective)
