"""The README's walk from a newcomer's own CSV to a trained model, by the commands that it has."""

import re
import shlex
import shutil
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
import yaml
from ranks import run_command

ROOT = Path(__file__).parents[1]


def commands() -> list[str]:
    """Return the five commands of the README's section."""
    section = (ROOT / "README.md").read_text().split("## Your own data")[1].split("\n## ")[0]
    block = next(part for part in section.split("\n\n") if part.startswith("    scripts/setup.sh"))
    return [re.sub(r"\s+# .*", "", line).strip() for line in block.splitlines()]


def write_csv(path: Path, rows: int = 3_000) -> None:
    """Write a log as the README shows one: strings, lists, missing values, and equal rows."""
    random = np.random.default_rng(5)
    lines = ["time,user,city,tags,price,clicked,bought"]
    for second in range(rows):
        city = random.choice(["Oslo", "Lima", "Kyōto", ""], p=[0.5, 0.3, 0.1, 0.1])
        tags = "|".join(random.choice(["new", "sale", "kids"], random.integers(0, 3)))
        price = "" if random.random() < 0.1 else f"{random.exponential(20):.2f}"
        clicked = int(random.random() < (0.5 if city == "Oslo" else 0.2))
        bought = int(clicked and random.random() < 0.4)
        day, second = divmod(second * 300, 86_400)
        clock = f"2026-03-{1 + day:02d} {second // 3600:02d}:{second // 60 % 60:02d}:00"
        lines.append(f"{clock},u{random.integers(200)},{city},{tags},{price},{clicked},{bought}")
    lines.append(lines[1])
    path.write_text("\n".join(lines) + "\n")


def run(command: str, folder: Path) -> "CompletedProcess[str]":
    """Run one of the commands in a folder that has the repository's scripts and configurations."""
    match shlex.split(command):
        case ["scripts/train.sh", *words]:
            # The folder of the drafts is this test's, and not the repository's.
            words = ["--config-dir", str(folder / "configs"), *words]
            words += ["trainer.global_batch_size=256", "monitor.progress=false"]
            return run_command("mbrec.train", *words, cwd=folder, processes=1)
        case [".venv/bin/mbrec", *words]:
            return run_command("mbrec", *words, cwd=folder)
        case ["cat", name]:
            return CompletedProcess(command, 0, (folder / name).read_text(), "")
    raise ValueError(f"expected a command of the walk, got {command}")


@pytest.mark.slow
def test_five_commands_lead_from_a_csv_to_a_trained_model(tmp_path: Path) -> None:
    setup, *rest = commands()
    assert setup == "scripts/setup.sh"
    assert len(rest) == 4
    write_csv(tmp_path / "shop.csv")
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    output = ""
    for command in rest:
        ran = run(command, tmp_path)
        assert ran.returncode == 0, f"{command}\n{ran.stdout}\n{ran.stderr}"
        if command.startswith("cat"):
            assert yaml.safe_load(ran.stdout)["columns"]["labels"]
        output += ran.stdout + ran.stderr
    assert re.search(r"duplicates dropped:? +1\b", output)
    assert re.search(r"^ctr +0\.\d+", output, re.MULTILINE), output
    assert (tmp_path / "data/shop/describe.png").stat().st_size > 10_000
