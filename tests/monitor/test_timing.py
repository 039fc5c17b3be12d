import itertools

import pytest
from scipy import stats

from mbrec.monitor import timing


def test_the_interval_holds_the_median_and_narrows_with_more_values():
    few, many = timing.spread(range(9)), timing.spread([n / 100 for n in range(900)])
    assert (few.median, few.low, few.high) == (4, 1, 7)
    assert many.low < many.median < many.high
    assert (many.high - many.low) / 9 < (few.high - few.low) / 9


@pytest.mark.parametrize("count", [6, 7, 8, 20, 51, 400])
def test_the_interval_covers_the_median_in_95_of_100_samples_and_no_narrower_one_does(count):
    found = timing.spread(range(count))
    assert found.low == count - 1 - found.high  # symmetric, whether the number is even or odd
    below = stats.binom(count, 0.5).cdf
    assert 1 - 2 * below(found.low) >= 0.95 - 1e-12
    assert 1 - 2 * below(found.low + 1) < 0.95


def test_of_a_few_values_the_whole_range_is_shown():
    assert (timing.spread([3, 1, 2]).low, timing.spread([3, 1, 2]).high) == (1, 3)


def test_blocks_run_in_every_order_and_warm_up_rounds_are_not_counted():
    ran = []
    blocks = [lambda: ran.append("a"), lambda: ran.append("b")]
    seconds = timing.interleave(blocks, lambda: None, rounds=20, warmup=3)
    assert [len(times) for times in seconds] == [20, 20]
    rounds = ["".join(ran[i : i + 2]) for i in range(0, len(ran), 2)]
    assert len(rounds) == 23
    assert set(rounds) == {"ab", "ba"}


def test_the_order_is_the_same_on_every_rank():
    orders = []
    for _ in range(2):
        ran = []
        blocks = [lambda ran=ran, n=n: ran.append(n) for n in range(4)]
        timing.interleave(blocks, lambda: None, rounds=5)
        orders.append(ran)
    assert orders[0] == orders[1]


def test_work_is_waited_for_on_both_sides_of_a_block():
    events = []
    timing.interleave(
        [lambda: events.append("run")], lambda: events.append("wait"), rounds=1, warmup=0
    )
    assert events == ["wait", "run", "wait"]


def test_the_drop_is_that_of_the_rate_round_by_round():
    # Steps of twice the time are half the rate.
    found = timing.drop([1.0, 2.0, 3.0], [2.0, 4.0, 6.0])
    assert found.median == pytest.approx(50.0)
    assert found.low == found.high == pytest.approx(50.0)


def test_a_clock_gives_each_part_the_time_since_the_one_before(monkeypatch):
    ticks = itertools.accumulate([0.0, 1.0, 2.0, 4.0, 8.0])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(ticks))
    clock = timing.PartClock()
    for part in ("outside", "views", "heads", "views"):
        clock(part)
    assert clock.seconds == {"outside": 1.0, "views": 10.0, "heads": 4.0}
    assert clock.inside == 10.0


def test_a_clock_waits_for_the_device_before_it_looks(monkeypatch):
    events = []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: events.append("look") or 0.0)
    timing.PartClock(lambda: events.append("wait"))("merge")
    assert events[-2:] == ["wait", "look"]
