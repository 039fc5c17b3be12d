"""A comparison trains what its tables need, once, and says no more than they show."""

import json
import re

import pytest
from outcomes import Launcher

from mbrec.study import launch
from mbrec.study.benchmark import EQUAL, Benchmark
from mbrec.study.comparison import TUNED, Comparison, setting
from mbrec.study.comparison_page import write_pages

BENCHMARK = Benchmark("w", "my_model", ("ctr", "cvr"), ("experiment=e",))
BALANCERS = ["equal", "static_grid", "multibalance", "mgda"]
GAINS = {"balancer=multibalance": 0.6, "balancer.weights=[0.8,0.2]": 0.1, "balancer=mgda": 0.0}


@pytest.fixture
def compared(monkeypatch, tmp_path):
    def make(gains=GAINS, balancers=BALANCERS, seeds=5, **others):
        launcher = Launcher(gains, others.pop("nex", lambda job: False))
        monkeypatch.setattr(launch, "run", launcher.run)
        found = Comparison(tmp_path / "runs", range(seeds), BENCHMARK, balancers, **others)
        found.train()
        return found, launcher

    return make


def test_every_setting_has_the_same_seeds_and_equal_and_single_task_models_are_there(compared):
    _, launcher = compared(balancers=["mgda"])
    (jobs,) = launcher.batches
    seeds = {}
    for job in jobs:
        seeds.setdefault((job.overrides[1], job.only), []).append(job.overrides[-1])
    overhead = seeds.pop(("balancer=mgda", ()))
    assert overhead.pop() == "trainer.measure_overhead=true"
    expected = [f"trainer.seed={n}" for n in range(5)]
    assert overhead == expected
    assert set(seeds) == {("balancer=equal", only) for only in ((), ("ctr",), ("cvr",))}
    assert all(found == expected for found in seeds.values())


def test_static_weights_are_chosen_before_they_are_compared(compared):
    found, launcher = compared()
    tuning, rest = launcher.batches
    assert all("/tuning/" in job.name for job in tuning)
    assert not any("/tuning/" in job.name for job in rest)
    static = next(one for one in found.compared if one.name == TUNED)
    assert static.overrides[1] == "balancer.weights=[0.8,0.2]"


def test_the_page_calls_real_what_is_and_nothing_else(compared, tmp_path):
    found, _ = compared()
    page = write_pages(found, tmp_path / "out", "- how").read_text()
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in page.splitlines()}
    assert re.search(r"multibalance \| \+0\.6\d\d ± 0\.0\d\d \*", page)
    assert "**multibalance**: ctr, cvr better, no loss shown" in page
    assert "**mgda**: no difference shown" in page
    assert "*" not in rows["mgda"]
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"compare.md", "compare.csv", "compare.json", "compare.png", "pareto.png"}
    content = json.loads((tmp_path / "out" / "compare.json").read_text())
    methods = content["methods"]
    assert methods["multibalance"]["gain_over_equal_percent"]["tasks"]["cvr"]["is_real"]
    assert not methods["mgda"]["gain_over_equal_percent"]["tasks"]["cvr"]["is_real"]
    assert methods["multibalance"]["verdict_by_task"] == {"ctr": "better", "cvr": "better"}
    assert set(content["single_task_gain_over_equal_percent"]["tasks"]) == {"ctr", "cvr"}
    assert methods["mgda"]["qps_drop_percent"] == {"median": 1.5, "low": 0.5, "high": 2.5}


def test_models_that_are_no_better_than_a_constant_are_told_first(compared, tmp_path):
    found, _ = compared()
    text = write_pages(found, tmp_path, "- how").read_text()
    assert "No better than the constant" not in text
    itself = text.partition("## NE itself")[2]
    assert re.search(r"\| multibalance \| 0\.8\d{3} ± 0\.\d{4} \|", itself)
    for result in found.results.values():
        for figures in result.tasks.values():
            figures |= {"ne": 1.5 * figures["ne"], "count": 1000.0, "rate": 0.005}
    text = write_pages(found, tmp_path, "- how").read_text()
    told = text.partition("## Against equal weights")[0]
    assert re.search(r"No better than the constant rate of these rows .*: ctr \(1", told)
    assert "Fewer than 1,000 positives" in told


def test_one_seed_is_called_no_difference(compared, tmp_path):
    found, _ = compared(seeds=1)
    page = write_pages(found, tmp_path, "- how").read_text()
    assert "**multibalance**: no difference shown" in page
    assert " inf" not in page
    assert json.loads((tmp_path / "compare.json").read_text())


def test_an_explosion_is_told_as_nex(compared, tmp_path):
    found, _ = compared(nex=lambda job: "balancer=mgda" in job.overrides and "/seed_2" in job.name)
    page = write_pages(found, tmp_path, "- how").read_text()
    assert "| mgda | NEX | NEX | NEX |" in page
    assert "NEX, w/mgda/seed_2: FloatingPointError" in page
    content = json.loads((tmp_path / "compare.json").read_text())
    assert content["methods"]["mgda"]["gain_over_equal_percent"]["exploded"] == 1
    assert len(content["explosions"]) == 1


def test_a_single_task_model_that_exploded_leaves_transfer_unknown(compared, tmp_path):
    found, _ = compared(nex=lambda job: job.only == ("cvr",) and "/seed_1" in job.name)
    page = write_pages(found, tmp_path, "- how").read_text()
    verdicts = page.partition("## Verdicts")[2]
    assert (
        "| multibalance | ctr, cvr better, no loss shown | NEX of the baseline | NEX of" in verdicts
    )
    content = json.loads((tmp_path / "compare.json").read_text())
    assert content["methods"]["multibalance"]["negative_transfer"] is None
    assert content["methods"]["multibalance"]["gain_over_single_percent"]["baseline_exploded"] == 1


def test_a_task_without_gauc_loses_no_other_figure(compared, tmp_path):
    found, _ = compared()
    for result in found.results.values():
        for task, figures in result.tasks.items():
            figures["gauc"] = 0.6 if task == "ctr" else None
    page = write_pages(found, tmp_path, "- how").read_text()
    assert "ctr, GAUC" in page
    assert list(found.gauc(found.compared[1])) == ["ctr"]


def test_a_measurement_that_exploded_is_told_as_that(compared, tmp_path):
    found, _ = compared(nex=lambda job: job.measures and "balancer=mgda" in job.overrides)
    page = write_pages(found, tmp_path, "- how").read_text()
    assert re.search(r"\| mgda \|.* NEX \|$", page, re.MULTILINE)


def test_without_a_measurement_there_is_no_drop(compared, tmp_path):
    found, launcher = compared(measure=False)
    page = write_pages(found, tmp_path, "- how").read_text()
    assert "QPS" not in page
    assert not any("measure" in word for job in launcher.batches[1] for word in job.overrides)


def test_a_balancer_may_come_with_arguments():
    assert setting("equal") is EQUAL
    found = setting("multibalance+lr=1+prior=[.5,.5]")
    assert found.overrides == ("balancer=multibalance", "balancer.lr=1", "balancer.prior=[.5,.5]")
