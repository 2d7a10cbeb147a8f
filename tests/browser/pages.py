"""What tests of the page do again and again: addresses, waiting for an answer, reading what stands there."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

    import saeserve

PATIENCE = 20.0
HALF_A_DECIMAL = 0.00051
AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"


def address(base: str, view: str = "search", name: str = "", **params: Any) -> str:
    """The address of a view: `params` are what stands after its question mark."""
    query = urlencode(params, doseq=True)
    return f"{base}/#/{view}" + (f"/{quote(name, safe='')}" if name else "") + (f"?{query}" if query else "")


def asked(page: Page) -> dict[str, list[str]]:
    """What the page's address asks for, by key."""
    return parse_qs(urlsplit(page.url).fragment.partition("?")[2])


def search(page: Page, text: str) -> None:
    """Types a text and presses Enter."""
    page.get_by_label("A text: which features fire on it?").fill(text)
    page.keyboard.press("Enter")
    answered(page)


def answered(page: Page, **params: str | None) -> None:
    """Waits until what the page shows is what its address says, and the address has these keys so; None: not at all."""
    wanted = {key: None if value is None else [value] for key, value in params.items()}
    until = time.monotonic() + PATIENCE
    while True:
        shown = page.evaluate("document.body.dataset.shows === location.hash")
        told = asked(page)
        if shown and all(told.get(key) == value for key, value in wanted.items()):
            return
        assert time.monotonic() < until, f"shown: {shown}; address: {told}; wanted: {wanted}"
        page.wait_for_timeout(10)


def rows(page: Page) -> list[tuple[str, str]]:
    """Name and value of each result, as they stand there."""
    found: list[list[str]] = page.eval_on_selector_all(
        ".results tbody tr", "all => all.map((one) => [one.dataset.feature, one.querySelector('.worth').textContent])"
    )
    return [(name, value) for name, value in found]


def agree(shown: list[tuple[str, str]], found: saeserve.SearchResult) -> None:
    """What `rows` read is what the client was answered: the same features in the same order, values to 3 decimals."""
    assert [name for name, _ in shown] == [f"{hit.name.source}:{hit.name.index}" for hit in found]
    # Half of the last decimal, and what lies between a float32 and its shortest decimal.
    assert [float(value) for _, value in shown] == pytest.approx([hit.value for hit in found], abs=HALF_A_DECIMAL)


def violations(page: Page) -> list[str]:
    """What axe-core holds against the page, in words with the elements."""
    if not AXE.is_file():
        pytest.fail(f"no {AXE}: npm ci --prefix tests/browser, which make test-web does")
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE.read_text("utf-8") + "; undefined")
    options: dict[str, Any] = {"preload": False, "resultTypes": ["violations"]}
    found: list[dict[str, Any]] = page.evaluate(
        "options => axe.run(document, options).then((told) => told.violations)", options
    )
    return [f"{one['id']}: {one['help']}: {[node['target'] for node in one['nodes']][:3]}" for one in found]


def overflow(page: Page) -> int:
    """By how many pixels the page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))
