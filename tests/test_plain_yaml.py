import time

import pytest

from overproof.errors import InputError
from overproof.plain_yaml import LARGEST, parse_yaml, read_yaml


def refused(text):
    with pytest.raises(InputError) as found:
        parse_yaml(text, where="r.yaml")
    said = str(found.value)
    assert said.startswith("r.yaml: ")
    assert "\n" not in said
    assert len(said) < 1000
    return said


def test_plain_values_are_read():
    text = "a: {b: [1, 0x10, 2.5, yes, null, 'x']}\nc: &c {d: 1}\ne: *c\nf: {<<: *c, d: 2}\n"
    found = parse_yaml(text, where="r.yaml")
    assert found == {"a": {"b": [1, 16, 2.5, True, None, "x"]}, "c": {"d": 1}, "e": {"d": 1}, "f": {"d": 2}}
    assert parse_yaml("", where="r.yaml") is None


@pytest.mark.parametrize("text", ["seed: 1\nseed: 2", "a: {b: 1, c: 2, 'b': 3}", "[{x: 1, x: 1}]", "1: a\n1: b"])
def test_a_key_twice_is_refused(text):
    assert "is there twice" in refused(text)


@pytest.mark.parametrize("text", ["[" * 20_000, "{a: " * 20_000, "- " * 20_000 + "x", "a: " + "[" * 60 + "]" * 60])
def test_deep_nesting_is_refused_at_once(text):
    begin = time.process_time()
    assert "nested" in refused(text)
    assert time.process_time() - begin < 5


def test_aliases_count_as_often_as_they_stand():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    assert "more than 20,000 values" in refused("\n".join(lines))


def test_a_value_may_not_contain_itself():
    assert "contains itself" in refused("a: &a [*a]")
    assert "contains itself" in refused("a: &a {b: *a}")


@pytest.mark.parametrize("number", ["1" * 5000, "9223372036854775808", "-9223372036854775808", "0x" + "f" * 9000])
def test_numbers_have_an_end(number):
    refused(f"a: {number}")
    refused(f"{{{number}: 1}}")


@pytest.mark.parametrize(
    "text", ["a: [", "a: b: c", "!!python/object/apply:os.abort []", "a: !x 1", "2001-99-99", "\0", "? {a: 1}\n: 2"]
)
def test_other_text_is_one_sentence(text):
    refused(text)


def test_a_file_has_a_largest_size(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text("#" * LARGEST)
    assert read_yaml(file) is None
    file.write_text("#" * (LARGEST + 1))
    with pytest.raises(InputError, match="more than the 1,048,576"):
        read_yaml(file)
