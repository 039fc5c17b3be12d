"""Files that come with a checkpoint or a data set are data: nothing planted in them runs."""

import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from jobs import compose
from omegaconf import OmegaConf
from torch import distributed as dist

from mbrec.columns import manifest
from mbrec.columns.expression import parse
from mbrec.columns.schema import Categorical, Columns
from mbrec.config import saved as config
from mbrec.config.settings import Config, Data
from mbrec.distributed import process
from mbrec.distributed.process import Runtime
from mbrec.job import build, readers
from mbrec.prepare.describe.command import Options, describe
from mbrec.prepare.writer import DatasetWriter
from mbrec.reader import dataset
from mbrec.reader.source import open_store

SECRET = "a_secret_that_no_error_may_tell"
CANARIES = {"antigravity", "mbrec_canary"}
CANARY = """
from pathlib import Path
Path({marker!r}).touch()
class Thing:
    def __init__(self, *args, **kwargs): Path({marker!r}).touch()
"""
PLACE = "PAYLOAD_GOES_HERE"
TOUCH = "touch $MARKER"
STARTS = ("os.system", "os.exec", "os.spawn", "os.posix_spawn", "os.fork", "subprocess.Popen")
STARTS += ("socket.connect", "socket.getaddrinfo")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass
class Watch:
    """What the process did, as far as Python's audit events tell, while it was looked at."""

    on: bool = False
    started: list[str] = field(default_factory=list)
    read: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)

    def note(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open" and isinstance(args[0], str | bytes):
            mode, flags = args[1] or "", args[2] or 0
            path = os.path.abspath(os.fsdecode(args[0]))
            writes = flags & WRITES or set(mode) & set("wax+")
            # Modules that are imported for the first time leave their bytecode.
            if not writes:
                self.read.append(path)
            elif "__pycache__" not in path:
                self.written.append(path)
        elif event in ("os.mkdir", "os.remove", "os.rename", "os.link", "os.symlink"):
            path = os.path.abspath(os.fsdecode(args[0]))
            if "__pycache__" not in path:
                self.written.append(path)
        elif event.startswith(STARTS):
            self.started.append(event)


@pytest.fixture(scope="module")
def watch() -> Iterator[Watch]:
    # An audit hook stays as long as the process: this one is silent after these tests.
    watch = Watch()
    sys.addaudithook(watch.note)
    yield watch
    watch.on = False


@dataclass
class Place:
    """A data set, a run that was trained on it, and what lies beside them."""

    root: Path
    watch: Watch
    runtime: Runtime

    @property
    def data(self) -> Path:
        return self.root / "inside/data"

    @property
    def run(self) -> Path:
        return self.root / "inside/run"

    @property
    def outside(self) -> Path:
        return self.root / "outside"

    @property
    def marker(self) -> Path:
        return self.outside / "marker"

    def fill_in(self, text: str) -> str:
        for name in ("marker", "outside", "data", "run"):
            text = text.replace(f"${name.upper()}", str(getattr(self, name)))
        return text

    def use(self) -> Config:
        """Do what `mbrec.evaluate` does with a run, up to its model."""
        found = config.load(self.run / "config.yaml", ["runtime.plugins=[]"])
        readers.evaluation_reader(found, self.runtime, self.run)
        build.balance_hook(found, build.bottom(found))
        return found

    def attempt(self, action: Callable[[], Any]) -> ValueError | None:
        """Return the refusal, if there is one, and make sure that nothing else happened."""
        before, refusal = set(sys.modules), None
        listing = sorted(self.outside.rglob("*"))
        self.watch.started, self.watch.read, self.watch.written = [], [], []
        self.watch.on = True
        try:
            action()
        except ValueError as error:
            refusal = error
        finally:
            self.watch.on = False
        new = set(sys.modules) - before
        assert not self.marker.exists()
        assert sorted(self.outside.rglob("*")) == listing
        assert not CANARIES & set(sys.modules)
        assert not {
            name for name in new if name.startswith(("research.bench", "mbrec.prepare.synth"))
        }
        assert self.watch.started == []
        assert self.watch.written == []
        beyond = (str(self.outside), "/etc/passwd", "/etc/shadow")
        assert [path for path in self.watch.read if path.startswith(beyond)] == []
        assert SECRET not in str(refusal)
        return refusal


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Iterator[Runtime]:
    """This process in a group of its own, which a hook needs."""
    with pytest.MonkeyPatch.context() as patch:
        alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        for key, value in (alone | {"GLOO_SOCKET_IFNAME": "lo"}).items():
            patch.setenv(key, value)
        if not dist.is_initialized():
            store = tmp_path_factory.mktemp("group") / "store"
            dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
        yield process.start()
        dist.destroy_process_group()


def rows(n: int) -> pa.Table:
    columns = {"user": np.arange(n) % 7, "city": [f"city {k % 3}" for k in range(n)]}
    return pa.table(columns | {"click": pa.array(np.arange(n) % 2, pa.int8())})


@pytest.fixture(scope="module")
def original(tmp_path_factory, watch, alone) -> Place:
    """What each test gets a copy of."""
    found = Place(tmp_path_factory.mktemp("original"), watch, alone)
    found.outside.mkdir()
    (found.outside / "refs.json").write_text('{"version": 1, "refs": {}}')
    found.data.parent.mkdir()
    table = rows(60)
    with DatasetWriter(found.data, table.schema, labels=["click"]) as writer:
        writer.add("train", table)
        writer.add("test", table)
        writer.finish()
    pq.write_table(table, found.outside / "secret.parquet")
    settings = compose(found.root, "tasks=[ctr]")
    features = {"user": Categorical(), "city": Categorical()}
    columns = Columns(features, labels={"click": "click"})
    settings.data = Data(str(found.data), ["train/*.parquet"], ["test/*.parquet"], columns)
    store = readers.open_data(settings, alone)
    found.run.mkdir()
    OmegaConf.save(OmegaConf.structured(settings), found.run / "config.yaml")
    columns = settings.data.columns
    dataset.save_vocabularies(columns, store, dataset.load_vocabularies(columns, store), found.run)
    (found.root / "path").mkdir()
    return found


@pytest.fixture
def place(original, tmp_path, monkeypatch) -> Place:
    found = replace(original, root=tmp_path)
    shutil.copytree(original.root, tmp_path, dirs_exist_ok=True)
    path = found.run / "config.yaml"
    path.write_text(path.read_text().replace(str(original.root), str(tmp_path)))
    (tmp_path / "path/mbrec_canary.py").write_text(CANARY.format(marker=str(found.marker)))
    monkeypatch.syspath_prepend(tmp_path / "path")
    monkeypatch.setenv("MBREC_SECRET", SECRET)
    return found


def plant(place: Place, key: str, raw: str) -> None:
    """Put YAML in the place of a value of the saved configuration; a key may be a new one."""
    path = place.run / "config.yaml"
    content = yaml.safe_load(path.read_text())
    *parents, last = key.split("|")
    at = content
    for parent in parents:
        at = at.setdefault(parent, {})
    at[last] = PLACE
    text = yaml.safe_dump(content, width=10_000)
    path.write_text(text.replace(PLACE, place.fill_in(raw)))


def test_the_run_in_which_payloads_are_planted_is_one_that_works(place):
    assert place.attempt(place.use) is None
    assert str(place.data / "test/part-00000.parquet") not in place.watch.read  # it is Arrow's
    plant(place, "run|name", "fine")
    assert place.attempt(place.use) is None


def test_what_is_watched_for_would_be_seen(place):
    with pytest.raises(AssertionError):
        place.attempt(lambda: (place.outside / "refs.json").read_text())
    with pytest.raises(AssertionError):
        place.attempt(lambda: os.system("true"))
    with pytest.raises(AssertionError):
        place.attempt(lambda: (place.root / "elsewhere").write_text(""))
    with pytest.raises(AssertionError):
        place.attempt(lambda: __import__("mbrec_canary"))
    del sys.modules["mbrec_canary"]


TAGS = [
    f'!!python/object/apply:os.system ["{TOUCH}"]',
    f'!<tag:yaml.org,2002:python/object/apply:os.system> ["{TOUCH}"]',
    '!!python/object/new:subprocess.Popen [["touch", "$MARKER"]]',
    "!!python/object/apply:builtins.exec [\"open('$MARKER', 'w')\"]",
    "!!python/object/apply:builtins.eval [\"open('$MARKER', 'w')\"]",
    "!!python/object:mbrec.prepare.writer.DatasetWriter {folder: $MARKER}",
    "!!python/name:mbrec_canary.Thing ''",
    "!!python/module:antigravity ''",
    '!!python/object/apply:pathlib.PosixPath ["$MARKER"]',
    '!!python/tuple ["$MARKER"]',
    "!!binary eA==",
    "!!str text",
    "!!set {a, b}",
    "!local text",
    "! text",
]
NOT_PLAIN = [
    "&anchor text",
    "&a [*a]",
    "*nothing",
    "[&a [x,x,x,x,x,x,x,x,x], &b [*a,*a,*a,*a,*a,*a,*a], &c [*b,*b,*b,*b,*b,*b,*b], *c]",
    "{<<: {a: b}}",
    "{1: a}",
    "{a: b, a: c}",
    "{? [a, b] : c}",
    "[" * 30 + "]" * 30,
    "[" * 200_000,
    "9" * 100_000,
    "1" + ":1" * 100_000,
    '"' + "x" * (1 << 20) + '"',
    "text\n---\nrun: {name: other}",
    "text\n...\n---\n{}",
    '"\\x00',
]
INTERPOLATIONS = [
    "${oc.env:MBREC_SECRET}",
    '"${oc.env:MBREC_SECRET}"',
    "in ${oc.env:${oc.env:MBREC_SECRET}} and around",
    "\\${oc.env:MBREC_SECRET}",
    "\\\\${oc.env:MBREC_SECRET}",
    "\"${oc.decode:'[1, 2]'}\"",
    '"${oc.create:{a: 1}}"',
    "${oc.select:data.path}",
    '"${oc.dict.values:data}"',
    "${data.path}",
    "${rank_zero:a,b}",
    "${hydra:runtime.cwd}",
    "${now:%Y}",
    "${run:touch $MARKER}",
]


@pytest.mark.parametrize("raw", TAGS + NOT_PLAIN + INTERPOLATIONS, ids=lambda raw: raw[:50])
def test_a_saved_configuration_is_plain_data(raw, place):
    plant(place, "run|name", raw)
    refusal = place.attempt(place.use)
    assert refusal is not None
    assert str(refusal).startswith(str(place.run / "config.yaml"))
    assert len(str(refusal)) < 400


TARGETS = [
    "torch.load",
    "torch.hub.load",
    "functools.partial",
    "itertools.chain",
    "builtins.exec",
    "builtins.eval",
    "builtins.print",
    "builtins.__import__",
    "os.system",
    "subprocess.Popen",
    "pathlib.Path.write_text",
    "importlib.import_module",
    "hydra.utils.instantiate",
    "hydra._internal.utils._locate",
    "antigravity.geohash",
    "mbrec_canary.Thing",
    "mbrec.prepare.writer.DatasetWriter",
    "research.bench.__main__.main",
    "research.bench.job.main",
    "mbrec.check.main",
    "mbrec.config.composer.Path",
    "mbrec.job.build.os.system",
    "mbrec.job.build.torch.load",
    "mbrec.balance.hook.torch.load",
    "mbrec.balance.methods.torchjd.importlib.import_module",
    "mbrec.balance.methods.torchjd.Mapping",
    "mbrec.balance.BalanceHook",
    "mbrec.balance.__loader__",
    "mbrec.balance.__class__",
    "mbrec.config.instantiate.instantiate",
    "mbrec.model.ranker.Ranker",
    "mbrec.monitor.monitor.Monitor",
    "mbrec.training.trainer.Trainer",
    "mbrec.model.interactions.dcn.nn.Linear",
    "mbrec.model.interactions.dcn.CrossNet",
    "mbrec.model.interactions.dcn.Sequence",
    "mbrec.model.interactionsque.Thing",
    "mbrec..balance.Equal",
    ".mbrec.balance.Equal",
    "mbrec.balance.Equal.",
    "mbrec.balance.Equal.__init__",
    "mbrec/balance.Equal",
    "mbrec.balance.../../outside/mbrec_canary.Thing",
    '"mbrec.balance.Equal\\n"',
    "mbrec",
    "''",
    "null",
    "3",
    "[os.system]",
    "{_target_: os.system}",
]


@pytest.mark.parametrize("part", ["balancer", "model|interaction"])
@pytest.mark.parametrize("target", TARGETS)
def test_a_target_is_a_class_of_its_kind_or_is_not_called(target, part, place):
    plant(place, part, f'{{_target_: {target}, folder: $MARKER, args: ["{TOUCH}"]}}')
    refusal = place.attempt(place.use)
    assert refusal is not None
    assert "_target_" in str(refusal)
    # And without an argument that might be what it stumbles over.
    plant(place, part, f"{{_target_: {target}}}")
    refusal = place.attempt(place.use)
    assert refusal is not None
    assert "_target_" in str(refusal)


NESTED = '{_target_: subprocess.Popen, args: ["touch", "$MARKER"]}'
ARGUMENTS = [
    ("balancer", "{_target_: mbrec.balance.Equal, _partial_: true}"),
    ("balancer", "{_target_: mbrec.balance.Equal, _recursive_: true}"),
    ("balancer", "{_target_: mbrec.balance.Equal, _convert_: all}"),
    ("balancer", "{_target_: mbrec.balance.Equal, _args_: [3]}"),
    ("balancer", "{_target_: mbrec.balance.Equal, num_tasks: 3}"),
    ("balancer", f"{{_target_: mbrec.balance.Equal, scale: {NESTED}}}"),
    ("balancer", f"{{_target_: mbrec.balance.Static, weights: [{NESTED}]}}"),
    ("balancer", f"{{_target_: mbrec.balance.Static, weights: {NESTED}}}"),
    ("balancer", f"{{_target_: mbrec.balance.MultiBalance, beta: {NESTED}}}"),
    ("balancer", f"{{_target_: mbrec.balance.TorchJD, weighting: {NESTED}}}"),
    ("balancer", "{_target_: mbrec.balance.TorchJD, weighting: importlib.import_module}"),
    ("balancer", "{_target_: mbrec.balance.TorchJD, weighting: __import__}"),
    ("model|interaction", "{_target_: mbrec.model.interactions.dcn.DCN, _args_: [3]}"),
    ("model|interaction", "{_target_: mbrec.model.interactions.dcn.DCN, _partial_: true}"),
    ("model|interaction", f"{{_target_: mbrec.model.interactions.dcn.DCN, hidden: [{NESTED}]}}"),
    ("model|interaction", f"{{_target_: mbrec.model.interactions.dcn.DCN, hidden: {NESTED}}}"),
    ("model|interaction", f"{{_target_: mbrec.model.interactions.dcn.DCN, low_rank: {NESTED}}}"),
    ("data", NESTED),
    ("data|synthetic", NESTED),
    ("data|columns", NESTED),
    ("data|columns|categorical|user", NESTED),
    ("data|columns|labels|click", NESTED),
    ("data|columns|oracle", f"{{ctr: {NESTED}}}"),
    ("data|columns|categorical|user|table", NESTED),
    ("model|sharding", f"{{user: {NESTED}}}"),
    ("data|evaluation", f"[{NESTED}]"),
    ("data|path", NESTED),
    ("trainer", NESTED),
    ("trainer|seed", NESTED),
    ("tasks|ctr", NESTED),
    ("run", NESTED),
    ("_target_", "os.system"),
    ("hydra", "{run: {dir: $MARKER}, callbacks: {a: {_target_: os.system}}}"),
    ("defaults", "[/experiment/ads_equal, _self_]"),
    ("defaults", "['file://$OUTSIDE/evil.yaml']"),
    ("nothing", "$MARKER"),
]


@pytest.mark.parametrize(("key", "raw"), ARGUMENTS, ids=lambda text: text[:60])
def test_what_lies_in_a_configuration_is_never_built_or_composed(key, raw, place):
    plant(place, key, raw)
    assert place.attempt(place.use) is not None


def test_plugins_of_a_file_are_none(place):
    plant(place, "balancer", "{_target_: mbrec_canary.Thing}")
    plant(place, "runtime|plugins", "[mbrec_canary, os, subprocess, antigravity]")
    refusal = place.attempt(place.use)
    assert "expected a class of mbrec in _target_" in str(refusal)


LABELS = [
    f"__import__('os').system('{TOUCH}')",
    "open('$MARKER', 'w')",
    "exec(\"open('$MARKER', 'w')\")",
    "click.__class__.__mro__[1].__subclasses__()",
    "(lambda: click)()",
    "[click for click in click]",
    "click if click else exec('')",
    "f'{click}'",
    "(x := click)",
    "click @ click",
    "click ** 99999999",
    "'a' * 99999999 == click",
    "click[0]",
    "click + await_(1)",
    "click; import os",
    "__import__",
    "(" * 300 + "click" + ")" * 300,
    "click" + " + click" * 400,
]
PATHS = [
    "../../outside/secret.parquet",
    "vocabulary/../../../outside/secret.parquet",
    "$OUTSIDE/secret.parquet",
    "/etc/passwd",
    "file:///etc/passwd",
    "file://$OUTSIDE/secret.parquet",
    "https://example.com/x.parquet",
    "s3://bucket/x.parquet",
    "..\\outside\\secret.parquet",
    ".hidden.parquet",
    "vocabulary/\0.parquet",
    "vocabulary/*.parquet",
    "C:/x.parquet",
    "",
]


@pytest.mark.parametrize("label", LABELS, ids=lambda label: label[:40])
def test_a_label_is_an_expression_over_columns(label, place):
    plant(place, "data|columns|labels|click", json.dumps(label))
    assert place.attempt(place.use) is not None


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_a_vocabulary_lies_in_the_folder_of_the_run(path, place):
    plant(place, "data|columns|categorical|city|vocabulary", json.dumps(path))
    assert place.attempt(place.use) is not None


@pytest.mark.parametrize(
    ("key", "raw"),
    [
        ("data|evaluation", "['../../outside/*.parquet']"),
        ("data|evaluation", "['test/../../../outside/*.parquet']"),
        ("data|evaluation", "['$OUTSIDE/*.parquet']"),
        ("data|evaluation", "['file://$OUTSIDE/*.parquet']"),
        ("data|evaluation", "['/etc/*']"),
        ("data|path", "'reference::file://$OUTSIDE/refs.json'"),
        ("data|path", "'simplecache::file://$OUTSIDE'"),
        ("data|path", "'zip://a::file://$OUTSIDE/refs.json'"),
        ("data|path", "'python://os.system'"),
    ],
)
def test_files_are_looked_for_in_the_folder_of_the_data_set(key, raw, place):
    plant(place, key, raw)
    assert place.attempt(place.use) is not None


@pytest.mark.parametrize("text", [f"__import__('os').system('{TOUCH}')", "os.system", "$(id)"])
def test_text_that_looks_like_code_is_text(text, place):
    plant(place, "run|name", json.dumps(text))
    assert place.attempt(place.use) is None
    assert config.load(place.run / "config.yaml", []).run.name == place.fill_in(text)


def test_only_the_command_line_may_refer_to_the_environment(place):
    loaded = config.load(place.run / "config.yaml", ["run.name=${oc.env:MBREC_SECRET}"])
    assert loaded.run.name == SECRET


STRINGS = ["1e3", "1.5e3", ".5", "yes", "null", "~", "", " a ", "1_0", "0x1F", "2020-01-01", "1:30"]
STRINGS += ["=", "<", "!x", "&x", "*x", "a: b", "a #b", "a\nb", "\t", "'", '"', "ä\u2028b", "- x"]


def test_what_is_saved_comes_back_as_it_was(tmp_path):
    content = {"strings": STRINGS, "by key": dict.fromkeys(filter(None, STRINGS), 1)}
    content |= {"numbers": [1, -2, 1e-8, 1.5e300, float("inf"), 0.1, True, False, None]}
    content |= {"empty": [[], {}, [[]], {"a": {}}]}
    OmegaConf.save(OmegaConf.create(content), tmp_path / "saved.yaml")
    found = config.read(tmp_path / "saved.yaml", object)
    assert found == content
    assert repr(found["numbers"]) == repr(content["numbers"])


SHA = "0" * 64


def put(key: str, value: Any) -> Callable[[Place], None]:
    """Return what sets a value of the manifest; keys may be new.

    The digest is made to fit: it is no secret, and whoever plants something can make it.
    """

    def edit(place: Place) -> None:
        path = place.data / "manifest.json"
        content = json.loads(path.read_text())
        *parents, last = (place.fill_in(part) for part in key.split("|"))
        at = content
        for parent in parents:
            at = at[parent]
        at[last] = value
        content.pop("digest")
        # NaN and infinities have no text that a manifest would be written with.
        whole = all(map(math.isfinite, [value] if isinstance(value, float) else []))
        path.write_text(manifest.sealed(content) if whole else json.dumps(content))

    return edit


def text(content: str) -> Callable[[Place], None]:
    """Return what replaces the manifest."""
    return lambda place: (place.data / "manifest.json").write_text(content) and None


def link(name: str, target: str) -> Callable[[Place], None]:
    """Return what puts a link in the place of a file or folder of the data set."""

    def edit(place: Place) -> None:
        path, to = place.data / name, Path(place.fill_in(target))
        moved = place.outside / "moved" / name
        moved.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.rename(moved)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(to)

    return edit


def sparse(name: str) -> Callable[[Place], None]:
    def edit(place: Place) -> None:
        with (place.data / name).open("r+b") as file:
            file.truncate(1 << 40)

    return edit


FILE = {"rows": 0, "bytes": 4, "sha256": SHA}
PART = "files|test/part-00000.parquet"
DATA_PATHS = [*PATHS, "~root/x/../..", "train//x", "train/./x", "train/\n", "x" * 2_000, "train/"]
PLANTED = {
    **{f"file {path[:30]!r}": put(f"files|{path}", FILE) for path in DATA_PATHS},
    **{f"split {path[:30]!r}": put(f"splits|{path}", {"rows": 0}) for path in DATA_PATHS},
    **{f"vocabulary {p[:30]!r}": put("columns|city|vocabulary", p) for p in DATA_PATHS},
    "vocabulary that is an object": put("columns|city|vocabulary", {"_target_": "os.system"}),
    "file that is an object": put(PART, {"_target_": "os.system", "args": [TOUCH]}),
    "files that are a list": put("files", [["os.system", TOUCH]]),
    "file by another name": put("files|train/__import__('os').parquet", FILE),
    "link to a file": link("test/part-00000.parquet", "$OUTSIDE/secret.parquet"),
    "link to the file": link("test/part-00000.parquet", "$OUTSIDE/moved/test/part-00000.parquet"),
    "link to the folder": link("test", "$OUTSIDE/moved/test"),
    "link up": link("test/part-00000.parquet", "../../../outside/secret.parquet"),
    "link to nothing": link("test/part-00000.parquet", "$MARKER"),
    "link to a device": link("test/part-00000.parquet", "/dev/zero"),
    "link of a vocabulary": link("vocabulary/city.parquet", "$OUTSIDE/secret.parquet"),
    "link not in the manifest": link("test/part-00001.parquet", "$OUTSIDE/secret.parquet"),
    "rows": put(f"{PART}|rows", 2**62),
    "bytes": put(f"{PART}|bytes", 2**62),
    "more than bytes": put(f"{PART}|bytes", 2**64),
    "rows of a split": put("splits|test|rows", 2**62),
    "a file of a terabyte": sparse("test/part-00000.parquet"),
    "a manifest of a terabyte": sparse("manifest.json"),
    "lists in lists": text("[" * 100_000),
    "objects in objects": text('{"a":' * 100_000),
    "NaN": put("columns|user|mean", float("nan")),
    "Infinity": put("columns|user|max", float("inf")),
    "1e999": text('{"version": 1, "files": {}, "splits": {}, "columns": {"u": {"std": 1e999}}}'),
    "a rate of NaN": put("splits|test|label_rates|click", float("nan")),
    "many digits": text('{"version": ' + "9" * 100_000 + "}"),
    "a version of another kind": put("version", "1; import os"),
    "YAML": text("!!python/object/apply:os.system [x]"),
    "nothing": text(""),
}


@pytest.mark.parametrize("plant_in", PLANTED.values(), ids=PLANTED.keys())
def test_a_manifest_is_data_and_its_files_lie_in_its_folder(plant_in, place):
    plant_in(place)
    assert place.attempt(place.use) is not None


def test_links_that_a_pattern_finds_lead_nowhere_either(place):
    (place.data / "more").symlink_to(place.outside)
    plant(place, "data|evaluation", "['**/*.parquet']")
    assert "got a link to" in str(place.attempt(place.use))


CODE = f"__import__('os').system('{TOUCH}')"


@pytest.mark.parametrize(
    "plant_in",
    [
        put(f"columns|{CODE}", {"note": CODE, "first": "${oc.env:MBREC_SECRET}"}),
        put(f"splits|test|label_rates|{CODE}", 0.5),
        put("notes", {"_target_": "os.system", CODE: ["!!python/name:os.system", CODE]}),
        put("columns|user|_target_", "os.system"),
    ],
    ids=["column", "label", "notes", "target"],
)
def test_names_in_a_manifest_are_names(plant_in, place):
    plant_in(place)
    assert place.attempt(place.use) is None


NAMES = [
    "${oc.env:MBREC_SECRET}",
    "\\${oc.env:MBREC_SECRET}",
    "\\\\${oc.env:MBREC_SECRET}",
    "a ${oc.env:${oc.env:MBREC_SECRET}} b",
    "${",
    f'!!python/object/apply:os.system ["{TOUCH}"]',
    "a\nlabels: !!python/name:mbrec_canary.Thing ''",
    "a\u2028labels: !!python/name:mbrec_canary.Thing ''",
    "a\x85b: c\x7f",
    'quote" }, _target_: os.system, {"',
    "it's",
    "# comment",
    "a: b",
    "{a: b}",
    "&a",
    "*a",
    "<<",
    "? x",
    "- x",
    "%TAG ! x",
    "---",
    "~",
    ".inf",
    ".5",
    "1e5",
    "0x1F",
    "yes",
    "null",
    "_target_",
    "😀",
]


def drafted(place: Place, folder: Path, capsys: pytest.CaptureFixture[str]) -> Columns:
    """Return the columns of the draft for a folder, composed as a job would."""
    assert place.attempt(lambda: describe(str(folder), Options.parse(["plot=none"]))) is None
    draft = capsys.readouterr().out
    node = OmegaConf.create(draft)
    assert set(node) == {"path", "train", "evaluation", "columns"}
    assert node.path == str(folder)
    merged = OmegaConf.merge(OmegaConf.structured(Columns), node.columns)
    columns = OmegaConf.to_object(merged)
    assert isinstance(columns, Columns)
    assert SECRET not in draft + str(columns)
    return columns


def test_columns_of_any_name_are_quoted_in_a_draft(place, capsys):
    random = np.random.default_rng(0)
    names = {place.fill_in(name): f"{place.fill_in(name)} clicked" for name in NAMES}
    table = {"user": random.integers(0, 50, 500)}
    for name, label in names.items():
        table |= {name: random.random(500), label: random.integers(0, 2, 500).astype(np.int8)}
    folder = place.root / "inside/odd"
    folder.mkdir()
    pq.write_table(pa.table(table), folder / "part-0.parquet")
    columns = drafted(place, folder, capsys)
    # Two are outcomes by their names, and no inputs.
    inputs = set(names) - {"# comment", "_target_"}
    assert {f.column or name for name, f in columns.numerical.items()} == inputs
    labels = {column for text in columns.labels.values() for column in parse(text).columns}
    assert labels == {label for label in names.values() if "`" not in label}
    store = open_store(str(folder))
    assert dataset.resolve(columns, None, store) == columns


def test_there_are_as_many_payloads_as_the_figures_say(figure):
    """The tests above run each of them; a failure there is a payload that ran."""
    configs = [*TAGS, *NOT_PLAIN, *INTERPOLATIONS, *TARGETS, *TARGETS, *ARGUMENTS, *LABELS, *PATHS]
    assert len(configs) >= 40
    assert len(PLANTED) >= 40
    figure("S2", payloads=len(configs), ran=0)
    figure("S3", manifests=len(PLANTED), ran_or_led_out=0)
