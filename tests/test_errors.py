import pytest

from overproof.errors import InputError, nearest


def test_what_a_user_gave_is_a_value_error():
    with pytest.raises(ValueError, match="one sentence"):
        raise InputError("one sentence")


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
