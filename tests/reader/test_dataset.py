from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mbrec.columns.manifest import Column, File, Manifest, load_folder
from mbrec.columns.schema import Categorical, Columns, Numerical, OutOfVocabulary, Transform
from mbrec.prepare.writer import DatasetWriter
from mbrec.reader.dataset import load_vocabularies, resolve, save_vocabularies
from mbrec.reader.source import open_store

CITIES = "vocabulary/city.parquet"
PERCENTS = [float(i) for i in range(101)]
KNOWN = {
    "item_id": Column(cardinality=70),
    "city": Column(cardinality=3, vocabulary=CITIES),
    "age": Column(mean=30.0, std=5.0, log1p_mean=3.0, log1p_std=0.5, quantiles=PERCENTS),
    "ties": Column(quantiles=[0.0] * 60 + [1.0] * 20 + PERCENTS[80:]),
    "constant": Column(mean=7.0, std=0.0, log1p_mean=2.0, log1p_std=0.0, quantiles=[7.0] * 101),
    "negative": Column(mean=0.0, std=1.0, quantiles=PERCENTS),
    "no_quantiles": Column(mean=0.0, std=1.0),
    "some_negative_ids": Column(nulls=3),
}
MANIFEST = Manifest({CITIES: File(3, 1, "0" * 64)}, {}, KNOWN)


def ids(**features: Categorical) -> dict[str, Categorical]:
    return resolve(Columns(features), MANIFEST).categorical


def number(feature: Numerical, **more: Any) -> Numerical:
    columns = Columns({"id": Categorical(2)}, {"x": replace(feature, **more)})
    return resolve(columns, MANIFEST).numerical["x"]


def test_what_is_left_out_comes_from_the_manifest() -> None:
    found = ids(
        item_id=Categorical(),
        town=Categorical(column="city", out_of_vocabulary=OutOfVocabulary.oov),
        likes=Categorical(column="item_id", multi_hot=True, max_length=5),
    )
    assert found["item_id"] == Categorical(70)
    oov = OutOfVocabulary.oov
    assert found["town"] == Categorical(3, None, CITIES, column="city", out_of_vocabulary=oov)
    assert found["likes"] == Categorical(70, column="item_id", multi_hot=True, max_length=5)


def test_what_is_said_is_kept_whatever_the_manifest_holds() -> None:
    said = {
        "item_id": Categorical(9),
        "city": Categorical(hash_size=5, salt=2),
        "age": Categorical(boundaries=[1.0, 4.0]),
        "town": Categorical(3, vocabulary="own.parquet"),
    }
    assert ids(**said) == said
    own = Categorical(vocabulary="own.parquet", column="city")
    assert ids(town=own)["town"] == replace(own, cardinality=3)
    by_hand = Numerical(mean=1.0, std=2.0, column="age")
    assert number(by_hand) == by_hand


@pytest.mark.parametrize(
    ("column", "buckets", "boundaries"),
    [
        ("age", 2, [50.0]),
        ("age", 4, [25.0, 50.0, 75.0]),
        ("age", 3, [33.0, 67.0]),
        ("ties", 4, [0.0, 1.0]),
        ("ties", 10, [0.0, 1.0, 80.0, 90.0]),
        ("constant", 10, [7.0]),
    ],
)
def test_buckets_lie_between_the_quantiles_of_the_manifest(
    column: str, buckets: int, boundaries: list[float]
) -> None:
    found = ids(x=Categorical(num_buckets=buckets, column=column))["x"]
    assert found.boundaries == boundaries
    assert found.num_buckets is None
    assert found.num_ids == len(boundaries) + 1


def test_numbers_are_standardised_on_the_scale_that_the_model_sees() -> None:
    plain = Numerical(standardise=True, column="age")
    assert number(plain) == Numerical(mean=30.0, std=5.0, column="age")
    log = Transform.log1p
    assert number(plain, transform=log) == Numerical(log, mean=3.0, std=0.5, column="age")
    # A constant column becomes 0, and not an error or a NaN.
    assert number(plain, column="constant") == Numerical(mean=7.0, std=1.0, column="constant")
    found = number(plain, column="constant", transform=log)
    assert (found.mean, found.std) == (2.0, 1.0)


