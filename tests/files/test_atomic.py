"""A file is written whole or not at all, and no link leads a write to another place."""

import os
from pathlib import Path

import pytest

from mbrec.files import atomic
from mbrec.job import run_lock


@pytest.fixture
def victim(tmp_path) -> Path:
    """A file outside of the folder that is written to."""
    (tmp_path / "run").mkdir()
    found = tmp_path / "victim"
    found.write_text("precious")
    return found


def test_a_file_takes_the_place_of_another_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "a.txt"
    atomic.write_text(path, "first")
    atomic.write_text(path, "\u00e9\n")
    assert path.read_bytes() == b"\xc3\xa9\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_fails_amid_a_write_leaves_the_old_file_and_nothing_beside_it(tmp_path, error):
    path = tmp_path / "a.txt"
    atomic.write_text(path, "first")
    with pytest.raises(type(error)), atomic.replacing(path) as file:
        file.write(b"half")
        raise error
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_not_on_the_disk_does_not_take_the_place_of_what_is(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    atomic.write_text(path, "first")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        atomic.write_text(path, "second")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a.txt", "a.txt.tmp", ".a.txt.tmp"])
def test_a_link_is_replaced_or_left_and_never_followed(victim, name):
    run = victim.parent / "run"
    (run / name).symlink_to(victim)
    atomic.write_text(run / "a.txt", "written")
    assert victim.read_text() == "precious"
    assert not (run / "a.txt").is_symlink()
    assert (run / "a.txt").read_text() == "written"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_not_replaced_by_one(tmp_path, make):
    make(tmp_path / "a.txt")
    before = (tmp_path / "a.txt").stat()
    with pytest.raises(ValueError, match=r"a\.txt: expected a file, or nothing yet"):
        atomic.write_text(tmp_path / "a.txt", "written")
    assert (tmp_path / "a.txt").stat().st_mode == before.st_mode
    assert len(list(tmp_path.iterdir())) == 1


def test_a_link_under_the_very_name_of_the_unfinished_file_is_refused(victim, monkeypatch):
    run = victim.parent / "run"
    monkeypatch.setattr("secrets.token_hex", lambda size: "guessed")
    (run / ".guessed.a.txt.tmp").symlink_to(victim)
    with pytest.raises(FileExistsError):
        atomic.write_text(run / "a.txt", "written")
    assert victim.read_text() == "precious"
    assert os.readlink(run / ".guessed.a.txt.tmp") == str(victim)


def test_no_link_is_followed_to_a_lock_or_a_log(victim):
    run = victim.parent / "run"
    (run / ".lock").symlink_to(victim.parent / "made")
    with pytest.raises(ValueError, match=r"\.lock: expected a file, got a link"):
        run_lock.take(run)
    (run / "console.log").symlink_to(victim)
    with pytest.raises(ValueError, match=r"console\.log: expected a file, got a link"):
        atomic.open_own(run / "console.log", os.O_WRONLY | os.O_APPEND)
    assert not (victim.parent / "made").exists()
    assert victim.read_text() == "precious"


def test_links_in_the_place_of_folders_are_refused_and_the_folder_itself_may_be_one(tmp_path):
    (tmp_path / "large/run/sub").mkdir(parents=True)
    (tmp_path / "run").symlink_to(tmp_path / "large/run")
    atomic.check_no_links(tmp_path / "run", "sub/a.parquet", "checkpoint")
    (tmp_path / "run/sub/deep").symlink_to(tmp_path)
    with pytest.raises(ValueError, match=r"run/sub/deep: expected a file or folder, got a link"):
        atomic.check_no_links(tmp_path / "run", "checkpoint", "sub/deep/a.parquet")


def test_files_are_for_who_the_umask_says_and_none_is_a_program(tmp_path):
    before = os.umask(0o027)
    try:
        atomic.write_text(tmp_path / "a.txt", "")
        with run_lock.released_after(tmp_path):
            assert run_lock.take(tmp_path)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"a.txt": 0o640, ".lock": 0o640}
