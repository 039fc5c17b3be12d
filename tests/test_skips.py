"""A test may skip itself only for what the machine lacks, and not for what the set-up forgot."""

import re
from pathlib import Path

import pytest
from ranks import run_command

CONFTEST = Path(__file__).with_name("conftest.py")


@pytest.fixture
def conftest(request):
    """The conftest that this very session runs under."""
    (plugin,) = [
        plugin
        for plugin in request.config.pluginmanager.get_plugins()
        if getattr(plugin, "__file__", None) == str(CONFTEST)
    ]
    return plugin


@pytest.fixture
def judge(conftest):
    return conftest.skip_for_no_listed_reason


def test_every_reason_that_a_test_gives_is_on_the_list(conftest):
    pattern = r"(?:pytest\.skip\(\s*|\breason=)f?\"([^\"]+)\""
    found = [
        (path.name, reason)
        for path in CONFTEST.parent.rglob("test_*.py")
        if path.name != Path(__file__).name and "skip" in (text := path.read_text())
        for reason in re.findall(pattern, text)
    ]
    assert len(found) > 8
    assert [f for f in found if not f[1].startswith(conftest.REASONS_TO_SKIP)] == []


def skipped(reason: str, kind: type) -> pytest.TestReport | pytest.CollectReport:
    where = ("tests/test_x.py", 1, f"Skipped: {reason}")
    if kind is pytest.CollectReport:
        return pytest.CollectReport("tests/test_x.py", "skipped", where, [])
    return pytest.TestReport("tests/test_x.py::test", ("", 1, ""), {}, "skipped", where, "setup")


@pytest.mark.parametrize("kind", [pytest.TestReport, pytest.CollectReport])
def test_a_skip_for_another_reason_is_a_failure(judge, kind):
    report = skipped("could not import 'torchjd': No module named 'torchjd'", kind)
    judge(report)
    assert report.outcome == "failed"
    assert "could not import 'torchjd'" in str(report.longrepr)


def test_a_skip_for_a_listed_reason_is_none(judge):
    report = skipped("no chromium on PATH (apt-get install chromium)", pytest.TestReport)
    judge(report)
    assert report.outcome == "skipped"


def test_the_rule_is_applied_to_every_test_and_file(tmp_path):
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text())
    (tmp_path / "test_one.py").write_text(
        "import pytest\n\ndef test_it():\n    pytest.skip('forgotten')\n"
    )
    (tmp_path / "test_two.py").write_text("import pytest\npytest.importorskip('no_such_package')\n")
    words = ["-p", "no:cacheprovider", "-q", "--continue-on-collection-errors", tmp_path]
    alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # plugins take seconds to load
    done = run_command("pytest", *words, cwd=tmp_path, **alone)
    assert done.returncode != 0
    assert "got: forgotten" in done.stdout
    assert "got: could not import 'no_such_package'" in done.stdout