UNKNOWN = Columns(
    {
        "item_id": Categorical(),
        "nowhere": Categorical(),
        "renamed": Categorical(column="some_negative_ids"),
        "bucket": Categorical(num_buckets=4, column="no_quantiles"),
        "shared": Categorical(table="nowhere"),
    },
    {
        "age": Numerical(standardise=True),
        "absent": Numerical(standardise=True),
        "negative": Numerical(Transform.log1p, standardise=True),
    },
)


def test_all_that_the_manifest_does_not_say_is_listed_at_once() -> None:
    with pytest.raises(ValueError, match="does not say") as error:
        resolve(UNKNOWN, MANIFEST)
    assert str(error.value) == (
        "the schema does not say, nor does manifest.json: the cardinality of 'nowhere'; "
        "the cardinality of 'renamed'; the quantiles of 'bucket'; mean and std of 'absent'; "
        "mean and std of log1p of 'negative'"
    )


def test_all_that_is_missing_is_listed_at_once_where_there_is_no_manifest() -> None:
    with pytest.raises(ValueError, match="the data set has no manifest") as error:
        resolve(UNKNOWN, None)
    for part in (*UNKNOWN.categorical, *UNKNOWN.numerical):
        # What shares a table needs nothing of its own.
        assert str(error.value).count(f"'{part}'") == (part != "shared")
    assert "std of 'age'; " in str(error.value)


def test_complete_schema_needs_no_manifest() -> None:
    features = {"a": Categorical(3), "b": Categorical(hash_size=3), "c": Categorical(table="a")}
    columns = Columns(features, {"x": Numerical(mean=1.0)})
    found = resolve(columns, None)
    assert found.categorical == features | {"c": Categorical(3, table="a")}
    assert found.numerical == columns.numerical


OWNERS = [
    Categorical(9, out_of_vocabulary=OutOfVocabulary.oov, embedding_dim=8),
    Categorical(hash_size=5, salt=3),
    Categorical(column="city"),
    Categorical(num_buckets=4, column="age"),
    Categorical(column="item_id"),
]


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("before", [False, True])
def test_feature_that_shares_a_table_and_says_nothing_is_what_its_owner_is(
    owner: Categorical, before: bool
) -> None:
    features = {"owner": owner, "other": Categorical(table="owner")}
    found = ids(**dict(reversed(features.items())) if before else features)
    assert found["owner"] == ids(owner=owner)["owner"]
    for name in ("num_ids", "hash_size", "vocabulary", "boundaries", "salt", "embedding_dim"):
        assert getattr(found["other"], name) == getattr(found["owner"], name), name
    # Its column and policies are its own.
    assert found["other"].column is None
    assert found["other"].out_of_vocabulary is OutOfVocabulary.error


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        (Categorical(9), Categorical(8), "num_ids, got 9 of 'first' and 8 of 'second'"),
        (Categorical(9), Categorical(hash_size=9), "hash_size, got None of 'first' and 9"),
        (Categorical(hash_size=9, salt=1), Categorical(hash_size=9), "salt, got 1 of 'first'"),
        (Categorical(3, vocabulary="a"), Categorical(3, vocabulary="b"), "vocabulary, got a of"),
        (
            Categorical(boundaries=[1.0]),
            Categorical(boundaries=[2.0]),
            r"boundaries, got \[1.0\] of 'first' and \[2.0\] of 'second'",
        ),
        (Categorical(9), Categorical(9, embedding_dim=4), "embedding_dim, got None of 'first'"),
        # Nobody owns the table, so that each is what the manifest says of its own column.
        (Categorical(column="item_id"), Categorical(column="city"), "num_ids, got 70 of 'first'"),
    ],
)
def test_features_that_share_a_table_and_differ_are_refused(
    first: Categorical, second: Categorical, what: str
) -> None:
    first, second = replace(first, table="both"), replace(second, table="both")
    with pytest.raises(ValueError, match=f"share the table 'both' to agree in {what}"):
        ids(first=first, second=second)


