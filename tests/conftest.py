"""Settings and fixtures that every test shares."""

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from torch._C._distributed_c10d import HashStore

# A third of the time that collecting tests takes is garbage collection, and there is no garbage.
gc.disable()
# Two processes of a distributed test share two cores with the test itself.
torch.set_num_threads(1)

# Test modules import `ranks`, `jobs` and `faults`, which lie beside this file.
sys.path.insert(0, str(Path(__file__).parent))

# Examples are not stored, and are the same ones in each run of CI.
settings.register_profile("here", deadline=None, database=None, derandomize="CI" in os.environ)
settings.load_profile("here")

FAULTS = Path(__file__).parent / "faults"
pytest_plugins = ["logs"]
# What a machine may lack. A test that skips itself for any other reason fails.
REASONS_TO_SKIP = (
    "no chromium on PATH",  # draws a report's page
    "hadolint is not installed",  # of `scripts/setup.sh dev`, as the next
    "shellcheck is not installed",
    "MBREC_KUAIRAND_RAW does not name a folder",  # real impressions, which nobody may commit
    "no file system can be mounted here",  # needs root
    "makes namespaces, which needs root",
    "there is no command to take an address away",  # iproute2
    "another system may have that address",  # Linux
    "the counts are known for the log of",  # another part of KuaiRand
    "reads /proc",  # Linux
    "makes namespaces, which needs root",
)
FIGURES: dict[str, dict[str, object]] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption("--nightly", action="store_true", help="the long version of the fault suite")
    group.addoption(
        "--figures", type=Path, help="write the fault suite's figures to this JSON file"
    )
    group.addoption("--fault-seed", type=int, default=None, help="replay faults with this seed")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The fault suite runs when it is asked for: by its mark, or by its path. Slow files first.

    Its tests outside of its folder carry the mark themselves; they run with it, once, or where
    their file or folder is named.
    """
    wanted = "faults" in config.option.markexpr or any("faults" in a for a in config.args)
    named = {Path(argument.partition("::")[0]).resolve() for argument in config.args}
    named.discard(FAULTS.parent)
    left = []
    for item in items:
        if FAULTS in item.path.parents:
            item.add_marker(pytest.mark.faults)
        asked = wanted or named & {item.path, *item.path.parents}
        if item.get_closest_marker("faults") and not asked:
            continue
        if config.option.nightly or not item.get_closest_marker("nightly"):
            left.append(item)
    if len(left) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in left])
    # Of two workers that take a file at a time, none shall begin a long one when the other is done.
    slow = {item.path for item in left if item.get_closest_marker("slow")}
    items[:] = sorted(left, key=lambda item: item.path not in slow)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """Collect garbage from here on, but never what was imported and collected: it all stays."""
    gc.freeze()
    gc.enable()


def skip_for_no_listed_reason(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure, unless the machine lacks what is on the list."""
    if report.outcome != "skipped" or hasattr(report, "wasxfail"):
        return
    assert isinstance(report.longrepr, tuple)
    reason = str(report.longrepr[2]).removeprefix("Skipped: ")
    if not reason.startswith(REASONS_TO_SKIP):
        report.outcome = "failed"
        report.longrepr = f"expected a reason of tests/conftest.py for a skip, got: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    skip_for_no_listed_reason(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    skip_for_no_listed_reason(report)
    return report


@pytest.fixture
def nightly(request: pytest.FixtureRequest) -> bool:
    """Whether the long version was asked for."""
    return bool(request.config.option.nightly)


@pytest.fixture
def fault_seed(request: pytest.FixtureRequest) -> int:
    """A seed of this run, printed where a test fails; `--fault-seed=N` replays it."""
    given = request.config.option.fault_seed
    seed = int.from_bytes(os.urandom(4), "little") if given is None else given
    print(f"replay with --fault-seed={seed}")
    return seed


@pytest.fixture
def figure(request: pytest.FixtureRequest):
    """Call `figure("R2", kills=20, lost=0)`: what a fault test measured, for `--figures`."""

    def note(row: str, **values: object) -> None:
        FIGURES.setdefault(row, {}).update(values)

    return note


@pytest.fixture
def store() -> HashStore:
    """An empty store, as ranks share one."""
    return HashStore()


@pytest.fixture
def process(
    store: HashStore, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[int], "subprocess.Popen[bytes]"]]:
    """Starts a process that sleeps, as a rank which torchrun started beside this one."""
    from mbrec.distributed.processes import KEY, add, entry

    monkeypatch.setattr(os, "getppid", os.getpid)
    started: list[subprocess.Popen[bytes]] = []

    def start(number: int) -> "subprocess.Popen[bytes]":
        started.append(subprocess.Popen(["sleep", "600"]))
        add(store, KEY, entry(number, started[-1].pid))
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.wait()


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.option.figures
    if path is not None and FIGURES:
        rows = dict(sorted(FIGURES.items(), key=lambda item: (item[0][0], int(item[0][1:]))))
        suite = "nightly" if session.config.option.nightly else "quick"
        path.write_text(json.dumps({"suite": suite, "rows": rows}, indent=1) + "\n")


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder that holds the tiny synthetic data set, as `data.path` expects it."""
    from jobs import compose

    from mbrec.prepare.synthetic.files import write

    folder = tmp_path_factory.mktemp("synthetic")
    settings = compose(folder).data.synthetic
    assert settings is not None
    write(settings, folder / settings.fingerprint)
    return folder
