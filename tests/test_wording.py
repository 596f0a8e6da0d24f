import pytest

from overproof.wording import check_path_name, one_line, visible


@pytest.mark.parametrize("plain", ["", "a b", "Ärger – 95 %", "数字", "a\nb\tc", "[b]x[/b] :x:"])
def test_printed_text_stays(plain):
    assert visible(plain) == plain


@pytest.mark.parametrize(
    ("obeyed", "shown"),
    [
        ("\x1b[31m", r"\x1b[31m"),
        ("\x9b31m", r"\x9b31m"),
        ("\r", r"\x0d"),
        ("\u202eabc", r"\u202eabc"),
        ("\u2066", r"\u2066"),
        ("\ufeff", r"\ufeff"),
        ("\udcff", r"\udcff"),
        ("\U000e0001", r"\U000e0001"),
        ("\x7f\x00", r"\x7f\x00"),
    ],
)
def test_what_a_terminal_obeys_is_shown(obeyed, shown):
    assert visible(obeyed) == shown
    shown.encode()  # it can be printed


def test_one_line_is_short_and_keeps_both_ends():
    assert one_line("a\n b") == "a b"
    long = one_line("a" * 10_000 + "end")
    assert len(long) < 4100
    assert long.startswith("aaa")
    assert long.endswith("end")


@pytest.mark.parametrize("name", ["ard", "mnist/ard", "sweep/seed=0,eps=8-255", "m[b]", "ü", "a b", "..a", "a..", "-x"])
def test_a_folder_below_is_a_name(name):
    check_path_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        ".",
        "..",
        "../evil",
        "a/../../evil",
        "a/..",
        "/evil",
        "//evil",
        "a//b",
        "a/",
        "a/./b",
        "a/ ../b",
        "a\0b",
        "a\nb",
        "\x1b[31m",
        "\u202eabc",
        "\udcff",
        "a\\..\\b",
        "a" * 256,
        "ä" * 128,
        "a/" * 600 + "b",
    ],
)
def test_what_leads_elsewhere_is_no_name(name):
    with pytest.raises(ValueError, match="a name"):
        check_path_name(name)
