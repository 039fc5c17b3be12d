"""A run's page: what is on it, what it says is missing, and that names from files stay text."""

import doctest
import importlib
import json
import pkgutil
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_runs import START, TASKS, figures, make_run, write_config, write_events, write_metrics
from saving import alone, run_state, save, saver

import mbrec.study.report
from mbrec.checkpoint import folder
from mbrec.config import saved
from mbrec.files.sealed import read_json, write_json
from mbrec.study.report.page import write

ROOT = Path(__file__).parents[3]
ODD = ["<script>alert(1)</script>", '"><img src=x onerror=y>', "a & 'b'", "$x_1$", "_h", "n" * 99]


class Page(HTMLParser):
    """What a browser would see: titles of sections, text, and all tags with their attributes."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.html = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.sections: list[str] = []
        self.text = ""
        self.feed(self.html)
        self.text = re.sub(r"\s+", " ", self.text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "h2":
            self.sections.append(str(dict(attrs)["id"]))

    def handle_data(self, data):
        self.text += data


def page(run: Path, *against: Path) -> Page:
    out = run / "report.html"
    write(run, against, out)
    return Page(out)


EVERY = ["results", "against", "loss", "ne", "balance", "cosines", "conflicts", "ranks", "speed"]
EVERY += ["guards", "unknown", "truncated", "data", "settings"]


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """The page, with its pictures, of a run that has everything but a measurement."""
    folder = tmp_path_factory.mktemp("full")
    run = make_run(folder / "a", steps=60, conflict=True)
    other = make_run(folder / "b", balancer={"_target_": "mbrec.balance.Equal"})
    write_events(run, [(17, {"guard/skipped": 1.0}), (33, {"guard/skipped": 2.0})])
    (run / "checkpoint/step_00000030.exploded").mkdir(parents=True)
    with alone(), saver(run) as target:
        target.save_now(run_state(20, versions={"torch": "2.0"}))
    return page(run, other)


def test_batches_that_were_left_out_of_a_short_run_are_not_denied(tmp_path):
    run = make_run(tmp_path / "a", steps=12)
    write_events(run, [(7, {"guard/skipped": 1.0}), (9, {"guard/skipped": 2.0})])
    text = page(run).text
    assert "2 batches with values that are not finite were left out" in text
    assert "No batch was left out" not in text


def test_every_section_is_there_and_every_plot_is_a_picture(full):
    assert full.sections == EVERY
    pictures = [attrs for tag, attrs in full.tags if tag == "img"]
    assert len(pictures) == 11
    assert all(p["src"].startswith("data:image/png;base64,iVBOR") for p in pictures)
    assert all(p["alt"] and int(p["width"]) > 100 and int(p["height"]) > 100 for p in pictures)
    links = [attrs["href"] for tag, attrs in full.tags if tag == "a"]
    assert links == [f"#{name}" for name in EVERY]


def test_the_page_needs_nothing_from_elsewhere(full):
    assert not {tag for tag, _ in full.tags} & {"script", "link", "iframe", "object", "base"}
    for _, attrs in full.tags:
        for name in ("src", "href", "srcset", "action"):
            assert str(attrs.get(name) or "#").startswith(("#", "data:image/png;base64,"))
    assert not re.search(r"https?://|url\(|@import", full.html)


def test_the_page_says_how_the_run_stands_and_on_what_it_ran(full):
    for said in (
        "finished",
        "MultiBalance",
        "1,234 rows/s",
        "torch 2.0",
        "CPU",
        "clicked",
        "15,360",
    ):
        assert said in full.text, said
    assert "2 batches with values that are not finite were left out" in full.text
    assert "step_00000030.exploded" in full.text
    assert "ctr differs the most between ranks, by 0.100 (median)" in full.text
    assert "On average 25 % of the pairs conflict in a step" in full.text
    assert "trainer.global_batch_size2562048" in full.text  # setting, here, default


def test_every_example_is_true():
    names = [module.name for module in pkgutil.iter_modules(mbrec.study.report.__path__)]
    results = [
        doctest.testmod(importlib.import_module(f"mbrec.study.report.{name}"))
        for name in names
        if name != "__main__"
    ]
    assert sum(result.attempted for result in results) >= 5
    assert sum(result.failed for result in results) == 0


@pytest.mark.usefixtures("no_pictures")
def test_names_from_files_are_text_and_nothing_else(tmp_path):
    run = make_run(tmp_path / "<b>&run", ODD, conflict=True, **{"<i>key</i>": ["</pre><b>"]})
    write_metrics(run, ODD, measurement={"<u>": "<s>"})
    status = {"state": "failed", "reason": "<em>why</em>", "step": 40}
    write_json(run / "status.json", status)
    found = page(run)
    assert not {tag for tag, _ in found.tags} & {"script", "i", "b", "u", "s", "em"}
    assert all("onerror" not in attrs for _, attrs in found.tags)
    for name in [*ODD, "<b>&run", "<em>why</em>", "<u>", "</pre><b>"]:
        assert name in found.text


@pytest.mark.usefixtures("no_pictures")
def test_a_run_without_balance_figures_says_so(tmp_path):
    run = make_run(tmp_path / "run", balance=False, monitor={"balance": False})
    found = page(run)
    assert "no gradient norms and cosines (monitor.balance=false)" in found.text
    assert "balance" in found.sections
    assert not {"cosines", "conflicts", "ranks"} & set(found.sections)


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("number", [1, 20])
def test_any_number_of_tasks_has_a_page(tmp_path, number):
    tasks = [f"task_{k}" for k in range(number)]
    found = page(make_run(tmp_path / "run", tasks, steps=20))
    assert ("nothing to balance" in found.text) == (number == 1)
    assert ("cosines" in found.sections) == (number > 1)
    assert all(task in found.text for task in tasks)


@pytest.mark.usefixtures("no_pictures")
def test_a_run_that_was_killed_shows_what_it_had_written(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    write_config(run, TASKS)
    write_events(run, figures(TASKS, 20))
    status = {"state": "running", "step": 28, "reason": "", "time": 9.9}
    write_json(run / "status.json", status)
    found = page(run)
    assert "There is no metrics.json: the run has not finished" in found.text
    assert "The curves end at step 20 of 28" in found.text
    assert "Last evaluation" in found.text
    assert "made after step 20" in found.text


@pytest.mark.usefixtures("no_pictures")
def test_a_run_without_tensorboard_shows_its_evaluations(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    write_config(run, TASKS)
    write_metrics(run, TASKS)
    found = page(run)
    assert found.sections == ["results", "ne", "data", "settings"]
    for said in ("no figures in tensorboard/", "There is no status.json", "There is no checkpoint"):
        assert said in found.text


@pytest.mark.usefixtures("no_pictures")
def test_a_run_that_ended_at_its_start_has_a_page_with_the_reason(tmp_path):
    reason = "ValueError: expected a data set"
    status = {"state": "failed", "step": 0, "reason": reason, "time": 1.79e9, "pid": 1}
    write_json(tmp_path / "status.json", status)
    found = page(tmp_path)
    assert reason in found.text
    assert "There is no config.json: the run ended before the model was built." in found.text
    assert found.sections == []


@pytest.mark.usefixtures("no_pictures")
def test_damage_and_a_clock_that_was_set_back_are_on_the_page(tmp_path, caplog):
    run = make_run(tmp_path / "run", steps=20)
    (path,) = (run / "tensorboard").iterdir()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    write_events(run, figures(TASKS, 30)[20:], resumed=20, back={0: 3600.0})
    with alone():
        (newest,) = save(run, 30)
    (newest / folder.STATE).write_text("{}")
    found = page(run)
    assert f"{path.name} is damaged. Records that are lost, and missing from the curves: 1" in (
        found.text
    )
    assert "clock was set back" in found.text
    assert "28 s, in 2 parts" in found.text
    assert f"The newest checkpoint tells nothing: {newest / folder.STATE}: expected" in found.text
    told = [record.getMessage() for record in caplog.records]
    assert any(text.startswith(f"{path} is damaged") for text in told)
    assert any("the newest checkpoint is not read" in text for text in told)


@pytest.mark.usefixtures("no_pictures")
def test_the_duration_is_never_negative(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    write_events(run, figures(TASKS, 20), back={15: 3600.0})
    write_json(run / "status.json", {"state": "failed", "step": 20, "time": START - 9e6})
    assert "duration18 s" in page(run).text


@pytest.mark.usefixtures("no_pictures")
def test_what_was_damaged_or_edited_is_refused(tmp_path):
    run = make_run(tmp_path / "run", steps=2)
    for name in ("status.json", "metrics.json", "config.yaml"):
        whole = (run / name).read_text()
        (run / name).write_text(whole.replace("0.1", "0.2").replace('"step": 2', '"step": 3'))
        with pytest.raises(ValueError, match=rf"{name}: .*damaged, or was edited"):
            page(run)
        (run / name).write_text(whole)
    assert "finished" in page(run).text


@pytest.mark.usefixtures("no_pictures")
def test_the_settings_of_a_page_are_those_that_are_read_back(tmp_path):
    run = make_run(tmp_path / "run", steps=2)
    path = run / "config.json"
    write_json(path, saved.read(run / "config.yaml", dict) | {"run": {"name": "of the JSON"}})
    assert "of the JSON" in page(run).text
    path.write_text(path.read_text().replace("of the JSON", "of a damage"))
    with pytest.raises(ValueError, match=r"config\.json: .*damaged, or was edited"):
        page(run)


@pytest.mark.usefixtures("no_pictures")
def test_the_page_replaces_a_link_and_does_not_follow_it(tmp_path):
    run = make_run(tmp_path / "run", steps=2)
    (tmp_path / "victim").write_text("precious")
    for name in ("report.html", "report.html.tmp"):
        (run / name).symlink_to(tmp_path / "victim")
    write(run, [], run / "report.html")
    assert (tmp_path / "victim").read_text() == "precious"
    assert "finished" in (run / "report.html").read_text()


@pytest.mark.usefixtures("no_pictures")
def test_a_measurement_is_shown_as_one(tmp_path):
    run = make_run(tmp_path / "run")
    measured = {"qps_drop_percent": {"median": 0.4, "low": -1.0, "high": 3.4}}
    measured |= {"step_ms": {"with_hook": 20.0}, "hook_ms": {"gramian": 0.1, "all": 0.5}}
    write_metrics(run, TASKS, tasks={}, history=[], measurement=measured)
    found = page(run)
    assert found.sections[1] == "overhead"
    drop = "QPS drop with the hook: 0.400 % (95 % interval -1.00 to 3.40 %). The interval covers 0."
    assert drop in found.text
    assert "0.500 ms of a step of 20.0 ms, 2.50 %" in found.text
    assert "its model is not to be compared" in found.text


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.yaml", "a: !!python/object/apply:os.getcwd []", "expected no tags"),
        ("config.yaml", "a: ${oc.env:HOME}", "not resolved here"),
        ("metrics.json", "{", "expected JSON"),
        ("metrics.json", "[1]", "expected a mapping"),
        ("status.json", "[" * 100_000, "expected JSON"),
    ],
)
def test_files_that_are_not_what_they_should_be_are_refused_by_name(tmp_path, name, content, said):
    run = make_run(tmp_path / "run", steps=2)
    (run / name).write_text(content)
    with pytest.raises(ValueError, match=rf"{re.escape(name)}: .*{said}"):
        page(run)


@pytest.mark.usefixtures("no_pictures")
def test_figures_of_another_kind_leave_their_place_empty(tmp_path):
    run = make_run(tmp_path / "run", steps=20, tasks=["not", "a mapping"], data=3, guard=None)
    odd = {"ctr": {"ne": "low", "auc": [1], "count": True, "calibration": 1.2}}
    write_metrics(run, TASKS, tasks=odd, history="none", parameters=[1], world_size={})
    content = read_json(run / "metrics.json")
    content["tasks"]["ctr"]["rate"] = float("inf")
    (run / "metrics.json").write_text(json.dumps(content))
    found = page(run)
    assert "ctr1.2000" in found.text
    assert found.sections[0] == "results"


def test_the_command_writes_one_file_and_refuses_what_is_no_run(tmp_path):
    (tmp_path / "run").mkdir()
    write_json(tmp_path / "run/status.json", {"state": "starting", "step": 0})
    python = [sys.executable, "-W", "error", "-m", "mbrec.report"]

    def command(*arguments):
        return subprocess.Popen(
            [*python, *arguments],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    written, refused = command("run", "out=page.html"), command(".")
    assert (*written.communicate(), written.returncode) == ("wrote page.html\n", "", 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "run"]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["status.json"]
    out, error = refused.communicate()
    assert (out, refused.returncode) == ("", 1)
    assert error.startswith("error: expected the folder of a run, with one of status.json")


@pytest.mark.parametrize("argument", ["out=metrics.json", "agianst=[x]", "against", "more"])
def test_arguments_that_are_none_are_refused(tmp_path, argument):
    from mbrec.report import parsed

    with pytest.raises(ValueError, match=r"expected against=\[RUN,...\] or out=FILE.html"):
        parsed([str(tmp_path), argument])
