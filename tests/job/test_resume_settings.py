"""Where a run goes on from, what it says of it, and what it leaves behind."""

import json
import logging
import re
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from jobs import compose
from ranks import run_ranks

from mbrec.checkpoint import folder
from mbrec.config.checkpoints import Best, find_best
from mbrec.files import sealed


@pytest.fixture
def alone(monkeypatch):
    """One rank, without a process group."""
    import torch.distributed as dist

    def gather(into: list[Any], value: Any, group: None) -> None:
        into[0] = value

    monkeypatch.setattr(dist, "get_rank", lambda *_: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda *_: 1)
    monkeypatch.setattr(dist, "broadcast_object_list", lambda *_, **__: None)
    monkeypatch.setattr(dist, "all_gather_object", gather)
    monkeypatch.setattr(dist, "barrier", lambda *_: None)
    return mock.Mock(rank=0, world_size=1)


def checkpoint(run: Path, step: int) -> Path:
    """Write what is a whole checkpoint to all that do not load it."""
    made = folder.step_folder(run / "checkpoint", step)
    made.mkdir(parents=True)
    for name in (folder.STATE, folder.METADATA):
        (made / name).write_text(f"{name} of {step}")
    files = {name: folder.describe(made / name) for name in (folder.STATE, folder.METADATA)}
    folder.write_manifest(made, files)
    return made


def source(run: Path, *overrides: str) -> Path | None:
    from mbrec.job import resume

    return resume.source(compose(Path("nowhere"), *overrides), run)


def test_auto_takes_the_newest_checkpoint_of_the_run_and_none_where_there_is_none(alone, tmp_path):
    assert source(tmp_path / "run") is None
    checkpoint(tmp_path / "run", 9)
    newest = checkpoint(tmp_path / "run", 10)
    assert source(tmp_path / "run") == newest
    assert source(tmp_path / "run", "resume.path=none") is None
    assert source(tmp_path / "other") is None


def test_auto_puts_damaged_checkpoints_aside_and_a_path_leaves_them(alone, tmp_path, caplog):
    for run in ("own", "other"):
        checkpoint(tmp_path / run, 9)
        (checkpoint(tmp_path / run, 10) / folder.STATE).write_text("damaged")
    sound = Path("checkpoint/step_00000009")
    assert source(tmp_path / "new", f"resume.path={tmp_path / 'other'}") == (
        tmp_path / "other" / sound
    )
    assert source(tmp_path / "own") == tmp_path / "own" / sound
    assert caplog.text.count("FELL BACK to an older checkpoint") == 2
    names = [
        [p.name for p in (tmp_path / run / "checkpoint").glob("*10*")] for run in ("own", "other")
    ]
    assert names == [["step_00000010.damaged"], ["step_00000010"]]


def test_a_path_is_a_run_or_one_of_its_checkpoints(alone, tmp_path):
    older, newest = checkpoint(tmp_path / "a", 10), checkpoint(tmp_path / "a", 20)
    assert source(tmp_path / "b", f"resume.path={tmp_path / 'a'}") == newest
    assert source(tmp_path / "b", f"resume.path={older}") == older


def test_a_restart_by_the_same_command_goes_on_with_what_the_run_has_saved_since(
    alone, tmp_path, caplog
):
    other = checkpoint(tmp_path / "a", 10)
    for path in (other, tmp_path / "a"):
        assert source(tmp_path / "b", f"resume.path={path}") == other
    own = checkpoint(tmp_path / "b", 12)
    caplog.set_level(logging.INFO)
    for path in (other, tmp_path / "a"):
        assert source(tmp_path / "b", f"resume.path={path}") == own
        assert f"continuing from them, not from {path}" in caplog.messages[-1]
    caplog.clear()
    for path in (own, tmp_path / "b"):
        assert source(tmp_path / "b", f"resume.path={path}") == own
    assert not any("continuing from" in message for message in caplog.messages)


