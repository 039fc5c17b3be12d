"""The jobs of a sweep, and their table."""

import csv
import json
import random

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from mbrec.files.sealed import write_json
from mbrec.study.sweep import table as sweep_table
from mbrec.study.sweep.jobs import MAX_NAME, Job, expand
from mbrec.study.sweep.table import SweepTable


def jobs(*words: str) -> list[Job]:
    return expand(OverridesParser.create().parse_overrides(list(words)))


def test_all_combinations_are_jobs_and_the_last_setting_changes_fastest():
    found = jobs("balancer=equal,moco", "trainer.steps=3", "trainer.seed=range(1,3)")
    assert [job.overrides for job in found] == [
        [f"balancer={balancer}", "trainer.steps=3", f"trainer.seed={seed}"]
        for balancer in ("equal", "moco")
        for seed in (1, 2)
    ]
    assert found[1].swept == {"balancer": "equal", "trainer.seed": "2"}
    assert found[1].title == "balancer=equal trainer.seed=2"


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("tasks=[ctr,cvr]", None),
        ("tasks=[ctr,cvr],[ctr]", ["[ctr,cvr]", "[ctr]"]),
        ("data.path='a,b'", None),
        ("data.path='a,b',c", ["'a,b'", "c"]),
        ("optimizer.dense_lr=choice(0.1,1e-3)", ["0.1", "0.001"]),
        ("trainer.steps=null,3", ["null", "3"]),
        ("+experiment=a,b", ["a", "b"]),
    ],
)
def test_commas_in_lists_and_quotes_are_no_sweep(word, values):
    found = [list(job.swept.values()) for job in jobs(word)]
    assert found == ([[]] if values is None else [[value] for value in values])


def test_of_several_values_of_a_setting_the_last_counts():
    (job,) = jobs("balancer=equal,moco", "balancer=pcgrad")
    assert job.overrides == ["balancer=pcgrad"]


def test_a_shuffle_is_the_same_in_every_process():
    word, state = "trainer.seed=shuffle(range(0,50))", random.getstate()
    first = [job.name for job in jobs(word)]
    assert random.getstate() == state
    random.seed(5)
    assert [job.name for job in jobs(word)] == first
    assert sorted(first) != first


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["hydra/launcher=a,b"], "expected one value of a setting of Hydra"),
        (["optimizer.dense_lr=interval(0,1)"], "expected values that can be listed"),
        (["balancer=equal,equal"], "expected each value once, got balancer=equal twice"),
        (["trainer.seed=range(3,3)"], "expected at least one value"),
    ],
)
def test_what_cannot_be_swept_is_refused(words, expected):
    with pytest.raises(ValueError, match=expected):
        jobs(*words)


def test_a_folder_is_named_after_the_values_and_needs_no_quotes():
    found = jobs("balancer=equal,moco", "+x.y=[a,b],a_b", "trainer.steps=1")
    names = [job.name for job in found]
    assert len(set(names)) == 4
    assert all(name.startswith(("balancer-equal--x.y-", "balancer-moco--x.y-")) for name in names)
    for name in names:
        # Hydra reads it as one text, without an equals sign or a comma.
        (parsed,) = OverridesParser.create().parse_overrides([f"resume.path=outputs/{name}"])
        assert parsed.value() == f"outputs/{name}"
    assert jobs("trainer.steps=1")[0].name == "0"


def test_long_names_are_cut_and_still_differ():
    long = "v" * 300
    names = [job.name for job in jobs(f"data.path={long}a,{long}b")]
    assert len(set(names)) == 2
    assert max(map(len, names)) <= MAX_NAME


def run(ne: dict[str, float | None], speed: float = 1234.5) -> dict:
    tasks = {task: {"ne": value, "auc": 0.6} for task, value in ne.items()}
    return {"tasks": tasks, "rows_per_second": speed}


@pytest.fixture
def table(tmp_path):
    """A sweep of which three jobs are finished, one is a measurement, and three are not there."""
    found = jobs("balancer=equal,moco,pcgrad,mgda,cagrad,famo,dbmtl")
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
    made = SweepTable(tmp_path, found)
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
    assert sweep_table.best(table.rows()) == {"ctr": 0.9, "cvr": 0.8}


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
def test_a_sweep_does_not_build_on_a_file_that_is_not_what_was_written(table, tmp_path, name):
    path = tmp_path / "balancer-famo" / name
    write_json(path, run({"ctr": 0.9}) | {"state": "resumable"})
    path.write_text(path.read_text().replace("0.9", "0.8"))
    with pytest.raises(ValueError, match=rf"balancer-famo/{name}: .*damaged, or was edited"):
        table.to_do()
