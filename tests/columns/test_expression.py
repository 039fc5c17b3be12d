"""Expressions say what Python would say, of arithmetic and logic alone."""

import math
import operator
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbrec.columns.expression import MAX_DEPTH, Expression, parse

TABLE = pa.table(
    {
        "x": pa.array([0, 1, 2, None]),
        "y": pa.array([0.5, -1.0, 2.0, 4.0]),
        "flag": pa.array([True, False, None, True]),
        "event": pa.array(["buy", "view", None, "like"]),
        "a b": pa.array([1, 2, 3, 4], pa.int8()),
        "is": pa.array([1, 0, 1, 0], pa.uint8()),
        "quoted_0_": pa.array([10, 10, 10, 10]),
        "text": pa.array(["a`b`c", "it's", "", "b"]),
        "half": pa.array([0.0, 0.5, 1.0, None], pa.float16()),
    }
)
N, T, F = None, True, False


def value(text: str, table: pa.Table = TABLE) -> list[Any]:
    return Expression(text).evaluate(table).to_pylist()


VALUES: list[tuple[str, list[Any]]] = [
    ("x", [0, 1, 2, N]),
    ("  x ", [0, 1, 2, N]),
    ("x * y", [0.0, -1.0, 4.0, N]),
    ("x + 2 * y - 1", [0.0, -2.0, 5.0, N]),
    ("(x + 2) * (y - 1)", [-1.0, -6.0, 4.0, N]),
    ("1 - x - 1", [0.0, -1.0, -2.0, N]),
    ("-x / 2", [0.0, -0.5, -1.0, N]),
    ("x / 4", [0.0, 0.25, 0.5, N]),
    ("y > 0", [T, F, T, T]),
    ("y >= 2", [F, F, T, T]),
    ("x != 1", [T, F, T, N]),
    ("0 < x < 2", [F, T, F, N]),
    ("-1 < y <= x", [F, F, T, N]),
    ("x == 1 or y > 1", [F, T, T, T]),
    ("x == 1 and y < 0", [F, T, F, F]),
    ("not x", [T, F, F, N]),
    ("not (x == 1)", [T, F, T, N]),
    # Null is unknown: it does not matter where the other side decides.
    ("x and x", [F, T, T, N]),
    ("x or y > 3", [F, T, T, T]),
    ("x and y > 4", [F, F, F, F]),
    # True is 1, whatever it is compared or counted with.
    ("flag", [T, F, N, T]),
    ("flag == 1", [T, F, N, T]),
    ("flag < 1", [F, T, N, F]),
    ("flag + flag", [2.0, 0.0, N, 2.0]),
    ("flag * (x < 1)", [1.0, 0.0, N, N]),
    ("(x < 1) == flag", [T, T, N, N]),
    ("(x == 1) + (y > 0)", [1.0, 1.0, 1.0, N]),
    ("flag in (1,)", [T, F, N, T]),
    ("flag in (2, 3)", [F, F, N, F]),
    ("half > 0.25", [F, T, T, N]),
    ("half * 2", [0.0, 1.0, 2.0, N]),
    # Texts.
    ("event == 'buy'", [T, F, N, F]),
    ('event == "buy"', [T, F, N, F]),
    ("event != 'buy'", [F, T, N, T]),
    ("event in ('buy', 'like')", [T, F, N, T]),
    ("event in ['view']", [F, T, N, F]),
    ("not (event in ('buy', 'like'))", [F, T, N, F]),
    ("event == 'buy' and x == 0", [T, F, F, F]),
    ("x in (0, 2)", [T, F, T, N]),
    ("y in (-1, 0.5)", [T, T, F, F]),
    ("x in (1, 2.5)", [F, T, F, N]),
    # Names that Python would not accept stand in backticks; in a text these mean nothing.
    ("`a b` * 2", [2.0, 4.0, 6.0, 8.0]),
    ("`is`", [1, 0, 1, 0]),
    ("`is` + `a b` + `is`", [3.0, 2.0, 5.0, 4.0]),
    ("`a b` + quoted_0_", [11.0, 12.0, 13.0, 14.0]),
    ("text == 'a`b`c'", [T, F, F, F]),
    ('text == "it\'s"', [F, T, F, F]),
    ("text == 'it\\'s' or text == `text`", [T, T, T, T]),
    ("text == ''", [F, F, T, F]),
]


@pytest.mark.parametrize(("text", "expected"), VALUES, ids=[text for text, _ in VALUES])
def test_value_is_that_of_each_row(text: str, expected: list[Any]) -> None:
    assert value(text) == expected
    assert [type(v) for v in value(text)] == [type(v) for v in expected]


@pytest.mark.parametrize("index", [pa.int8(), pa.int32()])
def test_dictionaries_are_what_they_hold(index: pa.DataType) -> None:
    column = TABLE["event"].combine_chunks().dictionary_encode().cast(pa.dictionary(index, "str"))
    table = pa.table({"event": pa.chunked_array([column, column[:0], column])})
    for text in ("event == 'buy'", "event in ('buy', 'like')", "event >= 'like'"):
        assert value(text, table) == value(text) * 2


def test_division_by_zero_is_infinite_or_nan_for_the_reader_to_refuse() -> None:
    table = pa.table({"a": [1, -1, 0, 1], "b": [0, 0, 0, 2]})
    found = value("a / b", table)
    assert found[:2] == [math.inf, -math.inf]
    assert math.isnan(found[2])
    assert found[3] == 0.5


