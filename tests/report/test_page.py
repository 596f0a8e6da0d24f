import gzip
import json
import math
import re
from base64 import b64decode, b64encode
from hashlib import sha256
from html.parser import HTMLParser

import pytest
from plotly.offline import get_plotlyjs

from overproof.report.page import page

HOSTILE = '</script><script>alert(1)</script><img src="https://evil.example/x.png" onerror="x">&"\' onmouseover="y'
ADDRESSES = ("src", "href", "action", "data", "poster", "srcset", "background", "formaction", "manifest", "ping")


class Parsed(HTMLParser):
    """A page taken apart: addresses, scripts, styles, the text of every element."""

    def __init__(self, html):
        super().__init__()
        self.addresses, self.handlers, self.scripts, self.styles = [], [], [], []
        self.tags, self.texts, self.open, self.ids = [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.open.append(tag)
        for name, value in attributes:
            if name in ADDRESSES:
                self.addresses.append(value)
            if name.startswith("on"):
                self.handlers.append((tag, name, value))
            if name == "style":
                self.styles.append(value)
            if name == "id":
                self.ids.append(value)

    def handle_data(self, data):
        inside = self.open[-1] if self.open else ""
        {"script": self.scripts, "style": self.styles}.get(inside, self.texts).append(data)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    @property
    def data(self):
        return json.loads(next(script for script in self.scripts if script.startswith("{")))


def own(parsed):
    """Return the scripts and data that are not the inlined plotly itself."""
    return [script for script in parsed.scripts if len(script) < 1_000_000]


def test_the_page_requests_nothing_from_anywhere(full, finding):
    html = page([full(), full("b", method="kd"), finding(threat__eps="4/255", run=HOSTILE)], title="T", lead="L")
    parsed = Parsed(html)
    assert all(address.startswith("#") for address in parsed.addresses)
    assert not {"link", "iframe", "object", "embed", "base", "img", "form"} & set(parsed.tags)
    # plotly's text knows many addresses, but is asked for none of them by anything else on the page.
    for script in own(parsed):
        assert not re.search(r"\bfetch\(|XMLHttpRequest|import\(|sendBeacon|WebSocket", script)
        assert not re.search(r"https?://", script.replace("https://evil.example", ""))
    assert not any("url(" in style or "@import" in style for style in parsed.styles)
    assert "default-src &#39;none&#39;" in html


def test_plotly_is_inlined_once(full):
    html = page([full(), full("b", threat__eps="4/255")], title="T")
    (packed,) = (script for script in Parsed(html).scripts if len(script) > 1_000_000)
    whole = gzip.decompress(b64decode(packed))
    assert whole.decode() == get_plotlyjs()
    assert f"sha256-{b64encode(sha256(whole).digest()).decode()}" in html.replace("&#43;", "+")
    assert len(html) < 2.2e6
    assert html.startswith("<!doctype html>")
    assert html.endswith("</html>\n")


def test_a_hostile_name_stays_a_text(full):
    run = full(HOSTILE, method=HOSTILE, hardware=HOSTILE, data__name=HOSTILE, selected_on=HOSTILE, warnings=[HOSTILE])
    html = page([run, full("b")], title=HOSTILE, lead=HOSTILE)
    parsed = Parsed(html)
    assert HOSTILE in parsed.texts  # once as it is, in its cell
    assert "img" not in parsed.tags
    assert parsed.handlers == []
    assert len(parsed.scripts) == 3  # the data, plotly, our own
    assert "<script>alert(1)" not in html
    assert parsed.data["methods"] == [HOSTILE, "ard"]


def test_identifiers_are_unique_and_anchors_have_their_targets(full):
    parsed = Parsed(page([full(), full("b", method="kd"), full("c", threat__eps="4/255")], title="T"))
    assert len(parsed.ids) == len(set(parsed.ids))
    assert {address.removeprefix("#") for address in parsed.addresses} <= set(parsed.ids)


def test_the_table_shows_every_figure_with_its_interval(finding):
    text = Parsed(page([finding(), finding(run="other", attacks={})], title="Comparison", lead="2 runs.")).text
    assert "Comparison 2 runs." in text
    assert "200 of 200 test images 01234567" in text
    assert "toy ard 90.0 85.1–93.4 60.0 53.1–66.5 50.5 43.6–57.4 50.0 43.1–56.9 70.0 64.1–75.1 1.2 M" in text
    assert text.count(" not run") >= 2
    assert "Wilson's over the test images of one run" in text
    assert "reduced examples" not in text


def test_what_must_be_doubted_is_marked_where_it_stands(full, finding):
    reduced = finding(data__examples=100, selected_on="test")
    text = Parsed(page([full(), reduced], title="T")).text
    assert "100 of 200 test images 01234567 reduced examples" in text
    assert "selected on: test" in text
    assert "reliability: suspect" in text
    assert "50 images" in text  # of the certificate


def test_a_single_run_shows_tiles_and_its_evidence(full):
    parsed = Parsed(page([full()], title="T"))
    text = parsed.text
    assert "worst case 50.0 % 43.1–56.9" in text
    assert "suspect The robust accuracy is to be doubted: noise broke 9 of 128 images." in text
    assert (
        "Best epoch 2: 45.0 % robust on held-out images; last epoch 3: 30.0 %; robust overfitting costs 15.0 points."
        in text
    )
    assert "zero 4 75.0 30.1–95.4 50.0 15.0–85.0" in text
    assert "overproof train runs/toy/recipe.yaml --out runs/toy-again" in text
    assert "Not on this page" not in text
    for part in ("radius-0", "survivors-0", "brackets", "training-0", "selection-0", "controller-0", "reliability-0"):
        assert part in parsed.data["charts"]


def test_a_panel_is_there_only_where_the_run_holds_its_data(finding):
    parsed = Parsed(page([finding()], title="T"))
    assert list(parsed.data["charts"]) == ["plane-0"]
    for title in (
        "Accuracy against eps",
        "Survivors",
        "Between attack and proof",
        "Training",
        "Class by class",
        "The images",
    ):
        assert title not in parsed.text
    assert "not run No probe looked for hidden gradients" in parsed.text
    assert "certificate: not run; overproof certify toy" in parsed.text


def test_a_run_without_the_keys_of_today_is_shown(finding):
    run = finding()
    for key in ("suite", "seed", "batch", "search_precision", "warnings", "selected_on", "recipe_seed"):
        del run.evaluation[key]
    text = Parsed(page([run], title="T")).text
    assert "seed not recorded" in text
    assert "selected on: unknown" in text


def test_not_a_number_is_a_word_in_the_table_and_null_in_the_data(full):
    run = full()
    run.evaluation["calibration"]["clean"]["ece"] = math.nan
    html = page([run, full("b", method="kd")], title="T")
    assert "NaN" in Parsed(html).text
    data = next(script for script in Parsed(html).scripts if script.startswith("{"))
    assert json.loads(data, parse_constant=pytest.fail)["charts"]["reliability-0"]["parts"]["clean"]["ece"] is None


def test_no_examples_at_all(finding):
    nothing = {"claim": "", "passed": 0, "of": 0}
    text = Parsed(page([finding(clean=nothing, worst=nothing, attacks={})], title="T")).text
    assert "NaN" in text


def test_seeds_are_one_row_that_opens(full):
    parsed = Parsed(page([full("a-0"), full("a-1", seed=1)], title="T"))
    assert "a ard · 2 seeds" in parsed.text
    assert "Small points are single seeds" in parsed.text


def test_what_recipes_differ_in_is_shown_once_per_row(full):
    runs = [full("a-0"), full("a-1", seed=1), full("b", method="kd")]
    text = Parsed(page(runs, title="T")).text
    assert "In what the recipes differ: 1 key key a b method.kind ard kd" in text


def test_what_was_not_run_is_said_where_the_figures_stand(full, finding):
    alone, several = Parsed(page([finding()], title="T")), Parsed(page([finding(), finding(run="b")], title="T"))
    assert "certified not run ECE not run agreement not run confidence gap not run" in alone.text
    assert "not run for any of these: certified, ECE, agreement, confidence gap." in several.text
    assert "for any of these" not in Parsed(page([full(), finding()], title="T")).text


def test_every_column_is_explained_and_the_recipe_is_there_to_read(full):
    text = Parsed(page([full(recipe={"note": HOSTILE})], title="T")).text
    assert "ECE Expected calibration error on clean images, 15 bins; 0 is best." in text
    assert "method: {kind: ard, alpha: 1.0}" in text
    assert "alert(1)" in text  # as words: Parsed would have taken a script for one
