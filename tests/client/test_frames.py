"""Answers as tables: the same columns and rows in every library, and one matrix of many texts."""

from __future__ import annotations

import re
import sys

import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pytest
import scipy.sparse

import saeserve
from saeserve.answers import reading
from saeserve.v1 import feature_service_pb2 as service
from tests.client import fake
from tests.client.test_notebook import PLAIN

TABLES = [
    "SearchResult",
    "by token",
    "EncodeResult",
    "EncodedText",
    "sparse",
    "Comparison",
    "TopActivations",
    "SimilarFeatures",
    "Contrast",
    "ExplanationSearch",
    "MatchTable",
    "SourceList",
    "TokenizeResult",
]
RED, TEXTS = "My favorite color is red.", ["My favorite color is red.", "Blue.", "She wore a crimson dress."]


def plain(value):
    """A cell as Python has it; None where nothing is known."""
    if isinstance(value, list | np.ndarray):
        return [plain(one) for one in value]
    return None if value is None or value is pd.NA or value != value else value


@pytest.mark.parametrize("kind", TABLES)
def test_every_library_has_the_same_table(kind):
    answer = PLAIN[kind]
    pandas, frame, arrow = answer.to_pandas(), answer.to_polars(), answer.to_arrow()
    assert list(pandas.columns) == frame.columns == arrow.column_names
    assert len(pandas) == len(frame) == arrow.num_rows > 0
    for name in frame.columns:
        columns = pandas[name], frame[name].to_list(), arrow[name].to_pylist()
        one, *others = ([plain(cell) for cell in column] for column in columns)
        assert others == [one, one], name


def test_a_hit_a_row():
    frame = PLAIN["SearchResult"].to_polars()
    assert frame.columns[:4] == ["rank", "feature", "value", "max_activation"]
    assert frame["feature"].to_list() == ["0-DEMO:1633", "2:553"]
    assert frame.select("token", "match", "kind", "layer").row(0) == (" red", "exact", "latent", 0)
    assert frame["usual_tokens"].to_list() == [[" red"], [" red"]]
    assert frame["explanation"].to_list() == ["colours", None]


def test_an_answer_without_a_row_has_its_columns_and_types():
    nothing = reading.search(service.SearchResponse(tokens=fake.tokens()))
    full = PLAIN["SearchResult"]
    assert nothing.to_polars().schema == full.to_polars().schema
    assert nothing.to_arrow().schema == full.to_arrow().schema
    assert nothing.to_pandas().dtypes.to_dict() == full.to_pandas().dtypes.to_dict()
    assert len(nothing.to_pandas()) == 0


def test_types_are_those_that_columns_say():
    schema = PLAIN["EncodeResult"].to_arrow().schema
    assert schema.field("0-DEMO:7").type == pa.float32()
    assert schema.field("text").type == pa.int64()
    assert PLAIN["SimilarFeatures"].to_pandas()["positions"].dtype == "Int64"
    assert PLAIN["TopActivations"].to_polars().schema["activations"] == polars.List(polars.Float32)


def test_chosen_features_are_columns_and_every_token_a_row(demo):
    encoded = demo.encode(TEXTS, features=["0-DEMO:1633", "2:5"])
    frame = encoded.to_pandas()
    assert list(frame.columns) == ["text", "position", "token", "0-DEMO:1633", "2:5"]
    np.testing.assert_array_equal(frame[["0-DEMO:1633", "2:5"]].to_numpy(), encoded.dense)
    assert frame["text"].tolist() == [number for number, one in enumerate(encoded) for _ in one.tokens]
    assert frame[frame["0-DEMO:1633"] > 5]["token"].tolist() == [" red", " crimson"]
    own = encoded[2].to_pandas()
    assert own.equals(frame[frame["text"] == 2].drop(columns="text").reset_index(drop=True))


def test_of_whole_sources_each_value_is_a_row(demo):
    encoded = demo.encode(TEXTS, sources=["1-demo", "0-demo"])
    frame = encoded.to_polars()
    assert len(frame) == sum(csr.nnz for csr in encoded.sparse.values())
    assert frame.columns == ["text", "position", "token", "feature", "source", "index", "activation"]
    assert frame.select("text", "position").rows() == sorted(frame.select("text", "position").rows())
    dense = np.zeros((encoded.text_offsets[-1], 2, 2048), np.float32)
    for row in frame.iter_rows(named=True):
        place = encoded.text_offsets[row["text"]] + row["position"]
        dense[place, ["1-demo", "0-demo"].index(row["source"]), row["index"]] = row["activation"]
        assert row["feature"] == f"{row['source'].upper()}:{row['index']}"
        assert row["token"] == encoded[row["text"]].tokens[row["position"]].display
    np.testing.assert_array_equal(dense[:, 0], encoded.sparse["1-demo"].toarray())
    np.testing.assert_array_equal(dense[:, 1], encoded.sparse["0-demo"].toarray())


def test_with_omit_tokens_there_are_rows_without_tokens(demo):
    frame = demo.encode(TEXTS, features="0-DEMO:1633", omit_tokens=True).to_polars()
    assert frame["token"].null_count() == len(frame) > 10


def test_a_comparison_has_a_row_for_each_token_of_each_text(demo):
    compared = demo.compare("0-DEMO:1633", [RED, "My favorite color is really crimson."])
    frame = compared.to_pandas()
    assert len(frame) == sum(len(one.tokens) for one in compared.texts)
    table = compared.activations("0-DEMO:1633")
    for _, row in frame.iterrows():
        assert row["activation"] == table[row["row"], row["text"]]
        assert row["differs"] == compared.differs(row["row"])


