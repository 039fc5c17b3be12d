"""Checkpoints that somebody forged: none runs anything, leads elsewhere, or takes much memory."""

import pathlib
import pickle
import warnings
from pathlib import Path

import pytest
from forged import FORGED
from forged_pickles import NOT_ALONE, payloads
from forging import examine, little_memory, unchanged, whole
from saving import alone, save
from torch.distributed.checkpoint import filesystem, metadata

CLASSES = [pathlib.PurePath, pathlib.PurePosixPath, pathlib.Path, pathlib.PosixPath]
CLASSES += [filesystem._StorageInfo, metadata.Metadata, metadata.TensorProperties]
CLASSES += [metadata.TensorStorageMetadata, metadata.MetadataIndex]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    with alone():
        (source,) = save(tmp_path_factory.mktemp("good"), 1)
        assert examine(source) == ("nobody", "")
        yield source


@pytest.mark.parametrize("forged", FORGED, ids=[forged.name for forged in FORGED])
def test_a_forged_checkpoint_is_refused_and_does_nothing(forged, good, tmp_path):
    source, outside = forged.make(good, tmp_path)
    before = sorted(outside.iterdir())
    with little_memory(1 << 30), unchanged(*CLASSES):
        refused_by, why = examine(source)
    assert (refused_by, sorted(outside.iterdir())) == (forged.refused_by, before), why
    assert str(source) in why
    assert len(why) < 2000


def test_there_are_many_and_no_two_of_one_name():
    names = [forged.name for forged in FORGED]
    assert len(names) == len(set(names)) >= 200
    assert {forged.refused_by for forged in FORGED} == {"verify", "state", "index", "tensors"}


@pytest.mark.parametrize("name", sorted(payloads(Path("/nowhere")).keys() - set(NOT_ALONE)))
def test_what_is_refused_would_run(name, tmp_path):
    marker = tmp_path / "marker"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        pickle.loads(whole(payloads(marker)[name]))
    assert marker.exists()
