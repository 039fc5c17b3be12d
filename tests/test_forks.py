"""Commands that tests run in forks are as if they were started: see ranks.py."""

import time

from ranks import PRELOADED, run_command

SHOW = """
import os, sys
print(__name__, sys.argv[1:], os.getcwd(), os.environ.get("OWN"), os.environ.get("RANK"))
print("problem", file=sys.stderr)
sys.exit(int(sys.argv[1]))
"""
FAIL = """
import os, time
if os.environ["RANK"] == "1":
    raise SystemExit(7)
time.sleep(600)
"""


def test_the_server_has_imported_what_is_on_the_list(tmp_path):
    (tmp_path / "show.py").write_text("import sys\nprint(*sys.modules)")
    done = run_command("show.py", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(PRELOADED) <= set(done.stdout.split())


def test_a_command_has_its_own_arguments_folder_environment_and_status(tmp_path, monkeypatch):
    (tmp_path / "show.py").write_text(SHOW)
    monkeypatch.setenv("RANK", "5")
    for program in ("show.py", "show"):
        done = run_command(program, "3", cwd=tmp_path, OWN="x")
        assert done.stdout == f"__main__ ['3'] {tmp_path} x None\n"
        assert (done.returncode, done.stderr) == (3, "problem\n")


def test_a_rank_that_fails_ends_the_others_and_its_status_is_the_jobs(tmp_path):
    (tmp_path / "fail.py").write_text(FAIL)
    start = time.monotonic()
    assert run_command("fail.py", cwd=tmp_path, processes=2).returncode == 7
    assert time.monotonic() - start < 60
