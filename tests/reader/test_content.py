"""What data hold is told apart where names and sizes are the same."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbrec.columns.manifest import load_folder
from mbrec.columns.schema import Categorical, Columns, MissingId, Numerical
from mbrec.config.tasks import Task
from mbrec.prepare.writer import DatasetWriter
from mbrec.reader import content as identity
from mbrec.reader.content import Content, Vocabulary, sampled
from mbrec.reader.footers import RowGroup
from mbrec.reader.parquet import ParquetReader
from mbrec.reader.source import open_store

ROWS = 700
COLUMNS = Columns(
    {
        "city": Categorical(hash_size=9, missing=MissingId.row),
        "tags": Categorical(9, multi_hot=True),
    },
    {"x": Numerical()},
    {"click": "click"},
)


def make_table(seed: int = 0) -> pa.Table:
    random = np.random.default_rng(seed)
    return pa.table(
        {
            "city": pa.array(random.choice(["a", "bb"], ROWS), mask=random.random(ROWS) < 0.1),
            "tags": [random.integers(0, 9, n).tolist() for n in random.integers(0, 3, ROWS)],
            "x": random.normal(size=ROWS),
            "click": random.integers(0, 2, ROWS).astype(np.int8),
            "unread": random.normal(size=ROWS),
        }
    )


TABLE = make_table()


def changed(name: str, row: int, value: Any) -> pa.Table:
    """Return the rows with one other value."""
    values = TABLE[name].to_pylist()
    assert values[row] != value
    values[row] = value
    index = TABLE.column_names.index(name)
    return TABLE.set_column(index, name, pa.array(values, TABLE[name].type))


def reader(folder: Path, table: pa.Table, **options: Any) -> ParquetReader:
    folder.mkdir(exist_ok=True)
    # Without statistics, so that only the rows themselves can tell.
    options = {"row_group_size": 350, "write_statistics": False} | options
    pq.write_table(table, folder / "f.parquet", **options)
    return open_reader(folder, "f.parquet")


def open_reader(folder: Path, file: str, columns: Columns = COLUMNS) -> ParquetReader:
    store = open_store(str(folder))
    if store.exists("manifest.json"):
        store = replace(store, manifest=load_folder(folder))
    tasks = {"ctr": Task("click")}
    return ParquetReader([file], columns, tasks, global_batch_size=8, store=store)


def refusal(state: dict[str, Any], other: ParquetReader) -> str:
    with pytest.raises(ValueError) as caught:
        other.resume(json.loads(json.dumps(state)))
    return str(caught.value)


NEGATED = TABLE.set_column(2, "x", pa.array(-TABLE["x"].to_numpy()))
INVERTED = TABLE.set_column(3, "click", pa.array(1 - TABLE["click"].to_numpy(), pa.int8()))


@pytest.mark.parametrize(
    ("table", "name"),
    [
        (NEGATED, "x"),
        (INVERTED, "click"),
        (changed("city", 0, "zz"), "city"),
        (changed("city", 99, "zz"), "city"),
        (changed("city", 340, "q"), "city"),
        (changed("tags", 349, [8, 8, 8]), "tags"),
        (changed("x", 350, 7.0), "x"),
        (changed("click", 699, 1 - TABLE["click"][699].as_py()), "click"),
    ],
)
def test_a_position_in_rows_of_the_same_layout_names_the_columns_that_differ(
    tmp_path: Path, table: pa.Table, name: str
) -> None:
    state = reader(tmp_path / "a", TABLE).state(2)
    other = reader(tmp_path / "b", table)
    # What sizes tell is told by them; here the values have to tell.
    other.row_groups = [
        replace(group, num_bytes=before.num_bytes)
        for group, before in zip(
            other.row_groups, open_reader(tmp_path / "a", "f.parquet").row_groups, strict=True
        )
    ]
    message = refusal(state, other)
    assert f"got one in others of the same sizes (the values of '{name}'" in message
    assert " differ); give the data that the run began with (data.path" in message
    assert "resume.path=none" in message
    assert other._resumed is None


def test_the_same_rows_in_another_place_or_encoding_are_the_same(tmp_path: Path) -> None:
    state = reader(tmp_path / "a", TABLE).state(2)
    again = reader(tmp_path / "b", TABLE, compression="zstd")
    again.resume(state)
    assert next(iter(again)).rows_B.tolist() == list(range(16, 24))


def test_other_sizes_name_the_columns_that_differ_as_well(tmp_path: Path) -> None:
    state = reader(tmp_path / "a", TABLE).state(2)
    shorter = TABLE.set_column(0, "city", pa.array(["a"] * ROWS))
    message = refusal(state, reader(tmp_path / "b", shorter))
    assert message.startswith("expected a position with files=")
    assert "another order of them (the values of 'city' differ); give the data" in message


def test_rows_in_the_middle_are_seen_by_statistics_and_by_a_manifest_alone(tmp_path: Path) -> None:
    # What the documentation says that the first and last rows cannot see.
    middle = changed("x", 175, 0.0)
    reader(tmp_path / "b", middle).resume(reader(tmp_path / "a", TABLE).state(2))
    beyond = changed("x", 175, 99.0)
    options = {"write_statistics": True}
    message = refusal(
        reader(tmp_path / "c", TABLE, **options).state(2), reader(tmp_path / "d", beyond, **options)
    )
    assert "sizes or statistics of row groups differ" in message
    for name, rows in {"e": TABLE, "f": middle}.items():
        with DatasetWriter(tmp_path / name, TABLE.schema, row_group_rows=350) as writer:
            writer.add("train", rows)
            writer.finish()
    part = "train/part-00000.parquet"
    message = refusal(open_reader(tmp_path / "e", part).state(2), open_reader(tmp_path / "f", part))
    assert "the SHA-256 of files differ" in message


def test_files_that_were_exchanged_below_a_manifest_are_told_by_their_rows(tmp_path: Path) -> None:
    before = {"x": "1", "click": "2"}
    known = Content(before, "s", "same hashes")
    assert known.differences(Content(before | {"click": "3"}, "s", "same hashes")) == [
        "the values of 'click'"
    ]
    # A feature that is new has no counterpart, and neither has the digest of all statistics.
    assert known.differences(Content(before | {"new": "4"}, "t", "same hashes")) == []
    assert known.differences(Content(before, "s", None)) == []


def test_a_position_of_an_earlier_release_is_taken_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = reader(tmp_path / "a", TABLE)
    state = found.state(2)
    del state["content"]
    found.resume(state | {"version": 1})
    assert "not what the rows hold" in caplog.text
    with pytest.raises(ValueError, match="expected a position with content"):
        found.resume(state)


def test_row_groups_are_looked_at_evenly_and_cheaply(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [RowGroup("f", k, 0, 10) for k in range(1_000)]
    assert sampled(groups[:128]) == groups[:128]
    assert len(sampled(groups)) == 128
    assert [sampled(groups)[i].index for i in (0, 1, 64, 127)] == [0, 8, 503, 999]
    monkeypatch.setattr(identity, "MAX_ROWS", 50)
    assert [group.index for group in sampled(groups)] == [0, 250, 500, 749, 999]
    monkeypatch.setattr(identity, "MAX_ROWS", 5)
    assert [group.index for group in sampled(groups)] == [0, 999]
    assert sampled(groups[:1]) == groups[:1]


def digest(array: pa.Array) -> str:
    import hashlib

    found = hashlib.sha256()
    identity._feed(found, array)
    return found.hexdigest()


KINDS = [
    (pa.int32(), st.integers(-4, 4)),
    (pa.float64(), st.sampled_from([0.0, 1.5, -2.0])),
    (pa.bool_(), st.booleans()),
    (pa.string(), st.sampled_from(["", "a", "b", "ab"])),
    (pa.list_(pa.int8()), st.lists(st.integers(0, 2), max_size=2)),
    (pa.large_list(pa.string()), st.lists(st.sampled_from(["", "a"]), max_size=2)),
]
COLUMN = st.one_of(
    *(
        st.tuples(st.just(kind), *[st.lists(st.none() | value, max_size=4)] * 2)
        for kind, value in KINDS
    )
)


@given(COLUMN)
def test_columns_have_one_digest_exactly_if_their_values_are_the_same(column: Any) -> None:
    kind, one, other = column
    first = pa.array(one, kind)
    assert (digest(first) == digest(pa.array(other, kind))) == (one == other)
    # Whatever lies before and behind, and below nulls.
    assert digest(pa.array([*other, *one, *other], kind).slice(len(other), len(one))) == digest(
        first
    )
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        assert digest(first.dictionary_encode()) == digest(first)


VALUES = st.one_of(
    st.lists(st.text("aä", max_size=2), unique=True, max_size=5),
    st.lists(st.integers(-3, 3), unique=True, max_size=5),
)


@given(VALUES, st.integers(0, 9))
def test_a_longer_vocabulary_with_the_same_beginning_is_told_from_others(
    values: list[Any], count: int
) -> None:
    array = pa.array(values, None if values else pa.string())
    known = Vocabulary.of(array.slice(0, count))
    assert known.values == min(count, len(values))
    assert Vocabulary.parse(json.loads(json.dumps(asdict(known)))) == known
    difference = known.difference(array)
    if count >= len(values):
        assert difference is None
    else:
        assert difference == f"{count} values -> {len(values)}, which begin with the same"
    if count >= 2 and len(values) >= 2:
        swapped = array.take(pa.array([1, 0, *range(2, len(values))]))
        expected = "as many, others or in another order"
        if len(values) > count:
            expected = f"{len(values)}, which begin otherwise"
        assert known.difference(swapped) == f"{known.values} values -> {expected}"


def test_a_vocabulary_is_the_same_in_each_type_of_its_kind() -> None:
    text = pa.array(["b", "", "ä"])
    same = [text.cast(pa.large_string()), text.cast(pa.binary())]
    assert {Vocabulary.of(values) for values in (text, *same)} == {Vocabulary.of(text)}
    numbers = pa.array([3, 1, 2])
    same = [numbers.cast(kind) for kind in (pa.int8(), pa.uint32(), pa.uint64())]
    assert {Vocabulary.of(values) for values in same} == {Vocabulary.of(numbers)}
    assert Vocabulary.of(pa.array([2**64 - 1], pa.uint64())).values == 1
    assert Vocabulary.of(pa.array(["1"])) != Vocabulary.of(pa.array([1]))


@pytest.mark.parametrize(
    "content", [None, 3, {}, {"values": 3}, {"values": "3", "sha256": ""}, {"values": True}]
)
def test_what_is_no_identity_of_a_vocabulary_is_refused(content: Any) -> None:
    with pytest.raises(ValueError, match="expected the number and hash of a vocabulary's values"):
        Vocabulary.parse(content)
