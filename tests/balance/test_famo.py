import torch

from mbrec.balance import FAMO


def test_weights_equal_the_published_ones_with_the_next_batch_as_second_pass():
    """Softmax of logits that Adam moves along what the logarithms of the losses lost."""
    generator = torch.Generator().manual_seed(0)
    losses_TK = torch.rand(30, 3, generator=generator, dtype=torch.float64) + 0.1
    balancer = FAMO(3, lr=0.1, weight_decay=0.01, min_loss=0.05)
    logits_K = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([logits_K], lr=0.1, weight_decay=0.01)
    for step, losses_K in enumerate(losses_TK):
        distance_K = losses_K - 0.05 + 1e-8
        if step > 0:
            decrease_K = (losses_TK[step - 1] - 0.05 + 1e-8).log() - distance_K.log()
            logits_K.grad = torch.autograd.grad(logits_K.softmax(0) @ decrease_K, logits_K)[0]
            adam.step()
        share_K = logits_K.detach().softmax(0) / distance_K
        weights = balancer(torch.eye(3), losses_K=losses_K)
        torch.testing.assert_close(weights, share_K / share_K.sum(), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(balancer.logit, logits_K.detach(), rtol=1e-9, atol=1e-9)


def test_the_task_whose_loss_falls_slowest_gains_weight():
    balancer = FAMO(2, lr=0.1)
    for step in range(20):
        balancer(torch.eye(2), losses_K=torch.tensor([0.9**step, 0.99**step]))
    assert balancer.logit[1] > balancer.logit[0]


def test_a_loss_at_its_lower_bound_gives_finite_weights():
    balancer = FAMO(2, min_loss=0.5)
    for losses in ([0.5, 1.0], [0.4, 0.5], [0.7, 0.6]):
        assert torch.isfinite(balancer(torch.eye(2), losses_K=torch.tensor(losses))).all()
