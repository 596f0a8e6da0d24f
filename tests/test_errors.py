import pytest

from overproof.errors import AgreedError, InputError, nearest


def test_what_a_user_gave_is_a_value_error():
    with pytest.raises(ValueError, match="one sentence"):
        raise InputError("one sentence")


def test_it_is_one_line_whatever_it_quotes():
    assert str(InputError("a\r\n  b\x1b[31m\u2028c")) == "a b\\x1b[31m c"
    assert str(InputError("two  blanks of a path")) == "two  blanks of a path"
    assert len(str(InputError("x" * 1_000_000))) < 4100
    assert str(AgreedError()) == ""


def test_a_long_name_is_not_compared_with_every_other():
    assert nearest("x" * 5_000_000, ["a", "b"]) == " (one of: a, b)"


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("alhpa", " (did you mean 'alpha'?)"),
        ("temperatur", " (did you mean 'temperature'?)"),
        ("zzz", " (one of: alpha, inner, temperature)"),
        ("", " (one of: alpha, inner, temperature)"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest_or_with_all(name, answer):
    assert nearest(name, {"temperature": 1, "alpha": 2, "inner": 3}) == answer


def test_names_may_come_from_an_iterator():
    assert nearest("zzz", iter(["b", "a"])) == " (one of: a, b)"
