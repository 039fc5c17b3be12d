"""Labels come from a configuration file: other syntax is refused, and nothing of it is run."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from mbrec.columns.expression import MAX_DEPTH, MAX_LENGTH, Expression

TABLE = pa.table(
    {
        "x": pa.array([0, 1, 2, None]),
        "y": pa.array([0.5, -1.0, 2.0, 4.0]),
        "event": pa.array(["buy", "view", None, "like"]),
        "lists": [[1]] * 4,
        "times": pa.array([1] * 4, pa.timestamp("us", tz="UTC")),
        "decimals": pa.array([1] * 4, pa.decimal128(5, 2)),
    }
)


def value(text: str, table: pa.Table) -> list[Any]:
    return Expression(text).evaluate(table).to_pylist()


MARK = "executed"
OPEN = f"open('{MARK}', 'w')"
REFUSED = [
    "",
    "   ",
    "1",
    "'a' == 'a'",
    "True",
    "x == None",
    "x == True",
    OPEN,
    f"x + {OPEN}",
    f"x and {OPEN}",
    f"__import__('pathlib').Path('{MARK}').touch()",
    f'exec("{OPEN}")',
    f'eval("{OPEN}")',
    f"[{OPEN} for i in (1, 2)]",
    f"{{{OPEN} for i in x}}",
    f"{{1: {OPEN}}}",
    f"({OPEN} for i in x)",
    f"(lambda: {OPEN})()",
    "lambda: x",
    f"(y := {OPEN})",
    "(y := x)",
    f"f'{{{OPEN}}}' == x",
    f"x if {OPEN} else y",
    f"x[{OPEN}]",
    "x[0]",
    "x.y",
    "x.__class__.__mro__[1].__subclasses__()",
    "().__class__",
    "x.sum()",
    "abs(x)",
    "x ** 2",
    "9 ** 9 ** 9 * x",
    "x // 2",
    "x % 2",
    "x << 1000",
    "x & y",
    "x | y",
    "x ^ y",
    "~x",
    "+x",
    "x @ y",
    "x is y",
    "x is not y",
    "x not in (1, 2)",
    "x in y",
    "x in (y, 1)",
    "x in ()",
    "x in 'abc'",
    "x in (1, (2, 3))",
    "1 < x in (1, 2)",
    "x, y",
    "[x]",
    "{x}",
    "*x",
    "x = 1",
    "x; y",
    "x\ny",
    "x\0",
    "\ud800",
    "import os",
    "await x",
    "yield x",
    "x +",
    "`x",
    "``",
    "x == 1j",
    "x == b'a'",
    "x == ...",
    "not " * (MAX_DEPTH + 1) + "x",
    "x" + " + x" * (MAX_DEPTH + 1),
    "-" * 900 + "x",
    "f(" + "-" * 900 + "x)",
    "(" * 300 + "x" + ")" * 300,
    "x + " + "1" * MAX_LENGTH,
    "x" * (MAX_LENGTH + 1),
]


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: ascii(text)[:40])
def test_other_syntax_is_refused_and_not_run(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^expected ") as caught:
        Expression(text).evaluate(TABLE)
    assert not list(tmp_path.iterdir())
    assert len(str(caught.value)) < 3 * MAX_LENGTH


def test_refused_part_is_shown_as_it_was_written() -> None:
    with pytest.raises(ValueError, match=r"got 'f\(y\)' in '1 \+ f\(y\)'$"):
        Expression("1 + f(y)")


def test_depth_and_length_that_are_allowed_are_enough() -> None:
    columns = [f"c{i}" for i in range(MAX_DEPTH)]
    table = pa.table({name: [1] for name in columns})
    assert value(" + ".join(columns), table) == [MAX_DEPTH]
    text = " or ".join(f"x == {i}" for i in range(80))  # One `or` of many parts is not deep.
    assert value(text, TABLE) == [True, True, True, None]


@pytest.mark.parametrize("name", ["__class__", "__builtins__", "open", "os", "x__", "print"])
def test_name_of_any_kind_is_a_column(name: str) -> None:
    assert value(f"{name} * 2", pa.table({name: [1, 2]})) == [2.0, 4.0]


@pytest.mark.parametrize(
    "text",
    [
        "event + 1",
        "event * 'a'",
        "event == 1",
        "x == 'a'",
        "x < event",
        "-event",
        "not event",
        "event and x",
        "event in (1, 2)",
        "times in (1, 2)",
        "x in ('a', 'b')",
        "x in (1, 'a')",
        "x in ('1',)",
        "times > 5",
        "times + 1",
        "lists == 1",
        "decimals * 2",
        f"x < {10**30}",
        f"x + {10**30}",
        f"x in ({10**30},)",
    ],
)
def test_types_that_do_not_fit_are_refused_with_the_expression(text: str) -> None:
    for rows in (TABLE, TABLE.schema.empty_table()):
        with pytest.raises(ValueError) as caught:
            Expression(text).evaluate(rows)
        assert str(caught.value).startswith(f"'{text}' cannot be computed: ")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["is_click#2", "a # b", "\ufb01x", "\u00b5 > 1"])
def test_names_that_python_reads_as_others_need_backticks(text: str) -> None:
    with pytest.raises(ValueError, match="expected an expression over columns"):
        Expression(text)
    assert Expression(f"`{text}`").columns == (text,)
