import pytest
import torch
from test_solvers import exact_minimum
from torch import Tensor, nn

from mbrec.balance import BalanceHook, MoCo
from mbrec.balance.solvers.simplex import project_to_simplex

K, B, H, D = 3, 4, 5, 2


def tracked(num_parameters: int, **options: object) -> MoCo:
    balancer = MoCo(K, **options)
    balancer.track(num_parameters)
    balancer.average = balancer.average.double()
    return balancer


@pytest.mark.parametrize("normalise", ["none", "loss"])
@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_steps_equal_the_published_recursion(normalise, rho):
    generator = torch.Generator().manual_seed(0)
    balancer = tracked(6, beta=0.5, gamma=0.1, rho=rho, normalise=normalise)
    Y, w = torch.zeros(K, 6, dtype=torch.float64), torch.full((K,), 1 / K, dtype=torch.float64)
    for step in range(1, 8):
        grads_KP = torch.randn(K, 6, generator=generator, dtype=torch.float64)
        losses_K = torch.rand(K, generator=generator, dtype=torch.float64)
        h = grads_KP
        if normalise == "loss":
            h = h / h.norm(dim=1, keepdim=True) * losses_K[:, None]
        Y = Y - 0.5 / step**0.5 * (Y - h)
        w = project_to_simplex(w - 0.1 / step**0.5 * (Y @ Y.T @ w + rho * w))
        weights, direction = balancer(grads_KP, losses_K=losses_K)
        torch.testing.assert_close(weights, w)
        torch.testing.assert_close(direction, w @ Y)


def test_weights_of_constant_gradients_go_to_the_min_norm_point():
    rows = torch.tensor([[3.0, 0, 1, -1], [-1, 2, 0, 1], [1, 1, -2, 0]], dtype=torch.float64)
    balancer = tracked(4, beta=1.0, gamma=1.0, normalise="none")
    for _ in range(300):
        weights, _ = balancer(rows)
    expected = exact_minimum(rows @ rows.T, torch.zeros(K).double(), simplex=True)
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-4)


class Bottom(nn.Module):
    """A module whose parameters are balanced, and a layer above it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.module, self.above = nn.Linear(D, H, bias=False), nn.Linear(H, H, bias=False)

    def losses(self, hook: BalanceHook | None = None) -> Tensor:
        """Return K losses, linear in the representation, on one batch."""
        generator = torch.Generator().manual_seed(1)
        x_BD = torch.randn(B, D, generator=generator)
        rows_KBH = torch.randn(K, B, H, generator=generator)
        shared_BH = self.above(self.module(x_BD))
        views = (shared_BH,) * K if hook is None else hook(shared_BH)
        return torch.stack([(v * row).sum() for v, row in zip(views, rows_KBH, strict=True)])


def test_the_module_gets_the_direction_and_the_rest_of_the_bottom_the_weighted_rows():
    bottom, plain = Bottom(), Bottom()
    hook = BalanceHook(MoCo(K, normalise="none", beta=0.5), parameters=bottom.module)
    bottom.losses(hook).sum().backward()
    (hook.weights.float() @ plain.losses()).backward()
    torch.testing.assert_close(bottom.above.weight.grad, plain.above.weight.grad)
    # The first average is half a gradient.
    torch.testing.assert_close(bottom.module.weight.grad, 0.5 * plain.module.weight.grad)


def test_a_backward_pass_beside_the_hook_leaves_its_own_gradient():
    bottom, plain = Bottom(), Bottom()
    hook = BalanceHook(MoCo(K, normalise="none"), parameters=bottom.module)
    bottom.losses(hook).sum().backward()
    bottom.zero_grad()
    for model in (bottom, plain):
        model.module.weight.square().sum().backward()
    torch.testing.assert_close(bottom.module.weight.grad, plain.module.weight.grad)
