"""Manifests come back as they were written, and bad ones are refused by name."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from mbrec.columns import manifest
from mbrec.columns.manifest import Column, File, Manifest, Split, load, load_folder, save

SHA = "0123456789abcdef" * 4
GOOD = Manifest(
    files={
        "train/part-00000.parquet": File(7, 100, SHA),
        "train/part-00001.parquet": File(3, 50, SHA),
        "test/part-00000.parquet": File(2, 40, SHA),
        "vocabulary/Größe.parquet": File(5, 30, SHA),
    },
    splits={"train": Split(10, {"click": 0.25}), "test": Split(2, {"click": 0.5})},
    columns={
        "user_id": Column(cardinality=27286, min=0.0, max=27285.0, mean=5.0, std=1.0),
        "size": Column(nulls=4, cardinality=5, vocabulary="vocabulary/Größe.parquet"),
        "tags": Column(max_length=5, mean_length=1.5, null_values=1, not_finite=2),
        "age": Column(mean=1.0, std=2.0, log1p_mean=0.5, log1p_std=0.1, quantiles=[0.5] * 101),
        "day": Column(first="2020-01-01", last="2020-12-31", note="a day"),
    },
    duplicates_dropped=17,
    notes={"source": "a [1, 2]  log", "days": [1, 2], "deep": {"list": [[1], ["x"]]}},
)


def changed(path: str, value: Any, *, drop: bool = False) -> dict[str, Any]:
    """Return the good manifest as JSON with another value at `a|b|c`."""
    content = copy.deepcopy(GOOD.to_dict())
    *parents, last = path.split("|")
    at = content
    for key in parents:
        at = at[key]
    if drop:
        del at[last]
    else:
        at[last] = value
    return content


def test_a_manifest_comes_back_as_it_was_written(tmp_path):
    save(GOOD, tmp_path)
    assert load_folder(tmp_path) == GOOD
    assert load(fs.LocalFileSystem(), f"{tmp_path}/") == GOOD
    filesystem = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    assert load(filesystem, "") == GOOD
    text = (tmp_path / "manifest.json").read_text(encoding="utf-8")
    assert {k: v for k, v in json.loads(text).items() if k != "digest"} == GOOD.to_dict()
    assert len(text.splitlines()) < 100  # lists of numbers take one line each


def test_a_manifest_says_what_the_contract_says():
    said = GOOD.to_dict()
    assert set(said) == {"version", "files", "splits", "columns", "duplicates_dropped", "notes"}
    assert said["splits"]["train"] == {"rows": 10, "label_rates": {"click": 0.25}}
    assert said["files"]["test/part-00000.parquet"] == {"rows": 2, "bytes": 40, "sha256": SHA}
    # What does not apply is left out, but that there is no log1p is said.
    assert said["columns"]["size"] == {
        "nulls": 4,
        "cardinality": 5,
        "vocabulary": "vocabulary/Größe.parquet",
    }
    assert said["columns"]["user_id"]["log1p_mean"] is None


def test_the_files_of_a_split_are_in_the_order_of_their_rows():
    names = ["train/part-00000.parquet", "train/part-00001.parquet"]
    assert GOOD.files_of("train") == names
    with pytest.raises(ValueError, match=r"expected a split of train, test, got 'val'"):
        GOOD.files_of("val")


def test_keys_of_later_releases_are_left_out():
    assert Manifest.from_dict(changed("splits|train|first_day", "2020-01-01")) == GOOD
    assert Manifest.from_dict(changed("columns|age|skew", 3.0)) == GOOD
    assert Manifest.from_dict(changed("more", [])) == GOOD


PATHS = (
    *("/etc/passwd", "../up.parquet", "train/../../up.parquet", "train//x.parquet", "", "."),
    *("train/./x", "train/x/", "C:/x.parquet", "C:x", "s3://bucket/x", "file:x", "~x/../y"),
    *(
        "train\\x",
        "..\\x",
        "train/x\n",
        "train/\0",
        "train/*.parquet",
        "train/.hidden",
        "x" * 1_025,
    ),
    *("train/ .. /x", "train/[a]"),
)


@pytest.mark.parametrize("path", PATHS)
def test_paths_that_may_lead_out_of_the_folder_are_refused(path):
    content = changed("files", {path: {"rows": 0, "bytes": 0, "sha256": SHA}})
    content["columns"] = {}
    with pytest.raises(ValueError, match=r"m\.json: files: expected a path below the folder"):
        Manifest.from_dict(content, "m.json")
    content = changed("splits", {path: {"rows": 0}})
    with pytest.raises(ValueError, match=r"m\.json: splits: expected a path below the folder"):
        Manifest.from_dict(content, "m.json")


WRONG = [
    ("version", 3, "version: expected 2 or 1"),
    ("version", 0, "version: expected 2 or 1"),
    ("version", "1", "version: expected an integer"),
    ("files", [], "files: expected an object"),
    ("files|test/part-00000.parquet", 3, "files.test/part-00000.parquet: expected an object"),
    ("files|test/part-00000.parquet|rows", -1, "rows: expected an integer"),
    ("files|test/part-00000.parquet|rows", 3, "splits.test.rows: expected 3 as in its files"),
    ("files|test/part-00000.parquet|bytes", 2**63, "bytes: expected an integer"),
    ("files|test/part-00000.parquet|bytes", 1.5, "bytes: expected an integer"),
    ("files|test/part-00000.parquet|bytes", True, "bytes: expected an integer"),
    ("files|test/part-00000.parquet|sha256", SHA[1:], "sha256: expected 64 hexadecimal"),
    ("files|test/part-00000.parquet|sha256", None, "sha256: expected a string"),
    ("splits|train|rows", "10", "splits.train.rows: expected an integer"),
    ("splits|train|label_rates", [0.5], "splits.train.label_rates: expected an object"),
    ("splits|train|label_rates|click", "half", "label_rates.click: expected a number"),
    ("splits|train|label_rates|click", float("nan"), "label_rates.click: expected a finite"),
    ("columns|age|mean", 10**400, "columns.age.mean: expected a finite number"),
    ("columns|age|nulls", -3, "columns.age.nulls: expected an integer"),
    ("columns|age|quantiles", [1.0], "columns.age.quantiles: expected 101 numbers"),
    ("columns|age|quantiles", [1.0] * 100 + [0], "columns.age.quantiles: expected rising"),
    ("columns|age|quantiles", ["1"] * 101, "columns.age.quantiles: expected a number"),
    ("columns|size|vocabulary", "/etc/x", "columns.size.vocabulary: expected one of the files"),
    ("columns|size|vocabulary", 3, "columns.size.vocabulary: expected a string"),
    ("columns|size", None, "columns.size: expected an object"),
    ("duplicates_dropped", None, "duplicates_dropped: expected an integer"),
    ("notes", [1], "notes: expected an object"),
]


@pytest.mark.parametrize(("path", "value", "message"), WRONG, ids=[w[2] for w in WRONG])
def test_errors_name_the_file_and_the_key(path, value, message):
    with pytest.raises(ValueError) as error:
        Manifest.from_dict(changed(path, value), "data/manifest.json")
    assert str(error.value).startswith("data/manifest.json: ")
    assert message in str(error.value)
    assert len(str(error.value)) < 300


JUNK = [None, True, -1, 10**30, 0.5, float("inf"), "", "../x", [], [[]], {}, {"": {}}, {"..": 1}]


def places(content: Any, path: str = "") -> list[str]:
    """Return the path of every value in JSON, as `changed` takes it."""
    if not isinstance(content, dict):
        return []
    inner = [f"{path}|{key}".strip("|") for key in content]
    return inner + [
        p for key, at in zip(inner, content.values(), strict=True) for p in places(at, key)
    ]


@pytest.mark.parametrize("path", [p for p in places(GOOD.to_dict()) if "notes|" not in p])
def test_junk_anywhere_is_refused_or_harmless(path):
    for junk in JUNK:
        try:
            found = Manifest.from_dict(changed(path, junk), "m.json")
        except ValueError as error:
            assert str(error).startswith("m.json: ")
        else:
            assert Manifest.from_dict(found.to_dict()) == found


@pytest.mark.parametrize(
    "key", ["files", "splits", "splits|train|rows", "files|test/part-00000.parquet|sha256"]
)
def test_a_missing_key_is_named(key):
    with pytest.raises(ValueError, match=rf"expected the key '{key.replace('|', '.')}', got none"):
        Manifest.from_dict(changed(key, None, drop=True))


@pytest.mark.parametrize(
    "text", ["", "{", "\xff\xfe", "[1, 2]", "3", "[" * 100_000, '{"version": 1' + "0" * 5_000 + "}"]
)
def test_what_is_not_a_manifest_at_all_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"manifest\.json: .*expected (JSON|an object|2 or 1)"):
        load_folder(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("columns|age|mean", 1.5), ("notes|source", "mine"), ("splits|test|label_rates|click", 0.4)],
)
def test_a_manifest_that_was_edited_is_refused(tmp_path, key, value):
    save(GOOD, tmp_path)
    whole = json.loads((tmp_path / "manifest.json").read_text())
    edited = changed(key, value) | {"digest": whole["digest"]}
    for version in (2, 1):  # of which there was none with a digest
        (tmp_path / "manifest.json").write_text(json.dumps(edited | {"version": version}))
        with pytest.raises(ValueError, match="the content that its digest belongs to, got another"):
            load_folder(tmp_path)
    edited.pop("digest")
    (tmp_path / "manifest.json").write_text(json.dumps(edited))
    with pytest.raises(ValueError, match="the content that its digest belongs to, got another"):
        load_folder(tmp_path)
    (tmp_path / "manifest.json").write_text(manifest.sealed(edited))
    assert load_folder(tmp_path) == Manifest.from_dict(edited)


def test_the_layout_of_a_manifest_is_nobodys_business(tmp_path):
    save(GOOD, tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True))
    assert load_folder(tmp_path) == GOOD


def test_notes_are_sealed_as_json_has_them(tmp_path):
    notes = {"counts": {10: 1, 9: 2}, "pair": (1, 2)}
    save(Manifest({}, {}, notes=notes), tmp_path)
    assert load_folder(tmp_path).notes == {"counts": {"10": 1, "9": 2}, "pair": [1, 2]}


def test_a_manifest_of_an_earlier_release_is_read_and_says_what_it_does_not_protect(tmp_path):
    content = GOOD.to_dict() | {"version": 1}
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    found = load_folder(tmp_path)
    assert found == GOOD
    assert found.warning is not None and "its statistics" in found.warning
    save(GOOD, tmp_path)
    assert load_folder(tmp_path).warning is None


def test_a_manifest_of_an_absurd_size_is_not_read(tmp_path, monkeypatch):
    save(GOOD, tmp_path)
    monkeypatch.setattr(manifest, "MAX_BYTES", 100)
    with pytest.raises(ValueError, match=r"manifest\.json: expected at most 100 bytes, got \d+"):
        load_folder(tmp_path)


def test_a_folder_without_a_manifest_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a manifest at .*manifest\.json, found"):
        load_folder(tmp_path)
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(FileNotFoundError):
        load_folder(tmp_path)


def test_notes_that_json_cannot_hold_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="JSON"):
        save(Manifest({}, {}, notes={"x": float("nan")}), tmp_path)
    assert not list(tmp_path.iterdir())
