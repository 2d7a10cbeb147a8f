"""Waiting for the page of a feature and for that of features side by side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.browser.pages import address, overflow, violations

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


def settled(page: Page) -> None:
    """Waits until all that the address asks for stands there."""
    page.wait_for_function(
        "() => document.body.dataset.shows === location.hash && !document.querySelector('.section[aria-busy]')"
    )


def opened(page: Page, base: str, view: str, name: str = "", **params: object) -> None:
    """Goes to a view, and waits."""
    page.goto(address(base, view, name, **params))
    settled(page)


def texts(page: Page, selector: str) -> list[str]:
    """What stands in each of some elements."""
    found: list[str] = page.eval_on_selector_all(selector, "all => all.map((one) => one.textContent)")
    return found


def cells(page: Page, label: str) -> list[list[str]]:
    """The rows of the body of a table, by the label of the region it stands in."""
    found: list[list[str]] = (
        page.get_by_role("region", name=label, exact=True)
        .locator("tbody tr")
        .evaluate_all("all => all.map((row) => [...row.children].map((one) => one.innerText.trim()))")
    )
    return found


def boxes(page: Page) -> list[str]:
    """What stands in the boxes of texts."""
    found: list[str] = page.eval_on_selector_all("textarea", "all => all.map((one) => one.value)")
    return found


@contextmanager
def somebody_else(browser: Browser, address: str) -> Iterator[Page]:
    """Another browser that is given the address alone."""
    context = browser.new_context()
    try:
        page = context.new_page()
        page.goto(address)
        settled(page)
        yield page
    finally:
        context.close()


def judged(page: Page) -> None:
    """Axe finds nothing, nor in the dark too little contrast, and a phone shows the page no wider than itself."""
    assert violations(page) == []
    page.emulate_media(color_scheme="dark")
    dim = "axe.run(document, {preload: false, runOnly: ['color-contrast']}).then((told) => told.violations)"
    assert page.evaluate(dim) == []
    page.set_viewport_size({"width": 360, "height": 740})
    assert overflow(page) == 0
