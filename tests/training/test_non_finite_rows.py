"""A row whose prediction overflows leaves its tasks without figures, and ends nothing."""

import io
import json
import logging
import math
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jobs import compose
from ranks import run_ranks

from mbrec.checkpoint import state
from mbrec.checkpoint.command import main as checkpoint_command
from mbrec.columns.schema import Categorical, Columns, Numerical
from mbrec.config.checkpoints import find_best
from mbrec.config.settings import Config, Data
from mbrec.prepare.writer import DatasetWriter
from mbrec.study.jobs import Job, read_result
from mbrec.study.report import run_folder
from mbrec.study.report.page import render
from mbrec.study.run_table import Row, every_digit, markdown
from mbrec.training.non_finite_rows import message

BATCH, STEPS, ROWS = 32, 4, 100
# The row of the outlier, which is not the first; it is no click, so that cvr does not count it.
PLACE = 70
COLUMNS = Columns(
    {"user": Categorical(50)},
    {"price": Numerical(), "age": Numerical()},
    {"click": "click", "conversion": "click * sold"},
)


def rows(n: int, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    columns = {"user": random.integers(0, 50, n), "age": random.normal(size=n).astype(np.float32)}
    labels = {name: random.integers(0, 2, n) for name in ("click", "sold")}
    return columns | labels | {"price": random.normal(size=n).astype(np.float32)}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with one finite outlier among the rows of its evaluation."""
    train, test = rows(BATCH * STEPS, 0), rows(ROWS, 1)
    test["price"][PLACE], test["click"][PLACE] = 3e38, 0
    folder = tmp_path_factory.mktemp("outlier") / "data"
    schema = pa.table(train).schema
    with DatasetWriter(folder, schema, labels=["click"], row_group_rows=20) as writer:
        writer.add("train", pa.table(train))
        writer.add("test", pa.table(test))
        writer.finish()
    return folder


def configure(data: Path, run: Path) -> Config:
    overrides = ["checkpoint.every=2", "checkpoint.best=ctr.ne", "checkpoint.patience=1"]
    overrides += [f"trainer.global_batch_size={BATCH}", f"trainer.steps={STEPS}"]
    overrides += [
        "trainer.evaluate_every=2",
        "monitor.group=user",
        f"run.folder={run.parent}",
        f"run.name={run.name}",
    ]
    config = compose(data, *overrides)
    config.data = Data(str(data), ["train/*.parquet"], ["test/*.parquet"], COLUMNS)
    return config


def job(data: str, run: str) -> list[str]:
    """Train and score a run, as the commands do; return what was logged."""
    from mbrec.distributed import process
    from mbrec.distributed.interrupt import Interrupt
    from mbrec.job import evaluation, fit

    logging.disable(logging.NOTSET)
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("mbrec").addHandler(handler)
    with (
        redirect_stdout(io.StringIO()),
        mock.patch("torch.distributed.destroy_process_group"),  # of the ranks of the test
    ):
        config = configure(Path(data), Path(run))
        fit.train_one(config, [], process.start(), Interrupt())
        evaluation.evaluate(Path(run), [], Path(run) / "scores")
    return said


@pytest.fixture(scope="module")
def done(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[str]]]:
    """The folder of the finished run, and what each of two ranks logged."""
    folder = tmp_path_factory.mktemp("ranks")
    run = tmp_path_factory.mktemp("runs") / "run"
    return run, run_ranks(job, 2, folder, str(data), str(run))


def read(path: Path) -> Any:
    def refuse(text: str) -> None:
        raise ValueError(f"{path} has {text}, which is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


@pytest.mark.slow
def test_a_job_with_an_outlier_in_its_evaluation_finishes_with_null_figures(done):
    run, _ = done
    assert read(run / "status.json")["state"] == "finished"
    metrics = read(run / "metrics.json")
    assert [entry["step"] for entry in metrics["history"]] == [2, 4]
    for task in ("ctr", "conv_imp"):
        figures = metrics["tasks"][task]
        assert figures["not_finite"] == 1
        assert figures["count"] == ROWS
        assert 0 < figures["rate"] < 1
        for name in ("ne", "auc", "gauc", "calibration", "log_loss"):
            assert figures[name] is None, name
    # The outlier is not among the rows of this task.
    figures = metrics["tasks"]["cvr"]
    assert "not_finite" not in figures
    assert all(math.isfinite(figures[name]) for name in ("ne", "auc", "calibration", "log_loss"))


@pytest.mark.slow
def test_the_checkpoint_of_such_a_job_is_saved_and_scored_again(done):
    run, _ = done
    checkpoint = run / f"checkpoint/step_{STEPS:08d}"
    saved = state.read(checkpoint)
    assert saved.history[-1]["tasks"]["ctr"]["ne"] is None
    assert find_best(saved.history, "ctr.ne") is None
    assert find_best(saved.history, "cvr.ne") is not None
    again = read(run / "scores/evaluation.json")["tasks"]
    assert again == read(run / "metrics.json")["tasks"]


@pytest.mark.slow
def test_one_warning_names_the_tasks_the_row_and_its_largest_inputs(done, data):
    _, (first, second) = done
    file = next(data.glob("test/*.parquet"))
    warnings = [text for text in first if "finite predictions" in text]
    # Two evaluations of training, and the one of the command.
    assert len(warnings) == 3
    assert len(set(warnings)) == 1
    assert "ctr (1), conv_imp (1). The figures of these tasks are null" in warnings[0]
    assert f"row {PLACE} of {file}, with the largest inputs price = 3e+38, age = " in warnings[0]
    assert "clip: [least, largest]" in warnings[0]
    assert not any("finite predictions" in text for text in second)


@pytest.mark.slow
def test_predictions_that_are_not_finite_are_null_in_the_files(done):
    run, _ = done
    parts = [pq.read_table(path) for path in sorted(run.glob("scores/*.parquet"))]
    table = pa.concat_tables([part.drop_columns("file") for part in parts]).to_pylist()
    assert len(table) == ROWS
    for row in table:
        for task in ("ctr", "cvr", "conv_imp"):
            assert (row[f"prediction_{task}"] is None) == (row["row"] == PLACE)


@pytest.mark.slow
def test_every_reader_of_figures_takes_null(done, capsys):
    run, _ = done
    page = render(run_folder.load(run), [], {})
    assert "No figures, because of evaluation rows whose prediction is not finite" in page
    job = Job("run", (), swept={"seed": "1"})
    row = Row("run", job, "finished", "", read(run / "metrics.json"))
    assert " - " in markdown([row])
    assert ",," in every_digit([row], run.parent).csv
    result = read_result(run)
    assert result is not None
    assert result.reason.endswith("ctr (1 rows), conv_imp (1 rows)")
    checkpoint_command(["show", str(run)])
    assert "after step 2: cvr ne " in capsys.readouterr().out


def test_a_warning_without_numerical_inputs_names_the_tasks_alone():
    text = message({"ctr": 12_000}, "")
    assert "by task: ctr (12,000). The figures of these tasks are null. Correct" in text