def test_an_older_checkpoint_of_the_same_run_goes_on_in_a_new_run_alone(alone, tmp_path):
    older, newest = checkpoint(tmp_path / "a", 10), checkpoint(tmp_path / "a", 20)
    with pytest.raises(ValueError, match=f"expected the newest checkpoint of the run, {newest}"):
        source(tmp_path / "a", f"resume.path={older}")
    assert source(tmp_path / "new", f"resume.path={older}") == older


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere", "or the folder of a run in resume.path, got .*nowhere"),
        ("a/checkpoint/step_00000030", "or the folder of a run in resume.path, got .*30"),
        ("a/file", "or the folder of a run in resume.path, got .*file"),
        ("empty", "expected a checkpoint in .*empty/checkpoint, found none"),
        ("a/checkpoint", "expected a checkpoint in .*checkpoint/checkpoint, found none"),
        ("damaged", "expected a checkpoint that is whole"),
        ("damaged/checkpoint/step_00000010", "expected a checkpoint that is whole"),
    ],
)
def test_a_path_that_holds_no_whole_checkpoint_is_refused(alone, tmp_path, path, message):
    checkpoint(tmp_path / "a", 20)
    (tmp_path / "a" / "file").write_text("x")
    (checkpoint(tmp_path / "damaged", 10) / folder.STATE).write_text("damaged")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=message):
        source(tmp_path / "b", f"resume.path={tmp_path / path}")


@pytest.mark.parametrize("option", ["allow_new", "allow_dropped"])
@pytest.mark.parametrize("path", ["auto", "none"])
def test_names_of_what_changed_need_a_checkpoint(alone, tmp_path, option, path):
    with pytest.raises(ValueError, match=rf"resume from with resume\.{option}, found none"):
        source(tmp_path / "run", f"resume.{option}=[like]", f"resume.path={path}")


def run_folder(parent: Path, *overrides: str) -> Path:
    from mbrec.job import run_folder

    return run_folder.prepare(compose(Path("nowhere"), f"run.folder={parent}", *overrides))


def test_an_unfinished_run_goes_on_and_a_finished_one_is_refused(alone, tmp_path):
    named = "run.name=a"
    assert run_folder(tmp_path, named) == tmp_path / "a"
    checkpoint(tmp_path / "a", 10)
    assert run_folder(tmp_path, named) == tmp_path / "a"
    (tmp_path / "a" / "metrics.json").write_text("{}")
    for options in ([], ["resume.path=none"], [f"resume.path={tmp_path / 'a'}"]):
        with pytest.raises(ValueError, match=r"expected a new run, got run\.name=a"):
            run_folder(tmp_path, named, *options)


@pytest.mark.parametrize("name", ["checkpoint", "tensorboard", ".lock"])
def test_a_run_does_not_write_through_a_link_in_its_folder(alone, tmp_path, name):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "large/a").mkdir(parents=True)
    (tmp_path / "a").symlink_to(tmp_path / "large/a")
    assert run_folder(tmp_path, "run.name=a") == tmp_path / "a"
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=rf"b/{name}: expected a f.*, got a link"):
        run_folder(tmp_path, "run.name=b")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_starting_anew_needs_a_folder_without_checkpoints(alone, tmp_path):
    options = ["run.name=a", "resume.path=none"]
    assert run_folder(tmp_path, *options) == tmp_path / "a"
    # It ended before its first checkpoint.
    assert run_folder(tmp_path, *options) == tmp_path / "a"
    checkpoint(tmp_path / "a", 10)
    with pytest.raises(ValueError, match=r"expected a new run, got run\.name=a"):
        run_folder(tmp_path, *options)


