import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from mbrec.config.tasks import Reduction
from mbrec.model.losses import masked_bce, summed

B, K = 12, 3


def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(B, K, generator=generator)
    labels = (torch.rand(B, K, generator=generator) < 0.4).float()
    masks = (torch.rand(B, K, generator=generator) < 0.5).float()
    masks[: B // 2, 1] = 0  # the first of two ranks has no row of task 1
    masks[:, 2] = 0  # nobody has one of task 2
    return logits, labels, masks * 2.0


@pytest.mark.parametrize("reduction", list(Reduction))
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_mean_over_ranks_is_the_loss_of_the_global_batch(reduction, world_size):
    logits, labels, masks = batch()
    counts = masks.double().sum(0)
    each = binary_cross_entropy_with_logits(logits, labels, reduction="none") * masks
    denominator = B if reduction is Reduction.global_batch else counts.clamp_min(1e-9)
    parts = zip(*(x.chunk(world_size) for x in (logits, labels, masks)), strict=True)
    options = {"reduction": reduction, "world_size": world_size}
    ranks = [masked_bce(*part, counts, **options) for part in parts]
    expected = (each.sum(0) / denominator).float()
    torch.testing.assert_close(torch.stack(ranks).mean(0), expected)
    undone = [summed(losses, counts, rows=B // world_size, **options) for losses in ranks]
    torch.testing.assert_close(sum(undone), each.sum(0), check_dtype=False)


@pytest.mark.parametrize("reduction", list(Reduction))
def test_a_masked_row_has_no_gradient_and_an_empty_task_no_nan(reduction):
    logits, labels, masks = batch()
    logits.requires_grad_()
    losses = masked_bce(
        logits, labels, masks, masks.double().sum(0), reduction=reduction, world_size=1
    )
    losses.sum().backward()
    assert torch.isfinite(losses).all()
    assert losses[2] == 0
    assert (logits.grad[masks == 0] == 0).all()
    assert (logits.grad[masks > 0] != 0).all()
