"""Checkpoints that are damaged, incomplete or forged: none is taken (R3, R6, S1)."""

import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from forged import FORGED
from forging import DATA, examine, little_memory, unchanged
from jobs import compose
from ranks import run_ranks
from saving import alone, run_state, save
from torch.distributed.checkpoint import filesystem, metadata

from mbrec.checkpoint import folder, restore, tensors
from mbrec.checkpoint.match import BALANCER
from mbrec.checkpoint.saver import Saver


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """The folder of a run with three checkpoints."""
    with alone():
        run = tmp_path_factory.mktemp("run")
        save(run, 10, 20, 30, keep=3)
        yield run


def fell_back(run: Path, to: Path, caplog: pytest.LogCaptureFixture) -> bool:
    """Return whether both who look for a checkpoint take another, and say so."""
    caplog.clear()
    offline, problems = folder.newest_verified(folder.finished(run / "checkpoint"))
    found = restore.newest(run)
    return offline == found == to and bool(problems) and "FELL BACK" in caplog.text


def test_no_flipped_bit_and_no_cut_is_read_over(
    three, tmp_path, fault_seed, nightly, figure, caplog
):
    flips, draw = 1000 if nightly else 200, random.Random(fault_seed)
    run = shutil.copytree(three, tmp_path / "run")
    newest, previous = (folder.step_folder(run / "checkpoint", step) for step in (30, 20))
    files, silent = sorted(newest.iterdir()), 0
    assert len(files) == 4
    for n in range(flips):
        # Each file equally often: most of the bytes are in one.
        path = files[n % len(files)]
        whole = path.read_bytes()
        at, bit = draw.randrange(len(whole)), draw.randrange(8)
        content = bytearray(whole)
        content[at] ^= 1 << bit
        path.write_bytes(content)
        silent += not (folder.verify(newest) and fell_back(run, previous, caplog))
        path.write_bytes(whole)
        assert silent == 0, f"bit {bit} of byte {at} of {path}"
    assert folder.verify(newest) == []
    for n in range(20):
        path = files[n % len(files)]
        whole = path.read_bytes()
        os.truncate(path, at := draw.randrange(len(whole)))
        silent += not (folder.verify(newest) and fell_back(run, previous, caplog))
        path.write_bytes(whole)
        assert silent == 0, f"{path} cut at {at}"
    figure("R3", flips=flips, truncations=20, silent=silent)


def test_no_missing_additional_empty_or_linked_file_is_read_over(three, tmp_path, figure, caplog):
    kinds: dict[str, Callable[[Path], Any]] = {
        "missing": Path.unlink,
        "empty": lambda path: os.truncate(path, 0),
        "link": lambda path: path.symlink_to(shutil.move(path, tmp_path / f"moved_{path.name}")),
        "additional": lambda path: path.with_name("__7_0.distcp").touch(),
        "renamed": lambda path: path.rename(path.with_name("__8_0.distcp")),
        "of another step": lambda path: shutil.copy(
            three / "checkpoint/step_00000010" / folder.STATE, path.parent / folder.STATE
        ),
    }
    for kind, change in kinds.items():
        for name in sorted(path.name for path in (three / "checkpoint/step_00000030").iterdir()):
            run = shutil.copytree(three, tmp_path / f"{kind}_{name}")
            newest, previous = (folder.step_folder(run / "checkpoint", s) for s in (30, 20))
            change(newest / name)
            assert folder.verify(newest), (kind, name)
            assert fell_back(run, previous, caplog), (kind, name)
            (tmp_path / f"moved_{name}").unlink(missing_ok=True)
    figure("R3", kinds=list(kinds))


def test_without_a_whole_checkpoint_a_run_stops_and_renames_nothing(three, tmp_path):
    run = shutil.copytree(three, tmp_path / "run")
    for source in folder.finished(run / "checkpoint"):
        os.truncate(source / folder.STATE, 5)
    before = sorted(path.name for path in run.rglob("*"))
    with pytest.raises(ValueError, match="expected a checkpoint that is whole"):
        restore.choose("auto", run)
    assert sorted(path.name for path in run.rglob("*")) == before


def named(key: str, error: str) -> bool:
    """Return whether an error names a tensor; the balancer's, as it calls them itself."""
    return key.removeprefix(BALANCER) in error if key.startswith(BALANCER) else key in error


