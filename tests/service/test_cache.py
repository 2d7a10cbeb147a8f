"""Answers from caches: the same as computed ones, from wherever they come, and nothing runs for them."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from redis import Redis

import saeserve
from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1 import types_pb2 as types
from saeserve.v1.feature_service_pb2_grpc import FeatureServiceStub
from saeserve_server.cache.seal import Seal
from tests.answers import EPSILON, Tally
from tests.cache.valkey import Valkey
from tests.service.servers import Server, server, until
from tests.service.test_concurrency import hold
from tests.service.wire import TIMEOUT, config, item, refused, text_input

pytestmark = pytest.mark.slow

NONE, LOCAL, SHARED, INNER = (
    types.CACHE_TIER_NONE,
    types.CACHE_TIER_LOCAL,
    types.CACHE_TIER_SHARED,
    types.CACHE_TIER_INNER,
)
QUEUE_ITEMS = 40
KINDS = [types.FEATURE_KIND_LATENT, types.FEATURE_KIND_NEURON]
RELATIVE, SURPRISAL = service.RANKING_RELATIVE_TO_MAX, service.RANKING_SURPRISAL


@dataclass(frozen=True)
class Replica:
    """One of two servers that share a Valkey."""

    own: Server
    stub: FeatureServiceStub
    client: saeserve.Client

    def metric(self, name: str) -> float:
        """A sample, by its name without the prefix."""
        return self.own.metrics()[f"saeserve_{name}"]

    def ran(self) -> tuple[float, float]:
        """What the model and the sources have run so far."""
        metrics = self.own.metrics()
        return metrics["saeserve_forward_passes_total"], metrics["saeserve_encodes_total"]

    def shared_faults(self) -> float:
        """How often Valkey was of no use."""
        return sum(value for name, value in self.own.metrics().items() if "shared_cache_faults_total" in name)


@pytest.fixture(scope="module")
def valkey() -> Iterator[Valkey]:
    with Valkey() as one:
        yield one


@pytest.fixture(scope="module")
def replicas(
    valkey: Valkey, tmp_path_factory: pytest.TempPathFactory, cache_folder: Path
) -> Iterator[tuple[Replica, Replica]]:
    settings = {"index": None, "cache_url": valkey.url, "queue_items": QUEUE_ITEMS}
    folders = [tmp_path_factory.mktemp("replica") for _ in range(2)]
    with (
        server(folders[0], **settings) as (first, _, stub),
        server(folders[1], **settings) as (second, _, other),
        saeserve.Client(first.target) as client,
        saeserve.Client(second.target) as another,
    ):
        yield Replica(first, stub, client), Replica(second, other, another)


@pytest.fixture
def replica(replicas: tuple[Replica, Replica]) -> Replica:
    return replicas[0]


_numbers = itertools.count()


def new_text() -> str:
    """One that nobody has asked about yet."""
    return f"Odysseus wept {next(_numbers)} times by the wine-dark sea."


def await_entries(redis: Redis, count: int) -> None:
    """Answers are written after they were given."""
    until(lambda: redis.dbsize() >= count, "it is written")


def search(text: str, **changes: Any) -> service.SearchRequest:
    return service.SearchRequest(input=text_input(text), **changes)


def encode(*texts: str, **changes: Any) -> service.EncodeRequest:
    chosen = changes or {"sources": ["0-demo", "2-demo"]}
    return service.EncodeRequest(inputs=[text_input(text) for text in texts], **chosen)


def ask(stub: FeatureServiceStub, request: Any) -> Any:
    method = stub.Search if isinstance(request, service.SearchRequest) else stub.Encode
    return method(request, timeout=TIMEOUT)


def bare(answer: Any) -> bytes:
    """An answer without what the call cost, as bytes."""
    copy = type(answer)()
    copy.CopyFrom(answer)
    copy.ClearField("call_info")
    return copy.SerializeToString(deterministic=True)


QUESTIONS: dict[str, Callable[[str], Any]] = {
    "search": search,
    "by token": lambda text: search(text, by_token=True, include_bos=True),
    "sorted": lambda text: search(text, sort_tokens=[{"text": "sea"}, {"position": 0}], limit=100),
    "relative": lambda text: search(text, ranking=RELATIVE, filter={"include": {"kinds": KINDS}}),
    "surprisal": lambda text: search(text, ranking=SURPRISAL, filter={"include": {"kinds": KINDS}}),
    "large": lambda text: search(text, limit=1000, filter={"include": {"kinds": KINDS}}),
    "sparse": encode,
    "dense": lambda text: encode(text, features=[{"source": "3", "index": 64}, {"source": "0-demo", "index": 248}]),
    "texts": lambda text: encode(text, f"{text} And again.", text, sources=["1-demo"], include_bos=True),
}


BY_NAME = pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)


# From this server and from another


@BY_NAME
def test_an_answer_given_before_is_given_again(replica: Replica, question: Callable[[str], Any]) -> None:
    request = question(new_text())
    computed = ask(replica.stub, request)
    assert computed.call_info.cache == NONE
    assert computed.call_info.batch_size >= 1
    ran = replica.ran()
    for _ in range(2):
        again = ask(replica.stub, request)
        info = again.call_info
        assert (info.cache, info.batch_size) == (LOCAL, 0)
        assert (info.queue_micros, info.forward_micros, info.encode_micros) == (0, 0, 0)
        assert (info.model_revision, info.index_revision) == (
            computed.call_info.model_revision,
            computed.call_info.index_revision,
        )
        assert bare(again) == bare(computed)
    assert replica.ran() == ran


@BY_NAME
def test_an_answer_of_a_replica_is_given_by_another(
    replicas: tuple[Replica, Replica], valkey: Valkey, question: Callable[[str], Any]
) -> None:
    one, other = replicas
    for attempt in range(5):
        request = question(new_text())
        with valkey.client() as redis:
            written = redis.dbsize()
            computed = ask(one.stub, request)
            texts = len({given.text for given in request.inputs}) if hasattr(request, "inputs") else 1
            await_entries(redis, written + texts)
        ran, faults = other.ran(), other.shared_faults()
        shared = ask(other.stub, request)
        assert bare(shared) == bare(computed)
        if other.shared_faults() > faults and attempt < 4:
            continue  # on a busy machine a look-up may not come back in its 30 ms: the answer is computed instead
        assert (shared.call_info.cache, shared.call_info.batch_size) == (SHARED, 0)
        again = ask(other.stub, request)
        assert again.call_info.cache == LOCAL
        assert bare(again) == bare(computed)
        assert other.ran() == ran
        return


@pytest.mark.parametrize("question", ["search", "by token", "sparse", "dense"])
def test_what_is_no_answer_to_the_question_is_computed_and_overwritten(
    replicas: tuple[Replica, Replica], valkey: Valkey, question: str
) -> None:
    one, other = replicas
    for attempt in range(5):
        request = QUESTIONS[question](new_text())
        with valkey.client() as redis:
            known = set(redis.keys())
            computed = ask(one.stub, request)
            await_entries(redis, len(known) + 1)
            (name,) = set(redis.keys()) - known
            right = redis.get(name)
            key = bytes.fromhex(name.removeprefix(b"saeserve:").decode())
            payload = Seal().open(key, right)
            assert isinstance(payload, bytes)
            redis.set(name, Seal().close(key, payload[:-1]))
            before = other.metric('shared_cache_faults_total{kind="invalid"}')
            answer = ask(other.stub, request)
            assert bare(answer) == bare(computed)
            assert answer.call_info.cache == NONE
            if other.metric('shared_cache_faults_total{kind="invalid"}') == before and attempt < 4:
                continue  # as above
            assert other.metric('shared_cache_faults_total{kind="invalid"}') == before + 1
            until(lambda: len(redis.get(name)) == len(right), "it is overwritten")  # noqa: B023 - of this turn
        assert ask(other.stub, request).call_info.cache == LOCAL
        return


def test_what_is_said_of_the_text_and_the_call_is_the_requests_own(replica: Replica) -> None:
    """The same question may come as a text, as ids, or as a longer text that is cut."""
    text = new_text()
    answer = ask(replica.stub, search(text))
    ids = [token.id for token in answer.tokens]
    given = service.SearchRequest(input=types.Input(token_ids=types.TokenIds(ids=ids)))
    cached = replica.stub.Search(given, timeout=TIMEOUT, metadata=[("x-request-id", "mine")])
    assert (cached.call_info.cache, cached.call_info.request_id) == (LOCAL, "mine")
    assert cached.results == answer.results

    long = f"{text} {'red blue green ' * 200}"
    cut = ask(replica.stub, search(long, truncate=True))
    assert cut.truncated
    left = service.SearchRequest(input=types.Input(token_ids=types.TokenIds(ids=[token.id for token in cut.tokens])))
    whole = ask(replica.stub, left)
    assert whole.call_info.cache == LOCAL
    assert not whole.truncated
    assert whole.results == cut.results

    silent = ask(replica.stub, encode(text, sources=["0-demo"], omit_tokens=True))
    told = ask(replica.stub, encode(text, sources=["0-demo"]))
    assert told.call_info.cache == LOCAL
    assert not silent.texts[0].tokens
    assert [token.id for token in told.texts[0].tokens] == ids
    assert told.sparse == silent.sparse


# From kept activations

OTHER_QUESTIONS: dict[str, dict[str, Any]] = {
    "another token to sort by": {"kinds": "all", "sort": "sea"},
    "several tokens to sort by": {"sort": [0, 2, 5], "limit": 60},
    "a narrower filter": {"sources": ["1-demo"], "max_density": 0.02},
    "fewer features": {"exclude_layers": 0, "limit": 10},
    "neurons only": {"kinds": "neuron", "limit": 40},
    "more features": {"limit": 1000},
    "by token": {"by_token": True, "limit": 7, "kinds": "all"},
    "relative": {"ranking": "relative", "limit": 30},
    "surprisal": {"ranking": "surprisal", "limit": 30, "kinds": "all"},
    "surprisal, several tokens": {"ranking": "surprisal", "sort": [0, 2, 5], "min_fires": 50},
    "relative, by token": {"ranking": "relative", "by_token": True, "min_fires": 50},
    "with the BOS": {"include_bos": True, "limit": 30},
}


@pytest.fixture(scope="module")
def kept_text(replicas: tuple[Replica, Replica]) -> str:
    """A text of which the first replica keeps the rows of all sources, from one search."""
    text = new_text()
    first = replicas[0].client.search(text, kinds="all", include_bos=True)
    assert first.call_info.cache is saeserve.Cache.NONE
    return text


@pytest.mark.parametrize("options", OTHER_QUESTIONS.values(), ids=OTHER_QUESTIONS)
def test_other_questions_about_a_text_need_neither_model_nor_saes(
    replica: Replica, uncached: saeserve.Client, kept_text: str, options: dict[str, Any]
) -> None:
    ran = replica.ran()
    answer = replica.client.search(kept_text, **options)
    assert answer.call_info.cache is saeserve.Cache.INNER
    assert answer.call_info.batch_size == 0
    assert replica.ran() == ran
    tally = Tally()
    hold(answer, uncached.search(kept_text, **options), str(options), tally)
    tally.check()
    again = replica.client.search(kept_text, **options)
    assert again.call_info.cache is saeserve.Cache.LOCAL
    assert again.results == answer.results or [hit.name for hit in again] == [hit.name for hit in answer]


def close(left: np.ndarray, right: np.ndarray) -> None:
    np.testing.assert_allclose(left, right, atol=EPSILON * max(1.0, float(np.abs(right).max(initial=0))))


def test_an_encode_of_a_text_that_was_searched_needs_neither_model_nor_saes(
    replica: Replica, uncached: saeserve.Client, kept_text: str
) -> None:
    ran = replica.ran()
    for options in ({"sources": ["0-demo", "3-demo"]}, {"sources": "2-demo", "include_bos": True}):
        answer, expected = replica.client.encode(kept_text, **options), uncached.encode(kept_text, **options)
        assert answer.call_info.cache is saeserve.Cache.INNER
        assert list(answer.sparse) == list(expected.sparse)
        for name, rows in expected.sparse.items():
            close(answer.sparse[name].toarray(), rows.toarray())
    features = ["3:64", "0-demo:248", "1-demo:5"]
    answer, expected = (
        replica.client.encode(kept_text, features=features),
        uncached.encode(kept_text, features=features),
    )
    assert answer.call_info.cache is saeserve.Cache.INNER
    assert answer.dense is not None
    assert expected.dense is not None
    close(answer.dense, expected.dense)
    assert replica.ran() == ran


def test_what_was_not_kept_is_computed(replica: Replica) -> None:
    text = new_text()
    ask(replica.stub, search(text, filter={"include": {"sources": ["0-demo"]}}))
    passes, encodes = replica.ran()
    assert ask(replica.stub, search(text)).call_info.cache == NONE  # of three sources nothing is known
    assert replica.ran() == (passes + 1, encodes + 4)
    assert ask(replica.stub, search(text, include_bos=True)).call_info.cache == NONE  # nor of the row of the BOS
    assert ask(replica.stub, search(text, limit=3)).call_info.cache == INNER


def test_an_encode_of_several_texts_computes_what_is_missing_and_tells_the_tier_that_saved_least(
    replicas: tuple[Replica, Replica], valkey: Valkey
) -> None:
    one, other = replicas
    given, searched, elsewhere, new = (new_text() for _ in range(4))
    ask(one.stub, encode(given))
    ask(one.stub, search(searched))

    def tier(*texts: str) -> int:
        answer = ask(one.stub, encode(*texts))
        assert [b"".join(token.piece for token in text.tokens).decode() for text in answer.texts] == list(texts)
        return answer.call_info.cache

    for attempt in range(5):
        with valkey.client() as redis:
            written = redis.dbsize()
            ask(other.stub, encode(elsewhere))
            await_entries(redis, written + 1)
        ran, faults = one.ran(), one.shared_faults()
        found = tier(given, elsewhere)
        if one.shared_faults() > faults and attempt < 4:
            elsewhere = new_text()
            continue
        assert found == SHARED
        assert one.ran() == ran
        break
    ran = one.ran()
    assert tier(given) == LOCAL
    assert tier(given, elsewhere) == LOCAL  # by now
    assert tier(given, searched) == INNER
    assert one.ran() == ran
    assert tier(given, new, searched, new) == NONE
    assert one.ran() == (ran[0] + 1, ran[1] + 2)
    assert tier(given, new, searched, elsewhere) == LOCAL
    whole = ask(one.stub, encode(given, new, searched))
    alone = [ask(one.stub, encode(text)) for text in (given, new, searched)]
    for place, block in enumerate(whole.sparse):
        assert block.data == b"".join(answer.sparse[place].data for answer in alone)
        assert block.indices == b"".join(answer.sparse[place].indices for answer in alone)


def test_a_stream_neither_reads_nor_fills_the_caches(replica: Replica) -> None:
    known, new = new_text(), new_text()
    ask(replica.stub, encode(known))

    def counted() -> dict[str, float]:
        return {name: value for name, value in replica.own.metrics().items() if name.startswith("saeserve_cache_")}

    before, passes = counted(), replica.ran()[0]
    for first in (config(sources=["0-demo", "2-demo"]), config(features=[{"source": "0-demo", "index": 5}])):
        answers = list(replica.stub.EncodeStream(iter([first, item(0, known), item(1, new)]), timeout=TIMEOUT))
        assert {answer.sequence for answer in answers} == {0, 1}
        assert {answer.call_info.cache for answer in answers} == {types.CACHE_TIER_UNSPECIFIED}
        assert min(answer.call_info.batch_size for answer in answers) >= 1
    assert counted() == before
    assert replica.ran()[0] == passes + 4
    assert ask(replica.stub, encode(new)).call_info.cache == NONE


def test_without_memory_for_it_nothing_is_kept(uncached_stub: FeatureServiceStub) -> None:
    text = new_text()
    for request in (search(text), search(text), search(text, limit=3), encode(text), encode(text)):
        info = ask(uncached_stub, request).call_info
        assert info.cache == NONE
        assert info.batch_size >= 1


# While the worker stands still


class Frozen:
    """Holds the worker of a replica still for the length of a block: what is asked meanwhile waits."""

    def __init__(self, replica: Replica) -> None:
        self._pid = replica.own.worker()

    def __enter__(self) -> Frozen:
        os.kill(self._pid, signal.SIGSTOP)
        return self

    def __exit__(self, *_: object) -> None:
        os.kill(self._pid, signal.SIGCONT)


@pytest.mark.parametrize("question", ["search", "sparse"])
def test_identical_questions_at_once_are_computed_once_also_if_the_first_caller_leaves(
    replica: Replica, question: str
) -> None:
    request = QUESTIONS[question](new_text())
    method = replica.stub.Search if question == "search" else replica.stub.Encode
    passes, encodes = replica.ran()
    joined = replica.metric("cache_joined_total")
    with Frozen(replica):
        calls = [method.future(request, timeout=TIMEOUT)]
        until(lambda: replica.metric("requests_in_flight") == 1, "the first is being answered")
        calls += [method.future(request, timeout=TIMEOUT) for _ in range(15)]
        until(lambda: replica.metric("cache_joined_total") == joined + 15, "the others wait for the same answer")
        calls[0].cancel()
        until(lambda: replica.metric("requests_in_flight") == 15, "it has left")
    answers = [call.result() for call in calls[1:]]
    assert {bare(answer) for answer in answers} == {bare(answers[0])}
    assert {answer.call_info.cache for answer in answers} == {NONE}
    assert len({answer.call_info.request_id for answer in answers}) == 15
    assert replica.ran() == (passes + 1, encodes + (4 if question == "search" else 2))


def test_what_is_known_is_answered_while_nothing_more_is_taken_in_and_no_refusal_is_kept(replica: Replica) -> None:
    given, searched, refused_text = new_text(), new_text(), new_text()
    ask(replica.stub, encode(given))
    ask(replica.stub, encode(searched, sources=["0-demo", "2-demo"]))
    with Frozen(replica):
        calls = [replica.stub.Search.future(search(new_text()), timeout=TIMEOUT)]
        until(lambda: replica.metric("requests_in_flight") == 1, "one is being answered")
        until(lambda: replica.metric("queue_size") == 0, "it runs, or would")
        calls += [replica.stub.Search.future(search(new_text()), timeout=TIMEOUT) for _ in range(QUEUE_ITEMS)]
        until(lambda: replica.metric("queue_size") == QUEUE_ITEMS, "the queue is full")
        assert replica.metric("queue_load_ratio") == 1
        for request in (search(refused_text), encode(refused_text), encode(given, refused_text)):
            refusal = refused(lambda request=request: ask(replica.stub, request))
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
            assert refusal.retry_after
        assert ask(replica.stub, encode(given, searched)).call_info.cache == LOCAL
        fewer = search(searched, filter={"include": {"sources": ["0-demo"]}})
        assert ask(replica.stub, fewer).call_info.cache == INNER
        assert ask(replica.stub, encode(given, searched, sources=["2-demo"])).call_info.cache == INNER
    assert all(len(call.result().results) == 25 for call in calls)
    assert ask(replica.stub, search(refused_text)).call_info.cache == NONE
    assert ask(replica.stub, encode(refused_text)).call_info.cache == INNER


def test_many_at_once_get_what_one_gets(replicas: tuple[Replica, Replica], uncached_stub: FeatureServiceStub) -> None:
    """Both replicas, every tier, every kind of question: the answers are those of a server without caches."""
    texts = [new_text() for _ in range(8)]
    requests = [question(text) for text in texts for question in QUESTIONS.values()]
    with ThreadPoolExecutor(16) as pool:
        answers = list(
            pool.map(lambda n: ask(replicas[n % 2].stub, requests[n // 4 % len(requests)]), range(4 * len(requests)))
        )
    tiers = {answer.call_info.cache for answer in answers}
    assert {NONE, LOCAL} <= tiers
    for place, request in enumerate(requests):
        expected = ask(uncached_stub, request)
        for answer in answers[4 * place : 4 * place + 4]:
            if isinstance(request, service.SearchRequest):
                assert answer.tokens == expected.tokens
                assert (answer.sources_considered, answer.features_considered) == (
                    expected.sources_considered,
                    expected.features_considered,
                )
                values, others = (
                    [result.value for result in one.results] + [v for row in one.token_results for v in row.values]
                    for one in (answer, expected)
                )
                close(np.array(values), np.array(others))
            else:
                assert answer.texts == expected.texts
                assert answer.text_offsets == expected.text_offsets
                close(np.frombuffer(answer.dense.data, "<f4"), np.frombuffer(expected.dense.data, "<f4"))
                for one, other in zip(answer.sparse, expected.sparse, strict=True):
                    assert one.source == other.source
                    close(summed(one), summed(other))


def summed(block: service.SparseActivations) -> np.ndarray:
    """The sum of each row: which entries there are may differ where an activation is next to nothing."""
    data = np.frombuffer(block.data, "<f4").astype(np.float64)
    return np.add.reduceat(np.append(data, 0.0), np.frombuffer(block.indptr, "<i8")[:-1])
