"""Answers that are joined out of bytes: byte for byte what protobuf's own serialiser makes of the same answer."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1 import types_pb2 as types
from saeserve_server.api import wire
from saeserve_server.api.build import FactsBuilder
from saeserve_server.api.cached import SEARCH_FIELDS
from saeserve_server.api.results import results, token_results
from saeserve_server.api.texts import shown_of
from saeserve_server.ranking.work import Aggregate, Ranked, Ranking, SearchDone, SearchWork
from saeserve_server.records.surprisal import Surprisal
from saeserve_server.text.tokenizer import Token, TokenizedText

BOS = 9
HEAD, TEXT, FLAGS = {"call_info"}, {"tokens"}, {"bos_included", "truncated"}
"""The parts of a SearchResponse that stand before what is cached, in their order."""


class Facts:
    """Facts and matches that follow from the numbers."""

    def facts(self, rank: int, index: int) -> bytes:
        return wire.sized(self.message(rank, index).SerializeToString())

    def message(self, rank: int, index: int) -> types.FeatureFacts:
        return types.FeatureFacts(feature=types.FeatureId(source=f"{rank}-é", index=index), layer=rank, density=0.0)

    def match(self, rank: int, index: int, token_id: int) -> types.Match.ValueType:
        return types.Match.values()[1 + (rank + index + token_id) % 4]


class Counts:
    """In the place of a source's surprisals: counts and maxima that follow from the numbers."""

    maxima = np.resize(np.array([0.5, 3.0, 2.0**100], np.float32), 2**20 + 1)

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def tokens_at_least(self, index: np.ndarray, value: np.ndarray) -> np.ndarray:
        return 1 + (index + self.rank) % 7 / 3 + (value > 1)


COUNTS = cast(Callable[[int], Surprisal], Counts)
FACTS = Facts()
BUILDER = cast(FactsBuilder, FACTS)
floats = st.floats(width=32, allow_nan=False)
positive = st.floats(0, 2.0**127, width=32, exclude_min=True)
features = st.tuples(st.integers(0, 3), st.integers(0, 2**20))


@dataclass
class Found:
    work: SearchWork
    done: SearchDone


@st.composite
def rankings(draw: st.DrawFn) -> Ranked:
    chosen = draw(st.lists(features, max_size=6))
    values = draw(st.lists(positive, min_size=len(chosen), max_size=len(chosen)))
    ranks, indices = [rank for rank, _ in chosen], [index for _, index in chosen]
    return Ranked(np.array(ranks, np.int64), np.array(indices, np.int64), np.array(values, np.float32))


@st.composite
def searches(draw: st.DrawFn) -> Found:
    """What a search may have found: of the text, or of each token."""
    ids = tuple(draw(st.lists(st.integers(0, BOS), min_size=1, max_size=200).filter(lambda ids: set(ids) != {BOS})))
    led, each = draw(st.booleans()), draw(st.booleans())
    rows = tuple(place + led for place, token_id in enumerate(ids) if token_id != BOS)
    ranking = draw(st.sampled_from(Ranking))
    if not each and draw(st.booleans()):
        rows = tuple(sorted(draw(st.sets(st.sampled_from(rows), min_size=1))))  # of sort tokens
    work = SearchWork(ids, led, (), Aggregate.EACH if each else Aggregate.MAX, rows, 25, ranking)
    if each:
        return Found(work, SearchDone(tuple(draw(rankings()) for _ in rows), None, 0))
    ranked = draw(rankings())
    shape = len(ranked.index), len(ids) + led
    few = draw(st.lists(floats, min_size=1, max_size=12))
    activations = np.resize(np.array(few, np.float32), shape)
    return Found(work, SearchDone((ranked,), activations, 0))


