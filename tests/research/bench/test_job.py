import torch

from mbrec.balance import BalanceHook, MultiBalance
from research.bench import job
from research.bench.boundary import Boundary, Size


def test_the_report_has_the_rates_the_share_and_the_drop():
    bare, hooked, whole = [1.0] * 11, [1.25] * 11, [2.0] * 9 + [1.0, 4.0]
    text = job.describe(100, 10, whole, bare, hooked, [1.5625] * 11)
    assert "50 rows/s, 200.00 ms a step" in text
    assert "100 rows/s, 100.00 ms a step" in text
    assert "job / bare loop 0.500 (0.500 to 0.500)" in text
    assert "QPS drop of the hook 20.00 (20.00 to 20.00) %" in text
    assert "QPS drop of the guard 20.00 (20.00 to 20.00) %" in text
    assert "11 rounds of 10 steps each" in text


def test_the_collective_is_listed_apart_from_the_hooks_own_time():
    hook, steps = BalanceHook(MultiBalance(2)), Boundary(Size(2, 8, 4), torch.device("cpu"))
    inside, collective = job.hook_time(hook, lambda: steps.step(hook))
    assert inside > 0
    assert collective > 0
    assert hook._way.marks is None


def test_shares_are_of_the_blocks_time():
    text = job.describe_hook(inside=0.01, collective=0.02, steps=10, block_s=2.0)
    assert "hook itself 1,000 us a step = 0.50 %" in text
    assert "2,000 us = 1.00 %" in text
