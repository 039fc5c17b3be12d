"""The commands a user types, on the tiny world, with two processes.

The first run and its evaluation are started as a user starts them; the rest run in forks, see
ranks.py.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.dataset as ds
import pytest
from ranks import run_command
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import (
    SESSION_START_INFO_TAG,
    parse_session_start_info_plugin_data,
)

from mbrec.study.report import plots
from mbrec.study.report.page import write as write_report

ROOT = Path(__file__).parents[1]
TASKS = ["ctr", "cvr", "conv_imp"]


def command(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"NPROC": "2", "OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(
        arguments, cwd=cwd, env=env, capture_output=True, text=True, timeout=240, check=False
    )


def job(data: Path, name: str) -> list[str]:
    words = ["data/preset=tiny", f"data.path={data}", "trainer.global_batch_size=256"]
    return [*words, f"run.name={name}", "trainer.evaluate_every=10", "monitor.every=7"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished run, and what it printed. It writes its own data."""
    folder = tmp_path_factory.mktemp("train")
    script = str(ROOT / "scripts" / "train.sh")
    done = command(script, *job(folder / "data", "first"), cwd=folder)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder / "outputs" / "first", done.stdout + done.stderr


@pytest.fixture(scope="module")
def metrics(run):
    return json.loads((run[0] / "metrics.json").read_text())


@pytest.mark.slow
def test_a_run_ends_with_a_table_of_its_tasks_and_where_it_was_saved(run, metrics):
    folder, printed = run
    lines = printed.splitlines()
    assert any(line.split()[:3] == ["task", "NE", "AUC"] for line in lines)
    for task in TASKS:
        (line,) = (line for line in lines if line.startswith(f"{task} "))
        assert f"{metrics['tasks'][task]['ne']:.4f}" in line
        assert f"{metrics['tasks'][task]['excess_ne']:.4f}" in line
    assert f"saved in outputs/{folder.name}" in printed
    assert "rows/s" in printed


@pytest.mark.slow
def test_a_run_prints_no_warning(run):
    assert "Warning" not in run[1]
    assert "Traceback" not in run[1]


@pytest.mark.slow
def test_every_evaluation_scores_every_row_once(metrics):
    # 6,554 rows: each of two ranks has 3,277 of them, in 26 batches of 128.
    assert [entry["step"] for entry in metrics["history"]] == [10, 20, 26]
    assert all(e["tasks"]["ctr"]["count"] == 1638 for e in metrics["history"])
    clicks = metrics["tasks"]["ctr"]["rate"] * 1638
    assert metrics["tasks"]["cvr"]["count"] == pytest.approx(clicks)
    assert metrics["history"][-1]["tasks"] == metrics["tasks"]


@pytest.mark.slow
def test_a_run_has_a_page_with_all_that_it_wrote(run, tmp_path, monkeypatch):
    page = tmp_path / "page.html"
    monkeypatch.setattr(plots, "png", lambda figure: b"a picture")
    write_report(run[0], [], page)
    html = page.read_text()
    sections = ["results", "loss", "ne", "balance", "cosines", "conflicts", "ranks", "speed"]
    assert re.findall('<h2 id="(.*?)">', html) == [*sections, "data", "settings"]
    assert "finished" in html
    # The last step is written, and nothing is missing.
    assert '<ul class="warned">' not in html.split("<nav>")[0]


