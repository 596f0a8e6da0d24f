from overproof.evaluation.tables import html_table, text_table

ROWS = [["", "a", "long head"], ["first row", "1", "2"], ["<b>", "100", "3"]]


def test_text_is_aligned_under_its_caption():
    assert text_table(ROWS, "of it").splitlines() == [
        "of it",
        "             a  long head",
        "-------------------------",
        "first row    1          2",
        "<b>        100          3",
    ]
    assert text_table(ROWS).splitlines()[0] == "             a  long head"


def test_html_is_escaped():
    found = html_table(ROWS, "a & b")
    assert found.startswith('<table><caption>a &amp; b</caption><thead><tr><th scope="col"></th>')
    assert "&lt;b&gt;" in found and "<b>" not in found
    assert found.count("<tr>") == 3
    assert "<caption>" not in html_table(ROWS)
