import pytest
import torch

from mbrec.balance import Uncertainty


@pytest.mark.parametrize("factor", [0.5, 1.0])
def test_log_variances_take_the_gradient_steps_of_the_published_loss(factor):
    generator = torch.Generator().manual_seed(0)
    balancer = Uncertainty(3, lr=0.1, initial=-0.5, factor=factor)
    s_K = torch.full((3,), -0.5, dtype=torch.float64, requires_grad=True)
    sgd = torch.optim.SGD([s_K], lr=0.1)
    for losses_K in torch.rand(20, 3, generator=generator, dtype=torch.float64):
        weights = balancer(torch.eye(3), losses_K=losses_K)
        torch.testing.assert_close(weights, factor * (-s_K.detach()).exp())
        sgd.zero_grad()
        (factor * (-s_K).exp() * losses_K + s_K / 2).sum().backward()
        sgd.step()
        torch.testing.assert_close(balancer.log_variance, s_K.detach())


@pytest.mark.parametrize("factor", [0.5, 1.0])
def test_weights_go_to_one_over_twice_the_loss(factor):
    losses_K = torch.tensor([0.2, 0.5, 1.5], dtype=torch.float64)
    balancer = Uncertainty(3, lr=0.2, factor=factor)
    for _ in range(400):
        weights = balancer(torch.eye(3), losses_K=losses_K)
    torch.testing.assert_close(weights, 0.5 / losses_K)


def test_the_losses_are_asked_for():
    with pytest.raises(ValueError, match=r"expected the losses .* call hook\.observe"):
        Uncertainty(2)(torch.eye(2))


def test_one_outlier_does_not_silence_its_task_and_no_loss_makes_the_state_infinite():
    balancer = Uncertainty(2)
    balancer(torch.eye(2), losses_K=torch.tensor([1e4, 0.5]))
    assert float(balancer.log_variance[0]) == pytest.approx(5 * balancer.lr)
    for _ in range(3000):
        weights_K = balancer(torch.eye(2), losses_K=torch.tensor([-1.0, 0.5]))
    assert balancer.ok
    assert weights_K.isfinite().all()
    assert balancer.log_variance.abs().max() <= 20
