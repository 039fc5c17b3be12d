"""What a run reports, and the examples in the docstrings."""

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import mbrec
from mbrec.monitor import summary

MODULES = ["mbrec", *(m.name for m in pkgutil.walk_packages(mbrec.__path__, "mbrec."))]
FINDER = doctest.DocTestFinder(exclude_empty=True)


def test_table_shows_each_task_on_a_line_in_the_order_given():
    figures = {"ne": 0.5, "count": 3.0}
    lines = summary.table({"cvr": figures, "a_long_name": figures}).splitlines()
    assert [line.split()[0] for line in lines] == ["task", "cvr", "a_long_name"]
    assert len({len(line) for line in lines}) == 1


def test_table_leaves_out_what_no_task_has_and_marks_what_one_lacks():
    text = summary.table({"ctr": {"auc": 0.75, "excess_ne": None}, "cvr": {"auc": 0.5}})
    assert [line.split() for line in text.splitlines()] == [
        ["task", "AUC", "excess", "NE"],
        ["ctr", "0.7500", "-"],
        ["cvr", "0.5000", "-"],
    ]


@pytest.mark.parametrize("name", summary.COLUMNS)
def test_table_shows_every_figure_it_knows(name):
    heading, cells = summary.table({"ctr": {name: 1234.0}}).splitlines()
    assert heading.split(maxsplit=1)[1] == summary.COLUMNS[name]
    assert cells.split()[1] == ("1,234" if name == "count" else "1234.0000")


def test_parameter_table_gives_counts_and_shares_that_sum_to_one():
    text = summary.parameter_table({"tables": 1_500_000, "heads": 500_000})
    assert text == "parameters: tables 1,500,000 (75.00 %), heads 500,000 (25.00 %)"


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples_in_docstrings_of_several_modules():
    found = {
        name: sum(len(test.examples) for test in FINDER.find(importlib.import_module(name)))
        for name in MODULES
    }
    folder = Path(mbrec.__file__).parent
    assert len(found) == len(list(folder.rglob("*.py")))
    assert found["mbrec.balance"] > 5
    assert found["mbrec.monitor.summary"] > 1
