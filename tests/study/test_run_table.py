"""The table of many jobs: what it shows, and in which order it says to run them."""

import csv
import json

import pytest

from mbrec.files.sealed import write_json
from mbrec.study import run_table
from mbrec.study.jobs import FAILURE, Job
from mbrec.study.run_table import Row, RunTable


def swept(**values: str) -> Job:
    name = "--".join(f"{key}-{value}" for key, value in values.items())
    return Job(name, (), swept=values)


def run(ne: dict[str, float | None], speed: float = 1234.5) -> dict:
    tasks = {task: {"ne": value, "auc": 0.6} for task, value in ne.items()}
    return {"tasks": tasks, "rows_per_second": speed}


@pytest.fixture
def table(tmp_path):
    """Jobs of which three jobs are finished, one is a measurement, and three are not there."""
    words = ["equal", "moco", "pcgrad", "mgda", "cagrad", "famo", "dbmtl"]
    found = [swept(balancer=word) for word in words]
    finished = {
        "equal": run({"ctr": 0.91, "cvr": 0.8}),
        "moco": run({"ctr": 0.9, "cvr": None}),
        "pcgrad": {"measurement": {"drop": 0.1}},
        "mgda": run({"ctr": 0.95}),
    }
    for job in found:
        folder = tmp_path / job.name
        name = job.swept["balancer"]
        if name in finished:
            folder.mkdir()
            (folder / "metrics.json").write_text(json.dumps(finished[name]))
    for name, state in (("cagrad", "failed"), ("famo", "resumable")):
        (tmp_path / f"balancer-{name}").mkdir()
        (tmp_path / f"balancer-{name}" / "status.json").write_text(json.dumps({"state": state}))
    made = RunTable(tmp_path, {job.name: job for job in found})
    made.failures["balancer-cagrad"] = "ValueError: a|b " + "x" * 200
    return made


def test_the_table_has_a_row_a_job_and_marks_the_best_of_each_task(table):
    head, *lines = str(table).splitlines()
    assert head.split("  ")[0] == "balancer"
    assert [" ".join(line.split()) for line in lines[:4]] == [
        "equal 0.9100 0.8000* 0.6000 0.6000 1,234 balancer-equal",
        "moco 0.9000* - 0.6000 0.6000 1,234 balancer-moco",
        "pcgrad - - - - - balancer-pcgrad (measurement)",
        "mgda 0.9500 - 0.6000 - 1,234 balancer-mgda",
    ]
    assert lines[4].endswith("balancer-cagrad FAILED: ValueError: a|b " + "x" * 44 + "...")
    assert lines[5].endswith("balancer-famo (interrupted)")
    assert lines[6].endswith("balancer-dbmtl (waiting)")


def test_a_measurement_is_never_the_best(table, tmp_path):
    content = run({"ctr": 0.1}) | {"measurement": {}}
    (tmp_path / "balancer-pcgrad" / "metrics.json").write_text(json.dumps(content))
    assert run_table.best(table.rows()) == {"ctr": 0.9, "cvr": 0.8}


def test_the_files_have_all_digits_and_reasons(table, tmp_path):
    table.write()
    with (tmp_path / "sweep.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert lines[0]["ne_ctr"] == "0.91"
    assert lines[0]["rows_per_second"] == "1234.5"
    assert [line["best"] for line in lines[:4]] == ["cvr", "ctr", "", ""]
    assert lines[4]["reason"].endswith("x" * 200)
    assert lines[4]["folder"] == str(tmp_path / "balancer-cagrad")
    assert [line["state"] for line in lines[2:6]] == [
        "measurement",
        "finished",
        "failed",
        "interrupted",
    ]
    text = (tmp_path / "sweep.md").read_text().splitlines()
    assert "| **0.8000** |" in text[2]
    assert {line.replace("\\|", "").count("|") for line in text} == {8}


def test_what_was_begun_and_broke_comes_last(table):
    assert table.to_do() == ["balancer-famo", "balancer-dbmtl", "balancer-cagrad"]
    table.rows()
    assert table.step == 4


@pytest.mark.parametrize("name", ["metrics.json", "status.json"])
def test_a_table_does_not_build_on_a_file_that_is_not_what_was_written(table, tmp_path, name):
    path = tmp_path / "balancer-famo" / name
    write_json(path, run({"ctr": 0.9}) | {"state": "resumable"})
    path.write_text(path.read_text().replace("0.9", "0.8"))
    with pytest.raises(ValueError, match=rf"balancer-famo/{name}: .*damaged, or was edited"):
        table.to_do()


def test_a_job_that_a_guard_ended_in_a_study_is_not_run_again(tmp_path):
    (tmp_path / "a-1").mkdir()
    write_json(tmp_path / "a-1" / FAILURE, {"reason": "FloatingPointError: step 3"})
    table = RunTable(tmp_path, {"a-1": Job("a", ()), "b-1": Job("b", ())})
    assert table.to_do() == ["b-1"]
    assert [row.state for row in table.rows()] == ["failed", "waiting"]
    assert "a-1 FAILED: FloatingPointError: step 3" in str(table)


def of_seed(balancer, seed, **figures):
    job = Job(f"{balancer}{seed}", (), swept={"balancer": balancer, "trainer.seed": str(seed)})
    return Row(job.name, job, "finished", "", {"tasks": {"ctr": figures}})


def test_figures_over_seeds_are_a_mean_and_a_standard_deviation():
    rows = [of_seed("equal", s, auc=0.7, ne=ne, calibration=1) for s, ne in enumerate((0.8, 0.9))]
    rows += [of_seed("moco", s, auc=0.6, ne=None, calibration=2.0) for s in range(2)]
    text = run_table.markdown(rows)
    assert "| balancer | task | AUC | NE | calibration | seeds |" in text
    line = "| equal | ctr | 0.7000 ± 0.0000 | 0.8500 ± 0.0707 | 1.0000 ± 0.0000 | 2 |"
    assert text.splitlines().count(line) == 1
    assert "| moco | ctr | 0.6000 ± 0.0000 | - | 2.0000 ± 0.0000 | 2 |" in text


def test_without_several_seeds_there_is_no_table_over_seeds():
    rows = [of_seed(balancer, 0, auc=0.7, ne=0.8, calibration=1.0) for balancer in ("a", "b")]
    assert run_table.over_seeds(rows) is None
