"""Answers as pictures: what is drawn where, into whose axes."""

from __future__ import annotations

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

from saeserve.answers import reading
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
