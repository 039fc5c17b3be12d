"""The numerical parts that several methods share: solver, eigenvalues, random numbers, orders.

Shapes: K tasks; leading dimensions "..." are problems side by side.
"""

import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mbrec.balance.methods.task_order import PairOrder
from mbrec.balance.solvers.counter import pair_keys, task_keys, uniform
from mbrec.balance.solvers.interior import isolate, minimise
from mbrec.balance.solvers.spectrum import jacobi, pseudo_inverse_times

proven = settings(max_examples=60, derandomize=True)
seeds = st.integers(0, 10_000)
sizes = st.integers(1, 6)


def exact_minimum(matrix_KK: Tensor, slope_K: Tensor, *, simplex: bool) -> Tensor:
    """Return the minimiser of x' Q x / 2 + b' x over x >= 0, and over sum(x) = 1 if asked for.

    Solves the equations of every support, and keeps the best solution that is feasible: a
    minimum exists on a support where they have one solution.
    """
    size = len(slope_K)
    best, least = torch.zeros_like(slope_K), torch.inf if simplex else 0.0
    for support in itertools.product([False, True], repeat=size):
        inside = torch.tensor(support)
        if not inside.any():
            continue
        count = int(inside.sum())
        system = torch.zeros(count + 1, count + 1, dtype=torch.float64)
        system[:count, :count] = matrix_KK[inside][:, inside]
        system[count, :count] = system[:count, count] = float(simplex)
        system[count, count] = float(not simplex)
        side = torch.cat([-slope_K[inside], torch.tensor([float(simplex)]).double()])
        solved, failed = torch.linalg.solve_ex(system, side)
        x_K = torch.zeros_like(slope_K).masked_scatter(inside, solved[:count])
        on_simplex = not simplex or abs(float(x_K.sum()) - 1) < 1e-9
        value = float(x_K @ matrix_KK @ x_K / 2 + slope_K @ x_K)
        if not failed and on_simplex and bool((x_K >= -1e-12).all()) and value < least:
            best, least = x_K, value
    return best


