"""Damage to any file of a run is refused, reported or harmless, and no write leaves its folder."""

import json
import logging
import random
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from jobs import compose
from ranks import run_ranks

from mbrec.checkpoint import folder, state
from mbrec.config import saved
from mbrec.files import sealed
from mbrec.job import status as run_status
from mbrec.study.report import events

STEPS = 8
VICTIM = "precious"


def evaluate(run: Path, predictions: Path | None = None) -> None:
    """Do what the command does, in a process that has more to do."""
    import torch.distributed as dist

    from mbrec.job.evaluation import evaluate

    with mock.patch.object(dist, "destroy_process_group"):
        evaluate(run, [], predictions)


def make(data: str, outputs: str) -> None:
    """Train and score a run."""
    from mbrec.distributed import process
    from mbrec.distributed.interrupt import Interrupt
    from mbrec.job.fit import train_one

    options = ["trainer.global_batch_size=64", f"trainer.steps={STEPS}", "monitor.every=2"]
    options += ["trainer.evaluate_every=4", "checkpoint.every=4", "checkpoint.best=ctr.ne"]
    config = compose(Path(data), *options, f"run.folder={outputs}", "run.name=run")
    # Hashed: another salt changes no size, and gives every user the row of another.
    features = config.data.columns.categorical
    features["user"] = replace(features["user"], cardinality=None, hash_size=500)
    train_one(config, options, process.start(), Interrupt())
    evaluate(Path(outputs) / "run")


@pytest.fixture(scope="module")
def original(tiny_data, tmp_path_factory) -> Path:
    """The folder of a finished run."""
    outputs = tmp_path_factory.mktemp("outputs")
    (ranks := outputs / "ranks").mkdir()
    run_ranks(make, 1, ranks, str(tiny_data), str(outputs))
    return outputs / "run"


@pytest.fixture
def run(original, tmp_path) -> Path:
    return shutil.copytree(original, tmp_path / "moved")


def lines(run: Path) -> Any:
    """Return what a report reads of TensorBoard's files."""
    found = events.read(run / "tensorboard")
    return {tag: (x.steps.tolist(), x.values.tolist()) for tag, x in found.lines.items()}


def checkpoint(path: Path) -> dict[str, folder.File]:
    """Return what a whole checkpoint holds, by the digests of its files."""
    if problems := folder.verify(path.parent):
        raise ValueError("\n".join(problems))
    return folder.read_manifest(path.parent)


def loader(path: Path) -> Callable[[], Any]:
    """Return what reads a file of a run back."""
    run = path.parent
    if path.name == folder.STATE:
        return lambda: state.read_verified(path.parent)
    if path.parent.name.startswith("step_"):
        return lambda: checkpoint(path)
    if path.parent.name == "tensorboard":
        return lambda: lines(run.parent)
    if path.name == folder.BEST:
        return lambda: folder.read_best(run)
    if path.name == "config.yaml":
        return lambda: saved.read(path, dict)
    assert path.suffix == ".json"
    return lambda: sealed.read_json(path)


def files(run: Path) -> list[Path]:
    """Return the files of a run that hold something."""
    return sorted(path for path in run.rglob("*") if path.is_file() and path.stat().st_size)


