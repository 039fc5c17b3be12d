"""Tables keep what is in their cells, and a page says how it came about."""

import csv
import io

from hypothesis import given
from hypothesis import strategies as st

from mbrec.study.pages import Table, conditions, slug, write

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
