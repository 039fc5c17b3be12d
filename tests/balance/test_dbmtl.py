import pytest
import torch

from mbrec.balance import DBMTL

LENGTHS = torch.tensor([1.0, 2.0, 3.0, 5.0], dtype=torch.float64)
TARGETS = [("max", 5.0), ("min", 1.0), ("median", 2.5), ("mean", 2.75)]


@pytest.mark.parametrize(("target", "length"), TARGETS)
def test_every_gradient_gets_the_length_of_the_target(target, length):
    cosines = torch.full((4, 4), 0.3, dtype=torch.float64).fill_diagonal_(1.0)
    weights = DBMTL(4, target=target)(cosines * LENGTHS * LENGTHS[:, None])
    torch.testing.assert_close(weights * LENGTHS, torch.full_like(LENGTHS, length))


@pytest.mark.parametrize(("target", "length"), [("max", 5), ("min", 1), ("median", 3), ("mean", 3)])
def test_the_target_is_one_of_the_active_tasks(target, length):
    active_K = torch.tensor([True, False, True, True])
    weights = DBMTL(4, target=target)(torch.diag(LENGTHS**2), active_K=active_K)
    torch.testing.assert_close(weights * LENGTHS, length * active_K.double())


def test_log_losses_divide_each_gradient_by_its_loss():
    losses_K = torch.tensor([0.5, 4.0, 1.0, 0.1], dtype=torch.float64)
    logged = DBMTL(4, log_loss=True)(torch.diag(LENGTHS**2), losses_K=losses_K)
    plain = DBMTL(4)(torch.diag((LENGTHS / losses_K) ** 2))
    torch.testing.assert_close(logged, plain / losses_K)


def test_a_vanishing_loss_does_not_make_an_infinite_weight():
    losses_K = torch.tensor([0.0, 1.0, 1.0, 1.0])
    weights = DBMTL(4, log_loss=True)(torch.diag(LENGTHS**2), losses_K=losses_K)
    assert torch.isfinite(weights).all()


def test_averaged_lengths_start_at_the_first_and_move_by_their_decay():
    balancer = DBMTL(2, target="max", ema_decay=0.9)
    balancer(torch.diag(torch.tensor([1.0, 4.0])))
    weights = balancer(torch.diag(torch.tensor([9.0, 4.0])))
    average = torch.tensor([0.9 * 1 + 0.1 * 3, 2.0], dtype=torch.float64)
    torch.testing.assert_close(balancer.norm_average, average)
    torch.testing.assert_close(weights, average.max() / average)
