"""The site builds strictly without a network, has every page, and loads nothing from elsewhere."""

import inspect
import json
import os
import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHROMIUM = Path("/usr/bin/chromium")
LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "object": "data"}

pytestmark = pytest.mark.skipif(
    find_spec("material") is None or find_spec("mkdocstrings") is None,
    reason="mkdocs-material and mkdocstrings are in the extra dev",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build with every connection refused: a proxy that is not there."""
    out = tmp_path_factory.mktemp("site")
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **nowhere}, timeout=240)
    assert found.returncode == 0, found.stderr
    return out


class Loads(HTMLParser):
    """What a page makes the browser fetch; links that a reader may follow are not among it."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag in LOADED and given.get(LOADED[tag]):
            self.found.append(given[LOADED[tag]])
        self.found += re.findall(r"url\(([^)]*)\)", given.get("style") or "")

    def handle_data(self, data):
        if self.lasttag == "style":
            self.found += re.findall(r"(?:url\(|@import )([^);]*)", data)


def test_no_page_loads_anything_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    loads = 0
    for page in pages:
        reader = Loads()
        reader.feed(page.read_text())
        assert [one for one in reader.found if re.match(r"\s*['\"]?(https?:|//)", one)] == [], page
        loads += len(reader.found)
    assert loads > 2 * len(pages)  # the theme's own styles and script, so the reader does see what is loaded
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:|//)", style.read_text()), style


def test_every_written_page_is_there_and_nothing_else(site):
    written = {page.relative_to(ROOT / "docs").with_suffix("") for page in (ROOT / "docs").rglob("*.md")}
    written = {page for page in written if page.parts[0] != "browser"}
    elsewhere = {Path(name) for name in ("index", "contributing", "changelog", "notebook", "404")}
    assert {page.relative_to(site).with_suffix("") for page in site.rglob("*.html")} == written | elsewhere
    assert not [file for file in site.rglob("*") if file.suffix in (".ipynb", ".pyc")]
    assert not list((site / "results").rglob("*.json"))
    assert [file.name for file in site.rglob("*.py")] == ["classify.py"]


def test_links_of_pages_from_elsewhere_lead_to_pages(site):
    home = (site / "index.html").read_text()
    for target in ("results.html#parity", "methods/index.html", "contributing.html", "changelog.html"):
        assert f'href="{target}"' in home
    assert 'href="architecture.html"' in (site / "contributing.html").read_text()


def test_diagrams_are_drawn_by_the_sites_own_script_or_are_text(site):
    """The theme fetches a script from elsewhere for the class ``mermaid``, unless the page brought one."""
    page = (site / "architecture.html").read_text()
    own = (site / "assets" / "mermaid.min.js").is_file()
    assert own == (ROOT / "docs" / "browser" / "node_modules" / "mermaid").is_dir()
    assert page.count('class="mermaid"' if own else 'class="diagram"') == 5
    assert ("assets/mermaid.min.js" in page) == own
    assert own or 'class="mermaid"' not in page


def test_the_notebook_is_a_page_with_its_code(site):
    cells = json.loads((ROOT / "docs" / "notebooks" / "distil_and_prove.ipynb").read_text())["cells"]
    text = re.sub(r"<[^>]*>", "", (site / "notebook.html").read_text())
    assert "What can be proved?" in text
    assert "overproof.certify(student" in text
    assert sum(cell["cell_type"] == "code" for cell in cells) >= 5


def test_every_public_name_is_described_on_its_page(site):
    for package in ("attacks", "bounds", "evaluation", "methods", "overproof"):
        module = import_module("overproof" if package == "overproof" else f"overproof.{package}")
        text = re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", "", (site / "api" / f"{package}.html").read_text())))
        for name in module.__all__:
            first = inspect.getdoc(getattr(module, name)).splitlines()[0].replace("`", "")
            assert first in text, name
    attacks = (site / "api" / "attacks.html").read_text()
    assert "momentum" in attacks.partition('id="overproof.attacks.pgd.PGD"')[2][:8000]  # the options of a class


def test_a_link_that_leads_nowhere_fails(tmp_path):
    """Strictness is a setting, and settings get lost."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("[gone](gone.md)\n")
    (tmp_path / "mkdocs.yml").write_text("site_name: x\ntheme: {name: material, font: false}\n")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    found = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert found.returncode != 0
    assert "gone.md" in found.stderr


@pytest.fixture(scope="module")
def chromium():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is in the extra dev")
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is missing; apt-get install chromium")
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.filterwarnings("ignore")  # what the driver's own event loop leaves behind
def test_the_search_works_from_the_file_system(site, chromium):
    """The theme's search is a worker, which a browser starts for no file; ours does its work in a frame."""
    tab, complaints = chromium.new_page(), []
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda request: None if request.url.startswith("file:") else complaints.append(request.url))
    tab.goto((site / "start.html").as_uri())
    tab.locator(".md-search__input").press_sequentially("certify")
    tab.locator(".md-search-result__item", has_text="Proofs").first.wait_for()
    assert complaints == []
    tab.close()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["index", "start", "results"])
def test_pages_fit_a_phone_and_axe_finds_nothing_serious(site, chromium, name, scheme):
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe-playwright-python is in the extra dev"
    )
    context = chromium.new_context(viewport={"width": 360, "height": 800}, color_scheme=scheme)
    tab = context.new_page()
    tab.goto((site / f"{name}.html").as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") == 360
    found = [one for one in axe.Axe().run(tab).response["violations"] if one["impact"] in ("serious", "critical")]
    # The theme wraps tables when the page is opened. axe wants a tabindex on them; the browser needs none.
    scrollers = [
        node["target"][0] for one in found if one["id"] == "scrollable-region-focusable" for node in one["nodes"]
    ]
    reached = "(it) => { it.focus(); return document.activeElement === it; }"
    assert all(tab.locator(selector).evaluate(reached) for selector in scrollers)
    found = [one for one in found if one["id"] != "scrollable-region-focusable"]
    assert [(one["id"], [node["html"][:200] for node in one["nodes"][:3]]) for one in found] == []
    context.close()
