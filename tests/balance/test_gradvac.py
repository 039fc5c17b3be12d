import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mbrec.balance import GradVac, PCGrad


def two_tasks(n1: float, n2: float, cosine: float) -> torch.Tensor:
    off = n1 * n2 * cosine
    return torch.tensor([[n1 * n1, off], [off, n2 * n2]], dtype=torch.float64)


@settings(max_examples=60, derandomize=True)
@given(
    n1=st.floats(0.1, 10), n2=st.floats(0.1, 10), cosine=st.floats(-0.99, 0.99),
    usual=st.floats(-0.99, 0.99),
)  # fmt: skip
def test_a_gradient_below_its_usual_cosine_is_turned_up_to_it(n1, n2, cosine, usual):
    balancer, G = GradVac(2), two_tasks(n1, n2, cosine)
    balancer.target.copy_(torch.tensor([[0.0, usual], [usual, 0.0]]))
    # Weight k is 1 and what the other task's gradient took up of this one.
    for task, taken in enumerate(balancer(G).flip(0) - 1):
        turned = torch.eye(2, dtype=torch.float64)[task]
        turned[1 - task] += taken
        got = (turned @ G)[1 - task] / (turned @ G @ turned * G[1 - task, 1 - task]).sqrt()
        assert float(got) == pytest.approx(max(usual, cosine), abs=2e-6)


def test_the_usual_cosine_follows_the_one_before_the_turn():
    balancer = GradVac(2, ema_rate=0.1)
    balancer(two_tasks(1, 2, -0.5))
    balancer(two_tasks(3, 1, 0.8))
    usual = torch.tensor(0.9 * 0.1 * -0.5 + 0.1 * 0.8, dtype=torch.float64)
    torch.testing.assert_close(balancer.target[0, 1], usual)
    torch.testing.assert_close(balancer.target[1, 0], usual)


def test_the_usual_cosine_of_a_pair_is_saved_by_the_names_of_both():
    balancer = GradVac(3, ema_rate=0.5)
    balancer.name_tasks(["ctr", "cvr", "like"])
    rows = torch.tensor([[3.0, 0, 1, -1], [-1, 2, 0, 1], [1, 1, -2, 0]], dtype=torch.float64)
    balancer(rows @ rows.T)
    assert balancer.target[0, 2] != balancer.target[2, 0]
    state = balancer.state_dict()
    assert state["target.ctr.like"] == balancer.target[0, 2]
    assert state["target.like.ctr"] == balancer.target[2, 0]
    assert not [key for key in state if key.startswith("target.ctr.ctr")]


@pytest.mark.parametrize("num_tasks", [2, 3, 5])
def test_the_first_step_is_that_of_pcgrad_in_the_same_order(num_tasks):
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(num_tasks, 6, generator=generator, dtype=torch.float64)
        first, pcgrad = GradVac(num_tasks, seed=seed), PCGrad(num_tasks, seed=seed)
        G = rows @ rows.T
        torch.testing.assert_close(first(G), pcgrad(G), rtol=1e-4, atol=1e-4)


def test_tasks_that_agreed_for_long_and_then_oppose_get_bounded_weights():
    """A target of 1 would ask for an infinite step: He et al. 2024 report exploding losses."""
    balancer = GradVac(2, ema_rate=0.5)
    for _ in range(100):
        weights = balancer(two_tasks(1, 1, 1.0))
        torch.testing.assert_close(weights, torch.ones(2, dtype=torch.float64))
    assert balancer.target[0, 1] > 0.9999
    assert balancer(two_tasks(1, 1, -0.9)).abs().max() < 200
