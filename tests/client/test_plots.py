"""Answers as pictures: what is drawn where, into whose axes."""

from __future__ import annotations

from dataclasses import replace

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

from saeserve.answers import reading
from saeserve.answers.activations import Csr
from saeserve.v1 import feature_service_pb2 as service
from tests.client import fake
from tests.client.test_notebook import HOSTILE, PLAIN


@pytest.fixture
def ax():
    figure, made = plt.subplots()
    yield made
    plt.close(figure)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def drawn(ax):
    """Values [features, tokens] of a heat map."""
    (image,) = ax.images
    return image.get_array()


@pytest.mark.parametrize("kind", ["SearchResult", "by token", "EncodeResult", "EncodedText", "sparse", "Comparison"])
def test_a_heat_map_goes_into_the_axes_given_or_new_ones(kind, ax):
    assert PLAIN[kind].plot(ax=ax) is ax
    assert len(ax.figure.axes) == 2  # with its colour bar
    new = PLAIN[kind].plot()
    assert new is not ax
    assert labels(new.yaxis) == labels(ax.yaxis)


def test_a_search_is_drawn_hit_by_hit(ax):
    found = PLAIN["SearchResult"]
    found.plot(ax=ax)
    assert labels(ax.yaxis) == ["0-DEMO:1633", "2:553"]
    assert labels(ax.xaxis) == ["My", "·favorite", "·color", "·is", "·red", "."]
    np.testing.assert_array_equal(drawn(ax), [hit.activations for hit in found])
    assert found.plot(limit=1).images[0].get_array().shape == (1, 6)


def test_by_token_what_is_not_known_is_left_blank(ax):
    PLAIN["by token"].plot(ax=ax)
    values = drawn(ax)
    assert labels(ax.yaxis) == ["2:553", "0-DEMO:1633"]
    assert values.mask.sum() == 10
    assert values[:, 4].tolist() == [4.25, 1.5]


def test_texts_of_an_encode_stand_side_by_side(ax):
    encoded = PLAIN["EncodeResult"]
    encoded.plot(ax=ax)
    np.testing.assert_array_equal(drawn(ax), encoded.dense.T)
    assert [line.get_xdata()[0] for line in ax.lines] == [5.5]
    low, high = ax.images[0].get_clim()
    assert low == -high  # negative values: blue and red round 0


def test_of_whole_sources_the_strongest_are_drawn(ax):
    PLAIN["sparse"].plot(ax=ax, limit=1)
    assert labels(ax.yaxis) == ["0-DEMO:5"]
    assert drawn(ax).max() == 2.5


def test_a_comparison_has_a_row_for_each_feature_and_text(ax):
    PLAIN["Comparison"].plot(ax=ax)
    assert labels(ax.yaxis) == ["0-DEMO:7 A", "0-DEMO:7 B", "2:8 A", "2:8 B"]


@pytest.mark.parametrize(("kind", "what"), [("SearchResult", "activation"), ("by token", "value")])
def test_the_colour_bar_says_what_the_colour_is(kind, what, ax):
    PLAIN[kind].plot(ax=ax)
    assert ax.figure.axes[1].get_ylabel() == what


def with_bos(kind):
    """An answer in which one feature has 100 on the BOS, and the other 2 on a token."""
    plain = PLAIN["EncodedText" if kind == "neurons" else kind]
    values = np.zeros((6, 2), np.float32)
    values[0, 0], values[4, 1] = 100, 2
    if kind == "SearchResult":
        hits = [replace(hit, activations=column) for hit, column in zip(plain, values.T, strict=True)]
        return replace(plain, bos_included=True, results=tuple(hits))
    if kind == "by token":
        row, number = plain.token_results[4], np.float32
        bos = replace(row, position=0, features=row.features[1:], values=np.array([100], number))
        red = replace(row, features=row.features[:1], values=np.array([2], number))
        return replace(plain, bos_included=True, token_results=(bos, red))
    text = PLAIN["EncodedText"]
    if kind == "sparse":
        csr = Csr((6, 2), np.array([0, 1, 1, 1, 1, 2, 2]), np.array([0, 1], np.uint32), np.array([100, 2], np.float32))
        return replace(text, bos_included=True, features=(), dense=None, sparse={"0-demo": csr})
    if kind == "neurons":
        return replace(text, bos_included=True, features=(), dense=None, neurons={"2": values})
    return replace(text, bos_included=True, dense=values)


