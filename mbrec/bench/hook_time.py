"""The hook's own time in a real job: forward, backward, and waiting for the other ranks apart."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mbrec.balance import BalanceHook, backward, ranks
from mbrec.bench.boundary import Clock, timed


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
    collective, start = Clock(), ranks.start_sum

    def timed_start(*args: Any) -> Callable[[], Any]:
        return collective.around(collective.around(start, _no_wait)(*args), _no_wait)

    # Every sum of the library goes through this function, whoever imported it.
    ranks.start_sum = backward.start_sum = timed_start
    try:
        with timed(hook) as clock:
            block()
    finally:
        ranks.start_sum = backward.start_sum = start
    return HookTime(clock.seconds - collective.seconds, collective.seconds)


def _no_wait() -> None:
    pass
