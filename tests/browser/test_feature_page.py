"""A feature's page: what it shows is what the client is answered; the test box; addresses, errors, hostile texts."""

from __future__ import annotations

import json
import random
import re
from typing import TYPE_CHECKING

import saeserve
from saeserve.answers.compare import align
from tests.browser.pages import asked
from tests.browser.settling import boxes, cells, judged, opened, settled, somebody_else, texts
from tests.web.running import Running

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

NAME = "0-demo:1633"
RED = "My favorite color is red."
CRIMSON = "My favorite color is crimson."


def records(page: Page) -> list[tuple[str, str]]:
    """Activation and text of each record that is shown."""
    return list(zip(texts(page, ".record-head .number"), texts(page, ".record .tokens"), strict=True))


def expected(answered: saeserve.TopActivations) -> list[tuple[str, str]]:
    """What `records` should read of texts without anything unprintable."""
    return [(f"{one.max_activation:.3f}", "".join(token.display for token in one.tokens)) for one in answered.records]


def test_what_is_known_of_a_feature(browser_page: Page, gateway: Running, demo: saeserve.Client) -> None:
    page = browser_page
    opened(page, gateway.url, "feature", NAME)
    known = demo.get_feature(NAME)
    statistics = known.statistics
    assert statistics is not None
    assert page.get_by_role("heading", level=1).inner_text() == str(known.feature.name)
    facts = dict(zip(texts(page, ".facts dt"), texts(page, ".facts dd"), strict=True))
    assert facts["kind"] == f"latent of layer {known.feature.layer}"
    assert facts["set"] == known.source.set
    assert facts["hook point"] == known.source.hook_name
    assert facts["architecture"] == known.source.architecture
    assert facts["density"] == "2.47% in the index"
    assert facts["dead"] == "no"
    assert facts["largest activation"] == f"{known.feature.index_max_activation:.3f} in the index"
    assert facts["decoder norm"] == f"{known.decoder_norm:.3f}"
    said = page.locator(".about").inner_text()
    assert f"Fires on {statistics.fires:,} of {statistics.tokens:,} tokens" in said
    assert f"in {statistics.fires_in_texts:,} of {statistics.texts:,} texts" in said
    assert f"mean {statistics.mean_activation:.3f}, max {statistics.max_activation:.3f}" in said
    usual = [f"{one.token.display.replace(' ', '·')} {one.count:,}" for one in statistics.top_tokens]
    assert texts(page, ".usual-list li") == usual

    page.get_by_text("The histogram as a table").click()
    bins = [[f"{one.lower:g}", f"{one.upper:g}", f"{one.count:,}"] for one in statistics.histogram]
    assert cells(page, "Histogram as a table") == bins
    assert page.locator(".histogram .bar").count() == len(bins)
    assert f"Histogram of {statistics.fires:,}" in (page.locator(".histogram").get_attribute("aria-label") or "")


def test_texts_page_by_page(browser_page: Page, gateway: Running, demo: saeserve.Client) -> None:
    page = browser_page
    opened(page, gateway.url, "feature", NAME)
    assert records(page) == expected(demo.top_activations(NAME))
    page.get_by_role("button", name="More texts").click()
    settled(page)
    twenty = expected(demo.top_activations(NAME, page_size=20))
    assert records(page) == twenty
    page.reload()
    settled(page)
    assert records(page) == twenty
    page.get_by_label("Among").select_option("neuron")  # another section does not disturb this one
    settled(page)
    # Others are on their way: more of these are not asked for.
    page.evaluate(
        """() => new Promise((done) => {
            const more = [...document.querySelectorAll('button')].find((one) => one.textContent === 'More texts')
            addEventListener('hashchange', () => done(more.click()), { once: true })
            location.hash += '&group=near-misses'
        })"""
    )
    settled(page)
    assert asked(page) == {"records": ["20"], "kind": ["neuron"], "group": ["near-misses"]}
    page.go_back()
    settled(page)
    page.get_by_role("button", name="More texts").click()
    settled(page)
    assert records(page) == expected(demo.top_activations(NAME, page_size=100))
    assert "all that were kept" in page.locator(".records").inner_text()


