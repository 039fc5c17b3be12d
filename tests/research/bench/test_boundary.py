import pytest
import torch

from mbrec.balance import BalanceHook, Equal, MultiBalance
from research.bench import boundary
from research.bench.boundary import Boundary, Size

CPU = torch.device("cpu")


def test_the_floor_reads_every_gradient_twice_and_writes_one():
    assert Size(3, 8192, 512).least_bytes == 7 * 8192 * 512 * 4


def test_the_step_with_the_hook_merges_the_rows_it_was_given():
    steps = Boundary(Size(3, 16, 4), CPU)
    grads = []
    steps.shared_BH.register_hook(grads.append)
    hook = BalanceHook(MultiBalance(3))
    steps.step(hook)
    steps.step(None)
    rows = zip(hook.weights.float(), steps.rows_KBH, strict=True)
    torch.testing.assert_close(grads[0], sum(w * row for w, row in rows))
    torch.testing.assert_close(grads[1], sum(steps.rows_KBH))
    assert steps.shared_BH.grad is None


def test_the_time_inside_is_that_of_the_hook_alone_and_nobody_is_told_of_it_afterwards():
    hook = BalanceHook(Equal(2), statistics=True)
    found = boundary.added_time(hook, Size(2, 8, 4), CPU, lambda: None, rounds=3)
    assert found.inside.low > 0
    assert hook._way.marks is None


def test_added_time_has_an_interval_and_does_not_count_warm_up(monkeypatch):
    calls = []
    monkeypatch.setattr(Boundary, "step", lambda self, hook: calls.append(hook is None))
    found = boundary.added_time(BalanceHook(Equal(2)), Size(2, 8, 4), CPU, lambda: None, rounds=9)
    assert found.added.low <= found.added.median <= found.added.high
    assert calls.count(True) == 9 + 3
    assert calls.count(False) == 9 + 3 + 9


def test_a_size_that_does_not_fit_is_told_before_it_is_tried():
    assert boundary.fits(Size(3, 1024, 64), 1e9)
    assert not boundary.fits(Size(16, 65536, 1024), 1e9)


def test_bandwidth_counts_bytes_read_and_written(monkeypatch):
    monkeypatch.setattr(boundary, "BANDWIDTH_BYTES", 1 << 12)
    monkeypatch.setattr(boundary, "interleave", lambda *_, **__: [[0.5] * 5])
    assert boundary.copy_bandwidth(CPU, lambda: None) == pytest.approx(2 * (1 << 12) / 0.5)