def test_restarts_need_a_name_to_find_the_run_by(alone, tmp_path, monkeypatch):
    monkeypatch.delenv("MBREC_RUN_ID", raising=False)
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "0")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_[\d-]+", run_folder(tmp_path).name)
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    with pytest.raises(ValueError, match=r"expected run\.name=NAME .* with --max-restarts"):
        run_folder(tmp_path)
    assert run_folder(tmp_path, "run.name=a") == tmp_path / "a"
    monkeypatch.setenv("MBREC_RUN_ID", "b")
    assert run_folder(tmp_path) == tmp_path / "b"
    assert run_folder(tmp_path, "run.name=a") == tmp_path / "a"


def told(caplog, *overrides: str, world_size: int = 1) -> list[str]:
    """Return what is said of a run that goes on with other settings."""
    from mbrec.checkpoint.match import Layout
    from mbrec.checkpoint.state import RunState
    from mbrec.config import saved as configuration
    from mbrec.job import compatibility

    caplog.clear()
    fields: dict[str, Any] = dict.fromkeys(RunState.__dataclass_fields__, None)
    fields |= {"config": configuration.plain(compose(Path("nowhere"))), "world_size": world_size}
    saved = RunState(**{**fields, "plan": {"user": "table_wise on 0"}})
    layout = Layout(["ctr"], {}, {}, {"user": "table_wise on 0"})
    compatibility.check_settings(saved, compose(Path("nowhere"), *overrides), layout)
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_a_checkpoint_of_before_there_was_a_setting_had_its_default(alone):
    from mbrec.checkpoint.state import RunState
    from mbrec.config import saved as configuration
    from mbrec.job import compatibility

    fields: dict[str, Any] = dict.fromkeys(RunState.__dataclass_fields__, None)
    now, before = (configuration.plain(compose(Path("nowhere"))) for _ in range(2))
    for feature in before["data"]["columns"]["categorical"].values():
        del feature["keep"]
    saved = RunState(**{**fields, "config": before})
    compatibility.check_features(saved, now)
    now["data"]["columns"]["categorical"]["tags"]["keep"] = "last"
    with pytest.raises(ValueError, match=r"got others:\n  tags\.keep: first -> last$"):
        compatibility.check_features(saved, now)


def test_settings_that_differ_are_told_by_their_keys(alone, caplog):
    assert told(caplog) == []
    (message,) = told(caplog, "optimizer.dense_lr=0.25", "tasks.ctr.weight=2.0", "balancer.lr=3.0")
    assert "optimizer.dense_lr: 0.005 -> 0.25" in message
    assert "tasks.ctr.weight: 1.0 -> 2.0" in message
    assert "balancer.lr: 0.1 -> 3.0" in message
    assert message.count("->") == 3


def test_settings_of_how_a_run_is_carried_out_are_not_told(alone, caplog):
    options = ["run.name=b", "resume.path=x", "monitor.every=3", "runtime.timeout_s=9"]
    assert told(caplog, *options, "checkpoint.every=7") == []


def test_another_number_of_ranks_is_told(alone, caplog):
    (message,) = told(caplog, world_size=3)
    assert message.startswith("resumed on 1 ranks, saved on 3")


WORDS = {"city": ["b", "a", "c"], "word": ["x", "y"]}


