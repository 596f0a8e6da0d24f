"""The page in a real browser: Debian's Chromium, driven by Playwright, opened from the file system."""

import re
from pathlib import Path

import pytest
from tests.report.conftest import pictures

from overproof.report.page import page

CHROMIUM = Path("/usr/bin/chromium")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra: dev)")
pytestmark = [
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is missing; apt-get install chromium"),
    pytest.mark.filterwarnings("ignore"),  # what the driver's own event loop leaves behind
]
HOSTILE = '<a href="https://evil.example">x</a><img src=x onerror="window.evil=1">'


@pytest.fixture(scope="module")
def chromium():
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def runs(full):
    """A page of two seeds of one recipe, another method, and one with a hostile name on another footing."""
    return page(
        [
            full("ard-0", images=30),
            full("ard-1", seed=1, robust=120, images=30),
            full("kd", method="kd", robust=20, images=0),
            full(HOSTILE, method=HOSTILE, threat={"norm": "linf", "eps": "4/255"}, robust=150),
        ],
        title="Comparison",
    )


@pytest.fixture
def opened(chromium, tmp_path):
    """Return a function: a page, opened; whatever it asks for or complains of fails the test."""
    complaints, contexts = [], []

    def heard(message):
        if message.type in ("error", "warning"):
            complaints.append(message.text)

    def open_page(html, *, width=1366, height=900, scheme="light"):
        file = tmp_path / "report.html"
        file.write_text(html)
        context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        context.set_default_timeout(120_000)  # a busy machine is no defect of the page
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", heard)
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda request: complaints.append(request.url) if asked(request) else None)
        tab.goto(file.as_uri())
        return tab

    def asked(request):
        return not request.url.startswith("data:") and request.url != (tmp_path / "report.html").as_uri()

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def scrolled(tab):
    """Go through the whole page, so that everything that waits for the screen is drawn."""
    height, step = tab.evaluate("document.documentElement.scrollHeight"), tab.viewport_size["height"]
    place = 0
    while place < height:
        tab.evaluate(f"scrollTo(0, {place})")
        tab.wait_for_timeout(40)
        place += step
        height = tab.evaluate("document.documentElement.scrollHeight")
    tab.evaluate("scrollTo(0, 0)")
    return tab


def eventually(tab, condition):
    """Ask until it holds; Playwright's own waiting evaluates text in the page, which the page's policy forbids."""
    for _ in range(600):
        if tab.evaluate(condition):
            return
        tab.wait_for_timeout(50)
    pytest.fail(f"never: {condition}")


def names(tab):
    return tab.locator("#results section:has(h3:text('8/255')) tbody:visible").evaluate_all(
        "bodies => bodies.map((body) => body.dataset.name)"
    )


@pytest.mark.parametrize(
    ("width", "height", "scheme"), [(390, 844, "light"), (820, 1180, "dark"), (1366, 900, "dark")], ids=str
)
def test_every_chart_is_drawn_for_everyone_and_nothing_is_asked_for(opened, runs, width, height, scheme):
    """At three widths: no request and no complaint (see ``opened``), and axe finds no serious violation."""
    tab = scrolled(opened(runs, width=width, height=height, scheme=scheme))
    waiting = "[...document.querySelectorAll('.chart')].filter((c) => c.offsetParent && !c.querySelector('.main-svg'))"
    eventually(tab, f"{waiting}.length === 0")
    assert tab.locator(".chart:visible").count() >= 10
    # The page itself never scrolls sideways; wide tables do, inside their own frame.
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    assert tab.evaluate("window.evil") is None
    assert tab.locator("a[href^='http'], a[*|href^='http']").count() == 0
    tab.locator(".card").first.wait_for()
    found = axe.Axe().run(tab).response["violations"]
    serious = [one for one in found if one["impact"] in ("serious", "critical")]
    assert [(one["id"], [node["html"][:200] for node in one["nodes"][:3]]) for one in serious] == []


