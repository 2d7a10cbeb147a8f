"""The example notebook, run for real, as HTML in a browser: in light and in dark, with hostile texts in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.client.test_notebook import HOSTILE

NOTEBOOK = Path(__file__).parents[2] / "clients" / "python" / "examples" / "notebook.ipynb"
CELL_SECONDS = 120
# Of each element its text's colour, and the one behind it: all translucent layers, down to the page's.
COLORS = """
elements => elements.map(element => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) layers.push(getComputedStyle(e).backgroundColor);
    const read = color => color.match(/[0-9.]+/g).map(Number);
    let under = [255, 255, 255];
    const over = color => {
        const [r, g, b, a = 1] = read(color);
        return [r, g, b].map((value, i) => value * a + under[i] * (1 - a));
    };
    for (const layer of layers.reverse()) under = over(layer);
    return {title: element.title, background: under, color: over(getComputedStyle(element).color)};
})
"""


@pytest.fixture(scope="module")
def ran(demo):
    """The notebook with the outputs of a run of its own."""
    import nbclient
    import nbformat

    notebook = nbformat.read(NOTEBOOK, 4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "it is kept without outputs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAESERVE_TARGET", demo.target)
        patch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
        nbclient.NotebookClient(notebook, timeout=CELL_SECONDS, kernel_name="python3").execute()
    hostile = "".join(f"<section>{answer._repr_html_()}</section>" for answer in HOSTILE.values())
    shown = nbformat.v4.new_output("display_data", {"text/html": hostile})
    notebook.cells.append(nbformat.v4.new_code_cell("hostile", outputs=[shown]))
    return notebook


@pytest.fixture(scope="module")
def pages(ran):
    """The notebook as HTML, by theme; without what nbconvert has from other hosts."""
    from nbconvert import HTMLExporter

    nothing = dict.fromkeys(["mathjax_url", "require_js_url", "jquery_url", "mermaid_js_url"], "")
    return {theme: HTMLExporter(theme=theme, **nothing).from_notebook_node(ran)[0] for theme in ("light", "dark")}


@pytest.fixture(params=["light", "dark"])
def opened(request, pages, browser_page):
    """The page. What asks another host, a dialogue, and a script that fails, fail the test: see `browser_page`."""
    browser_page.emulate_media(color_scheme=request.param)
    browser_page.set_content(pages[request.param])
    return request.param, browser_page


def luminance(color):
    parts = [value / 255 for value in color]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_every_cell_was_drawn_as_html(ran):
    drawn = [output.data.get("text/html", "") for cell in ran.cells[:-1] for output in cell.get("outputs", [])]
    assert sum('class="saeserve"' in html for html in drawn) == 9
    assert sum("dataframe" in html for html in drawn) == 2
    assert any("image/png" in output.data for cell in ran.cells for output in cell.get("outputs", []))
    written = [output.data.get("text/plain", "") for cell in ran.cells for output in cell.get("outputs", [])]
    assert any(text.startswith("<FeatureMatrix 4") for text in written)


def test_shades_differ_by_strength_and_can_be_read(opened, tmp_path):
    theme, page = opened
    page.screenshot(path=tmp_path / f"{theme}.png", full_page=True)
    searched = page.locator(".saeserve").nth(1)
    (ground,) = searched.evaluate_all(COLORS)
    assert (luminance(ground["background"]) < 0.1) == (theme == "dark")
    row = searched.locator("tbody tr", has_text="0-DEMO:248").locator(".t > *").evaluate_all(COLORS)
    weak, *_, strong = sorted(row, key=lambda one: float(one["title"]))
    assert float(weak["title"]) < 0.6 * float(strong["title"])
    assert contrast(weak["background"], strong["background"]) > 1.15
    assert contrast(ground["background"], strong["background"]) > 2
    shaded = page.locator(".saeserve [style^=background]").evaluate_all(COLORS)
    assert len(shaded) > 100
    assert min(contrast(one["background"], one["color"]) for one in shaded) >= 4.5


def test_notes_can_be_read_too(opened):
    _, page = opened
    note = page.locator(".saeserve p.d").first
    (colors,), opacity = note.evaluate_all(COLORS), float(note.evaluate("e => getComputedStyle(e).opacity"))
    faded = [a * opacity + b * (1 - opacity) for a, b in zip(colors["color"], colors["background"], strict=True)]
    assert contrast(faded, colors["background"]) >= 4.5


def test_values_stand_where_one_points(opened):
    _, page = opened
    titles = page.locator(".saeserve").nth(1).locator(".t [title]").evaluate_all("all => all.map(e => e.title)")
    assert "8.191" in titles
    assert all(re.fullmatch(r"\d+\.\d{3}", title) for title in titles)


def test_texts_stand_left_and_numbers_right(opened):
    """Whatever Jupyter's own style says of tables."""
    _, page = opened
    row = page.locator(".saeserve").nth(1).locator("tbody tr").first
    aligned = row.locator("td").evaluate_all("all => all.map(e => getComputedStyle(e).textAlign)")
    assert aligned == ["right", "left", "right", "left", "left", "left", "right", "left"]


def test_a_wide_answer_scrolls_in_itself(opened):
    _, page = opened
    page.set_viewport_size({"width": 420, "height": 800})
    boxes = page.locator(".saeserve").evaluate_all("all => all.map(e => [e.scrollWidth, e.clientWidth])")
    assert any(inner > outer for inner, outer in boxes)
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 1


def test_nothing_of_a_hostile_answer_is_run_or_turned_round(opened):
    _, page = opened
    sections = page.locator("section")
    assert sections.count() == len(HOSTILE)
    assert sections.locator("script, img, a, iframe, svg, form").count() == 0
    assert "<script>alert(1)</script>" in sections.first.inner_text()
    assert "\u202e" not in page.content()