def test_diversity_and_groups(browser_page: Page, gateway: Running, demo: saeserve.Client) -> None:
    page = browser_page
    opened(page, gateway.url, "feature", NAME)
    page.get_by_role("textbox", name="Variant 1").fill("not yet sent")
    page.get_by_role("button", name="Add a variant").click()
    page.get_by_label("Layers").fill("two")
    page.get_by_label("One for each").select_option("token")
    settled(page)
    answered = demo.top_activations(NAME, diversity="token")
    assert records(page) == expected(answered)
    first = page.locator(".record").first.inner_text()
    assert "stands for 11 blocks, 8.504 to 9.952" in first
    for example in answered.records[0].examples:
        assert f"{example.activation:.3f} …{example.text}…" in first

    page.get_by_label("One for each").select_option("phrase")
    settled(page)
    page.get_by_label("Alike from").fill("0.2")
    page.keyboard.press("Tab")
    settled(page)
    assert asked(page) == {"diversity": ["phrase"], "threshold": ["0.2"]}
    answered = demo.top_activations(NAME, diversity="phrase", threshold=0.2)
    assert records(page) == expected(answered)
    assert all("at least" in said for said in texts(page, ".stands"))

    page.get_by_label("Show").select_option("quantiles")
    settled(page)
    assert asked(page) == {"group": ["quantiles"]}  # what does not apply has left the address
    assert page.get_by_label("One for each").is_disabled()
    answered = demo.top_activations(NAME, group="quantiles")
    assert records(page) == expected(answered)
    assert [float(re.findall(r"[\d.]+", said)[0]) for said in texts(page, ".stands")] == [
        round(one.stands_for, 1) for one in answered.records
    ]
    page.get_by_label("Show").select_option("near-misses")
    settled(page)
    assert "wherever a usual token was looked at, it fires" in page.locator(".records").inner_text()
    assert boxes(page) == ["not yet sent"] * 2
    assert page.get_by_label("Layers").input_value() == "two"

    opened(page, gateway.url, "feature", "3-demo:1254", group="near-misses")
    misses = demo.top_activations("3-demo:1254", group="near-misses").records
    assert texts(page, ".record .tokens") == ["".join(token.display for token in one.tokens) for one in misses]
    assert "does not fire on ·do at most 2.995 elsewhere in the block" in page.locator(".record").first.inner_text()
    assert texts(page, ".record .peak") == [one.tokens[one.max_position].display for one in misses]


def test_similar_features(browser_page: Page, gateway: Running, demo: saeserve.Client) -> None:
    page = browser_page
    opened(page, gateway.url, "feature", "2-demo:875")
    shown = cells(page, "Table of similar features")
    found = demo.similar("2-demo:875")
    assert [(row[0].split()[0], row[2]) for row in shown] == [(str(one.name), f"{one.value:.3f}") for one in found]
    assert (
        f"{found.features_compared:,} features compared in the {found.space}" in page.locator(".similar").inner_text()
    )

    page.get_by_label("Alike in").select_option("firing")
    settled(page)
    page.get_by_label("Layers").fill("1-2")
    page.keyboard.press("Tab")
    settled(page)
    page.get_by_label("Among").select_option("neuron")
    settled(page)
    page.get_by_role("button", name="More similar features").click()
    settled(page)
    found = demo.similar("2-demo:875", by="firing", kinds="neuron", layers=(1, 2), limit=20)
    shown = cells(page, "Table of similar features")
    assert [row[0].split()[0] for row in shown] == [str(one.name) for one in found]
    best = found.similar[0]
    assert best.interval is not None
    low, high = best.interval
    assert shown[0][2].split("\n") == [f"{best.value:.3f}", f"{low:.2f}–{high:.2f}", f"of {best.positions}"]
    assert shown[0][3].split("\n")[0] == "100% here"
    page.get_by_label("Layers").fill("two")
    page.keyboard.press("Tab")
    assert page.get_by_label("Layers").evaluate("one => one.validationMessage") == "Layers as 2, 0-3 or 0-3,5"

    page.get_by_role("textbox", name="Variant 1").fill(RED)
    page.get_by_role("button", name="Encode").click()
    settled(page)
    page.get_by_role("link", name=f"side by side with {best.name}").click()
    settled(page)
    assert asked(page) == {"a": ["2-demo:875"], "b": [f"{best.name}".lower()], "text": [RED]}