def random_rows(seed: int, num_tasks: int, width: int, spread: float = 0.5) -> Tensor:
    """Return K gradients with a common part, and norms up to 10 ** (2 * spread) apart."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    rows = draw(num_tasks, width) + (seed % 3 - 1) * draw(width)
    return rows * 10 ** (spread * (2 * torch.rand(num_tasks, 1, generator=generator).double() - 1))


def problem(seed: int, num_tasks: int, rank: int) -> tuple[Tensor, Tensor]:
    """Return a matrix of size 1 and a slope in its range, so that a minimum exists."""
    rows = random_rows(seed, num_tasks, rank)
    matrix_KK = rows @ rows.T
    matrix_KK = matrix_KK / matrix_KK.diagonal().mean()
    generator = torch.Generator().manual_seed(seed + 1)
    return matrix_KK, matrix_KK @ torch.randn(num_tasks, generator=generator).double()


def solve(matrix: Tensor, slope: Tensor, *, simplex: bool) -> Tensor:
    start = torch.full_like(slope, 1 / slope.shape[-1] if simplex else 1.0)
    return minimise(
        lambda x: ((matrix @ x.unsqueeze(-1)).squeeze(-1) + slope, matrix), start, simplex=simplex
    )


@proven
@given(seed=seeds, num_tasks=sizes, simplex=st.booleans())
def test_the_solver_finds_the_minimum_that_enumeration_finds(seed, num_tasks, simplex):
    Q, b = problem(seed, num_tasks, rank=2 * num_tasks)
    x = solve(Q, b, simplex=simplex)
    expected = exact_minimum(Q, b, simplex=simplex)
    assert (x >= 0).all()
    torch.testing.assert_close(x, expected, rtol=1e-7, atol=1e-7)


@proven
@given(seed=seeds, num_tasks=st.integers(2, 6), rank=st.integers(1, 3), simplex=st.booleans())
def test_the_solver_reaches_the_minimum_of_a_singular_matrix(seed, num_tasks, rank, simplex):
    Q, b = problem(seed, num_tasks, rank)
    x = solve(Q, b, simplex=simplex)
    expected = exact_minimum(Q, b, simplex=simplex)

    def value(y: Tensor) -> float:
        return float(y @ Q @ y / 2 + b @ y)

    assert (x >= 0).all()
    if simplex:
        assert float(x.sum()) == pytest.approx(1, abs=1e-9)
    assert value(x) <= value(expected) + 1e-9 * (1 + abs(value(expected)))


@pytest.mark.parametrize("num_tasks", [2, 3, 5, 7])
def test_tasks_that_are_the_same_get_the_same_weight(num_tasks):
    Q = torch.ones(num_tasks, num_tasks, dtype=torch.float64)
    x = solve(Q, torch.zeros(num_tasks).double(), simplex=True)
    # No direction between equal tasks has a curvature: rounding over the ridge is what is left.
    equal = torch.full_like(x, 1 / num_tasks)
    torch.testing.assert_close(x, equal, rtol=0, atol=1e-3)


@pytest.mark.parametrize("simplex", [True, False])
def test_problems_side_by_side_are_solved_as_if_alone(simplex):
    parts = [problem(seed, 4, rank) for seed, rank in ((0, 8), (1, 2), (2, 8), (3, 4))]
    Q, b = (torch.stack(p) for p in zip(*parts, strict=True))
    together = solve(Q, b, simplex=simplex)
    for k in range(4):
        alone = solve(Q[k], b[k], simplex=simplex)
        if torch.linalg.matrix_rank(Q[k]) == len(Q[k]):
            torch.testing.assert_close(together[k], alone, rtol=1e-9, atol=1e-9)
        # Along a direction without curvature rounding decides, which differs between machines and
        # between one problem and several; what is minimised does not depend on it.
        slopes = (Q[k] @ together[k], Q[k] @ alone)
        torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-9)


@proven
@given(seed=seeds, bits=st.integers(1, 31), simplex=st.booleans())
def test_isolated_coordinates_go_to_zero_and_touch_no_other(seed, bits, simplex):
    Q, b = problem(seed, 5, rank=10)
    active = torch.tensor([bool(bits >> k & 1) for k in range(5)])
    isolated, cost = isolate(Q * active * active[:, None], active)
    x = solve(isolated, torch.where(active, b, 0.0) + cost, simplex=simplex)
    assert (x[~active] < 1e-9).all()
    alone = exact_minimum(Q[active][:, active], b[active], simplex=simplex)
    torch.testing.assert_close(x[active], alone, rtol=1e-7, atol=1e-7)


def matrices(size: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(size)
    ranks = (2 * size, size, max(1, size // 2))
    rows = [torch.randn(size, rank, generator=generator).double() for rank in ranks]
    places = torch.arange(size).double()
    return [
        *[scale * r @ r.T for r in rows for scale in (1.0, 1e-12, 1e9)],
        torch.eye(size).double(),
        torch.zeros(size, size).double(),
        torch.ones(size, size).double(),
        torch.diag(10**-places),
        torch.diag(places) - 0.5 * torch.ones(size, size),
    ]


@pytest.mark.parametrize("size", range(1, 17))
def test_jacobi_rotations_find_what_torch_finds(size):
    for matrix_KK in matrices(size):
        values_K, vectors_KK = jacobi(matrix_KK)
        expected_K = torch.linalg.eigvalsh(matrix_KK)
        largest = float(expected_K.abs().max()) or 1.0
        found_K = values_K.sort().values
        torch.testing.assert_close(found_K, expected_K, rtol=0, atol=1e-12 * largest)
        again_KK = vectors_KK @ torch.diag(values_K) @ vectors_KK.T
        torch.testing.assert_close(again_KK, matrix_KK, rtol=0, atol=1e-9 * largest)
        eye_KK = torch.eye(size, dtype=torch.float64)
        torch.testing.assert_close(vectors_KK.T @ vectors_KK, eye_KK, rtol=0, atol=1e-12)


@proven
@given(seed=seeds, num_tasks=st.integers(1, 8), rank=st.integers(1, 8))
def test_the_pseudo_inverse_is_torchs_on_regular_and_singular_matrices(seed, num_tasks, rank):
    rows = random_rows(seed, num_tasks, rank, spread=0.0)
    vector_K = random_rows(seed + 1, num_tasks, 1)[:, 0]
    expected = torch.linalg.pinv(rows @ rows.T, hermitian=True, rtol=1e-7) @ vector_K
    got = pseudo_inverse_times(rows @ rows.T, vector_K)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))


COUNT = 50_000


def drawn(seed: int, step: int, count: int = COUNT) -> Tensor:
    return uniform(torch.arange(count), seed=seed, step=torch.tensor(step)).double()


@pytest.mark.parametrize(("seed", "step"), [(0, 0), (0, 1), (1, 0), (123, 10**6), (2**31, 7)])
def test_random_numbers_are_uniform_and_the_same_at_every_call(seed, step):
    numbers = drawn(seed, step)
    assert torch.equal(numbers, drawn(seed, step))
    assert 0 <= numbers.min() < 1e-3 < 1 - 1e-3 < numbers.max() < 1
    assert abs(float(numbers.mean()) - 0.5) < 5 * (12 * COUNT) ** -0.5
    assert float(numbers.var()) * 12 == pytest.approx(1, abs=0.02)
    counts = torch.histc(numbers.float(), 32, 0, 1)
    chi_square = float(((counts - COUNT / 32) ** 2 / (COUNT / 32)).sum())
    assert chi_square < 31 + 5 * (2 * 31) ** 0.5


def test_random_numbers_of_other_steps_seeds_and_places_are_uncorrelated():
    rows = [drawn(seed, step) for seed in range(4) for step in range(4)]
    rows.append(rows[0].roll(1))
    correlations = torch.corrcoef(torch.stack(rows)).fill_diagonal_(0)
    assert correlations.abs().max() < 5 * COUNT**-0.5


def test_one_place_gets_uncorrelated_uniform_numbers_over_the_steps():
    steps = torch.stack([drawn(0, step, count=20) for step in range(2000)])
    assert (steps.mean(0) - 0.5).abs().max() < 5 * (12 * 2000) ** -0.5
    pairs = torch.corrcoef(torch.cat([steps[1:], steps[:-1]], 1).T).fill_diagonal_(0)
    assert pairs.abs().max() < 5 * 2000**-0.5


def test_random_numbers_do_not_depend_on_the_type_of_the_index():
    index, step = torch.arange(100), torch.tensor(3)
    numbers = uniform(index, seed=1, step=step)
    assert torch.equal(numbers, uniform(index.int(), seed=1, step=step.int()))
    assert torch.equal(numbers, uniform(index + 2**32, seed=1, step=step))


def test_keys_belong_to_names_and_not_to_places():
    a, b, c = task_keys(["a", "b", "c"])
    assert task_keys(["c", "a"]) == [c, a]
    assert len({a, b, c}) == 3
    pairs, swapped = pair_keys(["a", "b"]), pair_keys(["b", "a"])
    assert pairs[0][1] == swapped[1][0] != pairs[1][0]


NAMES = ("ctr", "cvr", "like", "share")


def order_of(names: tuple[str, ...], seed: int = 0) -> PairOrder:
    order = PairOrder(len(names), shuffle=True, seed=seed)
    order.name_tasks(names)
    return order


def test_every_order_of_the_others_comes_equally_often_and_for_each_task_by_itself():
    order, steps = order_of(NAMES), 1500
    seen: list[Counter] = [Counter() for _ in range(5)]
    for _ in range(steps):
        rows = [tuple(row) for row in order().tolist()]
        assert all(sorted((k, *row)) == [0, 1, 2, 3] for k, row in enumerate(rows))
        for k, row in enumerate(rows):
            seen[k][row] += 1
        seen[4][rows[0] + rows[1]] += 1
        order.advance(torch.tensor(True))
    for counts, number in zip(seen, (6, 6, 6, 6, 36), strict=True):
        chi_square = sum((n - steps / number) ** 2 / (steps / number) for n in counts.values())
        assert len(counts) == number
        assert chi_square < number - 1 + 5 * (2 * (number - 1)) ** 0.5


def test_orders_go_by_the_names_the_seed_and_the_step():
    turned = ("like", "ctr", "share", "cvr")

    def named(names: tuple[str, ...]) -> dict[str, list[str]]:
        rows = order_of(names)().tolist()
        return {names[k]: [names[j] for j in row] for k, row in enumerate(rows)}

    assert named(NAMES) == named(turned)
    order = order_of(NAMES)
    first = order()
    assert not torch.equal(order_of(NAMES, seed=1)(), first)
    order.advance(torch.tensor(False))
    assert torch.equal(order(), first)
    order.advance(torch.tensor(True))
    assert not torch.equal(order(), first)


def test_without_shuffling_the_others_come_in_the_order_of_the_rows():
    order = PairOrder(3, shuffle=False, seed=0)
    order.advance(torch.tensor(True))
    assert order().tolist() == [[1, 2], [0, 2], [0, 1]]
