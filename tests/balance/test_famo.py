import torch
from torch import nn

from mbrec.balance import FAMO, BalanceHook

K = 3


def random_gramian(generator: torch.Generator) -> torch.Tensor:
    rows = torch.randn(K, 5, generator=generator, dtype=torch.float64)
    return rows @ rows.T


def test_the_logits_take_adams_steps_on_the_decreases_that_the_gradients_predict():
    generator = torch.Generator().manual_seed(0)
    balancer = FAMO(K, lr=0.1, weight_decay=0.01, min_loss=0.05, decrease=0.02)
    logits_K = torch.zeros(K, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([logits_K], lr=0.1, weight_decay=0.01)
    for _ in range(30):
        losses_K = torch.rand(K, generator=generator, dtype=torch.float64) + 0.1
        gramian_KK = random_gramian(generator)
        distance_K = losses_K - 0.05 + 1e-8
        share_K = logits_K.detach().softmax(0)
        expected_K = share_K / distance_K / (share_K / distance_K).sum()
        weights_K = balancer(gramian_KK, losses_K=losses_K)
        torch.testing.assert_close(weights_K, expected_K, rtol=1e-9, atol=1e-9)
        # Of log losses, whose gradients are z_k / D_k.
        merged = (expected_K @ gramian_KK @ expected_K).sqrt()
        norms_K = gramian_KK.diagonal().sqrt() / distance_K
        decrease_K = 0.02 * gramian_KK @ expected_K / distance_K / (merged * (share_K @ norms_K))
        logits_K.grad = torch.autograd.grad(logits_K.softmax(0) @ decrease_K, logits_K)[0]
        adam.step()
        torch.testing.assert_close(balancer.logit, logits_K.detach(), rtol=1e-9, atol=1e-9)


class Published:
    """FAMO as its authors' code has it: the losses of the same batch, after the step."""

    def __init__(self) -> None:
        self.logits_K = torch.zeros(K, requires_grad=True)
        self.adam = torch.optim.Adam([self.logits_K], lr=0.025, weight_decay=0.01)

    def shares(self) -> torch.Tensor:
        return self.logits_K.detach().softmax(0)

    def update(self, before_K: torch.Tensor, after_K: torch.Tensor) -> None:
        decrease_K = (before_K + 1e-8).log() - (after_K + 1e-8).log()
        self.logits_K.grad = torch.autograd.grad(
            self.logits_K.softmax(0), self.logits_K, grad_outputs=decrease_K
        )[0]
        self.adam.step()


class Fixed(FAMO):
    """Weighs with shares from outside, so that both train a model in the same way."""

    def weigh(self, gramian_KK, active_K, ok, losses_K):
        ratio_K = self.shares_K.double() / (losses_K + 1e-8)
        return ratio_K / ratio_K.sum()


def shares_after(published: Published | None, steps: int = 400, batch: int = 256) -> torch.Tensor:
    """Return the mean shares of the last 100 steps of a toy that sees each batch once."""
    torch.manual_seed(1)
    bottom = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16))
    heads = nn.Linear(16, K)
    balancer = FAMO(K) if published is None else Fixed(K)
    hook = BalanceHook(balancer)
    optimizer = torch.optim.SGD([*bottom.parameters(), *heads.parameters()], lr=0.05)
    teacher = torch.randn(16, K)
    noise, size = torch.tensor([0.1, 0.5, 1.0]), torch.tensor([1.0, 0.5, 2.0])
    seen = []

    def losses(x, y):
        views = hook(bottom(x))
        columns = [
            nn.functional.linear(view, heads.weight[k : k + 1], heads.bias[k : k + 1])
            for k, view in enumerate(views)
        ]
        return (torch.cat(columns, 1) - y).square().mean(0)

    for _ in range(steps):
        x = torch.randn(batch, 16) * (1 + 0.5 * torch.rand(1))
        clean = torch.tanh(x @ teacher / 4 * torch.tensor([1.0, 2.0, 4.0]))
        y = size * (clean + noise * torch.randn(batch, K))
        before_K = losses(x, y)
        hook.observe(before_K)
        if published is not None:
            balancer.shares_K = published.shares()
        optimizer.zero_grad()
        before_K.sum().backward()
        optimizer.step()
        if published is not None:
            with torch.no_grad():
                after_K = losses(x, y)
            published.update(before_K.detach(), after_K)
        seen.append(balancer.logit.softmax(0) if published is None else published.shares())
    return torch.stack([share_K.double() for share_K in seen[-100:]]).mean(0)


def test_on_fresh_batches_the_shares_are_the_published_ones():
    """The losses of the next batch, in the place of a second pass, leave them near 1/3."""
    ours_K, published_K = shares_after(None), shares_after(Published())
    assert published_K.max() - published_K.min() > 0.08
    assert torch.equal(ours_K.argsort(), published_K.argsort())
    torch.testing.assert_close(ours_K, published_K, rtol=0, atol=0.04)


def test_the_task_that_the_merged_gradient_serves_least_gains_weight():
    balancer = FAMO(2, lr=0.1)
    for _ in range(20):
        balancer(torch.diag(torch.tensor([1.0, 0.01])), losses_K=torch.tensor([0.5, 0.5]))
    assert balancer.logit[1] > balancer.logit[0]


def test_a_loss_at_its_lower_bound_gives_finite_weights():
    balancer = FAMO(2, min_loss=0.5)
    for losses in ([0.5, 1.0], [0.4, 0.5], [0.7, 0.6]):
        assert torch.isfinite(balancer(torch.eye(2), losses_K=torch.tensor(losses))).all()
        assert torch.isfinite(balancer.logit).all()
