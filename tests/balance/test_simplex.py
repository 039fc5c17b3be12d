import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mbrec.balance.solvers.simplex import project_to_simplex

points = arrays("float64", st.integers(1, 8), elements=st.floats(-5, 5, allow_nan=False))


@given(points, st.floats(0, 3))
def test_projection_satisfies_the_kkt_conditions(point, mass):
    point_K = torch.from_numpy(point)
    w_K = project_to_simplex(point_K, mass=mass)
    assert (w_K >= 0).all()
    assert abs(float(w_K.sum()) - mass) < 1e-9
    # v - w is one constant on the support and at most that constant elsewhere.
    gap_K = point_K - w_K
    if mass > 1e-9:
        threshold = gap_K[w_K > 1e-12].max()
        assert (gap_K[w_K > 1e-12] - threshold).abs().max() < 1e-9
        assert (gap_K <= threshold + 1e-9).all()


@given(points, st.floats(-3, 3))
def test_a_constant_added_to_every_coordinate_changes_nothing(point, shift):
    point_K = torch.from_numpy(point)
    torch.testing.assert_close(
        project_to_simplex(point_K + shift), project_to_simplex(point_K), atol=1e-12, rtol=0
    )


@given(points, st.integers(0, 255))
def test_inactive_coordinates_are_zero_and_the_rest_is_projected_alone(point, bits):
    point_K = torch.from_numpy(point)
    active_K = torch.tensor([bool(bits >> k & 1) for k in range(len(point))])
    w_K = project_to_simplex(point_K, mass=0.7, active_K=active_K)
    assert (w_K[~active_K] == 0).all()
    if active_K.any():
        alone = project_to_simplex(point_K[active_K], mass=0.7)
        torch.testing.assert_close(w_K[active_K], alone, atol=1e-12, rtol=0)