@pytest.mark.slow
def test_tensorboard_has_every_step_under_its_own_number(run, metrics):
    events = EventAccumulator(str(run[0] / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    tags = set(events.Tags()["scalars"])
    by_task = ["weight", "grad_norm", "norm_average", "weighted_norm", "effective_weight", "loss"]
    expected = {f"{name}/{task}" for name in by_task for task in TASKS}
    expected |= {"cosine/ctr-cvr", "cosine/ctr-conv_imp", "cosine/cvr-conv_imp", "loss"}
    expected |= {"learning_rate/tables", "learning_rate/dense"}
    assert expected <= tags
    for tag in expected:
        assert [event.step for event in events.Scalars(tag)] == list(range(1, 27)), tag
    weights = [events.Scalars(f"weight/{task}") for task in TASKS]
    for step in range(26):
        assert sum(weight[step].value for weight in weights) == pytest.approx(1, abs=1e-6)
    # After 7 steps, and before each evaluation, which is every 10.
    written = [7, 10, 17, 20, 26]
    assert [event.step for event in events.Scalars("train_ne/ctr")] == written
    assert [event.step for event in events.Scalars("evaluation_ne/ctr")] == [10, 20, 26]
    last = events.Scalars("evaluation_auc/ctr")[-1].value
    assert last == pytest.approx(metrics["tasks"]["ctr"]["auc"], abs=1e-6)


@pytest.mark.slow
def test_a_run_has_a_line_in_the_table_of_hyperparameters(run):
    events = EventAccumulator(str(run[0] / "tensorboard"))
    events.Reload()
    content = events.SummaryMetadata(SESSION_START_INFO_TAG).plugin_data.content
    line = parse_session_start_info_plugin_data(content).hparams
    given = {key for key in line if not key.startswith(("balancer", "optimizer."))}
    trainer = {f"trainer.{name}" for name in ("evaluate_every", "global_batch_size", "seed")}
    assert given == {"data/preset", *trainer}
    assert line["data/preset"].string_value == "tiny"
    assert line["balancer"].string_value == "MultiBalance"
    assert line["trainer.evaluate_every"].number_value == 10


@pytest.mark.slow
def test_the_same_command_gives_the_same_numbers(run, metrics):
    folder = run[0].parents[1]
    words = job(folder / "data", "second")
    done = run_command("mbrec.train", *words, cwd=folder, processes=2)
    assert done.returncode == 0, done.stderr[-4000:]
    again = json.loads((folder / "outputs" / "second" / "metrics.json").read_text())
    assert again["history"] == metrics["history"]


@pytest.mark.slow
def test_a_finished_run_is_not_trained_over(run):
    arguments = ["data/preset=tiny", f"data.path={run[0].parents[1] / 'data'}", "run.name=first"]
    done = run_command("mbrec.train", *arguments, cwd=run[0].parents[1], processes=2)
    assert done.returncode != 0
    assert "expected a new run, got run.name=first" in done.stderr


@pytest.mark.slow
def test_one_process_scores_the_saved_run_as_two_did_and_keeps_predictions(run, metrics):
    folder = run[0]
    arguments = [sys.executable, "-m", "mbrec.evaluate", str(folder), "predictions=kept"]
    done = command(*arguments, cwd=folder.parents[1], RANK="0")
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    kept = folder.parents[1] / "kept"
    result = json.loads((kept / "evaluation.json").read_text())["tasks"]
    for task in TASKS:
        for name, value in metrics["tasks"][task].items():
            assert result[task][name] == pytest.approx(value, abs=1e-6), (task, name)
    parts = [str(part) for part in sorted(kept.glob("*.parquet"))]
    table = ds.dataset(parts).to_table().to_pydict()
    assert len(table["row"]) == 1638
    source = ds.dataset(sorted(set(table["file"]))).to_table(columns=["click", "conversion"])
    labels = source.to_pydict()
    for row, click, cvr in zip(table["row"], table["label_ctr"], table["label_cvr"], strict=True):
        assert click == labels["click"][row]
        assert cvr == (labels["conversion"][row] if click else None)


@pytest.mark.slow
@pytest.mark.parametrize(
    "balancer", ["multibalance", pytest.param("equal", marks=pytest.mark.nightly)]
)
def test_a_run_that_diverges_stops_and_names_the_step_and_the_task(run, balancer):
    arguments = ["data/preset=tiny", f"data.path={run[0].parents[1] / 'data'}", "monitor.every=5"]
    arguments += [f"run.name=diverged_{balancer}", f"balancer={balancer}"]
    arguments += ["optimizer.dense_lr=1e30", "monitor.balance=false"]
    done = run_command("mbrec.train", *arguments, cwd=run[0].parents[1], processes=2)
    assert done.returncode != 0
    assert re.search(r"step \d: expected finite .* loss \S+ of task 'ctr' on rank 0", done.stderr)
    assert not (run[0].parent / f"diverged_{balancer}" / "metrics.json").exists()


@pytest.mark.slow
def test_three_processes_score_what_two_trained_without_the_training_files(run, metrics, tmp_path):
    folder = run[0]
    (data,) = (folder.parents[1] / "data").iterdir()
    (tmp_path / "evaluation").symlink_to(data / "evaluation")
    words = [folder, f"data.path={tmp_path}", "data.synthetic=null", "predictions=kept"]
    done = run_command("mbrec.evaluate", *words, cwd=tmp_path, processes=3)
    assert done.returncode == 0, done.stderr
    assert not (folder / "evaluation.json").exists()
    result = json.loads((tmp_path / "kept" / "evaluation.json").read_text())["tasks"]
    assert result["ctr"]["ne"] == pytest.approx(metrics["tasks"]["ctr"]["ne"], abs=1e-6)


@pytest.mark.slow
def test_a_data_error_ends_every_rank_with_a_message_that_names_it(run):
    arguments = ["data/preset=tiny", f"data.path={run[0].parents[1] / 'data'}"]
    arguments.append("data.columns.categorical.item.cardinality=100")
    done = run_command("mbrec.train", *arguments, cwd=run[0].parents[1], processes=2)
    assert done.returncode != 0
    assert "column 'item': expected an id in [0, 100), got" in done.stderr


@pytest.mark.slow
def test_small_without_interaction_comes_close_to_the_optimum_in_one_epoch(tmp_path):
    words = ["data.synthetic.shares=[.45,.2,.2,.15,0]", "run.name=close"]
    done = run_command("mbrec.train", *words, cwd=tmp_path, processes=2)
    assert done.returncode == 0, done.stderr[-4000:]
    ctr = json.loads((tmp_path / "outputs/close/metrics.json").read_text())["tasks"]["ctr"]
    assert ctr["excess_ne"] < 0.04
    # Labels that leak would put the model ahead of the true probabilities.
    assert ctr["label_gap"] > -4 * ctr["label_gap_se"]
    # Dense features alone reach .9392 in this world: the embeddings learn.
    assert ctr["ne"] < 0.92