def test_records_have_their_windows(demo):
    page = demo.top_activations("0-DEMO:1633", page_size=3)
    for record, row in zip(page, page.to_polars().iter_rows(named=True), strict=True):
        assert row["text"] == record.text
        assert row["tokens"][row["max_position"]] == row["token"]
        assert row["activations"] == record.activations.tolist()


def test_a_matrix_of_all_texts_has_names_for_rows_and_columns(demo):
    encoded = demo.encode(TEXTS, sources=["0-demo", "1-demo"], include_bos=True)
    matrix = encoded.to_scipy()
    assert isinstance(matrix.csr, scipy.sparse.csr_array)
    assert matrix.csr.shape == matrix.shape == (encoded.text_offsets[-1], 4096)
    for start, source in ((0, "0-demo"), (2048, "1-demo")):
        part = matrix.csr[:, start : start + 2048].toarray()
        np.testing.assert_array_equal(part, encoded.sparse[source].toarray())
    assert [matrix.feature(column) for column in (0, 2047, 2048, -1)] == [
        saeserve.FeatureName(*one) for one in (("0-demo", 0), ("0-demo", 2047), ("1-demo", 0), ("1-demo", 2047))
    ]
    assert matrix.column("1-DEMO:3") == 2051
    assert matrix.names[2051] == "1-DEMO:3"
    with pytest.raises(KeyError):
        matrix.column("2-demo:3")
    with pytest.raises(IndexError):
        matrix.feature(4096)
    firing = np.flatnonzero(matrix.csr[:, [matrix.column("0-DEMO:1633")]].toarray())
    where = {(matrix.text[row], matrix.token[row]) for row in firing}
    assert {(0, " red"), (2, " crimson")} <= where
    assert matrix.is_bos.tolist() == [place == 0 for one in encoded for place in range(len(one.tokens))]


@pytest.mark.parametrize("how", ["max", "mean", "sum"])
def test_texts_are_pooled_over_their_tokens_without_bos(demo, how):
    encoded = demo.encode(TEXTS, sources="0-demo", include_bos=True)
    expected = [getattr(np, how)(one.sparse["0-demo"].toarray()[1:], axis=0) for one in encoded]
    np.testing.assert_allclose(encoded.to_scipy().by_text(how).toarray(), expected, rtol=1e-5)


def test_of_negative_values_the_largest_is_the_largest(demo):
    matrix = demo.encode(TEXTS, features=["2:5", "0-DEMO:1633"]).to_scipy()
    expected = [matrix.csr[matrix.text == text].toarray().max(axis=0) for text in range(3)]
    assert (matrix.csr.data < 0).any()
    np.testing.assert_array_equal(matrix.by_text().toarray(), expected)
    with pytest.raises(ValueError, match="none of max, mean and sum"):
        matrix.by_text("median")


def test_a_stream_is_collected_in_the_order_of_the_texts(demo):
    whole = demo.encode(TEXTS, sources="0-demo").to_scipy()
    texts = [TEXTS[0], "", *TEXTS[1:]]
    with pytest.raises(saeserve.InvalidArgument, match="empty"):
        saeserve.collect(demo.encode_stream(texts, sources="0-demo"))
    items = list(demo.encode_stream(texts, sources="0-demo"))
    matrix = saeserve.collect(reversed(items), skip_errors=True)
    np.testing.assert_allclose(matrix.csr.toarray(), whole.csr.toarray(), atol=1e-4)
    assert matrix.texts.tolist() == [0, 2, 3]
    assert matrix.token.tolist() == whole.token.tolist()
    assert matrix.by_text().shape == (3, 2048)
    size = f"{len(whole.text)} tokens × 2,048 features of 3 texts"
    assert repr(matrix) == f"<FeatureMatrix {size}, {matrix.csr.nnz} values>"


def test_whole_neuron_sources_and_chosen_features_are_collected_too(demo):
    matrix = saeserve.collect(demo.encode_stream(TEXTS, sources=["0-demo", "2"]))
    assert matrix.shape[1] == 2048 + 512
    chosen = saeserve.collect(demo.encode_stream(TEXTS, features=["2:7", "0-demo:1633"]))
    columns = [matrix.column("2:7"), matrix.column("0-demo:1633")]
    np.testing.assert_allclose(chosen.csr.toarray(), matrix.csr[:, columns].toarray(), atol=1e-4)
    assert chosen.names.tolist() == ["2:7", "0-DEMO:1633"]


def test_what_does_not_fit_together_is_no_matrix(demo):
    with pytest.raises(ValueError, match="no text that was encoded"):
        saeserve.collect([])
    one, other = (next(iter(demo.encode_stream(["red"], sources=source))) for source in ("0-demo", "1-demo"))
    other = saeserve.StreamItem(1, other.call_info, other.result, None)
    with pytest.raises(ValueError, match="different features"):
        saeserve.collect([one, other])


@pytest.mark.parametrize(
    ("package", "extra", "call"),
    [
        ("pandas", "pandas", lambda: PLAIN["SearchResult"].to_pandas()),
        ("polars", "polars", lambda: PLAIN["SearchResult"].to_polars()),
        ("pyarrow", "arrow", lambda: PLAIN["SearchResult"].to_arrow()),
        ("scipy", "scipy", lambda: PLAIN["sparse"].to_scipy()),
        ("scipy", "scipy", lambda: saeserve.collect([])),
        ("matplotlib", "plot", lambda: PLAIN["SearchResult"].plot()),
    ],
)
def test_what_is_missing_is_told_with_what_to_install(package, extra, call, monkeypatch):
    for loaded in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, package, None)  # how Python marks what is not to be imported
    with pytest.raises(ImportError, match=re.escape(f'pip install "saeserve[{extra}]"')):
        call()
