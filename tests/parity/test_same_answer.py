"""Search and Encode against the plain computation, for random SAEs of every format: alone, and among 15 others."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import saeserve
from tests.answers import Ranked, SourceReference, Tally, compare_activations, compare_ranking
from tests.conftest import DEVICE, START_TIMEOUT
from tests.reference import MODEL, Reference

pytestmark = pytest.mark.device

LIMIT = 40


def passages(count: int) -> list[str]:
    """Starts of the demo's passages, of many lengths, with oddities among them."""
    lines = (MODEL.parent / "passages.jsonl").read_text().splitlines()
    texts = [json.loads(line)["text"] for line in lines[:count]]
    odd = ["red", "日本 e\u0301 🙂 naïve", "a<|endoftext|>b", "  \n\n\t x", "My favorite color is red."]
    return [*odd, *(text[: 15 + 23 * place % 400] for place, text in enumerate(texts))][:count]


@pytest.fixture(scope="module")
def zoo(zoo_config: tuple[Path, Reference]) -> Iterator[tuple[saeserve.Client, Reference]]:
    """A server that computes every answer, its latents screened."""
    config, reference = zoo_config
    uncached = {"cache_bytes": 0, "inner_cache_bytes": 0}
    with saeserve.local(
        config=config, device=DEVICE, kernel="fbgemm-int8", timeout=START_TIMEOUT, **uncached
    ) as client:
        yield client, reference


@pytest.fixture(scope="module")
def keeping(zoo_config: tuple[Path, Reference]) -> Iterator[tuple[saeserve.Client, Reference]]:
    """A server that ranks anew from what it has kept of a text."""
    config, reference = zoo_config
    with saeserve.local(config=config, device=DEVICE, timeout=START_TIMEOUT, cache_bytes=0) as client:
        yield client, reference


@dataclass(frozen=True)
class Check:
    """A call, and how its answer is held against the plain computation."""

    name: str
    ask: Callable[[saeserve.Client, Reference, str], Any]
    hold: Callable[[Any, Reference, str, Tally], None]


def rankable(reference: Reference, text: str) -> list[int]:
    return [place for place, token_id in enumerate(reference.ids(text)) if token_id != 0]


def latents(reference: Reference) -> list[str]:
    return [name for name in reference.order if "-" in name]


