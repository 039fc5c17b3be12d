"""status.json says how a run stands; only rank 0 writes it."""

import json
import re

import pytest

from mbrec import UserError
from mbrec.job.status import Status, describe


class Steps:
    step = 7


def content(folder):
    return json.loads((folder / "status.json").read_text())


def test_the_state_and_the_step_are_written(tmp_path):
    status = Status(tmp_path, rank=0)
    assert (content(tmp_path)["state"], content(tmp_path)["step"]) == ("starting", 0)
    status.follow(Steps())
    assert (content(tmp_path)["state"], content(tmp_path)["step"]) == ("running", 7)
    status.write("resumable", reason="SIGTERM")
    assert content(tmp_path)["reason"] == "SIGTERM"


def test_a_failure_is_written_and_goes_on(tmp_path):
    status = Status(tmp_path, rank=0)
    with pytest.raises(ValueError, match="bad row"), status.of_failure():
        raise ValueError("bad row")
    assert content(tmp_path)["state"] == status.state == "failed"
    assert content(tmp_path)["reason"] == "ValueError: bad row"


def test_other_ranks_write_nothing(tmp_path):
    status = Status(tmp_path, rank=1)
    status.write("finished")
    assert status.state == "finished"
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_goes_on_says_so_now_and_then(tmp_path, monkeypatch):
    status, steps = Status(tmp_path, rank=0), Steps()
    status.follow(steps)
    steps.step = 9
    status.refresh()
    assert content(tmp_path)["step"] == 7
    monkeypatch.setattr("mbrec.job.status.SECONDS", -1.0)
    status.refresh()
    assert (content(tmp_path)["step"], content(tmp_path)["state"]) == (9, "running")


def test_a_run_is_described_by_its_state_steps_and_reason(tmp_path):
    with pytest.raises(UserError, match=r"expected the folder of a run, with status\.json"):
        describe(tmp_path)
    status = Status(tmp_path, rank=0)
    status.follow(Steps())
    assert re.fullmatch(r"running after step 7, written [-0-9]+ [:0-9]+", describe(tmp_path))
    status.write("failed", reason="ValueError: bad row")
    assert describe(tmp_path).endswith(": ValueError: bad row")
