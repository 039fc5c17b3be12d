"""A column of text becomes numbers only where no two different texts become one number."""

from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbrec.prepare.text_columns import TextColumn

FILE = Path("f.csv")


def typed(values, blocks=1, **options):
    """Return the column after looking at all values in so many blocks, and what they become."""
    column = TextColumn("c", **options)
    size = -(-len(values) // blocks)
    for start in range(0, len(values), size):
        column.look(pa.array(values[start : start + size], pa.string()), FILE, 2 + start)
    return column, column.convert(pa.array(values, pa.string())).to_pylist()


@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize(
    ("values", "kind", "because"),
    [
        (["1234", "12e4", "120000"], "string", "'12e4' (an exponent"),
        (["5", "16", "0x10"], "string", "'0x10' (hexadecimal) in f.csv, row 4"),
        (["0x10", "16"], "string", "'0x10' (hexadecimal) in f.csv, row 2"),
        (["1", "1.0e400"], "string", "'1.0e400' (infinite, or too large"),
        (["1.5", "inf"], "string", "'inf' (infinite, or too large"),
        (["1.5", "1e-400"], "string", "'1e-400' (too small"),
        (["10", "0010"], "string", "'0010' (a number would lose the zeros before it)"),
        (["9007199254740993", "2.5", "1"], "string", "'9007199254740993' (a floating-point"),
        (["1", "2.5", "9007199254740993"], "string", "'9007199254740993' (a floating-point"),
        (["2.5", "9007199254740993.0", "1"], "string", "'9007199254740993.0' (a floating-point"),
        (["1", "18446744073709551615", "2"], "string", "'18446744073709551615' (a floating-point"),
        (["9007199254740993", "1"], "int64", ""),
        (["9007199254740991", "2.5"], "double", ""),
        (["1.5", "-1e3", "12e+4", "1.2E5", "0.0", "0e+0"], "double", ""),
        (["5.10", "5.1"], "double", ""),
    ],
)
def test_numbers_that_would_lose_what_they_say_stay_text(values, kind, because, blocks):
    column, converted = typed(values, blocks)
    assert str(column.type) == kind
    assert column.reason.startswith(because) if because else not column.reason
    if kind == "string":
        assert converted == values


@pytest.mark.parametrize("value", ["0x10", "12e4", "1e400", "inf", "0010", "5.0", str(2**63)])
def test_what_has_to_be_an_integer_is_refused_with_the_remedy(value):
    with pytest.raises(ValueError, match=r"row 3, column 'c': expected an integer, .*--strings c"):
        typed(["7", value], fixed=pa.int64())


@pytest.mark.parametrize("value", ["inf", "12e4", "1e400", "9007199254740993"])
def test_what_has_to_be_a_number_is_refused_by_name(value):
    with pytest.raises(ValueError, match=rf"column 'c': expected a number.* got '{value}' \("):
        typed(["0.5", value], is_number=True)


@pytest.mark.parametrize(
    ("values", "padded"),
    [
        (["5.1", "5.10"], "5.10"),
        (["5.10", "12.50", "3.00"], ""),
        (["5.0", "5.25", "7"], ""),
        (["5.1", "5.100", "x"], ""),
    ],
)
@pytest.mark.parametrize("blocks", [1, 2])
def test_numbers_with_zeros_that_others_lack_are_pointed_out(values, padded, blocks):
    assert typed(values, blocks)[0].padded == padded


TINIEST = Decimal(2) ** -1074

INTEGERS = st.integers(-(2**70), 2**70).map(str)
DECIMALS = st.decimals(-(10**6), 10**6, allow_nan=False, allow_infinity=False, places=3).map(str)
EXPONENTS = st.builds("{}e{}{}".format, st.integers(-99, 99), st.sampled_from(["", "+", "-"]),
                      st.integers(0, 400))  # fmt: skip
CODES = st.integers(0, 999).map("{:06}".format) | st.integers(0, 999).map(hex)


@given(
    st.lists(INTEGERS | DECIMALS | EXPONENTS | CODES | st.just("inf"), min_size=1, max_size=6),
    st.integers(1, 3),
)
def test_a_number_is_what_its_text_says_whatever_the_blocks(values, blocks):
    column, converted = typed(values, blocks)
    assert column.type == typed(values)[0].type
    for text, value in zip(values, converted, strict=True):
        if column.type == pa.int64():
            assert value == Decimal(text)
        elif column.type == pa.float64():
            # As near as floating-point numbers come to it; integers exactly.
            exact = Decimal(text)
            assert abs(Decimal(value) - exact) <= abs(exact) * Decimal(2) ** -53 + TINIEST
            assert "e" in text or "." in text or value == exact
        else:
            assert value == text
