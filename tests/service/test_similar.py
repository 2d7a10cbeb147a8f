"""Features like one, asked of a server on the demo."""

import numpy as np
import pytest

import saeserve
from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1 import types_pb2 as types
from saeserve.v1.feature_service_pb2_grpc import FeatureServiceStub
from tests.service.wire import TIMEOUT, refused

FEATURE = types.FeatureId(source="0-demo", index=1633)


@pytest.mark.parametrize("by", ["decoder", "encoder", "firing", "records"])
def test_values_fall_ties_are_in_order_and_the_feature_itself_is_not_there(demo: saeserve.Client, by: str) -> None:
    rank = {source.id: place for place, source in enumerate(demo.list_sources())}
    for feature in ("0-DEMO:1633", "2:53"):
        found = demo.similar(feature, by=by, limit=40)
        keys = [(-one.value, rank[one.name.source], one.name.index) for one in found]
        assert keys == sorted(keys)
        assert str(found.feature) == feature not in {str(one.name) for one in found}
        assert found.features_compared == 4 * (2048 + 512) - 1
        assert found.space == ("residual stream, 128 wide" if by in ("decoder", "encoder") else "")


def test_sketches_agree_with_the_exact_rows_of_sampled_positions(demo: saeserve.Client) -> None:
    """Between latents and neurons too, of whose hashes other bits are kept."""
    for one in [*demo.similar("2-DEMO:875", by="firing", limit=3), *demo.similar("2:92", by="firing", limit=5)]:
        assert one.positions is not None
        assert one.contained is not None
        assert one.contains is not None
        assert (one.interval is None) is (one.positions < 16)
        if one.interval is not None:
            low, high = one.interval
            assert low <= one.value <= high
            assert one.value == pytest.approx(1 / (1 / one.contained + 1 / one.contains - 1), abs=0.2)


def test_records_overlap_as_those_of_top_activations_do(demo: saeserve.Client) -> None:
    def blocks(feature: str) -> set[tuple[int, int]]:
        context = demo.server_info().index.context
        return {
            (r.text_index, (r.text_position + r.max_position) // context) for r in demo.iter_top_activations(feature)
        }

    own = blocks("0-DEMO:1633")
    for one in demo.similar("0-DEMO:1633", by="records", limit=5):
        theirs = blocks(str(one.name))
        assert one.value == pytest.approx(len(own & theirs) / len(own | theirs), abs=1e-6)
        assert one.positions == len(own | theirs)


def test_a_filter_chooses_among_which_to_look(demo: saeserve.Client) -> None:
    found = demo.similar("0-DEMO:1633", kinds="neuron", layers="1-2", exclude_features="1:3", limit=1000)
    assert found.features_compared == 2 * 512 - 1
    assert {(one.feature.layer, one.feature.kind) for one in found} == {(1, "neuron"), (2, "neuron")}
    dense = demo.similar("0-DEMO:1633", max_density=0.01, limit=50)
    assert all(one.feature.density <= 0.01 for one in dense)


def test_the_same_is_answered_whoever_asks_at_the_same_time(demo: saeserve.Client) -> None:
    from concurrent.futures import ThreadPoolExecutor

    features = [f"{layer}-DEMO:{index}" for layer in range(4) for index in (7, 300)]
    alone = [[(str(one.name), one.value) for one in demo.similar(feature)] for feature in features]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(demo.similar, features))
    assert [[(str(one.name), one.value) for one in found] for found in together] == alone


@pytest.mark.parametrize(
    ("request_", "code", "reason", "field"),
    [
        (service.SimilarFeaturesRequest(), "INVALID_ARGUMENT", "INVALID_REQUEST", "feature.source"),
        (service.SimilarFeaturesRequest(feature=FEATURE, by=9), "INVALID_ARGUMENT", "INVALID_REQUEST", "by"),
        (service.SimilarFeaturesRequest(feature=FEATURE, limit=0), "INVALID_ARGUMENT", "INVALID_REQUEST", "limit"),
        (service.SimilarFeaturesRequest(feature=FEATURE, limit=1001), "INVALID_ARGUMENT", "INVALID_REQUEST", "limit"),
        (service.SimilarFeaturesRequest(feature=FEATURE, model="x"), "NOT_FOUND", "MODEL_NOT_FOUND", ""),
        (
            service.SimilarFeaturesRequest(feature=types.FeatureId(source="0-demo", index=5000)),
            "NOT_FOUND",
            "FEATURE_NOT_FOUND",
            "",
        ),
    ],
)
def test_what_is_wrong_is_refused(
    stub: FeatureServiceStub, request_: service.SimilarFeaturesRequest, code: str, reason: str, field: str
) -> None:
    refusal = refused(lambda: stub.SimilarFeatures(request_, timeout=TIMEOUT))
    assert (refusal.code.name, refusal.reason) == (code, reason)
    assert not field or field in refusal.fields


def test_a_feature_that_never_fired_has_nothing_in_common_with_others(demo: saeserve.Client) -> None:
    dead = next(index for index in range(2048) if demo.get_feature(f"0-DEMO:{index}").dead)
    assert len(demo.similar(f"0-DEMO:{dead}", by="firing")) == 0
    assert len(demo.similar(f"0-DEMO:{dead}", by="decoder")) == 10
    assert np.isfinite([one.value for one in demo.similar(f"0-DEMO:{dead}")]).all()
