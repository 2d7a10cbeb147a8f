"""Features side by side: what the page shows is what the client is answered."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import saeserve
from tests.browser.pages import asked
from tests.browser.settling import boxes, cells, judged, opened, settled, somebody_else, texts
from tests.web.running import Running

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

NAMES = ["0-demo:1633", "0-demo:1217"]
RED = "My favorite color is red."
CRIMSON = "She wore a crimson dress."


def values(page: Page, text: int) -> list[list[str]]:
    """Activations token by token: a row for each token, a column for each feature."""
    return [row[2:] for row in cells(page, f"Activations token by token, text {text}")]


def test_two_features_on_the_same_texts(
    browser: Browser, browser_page: Page, gateway: Running, demo: saeserve.Client
) -> None:
    page = browser_page
    opened(page, gateway.url, "compare", a=NAMES[0], b=NAMES[1], text=[RED, CRIMSON])
    encoded = demo.encode([RED, CRIMSON], features=NAMES)
    for number, text in enumerate(encoded.texts, 1):
        assert text.dense is not None
        assert values(page, number) == [[f"{value:.3f}" for value in row] for row in text.dense]
    first = page.get_by_role("group", name="Feature A on text 1")
    assert "0-DEMO:1633 max 8.191 on ·red" in first.inner_text()
    assert "does not fire" in page.get_by_role("group", name="Feature B on text 2").inner_text()
    # The scale of each is its own: both are darkest where they are largest.
    strength = "all => all.map((one) => one.style.getPropertyValue('--on'))"
    shades = page.eval_on_selector_all(".side:first-of-type .token.on", strength)
    assert shades[:2] == ["1.000", "1.000"]
    assert "Both fire on 1 of 7 tokens, A alone on 0, B alone on 0." in page.locator("main").inner_text()

    known = {row[0]: row[1:] for row in cells(page, "Table of what is known")}
    assert known["density"] == ["2.47% in the index", "0.579% in the index"]
    assert known["kind"] == ["latent of layer 0"] * 2

    alike = {row[0].split("\n")[0]: row[1].split("\n") for row in cells(page, "Table of how alike they are")}
    assert alike["what they write"] == [f"{demo.similar(NAMES[0], features=NAMES[1:]).similar[0].value:.3f}"]
    assert alike["what they read"] == [
        f"{demo.similar(NAMES[0], by='encoder', features=NAMES[1:]).similar[0].value:.3f}"
    ]
    records = demo.similar(NAMES[0], by="records", features=NAMES[1:]).similar[0]
    assert alike["where they fire most"] == [f"{records.value:.3f}", f"of {records.positions} records"]
    firing = demo.similar(NAMES[0], by="firing", features=NAMES[1:]).similar[0]
    assert alike["where they fire"][0] == f"{firing.value:.3f}"
    assert f"of {firing.positions} places" in alike["where they fire"][1]

    with somebody_else(browser, page.url) as theirs:
        assert boxes(theirs) == [RED, CRIMSON]
        assert values(theirs, 2) == values(page, 2)


def test_features_are_typed_swapped_and_added(browser_page: Page, gateway: Running, demo: saeserve.Client) -> None:
    page = browser_page
    opened(page, gateway.url, "compare")
    assert "Name two features" in page.locator("main").inner_text()
    page.get_by_label("Feature A").fill("0-DEMO:1633")
    page.get_by_label("Feature B").fill(" 2:92 ")
    page.get_by_role("textbox", name="Text 1").fill(RED)
    page.keyboard.press("Control+Enter")
    settled(page)
    assert asked(page) == {"a": ["0-demo:1633"], "b": ["2:92"], "text": [RED]}
    before = values(page, 1)
    page.get_by_role("button", name="Swap A and B").click()
    settled(page)
    assert asked(page) == {"a": ["2:92"], "b": ["0-demo:1633"], "text": [RED]}
    assert values(page, 1) == [row[::-1] for row in before]

    page.get_by_role("button", name="Add a feature").click()
    assert page.get_by_role("textbox", name="Feature C").evaluate("one => one === document.activeElement")
    page.keyboard.type("1-demo:106")
    page.keyboard.press("Enter")
    settled(page)
    dense = demo.encode([RED], features=["2:92", "0-demo:1633", "1-demo:106"]).texts[0].dense
    assert dense is not None
    assert values(page, 1) == [[f"{value:.3f}" for value in row] for row in dense]
    assert len(cells(page, "Table of how alike they are")[0]) == 4  # the way, and three pairs
    page.get_by_role("button", name="Remove feature C").click()
    page.get_by_role("button", name="Compare").click()
    settled(page)
    assert values(page, 1) == [row[::-1] for row in before]
    page.go_back()
    settled(page)
    assert page.get_by_role("textbox", name="Feature C").input_value() == "1-demo:106"

    page.get_by_role("link", name="1-DEMO:106").first.click()
    settled(page)
    assert boxes(page) == [RED]  # its page tests the same text


def test_what_cannot_be_compared_says_why(browser_page: Page, gateway: Running) -> None:
    page = browser_page
    opened(page, gateway.url, "compare", a=NAMES[0], b=NAMES[0].upper(), text=RED)
    assert "0-DEMO:1633 is already among them" in page.get_by_role("alert").inner_text()
    opened(page, gateway.url, "compare", a=NAMES[0], b="red", text=RED)
    assert "RED is no name of a feature" in page.get_by_role("alert").inner_text()
    opened(page, gateway.url, "compare", a=NAMES[0], b="9-demo:1", text=RED)
    assert [("source '9-demo' is not served" in said) for said in texts(page, "[role=alert]")] == [True, True]
    assert "latent of layer 0" in page.get_by_role("region", name="Table of what is known").inner_text()  # of the other


def test_one_way_that_fails_leaves_the_others(browser_page: Page, gateway: Running) -> None:
    def without_index(route: Route) -> None:
        if json.loads(route.request.post_data or "{}")["by"] == "SIMILARITY_FIRING":
            error = {
                "code": 400,
                "status": "FAILED_PRECONDITION",
                "reason": "INDEX_REQUIRED",
                "message": "there is no index",
            }
            route.fulfill(status=400, body=json.dumps({"error": error}))
        else:
            route.continue_()

    browser_page.route("**/api/v1/similar-features", without_index)
    opened(browser_page, gateway.url, "compare", a=NAMES[0], b=NAMES[1])
    shown = [row[1] for row in cells(browser_page, "Table of how alike they are")]
    assert shown[2] == "there is no index"
    assert shown[0] == "0.237"
    # What was typed meanwhile stays where another part of the address changes.
    browser_page.get_by_role("textbox", name="Text 1").fill(RED)
    opened(browser_page, gateway.url, "compare", a=NAMES[0], b="2:92")
    assert boxes(browser_page) == [RED]
    browser_page.get_by_role("textbox", name="Feature A").fill("2:92")
    opened(browser_page, gateway.url, "compare", a=NAMES[0], b="2:92", text=CRIMSON)
    assert boxes(browser_page) == [CRIMSON]
    assert browser_page.get_by_role("textbox", name="Feature A").input_value() == "2:92"


def test_axe_finds_nothing_and_a_phone_shows_all(browser_page: Page, gateway: Running) -> None:
    opened(browser_page, gateway.url, "compare", a=NAMES[0], b=NAMES[1], c="2:92", text=[RED, CRIMSON])
    judged(browser_page)
