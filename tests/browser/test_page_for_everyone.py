"""Every view is for everybody: read aloud, in light and dark, on a phone, without a mouse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import saeserve
from tests.browser.pages import address, answered, asked, overflow, rows, violations
from tests.web.running import Running

if TYPE_CHECKING:
    from playwright.sync_api import Page, ViewportSize

RED = "My favorite color is red."
PHONE: ViewportSize = {"width": 360, "height": 740}
DESKTOP: ViewportSize = {"width": 1280, "height": 900}
# Each empty, and with all that it can show. Those of a feature are judged beside their own tests.
STATES: list[tuple[str, dict[str, str]]] = [
    ("search", {}),
    ("search", {"text": RED, "sort": "5", "limit": "3", "pick": "0-demo:1633", "not": "0-demo:248"}),
    ("search", {"text": saeserve.EXAMPLES["code"], "ranking": "surprisal", "kind": "both", "limit": "4"}),
    ("search", {"text": RED, "by": "token", "limit": "2"}),
    ("match", {}),
    ("match", {"text": RED}),
    ("nowhere", {}),
]


def test_axe_finds_nothing_in_light_in_dark_and_on_a_phone(browser_page: Page, gateway: Running) -> None:
    page = browser_page
    found = []
    for view, params in STATES:
        page.goto(address(gateway.url, view, **params))
        answered(page)
        for summary in page.locator("main details:not([open]) > summary").all():
            summary.click()
        told = violations(page)
        page.emulate_media(color_scheme="dark")
        page.set_viewport_size(PHONE)
        if params:  # the others have no colour and no layout of their own
            told += violations(page)
        if overflow(page) > 0:
            told.append(f"{overflow(page)} pixels too wide for a phone")
        page.set_viewport_size(DESKTOP)
        page.emulate_media(color_scheme="light")
        found += [f"{view} {params}: {one}" for one in told]
    assert not found, "\n".join(found)


def focused(page: Page) -> str:
    """The name of what has the focus."""
    told: str = page.evaluate(
        "(document.activeElement.ariaLabel ?? document.activeElement.labels?.[0]?.textContent"
        " ?? document.activeElement.textContent ?? '').trim()"
    )
    return told


def test_without_a_mouse(browser_page: Page, gateway: Running) -> None:
    page = browser_page
    page.goto(address(gateway.url, "match"))
    answered(page)
    page.locator("body").press("Tab")
    assert focused(page) == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    assert page.url == address(gateway.url, "match")  # the view is the same
    page.locator(".skip").focus()
    for name in ("saeserve", "Search"):
        page.keyboard.press("Tab")
        assert focused(page) == name
    page.keyboard.press("Enter")
    answered(page)
    page.keyboard.press("/")
    page.keyboard.type(RED)
    page.keyboard.press("Enter")
    answered(page, text=RED)
    assert focused(page) == "A text: which features fire on it?"
    page.keyboard.press("Shift+Enter")  # a line of the text
    assert page.locator("textarea").input_value() == RED + "\n"
    page.keyboard.press("Backspace")

    stops: list[str] = []
    while not stops or not stops[-1].startswith("token 0"):
        page.keyboard.press("Tab")
        stops.append(focused(page))
        assert len(stops) < 40, stops
    # What is chosen of the radio buttons, and nothing twice.
    assert [stop for stop in stops if stop in {"latents", "neurons", "both"}] == ["latents"]
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert focused(page) == "token 5: ·red"
    page.keyboard.press("Enter")
    answered(page, sort="5")
    assert focused(page) == "token 5: ·red"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+Enter")
    answered(page, sort="4,5")
    page.keyboard.press("Shift+Space")
    answered(page, sort="5")
    page.keyboard.press("Home")
    assert focused(page) == "token 0: My"
    assert (
        page.locator("#status").text_content()
        == f"25 features, sorted by ·red. First {rows(page)[0][0].upper()}, {rows(page)[0][1]}."
    )

    while focused(page) != "0-DEMO:1633":
        page.keyboard.press("Tab")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.evaluate("new Promise((done) => { addEventListener('scroll', done, {once: true}); scrollTo(0, 300) })")
    page.keyboard.press("Enter")
    page.wait_for_url("**/#/feature/**")
    answered(page)
    assert asked(page)["text"] == [RED]
    assert page.evaluate("document.activeElement.id") == "main"
    page.go_back()
    answered(page, sort="5")
    assert page.evaluate("scrollY") == 300  # where it was left
    page.reload()
    answered(page, sort="5")
    assert page.evaluate("scrollY") == 300