def test_a_word_is_edited_and_old_and_new_stand_side_by_side(
    browser: Browser, browser_page: Page, gateway: Running, demo: saeserve.Client
) -> None:
    page = browser_page
    opened(page, gateway.url, "feature", NAME, text=RED)
    assert "max 8.191 on ·red" in page.get_by_role("group", name="Variant 1").inner_text()
    assert "8.191, the largest here; in the index it is at most 9.952." in page.locator(".test-box").inner_text()
    page.get_by_role("button", name="Add a variant").click()
    page.get_by_role("textbox", name="Variant 2").fill(CRIMSON)
    page.get_by_role("button", name="Add a variant").click()
    page.get_by_role("textbox", name="Variant 3").fill("My favorite color is really seven.")
    page.keyboard.press("Control+Enter")
    settled(page)

    wanted = [RED, CRIMSON, "My favorite color is really seven."]
    assert asked(page) == {"text": wanted}
    compared = demo.compare(NAME, wanted)
    shown = cells(page, "Activations token by token")
    numbers = [[f"{value:.3f}" for value in row if value == value] for row in compared.activations(NAME)]
    assert [[cell for cell in row[2::2] if cell] for row in shown] == numbers
    assert ["≠" in row[0] for row in shown] == [compared.differs(row) for row in range(len(compared.rows))]
    crimson, seven = texts(page, ".differences li")
    assert crimson == "Variant 2: ·crimson in place of ·red: 6.034, before 8.191 (−26%). "
    assert seven == "Variant 3: ·really seven in place of ·red; it does not fire there, before 8.191. "
    assert (
        "Variant 1: 8.191 on ·red. Variant 2: 6.034 on ·crimson. Variant 3: does not fire"
        in page.locator("#status").inner_text()
    )
    assert texts(page, ".histogram .mark text") == ["2", "1"]  # from weak to strong

    with somebody_else(browser, page.url) as theirs:
        assert boxes(theirs) == wanted
        assert cells(theirs, "Activations token by token") == shown

    page.get_by_role("button", name="Remove variant 2").click()
    page.get_by_role("button", name="Encode").click()
    settled(page)
    assert asked(page) == {"text": [RED, wanted[2]]}
    page.go_back()
    settled(page)
    assert boxes(page) == wanted


def test_a_record_is_copied_into_the_test_box(browser_page: Page, gateway: Running, demo: saeserve.Client) -> None:
    page = browser_page
    opened(page, gateway.url, "feature", NAME)
    page.get_by_role("button", name="Copy into the test box: record 3").click()
    settled(page)
    record = demo.top_activations(NAME).records[2]
    text = b"".join(token.piece for token in record.tokens).decode()
    assert boxes(page) == [text, text]
    assert page.evaluate("document.activeElement.id") == "variant-2"
    said = page.get_by_text("its values may differ from the record's")
    assert said.is_visible()
    page.get_by_role("textbox", name="Variant 2").fill("not yet sent")
    page.get_by_role("button", name="Copy into the test box: record 3").click()  # once more
    settled(page)
    assert boxes(page) == [text, text]
    page.get_by_role("textbox", name="Variant 2").fill(text.replace("bright", "pale"))
    page.get_by_role("button", name="Encode").click()
    settled(page)
    assert "in place of" in page.locator(".differences").inner_text()
    assert records(page) == expected(demo.top_activations(NAME))  # the texts below stay
    assert said.is_visible()
    page.get_by_role("textbox", name="Variant 1").fill(RED)
    page.get_by_role("button", name="Encode").click()
    settled(page)
    assert said.is_hidden()  # it is of another text


def test_variants_are_aligned_as_the_python_client_does(browser_page: Page, gateway: Running) -> None:
    drawn = random.Random(11)

    def text() -> list[str]:
        return [drawn.choice("abcd") for _ in range(drawn.randrange(9))]

    cases = [[text() for _ in range(drawn.randrange(1, 4))] for _ in range(300)]
    browser_page.goto(gateway.url)
    rows = browser_page.evaluate(
        "async (cases) => { const { align } = await import('./js/feature/align.js'); return cases.map(align) }", cases
    )
    wanted = [align([[piece.encode() for piece in text] for text in case]) for case in cases]
    assert rows == [[list(row) for row in case] for case in wanted]


def test_no_more_than_one_call_takes_and_what_was_not_compared(browser_page: Page, gateway: Running) -> None:
    def narrow(route: Route) -> None:
        told = route.fetch().json()
        told["limits"].update(maxInputs=2, maxLimit=13)
        route.fulfill(body=json.dumps(told), content_type="application/json")

    def without(route: Route) -> None:
        told = route.fetch().json()
        told["leftOut"] = [{"sources": ["0", "1"], "reason": "<b>others</b> write\u202e"}]
        route.fulfill(body=json.dumps(told), content_type="application/json")

    browser_page.route("**/api/v1/get-server-info", narrow)
    browser_page.route("**/api/v1/similar-features", without)
    opened(browser_page, gateway.url, "feature", NAME)
    add = browser_page.get_by_role("button", name="Add a variant")
    add.click()
    assert add.is_disabled()
    browser_page.get_by_role("button", name="Remove variant 1").click()
    assert add.is_enabled()

    assert texts(browser_page, ".left-out li") == ["Not compared: 0, 1: <b>others</b> write\\u{202e}"]
    more = browser_page.get_by_role("button", name="More similar features")
    more.click()
    settled(browser_page)
    assert asked(browser_page) == {"similar": ["13"]}
    assert len(cells(browser_page, "Table of similar features")) == 13
    assert more.count() == 0


