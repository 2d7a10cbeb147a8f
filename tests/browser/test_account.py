"""The account's first experiment by clicks and keys, beside what the Python client is answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import saeserve
from tests.browser.pages import agree, answered, asked, rows, search
from tests.browser.settling import cells, settled
from tests.web.running import Running

if TYPE_CHECKING:
    from playwright.sync_api import Page

RED, CRIMSON = "My favorite color is red.", "My favorite color is crimson."


def test_the_first_experiment(browser_page: Page, gateway: Running, demo: saeserve.Client) -> None:
    page = browser_page
    page.goto(gateway.url)
    search(page, "red")
    agree(rows(page), demo.search("red"))
    search(page, RED)
    agree(rows(page), demo.search(RED))

    page.get_by_role("button", name="token 5: ·red").click()
    answered(page, sort="5")
    by_red = demo.search(RED, sort="red")
    agree(rows(page), by_red)
    assert page.locator(".results .maximum").nth(1).inner_text() == f"{by_red.results[0].max_activation:.3f}"

    page.get_by_role("radio", name="neurons").check()
    answered(page, kind="neuron")
    agree(rows(page), demo.search(RED, sort="red", kinds="neuron"))
    page.get_by_role("radio", name="latents").check()
    page.get_by_role("button", name="all but 0").click()
    answered(page, kind="latent", layers="1-3")
    agree(rows(page), demo.search(RED, sort="red", layers=range(1, 4)))
    page.get_by_role("button", name="all", exact=True).click()
    answered(page, layers=None)

    # The first that usually fires on this token and on few others.
    chosen = next(hit for hit in by_red if hit.match is saeserve.Match.EXACT)
    row = page.locator(f"tr[data-feature='{chosen.name.source}:{chosen.name.index}']")
    assert row.get_by_role("img", name="a token on which it usually fires").count() == 1
    row.get_by_role("link").click()
    settled(page)
    assert page.get_by_role("heading", level=1).inner_text() == f"{chosen.name}" == "0-DEMO:1633"
    assert "1,768 of 71,535" in page.locator("main").inner_text()
    assert asked(page) == {"text": [RED]}  # what was searched stands in its test box

    page.get_by_role("button", name="Add a variant").click()
    page.get_by_role("textbox", name="Variant 2").fill(CRIMSON)
    page.keyboard.press("Control+Enter")
    settled(page)
    compared = demo.compare(chosen.name, [RED, CRIMSON])
    assert [row[2::2] for row in cells(page, "Activations token by token")] == [
        [f"{value:.3f}" for value in row] for row in compared.activations(chosen.name)
    ]
    page.go_back()
    page.go_back()
    answered(page, sort="5")
    agree(rows(page), by_red)
