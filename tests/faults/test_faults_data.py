"""Flipped bits in a data set and in a run's vocabularies: refused, or without any effect (R19)."""

import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mbrec.columns import manifest
from mbrec.columns.schema import Categorical, Columns, MissingId, Numerical
from mbrec.config.tasks import Task
from mbrec.prepare.writer import DatasetWriter
from mbrec.reader import dataset, verify
from mbrec.reader.parquet import ParquetReader
from mbrec.reader.source import Store, open_store

COLUMNS = Columns(
    {
        "user": Categorical(),
        "city": Categorical(missing=MissingId.row),
        "tags": Categorical(multi_hot=True),
        "age": Categorical(num_buckets=3),
    },
    {"price": Numerical(standardise=True), "x": Numerical()},
    {"click": "click", "sold": "sold"},
)
TASKS = {"ctr": Task("click"), "cvr": Task("sold", given="click")}
DIGITS = set(b"0123456789")


def rows(n: int) -> pa.Table:
    drawn = np.random.default_rng(0)
    return pa.table(
        {
            "user": drawn.integers(0, 9, n),
            "city": pa.array(drawn.choice(["a", "bb", "ccc"], n), mask=drawn.random(n) < 0.1),
            "tags": [drawn.integers(0, 5, k % 3).tolist() for k in range(n)],
            "age": drawn.integers(0, 90, n).astype(np.int16),
            "price": drawn.normal(5, 2, n),
            "x": drawn.normal(size=n).astype(np.float32),
            "click": drawn.integers(0, 2, n).astype(np.int8),
            "sold": drawn.integers(0, 2, n).astype(bool),
        }
    )


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, table = tmp_path_factory.mktemp("flips") / "data", rows(60)
    with DatasetWriter(folder, table.schema, labels=["click"], row_group_rows=30) as writer:
        writer.add("train", table)
        writer.finish()
    return folder


def opened(folder: Path) -> tuple[Store, Columns]:
    """Return a data set and its schema, as `mbrec.job.readers.open_data` does."""
    store = open_store(str(folder))
    store = replace(store, manifest=manifest.load(store.filesystem, store.root))
    assert store.manifest is not None
    if problems := verify.check_sizes(store.filesystem, store.root, store.manifest):
        raise ValueError(problems)
    return store, dataset.resolve(COLUMNS, store.manifest, store)


def load(folder: Path) -> tuple[Columns, list[Any]]:
    """Return the schema and the batches of a data set: all that training sees of it."""
    store, columns = opened(folder)
    reader = ParquetReader(
        store.find(["train/*.parquet"]),
        columns,
        TASKS,
        global_batch_size=16,
        store=store,
        vocabularies=dataset.load_vocabularies(columns, store),
    )
    found = []
    for batch in reader:
        bags = [batch.sparse.values(), batch.sparse.lengths()]
        parts = [*bags, batch.dense_BN, batch.labels_BK, batch.masks_BK, batch.weights_B]
        found.append([part.numpy().tobytes() for part in parts])
    return columns, found


def reported(folder: Path) -> bool:
    """Return whether `python -m mbrec.reader.verify` says that something is wrong."""
    try:
        known = manifest.load_folder(folder)
    except ValueError:
        return True
    store = open_store(str(folder))
    return bool(verify.verify(store.filesystem, store.root, known))


def outcome(path: Path, bit: int, whole: bytes, use: Callable[[], bool]) -> str:
    """Return what becomes of a file with a flipped bit; `use` says if all is as it was."""
    flipped = bytearray(whole)
    flipped[bit // 8] ^= 1 << bit % 8
    path.write_bytes(flipped)
    try:
        return "harmless" if use() else "silent"
    except ValueError:
        return "refused"
    finally:
        path.write_bytes(whole)


def test_no_flipped_bit_of_a_data_set_changes_what_is_trained_on(
    original: Path, tmp_path: Path, fault_seed: int, nightly: bool, figure: Any
) -> None:
    flips, draw = 1000 if nightly else 120, random.Random(fault_seed)
    data = Path(shutil.copytree(original, tmp_path / "data"))
    good, found = load(data), Counter[str]()
    files = sorted(path for path in data.rglob("*") if path.is_file())
    assert [path.name for path in files] == ["manifest.json", "part-00000.parquet", "city.parquet"]
    told = 0

    def use() -> bool:
        nonlocal told
        # All but the layout of the manifest is covered by hashes, whatever training makes of it.
        told += reported(data)
        return load(data) == good

    for number in range(flips):
        # Each file equally often: most of the bytes are in one.
        path = files[number % len(files)]
        whole = path.read_bytes()
        bit = draw.randrange(8 * len(whole))
        found[what := outcome(path, bit, whole, use)] += 1
        assert what != "silent", f"bit {bit} of {path.name}"
    assert load(data) == good
    assert found["refused"] > flips / 2
    assert told > flips * 0.95
    figure("R19", flips=flips, **found, silent=0)


def test_no_flipped_digit_of_a_manifest_is_read_over(tmp_path: Path) -> None:
    # Of few digits, so that each of them can be flipped.
    table = pa.table({"price": np.arange(40) % 7 / 2, "city": ["a", "b"] * 20, "y": [0, 1] * 20})
    with DatasetWriter(tmp_path / "data", table.schema, labels=["y"]) as writer:
        writer.add("train", table)
        writer.finish()
    path = tmp_path / "data/manifest.json"
    whole, found = path.read_bytes(), Counter[str]()
    good = manifest.load_folder(path.parent)
    for place in (i for i, byte in enumerate(whole) if byte in DIGITS):
        what = outcome(path, 8 * place, whole, lambda: manifest.load_folder(path.parent) == good)
        found[what] += 1
        # A last digit may lie beyond what a number of 64 bits tells apart.
        assert what != "silent", whole[place - 20 : place + 5]
    assert found["refused"] > 600 and found["harmless"] < 20, found


def words_of(values: pa.Array) -> list[Any]:
    """Return values as ids are looked up among them: text by its bytes."""
    return [v.encode() if isinstance(v, str) else v for v in values.to_pylist()]


def test_no_flipped_bit_of_a_runs_vocabulary_gives_ids_another_meaning(
    original: Path, tmp_path: Path, fault_seed: int, nightly: bool, figure: Any
) -> None:
    flips, draw = 1000 if nightly else 150, random.Random(fault_seed)
    store, columns = opened(original)
    values = dataset.load_vocabularies(columns, store)
    learned = dataset.identify_vocabularies(columns, values)
    dataset.save_vocabularies(columns, store, values, tmp_path)
    (path,) = (path for path in tmp_path.rglob("*") if path.is_file())
    whole, found = path.read_bytes(), Counter[str]()
    words = {file: words_of(loaded) for file, loaded in values.items()}

    def use() -> bool:
        again = dataset.load_vocabularies(columns, open_store(str(tmp_path)))
        assert dataset.check_vocabularies(columns, again, learned, "") == []
        # Bytes are the same words as text: they give each value the same id.
        return {file: words_of(loaded) for file, loaded in again.items()} == words

    for _ in range(flips):
        bit = draw.randrange(8 * len(whole))
        found[what := outcome(path, bit, whole, use)] += 1
        assert what != "silent", f"bit {bit}"
    assert found["refused"] > flips / 3
    figure("R19", vocabulary_flips=flips, vocabulary_refused=found["refused"])
