"""The page's search: what it shows is what the client is answered, and every state has an address."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

import saeserve
from tests.browser.pages import HALF_A_DECIMAL, address, agree, answered, asked, rows, search
from tests.web.running import Running

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

RED = "My favorite color is red."


def test_examples_are_those_of_the_python_client(browser_page: Page, gateway: Running) -> None:
    browser_page.goto(gateway.url)
    told = browser_page.evaluate("import('./js/search/examples.js').then((one) => one.EXAMPLES)")
    assert told == dict(saeserve.EXAMPLES)
    assert list(told) == list(saeserve.EXAMPLES)


def test_an_example_is_searched_by_a_click(browser_page: Page, gateway: Running, demo: saeserve.Client) -> None:
    browser_page.goto(gateway.url)
    browser_page.get_by_role("button", name="odyssey").click()
    answered(browser_page)
    agree(rows(browser_page), demo.search(saeserve.EXAMPLES["odyssey"]))
    assert asked(browser_page) == {"text": [saeserve.EXAMPLES["odyssey"]]}


def test_filters_narrow_the_search_and_stand_in_its_address(
    browser: Browser, browser_page: Page, gateway: Running, demo: saeserve.Client
) -> None:
    page = browser_page
    page.goto(gateway.url)
    search(page, RED)
    page.get_by_role("radio", name="both").check()
    page.get_by_role("button", name="all but 0").click()
    page.get_by_label("Compared by").select_option("surprisal")
    page.get_by_label("How many").fill("7")
    page.keyboard.press("Tab")
    page.get_by_text("More filters").click()
    page.get_by_label("at most").fill("10")
    page.keyboard.press("Tab")
    answered(page, max="0.1", kind="both", layers="1-3", ranking="surprisal", limit="7")
    wanted: dict[str, Any] = {"kinds": "all", "layers": range(1, 4), "ranking": "surprisal", "max_density": 0.1}
    agree(rows(page), demo.search(RED, limit=7, **wanted))

    name = rows(page)[0][0].upper()
    page.get_by_role("button", name=f"leave {name} out").click()
    answered(page, **{"not": name.lower()})
    agree(rows(page), demo.search(RED, limit=7, exclude_features=[name], **wanted))

    elsewhere = browser.new_context()  # somebody else's browser, with the address alone
    try:
        theirs = elsewhere.new_page()
        theirs.goto(page.url)
        answered(theirs)
        assert rows(theirs) == rows(page)
        assert theirs.get_by_role("radio", name="both").is_checked()
        assert theirs.get_by_label("How many").input_value() == "7"
    finally:
        elsewhere.close()


def test_tokens_sort_without_the_model(
    browser_page: Page, gateway: Running, uncommon: str, demo: saeserve.Client
) -> None:
    page = browser_page
    page.goto(gateway.url)
    search(page, uncommon)
    assert page.locator(".came").get_attribute("data-cache") == "CACHE_TIER_NONE"
    tokens = demo.tokenize(uncommon).tokens
    strip = page.get_by_role("toolbar", name="Tokens of the text")
    assert strip.get_by_role("button").count() == len(tokens)

    strip.get_by_role("button").nth(2).click()
    answered(page, sort="2")
    assert page.locator(".came").get_attribute("data-cache") == "CACHE_TIER_INNER"
    agree(rows(page), demo.search(uncommon, sort=2))

    strip.get_by_role("button").nth(4).click(modifiers=["Shift"])
    answered(page, sort="2,4")
    agree(rows(page), demo.search(uncommon, sort=[2, 4]))
    assert strip.locator("[aria-pressed=true]").count() == 2

    page.get_by_label("several").check()  # the same by touch, where there is no Shift
    strip.get_by_role("button").nth(2).click()
    answered(page, sort="4")
    strip.get_by_role("button").nth(4).click()
    answered(page, sort=None)
    agree(rows(page), demo.search(uncommon))


def test_back_and_forward_and_reload(browser_page: Page, gateway: Running) -> None:
    page = browser_page
    page.goto(gateway.url)
    search(page, RED)
    first = rows(page)
    page.get_by_role("radio", name="neurons").check()
    answered(page, kind="neuron")
    neurons = rows(page)
    assert neurons != first
    page.go_back()
    answered(page, kind=None)
    assert rows(page) == first
    assert page.get_by_role("radio", name="latents").is_checked()
    page.go_forward()
    answered(page, kind="neuron")
    page.reload()
    answered(page, kind="neuron")
    assert rows(page) == neurons
    assert page.get_by_label("A text: which features fire on it?").input_value() == RED


def test_by_token(browser_page: Page, gateway: Running, demo: saeserve.Client) -> None:
    page = browser_page
    page.goto(address(gateway.url, text=RED))
    page.get_by_role("radio", name="by token").check()
    answered(page, by="token")
    shown = page.eval_on_selector_all(
        ".by-token tbody tr",
        """all => all.map((row) => [...row.querySelectorAll('li')].map(
            (one) => [one.dataset.feature, one.querySelector('.worth').textContent]))""",
    )
    found = demo.search(RED, by_token=True, limit=5)
    assert len(shown) == len(found.token_results) == len(found.tokens)
    for row, there in zip(found.token_results, shown, strict=True):
        assert [name for name, _ in there] == [f"{one.name.source}:{one.name.index}" for one in row.features]
        assert [float(value) for _, value in there] == pytest.approx(row.values.tolist(), abs=HALF_A_DECIMAL)
    page.get_by_role("button", name="only token 5").click()
    answered(page, sort="5")
    assert page.locator(".by-token tbody tr").count() == 1


def test_more_is_shown_and_two_are_chosen_to_compare(browser_page: Page, gateway: Running) -> None:
    page = browser_page
    page.goto(address(gateway.url, text=RED))
    answered(page)
    page.get_by_role("button", name="Show 25 more").click()
    answered(page, limit="50")
    # Who goes on by keyboard stands on the first that is new.
    twenty_sixth = page.locator(".results tbody tr").nth(25).get_by_role("link")
    assert twenty_sixth.evaluate("one => one === document.activeElement")
    names = [name for name, _ in rows(page)]
    for name in names[:3]:  # of three the last two
        page.get_by_label(f"compare {name.upper()}").check()
    link = page.get_by_role("link", name="Compare them")
    target = link.get_attribute("href") or ""
    assert f"a={names[1].replace(':', '%3A')}&b={names[2].replace(':', '%3A')}" in target
    page.reload()
    answered(page)
    assert page.locator("td.pick input:checked").count() == 2


def test_more_that_did_not_come_moves_nobody_later(browser_page: Page, gateway: Running) -> None:
    page = browser_page
    page.goto(address(gateway.url, text=RED))
    answered(page)
    page.route("**/api/v1/search", lambda route: route.fulfill(status=500, body="{}"))
    page.get_by_role("button", name="Show 25 more").click()
    page.get_by_text("no answer that can be read").wait_for()
    page.unroute("**/api/v1/search")
    page.get_by_role("radio", name="both").check()
    answered(page, kind="both", limit="50")
    assert len(rows(page)) == 50
    assert page.evaluate("document.activeElement.id") == "kind-both"


def test_what_is_typed_stays_until_it_is_sent(browser_page: Page, gateway: Running) -> None:
    page = browser_page
    page.goto(address(gateway.url, text=saeserve.EXAMPLES["odyssey"]))
    answered(page)
    page.locator("textarea").fill(RED)
    page.get_by_role("button", name="token 2:").click()
    answered(page, sort="2")
    page.get_by_label("whole texts").check()
    answered(page, sort="2", whole="1")
    first = rows(page)[0][0]
    page.get_by_role("button", name=f"leave {first.upper()} out").click()
    answered(page, **{"not": first})
    assert asked(page)["text"] == [saeserve.EXAMPLES["odyssey"]]
    assert page.locator("textarea").input_value() == RED
    page.locator("textarea").press("Enter")
    answered(page, text=RED)
    page.go_back()
    answered(page, sort="2")
    assert page.locator("textarea").input_value() == saeserve.EXAMPLES["odyssey"]


def test_a_refused_value_is_told_beside_its_field(browser_page: Page, gateway: Running) -> None:
    page = browser_page
    page.goto(address(gateway.url, text=RED, max="7"))
    page.get_by_text("0 to 1 is expected").wait_for()
    field = page.get_by_role("group", name="Density")
    assert "0 to 1 is expected" in (field.text_content() or "")
    page.goto(address(gateway.url, text=RED, sort="99"))
    page.get_by_text("the text's positions are 0 to 6").wait_for()
    page.get_by_role("alert").get_by_role("button", name="Unsort").click()
    answered(page)
    page.goto(address(gateway.url, text=RED, **{"not": "9-nobody:1"}))
    page.get_by_text("source '9-nobody' is not served").wait_for()
    page.goto(address(gateway.url, text=RED, layers="nine"))
    page.get_by_text("This part of the address cannot be read").wait_for()
    # Nor names that every object of the browser has, nor what the server would refuse.
    for view, params, words in (
        ("search", {"ranking": "valueOf", "kind": "constructor"}, "kind=constructor, ranking=valueOf"),
        ("search", {"limit": "0"}, "limit=0 (1 to 1000)"),
        ("match", {"limit": "1001"}, "limit=1001 (1 to 1000)"),
    ):
        page.goto(address(gateway.url, view, text="red", **params))
        page.locator(".note", has_text=words).wait_for()
    page.goto(f"{gateway.url}/#/constructor")
    page.get_by_role("heading", name="Not a page").wait_for()
    page.goto(address(gateway.url, text=RED, min="0.9", max="0.95"))
    page.get_by_text("The filters leave no feature").wait_for()
    page.goto(address(gateway.url, text="a" * 70_000))
    page.get_by_text("this server takes at most 65,536").wait_for()


def test_without_an_index_what_needs_one_is_off(browser_page: Page, gateway: Running) -> None:
    def without(route: Route) -> None:
        told: dict[str, Any] = route.fetch().json()
        del told["index"]
        route.fulfill(body=json.dumps(told), content_type="application/json")

    browser_page.route("**/api/v1/get-server-info", without)
    browser_page.goto(gateway.url)
    browser_page.get_by_text("This server has no index").wait_for()
    disabled = browser_page.eval_on_selector_all(
        "#ranking option", "all => all.filter((one) => one.disabled).map((one) => one.value)"
    )
    assert disabled == ["relative", "surprisal"]


def test_a_long_search_shows_that_it_runs_and_can_be_stopped(browser_page: Page, gateway: Running) -> None:
    page = browser_page
    held: list[Route] = []
    page.route("**/api/v1/search", lambda route: held.append(route))
    page.goto(address(gateway.url, text=RED))
    page.get_by_text("Searching…").wait_for()
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped.").wait_for()
    page.unroute("**/api/v1/search")
    page.get_by_role("button", name="Search again").click()
    answered(page)
    assert rows(page)
    assert len(held) == 1


def test_the_match_table_is_the_clients_and_leads_to_its_features(
    browser_page: Page, gateway: Running, demo: saeserve.Client
) -> None:
    page = browser_page
    page.goto(address(gateway.url, "match"))
    page.get_by_role("button", name="odyssey").click()
    page.get_by_text("Each cell leads to its features").wait_for()
    table = demo.match_table(saeserve.EXAMPLES["odyssey"])
    shown = page.eval_on_selector_all(".count-words", "all => all.map((one) => one.textContent)")
    assert shown == [f"{row.matched}/{row.features - row.unknown}" for row in table]

    searches = page.evaluate(  # the second of them fails: the others, on their way, do not go on
        """async () => {
            const { countAll } = await import('./js/search/match_rows.js')
            const { readState } = await import('./js/search/state.js')
            const { sources } = await (await fetch('api/v1/list-sources', { method: 'POST' })).json()
            const state = readState(new URLSearchParams('text=red'), { maxLimit: 1000 })
            const [real, wait] = [window.fetch, () => new Promise((done) => setTimeout(done, 5))]
            let [asked, counted] = [0, 0]
            window.fetch = async () => {
                if (++asked === 2) return new Response('{}', { status: 500 })
                await wait()
                return new Response('{"results": [], "tokens": []}')
            }
            await countAll(state, sources, () => counted++, new AbortController().signal).catch(() => {})
            const then = counted
            for (let times = 0; times < 4; times++) await wait()
            window.fetch = real
            return [asked, counted - then]
        }"""
    )
    assert searches == [5, 0]
    page.locator(".count-cell").nth(3).click()
    answered(page, kind="neuron", layers="1")
    agree(rows(page), demo.search(saeserve.EXAMPLES["odyssey"], kinds="neuron", layers=1))
