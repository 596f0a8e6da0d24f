"""A VNN-LIB query as cases that a verifier decides: a box of the inputs, linear inequalities of the outputs.

The assertions are brought into disjunctive form: each conjunction of it is a case. Sets are closed, so strict
inequalities are refused instead of closed in silence. Formats: VNN-LIB 1.0 as in VNN-COMP (``X_0``, ``Y_0``, counted
in row-major order), and 2.0 of the VNNLIB-Standard repository (``X[0,3]``), for one network or for two that are shown
the same input.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import inf, isfinite, prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from overproof.certification.query import Case
from overproof.errors import InputError
from overproof.formats.queries import Expression, Point, Query, number, quote, split_index
from overproof.reading import parsing

Linear = tuple[dict[int, float], float]
"""Coefficients by the number of the variable, and a constant."""

_MOST_CASES = 20_000
_MOST_TERMS = 1 << 22  # inequalities of all cases
_MOST_NUMBERS = 1 << 26  # of all boxes and rows: half a gigabyte
_LONGEST_EXPONENT = 5  # characters; more would be an integer of many digits
_TYPES = ("Real", "real", "float32", "F32")
_STRICT = {"<": "<=", ">": ">="}


@dataclass(frozen=True)
class Sizes:
    """What a file takes and gives: the shape of its input without the batch, the number of its outputs."""

    where: str
    shape: tuple[int, ...]
    outputs: int

    @property
    def inputs(self) -> int:
        """How many numbers it takes."""
        return prod(self.shape)


@dataclass(frozen=True)
class Variables:
    """The names of one network's input and output in a query, and their declared shapes; None in 1.0, which counts."""

    network: str
    names: tuple[str, str]
    shapes: tuple[tuple[int, ...], tuple[int, ...]] | None = None

    def assigned(self, side: int, values: np.ndarray[Any, Any]) -> Iterator[str]:
        """Yield ``(X_0 0.5)`` for each value of the input (side 0) or output (1), in row-major order."""
        name = self.names[side]
        if self.shapes is None:
            return (f"({name}_{place} {value!r})" for place, value in enumerate(values.tolist()))
        places = (",".join(map(str, at)) for at in np.ndindex(*self.shapes[side]))
        return (
            f"({name}[{at}] {value!r})" if at else f"({name} {value!r})"
            for at, value in zip(places, values.tolist(), strict=True)
        )

    def shaped(self, side: int, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return values in the declared shape."""
        return values if self.shapes is None else values.reshape(self.shapes[side])


@dataclass(frozen=True, eq=False)
class Property:
    """A query about files: where any of the cases has a counter-example, the query is ``sat``.

    There are no cases where no numbers can satisfy it, whatever the networks compute.

    Inputs are ``[F]`` in row-major order; outputs are those of the first network, then those of the second. A case's
    box is the query's, rounded outwards to float32; ``inner`` ``(lower, upper)`` has, float32, its values that lie
    within the query's box itself, or, where a side of it is too narrow for one, the nearest value.
    ``outputs`` is how many each network has.
    """

    query: Query
    networks: tuple[Variables, ...]
    cases: tuple[Case, ...]
    inner: tuple[tuple[Tensor, Tensor], ...]
    outputs: tuple[int, ...]

    @property
    def compares(self) -> bool:
        """Whether every inequality says that one output is at least another one of the same network."""
        for case in self.cases:
            for part in torch.split(case.weight, list(self.outputs), dim=1):
                if ((part != 0).sum(dim=1) % 2 != 0).any() or (part.sum(dim=1) != 0).any():
                    return False
            if ((case.weight != 0).sum(dim=1) != 2).any() or (case.bias != 0).any():
                return False
        return True

    def meets(self, number: int, outputs: Tensor) -> bool:
        """Tell whether outputs ``[K]`` satisfy a case's inequalities, in float64."""
        case = self.cases[number]
        return bool((case.weight @ outputs.double() + case.bias >= 0).all())

    def inside(self, number: int, x: Tensor) -> Tensor:
        """Return the input of a case's box, float32, that is nearest to ``x`` ``[F]``."""
        lower, upper = self.inner[number]
        return torch.minimum(torch.maximum(x.float(), lower), upper)

    def holds(self, x: Tensor, outputs: Sequence[Tensor]) -> bool:
        """Tell whether the query itself, read again, is satisfied by an input ``[F]`` and each network's outputs."""
        given = x.double().numpy()
        return self.query.satisfied_by(
            Point(
                {one.names[0]: one.shaped(0, given) for one in self.networks},
                {
                    one.names[1]: one.shaped(1, output.double().numpy())
                    for one, output in zip(self.networks, outputs, strict=True)
                },
            )
        )

    def witness(self, x: Tensor, outputs: Sequence[Tensor]) -> str:
        """Return a counter-example in the form of VNN-COMP, ``((X_0 v) ... (Y_0 v) ...)``; numbers are exact."""
        lines = [
            line
            for one, output in zip(self.networks, outputs, strict=True)
            for side, values in ((0, x), (1, output))
            for line in one.assigned(side, values.double().numpy())
        ]
        return "(" + "\n".join(lines) + ")\n"


def property_of(query: Query, files: Sequence[Sizes]) -> Property:
    """Return the cases of a query about one or two files, in the order in which it declares their networks.

    Raises ``InputError`` for another number of networks, inputs or outputs, an input without
    bounds, an empty box, strict and non-linear inequalities, numbers that are not finite, inputs in one inequality with
    each other or with outputs, and more cases than can be kept.
    """
    with parsing("the query", "VNN-LIB"):
        networks = _read_declarations(query, files)
        reading = _Reading(networks, files)
        parts = reading.cases(query.assertions)
        read = [reading.case(part) for part in parts]
        cases, inner = tuple(case for case, _ in read), tuple(box for _, box in read)
    return Property(query, networks, cases, inner, tuple(file.outputs for file in files))


def networks_of(query: Query) -> dict[str, str]:
    """Return the networks that a 2.0 query declares, in its order, each with the one it is equal to, or nothing."""
    networks = dict[str, str]()
    for form in query.declarations:
        if form[0] == "declare-network" and len(form) > 1:
            same = [part[1] for part in form[2:] if isinstance(part, list) and part[:1] == ["equal-to"] and part[1:]]
            networks[str(form[1])] = str(same[0]) if same else ""
    return networks


# --- declarations -----------------------------------------------------------------------------------------------------


def _read_declarations(query: Query, files: Sequence[Sizes]) -> tuple[Variables, ...]:
    networks = [form for form in query.declarations if form[0] == "declare-network"]
    if len(networks) > 2 or len(files) != max(1, len(networks)):
        asked = f"{len(networks)} networks" if len(networks) > 1 else "one network"
        raise InputError(f"the query is about {asked}, and {len(files)} {'is' if len(files) == 1 else 'are'} given")
    if not networks:
        return (_of_version_1(query, files[0]),)
    if len(networks) != len(query.declarations):
        raise InputError("the query declares networks and variables beside them; in VNN-LIB 2.0 a network has its own")
    networks_declared = tuple(_network(form, file) for form, file in zip(networks, files, strict=True))
    if len({name for one in networks_declared for name in one.names}) != 2 * len(networks_declared):
        raise InputError("the query declares a variable twice")
    return networks_declared


def _of_version_1(query: Query, file: Sizes) -> Variables:
    counts = {"X": set[int](), "Y": set[int]()}
    for form in query.declarations:
        name, index = split_index(str(form[1])) if len(form) > 1 else ("", ())
        if name not in counts or len(index) != 1:
            raise InputError(f"the query declares {quote(form)}, which is neither an input X_i nor an output Y_i")
        if index[0] in counts[name]:
            raise InputError(f"the query declares {name}_{index[0]} twice")
        counts[name].add(index[0])
    for name, what, size in (("X", "inputs", file.inputs), ("Y", "outputs", file.outputs)):
        if counts[name] != set(range(size)):
            most = max(counts[name], default=-1) + 1
            said = str(len(counts[name])) if most == len(counts[name]) else f"{len(counts[name])} of {most}"
            raise InputError(f"the query is about {said} {what}, {file.where} has {size}")
    return Variables("", ("X", "Y"))


def _network(form: Sequence[Expression], file: Sizes) -> Variables:
    if len(form) < 2 or not isinstance(form[1], str):
        raise InputError(f"this is no VNN-LIB query: {quote(form)} names no network")
    name, variables = form[1], dict[str, list[tuple[str, tuple[int, ...]]]]()
    for part in form[2:]:
        word = part[0] if isinstance(part, list) and part else ""
        if word in ("equal-to", "isomorphic-to"):
            continue
        if word not in ("declare-input", "declare-output") or len(part) < 3:
            raise InputError(f"the query's network {quote(name)} has {quote(part)}; known are one input and one output")
        kind, sizes = split_index(str(part[2]))
        if kind not in _TYPES:
            raise InputError(f"the query's {quote(part[1])} is of type {quote(kind)}, {file.where} of float32")
        variables.setdefault(str(word), []).append((str(part[1]), sizes))
    if sorted(variables) != ["declare-input", "declare-output"] or any(len(each) != 1 for each in variables.values()):
        raise InputError(f"the query's network {quote(name)} needs one input and one output")
    ((x, takes),), ((y, gives),) = variables["declare-input"], variables["declare-output"]
    flat = (file.inputs,) in (_bare(takes), _bare(file.shape))  # then both count in row-major order
    if prod(takes) != file.inputs or not (flat or _bare(takes) == _bare(file.shape)):
        raise InputError(f"the query is about inputs {x} {list(takes)}, {file.where} takes {list(file.shape)}")
    if prod(gives) != file.outputs:
        raise InputError(f"the query is about {prod(gives)} outputs {y}, {file.where} has {file.outputs}")
    return Variables(name, (x, y), (takes, gives))


def _bare(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1) or (1,)


# --- assertions -------------------------------------------------------------------------------------------------------


@dataclass
class _Part:
    """A conjunction: bounds of inputs by number, and rows of outputs that must be at least 0."""

    bounds: dict[int, tuple[float, float]] = field(default_factory=dict)
    rows: tuple[Linear, ...] = ()
    possible: bool = True

    @property
    def size(self) -> int:
        """How many inequalities it has."""
        return len(self.bounds) + len(self.rows)


def _together(parts: Sequence[_Part]) -> _Part:
    """Return the conjunction of conjunctions."""
    bounds, rows = dict[int, tuple[float, float]](), list[Linear]()
    for part in parts:
        for place, (low, high) in part.bounds.items():
            own = bounds.get(place, (-inf, inf))
            bounds[place] = max(low, own[0]), min(high, own[1])
        rows += part.rows
    return _Part(bounds, tuple(rows), all(part.possible for part in parts))


def _product(some: Sequence[_Part], others: Sequence[_Part]) -> list[_Part]:
    """Return the conjunctions of one of each; raise ``InputError`` where they are more than can be kept."""
    numbers = sum(len(other) * part.size for parts, other in ((some, others), (others, some)) for part in parts)
    if (count := len(some) * len(others)) > _MOST_CASES or numbers > _MOST_TERMS:
        raise InputError(f"the query has {count:,} cases or more, with {numbers:,} inequalities; that is too many")
    return [_together((one, other)) for one in some for other in others]


class _Reading:
    """Turns assertions about known networks into cases. Inputs are numbered first, then outputs, network by network.

    Two networks are shown the same input, so an input of the second is the one in its place of the first.
    """

    def __init__(self, networks: Sequence[Variables], files: Sequence[Sizes]) -> None:
        if len({file.inputs for file in files}) != 1:
            counts = " and ".join(f"{file.where} takes {file.inputs}" for file in files)
            raise InputError(f"both networks must be shown the same input, but {counts} numbers")
        self._inputs, self._files = files[0].inputs, files
        self._places: dict[str, tuple[int, tuple[int, ...]]] = {}  # name: start, declared shape
        start = 0
        for side in (0, 1):
            for one, file in zip(networks, files, strict=True):
                count = file.outputs if side else file.inputs
                shape = one.shapes[side] if one.shapes else (count,)
                self._places[one.names[side]] = start, shape
                start += count
        self._all_inputs = sum(file.inputs for file in files)
        self._outputs = start - self._all_inputs
        self._numbers: dict[str, int] = {}
        self._tied: set[int] = set()
        self._base = _Part()
        self._lower = self._upper = np.empty(0)
        self._shared: tuple[Tensor, Tensor, tuple[Tensor, Tensor]] | None = None

    def cases(self, assertions: Sequence[Expression]) -> list[_Part]:
        """Return the conjunctions of the disjunctive form, without those whose box is empty."""
        choices, rest = list[list[_Part]](), list[_Part]()
        for form in assertions:
            conjunctions = self._parts(form, top=True)
            if len(conjunctions) == 1:
                rest.append(conjunctions[0])
            else:
                choices.append(conjunctions)
        self._set_base(rest)
        parts = [_Part(rows=self._base.rows, possible=self._base.possible)]
        for conjunctions in choices:
            parts = _product(parts, conjunctions)
        possible = [part for part in parts if part.possible]
        kept = [part for part in possible if not self._outside(part)]
        if possible and not kept:
            raise InputError("the query's box of inputs is empty: some lower bound is above its upper bound")
        for place, (low, high) in enumerate(zip(self._lower, self._upper, strict=True)):
            if not (isfinite(low) and isfinite(high)) and not all(self._bounded(part, place) for part in kept):
                side = "lower" if not isfinite(low) else "upper"
                raise InputError(f"the query gives {self._called(place)} no {side} bound")
        own = sum(4 * self._inputs for part in kept if part.bounds)
        if sum((1 + len(part.rows)) * self._outputs for part in kept) + own > _MOST_NUMBERS:
            raise InputError(f"the query has {len(kept):,} cases, and the numbers of all are too many")
        return kept

    def case(self, part: _Part) -> tuple[Case, tuple[Tensor, Tensor]]:
        """Return a conjunction as a case, and the box of the float32 inputs that it speaks of."""
        if part.bounds or self._shared is None:
            lower, upper = self._lower.copy(), self._upper.copy()
            for place, (low, high) in part.bounds.items():
                lower[place], upper[place] = max(low, lower[place]), min(high, upper[place])
            box = (*_outwards(lower, upper), _inwards(lower, upper))
            if not all(bool(side.isfinite().all()) for side in box[:2]):
                raise InputError("the query's box of inputs is beyond what float32 can hold")
            self._shared = self._shared if part.bounds else box
        else:
            box = self._shared
        weight = torch.zeros(len(part.rows), self._outputs, dtype=torch.float64)
        for row, (factors, _) in enumerate(part.rows):
            for place, factor in factors.items():
                weight[row, place - self._all_inputs] = factor
        bias = torch.tensor([constant for _, constant in part.rows], dtype=torch.float64)
        return Case(box[0], box[1], weight, bias), box[2]

    def _set_base(self, parts: Sequence[_Part]) -> None:
        """Keep what must hold in every case."""
        lower, upper = np.full(self._inputs, -inf), np.full(self._inputs, inf)
        rows, possible = list[Linear](), True
        for part in parts:
            for place, (low, high) in part.bounds.items():
                lower[place], upper[place] = max(low, lower[place]), min(high, upper[place])
            rows += part.rows
            possible &= part.possible
        if len(self._files) == 2 and len(self._tied) < self._inputs:
            place = next(place for place in range(self._inputs) if place not in self._tied)
            raise InputError(
                f"the query does not say that both networks are shown the same input (nothing of {self._called(place)})"
            )
        if (lower > upper).any():
            place = int((lower > upper).argmax())
            raise InputError(
                f"the query's box of inputs is empty: {self._called(place)} is at least {lower[place]:g} and at most "
                f"{upper[place]:g}"
            )
        self._lower, self._upper, self._base = lower, upper, _Part(rows=tuple(rows), possible=possible)

    def _outside(self, part: _Part) -> bool:
        return any(
            max(low, self._lower[place]) > min(high, self._upper[place]) for place, (low, high) in part.bounds.items()
        )

    def _bounded(self, part: _Part, place: int) -> bool:
        low, high = part.bounds.get(place, (-inf, inf))
        return isfinite(max(low, self._lower[place])) and isfinite(min(high, self._upper[place]))

    def _parts(self, form: Expression, *, top: bool = False) -> list[_Part]:
        """Return the conjunctions of one assertion's disjunctive form."""
        if not isinstance(form, list) or not form or not isinstance(form[0], str):
            raise InputError(f"this is no VNN-LIB query: {quote(form)} is no statement")
        if form[0] == "or":
            return [part for each in form[1:] for part in self._parts(each)] or [_Part(possible=False)]
        if form[0] != "and":
            return [self._atom(form, top)]
        alone, choices = list[_Part](), list[list[_Part]]()
        for each in form[1:]:
            more = self._parts(each, top=top)
            if len(more) == 1:
                alone += more
            else:
                choices.append(more)
        conjunctions = [_together(alone)]
        for more in choices:
            conjunctions = _product(conjunctions, more)
        return conjunctions

    def _atom(self, form: list[Expression], top: bool) -> _Part:
        word = str(form[0])
        if word in _STRICT:
            raise InputError(
                f"the query's {quote(form)} is strict, and a proof is about closed sets; write {_STRICT[word]}"
            )
        if word not in ("<=", ">=", "=", "==") or len(form) != 3:
            raise InputError(f"this is no VNN-LIB query: {quote(form)} is no comparison of two numbers by <=, >= or ==")
        (one, first), (other, second) = self._linear(form[1]), self._linear(form[2])
        factors, constant = _sum(one, other, -1.0), first - second
        if not isfinite(constant) or not all(map(isfinite, factors.values())):
            raise InputError(f"the query's {quote(form)} has a number that is not finite")
        if not factors:
            return _Part(possible=self._true(word, form))
        own = [place for place in factors if place < self._all_inputs]
        if not own:
            return _Part(rows=_rows(word, (factors, constant)))
        if len(own) == 1 and len(factors) == 1:
            return self._bound(word, own[0], factors[own[0]], constant)
        if self._is_tie(word, factors, constant) and top:
            self._tied.add(min(own))
            return _Part()
        raise InputError(f"the query's {quote(form)} has several variables and an input; inputs are bounded one by one")

    def _true(self, word: str, form: list[Expression]) -> bool:
        """Whether a comparison whose variables cancel out holds: in exact arithmetic, for nothing checks it again."""
        (_, one), (_, other) = self._linear(form[1], exact=True), self._linear(form[2], exact=True)
        return {">=": one >= other, "<=": one <= other}.get(word, one == other)

    def _bound(self, word: str, place: int, factor: float, constant: float) -> _Part:
        """``factor * x + constant`` compared with 0, as a bound of the input."""
        at = -constant / factor + 0.0
        if not isfinite(at):
            raise InputError("the query bounds an input by a number that is not finite")
        least = word in ("=", "==") or (word == ">=") == (factor > 0)
        most = word in ("=", "==") or not least
        return _Part({place % self._inputs: (at if least else -inf, at if most else inf)})

    def _is_tie(self, word: str, factors: Mapping[int, float], constant: float) -> bool:
        """Whether this says that an input of the second network is the one in its place of the first."""
        if len(self._files) != 2 or len(factors) != 2 or constant or word not in ("=", "=="):
            return False
        (one, a), (other, b) = sorted(factors.items())
        return other < self._all_inputs and other - one == self._inputs and a == -b

    def _linear(self, form: Expression, *, exact: bool = False) -> Linear:
        """Return a linear function in float64, or in fractions (which behave as floats do)."""
        if isinstance(form, str):
            if (value := number(form)) is not None:
                return {}, _exact(form, value) if exact else value
            if form.lstrip("+-").lower() in ("nan", "inf", "infinity"):
                raise InputError(f"the query has {quote(form)}, which is not a finite number")
            return {self._place(form): 1.0}, 0.0
        word, parts = (form[0], [self._linear(part, exact=exact) for part in form[1:]]) if form else ("", [])
        if word == "+" and parts:
            total = parts[0]
            for factors, constant in parts[1:]:
                total = _sum(total[0], factors, 1.0), total[1] + constant
            return total
        if word == "-" and len(parts) == 1:
            return {place: -factor for place, factor in parts[0][0].items()}, -parts[0][1]
        if word == "-" and parts:
            total = parts[0]
            for factors, constant in parts[1:]:
                total = _sum(total[0], factors, -1.0), total[1] - constant
            return total
        if word == "*" and parts:
            total = parts[0]
            for part in parts[1:]:
                if total[0] and part[0]:
                    raise InputError(f"the query's {quote(form)} multiplies variables, so it is not linear")
                (factors, constant), by = (total, part[1]) if total[0] else (part, total[1])
                total = {place: factor * by for place, factor in factors.items() if factor * by}, constant * by
            return total
        raise InputError(f"the query's {quote(form)} is no sum, difference or product, so it is not linear")

    def _place(self, variable: str) -> int:
        """Return the number of a variable."""
        if variable not in self._numbers:
            self._numbers[variable] = self._looked_up(variable)
        return self._numbers[variable]

    def _looked_up(self, variable: str) -> int:
        name, index = split_index(variable)
        if name not in self._places:
            raise InputError(f"the query speaks of {quote(variable)}, which it does not declare")
        start, shape = self._places[name]
        if len(index) != len(shape) or any(not 0 <= at < size for at, size in zip(index, shape, strict=True)):
            raise InputError(f"the query speaks of {quote(variable)}, but {name} has the shape {list(shape)}")
        at = 0
        for one, size in zip(index, shape, strict=True):
            at = at * size + one
        return start + at

    def _called(self, place: int) -> str:
        """Return the name of an input in the query."""
        name, (_, shape) = next(iter(self._places.items()))
        if len(self._places) == 2 and shape == (self._inputs,) and name == "X":
            return f"X_{place}"
        return f"{name}[{','.join(str(int(at)) for at in np.unravel_index(place, shape))}]"


def _exact(text: str, value: float) -> Any:
    """Return the number of a text as a fraction; one with an exponent of many digits, as float64 has it."""
    exponent = text.lower().partition("e")[2]
    return Fraction(text) if len(exponent) < _LONGEST_EXPONENT else Fraction(value)


def _sum(one: Mapping[int, float], other: Mapping[int, float], sign: float) -> dict[int, float]:
    total = dict(one)
    for place, factor in other.items():
        total[place] = total.get(place, 0.0) + sign * factor
    return {place: factor for place, factor in total.items() if factor}


def _rows(word: str, row: Linear) -> tuple[Linear, ...]:
    """``row`` compared with 0, as rows that must be at least 0."""
    negated = {place: -factor for place, factor in row[0].items()}, -row[1]
    return {">=": (row,), "<=": (negated,)}.get(word, (row, negated))


def _outwards(lower: np.ndarray[Any, Any], upper: np.ndarray[Any, Any]) -> tuple[Tensor, Tensor]:
    """Return float64 bounds that are values of float32, the nearest that are not inside."""
    low, high = _to_float32(lower), _to_float32(upper)
    low = np.where(low > lower, np.nextafter(low, np.float32(-inf)), low)
    high = np.where(high < upper, np.nextafter(high, np.float32(inf)), high)
    return torch.from_numpy(low.astype(np.float64)), torch.from_numpy(high.astype(np.float64))


def _inwards(lower: np.ndarray[Any, Any], upper: np.ndarray[Any, Any]) -> tuple[Tensor, Tensor]:
    """Return the least and greatest values of float32 inside the bounds; the nearest to their middle where none is."""
    low, high = _to_float32(lower), _to_float32(upper)
    low = np.where(low < lower, np.nextafter(low, np.float32(inf)), low)
    high = np.where(high > upper, np.nextafter(high, np.float32(-inf)), high)
    none, middle = low > high, _to_float32(lower / 2 + upper / 2)
    return torch.from_numpy(np.where(none, middle, low)), torch.from_numpy(np.where(none, middle, high))


def _to_float32(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    with np.errstate(over="ignore"):
        return values.astype(np.float32)
