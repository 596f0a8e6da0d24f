from overproof.data.notes import counted, first_of, joined, was


def test_numbers_have_their_nouns():
    assert [counted(n, "image") for n in (0, 1, 1200)] == ["0 images", "1 image", "1,200 images"]
    assert [was(n) for n in (1, 2)] == ["was left out", "were left out"]


def test_parts_are_joined_and_empty_ones_left_out():
    assert joined([]) == joined([""]) == ""
    assert joined(["a", ""]) == "a"
    assert joined(["a", "b", "c"]) == "a, b and c"


def test_ten_names_and_the_number_of_the_others():
    assert first_of(["a", "b"]) == "a; b"
    assert first_of([str(n) for n in range(12)]) == "0; 1; 2; 3; 4; 5; 6; 7; 8; 9; and 2 more"
