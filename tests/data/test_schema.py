"""What a schema refuses before any file is opened."""

import math
import subprocess
import sys
from typing import Any

import pytest

from mbrec.data.schema import Categorical, Columns, Numerical


def columns(**changes: Any) -> Columns:
    parts: dict[str, Any] = {
        "categorical": {"user": Categorical(5)},
        "numerical": {"age": Numerical()},
        "labels": {"click": "clicked"},
        "weight": "wt",
    }
    return Columns(**parts | changes)


@pytest.mark.parametrize(
    ("cardinality", "hash_size"),
    [(None, None), (5, 5), (0, None), (None, 0), (-1, None), (None, -1), (0, 5)],
)
def test_categorical_needs_exactly_one_of_cardinality_and_hash_size(
    cardinality: int | None, hash_size: int | None
) -> None:
    with pytest.raises(ValueError, match=r"^expected .*, got ") as caught:
        Categorical(cardinality, hash_size)
    assert f"cardinality={cardinality}, hash_size={hash_size}" in str(caught.value)


def test_table_has_a_row_for_each_id_or_hash() -> None:
    assert Categorical(cardinality=7).num_embeddings == 7
    assert Categorical(hash_size=11).num_embeddings == 11
    assert Categorical(1).num_embeddings == 1


@pytest.mark.parametrize("std", [0.0, -1.0, math.nan, -math.inf])
def test_std_must_be_positive(std: float) -> None:
    with pytest.raises(ValueError, match=rf"^expected std .* positive, got {std}$"):
        Numerical(std=std)


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


def test_feature_may_share_the_name_of_a_label_if_its_column_is_another() -> None:
    assert columns(categorical={"clicked": Categorical(5, column="user")}).labels


def test_import_is_light() -> None:
    program = (
        "import sys, mbrec.data.schema;"
        "print({'torch', 'pyarrow', 'numpy'} & set(sys.modules) or 'none')"
    )
    command = [sys.executable, "-c", program]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "none"
