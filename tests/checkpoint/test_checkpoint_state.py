"""What a checkpoint holds beside tensors comes back as it was, or is refused."""

import json

import pytest
from saving import run_state

from mbrec.checkpoint import folder, state


def test_a_state_comes_back_as_it_was(tmp_path):
    before = run_state(
        30,
        position={"epoch": 1, "unread": [[0, 5]], "shuffled": None},
        history=[{"step": 10, "tasks": {"ctr": {"ne": 0.9, "auc": None}}}],
        random=[{"cpu": "0aff"}, {"cpu": "00", "cuda": "01"}],
        learning_rates={"dense": 0.1, "tables": 0},
    )
    before.write(tmp_path)
    assert state.read(tmp_path) == before


def test_a_state_of_an_earlier_release_does_not_say_what_data_hold(tmp_path):
    known = {"city": {"values": 3, "sha256": "0"}}
    before = run_state(30, vocabularies=known, evaluation={"columns": {}})
    before.write(tmp_path)
    path = tmp_path / folder.STATE
    content = json.loads(path.read_text())
    del content["vocabularies"], content["evaluation"]
    path.write_text(json.dumps(content | {"version": 1}))
    before.vocabularies = before.evaluation = {}
    assert state.read(tmp_path) == before
    for version in (2, 3, True, "1", None):
        path.write_text(json.dumps(content | {"version": version}))
        with pytest.raises(ValueError, match="expected"):
            state.read(tmp_path)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["position", "balancer", "config"])
def test_a_number_that_json_has_no_text_for_is_not_written(tmp_path, number, key):
    with pytest.raises(ValueError, match="not JSON compliant"):
        run_state(30, **{key: {"a": number}}).write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_however_deep_the_text_is_it_is_read_or_refused(tmp_path):
    run_state(1).write(tmp_path)
    path = tmp_path / folder.STATE
    whole = json.loads(path.read_text())
    refused = dict.fromkeys(("config", "history", "position"), 0)
    for key in refused:
        for depth in range(850, 1010):
            deep = '{"a":' * depth + "1" + "}" * depth
            path.write_text(json.dumps(whole | {key: "here"}).replace('"here"', deep))
            try:
                state.read(tmp_path)
            except ValueError as error:
                assert str(path) in str(error)
                refused[key] += 1
    assert refused["config"] == refused["history"] == 160
    assert 0 < refused["position"] < 160


def test_differences_are_named_by_their_path():
    before = {"data": {"path": "a", "seed": 1}, "lr": 0.1}
    now = {"data": {"path": "a", "seed": 2}, "steps": None, "new": 3}
    assert state.differences(before, now) == [
        "data.seed: 1 -> 2",
        "lr: 0.1 -> None",
        "new: None -> 3",
    ]
    assert state.differences(before, before) == []


def test_the_fingerprint_depends_on_values_and_not_on_their_order():
    one = state.fingerprint({"a": 1, "b": {"c": [1, 2], "d": None}})
    assert one == state.fingerprint({"b": {"d": None, "c": [1, 2]}, "a": 1})
    assert one != state.fingerprint({"a": 1, "b": {"c": [2, 1], "d": None}})
    assert len(one) == 16
