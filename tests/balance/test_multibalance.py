import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mbrec.balance import MultiBalance

GOLDEN = json.loads((Path(__file__).parent / "golden_multibalance.json").read_text())
# The three batches (K=3 rows each) that the golden traces were computed on.
BATCHES = [
    [[3, 0, 1, -1], [-1, 2, 0, 1], [1, 1, -2, 0]],
    [[2, 1, 0, -1], [-1, 1, 1, 0], [0, 1, -1, 1]],
    [[4, 0, 0, 1], [0, 1, 0, 1], [1, 2, 0, 0]],
]


def gramian(rows) -> torch.Tensor:
    jacobian = torch.as_tensor(rows, dtype=torch.float64)
    return jacobian @ jacobian.T


# The likeliest reading of the text; the defaults are what results/readings.md found to be safe.
PAPER = {"ema_scope": "both", "prior_in_output": False}


def random_gramian(seed: int, num_tasks: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return gramian(torch.randn(num_tasks, 12, dtype=torch.float64, generator=generator))


@pytest.mark.parametrize("name", GOLDEN)
def test_traces_equal_the_golden_numbers(name):
    _, update, ema, lr, _, _ = name.split("_")
    arguments = {"lr": float(lr[1:]), "prior_strength": 1.0, "update": update, "ema": ema}
    balancer = MultiBalance(3, **arguments, **PAPER)
    for rows, expected in zip(BATCHES, GOLDEN[name], strict=True):
        effective = balancer(gramian(rows))
        for got, key in ((balancer.weight, "w"), (balancer.norm_average, "m"), (effective, "eff")):
            golden = torch.tensor(expected[key], dtype=torch.float64)
            torch.testing.assert_close(got, golden, atol=1e-9, rtol=0)


def test_cosine_update_converges_to_impartial_weights_on_orthogonal_gradients():
    balancer = MultiBalance(3, lr=0.1, prior_strength=0.0)
    orthogonal = torch.diag(torch.tensor([1.6, 1.0, 8 / 7], dtype=torch.float64) ** 2)
    for _ in range(400):
        balancer(orthogonal)
    expected = torch.tensor([0.25, 0.40, 0.35], dtype=torch.float64)
    torch.testing.assert_close(balancer.weight, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("factor", "stable"), [(0.95, True), (1.05, False)])
def test_the_symmetric_point_is_stable_up_to_the_analytic_rate(factor, stable):
    num_tasks, rho, strength = 3, 0.3, 1.0
    slope = (1 - rho) / ((1 + strength) * ((1 - rho) / num_tasks + rho) ** 0.5)
    balancer = MultiBalance(num_tasks, lr=factor * 2 / slope, prior_strength=strength)
    balancer.weight.add_(torch.tensor([1e-4, -1e-4, 0.0]))
    same_cosine = torch.full((3, 3), rho, dtype=torch.float64).fill_diagonal_(1.0)
    for _ in range(300):
        balancer(same_cosine)
    settled = float((balancer.weight - 1 / 3).abs().max()) < 1e-6
    assert settled == stable


@pytest.mark.parametrize("ema", ["stabilize", "unit", "anchor", "off"])
@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), num_tasks=st.integers(2, 6))
def test_weights_stay_on_the_simplex_and_follow_a_permutation_of_the_tasks(ema, seed, num_tasks):
    order = torch.randperm(num_tasks, generator=torch.Generator().manual_seed(seed))
    one, other = MultiBalance(num_tasks, ema=ema), MultiBalance(num_tasks, ema=ema)
    for step in range(3):
        G = random_gramian(seed + step, num_tasks)
        one(G)
        other(G[order][:, order])
        assert abs(float(one.weight.sum()) - 1) < 1e-12
        assert (one.weight >= 0).all()
        torch.testing.assert_close(one.weight[order], other.weight, atol=1e-9, rtol=0)


@given(seed=st.integers(0, 10_000), exponent=st.integers(-40, 40))
def test_the_cosine_update_does_not_depend_on_a_common_scale(seed, exponent):
    one, other = MultiBalance(3), MultiBalance(3)
    for step in range(3):
        G = random_gramian(seed + step, 3)
        a, b = one(G), other(G * 2.0**exponent)
        torch.testing.assert_close(one.weight, other.weight, atol=1e-10, rtol=0)
        torch.testing.assert_close(a, b, atol=1e-9, rtol=0)


def test_one_task_keeps_weight_one():
    balancer = MultiBalance(1)
    assert balancer(gramian([[1.0, 2.0]])).tolist() == [1.0]
    assert balancer.weight.tolist() == [1.0]


def test_identical_gradients_leave_the_weights_alone():
    balancer = MultiBalance(3)
    balancer(gramian([[1.0, 2.0, 0.0]] * 3))
    torch.testing.assert_close(balancer.weight, torch.full((3,), 1 / 3, dtype=torch.float64))


def test_opposed_gradients_at_the_balance_point_merge_to_zero_without_nan():
    balancer = MultiBalance(2, ema="off")
    weights = balancer(gramian([[1.0, 2.0], [-1.0, -2.0]]))
    assert weights.tolist() == [0.5, 0.5]


def test_opposed_gradients_reach_the_balance_point_in_one_step():
    balancer = MultiBalance(2, lr=0.1, prior_strength=0.0)
    balancer.weight.copy_(torch.tensor([0.6, 0.4]))
    for _ in range(3):
        balancer(gramian([[1.0, 2.0], [-1.0, -2.0]]))
        torch.testing.assert_close(balancer.weight, torch.full((2,), 0.5, dtype=torch.float64))