@pytest.mark.parametrize("rank", [0, 1])
def test_other_vocabularies_than_the_model_has_learned_are_refused_on_every_rank(
    monkeypatch, caplog, rank
):
    import pyarrow as pa
    import torch.distributed as dist

    from mbrec.columns.schema import Categorical, Columns
    from mbrec.job import compatibility
    from mbrec.reader import dataset

    features = {name: Categorical(len(at), vocabulary=name) for name, at in WORDS.items()}
    columns, sent = Columns(features), []

    def saved(**words: list[str]) -> Any:
        known = {name: pa.array(values) for name, values in (WORDS | words).items()}
        config = {"data": {"columns": {"categorical": dict.fromkeys(words or WORDS)}}}
        found = dataset.identify_vocabularies(columns, known)
        return mock.Mock(config=config, vocabularies=found)

    def broadcast(into: list[Any], src: int) -> None:
        # Rank 1 has what rank 0 has sent, and has read nothing itself.
        assert src == 0
        if rank == 0:
            sent.append(list(into))
        else:
            into[:] = [None, ValueError("refused")]

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "broadcast_object_list", broadcast)
    monkeypatch.setattr(dist, "get_rank", lambda: rank)
    values = {name: pa.array(at) for name, at in WORDS.items()}
    reader = mock.Mock(rank=rank, columns=columns, vocabularies=values)
    if rank:
        with pytest.raises(ValueError, match=r"^refused$"):
            compatibility.check_vocabularies(saved(), reader)
        return
    compatibility.check_vocabularies(saved(), reader)
    assert sent.pop() == [None, None]
    with pytest.raises(ValueError) as caught:
        compatibility.check_vocabularies(saved(city=["a", "b", "c"], word=["x"]), reader)
    assert sent == [[None, caught.value]]
    assert "'city' (city): 3 values -> as many, others or in another order" in str(caught.value)
    assert "'word' (word): 1 values -> 2, which begin with the same" in str(caught.value)
    assert "give the data that the model was trained on (data.path)" in str(caught.value)
    # Of an earlier release; a feature that the checkpoint has not is a new one.
    assert caplog.messages == []
    older = saved(city=WORDS["city"])
    older.vocabularies = {}
    compatibility.check_vocabularies(older, reader)
    (message,) = caplog.messages
    assert message.endswith("was not checked for city")


def test_evaluations_on_other_rows_than_before_are_told(caplog):
    from mbrec.job import compatibility
    from mbrec.reader.content import Content

    reader = mock.Mock(rank=0, content=Content({"x": "1", "click": "2"}, "s", "h"))
    history = [{"step": 3, "tasks": {}}]

    def told(columns: dict[str, str], **changes: Any) -> list[str]:
        caplog.clear()
        content = Content(columns, "s", "h").plain()
        compatibility.warn_of_evaluation(
            mock.Mock(**{"evaluation": content, "history": history} | changes), reader
        )
        return caplog.messages

    same, other = {"x": "1", "click": "2"}, {"x": "1", "click": "3"}
    assert told(same) == told(other, history=[]) == told(other, evaluation={}) == []
    (message,) = told(other)
    assert "made on other rows" in message and message.endswith("the values of 'click' differ")


def history(*values: float | None, task: str = "cvr", figure: str = "ne") -> list[dict[str, Any]]:
    return [{"step": 10 * i, "tasks": {task: {figure: v}}} for i, v in enumerate(values, start=1)]


def test_the_best_evaluation_is_the_first_of_equal_ones_and_unknown_ones_count_as_worse():
    assert find_best([], "cvr.ne") is None
    assert find_best(history(None, None), "cvr.ne") is None
    assert find_best(history(0.9, 0.7, 0.7, None, 0.8), "cvr.ne") == Best(20, 0.7, 3)
    assert find_best(history(0.6, 0.7, 0.7, figure="auc"), "cvr.auc") == Best(20, 0.7, 1)


