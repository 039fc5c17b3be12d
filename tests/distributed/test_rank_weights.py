"""What a run of two ranks shows of conflicts, and that looking changes nothing."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import compose
from ranks import run_ranks
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import (
    Layout,  # pyright: ignore[reportAttributeAccessIssue] (protobuf makes it at import)
)

TASKS = ["ctr", "cvr", "conv_imp"]
WRITTEN = [5, 10, 12]
JOB = ["trainer.global_batch_size=512", "trainer.steps=12", "trainer.evaluate_every=10"]
JOB += ["monitor.every=5", "checkpoint.enabled=false"]


def train(data: str, run: str) -> list[dict[str, Any]]:
    """Return, for each writing, what this rank's rows ask for and whether the state stayed."""
    from mbrec.distributed import process
    from mbrec.job import build

    config = compose(Path(data), *JOB)
    trainer, sharded = build.trainer(config, process.start(), Path(run))
    hook, flush, written = sharded.hook, trainer.monitor.flush, []
    assert hook is not None

    def traced() -> None:
        if not trainer.monitor._steps:
            flush()
            return
        before = {name: value.clone() for name, value in hook.balancer.state_dict().items()}
        twin, ok = copy.deepcopy(hook.balancer), hook.balancer.ok
        flush()
        after = hook.balancer.state_dict()
        stayed = all(torch.equal(before[name], after[name]) for name in before)
        alone_K = twin(hook.local_gramian / 2)
        written.append(
            {
                "alone": alone_K.tolist(),
                "together": hook.weights.tolist(),
                "stayed": stayed and hook.balancer.ok is ok,
            }
        )

    trainer.monitor.flush = traced
    trainer.fit()
    return written


@pytest.fixture(scope="module")
def run(tiny_data, tmp_path_factory):
    """What the ranks returned, and the events of the run."""
    folder = tmp_path_factory.mktemp("ranks")
    ranks = run_ranks(train, 2, folder, str(tiny_data), str(folder / "run"))
    guidance = {"scalars": 0, "images": 0, "tensors": 0}
    events = EventAccumulator(str(folder / "run/tensorboard"), size_guidance=guidance)
    events.Reload()
    return ranks, events


@pytest.mark.slow
def test_the_weights_of_a_rank_are_those_that_its_own_rows_ask_for(run):
    ranks, events = run
    for index, step in enumerate(WRITTEN):
        alone_WK = torch.tensor([rank[index]["alone"] for rank in ranks])
        shown = [
            [events.Scalars(f"rank_weight/{rank}/{task}")[index] for task in TASKS]
            for rank in range(2)
        ]
        assert {event.step for row in shown for event in row} == {step}
        shown_WK = torch.tensor([[event.value for event in row] for row in shown])
        torch.testing.assert_close(shown_WK, alone_WK, rtol=1e-6, atol=0)
        spread = [events.Scalars(f"rank_weight_spread/{task}")[index].value for task in TASKS]
        assert spread == pytest.approx((alone_WK[0] - alone_WK[1]).abs().tolist(), abs=1e-6)
        # Ranks that weigh alone drift apart, and away from what they weigh together.
        assert max(spread) > 1e-4
        assert ranks[0][index]["together"] == ranks[1][index]["together"] != alone_WK[0].tolist()


@pytest.mark.slow
def test_asking_a_rank_leaves_the_balancer_as_it_is(run):
    ranks, _ = run
    assert all(entry["stayed"] for rank in ranks for entry in rank)
    assert [len(rank) for rank in ranks] == [len(WRITTEN)] * 2


@pytest.mark.slow
def test_every_step_has_its_figures_of_conflict(run):
    _, events = run
    for name in ("share", "dominance", "weighted_dominance", "stationarity"):
        assert [e.step for e in events.Scalars(f"conflict/{name}")] == list(range(1, 13)), name
    relative = [event.value for event in events.Scalars("conflict/stationarity_relative")]
    assert len(relative) == 12 and all(0 < value <= 1 for value in relative)
    assert [event.step for event in events.Scalars("conflict/vertex")] == WRITTEN


@pytest.mark.slow
def test_the_pages_show_tags_of_the_run_and_the_papers_figure_first(run):
    _, events = run
    (config,) = events.Tensors("custom_scalars__config__")
    layout = Layout.FromString(config.tensor_proto.string_val[0])
    assert [page.title for page in layout.category] == ["Figure 2", "conflict", "tasks"]
    figure = [chart.title[:3] for chart in layout.category[0].chart]
    assert figure == ["(c)", "(d)", "(e)"]
    charts = [chart for page in layout.category for chart in page.chart]
    patterns = [pattern for chart in charts for pattern in chart.multiline.tag]
    tags = events.Tags()["scalars"]
    assert {pattern: sum(bool(re.search(pattern, tag)) for tag in tags) for pattern in patterns} \
        == dict.fromkeys(patterns, 1)  # fmt: skip
    shown = {tag for tag in tags if any(re.search(pattern, tag) for pattern in patterns)}
    watched = ("conflict/", "cosine/", "rank_weight", "grad_norm/", "weight/", "weighted_norm/")
    assert {tag for tag in tags if tag.startswith(watched)} <= shown


@pytest.mark.slow
def test_each_evaluation_has_a_picture_of_the_cosines(run):
    _, events = run
    pictures = events.Images("conflict/cosines")
    assert [picture.step for picture in pictures] == [10, 12]
    assert all(picture.encoded_image_string[:4] == b"\x89PNG" for picture in pictures)
    assert all(min(picture.width, picture.height) > 100 for picture in pictures)