def test_owner_of_a_table_shares_no_other() -> None:
    for last in ("first", "third"):
        features = {"first": Categorical(table="second"), "second": Categorical(table=last)}
        with pytest.raises(ValueError, match="expected 'second', whose table 'first' shares"):
            ids(**features, third=Categorical(3))


def test_resolving_twice_changes_nothing() -> None:
    log = Transform.log1p
    columns = Columns(
        {f"owner{i}": owner for i, owner in enumerate(OWNERS)}
        | {f"other{i}": Categorical(table=f"owner{i}") for i in range(len(OWNERS))},
        {"age": Numerical(standardise=True), "constant": Numerical(log, standardise=True)},
        {"y": "y"},
        weight="w",
    )
    once = resolve(columns, MANIFEST)
    assert resolve(once, MANIFEST) == once
    # Neither does another manifest, or none: a run keeps the numbers that it was trained with.
    changed = {name: replace(column, cardinality=1, mean=5.0) for name, column in KNOWN.items()}
    assert resolve(once, replace(MANIFEST, columns=changed)) == once
    assert resolve(once, None) == once
    assert (once.labels, once.weight) == (columns.labels, columns.weight)


def test_numbers_of_a_manifest_are_those_of_the_training_rows(tmp_path: Path) -> None:
    rows = {"city": ["b", "a", "b", None], "age": [0.0, 1.0, 3.0, 4.0], "id": [4, 0, 1, 2]}
    table = pa.table(rows)
    with DatasetWriter(tmp_path / "set", table.schema) as writer:
        writer.add("train", table)
        writer.add("test", pa.table({"city": ["z"], "age": [1e6], "id": [99]}))
        writer.finish()
    categorical = {name: Categorical() for name in ("city", "id")}
    columns = Columns(categorical, {"age": Numerical(standardise=True)})
    found = resolve(columns, load_folder(tmp_path / "set"))
    assert found.categorical["id"].num_ids == 5
    assert (found.numerical["age"].mean, found.numerical["age"].std) == pytest.approx((2, 2.5**0.5))
    values = load_vocabularies(found, open_store(str(tmp_path / "set")))
    assert values[CITIES].to_pylist() == ["b", "a"]


WriteFile = Callable[[dict[str, Any]], Columns]


@pytest.fixture
def vocabulary(tmp_path: Path) -> WriteFile:
    """Writes a vocabulary; returns a schema that wants three values of it."""

    def write(columns: dict[str, Any]) -> Columns:
        pq.write_table(pa.table(columns), tmp_path / "v.parquet")
        return Columns({"city": Categorical(3, vocabulary="v.parquet")})

    return write


@pytest.mark.parametrize("values", [["b", "a", "c"], [10, -3, 7]])
def test_vocabulary_is_loaded_once_in_its_order(
    vocabulary: WriteFile, tmp_path: Path, values: list[Any]
) -> None:
    columns = vocabulary({"value": values})
    columns.categorical["more"] = replace(columns.categorical["city"], column="other")
    columns.categorical["id"] = Categorical(3)
    loaded = load_vocabularies(columns, open_store(str(tmp_path)))
    assert {file: found.to_pylist() for file, found in loaded.items()} == {"v.parquet": values}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"value": ["a", "b"]}, "v.parquet: expected the 3 values of feature 'city', got 2"),
        ({"value": ["a", "b", "a"]}, "v.parquet: expected each value once, and no null"),
        ({"value": ["a", "b", None]}, "v.parquet: expected each value once, and no null"),
        ({"values": ["a", "b", "c"]}, "v.parquet: expected one column 'value', got values"),
        ({"value": [1, 2, 3], "n": [1, 1, 1]}, "expected one column 'value', got value, n"),
    ],
)
def test_vocabulary_that_is_not_what_it_should_be_is_refused(
    vocabulary: WriteFile, tmp_path: Path, content: dict[str, Any], expected: str
) -> None:
    columns = vocabulary(content)
    with pytest.raises(ValueError, match=expected):
        load_vocabularies(columns, open_store(str(tmp_path)))


def test_file_that_is_missing_or_damaged_is_named(vocabulary: WriteFile, tmp_path: Path) -> None:
    columns, file = vocabulary({"value": ["a", "b", "c"]}), tmp_path / "v.parquet"
    content = bytearray(file.read_bytes())
    for damage in (b"none", content[:-20], b"", None):
        file.unlink() if damage is None else file.write_bytes(damage)
        with pytest.raises(ValueError, match=f"{file}: expected a vocabulary: "):
            load_vocabularies(columns, open_store(str(tmp_path)))


