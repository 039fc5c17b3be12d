import copy

import pytest
import torch
import torch.distributed as dist
from ranks import run_ranks

from mbrec.balance import BalanceHook, MultiBalance


def observed():
    """Return weights where task 1 has samples on rank 0 alone, and those of a copy of the hook."""
    group = dist.new_group()
    hook = BalanceHook(MultiBalance(2), process_group=group)
    rank = dist.get_rank()
    found = []
    for step in range(3):
        if step == 2:
            hook = copy.deepcopy(hook)
        torch.manual_seed(2 * step + rank)
        shared_BH = torch.randn(4, 3, requires_grad=True)
        first_BH, second_BH = hook(shared_BH)
        hook.observe(torch.ones(2), torch.tensor([4, 2 * (1 - rank)]))
        (first_BH.square().sum() + (1 - rank) * second_BH.sum()).backward()
        found.append(hook.weights.tolist())
    return found


@pytest.fixture(scope="module")
def on_two_ranks(tmp_path_factory):
    return run_ranks(observed, 2, tmp_path_factory.mktemp("hook"))


def test_a_task_with_samples_on_one_rank_is_active_on_all(on_two_ranks):
    assert on_two_ranks[0] == on_two_ranks[1]
    assert all(weight > 0 for weights in on_two_ranks[0] for weight in weights)


def test_a_copy_of_a_hook_shares_its_process_group(on_two_ranks):
    """Steps 0 and 1 are the hook's, step 2 is the copy's: it sums over the ranks, and goes on."""
    first, second = (weights[2] for weights in on_two_ranks)
    assert first == second
    assert first != on_two_ranks[0][1]
