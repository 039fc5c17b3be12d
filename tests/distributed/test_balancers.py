"""Two ranks, each with half of the batch, are one rank: for every method there is."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from methods import B, Model, batch, methods
from ranks import run_ranks

from mbrec.balance import ElementwiseBalancer, GramianBalancer, ParameterBalancer

STEPS, W = 7, 2
# In one step a task has no sample, in another a value of the last rank alone is not finite; with a
# lag, one rank saves alone on the way, and later all go on from what they saved.
IDLE, BAD, SAVED, RESUMED = 2, 4, 3, 5
CASES = {label: {} for label in methods(GramianBalancer, ElementwiseBalancer, ParameterBalancer)}
CASES |= {
    f"{label} of parameters": {"at_module": True}
    for label in ("MGDA", "MultiBalance", "MGDA of losses")
}
CASES |= {f"{label} with lag": {"lag": 1} for label in methods(GramianBalancer)}
every_case = pytest.mark.parametrize("case", CASES)


def new_model(case: str, seen: list[torch.Tensor]) -> Model:
    label = case.removesuffix(" with lag").removesuffix(" of parameters")

    def watch(module, args, shared_BH):
        # The last is the merged one: with parameters, the K gradients pass here as well.
        shared_BH.register_hook(seen.append)

    model = Model(label, **CASES[case])
    model.module.register_forward_hook(watch)
    return model


def trained(case: str) -> dict:
    """Train on this rank's part of each batch; return what each step left, and the state."""
    ranks, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    rows = slice(rank * B // ranks, (rank + 1) * B // ranks)
    lagged, seen, trace = "lag" in CASES[case], [], []
    model = new_model(case, seen)
    for step in range(STEPS):
        model.zero_grad()
        losses_K = model.losses(*batch(step, rows))
        counts_K = torch.tensor([B, 0 if step == IDLE else B, B])
        model.hook.observe(losses_K, counts_K)
        factors_K = (counts_K > 0).float()
        if step == BAD and rank == ranks - 1:
            factors_K[2] = float("nan")
        (factors_K * losses_K).sum().backward()
        hook = model.hook
        shared = {n: p.grad for n, p in model.named_parameters() if not n.startswith("heads.")}
        values = {"weights": hook.weights, "gramian": hook.gramian, "losses": hook.losses, **shared}
        values |= {"merged": seen[-1], "ok": hook.ok, "skipped": hook.skipped}
        trace.append({name: value.clone().numpy() for name, value in values.items()})
        if lagged and ranks > 1 and step == SAVED and rank == 0:
            hook.state_dict()
        if lagged and ranks > 1 and step == RESUMED:
            model = new_model(case, seen)
            model.hook.load_state_dict(hook.state_dict())
    state = {name: value.numpy() for name, value in model.hook.state_dict().items()}
    return {"trace": trace, "state": state}


def trained_all() -> dict[str, dict]:
    return {case: trained(case) for case in CASES}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One process and two ranks; all methods in one group, as starting it takes longest."""
    return trained_all(), run_ranks(trained_all, W, tmp_path_factory.mktemp("ranks"))


def close(found, expected, case: str, atol: float = 1e-6):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=atol, err_msg=case)


@every_case
def test_weights_and_state_are_bit_equal_on_the_ranks(runs, case):
    first, second = (rank[case] for rank in runs[1])
    for step in range(STEPS):
        for name in ("weights", "gramian", "losses"):
            values = [rank["trace"][step][name] for rank in (first, second)]
            assert np.array_equal(*values, equal_nan=name == "gramian"), (step, name)
    assert first["state"].keys() == second["state"].keys()
    for name, value in first["state"].items():
        assert np.array_equal(value, second["state"][name]), name


@every_case
def test_weights_statistics_and_state_are_those_of_one_rank(runs, case):
    one, two = runs[0][case], runs[1][0][case]
    for step, (expected, found) in enumerate(zip(one["trace"], two["trace"], strict=True)):
        close(found["weights"], expected["weights"], case)
        # The statistics of the step before are not saved, they are there to be shown only.
        if not ("lag" in CASES[case] and step > RESUMED):
            close(found["losses"], expected["losses"], case)
            close(found["gramian"], expected["gramian"], case, atol=1e-9)
    assert one["state"].keys() == two["state"].keys()
    for name, value in one["state"].items():
        close(two["state"][name], value, f"{case} {name}")


@every_case
def test_merged_gradients_are_those_of_one_rank(runs, case):
    one, two = runs[0][case], [rank[case] for rank in runs[1]]
    for step, expected in enumerate(one["trace"]):
        if step == BAD:
            continue  # see the next test
        found = [rank["trace"][step] for rank in two]
        rows = np.concatenate([values["merged"] for values in found]) / W
        close(rows, expected["merged"], f"{case} step {step}", atol=1e-7)
        for name in expected:
            if "." in name:
                # What averages the gradients of parameters over ranks does to them.
                mean = sum(values[name] for values in found) / W
                close(mean, expected[name], f"{case} {name} step {step}", atol=1e-7)


@every_case
def test_a_non_finite_value_on_one_rank_merges_to_zero_on_all(runs, case):
    for number, rank in enumerate(runs[1]):
        # With a lag, the other rank knows of it when it has merged, and in time for the state.
        hit = "lag" not in CASES[case] or number == W - 1
        for step, values in enumerate(rank[case]["trace"]):
            zero = hit and step == BAD
            assert bool(values["ok"]) != zero
            for name in ("merged", "module.weight", "bottom.0.weight"):
                assert values[name].any() != zero, (step, name)
        # A lagged hook is a new one after the step in which all go on from what they saved.
        assert rank[case]["trace"][RESUMED]["skipped"] == hit


def test_the_weights_of_the_steps_differ(runs):
    """Without it, constant weights would pass the tests above."""
    for case in ("MultiBalance", "MGDA with lag", "MoCo", "MGDA of parameters", "GradDrop"):
        weights = [values["weights"] for values in runs[0][case]["trace"] if values["ok"]]
        assert max(np.abs(w - weights[0]).max() for w in weights[1:]) > 0.01, case
