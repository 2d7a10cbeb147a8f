"""Words that find explained features, and the page of what is served."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from google.protobuf import json_format

import saeserve
from saeserve.answers.as_json import as_json
from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1 import types_pb2 as types
from tests.browser.pages import asked
from tests.browser.settling import cells, judged, opened, settled, texts
from tests.web.running import Running

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

EXPLAINED = 25
HOSTILE = "shades of <b>red</b> \u202eder fo sedahs"


def answer(request: service.SearchExplanationsRequest) -> service.SearchExplanationsResponse:
    """What a server with 25 explanations of the same words says."""
    first = int(request.page_token or 0)
    last = min(EXPLAINED, first + request.page_size)
    token = str(last) if last < EXPLAINED else ""
    made = service.SearchExplanationsResponse(call_info=types.CallInfo(total_micros=1500), next_page_token=token)
    for index in range(first, last):
        made.results.add(
            facts=types.FeatureFacts(feature=types.FeatureId(source="0-demo", index=index), name=f"0-DEMO:{index}"),
            explanation=types.Explanation(text=HOSTILE, score=0.5, model="somebody", origin="theirs"),
        )
    return made


def test_words_find_explained_features_page_by_page(browser_page: Page, gateway: Running) -> None:
    page = browser_page
    requests: list[service.SearchExplanationsRequest] = []

    def explained(route: Route) -> None:
        requests.append(json_format.Parse(route.request.post_data or "", service.SearchExplanationsRequest()))
        route.fulfill(body=json.dumps(as_json(answer(requests[-1]))), content_type="application/json")

    page.route("**/api/v1/search-explanations", explained)
    opened(page, gateway.url, "explanations")
    page.get_by_role("searchbox", name="Words").fill('"shades of" red')
    page.keyboard.press("Enter")
    settled(page)
    names = [f"0-DEMO:{index}" for index in range(EXPLAINED)]
    assert texts(page, ".record .feature") == names[:10]
    page.get_by_role("searchbox", name="Words").fill("not yet sent")
    page.get_by_role("button", name="More explanations").click()
    settled(page)
    assert page.get_by_role("searchbox", name="Words").input_value() == "not yet sent"
    page.get_by_role("searchbox", name="Words").fill('"shades of" red')
    page.get_by_label("Layers").fill("1-2")
    page.keyboard.press("Tab")
    settled(page)
    page.get_by_label("Among").select_option("latent")
    settled(page)
    assert asked(page) == {"q": ['"shades of" red'], "layers": ["1-2"], "kind": ["latent"]}
    sent = requests[-1]
    assert sent.query == '"shades of" red'
    assert list(sent.filter.include.kinds) == [types.FEATURE_KIND_LATENT]
    assert [(one.first, one.last) for one in sent.filter.include.layers] == [(1, 2)]

    page.goto(page.url + "&n=30")
    settled(page)
    assert texts(page, ".record .feature") == names
    assert page.get_by_role("button", name="More explanations").count() == 0
    first = page.locator(".record").first
    assert "shades of <b>red</b> \\u{202e}der fo sedahs" in first.inner_text()
    assert "score 0.50, somebody, from theirs" in first.inner_text()
    judged(page)


def test_where_nothing_was_imported_it_says_so(browser_page: Page, gateway: Running) -> None:
    opened(browser_page, gateway.url, "explanations", q="red")
    assert "No explanations were imported into this server" in browser_page.locator("main").inner_text()
    assert browser_page.get_by_role("alert").count() == 0


def test_what_is_served(browser_page: Page, gateway: Running, demo: saeserve.Client) -> None:
    page = browser_page
    opened(page, gateway.url, "sources")
    info = demo.server_info()
    assert [[row[0], row[4], row[7]] for row in cells(page, "Table of sources")] == [
        [one.name, one.hook_name, f"{one.n_features:,}"] for one in demo.list_sources()
    ]
    page.get_by_text("Every limit that a request can meet").click()
    told = dict(zip(texts(page, "dt"), texts(page, "dd"), strict=True))
    assert info.index is not None
    assert told["tokens"] == f"{info.index.tokens:,}"
    assert told["revision"] == info.index.revision
    assert told["max text bytes"] == f"{info.limits.max_text_bytes:,}"
    assert told["max inputs"] == f"{info.limits.max_inputs:,}"
    judged(page)


def test_a_server_that_was_exchanged_is_told(browser_page: Page, gateway: Running) -> None:
    page = browser_page

    def of_another(route: Route) -> None:
        told = route.fetch().json()
        told["callInfo"]["modelRevision"] = "another"
        route.fulfill(body=json.dumps(told), content_type="application/json")

    opened(page, gateway.url, "search", text="red")
    served = page.locator("#served").inner_text()
    assert "features of" in served
    page.route("**/api/v1/search", of_another)
    opened(page, gateway.url, "search", text="crimson")
    assert "The server was exchanged" in page.get_by_role("alert").filter(visible=True).inner_text()
    page.unroute("**/api/v1/search")
    page.get_by_role("button", name="Reload").click()
    page.locator("#served", has_text=served).wait_for()
