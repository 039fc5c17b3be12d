"""The hook under DistributedDataParallel, and above the sharded, fused tables of a job."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from jobs import compose, gather, parameters
from methods import B, Model, batch
from ranks import run_ranks
from torch.nn.parallel import DistributedDataParallel

STEPS, W = 4, 2
# name: method, options of the hook, micro-batches a step
MODELS = {
    "no statistics": ("Equal", {"statistics": False}, 1),
    "representation": ("MultiBalance", {}, 1),
    "elements": ("GradDrop", {}, 1),
    "weighted at parameters": ("MGDA", {"at_module": True}, 1),
    "tracked at parameters": ("MoCo", {}, 1),
    "lag": ("FAMO", {"lag": 1}, 1),
    "micro-batches": ("MultiBalance", {"accumulate": 2}, 2),
}


def trained(name: str) -> tuple[list, dict]:
    """Train, with DDP where there are ranks; return each step's weights, and the parameters."""
    label, options, micro_batches = MODELS[name]
    ranks, rank, group = 1, 0, None
    if dist.is_initialized():
        ranks, rank, group = dist.get_world_size(), dist.get_rank(), dist.new_group()
    model = Model(label, process_group=group, **options)
    network = DistributedDataParallel(model) if ranks > 1 else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    size, weights = B // ranks // micro_batches, []
    for step in range(STEPS):
        optimizer.zero_grad()
        for number in range(micro_batches):
            start = (rank * micro_batches + number) * size
            last = number == micro_batches - 1
            with nullcontext() if last or ranks == 1 else network.no_sync():
                rows = slice(start, start + size)
                losses_K = model.losses(*batch(step, rows), network) / micro_batches
                model.hook.observe(losses_K)
                losses_K.sum().backward()
        optimizer.step()
        weights.append(model.hook.weights.tolist())
    return weights, {name: p.detach().numpy() for name, p in model.named_parameters()}


def trained_all():
    return {name: trained(name) for name in MODELS}


@pytest.fixture(scope="module")
def under_ddp(tmp_path_factory):
    return run_ranks(trained_all, W, tmp_path_factory.mktemp("ddp"))


@pytest.mark.parametrize("name", MODELS)
def test_a_model_trains_under_ddp_as_on_one_rank(under_ddp, name):
    weights, expected = trained(name)
    first, second = (rank[name] for rank in under_ddp)
    assert first[0] == second[0]
    np.testing.assert_allclose(first[0], weights, rtol=1e-5, atol=1e-6)
    untrained = dict(Model(None).named_parameters())
    for key, value in expected.items():
        assert np.array_equal(first[1][key], second[1][key]), key
        np.testing.assert_allclose(first[1][key], value, rtol=0, atol=1e-6, err_msg=key)
        assert not np.array_equal(value, untrained[key].detach().numpy()), key


# Overrides of jobs whose every step must update each fused table once.
JOBS = {
    "plain sum": ["balancer=equal", "monitor.balance=false"],
    "Equal at the representation": ["balancer=equal"],
    "Equal at parameters": ["balancer=equal", "hook.at=interaction"],
    "MultiBalance": ["balancer=multibalance"],
    "MultiBalance with lag": ["balancer=multibalance", "hook.lag=1"],
    "MGDA at the interaction": ["balancer=mgda", "hook.at=interaction"],
    "MoCo at the interaction": ["balancer=moco"],
    "MoCo at the numerical module": ["balancer=moco", "hook.at=numerical"],
    "GradDrop": ["balancer=graddrop"],
}
REFUSED = {
    "categorical": ["balancer=mgda", "hook.at=categorical"],
    "MoCo at the representation": ["balancer=moco", "hook.at=representation"],
}


def watch_lookups(runs: list[list]):
    """Return a hook of the module above the tables that counts how often each lookup is undone."""

    def watch(module, args):
        seen, waiting = set(), [args[0].grad_fn]
        while waiting:
            node = waiting.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if "SplitLookupFunction" in node.name():
                runs.append([])
                node.register_prehook(runs[-1].append)
            waiting.extend(child for child, _ in node.next_functions)

    return watch


def job(data: str, overrides: list[str], loss_scale: float = 1.0):
    """Run some steps; return how often each lookup was undone, and the parameters."""
    from mbrec.distributed import process
    from mbrec.job import build, readers
    from mbrec.reader.loader import Loader

    config, runtime, runs = compose(Path(data), *overrides), process.start(), []
    sharded = build.shard(config, runtime)
    sharded.hook.loss_scale = loss_scale
    sharded.model.module.bottom.interaction.register_forward_pre_hook(watch_lookups(runs))
    batches = iter(Loader(readers.train_reader(config, runtime)))
    try:
        for _ in range(STEPS):
            sharded.pipeline.progress(batches)
    finally:
        batches.close()
    return [len(run) for run in runs], parameters(sharded.model)


def jobs(data: str):
    found, messages = {name: job(data, overrides) for name, overrides in JOBS.items()}, {}
    for name, overrides in REFUSED.items():
        with pytest.raises(ValueError) as refusal:
            job(data, overrides)
        messages[name] = str(refusal.value)
    with pytest.raises(ValueError) as refusal:
        job(data, JOBS["MultiBalance"], loss_scale=2.0**16)
    messages["loss scale"] = str(refusal.value)
    return found, messages


@pytest.fixture(scope="module")
def on_tables(tmp_path_factory, tiny_data):
    return run_ranks(jobs, W, tmp_path_factory.mktemp("jobs"), str(tiny_data))


@pytest.mark.parametrize("name", JOBS)
def test_every_fused_table_is_updated_once_a_step(on_tables, name):
    counts = [count for found, _ in on_tables for count in found[name][0]]
    assert len(counts) >= STEPS
    assert counts == [1] * len(counts)


def test_equal_weights_give_the_same_tables_wherever_the_gradients_are_balanced(on_tables):
    expected, *others = (
        gather([found[name][1] for found, _ in on_tables])
        for name in ("plain sum", "Equal at the representation", "Equal at parameters")
    )
    tables = [key for key in expected if ".embedding_bags." in key]
    assert len(tables) == 3
    for other in others:
        assert all(torch.equal(other[key], expected[key]) for key in tables)


def test_another_balancer_gives_other_tables(on_tables):
    """Without it, tables that nothing reaches would pass the tests above."""
    plain, other = (
        gather([found[name][1] for found, _ in on_tables])
        for name in ("plain sum", "MGDA at the interaction")
    )
    tables = [key for key in plain if ".embedding_bags." in key]
    assert tables
    assert not any(torch.equal(plain[key], other[key]) for key in tables)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("categorical", "a fused table applies each row's gradient inside backward"),
        (
            "MoCo at the representation",
            "for MoCo (in a job hook.at=interaction or",
        ),
        ("loss scale", "got an embedding lookup with fused rowwise_adagrad"),
    ],
)
def test_what_fused_tables_do_not_allow_is_refused_with_the_reason(on_tables, name, reason):
    for _, messages in on_tables:
        assert reason in messages[name]
