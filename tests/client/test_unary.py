"""Every unary method, over both clients: what is sent, and what comes back."""

import numpy as np
import pytest

import saeserve
from saeserve import Csr, FeatureName, Kind, Match
from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1 import types_pb2 as wire
from tests.client.fake import PIECES, TEXT, sparse, tokens


def test_search_returns_typed_hits(client, fake):
    result = client.search(TEXT)
    assert [str(found.name) for found in result] == ["0-DEMO:1633", "2:553"]
    assert [token.piece for token in result.tokens] == PIECES
    first, second = result.results
    assert first.activations.dtype == np.float32
    assert first.activations.tolist() == [0, 0, 1.5, 0, 4.25, 0]
    assert not first.activations.flags.writeable
    assert (first.max_position, first.match, first.feature.kind) == (4, Match.EXACT, Kind.LATENT)
    assert (second.match, second.feature.kind, second.feature.layer) == (Match.NONE, Kind.NEURON, 2)
    assert str(first.feature.usual_tokens[0].token) == " red"
    assert result.features_considered == 2560
    assert result.call_info.request_id == fake.seen[0].metadata["x-request-id"]
    with pytest.raises(AttributeError):
        first.value = 3.0


def test_search_sends_what_was_asked(client, fake):
    client.search(
        TEXT,
        kinds="all",
        sets="Demo",
        sources=["0-DEMO", "2"],
        layers="1-3,5",
        features=["0-DEMO:1", FeatureName("2", 3)],
        exclude_layers=[0, range(2, 4)],
        exclude_features="2:4",
        min_density=0.0,
        max_density=0.25,
        sort=["red", 0],
        ranking="relative",
        min_fires=0,
        limit=5,
        include_bos=True,
        truncate=True,
        model="demo",
    )
    expected = service.SearchRequest(
        model="demo",
        input=wire.Input(text=TEXT),
        filter=service.Filter(
            include=service.FeatureSelector(
                kinds=[wire.FEATURE_KIND_LATENT, wire.FEATURE_KIND_NEURON],
                sets=["demo"],
                sources=["0-demo", "2"],
                layers=[service.LayerRange(first=1, last=3), service.LayerRange(first=5, last=5)],
                features=[wire.FeatureId(source="0-demo", index=1), wire.FeatureId(source="2", index=3)],
            ),
            exclude=service.FeatureSelector(
                layers=[service.LayerRange(first=0, last=0), service.LayerRange(first=2, last=3)],
                features=[wire.FeatureId(source="2", index=4)],
            ),
            min_density=0.0,
            max_density=0.25,
        ),
        sort_tokens=[service.SortToken(text="red"), service.SortToken(position=0)],
        ranking=service.RANKING_RELATIVE_TO_MAX,
        min_fires=0,
        limit=5,
        include_bos=True,
        truncate=True,
    )
    assert fake.seen[0].request == expected


def test_a_plain_search_leaves_everything_unset(client, fake):
    client.search(ids=[1, 2])
    request = fake.seen[0].request
    assert list(request.input.token_ids.ids) == [1, 2]
    for field in ("filter", "limit", "min_fires"):
        assert not request.HasField(field)


def test_search_by_token_joins_features_and_tokens(client):
    result = client.search(TEXT, by_token=True)
    assert len(result.token_results) == len(PIECES)
    row = result.token_results[4]
    assert str(row.token) == " red"
    assert [str(feature) for feature in row.features] == ["2:553", "0-DEMO:1633"]
    assert row.values.tolist() == [4.25, 1.5]
    assert row.matches == (Match.EXACT, Match.NONE)
    assert row.features[0].density is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"text": "a", "ids": [1]}, "either a text or token ids"),
        ({}, "either a text or token ids"),
        ({"text": "a", "layers": "3-1"}, "no range"),
        ({"text": "a", "layers": "x"}, "no layer"),
        ({"text": "a", "layers": -1}, "no range"),
        ({"text": "a", "kinds": "latents"}, "none of latent, neuron, all"),
        ({"text": "a", "sources": []}, "sources names nothing"),
        ({"text": "a", "features": "0-DEMO"}, "no feature name"),
        ({"text": "a", "ranking": "best"}, "none of 'raw', 'relative' and 'surprisal'"),
        ({"text": "a", "limit": 2**40}, "range"),
        ({"ids": [-1]}, "range"),
    ],
)
def test_what_the_wire_cannot_carry_is_a_value_error(client, fake, arguments, words):
    with pytest.raises(ValueError, match=words):
        client.search(**arguments)
    assert fake.seen == []


def test_excluding_nothing_is_fine(client, fake):
    client.search("a", exclude_sources=[], exclude_layers=())
    assert not fake.seen[0].request.HasField("filter")


def test_encode_chosen_features_is_dense_in_their_order(client):
    result = client.encode([TEXT, TEXT], features=["2:553", "0-DEMO:1633"])
    assert result.dense.shape == (2 * len(PIECES), 2)
    assert result.text_offsets == (0, 6, 12)
    assert result[1].dense.shape == (6, 2)
    assert result[0].dense[0].tolist() == [-0.5, -0.5]
    np.testing.assert_array_equal(result.column("0-demo:1633"), result.dense[:, 1])
    assert [token.piece for token in result[1].tokens] == PIECES
    with pytest.raises(KeyError):
        result.column("0-DEMO:1")