@pytest.mark.parametrize("empty", [TABLE.slice(0, 0), TABLE.schema.empty_table()])
def test_no_rows_have_no_values_but_a_type(empty: pa.Table) -> None:
    for text, kind in (("x * y", pa.float64()), ("event in ('a',)", pa.bool_()), ("x", pa.int64())):
        found = Expression(text).evaluate(empty)
        assert (found.to_pylist(), found.type) == ([], kind)


@pytest.mark.parametrize(
    ("text", "columns", "is_column"),
    [
        ("x", ("x",), True),
        ("(x)", ("x",), True),
        ("`a b`", ("a b",), True),
        ("y * x + y", ("y", "x"), False),
        ("not `a b` or quoted_0_", ("a b", "quoted_0_"), False),
        ("event in ('x', 'y')", ("event",), False),
        ("-x", ("x",), False),
    ],
)
def test_columns_are_named_once_in_order(text: str, columns: Any, is_column: bool) -> None:
    expression = parse(text)
    assert (expression.columns, expression.is_column) == (columns, is_column)
    assert parse(text) is expression


# Against Python

Tree = tuple[str, Callable[[dict[str, Any]], Any]]  # A text, and its value by Python's operators.


def known(function: Callable[..., Any], *parts: Tree) -> Callable[[dict[str, Any]], Any]:
    """Return a function of a row that is None where one of the parts is."""

    def compute(row: dict[str, Any]) -> Any:
        values = [part[1](row) for part in parts]
        return None if None in values else function(*values)

    return compute


def arithmetic(sign: str, left: Tree, right: Tree) -> Tree:
    operators: dict[str, Callable[..., Any]] = {
        "+": operator.add,
        "-": operator.sub,
        "*": operator.mul,
        "/": operator.truediv,
    }

    def compute(a: float, b: float) -> float:
        with np.errstate(all="ignore"):  # as IEEE 754 has it, and not ZeroDivisionError
            return float(operators[sign](np.float64(a), np.float64(b)))

    return f"({left[0]} {sign} {right[0]})", known(compute, left, right)


def comparison(sign: str, left: Tree, right: Tree) -> Tree:
    operators: dict[str, Callable[..., Any]] = {
        "<": operator.lt,
        "<=": operator.le,
        "==": operator.eq,
        "!=": operator.ne,
        ">": operator.gt,
        ">=": operator.ge,
    }
    return f"({left[0]} {sign} {right[0]})", known(operators[sign], left, right)


def logic(word: str, parts: list[Tree]) -> Tree:
    decides = word == "or"

    def compute(row: dict[str, Any]) -> bool | None:
        values = [None if (v := part[1](row)) is None else bool(v) for part in parts]
        if decides in values:
            return decides
        return None if None in values else not decides

    return f"({f' {word} '.join(part[0] for part in parts)})", compute


def chain(a: Tree, b: Tree, c: Tree) -> Tree:
    return f"({a[0]} < {b[0]} <= {c[0]})", logic(
        "and", [comparison("<", a, b), comparison("<=", b, c)]
    )[1]


def choice(part: Tree, options: list[int]) -> Tree:
    text = f"({part[0]} in ({', '.join(map(str, options))},))"
    return text, known(lambda value: float(value) in options, part)


def column(name: str) -> Tree:
    return f"`{name}`" if " " in name else name, lambda row: row[name]


constants = st.sampled_from([0, 1, 2, 0.5]).map(lambda c: (str(c), lambda row: c))
leaves = st.sampled_from([column("a"), column("b"), column("c c")]) | constants


def combined(parts: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    return st.one_of(
        st.builds(arithmetic, st.sampled_from("+-*/"), parts, parts),
        st.builds(comparison, st.sampled_from(["<", "<=", "==", "!=", ">", ">="]), parts, parts),
        st.builds(logic, st.sampled_from(["and", "or"]), st.lists(parts, min_size=2, max_size=3)),
        st.builds(chain, parts, parts, parts),
        st.builds(choice, parts, st.lists(st.integers(-2, 2), min_size=1, max_size=3)),
        parts.map(lambda part: (f"(-{part[0]})", known(lambda value: -float(value), part))),
        parts.map(lambda part: (f"(not {part[0]})", known(operator.not_, part))),
    )


integers = st.none() | st.integers(-3, 3)
rows = st.fixed_dictionaries(
    {"a": integers, "b": st.none() | st.sampled_from([-1.5, -0.0, 0.5, 1.0, 2.0]), "c c": integers}
)
HAS_COLUMN = re.compile(r"\b[ab]\b|`")
TYPES = pa.schema([("a", pa.int64()), ("b", pa.float64()), ("c c", pa.int8())])


def fits(tree: Tree) -> bool:
    """Return whether an expression has a column and is not too deep."""
    return bool(HAS_COLUMN.search(tree[0])) and tree[0].count("(") < MAX_DEPTH


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(leaves, combined, max_leaves=8).filter(fits),
    st.lists(rows, max_size=5),
)
def test_values_are_those_of_python(tree: Tree, rows: list[dict[str, Any]]) -> None:
    text, compute = tree
    found = value(text, pa.Table.from_pylist(rows, TYPES))
    expected = [compute(row) for row in rows]
    numbers = [[None if v is None else float(v) for v in values] for values in (found, expected)]
    np.testing.assert_equal(*numbers)


def test_numbers_of_32_bits_are_compared_as_such() -> None:
    table = pa.table({"r": pa.array([4.1, 4.0], pa.float32())})
    assert parse("r >= 4.1").evaluate(table).to_pylist() == [True, False]
    assert parse("r in (4.1, 7)").evaluate(table).to_pylist() == [True, False]
