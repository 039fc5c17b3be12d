"""What a schema refuses before any file is opened."""

import math
import subprocess
import sys
from itertools import combinations
from typing import Any

import pytest

from mbrec.columns.schema import Categorical, Columns, Keep, MissingId, Numerical, OutOfVocabulary


def columns(**changes: Any) -> Columns:
    parts: dict[str, Any] = {
        "categorical": {"user": Categorical(5)},
        "numerical": {"age": Numerical()},
        "labels": {"click": "clicked"},
        "weight": "wt",
    }
    return Columns(**parts | changes)


KINDS = {
    "cardinality": 5,
    "hash_size": 5,
    "vocabulary": "v.parquet",
    "boundaries": [1.0],
    "num_buckets": 5,
}


@pytest.mark.parametrize("pair", list(combinations(KINDS, 2)), ids="-".join)
def test_kinds_of_a_categorical_exclude_each_other(pair: tuple[str, str]) -> None:
    options: dict[str, Any] = {name: KINDS[name] for name in pair}
    if set(pair) in ({"cardinality", "vocabulary"}, {"boundaries", "num_buckets"}):
        assert Categorical(**options)  # The first is what the second amounts to.
        return
    with pytest.raises(ValueError, match=r"^expected one of cardinality, .*, got ") as caught:
        Categorical(**options)
    assert str(caught.value).endswith(f"got {', '.join(pair)}")


def test_kind_may_be_left_to_the_manifest() -> None:
    assert Categorical().cardinality is None


@pytest.mark.parametrize("value", [0, -1])
@pytest.mark.parametrize("name", ["cardinality", "hash_size", "max_length", "embedding_dim"])
def test_sizes_of_a_categorical_are_at_least_one(name: str, value: int) -> None:
    options: dict[str, Any] = {"multi_hot": True, name: value}
    with pytest.raises(ValueError, match=rf"^expected {name} of at least 1, got {value}$"):
        Categorical(**options)


OOV, HASH = OutOfVocabulary.oov, OutOfVocabulary.hash


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"num_buckets": 1}, "expected num_buckets of 2 to 100, got 1"),
        ({"boundaries": [1.0, 1.0]}, "expected finite, rising boundaries, got [1.0, 1.0]"),
        ({"boundaries": [2.0, 1.0]}, "expected finite, rising boundaries, got [2.0, 1.0]"),
        ({"boundaries": [0.0, math.inf]}, "expected finite, rising boundaries, got [0.0, inf]"),
        ({"boundaries": [math.nan]}, "expected finite, rising boundaries, got [nan]"),
        ({"boundaries": [1.0], "multi_hot": True}, "expected buckets of numbers, got multi_hot"),
        ({"num_buckets": 3, "multi_hot": True}, "expected buckets of numbers, got multi_hot"),
        ({"cardinality": 3, "weights": "w"}, "expected multi_hot with weights or max_length"),
        ({"cardinality": 3, "max_length": 2}, "expected multi_hot with weights or max_length"),
        ({"cardinality": 3, "multi_hot": True, "keep": Keep.last}, "max_length with keep: last"),
        ({"hash_size": 3, "out_of_vocabulary": OOV}, "has a hash and a bucket, got oov"),
        ({"hash_size": 3, "out_of_vocabulary": HASH}, "has a hash and a bucket, got hash"),
        ({"boundaries": [1.0], "out_of_vocabulary": OOV}, "has a hash and a bucket, got oov"),
        ({"cardinality": 3, "salt": 1}, "expected salt with hashing, got 1"),
        ({"cardinality": 3, "salt": 1, "out_of_vocabulary": OOV}, "with hashing, got 1"),
    ],
)
def test_options_that_do_not_fit_each_other_are_refused(
    options: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ValueError, match=r"^expected ") as caught:
        Categorical(**options)
    assert expected in str(caught.value)


@pytest.mark.parametrize("missing", list(MissingId))
@pytest.mark.parametrize("policy", list(OutOfVocabulary))
def test_rows_of_unknown_and_missing_ids_are_the_last_of_the_table(
    missing: MissingId, policy: OutOfVocabulary
) -> None:
    feature = Categorical(7, missing=missing, out_of_vocabulary=policy)
    rows = [feature.oov_row] * (policy is OOV) + [feature.missing_row] * (missing is MissingId.row)
    assert feature.num_ids == 7
    assert all(7 <= row < feature.num_embeddings for row in rows)
    assert len(set(rows)) == len(rows)


@pytest.mark.parametrize(
    "clip", [[], [1.0], [1.0, 1.0], [2.0, 1.0], [0.0, 1.0, 2.0], [0.0, math.nan]]
)
def test_clip_is_a_least_and_a_largest_value(clip: list[float]) -> None:
    with pytest.raises(ValueError, match=r"^expected clip: \[least, largest\], got \["):
        Numerical(clip=clip)


