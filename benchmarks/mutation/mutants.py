"""The changes: one small edit of a module's syntax tree each, numbered in the order of the source."""

import ast
import hashlib
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

_COMPARE: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
}
_PAIRS = (
    ("min", "max"),
    ("amin", "amax"),
    ("argmin", "argmax"),
    ("minimum", "maximum"),
    ("clamp_min", "clamp_max"),
    ("clamp_min_", "clamp_max_"),
    ("floor", "ceil"),
    ("any", "all"),
    ("sum", "mean"),
    ("zeros_like", "ones_like"),
    ("zeros", "ones"),
    ("bisect_left", "bisect_right"),
)
_SWAPPED = {name: other for pair in _PAIRS for name, other in (pair, pair[::-1])}
# Methods that hand on something of the same kind: without the call the code still runs.
_PASSING = {
    "abs",
    "detach",
    "clone",
    "clamp",
    "clamp_",
    "clamp_min",
    "clamp_max",
    "square",
    "sqrt",
    "exp",
    "log",
    "sign",
}
_PASSING |= {
    "nan_to_num",
    "masked_fill",
    "neg",
    "relu",
    "contiguous",
    "unjudged",
    "flip",
    "double",
    "float",
    "T",
    "sort",
}


@dataclass(frozen=True)
class Mutant:
    """One change: where it is, what it does, and the statement before and after it."""

    module: str
    number: int
    line: int
    lines: tuple[int, int]
    place: str
    operator: str
    before: str
    after: str

    @property
    def key(self) -> str:
        """A name that outlives changes elsewhere in the module, but for equal statements of one function."""
        words = "|".join((self.module, self.place, self.operator, self.before, self.after))
        return hashlib.sha256(words.encode()).hexdigest()[:12]


@dataclass
class _Edit:
    """What to put where: ``holder.field`` or ``holder.field[index]`` becomes ``new``."""

    holder: ast.AST
    field: str
    index: int | None
    new: Any
    operator: str
    place: str
    statement: ast.AST
    lines: tuple[int, int]

    def put(self, value: Any) -> Any:
        """Put a value there and return what was there."""
        if self.index is None:
            before = getattr(self.holder, self.field)
            setattr(self.holder, self.field, value)
        else:
            before = getattr(self.holder, self.field)[self.index]
            getattr(self.holder, self.field)[self.index] = value
        return before


def mutants(module: str, source: str) -> list[Mutant]:
    """Return every change of a module."""
    found = []
    for number, edit in enumerate(_edits(ast.parse(source))):
        before = _shown(edit.statement)
        old = edit.put(edit.new)
        after = _shown(edit.new if isinstance(edit.new, ast.stmt) else edit.statement)
        edit.put(old)
        line = edit.lines[0]
        found.append(Mutant(module, number, line, edit.lines, edit.place, edit.operator, before, after))
    return found


def changed(source: str, number: int) -> ast.Module:
    """Return the syntax tree of a module with one of its changes."""
    tree = ast.parse(source)
    edit = next(edit for at, edit in enumerate(_edits(tree)) if at == number)
    edit.put(edit.new)
    return ast.fix_missing_locations(tree)


def _shown(statement: ast.AST) -> str:
    """Return a statement's source on one line; of a compound one its head."""
    shown = deepcopy(statement)
    for name in ("body", "orelse", "handlers", "finalbody"):
        if isinstance(getattr(shown, name, None), list):
            setattr(shown, name, [ast.Pass()] if name == "body" else [])
    if isinstance(shown, ast.FunctionDef | ast.ClassDef):
        shown.decorator_list = []
    return " ".join(ast.unparse(ast.fix_missing_locations(shown)).removesuffix("\n    pass").split()).removesuffix(":")


def _edits(tree: ast.Module) -> Iterator[_Edit]:
    """Yield the changes in the order of the source; nothing is changed yet."""
    yield from _below(tree, "", tree)


def _below(node: ast.AST, place: str, statement: ast.AST) -> Iterator[_Edit]:
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "bases", "keywords_of_class", "type_comment"):
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(child, ast.AST):
                yield from _at(child, (node, field, index), place, statement)