@pytest.mark.parametrize("how", ["zero gradient", "no unmasked sample"])
def test_an_inactive_task_keeps_its_state_and_captures_no_weight(how):
    balancer = MultiBalance(3)
    for rows in BATCHES:
        balancer(gramian(rows))
    before_w, before_m = balancer.weight.clone(), balancer.norm_average.clone()
    G, active_K = gramian(BATCHES[0]), torch.tensor([True, False, True])
    if how == "zero gradient":
        G = G * active_K * active_K[:, None]
        active_K = None
    for _ in range(50):
        weights = balancer(G, active_K=active_K)
    assert balancer.weight[1] == before_w[1]
    assert balancer.norm_average[1] == before_m[1]
    assert weights[1] == 0
    moved = balancer.weight[[0, 2]]
    assert abs(float(moved.sum() - before_w[[0, 2]].sum())) < 1e-12
    assert not torch.equal(moved, before_w[[0, 2]])


def test_no_active_task_changes_nothing_and_merges_to_zero():
    balancer = MultiBalance(3)
    weights = balancer(torch.zeros(3, 3))
    assert weights.tolist() == [0, 0, 0]
    torch.testing.assert_close(balancer.weight, torch.full((3,), 1 / 3, dtype=torch.float64))
    assert balancer.norm_average.tolist() == [0, 0, 0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["gramian", "loss"])
def test_non_finite_input_changes_no_state_and_gives_zero_weights(bad, where):
    balancer = MultiBalance(3)
    balancer(gramian(BATCHES[0]))
    before = {key: value.clone() for key, value in balancer.state_dict().items()}
    G, losses_K = gramian(BATCHES[1]), torch.ones(3)
    (G if where == "gramian" else losses_K)[1, ...] = bad
    weights = balancer(G, losses_K=losses_K)
    assert weights.tolist() == [0, 0, 0]
    assert not balancer.ok
    assert all(torch.equal(before[key], value) for key, value in balancer.state_dict().items())


@given(
    arrays("float64", (3, 5), elements=st.floats(-1e8, 1e8)),
    st.sampled_from(["stabilize", "unit", "anchor", "off"]),
    st.sampled_from(["cosine", "inner"]),
)
def test_every_finite_gradient_gives_finite_weights(rows, ema, update):
    balancer = MultiBalance(3, ema=ema, update=update)
    for _ in range(2):
        assert torch.isfinite(balancer(gramian(rows))).all()
        assert torch.isfinite(balancer.weight).all()


def test_output_options_change_the_merge_and_not_the_weights():
    G = gramian(BATCHES[0])
    plain, prior, scaled = (
        MultiBalance(3, prior_strength=1.0, prior_in_output=False),
        MultiBalance(3, prior_strength=1.0),
        MultiBalance(3, prior_strength=1.0, prior_in_output=False, output_scale=3.0),
    )
    a, b, c = plain(G), prior(G), scaled(G)
    assert torch.equal(plain.weight, prior.weight)
    torch.testing.assert_close(b, (a + 1 / 3) / 2)
    torch.testing.assert_close(c, 3 * a)


def test_rescale_limit_bounds_the_row_scale():
    balancer = MultiBalance(2, rescale_limit=2.0, **PAPER)
    balancer(torch.eye(2))
    weights = balancer(torch.diag(torch.tensor([1.0, 1e-6])))
    assert float(weights[1] / balancer.weight[1]) == pytest.approx(2.0)


def test_weights_only_scope_leaves_the_raw_gradients_unscaled():
    balancer = MultiBalance(2, ema_scope="weights_only", prior_in_output=False)
    balancer(torch.eye(2))
    assert torch.equal(balancer(4 * torch.eye(2)), balancer.weight)


def test_a_task_that_is_far_louder_keeps_a_weight_where_the_prior_is_in_the_output():
    loud = torch.diag(torch.tensor([100.0, 1.0, 1.0], dtype=torch.float64))
    default, paper = MultiBalance(3), MultiBalance(3, **PAPER)
    for _ in range(500):
        weights, without = default(loud), paper(loud)
    # w + prior_strength * prior is what the update balances: w alone goes past it, to a vertex.
    assert without[0] == 0
    assert weights[0] >= 0.3 / 3 / 1.3 - 1e-12
    assert weights.sum() == pytest.approx(1.0)


def test_renormalised_weights_sum_to_one_without_an_inactive_task():
    balancer = MultiBalance(3, renormalise_active=True, ema="off")
    weights = balancer(gramian(BATCHES[0]), active_K=torch.tensor([True, True, False]))
    assert float(weights.sum()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_tasks": 0},
        {"num_tasks": 2.5},
        {"lr": -1},
        {"lr": "fast"},
        {"ema": "sometimes"},
        {"ema_decay": 1.0},
        {"update": "sine"},
        {"prior": [1, 2]},
        {"prior": [0, 0, 0]},
        {"prior": [float("nan"), 1, 1]},
        {"prior": [-1, 1, 1]},
        {"rescale_limit": 0.5},
    ],
)
def test_nonsense_arguments_are_refused_with_what_was_expected(arguments):
    with pytest.raises(ValueError, match="expected"):
        MultiBalance(**({"num_tasks": 3} | arguments))


def test_a_gramian_of_another_size_is_refused():
    with pytest.raises(ValueError, match="expected a Gramian of 3 x 3"):
        MultiBalance(3)(torch.eye(2))