def test_encode_sources_is_sparse(client):
    result = client.encode(TEXT, sources="0-DEMO")
    csr = result.sparse["0-demo"]
    assert isinstance(csr, Csr)
    assert (csr.shape, csr.nnz, len(csr)) == ((6, 8), 2, 6)
    array = csr.toarray()
    assert array[4].tolist() == pytest.approx([0, 0, 0.1, 0, 0, 2.5, 0, 0])
    assert np.count_nonzero(array) == 2
    np.testing.assert_array_equal(result.column("0-demo:5"), array[:, 5])
    assert result.texts[0].dense is None


def test_encode_takes_token_ids_and_refuses_a_bare_list_of_them(client, fake):
    client.encode([[1, 2], "three"], features="2:1", omit_tokens=True)
    assert [sent.WhichOneof("input") for sent in fake.seen[0].request.inputs] == ["token_ids", "text"]
    with pytest.raises(TypeError, match="token ids"):
        client.encode([1, 2], features="2:1")


def test_pages_of_records_and_all_of_them(client, fake):
    page = client.top_activations("0-DEMO:1633", page_size=2)
    assert [record.max_activation for record in page] == [4.5, 3.5]
    assert page.records[0].text == " the red\n door"
    assert page.statistics.histogram[0].count == 8
    assert page.next_page_token == "2"
    records = list(client.iter_top_activations(page.feature, page_size=2))
    assert [record.text_index for record in records] == [0, 1, 2, 3, 4]
    assert [seen.request.page_token for seen in fake.seen] == ["", "", "2", "4"]


def test_sources_are_found_by_id_name_and_alias(client):
    sources = client.list_sources()
    assert [source.id for source in sources] == ["0-demo", "2"]
    assert sources["0-DEMO"] is sources["Demo0"] is sources[0]
    assert sources[0].dead_features == 0
    assert sources[1].dead_features is None
    assert [source.bos_id for source in sources] == [0, None]
    with pytest.raises(KeyError):
        sources["9"]


def test_feature_tokenize_and_info(client):
    info = client.get_feature("0-demo:1633")
    assert (info.dead, info.decoder_norm, info.source.name) == (False, 1.25, "0-DEMO")
    assert info.statistics.fires == 10
    tokenized = client.tokenize(TEXT)
    assert tokenized.ids == (100, 101, 102, 103, 104, 105)
    assert tokenized.offsets[4].tolist() == [20, 24]
    assert tokenized.bos_id == 0
    server = client.server_info()
    assert (server.model.name, server.index, server.limits.max_limit) == ("demo", None, 1000)


def test_a_newer_server_s_enum_values_are_unknown(client, fake):
    fake.answers["ListSources"] = service.ListSourcesResponse(sources=[wire.Source(id="0-x", kind=17)])
    assert client.list_sources()[0].kind is Kind.UNKNOWN


@pytest.mark.parametrize(
    ("method", "answer", "ask"),
    [
        (
            "Encode",
            service.EncodeResponse(texts=[service.EncodedText()], text_offsets=[0, 3], dense={"rows": 2, "columns": 1}),
            lambda client: client.encode("a", features="2:1"),
        ),
        (
            "Encode",
            service.EncodeResponse(
                texts=[service.EncodedText()],
                text_offsets=[0, 2],
                sparse=[service.SparseActivations(source="0-a", rows=2, columns=1, indptr=b"1234567")],
            ),
            lambda client: client.encode("a", sources="0-a"),
        ),
        (
            "Search",
            service.SearchResponse(
                tokens=tokens(),
                results=[service.FeatureResult(facts={"feature": {"source": "2"}}, activations=[1.0])],
            ),
            lambda client: client.search("a"),
        ),
    ],
)
def test_an_answer_that_does_not_fit_together_is_refused(client, fake, method, answer, ask):
    fake.answers[method] = answer
    with pytest.raises(saeserve.Internal) as raised:
        ask(client)
    assert raised.value.reason == "MALFORMED_ANSWER"


def test_csr_rows_slices_and_columns_agree_with_the_dense_array():
    rng = np.random.default_rng(0)
    array = (rng.random((9, 7)) * (rng.random((9, 7)) < 0.3)).astype(np.float32)
    block = sparse("0-a", array)
    csr = Csr.from_buffers((9, 7), block.indptr, block.indices, block.data)
    np.testing.assert_array_equal(csr.toarray(), array)
    for cut in (slice(2, 5), slice(0, 0), slice(-3, None), slice(8, 2), slice(None)):
        np.testing.assert_array_equal(csr[cut].toarray(), array[cut])
    for feature in range(7):
        np.testing.assert_array_equal(csr.column(feature), array[:, feature])
    indices, values = csr.row(-1)
    np.testing.assert_array_equal(array[-1][indices], values)
    joined = Csr.concatenate([csr[:4], csr[4:4], csr[4:]])
    np.testing.assert_array_equal(joined.toarray(), array)
    with pytest.raises(IndexError):
        csr.row(9)
    with pytest.raises(ValueError, match="step"):
        csr[::2]
