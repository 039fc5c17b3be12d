"""A vocabulary's lookup finds what pyarrow's own finds."""

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbrec.columns.lookup import Lookup

INTEGERS = st.integers(-(2**63), 2**63 - 1)


@given(st.data(), st.sampled_from([(INTEGERS, pa.int64()), (st.text(max_size=3), pa.string())]))
def test_positions_are_those_of_a_search_through_the_whole_vocabulary(data, kind):
    values, arrow = kind
    known = data.draw(st.lists(values, min_size=1, max_size=20, unique=True))
    asked = data.draw(st.lists(st.one_of(values, st.sampled_from(known)), max_size=20))
    column, vocabulary = pa.array(asked, arrow), pa.array(known, arrow)
    positions, found = Lookup(vocabulary).find(column)
    expected = pc.index_in(column, vocabulary).to_pylist()
    assert [int(p) if f else None for p, f in zip(positions, found, strict=True)] == expected


@pytest.mark.parametrize("values", [[1, 2, 1], ["a", "b", "a"]])
def test_a_value_that_comes_twice_is_refused_rather_than_searched_for_without_end(values):
    with pytest.raises(ValueError, match="each value of a vocabulary once"):
        Lookup(pa.array(values))
