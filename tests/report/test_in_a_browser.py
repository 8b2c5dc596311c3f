"""The report in a real browser: drawn without an error, usable, and nothing in its texts comes alive."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.report.synthetic_run import HOSTILE, SyntheticRun, evaluation_by_contract, finished
from wrpo_ray.cli import main
from wrpo_ray.report.command import write_report
from wrpo_ray.storage.location import locate

webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium: pip install -e '.[dev]'")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="no Chromium or chromedriver (Debian: apt-get install chromium chromium-driver)"
)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
)  # fmt: skip
PHONE, SCREEN = (390, 844), (1280, 1000)


class Browser:
    """A page under test: what it logs, and what is in it."""

    def __init__(self, profile: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = BROWSER
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))

    def open(self, page: Path, size: tuple[int, int] = SCREEN, scheme: str = "light") -> None:
        size_told = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size_told)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        self.driver.get(page.as_uri())
        # Pictures are drawn anew in the frame after their width is known.
        self.driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")

    def ask(self, expression: str):
        return self.driver.execute_script(f"return {expression}")

    def logged(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def undrawn(self) -> list[str]:
        """Names of the charts without a picture that holds a shape and has a text for whoever does not see it."""
        return self.ask(
            "[...document.querySelectorAll('figure[data-chart]')].filter(figure => {"
            "  const svg = figure.querySelector('.plot > svg[role=img][aria-label]');"
            "  return !svg || !svg.querySelector('rect[width], path[d], circle') || !svg.getBoundingClientRect().width;"
            "}).map(figure => figure.dataset.chart)"
        )


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = finished(tmp_path_factory.mktemp("runs") / "synthetic", evaluation=evaluation_by_contract())
    return Path(str(write_report(run.folder)))


@pytest.mark.parametrize(("size", "scheme"), [(SCREEN, "light"), (SCREEN, "dark"), (PHONE, "dark")])
def test_every_chart_is_drawn(browser: Browser, page: Path, size: tuple[int, int], scheme: str) -> None:
    browser.open(page, size, scheme)
    assert browser.ask("document.querySelectorAll('figure[data-chart]').length") == 18
    assert browser.undrawn() == []
    assert browser.logged() == []
    # Nothing is fetched, nothing hangs over the side, and pictures are as wide as their place.
    assert browser.ask("performance.getEntriesByType('resource').length") == 0
    assert browser.ask("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    assert (
        browser.ask("Math.max(...[...document.querySelectorAll('.plot > svg')].map(svg => svg.clientWidth))") < size[0]
    )
    is_dark = browser.ask("getComputedStyle(document.body).backgroundColor") == "rgb(17, 20, 24)"
    assert is_dark == (scheme == "dark")


def test_numbers_of_every_chart_unfold(browser: Browser, page: Path) -> None:
    browser.open(page)
    visible = "[...document.querySelectorAll('figure tbody')].filter(each => each.checkVisibility()).length"
    assert browser.ask(visible) == 0
    browser.driver.execute_script("document.querySelectorAll('figure summary').forEach(each => each.click())")
    # Of every chart what it draws; of a histogram the quantiles as well.
    histograms = "Object.values(JSON.parse(document.getElementById('chart-data').textContent))"
    num_histograms = browser.ask(f"{histograms}.filter(chart => chart.kind === 'histogram').length")
    assert num_histograms > 0
    assert browser.ask(visible) == 18 + num_histograms


def test_text_stays_text(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.driver.execute_script("document.querySelectorAll('details').forEach(each => { each.open = true })")
    assert browser.ask("window.hacked === undefined")
    assert browser.ask("document.querySelectorAll('img, pre *, td *').length") == 0
    assert browser.ask("document.scripts.length") == 4
    assert HOSTILE in browser.ask("document.querySelector('.quadruple pre:nth-of-type(1)').textContent") or HOSTILE in (
        browser.ask("document.querySelector('.answer pre').textContent")
    )
    assert browser.logged() == []


def shown(browser: Browser) -> list[list[str]]:
    """Source and rewards of the quadruples that are shown, in their order."""
    return browser.ask(
        "[...document.querySelectorAll('.quadruple')].filter(each => !each.hidden)"
        ".map(each => [each.dataset.source, each.dataset.gain, each.querySelector('.question').textContent])"
    )


def choose(browser: Browser, name: str, value: str, event: str = "change") -> None:
    browser.driver.execute_script(
        "const field = document.querySelector(`#quadruple-tools [name=${arguments[0]}]`);"
        "field.value = arguments[1]; field.dispatchEvent(new Event(arguments[2]))", name, value, event,
    )  # fmt: skip


def test_filter_sort_and_more(browser: Browser, page: Path) -> None:
    browser.open(page)
    sampled = shown(browser)
    assert len(sampled) == 20
    browser.driver.find_element("id", "quadruple-more").click()
    assert len(shown(browser)) == 40
    choose(browser, "order", "gain down")
    gains = [float(gain) for _, gain, _ in shown(browser)]
    assert gains == sorted(gains, reverse=True)
    assert len(gains) == 20
    choose(browser, "order", "gain up")
    rising = [float(gain) for _, gain, _ in shown(browser)]
    assert rising == sorted(rising)
    assert rising[0] < gains[-1]
    choose(browser, "source", "synthetic-phi")
    assert {source for source, _, _ in shown(browser)} == {"synthetic-phi"}
    choose(browser, "source", "")
    choose(browser, "order", "position up")
    assert shown(browser) == sampled
    browser.driver.find_element("name", "text").send_keys("QUESTION 27:")
    assert [text.split(":")[0] for _, _, text in shown(browser)] == ["Synthetic question 27"]
    assert browser.ask("document.getElementById('quadruple-count').textContent") == "1 of 1 shown"
    assert browser.logged() == []


def test_keyboard_opens_a_quadruple(browser: Browser, page: Path) -> None:
    browser.open(page)
    summary = browser.driver.find_element("css selector", ".quadruple summary")
    summary.send_keys("\n")
    assert browser.ask("document.querySelector('.quadruple details').open")
    assert browser.ask("document.activeElement.tagName") == "SUMMARY"


def test_failed_run_and_run_that_has_just_begun(browser: Browser, tmp_path: Path) -> None:
    failed = SyntheticRun(locate(tmp_path / "failed")).run("fuse").half_trained(150).fail("wrpo", HOSTILE)
    begun = SyntheticRun(locate(tmp_path / "begun"))
    begun.submit()
    for run, told in ((failed, "The last start failed at step wrpo"), (begun, "the step fuse has not begun")):
        browser.open(Path(str(write_report(run.folder))))
        assert told in browser.ask("document.body.innerText")
        assert (browser.undrawn(), browser.logged()) == ([], [])
        assert browser.ask("window.hacked === undefined")


def test_comparison(browser: Browser, page: Path, tmp_path: Path) -> None:
    other = finished(tmp_path / f"other-{HOSTILE.replace('/', '')}"[:60], num_steps=20, alpha=0.3)
    out = tmp_path / "compare.html"
    assert main(["compare", str(page.parent), str(other.folder), "--html", str(out)]) == 0
    browser.open(out, PHONE)
    assert browser.ask("document.querySelectorAll('figure[data-chart]').length") == 5
    assert (browser.undrawn(), browser.logged()) == ([], [])
    assert browser.ask("document.documentElement.scrollWidth") == PHONE[0]
