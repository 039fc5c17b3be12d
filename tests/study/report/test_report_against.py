"""Which runs may be compared, and what is said of the difference."""

import re

import pytest
from made_runs import TASKS, make_run, write_config, write_metrics

from mbrec.study.report.against import baselines
from mbrec.study.report.page import render
from mbrec.study.report.run_folder import load

pytestmark = pytest.mark.usefixtures("no_pictures")

COLUMNS = {"categorical": {}, "numerical": {}, "labels": {"click": "clicked"}}
DATA = {"train": ["train/*.parquet"], "evaluation": ["test/*.parquet"], "columns": COLUMNS}


@pytest.fixture
def run(tmp_path):
    """A finished run with three steps."""
    return make_run(tmp_path / "run", steps=3)


def test_gains_are_per_cent_of_the_baseline(run, tmp_path):
    other = make_run(tmp_path / "other", steps=3, balancer={"_target_": "mbrec.balance.Equal"})
    figures = load(other).metrics["tasks"]
    figures["ctr"]["ne"], figures["cvr"]["ne"] = 1.0, 0.94
    write_metrics(other, TASKS, tasks=figures)
    here = load(run)
    html = render(here, baselines(here, [other]), {})
    cells = re.findall(r'<td class="number">([+-]\d+\.\d{3})</td>', html)
    # (1 - .9) / 1, (.94 - .95) / .94, the third is the same; and their mean
    assert cells == ["+10.000", "-1.064", "+0.000", "+2.979"]
    assert "One run of each proves nothing" in html
    assert "mbrec.balance.Equal" in html


def test_the_same_rows_in_another_folder_are_the_same_rows(run, tmp_path):
    other = make_run(tmp_path / "other", steps=3)
    content = load(other).config["data"] | {"path": "/elsewhere"}
    write_config(other, TASKS, data=content)
    assert len(baselines(load(run), [other])) == 1


@pytest.mark.parametrize(
    ("section_name", "content", "told"),
    [
        ("resume", {"path": "outputs/before"}, "resume.path"),
        ("checkpoint", {"best": "ctr.ne", "patience": 3}, "checkpoint.best"),
        ("data", DATA | {"order": "exact"}, "data.order"),
        ("optimizer", {"dense_lr": 0.1}, "optimizer.dense_lr"),
    ],
)
def test_what_changes_the_training_is_listed(tmp_path, section_name, content, told):
    run = make_run(tmp_path / "run", steps=3, data=DATA)
    other = make_run(tmp_path / "other", steps=3, **({"data": DATA} | {section_name: content}))
    here = load(run)
    html = render(here, baselines(here, [other]), {})
    assert f">{told}<" in html
    assert "No setting that changes the training differs" not in html


def test_what_does_not_change_the_training_is_not_listed(tmp_path):
    run = make_run(tmp_path / "run", steps=3, data=DATA)
    apart = {
        "data": DATA | {"path": "/elsewhere", "num_workers": 2},
        "checkpoint": {"every": 50, "best": "ctr.ne", "patience": None},
        "resume": {"path": "auto"},
    }
    here = load(run)
    other = make_run(tmp_path / "other", steps=3, **apart)
    html = render(here, baselines(here, [other]), {})
    assert "No setting that changes the training differs" in html


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": DATA | {"evaluation": ["other/*.parquet"]}}, "its data.evaluation differ"),
        ({"data": DATA | {"train": ["more/*.parquet"]}}, "its data.train differ"),
        ({"data": DATA | {"synthetic": {"seed": 3}}}, "its data.synthetic differ"),
        ({"tasks": {t: {"label": "click", "given": "buy"} for t in TASKS}}, "its tasks differ"),
        ({"data": DATA | {"columns": COLUMNS | {"labels": {"click": "x"}}}}, "its tasks differ"),
    ],
)
def test_runs_on_other_data_or_tasks_are_refused(run, tmp_path, changes, said):
    other = make_run(tmp_path / "other", steps=3, **changes)
    with pytest.raises(ValueError, match=f"{other}: {said}.*leave it out"):
        baselines(load(run), [other])


def test_runs_that_were_evaluated_on_other_rows_are_refused(run, tmp_path):
    other = make_run(tmp_path / "other", steps=3)
    figures = load(other).metrics["tasks"]
    figures["cvr"]["rate"] += 1e-6
    write_metrics(other, TASKS, tasks=figures)
    with pytest.raises(ValueError, match="evaluated on other rows: rate of cvr is"):
        baselines(load(run), [other])


def test_measurements_unfinished_runs_and_the_run_itself_are_no_baselines(run, tmp_path):
    other = make_run(tmp_path / "other", steps=3)
    write_metrics(other, TASKS, measurement={"step_ms": {}})
    with pytest.raises(ValueError, match="it only measured its overhead"):
        baselines(load(run), [other])
    with pytest.raises(ValueError, match="leave out against="):
        baselines(load(other), [run])
    (other / "metrics.json").unlink()
    with pytest.raises(ValueError, match="it has no final evaluation"):
        baselines(load(run), [other])
    with pytest.raises(ValueError, match="it is the same run"):
        baselines(load(run), [run / ".." / "run"])
    with pytest.raises(ValueError, match="expected the folder of a run"):
        baselines(load(run), [tmp_path / "nowhere"])


def test_the_folder_of_a_sweep_is_no_run_and_names_its_runs(tmp_path):
    run = make_run(tmp_path / "sweep" / "balancer-equal", steps=3)
    (tmp_path / "sweep" / "sweep.md").write_text("| job |")
    (tmp_path / "sweep" / "status.json").write_text("{}")
    with pytest.raises(ValueError, match=f"got a sweep's.*sweep.md, its runs are {run}"):
        load(tmp_path / "sweep")
