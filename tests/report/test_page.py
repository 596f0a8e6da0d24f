import re
from html.parser import HTMLParser

import pytest

from overproof.report.page import page

HOSTILE = '</script><script>alert(1)</script><img src="https://evil.example/x.png" onerror="x">&'
ADDRESSES = ("src", "href", "action", "data", "poster", "srcset", "background", "formaction", "manifest", "ping")


class Parsed(HTMLParser):
    """A page taken apart: addresses, scripts, styles, the text of every element."""

    def __init__(self, html):
        super().__init__()
        self.addresses, self.handlers, self.scripts, self.styles = [], [], [], []
        self.tags, self.texts, self.open = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.open.append(tag)
        for name, value in attributes:
            if name in ADDRESSES:
                self.addresses.append((tag, name, value))
            if name.startswith("on"):
                self.handlers.append((tag, name, value))
            if name == "style":
                self.styles.append(value)

    def handle_data(self, data):
        inside = self.open[-1] if self.open else ""
        {"script": self.scripts, "style": self.styles}.get(inside, self.texts).append(data)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass


@pytest.fixture
def hostile(evaluation):
    return evaluation(run=HOSTILE, method=HOSTILE, hardware=HOSTILE, data__name=HOSTILE)


def own_scripts(parsed):
    """Return the scripts that are not the inlined plotly itself."""
    return [script for script in parsed.scripts if len(script) < 100_000]


def test_the_page_requests_nothing_from_anywhere(evaluation, hostile):
    parsed = Parsed(page([evaluation(), evaluation(threat__eps="4/255"), hostile], title="T", lead="L"))
    assert parsed.addresses == []
    assert not {"link", "iframe", "object", "embed", "base", "img"} & set(parsed.tags)
    # plotly's text knows many addresses, but is asked for none of them by anything else on the page.
    for script in own_scripts(parsed):
        without_names = script.replace("evil.example", "")
        assert not re.search(r"\bfetch\(|XMLHttpRequest|import\(|sendBeacon|WebSocket", without_names)
        assert "https://cdn" not in without_names
    assert not any("url(" in style or "@import" in style for style in parsed.styles)


def test_plotly_is_inlined_once(evaluation):
    html = page([evaluation(), evaluation(threat__eps="4/255")], title="T")
    parsed = Parsed(html)
    assert sum(len(script) > 100_000 for script in parsed.scripts) == 1
    assert sum("Plotly.newPlot" in script for script in own_scripts(parsed)) == 2


def test_a_hostile_name_stays_a_text(hostile):
    html = page([hostile], title=HOSTILE, lead=HOSTILE)
    parsed = Parsed(html)
    assert HOSTILE in parsed.texts  # once as it is, in its cell
    assert "img" not in parsed.tags
    assert parsed.handlers == []
    assert not any(script.strip() == "alert(1)" for script in parsed.scripts)
    assert "<script>alert(1)" not in html


def test_the_page_shows_every_figure_with_its_interval(evaluation):
    other = evaluation(run="other", attacks={})
    html = page([evaluation(), other], title="Comparison", lead="2 runs.")
    text = " ".join(" ".join(Parsed(html).texts).split())
    assert "Comparison" in text
    assert "2 runs." in text
    assert "digits, 200 of 360 test images (01234567), linf eps 8/255" in text
    assert "toy ard 1,234,567 90.0 85.1–93.4" in text
    assert "50.0 43.1–56.9" in text
    assert text.count("not run") == 2
    assert "Wilson 95 % intervals" in text
    assert "Measured with overproof 0.1.0, torch 2.13, a processor." in text


def test_different_origins_are_all_named(evaluation):
    html = page([evaluation(), evaluation(hardware="another")], title="T")
    assert "Measured with overproof 0.1.0, torch 2.13, a processor; overproof 0.1.0, torch 2.13, another." in html


def test_the_plane_has_a_point_per_run_in_percent(evaluation):
    script = next(s for s in own_scripts(Parsed(page([evaluation()], title="T"))) if "Plotly.newPlot" in s)
    assert '"x":[90.0]' in script
    assert '"y":[50.0]' in script
    assert '"name":"ard"' in script
