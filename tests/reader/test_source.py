"""Files are found by their patterns and read alike, wherever they are."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from mbrec.config.tasks import Task
from mbrec.reader.parquet import ParquetReader
from mbrec.reader.source import LOCAL, Store, is_hidden, open_store

FOLDER = "of_these_tests"  # In fsspec's memory, which lasts as long as the process.


@pytest.fixture
def memory() -> Iterator[Any]:
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    if filesystem.exists(FOLDER):
        filesystem.rm(FOLDER, recursive=True)


@pytest.fixture(scope="module")
def log(new_log: Any) -> Any:
    return new_log([[9, 4], [7, 0, 3]])


def folder_of(log: Any) -> Path:
    return Path(log.files[0]).parent


def read(log: Any, store: Store, **options: Any) -> list[Any]:
    files = store.find(["*.parquet"])
    options = {"global_batch_size": 4, "shuffle_rows": 8, **options}
    batches = ParquetReader(files, log.columns, {"t": Task("click")}, store=store, **options)
    return [log.rows_of(batch) for batch in batches]


@pytest.mark.parametrize("where", ["folder", "folder/", "relative", "uri", "uri/", "memory"])
def test_batches_are_the_same_wherever_the_files_are(
    log: Any, memory: Any, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of(log)
    monkeypatch.chdir(folder.parent)
    for file in log.files:
        memory.pipe(f"/{FOLDER}/x/{Path(file).name}", Path(file).read_bytes())
    paths = {
        "folder": str(folder),
        "folder/": f"{folder}/",
        "relative": folder.name,
        "uri": folder.as_uri(),
        "uri/": f"{folder.as_uri()}/",
        "memory": f"memory://{FOLDER}/x",
    }
    store = open_store(paths[where])
    assert store.find(["**/*.parquet"]) == ["part-0.parquet", "part-1.parquet"]
    tasks, files = {"t": Task("click")}, log.files
    options = {"global_batch_size": 4, "shuffle_rows": 8}
    expected = ParquetReader(files, log.columns, tasks, store=LOCAL, **options)
    assert read(log, store) == [log.rows_of(batch) for batch in expected]
    reader = ParquetReader(["part-1.parquet"], log.columns, tasks, store=store, **options)
    name = f"{paths[where].rstrip('/')}/part-1.parquet"
    files, rows = reader.locate(np.array([0, 9]))
    assert (files, rows.tolist()) == ([name, name], [0, 9])


NAMES = [
    "a.parquet",
    "b.parquet",
    "b.txt",
    "train/a.parquet",
    "train/day=1/a.parquet",
    "train/day=1/b.parquet",
    "train/day=2/a.parquet",
    "valid/a.parquet",
    ".hidden.parquet",
    ".cache/a.parquet",
    "train/.tmp/a.parquet",
    "train/.part.parquet.crc",
    # Not committed, or beside the rows.
    "_SUCCESS",
    "_staging/a.parquet",
    "_staging/_b.parquet",
    "train/_temporary/0/attempt_1/a.parquet",
    "train/_part-9.parquet",
    "train/c.parquet._COPYING_",
    # A partition, as Spark takes it.
    "valid/_x=1/a.parquet",
]
PATTERNS: list[tuple[list[str], list[str]]] = [
    (["a.parquet"], ["a.parquet"]),
    (["*.parquet"], ["a.parquet", "b.parquet"]),
    (["?.parquet"], ["a.parquet", "b.parquet"]),
    (["[!a].parquet"], ["b.parquet"]),
    (["*"], ["a.parquet", "b.parquet", "b.txt"]),
    (["b.*", "*.parquet"], ["b.parquet", "b.txt", "a.parquet"]),
    (["train/*.parquet"], ["train/a.parquet"]),
    (["*/a.parquet"], ["train/a.parquet", "valid/a.parquet"]),
    (["train/*/a.parquet"], ["train/day=1/a.parquet", "train/day=2/a.parquet"]),
    (["train/**/b.parquet"], ["train/day=1/b.parquet"]),
    (["**/day=1/*"], ["train/day=1/a.parquet", "train/day=1/b.parquet"]),
    (["valid/**/a.parquet"], ["valid/_x=1/a.parquet", "valid/a.parquet"]),
    (["valid/*/a.parquet"], ["valid/_x=1/a.parquet"]),
    # What is spelled out is taken.
    ([".hidden.parquet"], [".hidden.parquet"]),
    ([".cache/*"], [".cache/a.parquet"]),
    (["_staging/*.parquet"], ["_staging/a.parquet"]),
    (["_staging/_*"], ["_staging/_b.parquet"]),
    (["_s*/**/*.parquet"], ["_staging/a.parquet"]),
    (["train/_temporary/**"], ["train/_temporary/0/attempt_1/a.parquet"]),
    (["train/_part-9.parquet"], ["train/_part-9.parquet"]),
    (["train/*._COPYING_"], ["train/c.parquet._COPYING_"]),
    (["**/b.parquet"], ["b.parquet", "train/day=1/b.parquet"]),
    (["train/**"], [n for n in NAMES if n.startswith("train/") and not is_hidden(n)]),
    (["**"], sorted(n for n in NAMES if not is_hidden(n))),
]


@pytest.mark.parametrize(("patterns", "expected"), PATTERNS, ids=lambda p: " ".join(p)[:30])
@pytest.mark.parametrize("where", ["folder", "memory"])
def test_star_stays_in_a_folder_two_stars_do_not_and_hidden_files_are_left_out(
    tmp_path: Path, memory: Any, patterns: list[str], expected: list[str], where: str
) -> None:
    for name in NAMES:
        memory.pipe(f"/{FOLDER}/{name}", b"")
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    store = open_store(str(tmp_path) if where == "folder" else f"memory://{FOLDER}")
    assert store.find(patterns) == expected
    assert store.exists("train/a.parquet")
    assert not store.exists("train")
    assert not store.exists("c.parquet")


def test_hidden_is_what_spark_leaves_out() -> None:
    hidden = {name for name in NAMES if is_hidden(name)}
    assert hidden == {
        *(name for name in NAMES if "/." in f"/{name}" or "_staging" in name or "_temp" in name),
        *("_SUCCESS", "train/_part-9.parquet", "train/c.parquet._COPYING_"),
    }


@pytest.mark.parametrize("name", [".data", "_data"])
@pytest.mark.parametrize("where", ["folder", "memory"])
def test_folder_whose_own_path_is_hidden_is_read(
    tmp_path: Path, memory: Any, name: str, where: str
) -> None:
    memory.pipe(f"/{FOLDER}/{name}/a.parquet", b"")
    (tmp_path / name).mkdir()
    (tmp_path / name / "a.parquet").touch()
    home = str(tmp_path) if where == "folder" else f"memory://{FOLDER}"
    assert open_store(f"{home}/{name}").find(["*.parquet"]) == ["a.parquet"]


def test_root_of_a_file_system_is_a_folder(memory: Any) -> None:
    memory.pipe(f"/{FOLDER}.parquet", b"")
    try:
        store = open_store("memory://")
        assert store.find([f"{FOLDER}.*"]) == [f"{FOLDER}.parquet"]
        assert store.exists(f"{FOLDER}.parquet")
        assert store.display("a.parquet") == "memory://a.parquet"
    finally:
        memory.rm(f"/{FOLDER}.parquet")


@pytest.mark.parametrize("pattern", ["train/*.parquet", "*.csv", "a.parquet/", "A.PARQUET", "data"])
def test_pattern_that_matches_nothing_is_shown_as_the_user_knows_it(
    tmp_path: Path, memory: Any, pattern: str
) -> None:
    (tmp_path / "a.parquet").touch()
    (tmp_path / "data").mkdir()
    memory.pipe(f"/{FOLDER}/a.parquet", b"")
    for path in (str(tmp_path), tmp_path.as_uri(), f"memory://{FOLDER}", str(tmp_path / "absent")):
        expected = re.escape(f"expected Parquet files at {path}/{pattern}, found none")
        with pytest.raises(ValueError, match=f"^{expected}$"):
            open_store(path).find([pattern])


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("nowhere://bucket/x", "nowhere://bucket/x: nothing installed reads nowhere://: "),
        ("file://host/x", "expected the URI of a folder, got file://host/x: "),
        ("file:///with space", "expected the URI of a folder, got file:///with space: "),
        ("://x", "expected the URI of a folder, got ://x: "),
    ],
)
def test_path_that_nothing_reads_is_refused_in_one_line(path: str, expected: str) -> None:
    with pytest.raises(ValueError) as caught:
        open_store(path)
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


def test_file_that_is_bad_is_named_as_the_user_knows_it(log: Any, memory: Any) -> None:
    whole = Path(log.files[0]).read_bytes()
    memory.pipe(f"/{FOLDER}/part-0.parquet", whole)
    memory.pipe(f"/{FOLDER}/part-1.parquet", whole[:-9])
    name = re.escape(f"memory://{FOLDER}/part-1.parquet")
    store = open_store(f"memory://{FOLDER}")
    with pytest.raises(ValueError, match=f"^{name}: expected a Parquet file: "):
        read(log, store)
    with pytest.raises(ValueError, match=f"^memory://{FOLDER}/absent: expected a Parquet file: "):
        ParquetReader(["absent"], log.columns, {}, global_batch_size=1, store=store)


def test_corrupted_page_is_noticed_wherever_the_file_is(new_log: Any, memory: Any) -> None:
    log = new_log([[400]], write_page_checksum=True, use_dictionary=False, compression="none")
    whole = bytearray(Path(log.files[0]).read_bytes())
    whole[len(whole) // 2] ^= 1
    memory.pipe(f"/{FOLDER}/part-0.parquet", bytes(whole))
    name = f"memory://{FOLDER}/part-0.parquet"
    with pytest.raises(ValueError, match=f"^{name}: row group 0 cannot be read: .*CRC"):
        read(log, open_store(f"memory://{FOLDER}"))
