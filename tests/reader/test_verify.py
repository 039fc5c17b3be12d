"""Files that are missing, changed or unknown are all told, and pages have checksums."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from mbrec.columns.manifest import load_folder
from mbrec.prepare.writer import DatasetWriter
from mbrec.reader.verify import check_sizes, main, verify

LOCAL = fs.LocalFileSystem()
FILES = ["test/part-00000.parquet", "train/part-00000.parquet", "vocabulary/city.parquet"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    table = pa.table({"id": list(range(100)), "city": ["here", "there"] * 50})
    with DatasetWriter(tmp_path / "out", table.schema) as writer:
        writer.add("train", table)
        writer.add("test", table.set_column(0, "id", pa.array(range(100, 200))))
        writer.finish()
    return tmp_path / "out"


def problems(root: Path) -> list[str]:
    """Return what `verify` says, without the folder."""
    found = verify(LOCAL, str(root), load_folder(root))
    return [line.removeprefix(f"{root}/") for line in found]


def sizes(root: Path) -> list[str]:
    found = check_sizes(LOCAL, str(root), load_folder(root))
    return [line.removeprefix(f"{root}/") for line in found]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_an_untouched_data_set_has_no_problems(root, capsys):
    assert problems(root) == sizes(root) == []
    assert main([str(root)]) == 0
    assert "3 files" in (out := capsys.readouterr().out) and "0 problems" in out
    assert main([f"file://{root}"]) == 0


@pytest.mark.parametrize("name", FILES)
def test_a_single_bit_is_told(root, name):
    before = hashlib.sha256((root / name).read_bytes()).hexdigest()
    flip(root / name)
    after = hashlib.sha256((root / name).read_bytes()).hexdigest()
    assert problems(root) == [f"{name}: changed: expected SHA-256 {before}, got {after}"]
    assert sizes(root) == []  # which opens nothing


def test_all_problems_are_told_at_once(root, capsys):
    size = (root / FILES[0]).stat().st_size
    with (root / FILES[0]).open("ab") as file:
        file.write(b"x")
    (root / FILES[1]).unlink()
    (root / "train/part-00007.parquet").write_bytes(b"new")
    (root / "README.md").write_text("mine")
    (root / ".DS_Store").write_text("hidden files do not count")
    (root / "train/_temporary").mkdir()
    (root / "train/_temporary/part-00000.parquet").write_text("nor do those not committed")
    (root / "_SUCCESS").touch()
    of_files = [
        f"{FILES[1]}: missing",
        f"{FILES[0]}: changed: expected {size} bytes, got {size + 1}",
    ]
    stray = "train/part-00007.parquet: unknown: not in the manifest"
    assert sorted(problems(root)) == sorted(
        [*of_files, "README.md: unknown: not in the manifest", stray]
    )
    assert sorted(sizes(root)) == sorted([*of_files, stray])  # a README does no harm to training
    assert main([str(root)]) == 1
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_links_that_lead_out_of_the_folder_are_refused(root, tmp_path):
    outside = tmp_path / "outside.parquet"
    (root / FILES[0]).rename(outside)
    (root / FILES[0]).symlink_to(outside)
    expected = f"{FILES[0]}: expected a file below {root}, got a link to {outside}"
    assert problems(root) == sizes(root) == [expected]
    (root / FILES[0]).unlink()
    (root / "test").rmdir()
    (tmp_path / "folder").mkdir()
    outside.rename(tmp_path / "folder/part-00000.parquet")
    (root / "test").symlink_to(tmp_path / "folder")
    assert len(problems(root)) == 1 and "got a link to" in problems(root)[0]


def test_links_within_the_folder_and_to_it_are_fine(root, tmp_path):
    (root / FILES[0]).rename(root / ".kept")
    (root / FILES[0]).symlink_to(root / ".kept")
    (root / "loop").symlink_to(root)
    link = tmp_path / "link"
    link.symlink_to(root)
    assert problems(root) == problems(link) == []


def test_other_file_systems_are_read_as_well(root):
    remote = fs.SubTreeFileSystem(str(root.parent), LOCAL)
    manifest = load_folder(root)
    assert verify(remote, "out", manifest) == check_sizes(remote, "out", manifest) == []
    flip(root / FILES[1])
    (root / FILES[2]).unlink()
    (root / "more.parquet").touch()
    found = verify(remote, "out", manifest)
    assert [line.split(":")[:2] for line in found] == [
        [f"out/{FILES[1]}", " changed"],
        [f"out/{FILES[2]}", " missing"],
        ["out/more.parquet", " unknown"],
    ]


def test_files_that_cannot_be_read_are_told(root, monkeypatch):
    def fail(*_: object) -> str:
        raise OSError("Input/output error")

    monkeypatch.setattr("mbrec.reader.verify._sha256", fail)
    found = verify(LOCAL, str(root), load_folder(root))
    assert [line.endswith("cannot be read: Input/output error") for line in found] == [True] * 3


def test_the_command_tells_a_folder_without_a_manifest(tmp_path):
    command = [sys.executable, "-m", "mbrec.reader.verify", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("verify: expected a manifest at ")
    assert len(done.stderr.splitlines()) == 1


def bytes_of_pages(path: Path) -> np.ndarray:
    """Return the places of the pages' bytes, each without the header that precedes it.

    A checksum does not cover that; few of its bits matter, and the manifest's SHA-256 does.
    """
    metadata = pq.read_metadata(path)
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    ranges = []
    for chunk in (group.column(j) for group in groups for j in range(group.num_columns)):
        start, data = chunk.dictionary_page_offset, chunk.data_page_offset
        ranges += [(start + 12, data), (data + 30, start + chunk.total_compressed_size)]
    return np.concatenate([np.arange(*ends) for ends in ranges])


def test_none_of_500_flipped_bits_in_pages_passes_unseen(tmp_path):
    random = np.random.default_rng(0)
    columns = {"id": random.integers(0, 50, 400), "price": random.random(400)}
    columns |= {"tags": [[1, 2, 3], []] * 200, "city": [f"city {k % 9}" for k in range(400)]}
    table = pa.table(columns)
    with DatasetWriter(tmp_path / "out", table.schema, row_group_rows=100) as writer:
        writer.add("train", table)
        writer.finish()
    path = tmp_path / "out/train/part-00000.parquet"
    good, pages = path.read_bytes(), bytes_of_pages(path)
    wrong = {True: 0, False: 0}  # without verification, to show that it is needed
    for place, bit in zip(random.choice(pages, 500), random.integers(0, 8, 500), strict=True):
        bad = bytearray(good)
        bad[place] ^= 1 << bit
        for checked in wrong:
            try:
                source = pa.BufferReader(bytes(bad))
                found = pq.read_table(source, page_checksum_verification=checked)
            except (OSError, pa.ArrowException):
                continue
            wrong[checked] += not found.equals(table)
    assert wrong[True] == 0 < wrong[False]