def test_evaluations_from_before_a_task_was_added_are_passed_over():
    older, newer = history(0.5, task="ctr"), history(None, 0.9, None)[1:]
    assert find_best(older, "cvr.ne") is None
    assert find_best([*older, *newer], "cvr.ne") == Best(20, 0.9, 1)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["checkpoint.patience=2"], r"expected checkpoint\.best with checkpoint\.patience"),
        (["checkpoint.best=share.ne"], r"expected a task \(ctr, cvr, conv_imp\).*got share\.ne"),
        (["checkpoint.best=ctr.speed"], r"expected TASK\.FIGURE in checkpoint\.best"),
        (["checkpoint.best=ctr"], r"expected TASK\.FIGURE in checkpoint\.best"),
        (["checkpoint.keep=0"], r"expected checkpoint\.keep to be at least 1"),
        (["checkpoint.best=ctr.ne", "checkpoint.patience=0"], "patience to be at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        compose(Path("nowhere"), *overrides)


@cache
def composed(data: str) -> Any:
    tables = "+model.sharding={user: table_wise, item: table_wise, tags: table_wise}"
    return compose(Path(data), "data.shuffle_rows=512", tables, "model.interaction.low_rank=2")


class Jobs:
    """Runs jobs on one rank, one after another, and records what they do.

    Args:
        data: folder of the data.
        folder: of the runs.
    """

    def __init__(self, data: str, folder: str) -> None:
        self.data, self.folder = data, Path(folder)

    def run(
        self,
        name: str,
        *,
        cut: int | None = None,
        script: list[float] | None = None,
        **settings: Any,
    ) -> dict[str, Any]:
        """Train until a stop after step `cut`, or to the end.

        Args:
            name: of the run.
            cut: the last step before the stop.
            script: what `ctr.ne` is at each evaluation.
            settings: `group__key=value`.
        """
        from omegaconf import OmegaConf

        from mbrec.distributed import process
        from mbrec.distributed.interrupt import Interrupted
        from mbrec.job import build, resume

        config, run = deepcopy(composed(self.data)), self.folder / name
        for key, value in settings.items():
            group, _, key = key.partition("__")
            setattr(getattr(config, group), key, value)
        runtime = process.start()
        trainer, _ = build.trainer(config, runtime, run, source=resume.source(config, run))
        record, rows, real = trainer.monitor.record, {}, []
        evaluate = trainer.evaluator.evaluate

        def traced(step: int, outputs: Any, rates: Any) -> None:
            rows[step] = outputs.rows_B.tolist()
            record(step, outputs, rates)
            if step == cut:
                raise Interrupted("a test")

        def scripted(model: Any) -> Any:
            report = evaluate(model)
            real.append((trainer.step, deepcopy(report)))
            if script is not None:
                report["ctr"]["ne"] = script[len(trainer.history)]
            return report

        trainer.monitor.record = traced
        trainer.evaluator.evaluate = scripted  # pyright: ignore
        try:
            trainer.fit()
        except Interrupted:
            assert trainer.step == cut
        OmegaConf.save(OmegaConf.structured(config), run / "config.yaml")
        checkpoints = run / "checkpoint"
        best = checkpoints / folder.BEST
        return {
            "rows": rows,
            "real": real,
            "history": trainer.history,
            "step": trainer.step,
            "steps": [folder.step_of(path) for path in folder.finished(checkpoints)],
            "files": sorted(path.name for path in run.iterdir()),
            "best": sealed.read_json(best) if best.exists() else None,
        }


# The best is the second; the two after it are worse.
SCRIPT = [0.9, 0.8, 0.85, 0.8, 0.7, 0.6]
STOPPING: dict[str, Any] = {
    "trainer__steps": 30,
    "trainer__evaluate_every": 3,
    "checkpoint__every": 2,
    "checkpoint__best": "ctr.ne",
    "checkpoint__patience": 2,
}
EPOCHS: dict[str, Any] = {"trainer__global_batch_size": 2048, "trainer__epochs": 3}


def all_jobs(data: str, runs: str) -> dict[str, Any]:
    import torch.distributed as dist

    from mbrec.job.evaluation import evaluate

    jobs = Jobs(data, runs)
    found: dict[str, Any] = {"stopped": jobs.run("stopped", script=SCRIPT, **STOPPING)}
    found["stopped in two pieces"] = [
        jobs.run("pieces", script=SCRIPT, cut=cut, **STOPPING | {"checkpoint__every": None})
        for cut in (8, None)
    ]
    due: dict[str, Any] = {"trainer__steps": 9, "trainer__evaluate_every": 4}
    found["due"] = jobs.run("due", **due)
    found["due at a cut"] = [jobs.run("cut", cut=cut, **due) for cut in (4, 8, None)]
    found["epochs"] = jobs.run("epochs", **EPOCHS)
    found["epochs in pieces"] = [
        jobs.run("epoch_pieces", cut=cut, **EPOCHS) for cut in (4, 7, 8, 12, None)
    ]
    found["unsaved"] = [
        jobs.run(f"unsaved_{cut}", cut=cut, trainer__steps=4, checkpoint__enabled=False)
        for cut in (2, None)
    ]
    with mock.patch.object(dist, "destroy_process_group"):  # which the tests still need
        for name, path in {"best": "checkpoint/step_00000006", "newest": ""}.items():
            evaluate(Path(runs) / "stopped" / path, [], Path(runs) / f"scored_{name}")
    return found


@pytest.fixture(scope="module")
def done(tiny_data, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    runs = tmp_path_factory.mktemp("settings")
    (found,) = run_ranks(all_jobs, 1, runs, str(tiny_data), str(runs))
    return runs, found


@pytest.mark.slow
def test_a_run_stops_when_it_no_longer_becomes_better_and_keeps_its_best_and_newest(done):
    stopped = done[1]["stopped"]
    assert [entry["step"] for entry in stopped["history"]] == [3, 6, 9, 12]
    assert stopped["step"] == 12
    assert stopped["best"] == {"step": 6, "figure": "ctr.ne", "value": 0.8}
    assert stopped["steps"] == [6, 10, 12]


@pytest.mark.slow
def test_a_run_in_two_pieces_stops_where_the_whole_one_does(done):
    first, second = done[1]["stopped in two pieces"]
    assert (first["step"], second["step"]) == (8, 12)
    assert second["history"] == done[1]["stopped"]["history"]
    assert second["best"] == done[1]["stopped"]["best"]
    # Without periodic ones: saved at the best, at the cut and at the end.
    assert (first["steps"], second["steps"]) == ([6, 8], [6, 8, 12])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "step"), [("best", 6), ("newest", 12)])
