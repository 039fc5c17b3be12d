"""What the README names is there."""

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

from mbrec import compare
from mbrec.config.settings import parse
from research.paper import __main__ as reproduce

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", "results/settings.md", "results/kuairand.md"]
PAGES += ["docs/balancers.md", "docs/data.md", "results/balance.md", "results/data.md"]
PAGES += ["docs/evidence.md", "results/readings.md", "results/fidelity.md"]
PAGES += ["results/reproduce/README.md", "results/compare/README.md"]
# What the commands make, and what stands for a user's own name.
MADE = re.compile(r"configs/\w+/(NAME|shop)\.yaml|docs/\w+\.md")


@pytest.mark.parametrize("page", PAGES)
def test_every_path_that_a_page_names_exists(page):
    text = (ROOT / page).read_text()
    top = "scripts|tests|configs|docs|results|docker|mbrec"
    named = set(re.findall(rf"(?<![\w/])(?:{top})/[\w./]*\w", text))
    named |= set(re.findall(r"\]\(([^)#:]+)\)", text))
    folders = (ROOT, (ROOT / page).parent)
    found = {name for name in named if any((folder / name).exists() for folder in folders)}
    assert named
    assert {name for name in named - found if not MADE.match(name)} == set()


def test_the_readme_has_no_blanks_left():
    assert re.findall(r"@[A-Z]+@", (ROOT / "README.md").read_text()) == []


def test_every_training_command_of_the_readme_composes():
    text = (ROOT / "README.md").read_text().replace("\\\n", " ")
    argument = r"'[^']+'|[\w./]+=[^\s'`]+"
    commands = re.findall(rf"(?:train\.sh|mbrec\.train)((?: +(?:{argument}))+)", text)
    assert len(commands) >= 5
    with initialize_config_module("mbrec.configs", version_base="1.3"):
        for command in commands:
            words = [word.strip("'") for word in re.findall(r"'[^']+'|\S+", command)]
            if "data=shop" not in words:  # what the walk makes; see test_walk
                parse(compose("train", overrides=[word for word in words if "..." not in word]))


def test_there_are_commands_for_evidence():
    pages = "".join((ROOT / page).read_text() for page in PAGES)
    assert len(re.findall(r"research\.paper \w+", pages)) > 10
    assert len(re.findall(r"mbrec\.compare \w+=", pages)) > 2


@pytest.mark.parametrize("page", [*PAGES, "results/magnitude.md"])
def test_every_command_for_evidence_is_one_that_is_understood(page):
    text = (ROOT / page).read_text().replace("\\\n", " ")
    for part, words in re.findall(r"research\.paper (\w+)((?: +\w+=[\w/]+)*)", text):
        _, settings = reproduce.arguments([part, *words.split()])
        reproduce.lab(settings | ({"path": "."} if "data" in settings else {}))
    argument = r"'[^']+'|[\w./]+=[^\s'`]+"
    for words in re.findall(rf"mbrec\.compare((?: +(?:{argument}))+)", text):
        settings, overrides = compare.arguments(shlex.split(words))
        if not {"experiment=NAME", "data=shop"} & set(overrides):  # names of a user's own
            balancers = compare.words_in(settings["balancers"], "balancers")
            tuning = compare.words_in(settings["tuning"], "tuning")
            assert compare.tasks_of(overrides, tuning, balancers)


def test_ci_runs_the_two_commands_before_it_installs_anything():
    readme = (ROOT / "README.md").read_text()
    first, second = re.findall(r"(?m)^    (scripts/\w+\.sh) +# sets everything up", readme)
    lines = [line.strip() for line in (ROOT / ".ci/run").read_text().splitlines()]
    assert lines.index('cd "$clone/mbrec"') < lines.index(first) < lines.index(second)
    before = "\n".join(lines[: lines.index(second)])
    assert not re.search(r"\bpip\b|apt-get|setup\.sh", before)
