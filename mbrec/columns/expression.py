"""Labels as small expressions over columns: `is_click * long_view`, `event == 'buy'`.

Parsed by Python's grammar into a tree of which only arithmetic, comparisons and logic are accepted,
and computed a column at a time. Nothing is ever executed as Python.
"""

import ast
import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache, reduce
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

MAX_LENGTH = 1_000
MAX_DEPTH = 30

_ARITHMETIC = {ast.Add: "add", ast.Sub: "subtract", ast.Mult: "multiply", ast.Div: "divide"}
_COMPARISONS = {
    ast.Eq: "equal",
    ast.NotEq: "not_equal",
    ast.Lt: "less",
    ast.LtE: "less_equal",
    ast.Gt: "greater",
    ast.GtE: "greater_equal",
}
_LOGIC = {ast.And: "and_kleene", ast.Or: "or_kleene"}
# A text, in which backticks mean nothing, or a name in backticks.
_QUOTED = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|`([^`]+)`""")


class Expression:
    """A parsed expression.

    A name is a column; one that is no identifier stands in backticks. Accepted are numbers,
    `+ - * /`, comparisons, `in ('a', 'b')`, `and`, `or`, `not` and parentheses; texts may be
    compared. True counts as 1.

    Args:
        text: what to parse.

    Attributes:
        text: as given.
        columns: the columns it needs, each once, in the order of their first use.
        is_column: whether it is the name of a column and nothing else.

    Raises:
        ValueError: if the text is no such expression.
    """

    def __init__(self, text: str) -> None:
        self.text = text.strip()
        self._quoted: dict[str, str] = {}
        if len(text) > MAX_LENGTH:
            raise ValueError(f"expected an expression of at most {MAX_LENGTH} characters")
        try:
            self._source = _QUOTED.sub(self._placeholder, self.text)
            self._check_names()
            self._tree = ast.parse(self._source, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ValueError(f"expected an expression over columns, got '{text[:80]}'") from error
        names: list[str] = []
        self._check(self._tree, names, MAX_DEPTH)
        if not names:
            raise ValueError(f"expected an expression with a column in it, got '{text}'")
        self.columns = tuple(dict.fromkeys(names))
        self.is_column = isinstance(self._tree, ast.Name)

    def _check_names(self) -> None:
        """Refuse names that Python would read as others: cut at a #, or with letters replaced."""
        bare = re.sub(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*\"""", "", self._source)
        if "#" in bare or unicodedata.normalize("NFKC", bare) != bare:
            raise ValueError("expected names that are no identifiers in backticks")

    def evaluate(self, table: "pa.Table | pa.RecordBatch") -> "pa.Array":
        """Return its value in each row: the column itself, float64, or bool.

        Null where an operand is null. A division by zero is infinite or NaN.

        Raises:
            ValueError: if the types do not fit the operators.
        """
        import pyarrow as pa

        try:
            value = self._value(self._tree, table)
        except (pa.ArrowException, TypeError, OverflowError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"'{self.text}' cannot be computed: {reason}") from error
        return value.combine_chunks() if isinstance(value, pa.ChunkedArray) else value

    def _placeholder(self, match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0]
        name = f"quoted_{len(self._quoted)}_"
        while name in self.text:
            name += "_"
        self._quoted[name] = match[1]
        return name

    def _check(self, node: ast.expr, names: list[str], depth: int) -> None:
        if not depth:
            raise ValueError(
                f"expected at most {MAX_DEPTH} operators one within another, got '{self.text}'"
            )
        if isinstance(node, ast.Name):
            names.append(self._quoted.get(node.id, node.id))
            return
        if _is_literal(node):
            return
        for child in self._children(node):
            self._check(child, names, depth - 1)

    def _children(self, node: ast.expr) -> list[ast.expr]:
        if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
            return [node.left, node.right]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
            return [node.operand]
        if isinstance(node, ast.BoolOp):
            return node.values
        if isinstance(node, ast.Compare):
            if all(type(op) in _COMPARISONS for op in node.ops):
                return [node.left, *node.comparators]
            if len(node.ops) == 1 and isinstance(node.ops[0], ast.In):
                self._choices(node)
                return [node.left]
        raise ValueError(
            "expected columns, numbers, + - * /, comparisons, in, and, or, not, got "
            f"'{ast.get_source_segment(self._source, node)}' in '{self.text}'"
        )

    def _choices(self, node: ast.Compare) -> list[int | float | str]:
        choices = node.comparators[0]
        elements = choices.elts if isinstance(choices, ast.Tuple | ast.List) else []
        if elements and all(map(_is_literal, elements)):
            return [ast.literal_eval(choice) for choice in elements]
        raise ValueError(f"expected values as in ('a', 'b') or (1,) after 'in', got '{self.text}'")

    def _value(self, node: ast.expr, table: Any) -> Any:
        import pyarrow as pa
        import pyarrow.compute as pc

        if isinstance(node, ast.Name):
            return table.column(self._quoted.get(node.id, node.id))
        if isinstance(node, ast.Constant):
            return pa.scalar(node.value)
        if isinstance(node, ast.BinOp):
            sides = [_numbers(self._value(side, table)) for side in (node.left, node.right)]
            return pc.call_function(_ARITHMETIC[type(node.op)], sides)
        if isinstance(node, ast.UnaryOp):
            operand = self._value(node.operand, table)
            if isinstance(node.op, ast.Not):
                return pc.call_function("invert", [_truth(operand)])
            return pc.call_function("negate", [_numbers(operand)])
        if isinstance(node, ast.BoolOp):
            values = [_truth(self._value(part, table)) for part in node.values]
            return reduce(_binary(_LOGIC[type(node.op)]), values)
        assert isinstance(node, ast.Compare)
        return self._comparison(node, table)

    def _comparison(self, node: ast.Compare, table: Any) -> Any:
        import pyarrow as pa
        import pyarrow.compute as pc

        left = _comparable(self._value(node.left, table))
        if isinstance(node.ops[0], ast.In):
            choices = [_as_wide(pa.scalar(choice), left) for choice in self._choices(node)]
            same = [pc.call_function("equal", [left, choice]) for choice in choices]
            return reduce(_binary("or_kleene"), same)
        results = []
        for op, comparator in zip(node.ops, node.comparators, strict=True):
            right = _comparable(self._value(comparator, table))
            sides = [_as_wide(left, right), _as_wide(right, left)]
            results.append(pc.call_function(_COMPARISONS[type(op)], sides))
            left = right
        return reduce(_binary("and_kleene"), results)


@lru_cache(maxsize=256)
def parse(text: str) -> Expression:
    """Return the expression of a text; see `Expression`.

    >>> parse("is_click * long_view").columns
    ('is_click', 'long_view')
    """
    return Expression(text)


def _binary(function: str) -> Callable[[Any, Any], Any]:
    import pyarrow.compute as pc

    return lambda left, right: pc.call_function(function, [left, right])


def _is_literal(node: ast.expr) -> bool:
    """Return whether a node is a number, perhaps with a minus before it, or a text."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return isinstance(node.operand, ast.Constant) and type(node.operand.value) in (int, float)
    return isinstance(node, ast.Constant) and type(node.value) in (int, float, str)


def _as_wide(value: Any, other: Any) -> Any:
    """Return a literal as a number of 32 bits where it is compared with such numbers."""
    import pyarrow as pa

    if isinstance(value, pa.Scalar) and value.type == pa.float64() and other.type == pa.float32():
        return value.cast(pa.float32())
    return value


def _comparable(value: Any) -> Any:
    """Return a value of a type that can be compared: True is 1, dictionaries are what they hold."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_boolean(value.type):
        return pc.cast(value, pa.int8())
    if pa.types.is_float16(value.type):
        return pc.cast(value, pa.float32())
    return pc.cast(value, value.type.value_type) if pa.types.is_dictionary(value.type) else value


def _numbers(value: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    if not (pa.types.is_boolean(value.type) or pa.types.is_integer(value.type)):
        return pc.cast(value, pa.float64()) if pa.types.is_floating(value.type) else _refuse(value)
    return pc.cast(value, pa.float64(), safe=False)


def _truth(value: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_boolean(value.type):
        return value
    return pc.call_function("not_equal", [_numbers(value), pa.scalar(0.0)])


def _refuse(value: Any) -> Any:
    raise TypeError(f"expected numbers, got type {value.type}")
