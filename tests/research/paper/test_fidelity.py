"""Measuring leaves training as it is, on several ranks; and what it leaves makes a page."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from jobs import compose, parameters, train
from ranks import run_ranks

from research.fidelity import measure
from research.fidelity.figures import Run
from research.fidelity.gradients import BOTTOM, TARGETS, GradientWatch
from research.fidelity.page import page

SETTINGS = ("model.interaction.hidden=[32]", "checkpoint.enabled=false")
STEPS = 8
SIZE = measure.Size(
    SETTINGS,
    {"plain": ()},
    rows=0,
    least_steps=STEPS,
    figures=4,
    sample_rows=4,
    frozen=("plain",),
    frozen_rows=1024,
)


def measured(data: str, folder: str):
    """Train with the watch and without; and once with the hook at the interaction module."""
    from mbrec.distributed import process
    from mbrec.job import build

    runtime, trainers = process.start(), []

    def trainer_of(overrides, run):
        config = compose(Path(data), *overrides)
        trainers.append(build.trainer(config, runtime, run)[0])
        return trainers[-1]

    measure.measure(Path(folder), trainer_of, SIZE, 1)
    measure.measure(Path(folder), trainer_of, SIZE, 1)  # everything is there
    plain = train(data, f"{folder}/fit", [*SETTINGS, f"trainer.steps={STEPS}"])
    below = ["hook.at=interaction", "balancer=mgda", "trainer.steps=1"]
    at = train(data, f"{folder}/at", [*SETTINGS, *below], lambda hook, _: hook.gramian.numpy())
    num_trainers = len(trainers)
    return (
        num_trainers,
        parameters(trainers[0].model),
        plain["state"],
        first_step(trainer_of(SETTINGS, Path(folder) / "first")),
        at["trace"][0],
    )


def first_step(trainer):
    """Return what the hook and the watch find in one step."""
    from mbrec.distributed.lockstep import Lockstep
    from mbrec.model.ranker import Ranker

    reader = trainer.loader.reader
    ranker = next(m for m in trainer.model.modules() if isinstance(m, Ranker))
    watch = GradientWatch(ranker, reader.columns)
    batches = iter(trainer.loader)
    trainer.model.train()
    trainer.train(Lockstep(batches, reader.empty_batch, limit=1), lambda _: None)
    batches.close()
    found = watch.take()
    own = ranker.heads.hook.gramian.numpy()
    return own, found.representation_KK.numpy(), found.parameters_KK["interaction"].numpy()


@pytest.fixture(scope="module")
def ranks(tiny_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fidelity")
    return run_ranks(measured, 2, folder, str(tiny_data), str(folder)), folder


def test_measuring_leaves_training_bit_identical(ranks):
    for num_trainers, watched, plain, _, _ in ranks[0]:
        assert num_trainers == 1  # no run is done again
        assert watched.keys() == plain.keys()
        for key, parts in plain.items():
            if ".hook." in key:
                continue  # the balancer has gone on, on the batches after training
            for (_, expected), (_, value) in zip(parts, watched[key], strict=True):
                assert torch.equal(torch.as_tensor(expected), torch.as_tensor(value)), key


def test_the_gramians_are_those_of_the_hook_above_and_of_one_at_the_module(ranks):
    for _, _, _, (own, representation, interaction), at_module in ranks[0]:
        scale = own.diagonal().max()
        assert abs(representation - own).max() < 1e-5 * scale
        assert abs(interaction - at_module).max() < 1e-4 * at_module.max()
    assert (ranks[0][0][3][2] == ranks[0][1][3][2]).all()


def test_each_run_leaves_its_figures_and_all_of_them_make_a_page(ranks, tmp_path):
    assert list(measure.files(ranks[1], SIZE, 1)) == [("plain", 0)]
    runs = measure.load(ranks[1], SIZE, 1)
    assert [run.variant for run in runs] == ["plain"]
    for run in runs:
        assert (run.steps, run.batch_size, run.tasks) == (STEPS, 256, ["ctr", "cvr", "conv_imp"])
        assert [f.step for f in run.figures[:: len(TARGETS)]] == [1, 3, 6, 8]
        assert [f.target for f in run.figures[: len(TARGETS)]] == list(TARGETS)
        assert [s.step for s in run.spectra] == [1, 4, 8]
        assert all(s.holds and s.num_outputs == 4 * 32 for s in run.spectra)
        for found in run.figures:
            assert 1 - 1e-9 <= found.surrogate <= found.bound + 1e-9
            assert set(found.weights) == {"MGDA", "IMTL-G", "MultiBalance"}
        assert [f.rows for f in run.frozen] == [256, 512, 1024] * 2
        assert all(f.own == pytest.approx(1) for f in run.frozen if f.rows == 1024)
        assert Run.of(json.loads(json.dumps(run.plain()))).plain() == run.plain()
    made = page(runs)
    text = made.save(tmp_path, "on a test").read_text()
    assert (tmp_path / "fidelity.png").stat().st_size > 20_000
    assert text.count(f"| plain | {BOTTOM} |") == 3
    assert "held in 3 of 3 cases" in text
    assert {len(row) for row in made.table.rows} == {len(made.table.columns)}


def test_a_variant_is_beside_the_first_seed_by_seed_and_noise_has_its_shares(ranks):
    (plain,) = measure.load(ranks[1], SIZE, 1)
    worse = [
        replace(f, surrogate=2 * f.surrogate, uniform=f.surrogate, residual_over_least=2.0)
        for f in plain.figures
    ]
    made = page([plain, replace(plain, variant="deep", figures=worse)])
    columns = made.table.columns
    rows = [dict(zip(columns, row, strict=True)) for row in made.table.rows]
    assert [row["over that of plain"] for row in rows] == ["", "", "2.00", "2.00"]
    noise = {row[0]: row[1:4] for row in made.more["The ratio and the noise of a batch"].rows}
    assert noise["deep"] == ["4", "100.0 %", "100.0 %"]
    assert noise["all"][:2] == ["8", "50.0 %"]
    seeds = made.more["On all rows, seed by seed"].rows
    last = plain.frozen[-1]
    assert seeds[0] == ["plain", "0", "1,024", f"{last.representation:.2f}", f"{last.uniform:.2f}"]


def test_steps_are_spread_from_the_first_to_the_last():
    assert sorted(measure.spaced(1, 300, 3)) == [1, 150, 300]
    assert sorted(measure.spaced(1, 4, 10)) == [1, 2, 3, 4]
    assert measure.spaced(1, 9, 1) == {1}
