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
