"""What others wrote stays text; who has no token, or no server, is told in words."""

from __future__ import annotations

import json
import socket
from contextlib import closing
from typing import TYPE_CHECKING, Any

from tests.browser.pages import address, answered, overflow, rows
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


def test_a_token_is_asked_for_once_and_kept_for_the_tab(
    browser_page: Page, context: BrowserContext, gateway: Running
) -> None:
    page, kept = browser_page, "sessionStorage.getItem('saeserve-token')"
    context.route("**/api/v1/*", guarded)
    page.goto(address(gateway.url, text="red"))
    token = page.get_by_label("Token, kept for this tab")
    for unsendable in ("пароль", "naïve", "two words"):
        token.fill(unsendable)
        page.keyboard.press("Enter")
        assert token.evaluate("one => one.validationMessage").startswith("A token is one word")
    token.fill("wrong")
    page.get_by_role("button", name="Use it").click()
    page.get_by_text("It did not accept the one before").wait_for()
    assert page.evaluate(kept) is None
    token.fill(f" {TOKEN} ")
    page.keyboard.press("Enter")
    answered(page)
    assert len(rows(page)) > 0
    page.reload()
    answered(page)
    assert len(rows(page)) > 0  # it was not asked for again
    assert page.locator("dialog").count() == 0
    page.evaluate("sessionStorage.setItem('saeserve-token', 'пароль')")  # from elsewhere
    page.reload()
    token.wait_for()
    assert page.evaluate(kept) is None

    other = context.new_page()  # another tab has to say it
    other.goto(address(gateway.url, text="red"))
    other.get_by_role("button", name="Leave").click()
    other.get_by_text("A token is needed.").wait_for()


def test_where_the_browser_keeps_nothing_the_page_does(
    browser_page: Page, context: BrowserContext, gateway: Running
) -> None:
    page = browser_page
    context.route("**/api/v1/*", guarded)
    page.add_init_script(
        "Object.defineProperty(window, 'sessionStorage', { get() { throw new DOMException('', 'SecurityError') } })"
    )
    page.goto(address(gateway.url, text="red"))
    page.get_by_label("Token, kept for this tab").fill(TOKEN)
    page.keyboard.press("Enter")
    answered(page)
    page.get_by_role("radio", name="neurons").check()
    answered(page, kind="neuron")
    assert len(rows(page)) > 0
    assert page.locator("dialog").count() == 0


def test_a_dead_server_and_a_dead_gateway_are_told_in_words(browser_page: Page) -> None:
    page = browser_page
    with closing(socket.socket()) as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        with gateway_before(f"127.0.0.1:{nobody.getsockname()[1]}") as gateway:
            page.goto(address(gateway.url, text="red"))
            page.get_by_text("No answer.").wait_for()
    page.get_by_role("button", name="Try again").click()
    page.locator("main").get_by_text("The gateway cannot be reached").wait_for()


def guarded(route: Route) -> None:
    """Hands on what has the token, and answers all else as a server that asks for one."""
    if route.request.headers.get("authorization") == f"Bearer {TOKEN}":
        route.continue_()
    else:
        error = {"status": "UNAUTHENTICATED", "message": "no token"}
        route.fulfill(status=401, body=json.dumps({"error": error}))