def few_rows(reference: Reference, text: str) -> list[int]:
    rows = rankable(reference, text)
    return sorted({rows[0], rows[len(rows) // 2], rows[-1]})


def features(reference: Reference) -> list[tuple[str, int]]:
    return [(source, index) for index in (3, 77, 191) for source in reversed(reference.order)]


def ranked(result: saeserve.SearchResult) -> list[Ranked]:
    return [Ranked(hit.name.source, hit.name.index, hit.value) for hit in result.results]


def hold_search(result: saeserve.SearchResult, reference: Reference, text: str, tally: Tally) -> None:
    on, rows = reference.on(text), rankable(reference, text)
    compare_ranking(ranked(result), on, rows, "max", LIMIT, reference.order, f"search {text!r}", tally)
    for hit in result.results:
        hold_column(hit.activations, on[hit.name.source], hit.name.index)
        assert hit.max_activation == hit.activations[hit.max_position] == hit.activations[rows].max()


def hold_sorted(result: saeserve.SearchResult, reference: Reference, text: str, tally: Tally) -> None:
    on = {name: one for name, one in reference.on(text).items() if "-" not in name}
    rows = few_rows(reference, text)
    compare_ranking(ranked(result), on, rows, "sum", LIMIT, reference.order, f"sorted {text!r}", tally)


def mixed(reference: Reference) -> list[str]:
    """Sources of every rule: the model's BOS, one of their own, none. Nothing of them flips in a sum."""
    return ["2", *(source for source in reference.bos if "standard" in source)]


def hold_sorted_mixed(result: saeserve.SearchResult, reference: Reference, text: str, tally: Tally) -> None:
    on = {name: one for name, one in reference.on(text).items() if name in mixed(reference)}
    assert {hit.name.source for hit in result.results} == set(on)
    rows = few_rows(reference, text)
    compare_ranking(ranked(result), on, rows, "sum", 600, reference.order, f"sorted {text!r}", tally)


def hold_led_search(result: saeserve.SearchResult, reference: Reference, text: str, tally: Tally) -> None:
    on, rows = reference.on(text, bos_row=True), [row + 1 for row in rankable(reference, text)]
    compare_ranking(ranked(result), on, rows, "max", LIMIT, reference.order, f"led search {text!r}", tally)
    assert result.bos_included
    assert [token.id for token in result.tokens] == [0, *reference.ids(text)]
    for hit in result.results:
        hold_column(hit.activations, on[hit.name.source], hit.name.index)
        assert hit.max_activation == hit.activations[hit.max_position] == hit.activations[rows].max()


def hold_led_sparse(result: saeserve.EncodeResult, reference: Reference, text: str, tally: Tally) -> None:
    (one,) = result.texts
    on = reference.on(text, bos_row=True)
    for source, rows in one.sparse.items():
        compare_activations(rows.toarray(), on[source], f"led {source} {text!r}", tally)


def hold_by_token(result: saeserve.SearchResult, reference: Reference, text: str, tally: Tally) -> None:
    on = {name: one for name, one in reference.on(text).items() if "-" in name}
    assert [one.position for one in result.token_results] == rankable(reference, text)
    for one in result.token_results:
        found = [
            Ranked(feature.name.source, feature.name.index, float(value))
            for feature, value in zip(one.features, one.values, strict=True)
        ]
        what = f"token {one.position} of {text!r}"
        compare_ranking(found, on, [one.position], "max", 10, reference.order, what, tally)


def hold_sparse(result: saeserve.EncodeResult, reference: Reference, text: str, tally: Tally) -> None:
    for given, one in zip([text, "red"], result.texts, strict=True):
        on = reference.on(given)
        assert list(one.sparse) == latents(reference)
        for source, rows in one.sparse.items():
            compare_activations(rows.toarray(), on[source], f"sparse {source} {given!r}", tally)


def hold_dense(result: saeserve.EncodeResult, reference: Reference, text: str, tally: Tally) -> None:
    on = reference.on(text)
    assert result.dense is not None
    for column, (source, index) in enumerate(features(reference)):
        hold_column(result.dense[:, column], on[source], index)


def hold_stream(items: list[saeserve.StreamItem], reference: Reference, text: str, tally: Tally) -> None:
    (item,) = items
    one, on, source = item.unwrap(), reference.on(text), reference.order[0]
    compare_activations(one.sparse[source].toarray(), on[source], f"stream {text!r}", tally)
    compare_activations(one.neurons["2"], on["2"], f"stream neurons {text!r}", tally)


def hold_column(column: np.ndarray, plain: SourceReference, index: int) -> None:
    """One feature's activations: each is the plain one, or one that may flip."""
    right = np.abs(column - plain.activations[:, index]) <= plain.epsilon
    assert np.all(right | (plain.low[:, index] != plain.high[:, index]))


CHECKS = [
    Check("search", lambda client, _, text: client.search(text, kinds="all", limit=LIMIT), hold_search),
    Check(
        "sorted",
        lambda client, reference, text: client.search(
            text, sets=["neurons"], sort=few_rows(reference, text), limit=LIMIT
        ),
        hold_sorted,
    ),
    Check(
        "sorted over every rule of BOS",
        lambda client, reference, text: client.search(
            text, sources=mixed(reference), sort=few_rows(reference, text), limit=600
        ),
        hold_sorted_mixed,
    ),
    Check(
        "search with the BOS",
        lambda client, _, text: client.search(text, kinds="all", limit=LIMIT, include_bos=True),
        hold_led_search,
    ),
    Check(
        "sparse with the BOS",
        lambda client, reference, text: client.encode([text], sources=latents(reference), include_bos=True),
        hold_led_sparse,
    ),
    Check("by token", lambda client, _, text: client.search(text, by_token=True, limit=10), hold_by_token),
    Check(
        "sparse",
        lambda client, reference, text: client.encode([text, "red"], sources=latents(reference)),
        hold_sparse,
    ),
    Check(
        "dense",
        lambda client, reference, text: client.encode(
            [text], features=[f"{source.upper()}:{index}" for source, index in features(reference)]
        ),
        hold_dense,
    ),
    Check(
        "stream",
        lambda client, reference, text: list(client.encode_stream([text], sources=[reference.order[0], "2"])),
        hold_stream,
    ),
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_alone(zoo: tuple[saeserve.Client, Reference], check: Check) -> None:
    client, reference = zoo
    tally = Tally()
    for text in passages(12):
        check.hold(check.ask(client, reference, text), reference, text, tally)
    tally.check()


def test_each_source_says_what_it_reads_before_a_text(zoo: tuple[saeserve.Client, Reference]) -> None:
    client, reference = zoo
    assert None in reference.bos.values()
    assert {source.id: source.bos_id for source in client.list_sources()} == {
        source: reference.bos.get(source, 0) for source in reference.order
    }


def test_among_fifteen_others(zoo: tuple[saeserve.Client, Reference]) -> None:
    """Sixteen calls of every kind at a time; the plain side runs afterwards, one text at a time."""
    client, reference = zoo
    texts = passages(32)
    work = [(CHECKS[place % len(CHECKS)], texts[place % len(texts)]) for place in range(96)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda one: one[0].ask(client, reference, one[1]), work))
    sizes = [answer.call_info.batch_size for answer in answers if not isinstance(answer, list)]
    assert max(sizes) > 4, f"batches of {max(sizes)} at most: this test shows nothing"
    tally = Tally()
    for (check, text), answer in sorted(zip(work, answers, strict=True), key=lambda one: one[0][1]):  # text after text
        check.hold(answer, reference, text, tally)
    tally.check()


def test_from_kept_activations(keeping: tuple[saeserve.Client, Reference]) -> None:
    """Once all sources of a text are kept, whatever is asked about it needs neither model nor SAEs."""
    client, reference = keeping
    texts = passages(12)
    for text in texts:
        client.search(text, kinds="all", include_bos=True)
    tally = Tally()
    caches = []
    for check in CHECKS:
        if check.name == "stream":  # past the caches
            continue
        for text in texts:
            answer = check.ask(client, reference, text)
            caches.append(answer.call_info.cache)
            check.hold(answer, reference, text, tally)
    assert caches.count(saeserve.Cache.INNER) > 0.9 * len(caches), caches
    tally.check()
