"""Tests that need a browser or Node: `make test-web` brings both and runs them; elsewhere each is skipped by name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

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
    """A profile of the test's own."""
    made = browser.new_context(viewport={"width": 1280, "height": 900})
    made.set_default_timeout(PATIENCE_MS)
    yield made
    made.close()


@pytest.fixture
def browser_page(context: BrowserContext) -> Iterator[Page]:
    """A page of it. A script that fails, or says so on the console, fails the test."""
    page = context.new_page()
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on("console", lambda said: failures.append(said.text) if said.type == "error" else None)
    page.console_failures = failures  # type: ignore[attr-defined]
    yield page
    unexpected = [failure for failure in failures if "Failed to load resource" not in failure]
    assert not unexpected, unexpected
