"""What a replica may have written: the answer is taken, and nothing that is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from google.protobuf.message import Message

from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1 import types_pb2 as types
from saeserve_server.api.build import dense_message, sparse_message
from saeserve_server.api.cached import reads_as_encode, reads_as_search
from saeserve_server.catalog import Catalog, Kind, ModelInfo, SourceInfo
from saeserve_server.ranking.work import Aggregate, EncodeWork, Projection, Ranking, SearchWork, SourceFilter
from saeserve_server.rows import Csr

MODEL = ModelInfo("m", 2, 8, 16, 100, None, "", "", "cpu", "float32")
CATALOG = Catalog(MODEL, tuple(SourceInfo(f"{n}-x", "x", n, Kind.LATENT, "hook", "standard", 8, 10) for n in range(2)))
POSITIONS = [1]
TOP = SearchWork((5, 6, 7), False, (SourceFilter(0), SourceFilter(1)), Aggregate.MAX, (0, 1, 2), 2, Ranking.RAW)
COUNTED = replace(TOP, ranking=Ranking.SURPRISAL)
EACH = SearchWork((5, 6, 7), True, (SourceFilter(0),), Aggregate.EACH, (1, 3), 2, Ranking.RAW)
ENCODE = EncodeWork((5, 6, 7), False, sources=(0, 1))
CHOSEN = EncodeWork((5, 6, 7), True, features=((1, 3), (0, 4)))
PROJECTED = EncodeWork((5, 6, 7), True, features=((1, 3), (0, 4)), projections=(Projection("hook", bytes(32), b"d"),))


def facts(source: str, index: int) -> types.FeatureFacts:
    return types.FeatureFacts(
        feature={"source": source, "index": index}, name="x", density=0.0, kind=types.FEATURE_KIND_LATENT
    )


def top() -> service.SearchResponse:
    def result(source: str, index: int) -> service.FeatureResult:
        return service.FeatureResult(facts=facts(source, index), value=2, activations=[0, 2, 1], max_position=1)

    return service.SearchResponse(
        results=[result("0-x", 9), result("1-x", 0)],
        sort_positions=POSITIONS,
        sources_considered=["0-x", "1-x"],
        features_considered=20,
    )


def counted() -> service.SearchResponse:
    found = top()
    for one in found.results:
        one.tokens_at_least = 1.5
    return found


def each() -> service.SearchResponse:
    def row(position: int, *features: int) -> service.TokenResult:
        return service.TokenResult(position=position, features=features, values=[2] * len(features), matches=[4, 4])

    return service.SearchResponse(
        token_results=[row(1, 0, 1), row(3, 1, 0)],
        features=[facts("0-x", 4), facts("0-x", 5)],
        sort_positions=POSITIONS,
        sources_considered=["0-x"],
        features_considered=10,
    )


def csr(indptr: list[int], indices: list[int], data: list[float], columns: int = 10) -> service.SparseActivations:
    return sparse_message("", Csr(np.array(indptr), np.array(indices, "u4"), np.array(data, "f4"), columns))


def sparse() -> service.EncodeResponse:
    return service.EncodeResponse(sparse=[csr([0, 2, 2, 3], [3, 9, 0], [1, 2, 3]), csr([0, 0, 0, 0], [], [])])


def dense() -> service.EncodeResponse:
    return service.EncodeResponse(dense=dense_message("", np.full((4, 2), -1, "f4")))


def projected() -> service.EncodeResponse:
    return service.EncodeResponse(dense=dense_message("", np.full((4, 3), -1, "f4")))


ANSWERS: dict[str, tuple[Callable[[], Message], Callable[[bytes], bool]]] = {
    "top": (top, lambda payload: reads_as_search(CATALOG, TOP, POSITIONS, payload)),
    "counted": (counted, lambda payload: reads_as_search(CATALOG, COUNTED, POSITIONS, payload)),
    "each": (each, lambda payload: reads_as_search(CATALOG, EACH, POSITIONS, payload)),
    "sparse": (sparse, lambda payload: reads_as_encode(CATALOG, ENCODE, payload)),
    "projected": (projected, lambda payload: reads_as_encode(CATALOG, PROJECTED, payload)),
    "dense": (dense, lambda payload: reads_as_encode(CATALOG, CHOSEN, payload)),
}


@pytest.mark.parametrize("which", ANSWERS)
def test_only_the_answer_to_the_question_reads_as_one(which: str) -> None:
    _, reads = ANSWERS[which]
    taken = [name for name, (make, _) in ANSWERS.items() if reads(make().SerializeToString())]
    assert taken == [which]


@pytest.mark.parametrize("which", ANSWERS)
def test_what_is_cut_or_carries_more_than_an_answer_does_not(which: str) -> None:
    make, reads = ANSWERS[which]
    payload = make().SerializeToString()
    assert [size for size in range(len(payload)) if reads(payload[:size])] == []
    for more in (
        b"\0",
        b"\xff",
        types.Token(id=1).SerializeToString(),  # field 1: the call's own
        b"\x92\x03\x01x",  # field 50, which nobody knows
        b"\x10\x00",  # field 2 as a number
    ):
        assert not reads(payload + more), more
        assert not reads(more), more
    assert not reads(bytes(100))
    assert not reads(b"nonsense" * 10)


def test_an_unknown_field_is_found_at_any_depth() -> None:
    make, reads = ANSWERS["top"]
    answer = make()
    inner = answer.results[0].facts.feature
    inner.MergeFromString(b"\x92\x03\x01x")
    assert not reads(answer.SerializeToString())


def change(make: Callable[[], Message], **changes: object) -> Message:
    """The answer with fields of its own, or of what it repeats, replaced: `results_value=0`."""
    answer = make()
    for name, value in changes.items():
        target, _, field = name.rpartition("__")
        owner = answer
        for part in filter(None, target.split("__")):
            owner = getattr(owner, part)
            owner = owner[0] if hasattr(owner, "append") else owner
        if isinstance(value, list):
            del getattr(owner, field)[:]
            getattr(owner, field).extend(value)
        else:
            setattr(owner, field, value)
    return answer


BAD: list[tuple[str, dict[str, object]]] = [
    ("top", {"sort_positions": [2]}),
    ("top", {"sources_considered": ["1-x", "0-x"]}),
    ("top", {"features_considered": 21}),
    ("top", {"features_considered": 1}),
    ("top", {"results": [top().results[0]] * 3}),
    ("top", {"results__activations": [1.0, 2.0]}),
    ("top", {"results__max_position": 3}),
    ("top", {"results__value": 0.0}),
    ("top", {"results__value": float("nan")}),
    ("top", {"results__match": 99}),
    ("top", {"results__facts__kind": 99}),
    ("top", {"results__facts__density_origin": 99}),
    ("top", {"results__facts__feature__index": 10}),
    ("top", {"results__facts__feature__source": "2-x"}),
    ("top", {"features": [facts("0-x", 1)]}),
    ("top", {"results__tokens_at_least": 2.0}),
    ("top", {"results__beyond_index": True}),
    ("top", {"results__facts__index_max_origin": 99}),
    ("counted", {"results__tokens_at_least": 0.5}),
    ("counted", {"results__tokens_at_least": float("nan")}),
    ("each", {"token_results": [each().token_results[0]]}),
    ("each", {"token_results__position": 2}),
    ("each", {"token_results__features": [0, 2]}),
    ("each", {"token_results__values": [1.0]}),
    ("each", {"token_results__matches": [1, 99]}),
    ("each", {"features__feature__index": 10}),
    ("each", {"results": [top().results[0]]}),
    ("sparse", {"sparse": [csr([0, 2, 2, 3], [3, 9, 0], [1, 2, 3])]}),
    ("sparse", {"sparse__source": "0-x"}),
    ("sparse", {"sparse__rows": 4}),
    ("sparse", {"sparse__columns": 11}),
    ("sparse", {"sparse__indptr": b"\0" * 31}),
    ("sparse", {"sparse__indptr": csr([0, 3, 2, 3], [], []).indptr}),
    ("sparse", {"sparse__indptr": csr([1, 2, 2, 3], [], []).indptr}),
    ("sparse", {"sparse__indptr": csr([0, 2, 2, 2**62], [], []).indptr}),
    ("sparse", {"sparse__indptr": csr([0, 2**62 + 1, -(2**62), 3], [], []).indptr}),
    ("sparse", {"sparse__indices": csr([0], [9, 3, 0], []).indices}),
    ("sparse", {"sparse__indices": csr([0], [3, 3, 0], []).indices}),
    ("sparse", {"sparse__indices": csr([0], [3, 10, 0], []).indices}),
    ("sparse", {"sparse__indices": csr([0], [3, 9], []).indices}),
    ("sparse", {"sparse__data": b"\0" * 11}),
    ("sparse", {"sparse__data": csr([0], [], [1, 2]).data}),
    ("sparse", {"sparse__data": csr([0], [], [1, 0, 1]).data}),
    ("sparse", {"sparse__data": csr([0], [], [1, np.nan, 1]).data}),
    ("dense", {"dense__rows": 3}),
    ("dense", {"dense__columns": 3}),
    ("dense", {"dense__source": "3"}),
    ("dense", {"dense__data": b"\0" * 31}),
]


@pytest.mark.parametrize(("which", "changes"), BAD, ids=lambda value: str(value)[:50])
def test_a_wrong_shape_is_no_answer(which: str, changes: dict[str, object]) -> None:
    make, reads = ANSWERS[which]
    assert reads(make().SerializeToString())
    assert not reads(change(make, **changes).SerializeToString())


def test_an_answer_in_which_nothing_fires_is_one() -> None:
    for work, sources in ((TOP, ["0-x", "1-x"]), (EACH, ["0-x"])):
        nothing = service.SearchResponse(sources_considered=sources, sort_positions=POSITIONS)
        assert reads_as_search(CATALOG, work, POSITIONS, nothing.SerializeToString())
