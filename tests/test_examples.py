"""The examples of docs/balancers.md run as they stand."""

import re
from pathlib import Path

import pytest
from ranks import run_command

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/balancers.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
PLAIN, DISTRIBUTED, CUSTOM = BLOCKS


def run(folder: Path, program: str, *words: str, processes: int = 0) -> str:
    done = run_command(program, *words, cwd=folder, processes=processes)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_loop_in_plain_pytorch_runs_and_is_thirty_lines(tmp_path):
    (tmp_path / "example.py").write_text(PLAIN)
    assert len(PLAIN.splitlines()) <= 33
    assert re.match(r"weights \[0\.\d+, 0\.\d+\] norms", run(tmp_path, "example.py"))
    assert (tmp_path / "hook.pt").exists()


@pytest.mark.slow
def test_the_loop_under_ddp_has_the_same_weights_on_both_ranks(tmp_path):
    (tmp_path / "example.py").write_text(DISTRIBUTED)
    weights = re.findall(r"\[0\.\d+, 0\.\d+\]", run(tmp_path, "example.py", processes=2))
    assert len(weights) == 2
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_the_recipe_for_a_balancer_of_your_own_trains_a_job(tmp_path, tiny_data):
    (tmp_path / "my_balancers.py").write_text(CUSTOM)
    (command,) = re.findall(r"scripts/train\.sh (balancer=custom .*)", PAGE)
    words = [word.strip("'") for word in command.split()]
    words += ["data/preset=tiny", f"data.path={tiny_data}", "run.name=mine", "trainer.steps=3"]
    assert "trained at" in run(tmp_path, "mbrec.train", *words, processes=2)
    saved = (tmp_path / "outputs/mine/config.yaml").read_text()
    assert "my_balancers.InverseNorm" in saved
    assert "power: 0.5" in saved


def test_the_recipe_is_the_one_that_the_readme_gives():
    readme = (ROOT / "README.md").read_text()
    assert "docs/balancers.md#a-balancer-of-your-own" in readme
    assert "### A balancer of your own" in PAGE


def test_every_method_is_on_the_page_and_in_the_readme():
    import mbrec.balance

    readme = (ROOT / "README.md").read_text()
    names = {n for n in mbrec.balance.__all__ if not n.endswith(("Balancer", "Hook"))}
    assert {name for name in names if f"| `{name}` |" not in PAGE} == set()
    assert {name for name in names - {"TorchJD"} if f"`{name}`" not in readme} == set()