class Damage:
    """Changes a file for a moment, and tells what became of the change."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog
        self.outcomes = {"refused": 0, "reported": 0, "harmless": 0}
        self._before: dict[Path, Any] = {}

    def try_it(self, path: Path, at: int, bit: int) -> None:
        whole, load = path.read_bytes(), loader(path)
        if path not in self._before:
            self._before[path] = load()
        content = bytearray(whole)
        content[at] ^= 1 << bit
        self._caplog.clear()
        path.write_bytes(content)
        try:
            after = load()
        except ValueError as error:
            # A manifest that does not fit a file may be the damaged one of the two.
            assert str(path.parent if path.name == folder.MANIFEST else path) in str(error)
            self.outcomes["refused"] += 1
        else:
            told = any(path.name in record.getMessage() for record in self._caplog.records)
            assert told or self._before[path] == after, f"bit {bit} of byte {at} of {path}"
            self.outcomes["reported" if told else "harmless"] += 1
        finally:
            path.write_bytes(whole)


def test_a_run_consists_of_files_that_are_all_read_back_here(run):
    names = {re.sub(r"tfevents\..*", "tfevents", path.name) for path in files(run)}
    assert names == {
        "config.json",
        "config.yaml",
        "metrics.json",
        "status.json",
        "evaluation.json",
        folder.BEST,
        folder.MANIFEST,
        folder.STATE,
        folder.METADATA,
        "__0_0.distcp",
        "events.out.tfevents",
    }
    assert all(loader(path)() for path in files(run))
    assert {path.name for path in run.rglob("*") if path.is_file()} - {
        path.name for path in files(run)
    } == {".lock"}


@pytest.mark.sentinel
def test_no_flipped_bit_of_any_file_of_a_run_is_silent(run, caplog, fault_seed, nightly, figure):
    draw, damage, found = random.Random(fault_seed), Damage(caplog), files(run)
    flips = 1000 if nightly else 150
    for n in range(flips):
        # Each file equally often: most of the bytes are in one.
        path = found[n % len(found)]
        damage.try_it(path, draw.randrange(path.stat().st_size), draw.randrange(8))
    assert sum(damage.outcomes.values()) == flips
    assert damage.outcomes["refused"] > flips / 2
    figure("R20", flips=flips, silent=0, **damage.outcomes)


def test_no_digit_of_any_text_of_a_run_can_change_silently(run, caplog, nightly, figure):
    damage, newest = Damage(caplog), folder.finished(run / "checkpoint")[-1]
    texts = [path for path in files(run) if path.parent == run]
    texts += [run / "checkpoint" / folder.BEST, newest / folder.MANIFEST, newest / folder.STATE]
    for path in texts:
        places = [m.start() for m in re.finditer(rb"[0-9]", path.read_bytes())]
        # The states of random generators alone are ten thousand digits.
        every = 1 if nightly or len(places) < 2000 else 50
        for at in places[::every]:
            damage.try_it(path, at, 0)
    assert damage.outcomes["reported"] <= len(texts) * len("256")
    assert damage.outcomes["refused"] > 1000
    figure("R20", digits=sum(damage.outcomes.values()), digits_silent=0)


def test_a_checkpoint_that_was_damaged_is_not_looked_into(run, capsys):
    from mbrec.checkpoint.command import list_checkpoints, show

    newest = folder.finished(run / "checkpoint")[-1]
    assert f"step            {STEPS}" in show(newest)
    path = newest / folder.STATE
    path.write_bytes(path.read_bytes().replace(b'"step": 8', b'"step": 9'))
    assert list_checkpoints(run).splitlines()[2].endswith("damaged: see verify")
    for look in (show, state.read_verified):
        with pytest.raises(ValueError, match=rf"{folder.STATE}: expected SHA-256"):
            look(newest)


def test_the_status_of_a_run_whose_processes_are_gone_is_written_as_the_run_would(run):
    path = run / run_status.NAME
    before = sealed.read_json(path)
    run_status.mark_failed(run)
    after = sealed.read_json(path)
    assert after == before | {"state": "failed", "reason": "its processes ended without a reason"}
    path.write_text(path.read_text().replace('"step": 8', '"step": 9'))
    with pytest.raises(ValueError, match="damaged, or was edited"):
        run_status.mark_failed(run)


@contextmanager
def told() -> Iterator[list[str]]:
    """Collect what is logged; the ranks of a test are silent otherwise."""
    found: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: found.append(record.getMessage())
    logging.disable(logging.NOTSET)
    logging.getLogger().addHandler(handler)
    try:
        yield found
    finally:
        logging.getLogger().removeHandler(handler)
        logging.disable(logging.WARNING)


def refused(part: Callable[[], Any]) -> str:
    """Return why something was refused, or nothing."""
    try:
        part()
    except ValueError as error:
        return str(error)
    return ""


def with_links(run: str, outside: str) -> dict[str, Any]:
    """Score a run and write its page where links wait for the files."""
    from mbrec.study.report import plots
    from mbrec.study.report.page import write as write_report

    place, victim = Path(run), Path(outside) / "victim"
    kept = Path(outside) / "kept"
    kept.mkdir()
    for name in ("evaluation.json", "report.html"):
        (place / name).unlink(missing_ok=True)
        for link in (place / name, place / f"{name}.tmp"):
            link.symlink_to(victim)
    (kept / "evaluation.json").symlink_to(victim)
    evaluate(place)
    evaluate(place, kept)
    (kept / "part-00000.parquet").rename(kept / "part")
    (kept / "part-00000.parquet").symlink_to(Path(outside) / "made")
    found = {"predictions": refused(lambda: evaluate(place, kept))}
    with mock.patch.object(plots, "png", lambda figure: b""):
        write_report(place, [], place / "report.html")
    links = [path.name for path in place.iterdir() if path.is_symlink()]
    return found | {"links": sorted(links), "rows": (kept / "part").stat().st_size}


def edited(run: str, outside: str) -> dict[str, Any]:
    """Score a run whose settings are of an earlier version, and say otherwise than they did."""
    path, found = Path(run) / "config.json", {}
    whole = path.read_text()
    edit = whole.replace('"salt": 0', '"salt": 1', 1)
    path.write_text(edit)
    found["with its digest"] = refused(lambda: evaluate(Path(run)))
    path.write_text(without_digest(edit))
    found["without"] = refused(lambda: evaluate(Path(run)))
    path.write_text(without_digest(whole))
    with told() as texts:
        found["as it was"] = refused(lambda: evaluate(Path(run)))
    path.write_text(whole)
    return found | {"told": [text for text in texts if "config.json" in text]}


def without_digest(text: str) -> str:
    content = json.loads(text)
    del content[sealed.KEY]
    return json.dumps(content)


def both(run: str, outside: str) -> dict[str, Any]:
    return {"edited": edited(run, outside)} | with_links(run, outside)


@pytest.fixture
def outside(tmp_path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/victim").write_text(VICTIM)
    return tmp_path / "outside"


def test_no_link_leads_out_of_a_run_and_edited_settings_are_refused(run, outside, figure):
    (ranks := outside.parent / "ranks").mkdir()
    (found,) = run_ranks(both, 1, ranks, str(run), str(outside))
    assert (outside / "victim").read_text() == VICTIM
    assert not (outside / "made").exists()
    assert found["predictions"].startswith("expected a new file for predictions")
    assert found["links"] == ["evaluation.json.tmp", "report.html.tmp"]
    assert found["rows"] > 10_000
    assert sealed.read_json(run / "evaluation.json")["tasks"]
    texts = found["edited"]
    assert "damaged, or was edited" in texts["with its digest"]
    assert "expected the features of the checkpoint" in texts["without"]
    assert "user.salt: 0 -> 1" in texts["without"]
    assert texts["as it was"] == ""
    assert len(texts["told"]) == 1
    figure("S5", links=7, followed=0)


def commands(run: str, seed: int, flips: int) -> dict[str, Any]:
    """Score, show and list a run with a bit flipped, again and again; count what became of it.

    A bit of an older checkpoint's tensors, which only `verify` reads, is harmless to the others.
    """
    from mbrec.checkpoint.command import list_checkpoints, show
    from mbrec.study.report import plots
    from mbrec.study.report.page import write as write_report

    place, draw = Path(run), random.Random(seed)
    found, page = files(place), place.parent / "page.html"

    def outputs() -> list[Any]:
        newest = folder.finished(place / "checkpoint")[-1]
        evaluate(place, None)
        write_report(place, [], page)
        scored = sealed.read_json(place / "evaluation.json")
        return [scored, page.read_text(), list_checkpoints(place), show(newest)]

    outcomes = {"refused": 0, "reported": 0, "harmless": 0, "silent": []}
    with mock.patch.object(plots, "png", lambda figure: b""), told() as texts:
        expected = outputs()
        for n in range(flips):
            path = found[n % len(found)]
            whole = path.read_bytes()
            content, at, bit = bytearray(whole), draw.randrange(len(whole)), draw.randrange(8)
            content[at] ^= 1 << bit
            path.write_bytes(content)
            texts.clear()
            after: list[Any] = []
            reason = refused(lambda after=after: after.extend(outputs()))
            path.write_bytes(whole)
            # A manifest that lies about a file shows as a checkpoint whose file is not as it says.
            name = path.parent.name if path.name == folder.MANIFEST else path.name
            if name in reason:
                outcomes["refused"] += 1
            elif any(name in text for text in texts) or "damaged" in "".join(after[2:3]):
                outcomes["reported"] += 1
            elif after == expected:
                outcomes["harmless"] += 1
            else:
                outcomes["silent"].append(f"bit {bit} of byte {at} of {path}: {reason}")
    return outcomes


@pytest.mark.nightly
def test_no_flipped_bit_is_silent_in_the_commands(run, tmp_path, fault_seed, figure):
    (ranks := tmp_path / "ranks").mkdir()
    (found,) = run_ranks(commands, 1, ranks, str(run), fault_seed, 30, timeout_s=280)
    assert found.pop("silent") == []
    assert sum(found.values()) == 30
    figure("R20", through_commands=30, through_commands_silent=0)
