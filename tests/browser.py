"""A headless browser that counts what a page asks of the network and what it complains of."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@dataclass
class Opened:
    """A page in the browser, what it printed to the console, and what it requested besides itself."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def browser():
    names = ("chromium", "chromium-browser", "google-chrome")
    executable = next((path for name in names if (path := shutil.which(name))), None)
    if executable is None:
        if os.environ.get("CI"):
            pytest.fail("CI must run the browser tests: Chromium is missing")
        pytest.skip("no Chromium on this machine (Debian's package chromium)")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield running
        running.close()


#: Whether everything is drawn: the one page says so itself, on other pages plotly has drawn every figure.
DRAWN = """() => {
  const page = document.getElementById("explorer");
  if (page) return page.dataset.ready === "true";
  const figures = [...document.querySelectorAll(".plotly-graph-div")];
  return figures.length > 0 && figures.every((div) => div.querySelector(".main-svg"));
}"""


def open_in(browser, path: Path, width: int = 1366, height: int = 768, **options) -> Opened:
    """Opens an HTML file and waits until everything is drawn; `options` are those of the browser's context."""
    opened = Opened(browser.new_context(viewport={"width": width, "height": height}, **options).new_page())
    opened.page.on("console", lambda message: opened.complaints.append(message.text))
    opened.page.on("pageerror", lambda error: opened.complaints.append(str(error)))
    url = path.resolve().as_uri()
    opened.page.on("request", lambda request: opened.requests.append(request.url))
    # A page of a hundred figures takes long on a busy machine.
    opened.page.goto(url, timeout=120_000)
    opened.page.wait_for_function(DRAWN)
    opened.requests = [asked for asked in opened.requests if asked != url and not asked.startswith(("data:", "blob:"))]
    return opened


@contextmanager
def whole_page(browser, path: Path) -> Iterator[Opened]:
    """A page that a module's tests share: in the end it has complained of nothing, and asked for nothing but itself."""
    opened = open_in(browser, path, 1440, 900)
    yield opened
    assert opened.complaints == []
    own = (path.resolve().as_uri(), "blob:")
    assert [asked for asked in opened.requests if not asked.startswith(own)] == []
    opened.page.context.close()


@pytest.fixture
def open_page(browser):
    """Opens HTML files, for the length of a test."""
    opened = []

    def open_file(path: Path, width: int = 1366, height: int = 768, **options) -> Opened:
        opened.append(open_in(browser, path, width, height, **options))
        return opened[-1]

    yield open_file
    for each in opened:
        each.page.context.close()


def figures(opened: Opened) -> list[dict]:
    """Title, subtitle, kinds of traces and width of every figure of a page."""
    return opened.page.evaluate(
        "[...document.querySelectorAll('.plotly-graph-div')].map(div => ({"
        "title: div.layout.title.text, subtitle: div.layout.title.subtitle.text, "
        "types: div.data.map(trace => trace.type), width: div.getBoundingClientRect().width}))"
    )


def trace(opened: Opened, title: str, index: int, what: str) -> list:
    """One property of one trace of the first figure whose title begins like this."""
    return opened.page.evaluate(
        "([title, index, what]) => { const div = [...document.querySelectorAll('.plotly-graph-div')]"
        ".find(div => div.layout.title.text.startsWith(title)); const value = div.data[index][what];"
        "const plain = x => ArrayBuffer.isView(x) || Array.isArray(x) ? Array.from(x, plain) : x;"
        "return plain(value._inputArray ?? value); }",
        [title, index, what],
    )


def buttons(opened: Opened) -> set[str]:
    """What the buttons of all mode bars of a page are called, without the version that plotly's own names."""
    titles = opened.page.evaluate("[...document.querySelectorAll('.modebar-btn')].map(button => button.dataset.title)")
    return {title.split(" (v")[0] for title in titles}