@pytest.mark.parametrize("kind", ["SearchResult", "by token", "EncodedText", "sparse", "neurons"])
def test_a_bos_takes_the_colour_from_no_text(kind, ax):
    with_bos(kind).plot(ax=ax)
    assert drawn(ax)[:, 4].max() == 2
    assert ax.images[0].get_clim() == (0, 2)


@pytest.mark.parametrize(("kind", "chosen"), [("by token", "2:553"), ("sparse", "0-DEMO:1"), ("neurons", "2:1")])
def test_a_bos_chooses_no_feature(kind, chosen, ax):
    with_bos(kind).plot(ax=ax, limit=1)
    assert labels(ax.yaxis) == [chosen]


def test_the_profile_counts_features_or_sums_values_by_layer(ax):
    found = PLAIN["SearchResult"]
    assert found.plot_layers(ax=ax) is ax
    assert [bar.get_height() for bar in ax.patches] == [1, 0, 0, 0, 0, 1]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["latents", "neurons"]
    summed = found.plot_layers(of="value")
    assert [bar.get_height() for bar in summed.patches] == [4.25, 0, 0, 0, 0, 0.5]
    assert len(PLAIN["by token"].plot_layers().patches) == 6
    with pytest.raises(ValueError, match="neither 'features' nor 'value'"):
        found.plot_layers(of="layers")


@pytest.mark.parametrize("kind", ["TopActivations", "FeatureInfo", "Statistics"])
def test_a_histogram_has_a_bar_for_each_bin(kind, ax):
    assert PLAIN[kind].plot(ax=ax) is ax
    bars = [(bar.get_x(), bar.get_width(), bar.get_height()) for bar in ax.patches]
    assert bars == [(1, 1, 8), (2, 2, 2)]
    assert ax.get_title() == ("" if kind == "Statistics" else "0-DEMO:1633")


def test_a_match_table_is_drawn_text_by_text(ax):
    table = PLAIN["MatchTable"]
    assert table.plot(ax=ax) is ax
    assert ax.get_title() == "a text"
    assert table.plot(text=1).get_title() == "b"
    with pytest.raises(IndexError):
        table.plot(text=2)


@pytest.mark.filterwarnings("ignore:constrained_layout")  # names so long leave no room
@pytest.mark.parametrize("kind", ["SearchResult", "by token", "EncodeResult", "Comparison", "MatchTable"])
def test_a_hostile_text_is_drawn_as_it_reads(kind, tmp_path):
    axes = HOSTILE[kind].plot()
    axes.figure.savefig(tmp_path / "out.svg")
    assert "<script" not in (tmp_path / "out.svg").read_text()


def test_a_dollar_is_no_formula(tmp_path):
    answer = fake.search_answer(service.SearchRequest())
    for token in answer.tokens:
        token.display = "$x_$"
    axes = reading.search(answer).plot()
    axes.figure.savefig(tmp_path / "out.png")
    assert labels(axes.xaxis)[0] == "$x_$"


def test_where_there_is_nothing_to_draw_that_is_said():
    nothing = reading.search(service.SearchResponse(tokens=fake.tokens()))
    for draw in (nothing.plot, nothing.plot_layers, fake_statistics().plot):
        with pytest.raises(ValueError, match="nothing to draw"):
            draw()
    with pytest.raises(ValueError, match="limit"):
        PLAIN["SearchResult"].plot(limit=0)


def fake_statistics():
    empty = fake.top_answer(service.TopActivationsRequest(feature={"source": "0-demo", "index": 1}))
    empty.statistics.ClearField("histogram")
    return reading.top_activations(empty).statistics


def test_the_demo_is_drawn(demo):
    axes = demo.search("My favorite color is red.", kinds="all", limit=40).plot()
    assert drawn(axes).shape == (25, 7)
    assert demo.get_feature("0-DEMO:1633").plot().patches