def test_the_policy_stops_what_someone_writes_into_the_page(chromium, tmp_path, full):
    """The twin of the test above: a script and an image that were not there when the page was made do nothing."""
    html = page([full()], title="T").replace(
        "<h1>", "<script>window.evil = 1</script><img src='https://a.example/'><h1>"
    )
    (tmp_path / "evil.html").write_text(html)
    tab, requests = chromium.new_page(), []
    tab.on("requestfinished", lambda request: requests.append(request.url))
    tab.goto((tmp_path / "evil.html").as_uri())
    assert tab.evaluate("window.evil") is None
    assert not any("a.example" in url for url in requests)
    tab.close()


def test_sorting(opened, runs):
    tab = opened(runs)
    assert names(tab) == ["ard", "kd"]
    section = tab.locator("#results section:has(h3:text('8/255'))")
    head = section.locator("th", has_text="worst case")
    head.locator("button").click()
    assert (names(tab), head.get_attribute("aria-sort")) == (["ard", "kd"], "descending")
    head.locator("button").focus()
    tab.keyboard.press("Enter")  # a keyboard does what a mouse does
    assert (names(tab), head.get_attribute("aria-sort")) == (["kd", "ard"], "ascending")
    section.locator("th.name button").first.click()
    assert (names(tab), head.get_attribute("aria-sort")) == (["ard", "kd"], "none")


def test_filtering_by_method_and_by_columns(opened, runs):
    tab = opened(runs)
    traces = "document.getElementById('chart-plane-1').data.filter((trace) => trace.error_x).length"
    tab.locator("#chart-plane-1").scroll_into_view_if_needed()
    eventually(tab, f"{traces} === 2")
    tab.locator("label.chip", has_text="kd").click()
    assert names(tab) == ["ard"]
    eventually(tab, f"{traces} === 1")
    tab.locator("label.chip", has_text="kd").click()
    assert names(tab) == ["ard", "kd"]
    assert tab.locator("th:visible", has_text="fgsm").count() == 2
    tab.locator("label.chip", has_text="each attack").click()
    assert tab.locator("th:visible", has_text="fgsm").count() == 0


def test_seeds_open_and_a_run_is_looked_at_closely(opened, runs):
    tab = opened(runs)
    seeds = tab.locator("button.seeds")
    assert (seeds.text_content(), seeds.get_attribute("aria-expanded")) == ("2 seeds", "false")
    assert not tab.locator("tr.member").first.is_visible()
    seeds.click()
    tab.locator("tr.member a", has_text="ard-1").click()
    # The address changes first, and the page hears of it in an event of its own.
    tab.locator("article.run:visible h3", has_text=re.compile("^ard-1 ")).wait_for()
    assert tab.locator("#which").input_value() == "1"
    tab.locator("#which").select_option(label="kd")
    assert tab.locator("article.run:visible h3").text_content().startswith("kd ")


def test_hovering_tells_the_figures(opened, runs):
    tab = opened(runs)
    chart = tab.locator("#chart-plane-1")
    chart.scroll_into_view_if_needed()
    chart.locator(".main-svg").first.wait_for()
    chart.locator(".scatterlayer .trace.scatter path.point").last.hover(force=True)
    box = chart.locator(".hoverlayer")
    box.locator("text").first.wait_for()
    assert re.search(r"kd.*clean 90\.0 %.*worst case 10\.0 %", box.text_content(), flags=re.DOTALL)