class Altered:
    """A checkpoint of a real model, and the model, either with a key less or a key more."""

    def __init__(self, config: Any, run: Path) -> None:
        from mbrec.distributed import process
        from mbrec.job import build, resume

        runtime = process.start()
        build.open_data(config, runtime)
        self.built = build.shard(config, runtime)
        self.layout = resume.layout(config, self.built)
        layout, hook = self.layout, self.built.hook
        state: dict[str, Any] = {"tasks": layout.tasks, "inputs": layout.inputs}
        state |= {"tables": layout.tables, "plan": layout.plan}
        state |= {"balancer": {"class": type(hook.balancer).__name__}}
        saver = Saver(run / "checkpoint", self.built.model, self.built.optimizer, background=False)
        saver.save_now(run_state(1, **state))
        self.source = folder.step_folder(saver.checkpoints, 1)
        self.index = (self.source / folder.METADATA).read_bytes()
        self.keys = list(tensors.collect(self.built.model, self.built.optimizer))

    def load(self) -> str:
        """Return the error of loading, or nothing."""
        built = self.built
        try:
            restore.load(self.source, built.model, built.hook, built.optimizer, self.layout)
        except ValueError as error:
            return str(error)
        return ""

    def load_saved(self, *, without: str | None = None, besides: str | None = None) -> str:
        """Return the error of loading a checkpoint that has a key less or a key more."""
        index = pickle.loads(self.index)
        end = (self.source / DATA).stat().st_size
        if without is not None:
            del index.state_dict_metadata[without]
            places = index.storage_data.items()
            index.storage_data = {key: place for key, place in places if key.fqn != without}
        if besides is not None:
            like = next(iter(index.state_dict_metadata.values()))
            none = metadata.ChunkStorageMetadata(torch.Size([0]), torch.Size([0]))
            more = metadata.TensorStorageMetadata(like.properties, torch.Size([0]), [none])
            index.state_dict_metadata[besides] = more
            place = filesystem._StorageInfo(DATA, end, 0)
            index.storage_data[metadata.MetadataIndex(besides, [0])] = place
        (self.source / folder.METADATA).write_bytes(pickle.dumps(index))
        return self.load()

    def load_into(self, *, without: str | None = None, besides: str | None = None) -> str:
        """Return the error of loading into a model that has a key less or a key more."""
        (self.source / folder.METADATA).write_bytes(self.index)
        collect = tensors.collect

        def collected(*args: Any) -> dict[str, Any]:
            content = {key: value for key, value in collect(*args).items() if key != without}
            return content if besides is None else content | {besides: torch.zeros(3)}

        with patch.object(tensors, "collect", collected):
            return self.load()


def undetected(config: Any, run: str) -> dict[str, list[str]]:
    """Return the keys that can be left out or added, on either side, without an error of theirs."""
    altered = Altered(config, Path(run))
    found: dict[str, list[str]] = {"keys": altered.keys, "tried": []}
    before = {key: value.clone() for key, value in local(altered).items()}

    def attempt(kind: str, key: str, error: str) -> None:
        found["tried"].append(key)
        if not named(key, error):
            found.setdefault(kind, []).append(f"{key}: {error!r}")

    for key in altered.keys:
        more = f"{key}_more"
        attempt("not saved", key, altered.load_saved(without=key))
        attempt("saved besides", more, altered.load_saved(besides=more))
        if not key.startswith(BALANCER):  # its keys come from the hook, not from the model
            attempt("not in the model", key, altered.load_into(without=key))
            attempt("in the model besides", more, altered.load_into(besides=more))
    assert all(torch.equal(before[key], value) for key, value in local(altered).items())
    assert altered.load_into() == ""
    return found


def local(altered: Altered) -> dict[str, torch.Tensor]:
    """Return the tensors themselves, on the one rank that there is."""
    content = tensors.collect(altered.built.model, altered.built.optimizer)
    return {
        key: value.local_shards()[0].tensor if hasattr(value, "local_shards") else value
        for key, value in content.items()
    }


def test_no_tensor_can_be_left_out_or_added(tiny_data, tmp_path, figure):
    (found,) = run_ranks(undetected, 1, tmp_path, compose(tiny_data), str(tmp_path / "run"))
    keys, tried = found.pop("keys"), found.pop("tried")
    assert found == {}
    parts = ("model.bottom.", "model.heads.hook.balancer.", "momentum1", "exp_avg_sq", "step")
    for part in parts:
        assert any(part in key for key in keys)
    figure("R6", keys=len(keys), changes=len(tried), undetected=0)


def test_no_forged_checkpoint_does_anything(three, tmp_path, figure):
    whole, ran = folder.step_folder(three / "checkpoint", 10), 0
    kinds = [Path, metadata.Metadata, metadata.TensorProperties, metadata.MetadataIndex]
    for n, forged in enumerate(FORGED):
        source, outside = forged.make(whole, tmp_path / str(n))
        before = sorted(outside.iterdir())
        with little_memory(1 << 30), unchanged(*kinds, *Path().__class__.__mro__[:-1]):
            refused_by, why = examine(source)
        ran += sorted(outside.iterdir()) != before
        assert refused_by == forged.refused_by, f"{forged.name}: {why}"
        shutil.rmtree(tmp_path / str(n))
    assert ran == 0
    figure("S1", files=len(FORGED), ran=ran)