def test_the_best_and_the_newest_checkpoint_score_as_they_did_in_training(done, name, step):
    runs, found = done
    scored = json.loads((runs / f"scored_{name}" / "evaluation.json").read_text())
    assert scored["checkpoint"].endswith(f"stopped/checkpoint/step_{step:08d}")
    (expected,) = [report for at, report in found["stopped"]["real"] if at == step]
    others = [report for at, report in found["stopped"]["real"] if at != step]
    assert scored["tasks"] == expected
    assert scored["tasks"] not in others


@pytest.mark.slow
def test_an_evaluation_that_was_due_at_a_cut_is_made_up_for(done):
    whole, pieces = done[1]["due"], done[1]["due at a cut"]
    assert [entry["step"] for entry in whole["history"]] == [4, 8, 9]
    assert [[e["step"] for e in piece["history"]] for piece in pieces] == [[], [4], [4, 8, 9]]
    assert pieces[-1]["history"] == whole["history"]
    assert [at for piece in pieces for at, _ in piece["real"]] == [4, 8, 9]


@pytest.mark.slow
def test_a_cut_at_the_end_of_an_epoch_goes_on_with_the_next_one(done):
    whole, pieces = done[1]["epochs"], done[1]["epochs in pieces"]
    assert [piece["step"] for piece in pieces] == [4, 7, 8, 12, 12]
    rows = [step for piece in pieces for step in piece["rows"].items()]
    assert rows == list(whole["rows"].items())
    assert [step for step, _ in rows] == list(range(1, 13))
    epochs = [sorted(row for i in range(4) for row in whole["rows"][e + i]) for e in (1, 5, 9)]
    assert epochs[0] == epochs[1] == epochs[2]
    assert pieces[-1]["history"] == whole["history"]


@pytest.mark.slow
def test_without_checkpoints_nothing_is_saved_at_a_cut_or_at_the_end(done):
    cut, ended = done[1]["unsaved"]
    assert (cut["step"], ended["step"]) == (2, 4)
    for run in (cut, ended):
        assert run["steps"] == []
        assert "checkpoint" not in run["files"]
    assert "checkpoint" in done[1]["due"]["files"]
