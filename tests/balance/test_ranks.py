import pytest
import torch
from ranks import run_ranks

from mbrec.balance.backward import ranks as under_test


def sums(gathered: bool):
    import torch.distributed as dist

    if not gathered:
        under_test.MAX_GATHERED_RANKS = 1
    values = torch.tensor([0.1, 1e8, -3.0], dtype=torch.float64) * (dist.get_rank() + 1)
    started = under_test.start_sum(values.clone())
    return under_test.sum_over_ranks(values.clone()).tolist(), started().tolist()


@pytest.mark.parametrize("gathered", [True, False])
def test_the_sum_is_the_same_bits_on_every_rank(gathered, tmp_path):
    answers = run_ranks(sums, 2, tmp_path, gathered)
    assert answers[0] == answers[1]
    for summed in answers[0]:
        assert summed == pytest.approx([0.3, 3e8, -9.0])


def test_without_a_group_the_sum_is_the_value_itself():
    values = torch.ones(3)
    assert under_test.sum_over_ranks(values) is values
    assert under_test.world_size() == 1