def _at(node: ast.AST, where: tuple[ast.AST, str, int | None], place: str, statement: ast.AST) -> Iterator[_Edit]:
    if isinstance(node, ast.stmt):
        statement = node
        if _silent(node):
            return
    if isinstance(node, ast.JoinedStr):
        return
    lines = (getattr(node, "lineno", getattr(statement, "lineno", 1)), getattr(node, "end_lineno", 1))
    if isinstance(node, ast.If | ast.For | ast.While | ast.With | ast.FunctionDef | ast.ClassDef):
        lines = (node.lineno, max(node.lineno, node.body[0].lineno - 1))
    for operator, new in _replacements(node, where):
        new = ast.copy_location(new, node)
        yield _Edit(*where, new, operator, place, statement, lines)
    if isinstance(node, ast.Raise):
        return  # what a message says is not a matter of mutants
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        place = f"{place}.{node.name}".lstrip(".")
    yield from _below(node, place, statement)


def _silent(node: ast.stmt) -> bool:
    """Whether a statement computes nothing: imports, docstrings, what is there for the type checker."""
    if isinstance(node, ast.Import | ast.ImportFrom | ast.Assert | ast.Pass):
        return True
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return True
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _replacements(node: ast.AST, where: tuple[ast.AST, str, int | None]) -> Iterator[tuple[str, ast.AST]]:
    match node:
        case ast.Compare(ops=ops):
            for index, op in enumerate(ops):
                for other in _COMPARE[type(op)]:
                    new = deepcopy(node)
                    new.ops[index] = other()
                    yield "compare", new
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            if not any(isinstance(side, ast.JoinedStr) or _text(side) for side in (left, right)):
                yield "arithmetic", ast.BinOp(left, _ARITHMETIC[type(op)](), right)
        case ast.AugAssign(target=target, op=op, value=value):
            if type(op) in _ARITHMETIC:
                yield "arithmetic", ast.AugAssign(target, _ARITHMETIC[type(op)](), value)
            yield "removed", ast.Pass()
        case ast.BoolOp(op=op, values=values):
            yield "and/or", ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
        case ast.UnaryOp(op=ast.Not() | ast.Invert() | ast.USub(), operand=operand):
            yield "sign", operand
        case ast.Constant(value=bool(value)):
            yield "constant", ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            if not (isinstance(where[0], ast.keyword) and where[0].arg == "dim"):  # beyond the last one it only fails
                yield "constant", ast.Constant(value + 1)
            if not (isinstance(where[0], ast.Subscript) and value == 0):  # x[-1] of x[0]: most often the same shape
                yield "constant", ast.Constant(value - 1)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            yield "branch", ast.IfExp(test, orelse, body)
        case ast.Call(func=ast.Attribute(value=value, attr=name), args=args, keywords=keywords):
            yield from _calls(node)
            if name == "where" and len(args) == 3:
                yield "branch", ast.Call(node.func, [args[0], args[2], args[1]], keywords)
            if name in _PASSING and not (isinstance(value, ast.Name) and value.id in ("torch", "math", "F")):
                yield "call", value
        case ast.Call():
            yield from _calls(node)
        case ast.Expr(value=ast.Call()):
            yield "removed", ast.Pass()
        case ast.Raise():
            yield "removed", ast.Pass()
        case ast.Return(value=value) if value is not None and not (
            isinstance(value, ast.Constant) and value.value is None
        ):
            yield "returned", ast.Return(ast.Constant(None))
        case ast.If(test=test, body=body, orelse=orelse):
            yield "branch", ast.If(ast.Constant(False), body, orelse)
        case ast.Break():
            yield "loop", ast.Continue()
        case ast.Continue():
            yield "loop", ast.Break()


def _calls(node: ast.Call) -> Iterator[tuple[str, ast.AST]]:
    """Yield the opposite function, and the opposite bound of a clamp."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name in _SWAPPED:
        new = deepcopy(node)
        if isinstance(new.func, ast.Attribute):
            new.func.attr = _SWAPPED[name]
        elif isinstance(new.func, ast.Name):
            new.func.id = _SWAPPED[name]
        if not (isinstance(node.func, ast.Name) and name not in ("min", "max", "any", "all", "bisect_left")):
            yield "opposite", new
    if name in ("clamp", "clamp_"):
        for index, keyword in enumerate(node.keywords):
            if keyword.arg in ("min", "max") and len(node.keywords) == 1:
                new = deepcopy(node)
                new.keywords[index].arg = _SWAPPED[keyword.arg]
                yield "opposite", new


def _text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
