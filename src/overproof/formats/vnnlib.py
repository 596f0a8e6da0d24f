"""Verifier queries as text: VNN-LIB 1.0 for one network, VNN-LIB 2.0 for a teacher and its student.

A query describes a counter-example, so an answer of ``unsat`` is a proof. Sets are closed, as verifiers treat them: a
tie counts as a counter-example, and a proof excludes ties as well. Formats: https://www.vnnlib.org (1.0 as in
VNN-COMP, 2.0 by grammar of the VNNLIB-Standard repository).
"""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import permutations

import torch
from torch import Tensor

from overproof.environment import package
from overproof.errors import InputError
from overproof.reading import reason

TEACHER, STUDENT = "teacher", "student"


def box(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the lower and upper pixels, float64, of the linf ball around pixels ``x`` within [0, 1]."""
    exact = x.double()
    return (exact - eps).clamp(min=0), (exact + eps).clamp(max=1)


def robustness(x: Tensor, label: int, classes: int, eps: float) -> str:
    """Return the 1.0 query: is there an image in the linf ball around ``x`` ``[C, H, W]`` not classified as ``label``?

    Inputs ``X_0``, ``X_1``, ... are pixels in channel, row, column order; outputs ``Y_0``, ... are logits. One of the
    other logits is at least the label's.
    """
    low, high = (side.flatten().tolist() for side in box(x, eps))
    lines = [f"; is another class than {label} as likely within linf {eps:g} of this image?"]
    lines += [f"(declare-const X_{number} Real)" for number in range(len(low))]
    lines += [f"(declare-const Y_{number} Real)" for number in range(classes)]
    for number, (least, most) in enumerate(zip(low, high, strict=True)):
        lines += [f"(assert (>= X_{number} {decimal(least)}))", f"(assert (<= X_{number} {decimal(most)}))"]
    others = [f"    (and (>= Y_{other} Y_{label}))" for other in range(classes) if other != label]
    return "\n".join([*lines, "(assert (or", *others, "))", ""])


def disagreement(x: Tensor, classes: int, eps: float) -> str:
    """Return the 2.0 query: is there an image in the ball that teacher and student put into different classes?

    For some pair of classes the teacher's logits are largest at the first, and the student's second is at least its
    first.
    """
    cases = []
    for first, second in permutations(range(classes), 2):
        largest = [f"(>= Y_{TEACHER}[0,{first}] Y_{TEACHER}[0,{other}])" for other in range(classes) if other != first]
        cases.append(f"    (and {' '.join(largest)} (>= Y_{STUDENT}[0,{second}] Y_{STUDENT}[0,{first}]))")
    question = f"; can teacher and student disagree about the class within linf {eps:g} of this image?"
    return "\n".join([*_pair(question, x, classes, eps), "(assert (or", *cases, "))", ""])


def margin_gap(x: Tensor, label: int, classes: int, eps: float, gamma: float) -> str:
    """Return the 2.0 query: can the margins of teacher and student differ by ``gamma`` or more in the ball?

    A margin is the label's logit less another class's; some class's margins differ, in either direction. (A softmax
    confidence is no linear function of logits, so no query of VNN-LIB can speak of it.)
    """
    bound, cases = decimal(gamma), []
    for other in range(classes):
        if other != label:
            margins = [f"(- Y_{name}[0,{label}] Y_{name}[0,{other}])" for name in (TEACHER, STUDENT)]
            for more, less in (margins, margins[::-1]):
                cases.append(f"    (>= (- {more} {less}) {bound})")
    question = f"; can the margins of class {label} differ by {gamma:g} within linf {eps:g} of this image?"
    return "\n".join([*_pair(question, x, classes, eps), "(assert (or", *cases, "))", ""])


def _pair(question: str, x: Tensor, classes: int, eps: float) -> Iterator[str]:
    """Yield two networks that are shown the same image of the ball."""
    shape = ",".join(str(size) for size in (1, *x.shape))
    yield question
    yield "(vnnlib-version <2.0>)"
    for name in (TEACHER, STUDENT):
        yield f"(declare-network {name}"
        yield f"    (declare-input X_{name} float32 [{shape}])"
        yield f"    (declare-output Y_{name} float32 [1,{classes}])"
        yield ")"
    low, high = box(x, eps)
    for place in torch.cartesian_prod(*(torch.arange(size) for size in x.shape)).tolist():
        at = ",".join(str(index) for index in (0, *place))
        yield f"(assert (>= X_{TEACHER}[{at}] {decimal(float(low[tuple(place)]))}))"
        yield f"(assert (<= X_{TEACHER}[{at}] {decimal(float(high[tuple(place)]))}))"
        yield f"(assert (== X_{STUDENT}[{at}] X_{TEACHER}[{at}]))"


def decimal(value: float) -> str:
    """Return a float64 exactly enough to read it back, without an exponent, which the grammar of 2.0 does not know."""
    text = format(Decimal(repr(value)), "f")
    return text if "." in text else f"{text}.0"


def check_version_2(text: str, *, where: str) -> None:
    """Parse a 2.0 query with the standard's own parser, which checks names, types and indices; or ``InputError``."""
    vnnlib = package("vnnlib", extra="export", where=f"{where}: checking queries")
    try:
        vnnlib.parse_query_string(text)
    except Exception as problem:  # its own VNNLibException, and what its compiled part raises
        raise InputError(f"{where}: not a VNN-LIB 2.0 query ({reason(problem)})") from problem


def instances(rows: Sequence[tuple[str, str, int]]) -> str:
    """Return the text of ``instances.csv``: network file, query file and seconds per line, without a header."""
    return "".join(f"{network},{query},{seconds}\n" for network, query, seconds in rows)


def pair_of_files(teacher: str, student: str) -> str:
    """Return the first cell of ``instances.csv`` for two networks: a quoted list of names and files (VNN-COMP 2026)."""
    return f"\"[('{TEACHER}','{teacher}'),('{STUDENT}','{student}')]\""
