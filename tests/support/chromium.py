"""Debian's Chromium, driven by Playwright, with what it asks of the network written down."""

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

PATH = Path("/usr/bin/chromium")
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
]
needs_chromium = pytest.mark.skipif(
    not PATH.exists(), reason="Debian's chromium is not installed: apt install chromium"
)


@dataclass
class Seen:
    """A page, and what it did that a report must not do."""

    page: Any
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@contextlib.contextmanager
def browser_page(width=1200, height=900, **more):
    """A page in a fresh browser; `more` as Playwright's `new_page` takes it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(PATH), args=ARGUMENTS)
        seen = Seen(browser.new_page(viewport={"width": width, "height": height}, **more))
        seen.page.on("request", lambda request: seen.requests.append(request.url))
        seen.page.on("pageerror", lambda error: seen.errors.append(str(error)))
        seen.page.on("console", lambda said: seen.errors.append(said.text) if said.type == "error" else None)
        yield seen
        browser.close()


@contextlib.contextmanager
def opened_report(path, **size):
    """A report, drawn; what it asked of the network besides itself is in `requests`."""
    with browser_page(**size) as seen:
        seen.page.goto(path.as_uri())
        seen.page.wait_for_selector("body[data-drawn]", timeout=30_000)
        seen.requests = [url for url in seen.requests if not url.startswith(("file:", "data:", "blob:"))]
        yield seen