@pytest.mark.parametrize("given", [{"mean": 1.0}, {"std": 2.0}])
def test_mean_and_std_are_given_or_taken_from_the_manifest(given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"^expected standardise or a mean and std, got both$"):
        Numerical(standardise=True, **given)


def test_table_has_a_row_for_each_id_or_hash() -> None:
    assert Categorical(cardinality=7).num_embeddings == 7
    assert Categorical(hash_size=11).num_embeddings == 11
    assert Categorical(1).num_embeddings == 1
    assert Categorical(boundaries=[1.0, 2.0]).num_embeddings == 3


@pytest.mark.parametrize("std", [0.0, -1.0, math.nan, -math.inf])
def test_std_must_be_positive(std: float) -> None:
    with pytest.raises(ValueError, match=rf"^expected std .* positive, got {std}$"):
        Numerical(std=std)


def test_tables_are_shared_by_name_in_the_order_of_their_first_feature() -> None:
    columns = Columns(
        {
            "item": Categorical(9),
            "history": Categorical(9, multi_hot=True, table="item"),
            "user": Categorical(5, table="people"),
            "author": Categorical(5, table="people"),
            "last": Categorical(9, table="item"),
            "other": Categorical(3),
        }
    )
    shared = {
        "item": ["item", "history", "last"], "people": ["user", "author"], "other": ["other"]
    }  # fmt: skip
    assert columns.tables == shared
    assert list(columns.tables) == list(shared)


def test_at_least_one_categorical_column_is_needed() -> None:
    with pytest.raises(ValueError, match="expected at least one categorical column, got none"):
        columns(categorical={})
    assert not columns(numerical={}).numerical


@pytest.mark.parametrize(
    "changes",
    [
        {"categorical": {"__secret": Categorical(5)}},
        {"categorical": {"user": Categorical(5, column="__secret")}},
        {"categorical": {"user": Categorical(5), "u": Categorical(hash_size=5, column="__secret")}},
        {"numerical": {"__secret": Numerical()}},
        {"numerical": {"age": Numerical(column="__secret")}},
        {"labels": {"click": "__secret"}},
        {"labels": {"click": "clicked", "buy": "__secret"}},
        {"weight": "__secret"},
    ],
)
def test_hidden_columns_are_no_features_labels_or_weights(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^expected .* not hidden columns, got \['__secret'\]$"):
        columns(**changes)


def test_oracle_may_be_hidden() -> None:
    assert columns(oracle={"ctr": "__secret"}).oracle == {"ctr": "__secret"}


@pytest.mark.parametrize("leak", ["clicked", "wt"])
@pytest.mark.parametrize("part", ["categorical", "numerical"])
@pytest.mark.parametrize("renamed", [False, True])
def test_label_or_weight_is_no_feature(leak: str, part: str, renamed: bool) -> None:
    name, column = ("other", leak) if renamed else (leak, None)
    feature = Categorical(5, column=column) if part == "categorical" else Numerical(column=column)
    with pytest.raises(ValueError, match=rf"^expected .* no labels or weights, got \['{leak}'\]$"):
        columns(**{part: {name: feature}})


def test_columns_of_a_label_expression_and_of_bag_weights_are_looked_at() -> None:
    with pytest.raises(ValueError, match=r"no labels or weights, got \['late', 'wt'\]$"):
        columns(
            categorical={
                "late": Categorical(5),
                "bag": Categorical(5, multi_hot=True, weights="wt"),
            },
            labels={"click": "clicked * (not late)"},
        )
    with pytest.raises(ValueError, match=r"not hidden columns, got \['__p'\]$"):
        columns(labels={"click": "clicked * (__p > 0.5)"})
    with pytest.raises(ValueError, match=r"not hidden columns, got \['__p'\]$"):
        columns(categorical={"bag": Categorical(5, multi_hot=True, weights="__p")})


@pytest.mark.parametrize("text", ["", "clicked +", "f(clicked)", "1"])
def test_label_that_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^expected "):
        columns(labels={"click": text})


def test_feature_is_categorical_or_numerical_not_both() -> None:
    with pytest.raises(ValueError, match=r"^expected different names .*, got a, b twice$"):
        columns(
            categorical={"b": Categorical(5), "u": Categorical(5), "a": Categorical(5)},
            numerical={"a": Numerical(column="x"), "b": Numerical(column="y")},
        )


def test_oracle_columns_are_hidden_ones() -> None:
    with pytest.raises(ValueError, match=r"^expected oracle columns that start with '__', got "):
        columns(oracle={"ctr": "p_click"})


def test_feature_may_share_the_name_of_a_label_if_its_column_is_another() -> None:
    assert columns(categorical={"clicked": Categorical(5, column="user")}).labels


def test_import_is_light() -> None:
    program = (
        "import sys, mbrec.columns.schema;"
        "print({'torch', 'pyarrow', 'numpy'} & set(sys.modules) or 'none')"
    )
    command = [sys.executable, "-c", program]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "none"
