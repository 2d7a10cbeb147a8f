"""Tests that need a browser or Node: `make test-web` brings both and runs them; elsewhere each is skipped by name."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.web.conftest import gateway  # noqa: F401  # a fixture

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Dialog, Page

WANTED = os.environ.get("SAESERVE_TEST_WEB") == "1"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    # As root, which a container's only user is, Chromium's own sandbox does not start.
    "--no-sandbox",
    # Nothing here asks the network, the browser included.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--no-first-run",
)
PATIENCE_MS = 20_000


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what is not asked for, and says how to ask."""
    for item in items:
        if Path(__file__).parent in item.path.parents and not WANTED:
            item.add_marker(pytest.mark.skip(reason="needs a browser and Node: make test-web"))


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium: the machine's, or the one that CHROMIUM names."""
    from playwright.sync_api import sync_playwright

    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUM)), None)
    if path is None:
        pytest.fail("no Chromium: install Debian's package chromium, or set CHROMIUM to a browser's path")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=list(QUIET))
        yield started
        started.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A profile of the test's own. What asks another host than this machine's loopback fails the test."""
    made = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    made.set_default_timeout(PATIENCE_MS)
    asked: list[str] = []
    made.on("request", lambda request: asked.append(request.url))
    yield made
    made.close()
    elsewhere = [
        url for url in asked if urlsplit(url).hostname != "127.0.0.1" and not url.startswith(("data:", "blob:"))
    ]
    assert not elsewhere, elsewhere


@pytest.fixture
def browser_page(context: BrowserContext) -> Iterator[Page]:
    """A page of it. A script that fails, or says so on the console, fails the test."""
    page = context.new_page()
    with watched(page):
        yield page


@contextmanager
def watched(page: Page) -> Iterator[None]:
    """What fails in the page fails the test; so does a dialogue of the browser's, which no page of ours opens."""
    failures: list[str] = []

    def opened(dialog: Dialog) -> None:
        failures.append(f"dialogue: {dialog.message}")
        dialog.dismiss()

    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on("console", lambda said: failures.append(said.text) if said.type == "error" else None)
    page.on("dialog", opened)
    yield
    # An answer that is an error, or none, is said on the console too; the page's own words are tested.
    unexpected = [failure for failure in failures if "Failed to load resource" not in failure]
    assert not unexpected, unexpected


@pytest.fixture
def uncommon() -> str:
    """A text that nobody asked for before."""
    return f"The {random.randrange(10**9)} red apples fell."