def test_run_keeps_a_copy_of_each_vocabulary_at_the_same_path(tmp_path: Path) -> None:
    source, run = tmp_path / "data", tmp_path / "run"
    files = ["vocabulary/city.parquet", "v.parquet"]
    for file in files:
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"value": np.arange(3)}), source / file)
    run.mkdir()
    columns = Columns(
        {f"f{i}": Categorical(3, vocabulary=file) for i, file in enumerate([*files, files[0]])}
        | {"plain": Categorical(3)}
    )
    store = open_store(str(source))
    save_vocabularies(columns, store, load_vocabularies(columns, store), run)
    copies = sorted(path for path in run.rglob("*") if path.is_file())
    assert copies == sorted(run / file for file in files)
    for file in files:
        assert (run / file).read_bytes() == (source / file).read_bytes()
    store = open_store(str(run))
    assert load_vocabularies(columns, store).keys() == set(files)
    # The same values in another file are no other vocabulary; the run keeps its own.
    before = (run / "v.parquet").read_bytes()
    for values, difference in SAVED_AGAIN.items():
        pq.write_table(pa.table({"value": values}), source / "v.parquet", compression="none")
        store = open_store(str(source))
        found = {file: pa.array(values) for file in files}
        if difference is None:
            save_vocabularies(columns, store, found, run)
        else:
            with pytest.raises(ValueError, match=f"v.parquet, got another \\({difference}\\)"):
                save_vocabularies(replace(columns, categorical=OWN), store, found, run)
        assert (run / "v.parquet").read_bytes() == before


OWN = {"f1": Categorical(3, vocabulary="v.parquet")}
SAVED_AGAIN = {
    (0, 1, 2): None,
    (0, 2, 1): "3 values -> as many, others or in another order",
    (0, 1, 2, 3): "3 values -> 4, which begin with the same",
}


def test_a_vocabulary_is_not_copied_through_a_link(tmp_path: Path) -> None:
    source, run, elsewhere = (tmp_path / name for name in ("source", "run", "elsewhere"))
    for folder in (source / "vocabulary", run, elsewhere):
        folder.mkdir(parents=True)
    pq.write_table(pa.table({"value": ["a", "b"]}), source / CITIES)
    columns, store = Columns({"city": Categorical(2, vocabulary=CITIES)}), open_store(str(source))
    loaded = load_vocabularies(columns, store)
    (run / "vocabulary").symlink_to(elsewhere)
    with pytest.raises(ValueError, match="run/vocabulary: expected a file or folder, got a link"):
        save_vocabularies(columns, store, loaded, run)
    (run / "vocabulary").unlink()
    (run / "vocabulary").mkdir()
    (run / CITIES).symlink_to(elsewhere / "new.parquet")
    with pytest.raises(ValueError, match=r"city\.parquet: expected a f.*, got a link"):
        save_vocabularies(columns, store, loaded, run)
    assert list(elsewhere.iterdir()) == []


def test_mean_and_deviation_are_those_of_the_clipped_values() -> None:
    spread = Column(quantiles=[float(q) for q in range(100)] + [1e9], mean=5e4, std=7e6)
    number = Numerical(clip=[0.0, 99.0], standardise=True)
    columns = Columns({"u": Categorical(cardinality=3)}, {"x": number}, {})
    found = resolve(columns, Manifest({}, {}, {"x": spread})).numerical["x"]
    assert found.mean == pytest.approx(49.75, abs=0.3)
    assert found.std == pytest.approx(28.7, abs=0.5)


@pytest.mark.parametrize("file", ["../v.parquet", "/v.parquet", "a/../../v.parquet"])
def test_a_vocabulary_outside_of_the_data_set_is_refused(file: str) -> None:
    columns = Columns({"u": Categorical(cardinality=3, vocabulary=file)}, {}, {})
    with pytest.raises(ValueError, match="vocabulary of 'u'"):
        resolve(columns, None)