def by_protobuf(work: SearchWork, done: SearchDone) -> service.SearchResponse:
    """The same as messages."""
    response = service.SearchResponse()
    if work.aggregate is Aggregate.EACH:
        table: dict[tuple[int, int], int] = {}
        for row, ranked in zip(work.rows, done.ranked, strict=True):
            found = list(zip(ranked.source.tolist(), ranked.index.tolist(), strict=True))
            for feature in found:
                if feature not in table:
                    table[feature] = len(table)
                    response.features.append(FACTS.message(*feature))
            response.token_results.add(
                position=row,
                features=[table[feature] for feature in found],
                values=ranked.value.tolist(),
                matches=[FACTS.match(*feature, work.ids[row - work.bos_row]) for feature in found],
            )
        return response
    assert done.activations is not None
    (ranked,) = done.ranked
    for place, (rank, index) in enumerate(zip(ranked.source.tolist(), ranked.index.tolist(), strict=True)):
        activations = done.activations[place].tolist()
        scored = [row for row, token_id in enumerate(work.ids, int(work.bos_row)) if token_id != BOS]
        row = max(scored, key=lambda row: (activations[row], -row))
        result = response.results.add(
            facts=FACTS.message(rank, index),
            value=ranked.value[place],
            activations=activations,
            max_activation=activations[row],
            max_position=row,
            match=FACTS.match(rank, index, work.ids[row - work.bos_row]),
        )
        if work.ranking is Ranking.SURPRISAL:
            most = max(activations[row] for row in work.rows)
            result.tokens_at_least = 1 + (index + rank) % 7 / 3 + (most > 1)
            result.beyond_index = most > Counts.maxima[index]
    return response


@given(searches())
def test_what_was_found_is_joined_as_protobuf_serialises_it(found: Found) -> None:
    if found.work.aggregate is Aggregate.EACH:
        joined = b"".join(token_results(BUILDER, found.work, found.done, BOS))
    else:
        joined = b"".join(results(BUILDER, found.work, found.done, BOS, COUNTS))
    assert joined == by_protobuf(found.work, found.done).SerializeToString()


def test_a_search_whose_filter_leaves_no_row_has_no_results() -> None:
    nothing = SearchDone((), None, 0)
    for ranking in Ranking:
        of_text, each = (SearchWork((1,), False, (), one, (), 25, ranking) for one in (Aggregate.MAX, Aggregate.EACH))
        assert list(results(BUILDER, of_text, nothing, BOS, COUNTS)) == []
        assert list(token_results(BUILDER, each, nothing, BOS)) == []


tokens = st.builds(
    Token, st.integers(0, 2**17), st.binary(max_size=8), st.text(max_size=5), *[st.integers(0, 2**16)] * 2
)


@given(st.lists(tokens, max_size=20))
def test_tokens_are_joined_as_protobuf_serialises_them_and_can_be_read_again(given: list[Token]) -> None:
    shown = shown_of(TokenizedText((), tuple(given), b"", False, len(given)))
    messages = [
        types.Token(id=one.id, piece=one.piece, display=one.display, start=one.start, end=one.end) for one in given
    ]
    for response in (service.SearchResponse, service.TokenizeResponse):
        assert shown.tokens == response(tokens=messages).SerializeToString()
    assert shown.read() == given


def test_the_parts_of_an_answer_follow_each_other_and_leave_nothing_out() -> None:
    numbers = {field.name: field.number for field in service.SearchResponse.DESCRIPTOR.fields}
    parts = [HEAD, TEXT, FLAGS, SEARCH_FIELDS]
    assert sorted(name for part in parts for name in part) == sorted(numbers)
    for before, after in itertools.pairwise(parts):
        assert max(numbers[name] for name in before) < min(numbers[name] for name in after)


@given(st.integers(0, 2**64 - 1))
def test_numbers_are_written_as_protobuf_writes_them(number: int) -> None:
    written = service.SearchResponse(features_considered=number).SerializeToString()
    key = wire.key(service.SearchResponse, "features_considered")
    assert written == (key + wire.varint(number) if number else b"")
