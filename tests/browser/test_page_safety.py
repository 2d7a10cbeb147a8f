"""What others wrote stays text; who has no token, or no server, is told in words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import saeserve
from tests.browser.pages import address, answered, overflow, rows
from tests.conftest import DEVICE, START_TIMEOUT
from tests.web.running import Running, gateway_before

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page, Route

TOKEN = "open-sesame-of-more-than-24-bytes"
# None of these may reach the eye as they are.
HIDDEN = "\u202e\u2066\u200b\x00\x07\x1b\x7f\u2028\ufeff"
HOSTILE = {
    "script": "<script>alert(1)</script><script src='//evil.example/x.js'></script>",
    "image": "<img src=x onerror=alert(1)><svg onload=alert(1)>",
    "attribute": "\" onmouseover=alert(1) x='` javascript:alert(1)",
    "bidi": "abc \u202efdp.exe \u2066 \u200bsecret",
    "control": "a\x00b\x07c\x1b[31m d\x7f \u2028 e",
    "surrogates": "\U0001f98a\u0301 ﷽ \ufeff 你好 नमस्ते",
    "long": "The red fox ran. " * 200,
    "one word": "x" * 3000,
    "percent": "100% & a=b #/feature/1 ?x + %zz %41",
}


def test_a_hostile_text_is_a_text(browser_page: Page, gateway: Running) -> None:
    page = browser_page
    page.set_viewport_size({"width": 360, "height": 740})
    for name, text in HOSTILE.items():
        page.goto(address(gateway.url, text=text))
        answered(page)
        assert page.get_by_label("A text: which features fire on it?").input_value() == text, name
        assert page.locator(".strip-tokens button").count() > 0, name
        assert page.locator("main :is(script, img, svg, iframe, [onerror], [onload], [onmouseover])").count() == 0, name
        shown = page.locator("main").inner_text() + page.title()
        assert not [hidden for hidden in HIDDEN if hidden in shown], name
        assert ("only its first 255 were searched" in shown) == (name in {"long", "one word"}), name
        assert ("\\u{202e}" in shown) == (name == "bidi"), name
        assert overflow(page) == 0, name
    # The same where it comes back by token.
    for name in ("script", "bidi", "one word"):
        page.goto(address(gateway.url, text=HOSTILE[name], by="token", limit=1))
        answered(page)
        assert page.locator(".by-token tbody tr").count() > 0, name
        assert page.locator("main :is(script, img)").count() == 0, name
        assert overflow(page) == 0, name


def test_what_a_server_says_is_text_too(browser_page: Page, gateway: Running) -> None:
    page, evil = browser_page, "<img src=x onerror=alert(1)>\u202e<script>alert(2)</script>"
    said = {"text": evil, "score": 0.5, "type": evil, "model": evil, "origin": evil}

    def rewritten(route: Route) -> None:
        told: dict[str, Any] = route.fetch().json()
        for one in told.get("tokens", []):
            one["display"] = evil
        told["callInfo"]["cache"] = "constructor"  # every object of the browser has it
        for result in told.get("results", []):
            result["match"] = "constructor"
            facts = result["facts"]
            facts.update(name=evil, explanations=[said])
            facts["feature"]["source"] = evil
            facts["usualTokens"] = [{"token": {"display": evil}, "count": evil, "maxActivation": 1}]
        if "model" in told:
            told["model"]["name"] = evil
        route.fulfill(body=json.dumps(told), content_type="application/json")

    page.route("**/api/v1/*", rewritten)
    page.goto(address(gateway.url, text="red", limit=2))
    answered(page)
    assert page.locator("main .results .explanation").first.inner_text() == evil.replace("\u202e", "\\u{202e}")
    page.locator("td.pick input").first.check()
    assert page.locator("body :is(img, script, svg)").count() == 0
    assert "\u202e" not in page.locator("body").inner_text() + page.title()


def test_a_token_is_asked_for_once_and_a_dead_server_is_told_in_words(
    browser_page: Page, context: BrowserContext, guarded: saeserve.Client
) -> None:
    page = browser_page
    with gateway_before(guarded.target) as gateway:
        page.goto(address(gateway.url, text="red"))
        page.get_by_label("Token, kept for this tab").fill("wrong")
        page.get_by_role("button", name="Use it").click()
        page.get_by_text("It did not accept the one before").wait_for()
        page.get_by_label("Token, kept for this tab").fill(TOKEN)
        page.keyboard.press("Enter")
        answered(page)
        assert len(rows(page)) > 0
        page.reload()
        answered(page)
        assert len(rows(page)) > 0  # it was not asked for again
        assert page.locator("dialog").count() == 0

        other = context.new_page()  # another tab has to say it
        other.goto(address(gateway.url, text="red"))
        other.get_by_role("button", name="Leave").click()
        other.get_by_text("A token is needed.").wait_for()
        other.close()

        guarded.close()  # and its server ends
        page.get_by_role("radio", name="neurons").check()
        page.get_by_text("No answer.").wait_for()
    page.get_by_role("button", name="Try again").click()  # now without a gateway
    page.get_by_text("The gateway cannot be reached").wait_for()


def test_a_token_that_cannot_be_sent_is_refused_and_none_needs_storage(
    browser_page: Page, context: BrowserContext, gateway: Running
) -> None:
    page = browser_page
    asked = {"status": "UNAUTHENTICATED", "message": "no token"}

    def guarded(route: Route) -> None:
        if route.request.headers.get("authorization") == f"Bearer {TOKEN}":
            route.continue_()
        else:
            route.fulfill(status=401, body=json.dumps({"error": asked}))

    context.route("**/api/v1/*", guarded)
    page.add_init_script(
        "Object.defineProperty(window, 'sessionStorage', { get() { throw new DOMException('', 'SecurityError') } })"
    )
    page.goto(address(gateway.url, text="red"))
    token = page.get_by_label("Token, kept for this tab")
    for unsendable in ("пароль", "two words", "naïve"):
        token.fill(unsendable)
        page.keyboard.press("Enter")
        assert token.evaluate("one => one.validationMessage").startswith("A token is one word")
    token.fill(f" {TOKEN} ")
    page.keyboard.press("Enter")
    answered(page)
    page.get_by_role("radio", name="neurons").check()
    answered(page, kind="neuron")  # it is kept
    assert len(rows(page)) > 0

    other = context.new_page()
    other.goto(f"{gateway.url}/favicon.svg")
    other.evaluate("sessionStorage.setItem('saeserve-token', 'пароль')")  # from elsewhere
    other.goto(address(gateway.url, text="red"))
    other.get_by_text("This server asks for a token").wait_for()
    assert other.evaluate("sessionStorage.getItem('saeserve-token')") is None


@pytest.fixture
def guarded(cache_folder: Path) -> Iterator[saeserve.Client]:
    """A client of a server that asks for a token; closed, its server ends."""
    with saeserve.local(model="demo", device=DEVICE, index="none", token=TOKEN, timeout=START_TIMEOUT) as client:
        yield client
