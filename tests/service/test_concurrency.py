"""Sixteen callers at once get the answers that they get alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

import saeserve
from tests.answers import EPSILON, Differs, Tally
from tests.service.wire import passages

THREADS = 16
CALLS = 480
"""Each of the requests twice."""
OPTIONS: list[dict[str, Any]] = [
    {},
    {"limit": 5, "kinds": "neuron"},
    {"limit": 100, "kinds": "all"},
    {"sort": 0},
    {"sort": [1, 3], "kinds": "neuron", "limit": 40},
    {"by_token": True, "limit": 3},
    {"by_token": True, "sort": [0, 2], "limit": 5, "kinds": "all"},
    {"layers": "1-2", "include_bos": True},
    {"exclude_layers": 0, "max_density": 0.01, "limit": 60},
    {"ranking": "relative", "limit": 30},
    {"ranking": "surprisal", "limit": 30, "kinds": "all"},
    {"ranking": "relative", "min_fires": 100, "sort": 2, "include_bos": True},
    {"sources": ["3", "0-demo"], "limit": 1},
]

Ranked = list[tuple[str, float]]


def rankings(result: saeserve.SearchResult) -> list[Ranked]:
    """The answer as rankings: one, or with `by_token` one for each token."""
    if result.token_results:
        return [
            [(str(feature.name), float(value)) for feature, value in zip(row.features, row.values, strict=True)]
            for row in result.token_results
        ]
    return [[(str(hit.name), hit.value) for hit in result.results]]


def hold(answer: saeserve.SearchResult, alone: saeserve.SearchResult, what: str, tally: Tally) -> None:
    """The same answer: values within ε, names and order equal except among values closer than 2ε."""
    used = False
    for name in ("tokens", "bos_included", "truncated", "sort_positions", "sources_considered", "features_considered"):
        if getattr(answer, name) != getattr(alone, name):
            raise Differs(f"{what}: {name} is {getattr(answer, name)}, alone {getattr(alone, name)}")
    mine, expected = rankings(answer), rankings(alone)
    if [row.position for row in answer.token_results] != [row.position for row in alone.token_results]:
        raise Differs(f"{what}: other tokens are answered")
    for ranked, reference in zip(mine, expected, strict=True):
        largest = max([1.0, *(value for _, value in reference)])
        used |= hold_ranking(ranked, reference, EPSILON * largest, what)
    for hit in answer.results:
        other = next((one for one in alone.results if one.name == hit.name), None)
        if other is not None and abs(hit.activations - other.activations).max() > EPSILON * max(
            1.0, float(abs(other.activations).max())
        ):
            raise Differs(f"{what}: {hit.name} has other activations")
        if other is not None and other.feature != hit.feature:
            raise Differs(f"{what}: {hit.name} has other facts")
    if used:
        tally.exceptions.append(what)


def hold_ranking(ranked: Ranked, reference: Ranked, epsilon: float, what: str) -> bool:
    """Raises Differs; whether the exception for values closer than 2ε was used."""
    last = reference[-1][1] if reference else 0.0
    if abs(len(ranked) - len(reference)) and min(value for _, value in [*ranked, *reference]) > epsilon:
        raise Differs(f"{what}: {len(ranked)} features, alone {len(reference)}")
    if len(dict(ranked)) != len(ranked):
        raise Differs(f"{what}: a feature stands twice")
    values = dict(reference)
    used = False
    for place, (name, value) in enumerate(ranked):
        if place < len(reference) and abs(value - reference[place][1]) > epsilon:
            raise Differs(f"{what}: value {value} at place {place}, alone {reference[place][1]}")
        if place < len(reference) and name == reference[place][0]:
            continue
        used = True
        if abs(value - values.get(name, last)) > 2 * epsilon:
            raise Differs(f"{what}: {name} at place {place} with {value}, alone {values.get(name)}")
    return used


def requests() -> list[tuple[str, dict[str, Any]]]:
    """240 distinct requests: every option with texts of many lengths.

    Passages are indexed: as they stand, every feature that peaks in one has the same relative value there, 1.
    """
    texts = [
        *(f"And then: {text[:90]}" for text in passages(237)),
        "My favorite color is red.",
        "Odysseus wept.",
        "日本 e\u0301 \N{ROBOT FACE} naïve",
    ]
    return [(text, OPTIONS[place % len(OPTIONS)]) for place, text in enumerate(texts)]


@pytest.fixture(scope="module")
def alone(uncached: saeserve.Client) -> list[saeserve.SearchResult]:
    """What each of `requests` is answered when nobody else asks anything."""
    return [uncached.search(text, **options) for text, options in requests()]


def ask_at_once(target: str, order: Sequence[int]) -> list[tuple[int, saeserve.SearchResult]]:
    """The requests in that order, shared out among threads: place of each, and its answer."""
    pool = requests()

    def ask(places: Sequence[int]) -> list[tuple[int, saeserve.SearchResult]]:
        with saeserve.Client(target) as client:  # a connection of its own for each thread
            return [(place, client.search(pool[place][0], **pool[place][1])) for place in places]

    with ThreadPoolExecutor(THREADS) as threads:
        return [one for answers in threads.map(ask, [order[n::THREADS] for n in range(THREADS)]) for one in answers]


def hold_all(answers: Sequence[tuple[int, saeserve.SearchResult]], alone: Sequence[saeserve.SearchResult]) -> None:
    pool, tally = requests(), Tally()
    for place, result in answers:
        text, options = pool[place]
        hold(result, alone[place], f"{text!r} {options}", tally)
    # A text that needs an exception needs it nearly every time: what is capped are texts, not calls.
    tally.texts, tally.exceptions = len(pool), sorted(set(tally.exceptions))
    tally.check()


def shuffled(count: int) -> list[int]:
    order = [place % len(requests()) for place in range(count)]
    random.Random(0).shuffle(order)
    return order


@pytest.mark.slow
def test_sixteen_threads_of_mixed_searches_get_the_answers_they_get_alone(
    uncached: saeserve.Client, alone: list[saeserve.SearchResult]
) -> None:
    answers = ask_at_once(uncached.target, shuffled(len(requests())))
    assert len(answers) == len(requests())
    assert {result.call_info.cache for _, result in answers} == {saeserve.Cache.NONE}
    assert max(result.call_info.batch_size for _, result in answers) > 1
    hold_all(answers, alone)


@pytest.mark.slow
def test_sixteen_threads_get_the_same_answers_from_the_caches(
    demo: saeserve.Client, alone: list[saeserve.SearchResult]
) -> None:
    """Each text under every option: what the first computes, the others are answered from."""
    pool = requests()
    answers = ask_at_once(demo.target, shuffled(CALLS))
    assert saeserve.Cache.LOCAL in {result.call_info.cache for _, result in answers}
    hold_all(answers, alone)

    tally = Tally()
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(lambda one: demo.search(one[0], kinds="all", include_bos=True), pool))
    # Now the rows of all sources are kept; a limit of its own makes each another question.
    options = [one | {"limit": one.get("limit", 25) + 1} for _, one in pool]
    with ThreadPoolExecutor(THREADS) as threads:
        results = list(threads.map(lambda n: demo.search(pool[n][0], **options[n]), range(len(pool))))
    kept = [result.call_info.cache for result in results]
    assert kept.count(saeserve.Cache.INNER) > 0.9 * len(kept), kept
    for place, result in enumerate(results):
        text, asked = pool[place]
        hold(cut(result, asked.get("limit", 25)), alone[place], f"kept: {text!r} {asked}", tally)
    tally.texts, tally.exceptions = len(pool), sorted(set(tally.exceptions))
    tally.check()


def cut(result: saeserve.SearchResult, limit: int) -> saeserve.SearchResult:
    """The answer that a smaller limit would have had, but for what is told of its features once."""
    rows = tuple(
        replace(row, features=row.features[:limit], values=row.values[:limit], matches=row.matches[:limit])
        for row in result.token_results
    )
    return replace(result, results=result.results[:limit], token_results=rows)


def test_calls_of_every_kind_at_once_do_not_mix(demo: saeserve.Client) -> None:
    texts = passages(24)
    expected = [demo.encode(text, features=["0-demo:248", "0:52"]).dense for text in texts]
    facts = [demo.get_feature(f"0-demo:{place}").feature for place in range(24)]

    def ask(place: int) -> None:
        text = texts[place]
        dense = demo.encode(text, features=["0-demo:248", "0:52"]).dense
        reference = expected[place]
        assert dense is not None
        assert reference is not None
        assert abs(dense - reference).max() <= EPSILON * max(1.0, float(abs(reference).max()))
        assert demo.get_feature(f"0-demo:{place}").feature == facts[place]
        assert b"".join(token.piece for token in demo.tokenize(text)) == text.encode()
        (streamed,) = demo.encode_stream([text], features=["0-demo:248", "0:52"])
        assert streamed.unwrap().dense is not None
        assert abs(streamed.unwrap().dense - reference).max() <= EPSILON * max(1.0, float(abs(reference).max()))

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(ask, [place % 24 for place in range(96)]))
