"""What mbrec reads back is what it wrote, or is refused by name."""

import json
import logging

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mbrec.config import saved as configuration
from mbrec.files import sealed

CONTENT = {"step": 30, "tasks": {"ctr": {"ne": 0.9729, "auc": None}}, "reason": "a \u00e9\n"}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)  # fmt: skip


def flipped(whole: bytes):
    """Yield a file with each of its bits flipped."""
    for at in range(len(whole)):
        for bit in range(8):
            content = bytearray(whole)
            content[at] ^= 1 << bit
            yield bytes(content)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(content=st.dictionaries(st.text().filter(lambda key: key != sealed.KEY), VALUES, max_size=4))
def test_json_comes_back_as_it_was(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("json") / "a.json"
    sealed.write_json(path, content)
    assert sealed.read_json(path) == content
    assert {k: v for k, v in json.loads(path.read_text()).items() if k != sealed.KEY} == content


def test_keys_and_lists_come_back_as_json_has_them(tmp_path):
    sealed.write_json(tmp_path / "a.json", {2: (1, 2), 10: 0.5})
    assert sealed.read_json(tmp_path / "a.json") == {"2": [1, 2], "10": 0.5}


@pytest.mark.parametrize("value", [object(), float("nan"), float("inf"), {1, 2}])
def test_what_json_has_no_text_for_is_not_written(tmp_path, value):
    sealed.write_json(tmp_path / "a.json", CONTENT)
    with pytest.raises((TypeError, ValueError)):
        sealed.write_json(tmp_path / "a.json", {"a": value})
    assert sealed.read_json(tmp_path / "a.json") == CONTENT


def test_no_bit_of_json_can_flip_without_an_error_a_warning_or_the_same_content(tmp_path, caplog):
    path = tmp_path / "a.json"
    sealed.write_json(path, CONTENT)
    outcomes = {"refused": 0, "same": 0, "warned": 0}
    for content in flipped(path.read_bytes()):
        path.write_bytes(content)
        caplog.clear()
        try:
            found = sealed.read_json(path)
        except ValueError as error:
            assert str(path) in str(error)
            outcomes["refused"] += 1
        else:
            outcomes["warned" if caplog.records else "same"] += 1
            # Of a flip in the key of the digest, the content is what it was.
            assert CONTENT.items() <= found.items()
    assert outcomes["warned"] <= 8 * len('"sha256"')
    assert outcomes["refused"] > 8 * outcomes["same"]


def test_no_bit_of_yaml_can_flip_without_an_error_a_warning_or_the_same_content(tmp_path, caplog):
    path = tmp_path / "config.yaml"
    whole = sealed.with_digest("data:\n  salt: 0\n  path: /a b\ntasks: [ctr]\nlr: 1.0e-08\n")
    path.write_text(whole)
    expected = configuration.read(path, dict)
    assert expected == {"data": {"salt": 0, "path": "/a b"}, "tasks": ["ctr"], "lr": 1e-8}
    assert not caplog.records
    silent = []
    for content in flipped(whole.encode()):
        path.write_bytes(content)
        caplog.clear()
        try:
            found = configuration.read(path, dict)
        except ValueError as error:
            assert str(path) in str(error)
            continue
        if not caplog.records:
            silent.append((content, found))
    assert silent == []


def test_json_may_be_laid_out_in_another_way(tmp_path, caplog):
    path = tmp_path / "a.json"
    sealed.write_json(path, CONTENT)
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True))
    assert sealed.read_json(path) == CONTENT
    assert not caplog.records


def test_an_edit_is_refused_with_what_helps_and_is_taken_without_the_digest(tmp_path, caplog):
    path = tmp_path / "a.json"
    sealed.write_json(path, CONTENT)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"step": 31}))
    with pytest.raises(ValueError, match=r'a\.json: .*damaged, or was edited.*remove "sha256"'):
        sealed.read_json(path)
    del content[sealed.KEY]
    path.write_text(json.dumps(content | {"step": 31}))
    assert sealed.read_json(path) == CONTENT | {"step": 31}
    assert [(r.levelno, str(path) in r.getMessage()) for r in caplog.records] == [
        (logging.WARNING, True)
    ]
    saved = tmp_path / "config.yaml"
    saved.write_text(sealed.with_digest("salt: 0\n").replace("salt: 0", "salt: 1"))
    with pytest.raises(ValueError, match=r"config\.yaml: .*remove its first line"):
        configuration.read(saved, dict)
    saved.write_text("salt: 1\n")
    assert configuration.read(saved, dict) == {"salt": 1}
    assert str(saved) in caplog.records[-1].getMessage()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "expected JSON"),
        (b"[1]", "expected a mapping"),
        (b"[" * 100_000, "expected JSON"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "expected JSON"),
        (b"\xff", "expected text"),
        (b" " * 101, "expected at most 100 bytes"),
    ],
)
def test_what_is_no_json_is_refused_by_name(tmp_path, content, said):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.json: {said}"):
        sealed.read_json(path, 1 << 20 if "at most" not in said else 100)


def test_a_link_is_not_read(tmp_path):
    sealed.write_json(tmp_path / "a.json", CONTENT)
    (tmp_path / "b.json").symlink_to(tmp_path / "a.json")
    with pytest.raises(ValueError, match="expected a file, found none"):
        sealed.read_json(tmp_path / "b.json")
