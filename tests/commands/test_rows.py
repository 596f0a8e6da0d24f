import pytest

from overproof.commands.rows import SweepRow, check_teachers, in_order, read_row, seeds_of
from overproof.errors import InputError


def chain(length):
    rows = {"r0": SweepRow(recipe="x")}
    return rows | {f"r{n}": SweepRow(recipe="x", teachers={"robust": f"r{n - 1}"}) for n in range(1, length)}


def test_teachers_come_first_whatever_the_order_of_the_file():
    rows = dict(reversed(chain(3).items()))
    assert list(in_order(rows, [1, 0], "f")) == [(name, seed) for seed in (1, 0) for name in ("r0", "r1", "r2")]
    assert in_order(rows, [1, 0], "f")["r2", 0] == {"robust": ("r1", 0)}


def test_a_teacher_of_one_seed_teaches_all():
    rows = chain(2) | {"r0": SweepRow(recipe="x", seeds=[7])}
    assert seeds_of(rows, "r0", [0, 1]) == [7]
    assert in_order(rows, [0, 1], "f") == {
        ("r0", 7): {},
        ("r1", 0): {"robust": ("r0", 7)},
        ("r1", 1): {"robust": ("r0", 7)},
    }


def test_a_circle_and_a_chain_without_an_end_are_refused():
    rows = chain(3) | {"r0": SweepRow(recipe="x", teachers={"robust": "r2"})}
    with pytest.raises(InputError, match=r"^f: runs\.r0 is taught by itself$"):
        in_order(rows, [0], "f")
    rows = dict(reversed(chain(3000).items()))
    with pytest.raises(InputError, match=r"^f: runs\.r2999 has more than 20 teachers in a row$"):
        in_order(rows, [0], "f")


def test_a_teacher_that_is_not_there():
    with pytest.raises(InputError, match=r"^f: runs\.a\.teachers\.robust: there is no run 'b'"):
        check_teachers({"a": SweepRow(recipe="x", teachers={"robust": "b"})}, "f")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (3, "expected a mapping, got 3"),
        ({}, "key 'recipe' is missing"),
        ({"recipe": 3}, "w.recipe: expected a str, got 3"),
        ({"recipe": "x", "set": []}, "w.set: expected a dict"),
        ({"recipe": "x", "teachers": "y"}, "w.teachers: expected a dict"),
        ({"recipe": "x", "seeds": []}, "w.seeds: expected a list of whole numbers"),
        ({"recipe": "x", "seeds": [True]}, "w.seeds: expected a list of whole numbers"),
        ({"recipe": "x", "seed": 1}, "unknown key 'seed' .did you mean 'seeds'"),
    ],
)
def test_bad_rows(text, sentence):
    with pytest.raises(InputError, match=sentence):
        read_row(text, "w")
