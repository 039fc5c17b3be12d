"""Tables keep what is in their cells, and a page says how it came about."""

import csv
import io
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError

import mbrec.study
from mbrec.study.pages import Table, conditions, mean_and_deviation, rendered, slug, write

CELL = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), max_size=8)


@given(st.lists(st.tuples(CELL, CELL), min_size=1, max_size=4))
def test_a_csv_comes_back_cell_by_cell(rows):
    table = Table(["a", "b"], [list(row) for row in rows])
    assert list(csv.reader(io.StringIO(table.csv)))[1:] == [list(row) for row in rows]


@given(CELL)
def test_a_name_makes_one_folder(name):
    assert not set("/ '\"\\") & set(slug(name))


def test_a_page_is_written_whole(tmp_path):
    write(tmp_path / "below" / "page.md", "text\n\n")
    assert (tmp_path / "below" / "page.md").read_text() == "text\n"
    assert [path.name for path in (tmp_path / "below").iterdir()] == ["page.md"]


def test_conditions_name_the_command_the_versions_and_the_machine():
    text = conditions(
        ["mbrec.compare", "balancers=[a,b]"], 2, [0, 1], trained=7, total=9, seconds=90.0
    )
    assert "`python -m mbrec.compare 'balancers=[a,b]'`" in text
    for word in (
        "torch 2.",
        "torchrec 1.",
        "cores",
        "2 processes",
        "seeds: 0, 1",
        "1.5 min; 7 of 9",
    ):
        assert word in text


def test_every_template_is_in_the_wheel():
    study = Path(mbrec.study.__file__).parent
    settings = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    listed = settings["tool"]["setuptools"]["package-data"]
    packages = {"mbrec.study": study, "mbrec.study.report": study / "report"}
    found = {
        name: [*folder.glob("*.html"), *folder.glob("*.md")] for name, folder in packages.items()
    }
    assert {name: [path.name for path in paths] for name, paths in found.items()} == {
        name: listed[name] for name in packages
    }


def test_a_template_without_a_value_is_an_error():
    with pytest.raises(UndefinedError, match="views"):
        rendered("report/page.html", escape=True, run={})


def test_a_mean_of_one_value_has_no_deviation():
    assert mean_and_deviation([0.5]) == "0.5000"
    assert mean_and_deviation([0.5, 0.7]) == "0.6000 ± 0.1414"


def test_a_table_for_a_terminal_has_its_numbers_on_the_right():
    table = Table(["task", "rows", "run"], [["ctr", "1", "a"], ["conv_imp", "1,000", "b"]])
    assert table.aligned(texts=1).splitlines() == [
        "task       rows  run",
        "ctr           1  a",
        "conv_imp  1,000  b",
    ]