def test_one_section_that_fails_leaves_the_others(browser_page: Page, gateway: Running, demo: saeserve.Client) -> None:
    page = browser_page
    error = {
        "code": 503,
        "status": "UNAVAILABLE",
        "reason": "",
        "message": "the server <b>restarts</b>",
        "requestId": "r7",
    }
    page.route("**/api/v1/similar-features", lambda route: route.fulfill(status=503, body=json.dumps({"error": error})))
    opened(page, gateway.url, "feature", NAME, text=RED)
    failed = page.locator(".similar").get_by_role("alert")
    assert "No answer. the server <b>restarts</b>" in failed.inner_text()
    assert records(page) == expected(demo.top_activations(NAME))
    assert "8.191" in page.get_by_role("group", name="Variant 1").inner_text()
    page.unroute("**/api/v1/similar-features")
    failed.get_by_role("button", name="Try again").click()
    settled(page)
    assert len(cells(page, "Table of similar features")) == 10


def test_records_that_changed_meanwhile_are_fetched_anew(browser_page: Page, gateway: Running) -> None:
    page = browser_page

    def changed(route: Route) -> None:
        if json.loads(route.request.post_data or "{}").get("pageToken"):
            error = {
                "code": 409,
                "status": "ABORTED",
                "reason": "STORE_CHANGED",
                "message": "page_token: of other records",
            }
            route.fulfill(status=409, body=json.dumps({"error": error}))
        else:
            route.continue_()

    page.route("**/api/v1/top-activations", changed)
    opened(page, gateway.url, "feature", NAME)
    page.get_by_role("button", name="More texts").click()
    page.get_by_text("The server has other records now").wait_for()
    page.get_by_role("button", name="Fetch the texts anew").click()
    settled(page)
    assert len(records(page)) == 20


def test_what_is_not_there_names_the_nearest(browser_page: Page, gateway: Running) -> None:
    page = browser_page
    page.goto(f"{gateway.url}/#/feature/9-demo:1633")
    page.get_by_role("heading", name="No such feature").wait_for()
    assert "source '9-demo' is not served" in page.get_by_role("alert").inner_text()
    page.get_by_role("link", name="3-DEMO:1633").click()
    settled(page)
    assert page.get_by_role("heading", level=1).inner_text() == "3-DEMO:1633"
    page.get_by_label("Open a feature by name").fill("0-demo:2048")
    page.keyboard.press("Enter")
    page.get_by_role("link", name="0-DEMO:2047").wait_for()
    assert "indices of 0-DEMO are 0 to 2047" in page.get_by_role("alert").inner_text()
    page.goto(f"{gateway.url}/#/feature/red")
    page.get_by_text("red is no name of a feature").wait_for()
    opened(page, gateway.url, "feature", NAME, records="0", similar="ten")
    assert "records=0 (from 1), similar=ten (from 1)" in page.locator("main .note").first.inner_text()
    assert len(records(page)) == 10


def test_hostile_texts_stay_texts(browser_page: Page, gateway: Running) -> None:
    page = browser_page
    script = '<script>alert(1)</script><img src=x onerror="alert(2)">'
    turned = "red \u202edloc si\u202c \u0000 \u2066x\u2069"
    opened(page, gateway.url, "feature", NAME, text=[script, turned.replace("\u0000", "\u0001"), "red " * 1000])
    assert boxes(page)[0] == script
    one, two, three = texts(page, ".side .tokens")
    assert one == script
    assert not re.search("[\u0000-\u0008\u202a-\u202e\u2066-\u2069]", two)
    assert "\\xe2\\x80\\xae" in two  # tokens are bytes: none of these is a character by itself
    assert "Cut to the limit of 255 tokens" in page.get_by_role("group", name="Variant 3").inner_text()
    assert len(three.split()) == 255
    assert page.evaluate("document.querySelectorAll('main script, main img').length") == 0


def test_axe_finds_nothing_and_a_phone_shows_all(browser_page: Page, gateway: Running) -> None:
    opened(browser_page, gateway.url, "feature", NAME, text=[RED, CRIMSON], diversity="token", by="firing")
    judged(browser_page)