def test_the_images_are_exact_and_filtered(opened, full):
    run = full("a", images=30)
    tab = opened(page([run], title="T"))
    tab.locator(".pictures").scroll_into_view_if_needed()
    cards = tab.locator(".card")
    cards.first.wait_for()
    assert cards.count() == 12
    tab.locator("button.more").click()
    assert cards.count() == 24
    tab.locator("button.more").click()
    assert (cards.count(), tab.locator("button.more").is_visible()) == (30, False)
    for place, images in enumerate((run.pictures.clean, run.pictures.attacked)):
        drawn = (
            cards.nth(7)
            .locator("canvas")
            .nth(place)
            .evaluate(
                "c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data].filter((_, i) => i % 4 === 0)"
            )
        )
        assert drawn == images[7].flatten().tolist()
    assert "✗ one, 60 %" in cards.nth(0).text_content()
    tab.locator("label", has_text="fooled the student only").click()
    assert cards.count() == 12
    assert "15 shown" in tab.locator(".gallery [role=status]").text_content()  # the teacher is right about every second
    tab.locator("label", has_text="Class").locator("select").select_option(label="one")
    assert "0 of 0 shown" in tab.locator(".gallery [role=status]").text_content()


def test_dark_by_wish_and_by_system(opened, runs):
    paper = "getComputedStyle(document.body).backgroundColor"
    tab = opened(runs)
    light = tab.evaluate(paper)
    tab.locator("#theme").click()
    assert tab.evaluate(paper) == light
    tab.locator("#theme").click()
    dark = tab.evaluate(paper)
    assert (dark == light, tab.locator("#theme").text_content()) == (False, "Theme: dark")
    tab.locator("#chart-plane-1").scroll_into_view_if_needed()
    eventually(tab, "document.getElementById('chart-plane-1').layout?.font.color === '#e7e8e6'")
    tab.locator("#theme").click()
    tab.emulate_media(color_scheme="dark")
    assert (tab.evaluate(paper), tab.locator("#theme").text_content()) == (dark, "Theme: auto")


def test_without_scripts_all_tables_and_runs_are_there(chromium, tmp_path, runs):
    (tmp_path / "r.html").write_text(runs)
    context = chromium.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto((tmp_path / "r.html").as_uri())
    assert tab.locator("article.run:visible").count() == 4
    assert tab.locator("tr.member:visible").count() == 2
    context.close()


def test_printing_draws_everything_in_light(opened, runs, tmp_path):
    tab = opened(runs, scheme="dark")
    eventually(tab, "Boolean(window.Plotly)")
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert tab.evaluate(
        "[...document.querySelectorAll('.chart')].every((c) => !c.offsetParent || c.querySelector('.main-svg'))"
    )
    assert tab.evaluate("document.documentElement.dataset.theme") == "light"
    tab.evaluate("dispatchEvent(new Event('afterprint'))")
    assert tab.evaluate("document.documentElement.dataset.theme") == "auto"


def test_thirty_runs_of_ten_attacks_and_two_hundred_images(opened, full, tmp_path):
    """Opens in two seconds and takes fifteen megabytes, with changes of +-8/255 in every pixel of colour images."""
    runs = [full(f"run-{place}", method=f"m{place // 3}", seed=place % 3, images=0) for place in range(30)]
    big = pictures(200, shape=(3, 32, 32))
    for place, run in enumerate(runs):
        object.__setattr__(run, "pictures", big if place == 0 else pictures(200, shape=(3, 32, 32), seed=place))
        one = run.evaluation["attacks"]["fgsm"]
        run.evaluation["attacks"] = {f"attack-{number}": one for number in range(10)}
    html = page(runs, title="T")
    tab = opened("<!doctype html><title>empty</title>")
    meter = tab.context.new_cdp_session(tab)
    meter.send("Performance.enable", {"timeDomain": "threadTicks"})  # of this page alone, whatever else is running
    (tmp_path / "report.html").write_text(html)
    tab.reload()
    busy = next(
        one["value"] for one in meter.send("Performance.getMetrics")["metrics"] if one["name"] == "TaskDuration"
    )
    loaded = tab.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd") / 1000
    print(f"{len(html) / 1e6:.1f} MB; {busy:.2f} s of CPU time, {loaded:.2f} s on the clock")
    assert len(html) < 11e6
    assert busy < 2
