"""A checkpoint's folder is whole, or its defect is named; only the right ones are deleted."""

import os
import random
import shutil
from pathlib import Path

import pytest
from forging import DATA
from saving import alone, save

from mbrec.checkpoint import folder

FILES = [folder.MANIFEST, folder.STATE, folder.METADATA, DATA]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run with two checkpoints, which each test gets a copy of."""
    with alone():
        found = tmp_path_factory.mktemp("run")
        save(found, 10, 20)
        yield found


@pytest.fixture
def checkpoints(run, tmp_path) -> Path:
    return shutil.copytree(run / "checkpoint", tmp_path / "checkpoint")


def steps(checkpoints: Path) -> list[int]:
    return [folder.step_of(path) for path in folder.finished(checkpoints)]


def test_a_checkpoint_that_was_just_written_is_whole(checkpoints):
    for source in folder.finished(checkpoints):
        assert folder.verify(source) == []
        assert sorted(folder.read_manifest(source)) == sorted({*FILES} - {folder.MANIFEST})
    assert folder.newest_verified(folder.finished(checkpoints)) == (
        checkpoints / "step_00000020",
        [],
    )
    assert folder.size(source) == sum((source / name).stat().st_size for name in FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_anywhere_is_found(checkpoints, name):
    path = checkpoints / "step_00000020" / name
    whole = path.read_bytes()
    positions = random.Random(name).sample(range(len(whole)), 20)
    for at in [0, len(whole) - 1, *positions]:
        content = bytearray(whole)
        content[at] ^= 1 << (at % 8)
        path.write_bytes(content)
        problems = folder.verify(path.parent)
        assert all(str(path.parent) in problem for problem in problems)
        assert problems
        assert folder.newest_verified(folder.finished(checkpoints)) == (
            checkpoints / "step_00000010",
            problems,
        )


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("left", [0, 1, 100])
def test_a_file_that_was_cut_is_found(checkpoints, name, left):
    path = checkpoints / "step_00000020" / name
    os.truncate(path, left)
    (problem,) = folder.verify(path.parent)
    assert str(path) in problem


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_found(checkpoints, name):
    path = checkpoints / "step_00000020" / name
    path.unlink()
    (problem,) = folder.verify(path.parent)
    assert str(path) in problem


@pytest.mark.parametrize("name", ["__1_0.distcp", "notes.txt", "manifest.json.tmp"])
def test_a_file_too_many_is_found(checkpoints, name):
    source = checkpoints / "step_00000020"
    (source / name).touch()
    assert folder.verify(source) == [
        f"{source / name}: expected only files of the manifest, got this"
    ]


@pytest.mark.parametrize("name", FILES)
def test_a_link_to_the_right_content_is_refused(checkpoints, tmp_path, name):
    path = checkpoints / "step_00000020" / name
    path.symlink_to(shutil.move(path, tmp_path / "elsewhere"))
    (problem,) = folder.verify(path.parent)
    assert f"{path}: expected a file" in problem


def test_a_checkpoint_that_is_a_link_is_refused(checkpoints, tmp_path):
    source = checkpoints / "step_00000020"
    source.symlink_to(shutil.move(source, tmp_path / "elsewhere"))
    assert folder.verify(source) == [f"{source}: expected the folder of a checkpoint, found none"]
    assert folder.newest_verified(folder.finished(checkpoints))[0] == checkpoints / "step_00000010"


def test_a_file_that_cannot_be_read_is_a_defect_like_others(checkpoints, monkeypatch):
    def fail(path):
        raise OSError(5, "Input/output error", str(path))

    newest, describe = checkpoints / "step_00000020", folder.describe
    monkeypatch.setattr(
        folder, "describe", lambda path: (fail if path.parent == newest else describe)(path)
    )
    problems = folder.verify(newest)
    assert len(problems) == len(FILES) - 1
    assert f"{newest / DATA}: expected a file that can be read, got" in "".join(problems)
    assert folder.newest_verified(folder.finished(checkpoints)) == (
        checkpoints / "step_00000010",
        problems,
    )


def test_some_files_alone_are_hashed_and_all_are_counted(checkpoints):
    source = checkpoints / "step_00000020"
    path = source / DATA
    path.write_bytes(bytes(path.stat().st_size))
    assert folder.verify(source, only=[folder.STATE]) == []
    assert len(folder.verify(source, only=[DATA])) == 1
    os.truncate(path, 3)
    assert len(folder.verify(source, only=[folder.STATE])) == 1


def test_without_one_that_is_whole_there_is_none(checkpoints, tmp_path):
    for source in folder.finished(checkpoints):
        (source / folder.STATE).unlink()
    found, problems = folder.newest_verified(folder.finished(checkpoints))
    assert found is None
    assert [Path(p.partition(":")[0]).parent.name for p in problems] == [
        "step_00000020",
        "step_00000010",
    ]
    assert folder.newest_verified(folder.finished(tmp_path / "nothing")) == (None, [])


def test_only_folders_of_the_right_name_are_checkpoints(checkpoints):
    for name in ("step_1", "step_00000030.tmp", "step_00000030.damaged", "step_00000040.exploded"):
        (checkpoints / name).mkdir()
    (checkpoints / "step_00000050").touch()
    assert steps(checkpoints) == [10, 20]
    assert folder.leftovers(checkpoints) == [checkpoints / "step_00000030.tmp"]
    with pytest.raises(ValueError, match="expected a checkpoint"):
        folder.step_of(checkpoints / "step_1")


def test_old_checkpoints_are_deleted_and_the_best_is_not(checkpoints):
    for step in (30, 40, 50):
        shutil.copytree(checkpoints / "step_00000020", folder.step_folder(checkpoints, step))
    folder.mark_best(checkpoints, 20, "ctr.ne", 0.5)
    folder.prune(checkpoints, keep=2)
    assert steps(checkpoints) == [20, 40, 50]
    assert folder.leftovers(checkpoints) == []


def test_of_a_checkpoint_that_is_a_link_only_the_link_is_deleted(checkpoints, tmp_path):
    source = checkpoints / "step_00000010"
    elsewhere = Path(shutil.move(source, tmp_path / "elsewhere"))
    source.symlink_to(elsewhere)
    folder.prune(checkpoints, keep=1)
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step_00000020"]
    assert (elsewhere / folder.MANIFEST).exists()


def test_a_half_deleted_checkpoint_has_lost_its_name(checkpoints, monkeypatch):
    def fail(path):
        raise PermissionError(f"{path}: not allowed")

    monkeypatch.setattr(shutil, "rmtree", fail)
    with pytest.raises(PermissionError):
        folder.prune(checkpoints, keep=1)
    assert steps(checkpoints) == [20]
    assert folder.leftovers(checkpoints) == [checkpoints / "step_00000010.tmp"]


def test_what_is_put_aside_gets_a_name_that_is_free(checkpoints):
    source = checkpoints / "step_00000020"
    names = []
    for _ in range(3):
        names.append(folder.quarantine(source, folder.DAMAGED).name)
        shutil.copytree(checkpoints / "step_00000010", source)
    assert names == [f"step_00000020.damaged{n}" for n in ("", 1, 2)]
    shutil.rmtree(checkpoints / names[0])
    shutil.rmtree(checkpoints / names[1])
    assert folder.quarantine(source, folder.DAMAGED).name == names[0]
    assert (checkpoints / names[2]).is_dir()


def test_the_best_step_is_read(tmp_path):
    assert folder.read_best(tmp_path) is None
    folder.mark_best(tmp_path, 30, "ctr.ne", 0.5)
    assert folder.read_best(tmp_path) == 30


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "7", "[" * 60_000, " " * 70_000 + "{}", '{"step"', "\0"]
)
def test_a_mark_of_the_best_that_is_none_is_an_error(tmp_path, text):
    (tmp_path / folder.BEST).write_text(text)
    with pytest.raises(ValueError, match=r"best\.json"):
        folder.read_best(tmp_path)


@pytest.mark.parametrize("step", ["true", '"30"', "1.5", "null", "[30]"])
def test_a_best_step_that_is_no_number_is_an_error(tmp_path, step):
    (tmp_path / folder.BEST).write_text('{"step": ' + step + "}")
    with pytest.raises(ValueError, match=r"best\.json: expected the step of the best checkpoint"):
        folder.read_best(tmp_path)
