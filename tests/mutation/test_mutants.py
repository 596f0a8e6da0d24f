"""The tool that changes the source: its changes are small, single and compile."""

import ast

from benchmarks.mutation import cover
from benchmarks.mutation.mutants import changed, mutants

SOURCE = '''"""What it does."""
import math

LIMIT: int = 3


def lowest(values, *, start=0.5, dim: int = 1):
    """Return the lowest."""
    if not values and start > 0 or start == 2:
        raise ValueError(f"no values, {start + 1}")
    found = start
    for value in values:
        if value is None:
            continue
        found = min(found, value * 2 - 1)
        found += values.clamp(min=0).sum(dim=0)
        note(found)
    return found if found else -found
'''


def shown(operator=None):
    return {(m.before, m.after) for m in mutants("x.py", SOURCE) if operator in (None, m.operator)}


def test_every_kind_of_change_is_made():
    assert {m.operator for m in mutants("x.py", SOURCE)} == {
        *("compare", "arithmetic", "and/or", "sign", "constant", "branch", "call", "opposite", "removed", "returned"),
        "loop",
    }
    assert ("continue", "break") in shown("loop")
    assert ("note(found)", "pass") in shown("removed")
    assert ("found = min(found, value * 2 - 1)", "found = max(found, value * 2 - 1)") in shown("opposite")
    assert ("found = min(found, value * 2 - 1)", "found = min(found, value / 2 - 1)") in shown("arithmetic")
    assert ("LIMIT: int = 3", "LIMIT: int = 4") in shown("constant")
    assert ("return found if found else -found", "return -found if found else found") in shown("branch")
    assert ("found += values.clamp(min=0).sum(dim=0)", "found += values.clamp(max=0).sum(dim=0)") in shown("opposite")


def test_what_computes_nothing_is_left_alone():
    assert not any("no values" in before for before, _ in shown() if not before.startswith("raise"))
    assert [m.operator for m in mutants("x.py", SOURCE) if m.before.startswith("raise")] == ["removed"]
    assert not any("What it does" in before or "import" in before for before, _ in shown())


def test_each_changes_one_place_and_compiles():
    found = mutants("x.py", SOURCE)
    assert [m.number for m in found] == list(range(len(found)))
    plain = ast.dump(ast.parse(SOURCE))
    dumps = set()
    for mutant in found:
        tree = changed(SOURCE, mutant.number)
        compile(tree, "x.py", "exec")
        dumps.add(ast.dump(tree))
        assert mutant.before != mutant.after
        assert SOURCE.splitlines()[mutant.line - 1].strip()
    assert plain not in dumps and len(dumps) == len(found)


def test_the_tests_of_the_narrowest_span_are_chosen_those_of_the_mirror_first():
    known = cover.Cover(
        {"tests/contracts/a": 1.0, "tests/bounds/test_x.py::b": 2.0, "tests/bounds/test_x.py::c": 1.5, "d": 9.0},
        {
            "bounds/x.py": {
                4: ("tests/contracts/a", "tests/bounds/test_x.py::b", "tests/bounds/test_x.py::c"),
                9: ("d",),
            }
        },
    )
    mirror = ["tests/bounds/test_x.py::c", "tests/bounds/test_x.py::b"]
    assert known.of("bounds/x.py", [(4, 5), (1, 9)], 10) == [*mirror, "tests/contracts/a"]
    assert known.of("bounds/x.py", [(4, 4)], 4) == mirror
    assert known.of("bounds/x.py", [(9, 9)], 1) == ["d"]
    assert known.of("bounds/y.py", [(9, 9)], 1) == []
    # A line of the import: whatever runs the lines around it, and the package's other tests.
    assert known.of("bounds/x.py", [(2, 3), (2, 5), (1, 9)], 10) == ["tests/contracts/a", *mirror]
    assert known.of("bounds/x.py", [(2, 3), (8, 9)], 4) == mirror
