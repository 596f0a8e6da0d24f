"""What a VNN-LIB query says, and of one concrete point: read as S-expressions and evaluated, both versions alike."""

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from overproof.errors import InputError
from overproof.reading import parsing
from overproof.wording import one_line

Expression = str | list["Expression"]
_SLACK = 1e-6  # share by which rounding a point to float32 may take it beyond a bound in decimals, at least of 1
_TOKEN = re.compile(r"\(|\)|[^\s()\[\]]*\[[^()\[\]]*\]|[^\s()]+")
_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")
_INDEXED = re.compile(r"([A-Za-z]\w*)\[([\d,\s]*)\]")
_DEEPEST = 200  # of forms inside each other; parsers of others end the process at some depth
_DECLARATIONS = ("declare-const", "declare-fun", "declare-network")
_SILENT = ("vnnlib-version", "set-logic", "set-info", "set-option", "check-sat", "get-model", "exit")
_COMPARISONS: Mapping[str, Callable[[float, float, float], bool]] = {
    "<=": lambda a, b, slack: a <= b + slack,
    ">=": lambda a, b, slack: a >= b - slack,
    "<": lambda a, b, slack: a < b + slack,
    ">": lambda a, b, slack: a > b - slack,
    "==": lambda a, b, slack: abs(a - b) <= slack,
    "=": lambda a, b, slack: abs(a - b) <= slack,
    "!=": lambda a, b, slack: a != b,
}


@dataclass(frozen=True)
class Point:
    """Numbers for a query's variables: inputs and outputs by name, arrays of the declared shapes (or flat in 1.0)."""

    inputs: Mapping[str, np.ndarray[Any, Any]]
    outputs: Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Query:
    """The assertions of a query, VNN-LIB 1.0 or 2.0, and the forms that declare its variables and networks."""

    assertions: tuple[Expression, ...]
    declarations: tuple[Sequence[Expression], ...] = ()

    @classmethod
    def read(cls, text: str) -> "Query":
        """Return the query of a text; raise ``InputError`` where it is none."""
        expressions, declared = list[Expression](), list[Sequence[Expression]]()
        with parsing("the query", "VNN-LIB"):
            for form in parse_expressions(text):
                if isinstance(form, list) and len(form) == 2 and form[0] == "assert":
                    expressions.append(form[1])
                elif isinstance(form, list) and form and form[0] in _DECLARATIONS:
                    declared.append(form)
                elif not (isinstance(form, list) and form and form[0] in _SILENT):
                    raise InputError(f"this is no VNN-LIB query: {quote(form)} is no statement")
        if not expressions:
            raise InputError("this is no VNN-LIB query: it asserts nothing")
        return cls(tuple(expressions), tuple(declared))

    def satisfied_by(self, point: Point) -> bool:
        """Tell whether a point satisfies every assertion.

        Arithmetic is float64. A comparison that speaks of inputs alone may be missed by 1e-6 (of a number above 1, by
        as large a share), since a point in float32 need not lie within bounds in decimals. Raises ``InputError`` for a
        variable without a number.
        """
        with parsing("the query", "VNN-LIB"):
            return all(_holds(form, point) for form in self.assertions)


def parse_expressions(text: str) -> list[Expression]:
    """Return the top-level S-expressions of a text, comments left out.

    Raises ``InputError`` for unbalanced ones, and for very deep ones.
    """
    stack: list[list[Expression]] = [[]]
    for token in _tokens(text):
        if token == "(":
            if len(stack) > _DEEPEST:
                raise InputError("the query: not readable as VNN-LIB (nested too deeply)")
            stack.append([])
        elif token.startswith("[") and stack[-1] and isinstance(stack[-1][-1], str):
            stack[-1][-1] += token  # ``X [0,3]`` is ``X[0,3]``
        elif token == ")":
            if len(stack) == 1:
                raise InputError("this is no VNN-LIB query: a parenthesis is closed that was never opened")
            done = stack.pop()
            stack[-1].append(done)
        else:
            stack[-1].append(token)
    if len(stack) > 1:
        raise InputError("this is no VNN-LIB query: a parenthesis is never closed")
    return stack[0]


def _tokens(text: str) -> Iterator[str]:
    for line in text.splitlines():
        yield from _TOKEN.findall(line.partition(";")[0])


def _holds(form: Expression, point: Point) -> bool:
    if not isinstance(form, list) or not form or not isinstance(form[0], str):
        raise InputError(f"this is no VNN-LIB query: {quote(form)} is no statement")
    word, parts = form[0], form[1:]
    if word == "and":
        return all(_holds(part, point) for part in parts)
    if word == "or":
        return any(_holds(part, point) for part in parts)
    if word not in _COMPARISONS or len(parts) != 2:
        raise InputError(f"this is no VNN-LIB query: {quote(repr(word))} is no comparison of two numbers")
    one, other = (_value(part, point) for part in parts)
    outputs = any(_speaks_of_outputs(part, point) for part in parts)
    return _COMPARISONS[word](one, other, 0.0 if outputs else _SLACK * max(1.0, abs(one), abs(other)))


def _value(form: Expression, point: Point) -> float:
    if isinstance(form, str):
        return _number_of(form, point) if (value := number(form)) is None else value
    values = [_value(part, point) for part in form[1:]]
    match form[0]:
        case "+":
            return sum(values)
        case "*":
            return reduce(operator.mul, values, 1.0)
        case "-":
            return -values[0] if len(values) == 1 else values[0] - sum(values[1:])
    raise InputError(f"this is no VNN-LIB query: {quote(form[0])} is no operation on numbers")


def number(text: str) -> float | None:
    """Return the float64 that is nearest to a number of a query; None for any other text."""
    return float(text) if _NUMBER.fullmatch(text) else None


def split_index(variable: str) -> tuple[str, tuple[int, ...]]:
    """Return a variable's name and indices: ``X[0,3]`` of 2.0, ``X_3`` of 1.0; no indices where it has none."""
    if match := _INDEXED.fullmatch(variable):
        return match[1], tuple(int(part) for part in match[2].split(",") if part.strip())
    name, _, index = variable.rpartition("_")
    return (name, (int(index),)) if name and index.isdigit() else (variable, ())


def _speaks_of_outputs(form: Expression, point: Point) -> bool:
    if isinstance(form, list):
        return any(_speaks_of_outputs(part, point) for part in form[1:])
    return split_index(form)[0] in point.outputs


def _number_of(variable: str, point: Point) -> float:
    name, indices = split_index(variable)
    values = {**point.inputs, **point.outputs}.get(name)
    if values is None:
        raise InputError(f"the query speaks of {quote(variable)}, for which the point has no number")
    if len(indices) == 1 != values.ndim:
        values = values.reshape(-1)  # 1.0 counts in row-major order
    try:
        return float(values[indices])
    except (IndexError, TypeError) as problem:
        raise InputError(
            f"the query speaks of {quote(variable)}, but {name} has the shape {list(values.shape)}"
        ) from problem


def quote(form: Expression | Sequence[Expression]) -> str:
    """Return a form as one short line."""
    return one_line(str(form), 100)
