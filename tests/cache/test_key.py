"""What a cached answer is found by: every field of a request either enters the key or is known not to matter."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1 import types_pb2 as types
from saeserve_server.api.call import enter_call
from saeserve_server.api.encode import encode
from saeserve_server.api.search import search
from saeserve_server.cache.answer import Answer
from saeserve_server.cache.key import IN_KEY, NOT_IN_KEY, Keys
from saeserve_server.catalog import Catalog
from saeserve_server.config import load_config
from saeserve_server.engine.build import build_runner
from saeserve_server.metrics import Metrics
from saeserve_server.ranking.work import Aggregate, EncodeWork, Ranking, SearchWork, SourceFilter
from saeserve_server.records.store import RecordStore
from saeserve_server.scheduler.cost import CostModel
from saeserve_server.scheduler.desk import Desk
from saeserve_server.scheduler.held import Held
from saeserve_server.scheduler.queue import WorkQueue
from saeserve_server.scheduler.scheduler import Scheduler
from saeserve_server.serving.serving import Serving
from tests.conftest import DEVICE
from tests.scheduler.stage import AMPLE, SlowEngine

REQUESTS: dict[str, type[Message]] = {
    "SearchRequest": service.SearchRequest,
    "EncodeRequest": service.EncodeRequest,
}
RED = "My favorite color is red."
BOTH = [types.FEATURE_KIND_LATENT, types.FEATURE_KIND_NEURON]

# Every field


def leaves(message: Descriptor, prefix: str = "") -> Iterator[str]:
    """Paths of the fields that are not messages themselves."""
    for field in message.fields:
        if field.message_type is None:
            yield prefix + field.name
        else:
            yield from leaves(field.message_type, f"{prefix}{field.name}.")


@pytest.mark.parametrize("name", REQUESTS)
def test_every_field_either_enters_the_key_or_is_known_not_to(name: str) -> None:
    fields = set(leaves(REQUESTS[name].DESCRIPTOR))
    enter, stay_out = set(IN_KEY[name]), set(NOT_IN_KEY[name])
    assert fields - enter - stay_out == set(), "say in cache/key.py whether the answer follows from it"
    assert enter & stay_out == set()
    assert (enter | stay_out) - fields == set(), "no such field any more"
    assert all([*IN_KEY[name].values(), *NOT_IN_KEY[name].values()])


def test_both_tables_are_of_the_requests_that_are_cached() -> None:
    assert IN_KEY.keys() == NOT_IN_KEY.keys() == REQUESTS.keys()


# The keys of requests, as the server makes them


class Recorder:
    """In the place of the caches: notes under which key it is asked, and answers nothing."""

    def __init__(self) -> None:
        self.keys: list[bytes] = []

    def __contains__(self, key: bytes) -> bool:
        return True

    async def get(self, key: bytes, compute: Callable[[], Awaitable[Answer]], reads: object) -> Answer:
        self.keys.append(key)
        await asyncio.sleep(0)  # the other texts of an Encode are asked for, too
        raise Asked


class Asked(Exception):
    """Ends a request once its keys are known."""


KeysOf = Callable[[Message], list[bytes]]


@pytest.fixture(scope="module")
def served(cache_folder: object) -> tuple[Catalog, RecordStore]:
    """What the demo serves, without a worker."""
    runner, folder = build_runner(load_config(None, {"device": DEVICE}, {}))
    assert folder is not None
    return runner.catalog, RecordStore.open(folder)


@pytest.fixture(scope="module")
def keys_of(served: tuple[Catalog, RecordStore]) -> KeysOf:
    """The keys under which the answer to a request is looked up: one, or of an Encode one for each text."""
    catalog, index = served
    metrics, recorder = Metrics(), Recorder()
    scheduler = Scheduler(SlowEngine(), CostModel(catalog), WorkQueue(512), AMPLE, metrics)
    config = load_config(None, {}, {})
    desk, held = Desk(config.front_seconds, config.max_calls, metrics), Held(config.answer_bytes, metrics)
    serving = Serving(config, catalog, scheduler, desk, held, recorder, index, metrics, asyncio.Event())  # type: ignore[arg-type]

    async def ask(request: Message) -> None:
        enter_call((), None)
        with pytest.raises(Asked):
            await (search if isinstance(request, service.SearchRequest) else encode)(serving, request)  # type: ignore[operator]

    def find(request: Message) -> list[bytes]:
        recorder.keys.clear()
        asyncio.run(ask(request))
        assert recorder.keys
        return list(recorder.keys)

    return find


def searching(**changes: Any) -> service.SearchRequest:
    return service.SearchRequest(**({"input": {"text": RED}} | changes))


def including(**selector: Any) -> service.SearchRequest:
    return searching(filter={"include": selector})


def excluding(**selector: Any) -> service.SearchRequest:
    return searching(filter={"include": {"kinds": BOTH}, "exclude": selector})


def sorting(*tokens: dict[str, Any], **changes: Any) -> service.SearchRequest:
    return searching(sort_tokens=tokens, **changes)


def encoding(**changes: Any) -> service.EncodeRequest:
    return service.EncodeRequest(**({"inputs": [{"text": RED}, {"text": "blue"}], "sources": ["0-demo"]} | changes))


def chosen(*features: tuple[str, int]) -> service.EncodeRequest:
    named = [{"source": source, "index": index} for source, index in features]
    return service.EncodeRequest(inputs=[{"text": RED}], features=named)


def projecting(hook_name: str, scale: float = 1.0) -> service.EncodeRequest:
    return service.EncodeRequest(
        inputs=[{"text": RED}], projections=[service.Projection(hook_name=hook_name, vector=[scale] * 128)]
    )


def one_feature(source: str, index: int) -> dict[str, Any]:
    return {"features": [{"source": source, "index": index}]}


RELATIVE = service.RANKING_RELATIVE_TO_MAX
PAIRS: dict[str, dict[str, tuple[Message, Message]]] = {
    "SearchRequest": {
        "input.text": (searching(), searching(input={"text": "My favorite color is blue."})),
        "input.token_ids.ids": (
            searching(input={"token_ids": {"ids": [5, 6, 7]}}),
            searching(input={"token_ids": {"ids": [5, 7, 6]}}),
        ),
        "filter.include.kinds": (including(kinds=BOTH), including(kinds=BOTH[1:])),
        "filter.include.sets": (including(sets=["demo"]), including(sets=["neurons"])),
        "filter.include.sources": (including(sources=["0-demo"]), including(sources=["0-demo", "1-demo"])),
        "filter.include.layers.first": (
            including(layers=[{"first": 1, "last": 3}]),
            including(layers=[{"first": 2, "last": 3}]),
        ),
        "filter.include.layers.last": (
            including(layers=[{"first": 1, "last": 3}]),
            including(layers=[{"first": 1, "last": 2}]),
        ),
        "filter.include.features.source": (
            including(**one_feature("0-demo", 5)),
            including(**one_feature("1-demo", 5)),
        ),
        "filter.include.features.index": (
            including(**one_feature("0-demo", 5)),
            including(**one_feature("0-demo", 6)),
        ),
        "filter.exclude.kinds": (excluding(kinds=BOTH[:1]), excluding(kinds=BOTH[1:])),
        "filter.exclude.sets": (excluding(sets=["demo"]), excluding(sets=["neurons"])),
        "filter.exclude.sources": (excluding(sources=["0-demo"]), excluding(sources=["1-demo"])),
        "filter.exclude.layers.first": (
            excluding(layers=[{"first": 1, "last": 3}]),
            excluding(layers=[{"first": 2, "last": 3}]),
        ),
        "filter.exclude.layers.last": (
            excluding(layers=[{"first": 1, "last": 3}]),
            excluding(layers=[{"first": 1, "last": 2}]),
        ),
        "filter.exclude.features.source": (
            excluding(**one_feature("0-demo", 5)),
            excluding(**one_feature("1-demo", 5)),
        ),
        "filter.exclude.features.index": (
            excluding(**one_feature("0-demo", 5)),
            excluding(**one_feature("0-demo", 6)),
        ),
        "filter.min_density": (searching(filter={"min_density": 0.0}), searching(filter={"min_density": 0.01})),
        "filter.max_density": (searching(filter={"max_density": 0.5}), searching(filter={"max_density": 0.25})),
        "sort_tokens.position": (sorting({"position": 5}), sorting({"position": 4})),
        "sort_tokens.text": (sorting({"text": "red"}), sorting({"text": "color"})),
        "sort_tokens.bos": (
            sorting({"position": 5}, rank_bos=True),
            sorting({"position": 5}, {"bos": True}, rank_bos=True),
        ),
        "ranking": (searching(), searching(ranking=RELATIVE)),
        "min_fires": (searching(ranking=RELATIVE), searching(ranking=RELATIVE, min_fires=11)),
        "limit": (searching(), searching(limit=24)),
        "by_token": (searching(), searching(by_token=True)),
        "include_bos": (searching(), searching(include_bos=True)),
        "rank_bos": (
            sorting({"position": 5}, include_bos=True),
            sorting({"position": 5}, include_bos=True, rank_bos=True),
        ),
        "model": (searching(), searching(model="Demo")),
        "truncate": (searching(), searching(truncate=True)),
    },
    "EncodeRequest": {
        "inputs.text": (encoding(), encoding(inputs=[{"text": RED}, {"text": "green"}])),
        "inputs.token_ids.ids": (
            encoding(inputs=[{"token_ids": {"ids": [5, 6]}}]),
            encoding(inputs=[{"token_ids": {"ids": [5]}}]),
        ),
        "sources": (encoding(), encoding(sources=["1-demo"])),
        "features.source": (chosen(("0-demo", 5), ("0", 7)), chosen(("1-demo", 5), ("0", 7))),
        "features.index": (chosen(("0-demo", 5), ("0", 7)), chosen(("0-demo", 5), ("0", 8))),
        "projections.hook_name": (projecting("blocks.0.hook_mlp_out"), projecting("blocks.1.hook_mlp_out")),
        "projections.vector": (projecting("blocks.0.hook_mlp_out"), projecting("blocks.0.hook_mlp_out", 2.0)),
        "include_bos": (encoding(), encoding(include_bos=True)),
        "model": (encoding(), encoding(model="DEMO")),
        "truncate": (encoding(), encoding(truncate=True)),
        "omit_tokens": (encoding(), encoding(omit_tokens=True)),
    },
}


def values(message: Message, prefix: str = "") -> dict[str, list[Any]]:
    """What stands in a request, by path."""
    found: dict[str, list[Any]] = {}
    for field, value in message.ListFields():
        for one in value if field.is_repeated else [value]:
            if field.message_type is None:
                found.setdefault(prefix + field.name, []).append(one)
            else:
                for path, inner in values(one, f"{prefix}{field.name}.").items():
                    found.setdefault(path, []).extend(inner)
    return found


@pytest.mark.parametrize("name", REQUESTS)
def test_there_is_a_pair_of_requests_for_every_field(name: str) -> None:
    assert PAIRS[name].keys() == IN_KEY[name].keys() | NOT_IN_KEY[name].keys()
    for path, (one, other) in PAIRS[name].items():
        left, right = values(one), values(other)
        assert {field for field in left | right if left.get(field) != right.get(field)} == {path}


CASES = [(name, path) for name, pairs in PAIRS.items() for path in pairs]


@pytest.mark.parametrize(("name", "path"), CASES)
def test_requests_that_differ_in_one_field_have_the_keys_that_the_tables_say(
    keys_of: KeysOf, name: str, path: str
) -> None:
    one, other = PAIRS[name][path]
    assert (keys_of(one) != keys_of(other)) == (path in IN_KEY[name])


# Requests that ask the same


def ids_of(served: tuple[Catalog, RecordStore], text: str) -> list[int]:
    from saeserve_server.text.tokenizer import Tokenizer

    model = served[0].model
    return list(Tokenizer(model.tokenizer_json, model.bos_id).tokenize(text).ids)


def given_ids(ids: list[int]) -> dict[str, Any]:
    return {"token_ids": {"ids": ids}}


def test_a_text_and_its_token_ids_are_the_same_question(keys_of: KeysOf, served: tuple[Catalog, RecordStore]) -> None:
    ids = ids_of(served, RED)
    for given in (ids, [0, *ids]):
        assert keys_of(searching(input=given_ids(ids))) == keys_of(searching())
        assert keys_of(encoding(inputs=[given_ids(given), {"text": "blue"}])) == keys_of(encoding())


def test_a_text_that_is_cut_is_the_question_that_is_left_of_it(
    keys_of: KeysOf, served: tuple[Catalog, RecordStore]
) -> None:
    long = "The red fox saw a blue bird. " * 60
    left = given_ids(ids_of(served, long)[:255])
    assert keys_of(searching(input={"text": long}, truncate=True)) == keys_of(searching(input=left))
    assert keys_of(encoding(inputs=[{"text": long}], truncate=True)) == keys_of(encoding(inputs=[left]))


LATENTS = ["0-demo", "1-demo", "2-demo", "3-demo"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (including(sets=["demo"]), including(sources=LATENTS)),
        (including(sets=["demo"]), searching()),
        (including(sets=["DEMO"]), including(sources=[name.upper() for name in reversed(LATENTS)])),
        (including(sources=["0", "1"]), including(sources=["1-neurons", "0-neurons"])),
        (including(sets=["demo"]), excluding(kinds=BOTH[1:])),
        (including(kinds=BOTH, layers=[{"first": 1, "last": 2}]), including(sources=["1-demo", "1", "2-demo", "2"])),
        (including(layers=[{"first": 0, "last": 1}, {"first": 1, "last": 2}]), including(sources=LATENTS[:3])),
        (
            including(features=[{"source": "0-demo", "index": 5}, {"source": "0-demo", "index": 3}]),
            including(features=[{"source": "0-DEMO", "index": 3}, {"source": "0-demo", "index": 5}], sets=["demo"]),
        ),
        (searching(), searching(filter={}, limit=25, ranking=service.RANKING_RAW, by_token=False)),
        (searching(ranking=RELATIVE), searching(ranking=RELATIVE, min_fires=10)),
        (sorting({"text": "red"}), sorting({"position": 5}, {"text": " red"})),
        (sorting({"position": 1}, {"position": 3}), sorting({"position": 3}, {"position": 1}, {"position": 3})),
        (chosen(("0-demo", 5)), chosen(("0-DEMO", 5))),
    ],
)
def test_the_same_question_in_other_words_has_the_same_key(keys_of: KeysOf, one: Message, other: Message) -> None:
    assert keys_of(one) == keys_of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # Defaults that are not the same as what they look like.
        (searching(), sorting(*({"position": place} for place in range(7)))),
        (searching(by_token=True), sorting(*({"position": place} for place in range(7)), by_token=True)),
        (searching(filter={"min_density": 0.0}), searching()),
        (searching(filter={"max_density": 1.0}), searching(filter={"min_density": 0.0, "max_density": 1.0})),
        # The same rows rank, but other positions are told: a BOS within a text is named and does not rank.
        (
            sorting({"position": 0}, input={"token_ids": {"ids": [5, 0, 6]}}),
            sorting({"position": 0}, {"position": 1}, input={"token_ids": {"ids": [5, 0, 6]}}),
        ),
        # Order is part of what is answered.
        (chosen(("0-demo", 5), ("0-demo", 7)), chosen(("0-demo", 7), ("0-demo", 5))),
        (encoding(sources=["0-demo", "1-demo"]), encoding(sources=["1-demo", "0-demo"])),
    ],
)
def test_questions_that_are_nearly_the_same_have_other_keys(keys_of: KeysOf, one: Message, other: Message) -> None:
    assert keys_of(one) != keys_of(other)


def test_each_text_of_an_encode_has_a_key_of_its_own_whatever_stands_beside_it(keys_of: KeysOf) -> None:
    red, blue = keys_of(encoding())
    assert red != blue
    assert keys_of(encoding(inputs=[{"text": "blue"}, {"text": "green"}, {"text": RED}]))[::2] == [blue, red]


# What is served


SEARCH = SearchWork((5, 6), False, (SourceFilter(0), SourceFilter(2, (1, 2))), Aggregate.MAX, (0, 1), 25, Ranking.RAW)
ENCODE = EncodeWork((5, 6), False, (0, 2))


def both(keys: Keys) -> tuple[bytes, bytes]:
    return keys.search(SEARCH, []), keys.encode(ENCODE)


def changed(catalog: Catalog, rank: int, **changes: Any) -> Catalog:
    sources = list(catalog.sources)
    sources[rank] = replace(sources[rank], **changes)
    return replace(catalog, sources=tuple(sources))


def test_another_revision_of_anything_the_answer_follows_from_is_another_key(
    served: tuple[Catalog, RecordStore],
) -> None:
    catalog, index = served
    known = [both(Keys(catalog, index.revision))]
    assert both(Keys(catalog, index.revision)) == known[0]
    model = replace(catalog, model=replace(catalog.model, revision="another"))
    for keys in (
        Keys(catalog, "another"),
        Keys(catalog, ""),
        Keys(catalog, index.revision, "an import"),
        Keys(catalog, "", index.revision),
        Keys(model, index.revision),
        Keys(changed(catalog, 0, revision="another"), index.revision),
        Keys(changed(catalog, 2, revision="another"), index.revision),
        Keys(changed(catalog, 0, id="0-other"), index.revision),
        Keys(changed(catalog, 0, fold_decoder_norm=True), index.revision),
        Keys(changed(catalog, 0, bos_id=None), index.revision),
        Keys(changed(catalog, 2, bos_id=5), index.revision),
    ):
        found = both(keys)
        assert all(one not in {key for pair in known for key in pair} for one in found)
        known.append(found)


def test_what_another_kind_of_device_answered_is_not_taken_for_ones_own(served: tuple[Catalog, RecordStore]) -> None:
    catalog, index = served

    def keys(**changes: str) -> tuple[bytes, bytes]:
        return both(Keys(replace(catalog, model=replace(catalog.model, **changes)), index.revision))

    on_cpu, on_gpu = keys(device="cpu", dtype="float32"), keys(device="cuda:0", dtype="float32")
    in_half = keys(device="cuda:0", dtype="bfloat16")
    assert all(len({*kind}) == 3 for kind in zip(on_cpu, on_gpu, in_half, strict=True))
    assert keys(device="cuda:1", dtype="float32") == on_gpu  # which card it is does not matter


def test_what_another_kernel_computed_or_a_server_that_is_deterministic_is_kept_apart(
    served: tuple[Catalog, RecordStore],
) -> None:
    catalog, index = served
    asked, beside = catalog.sources[0].id, catalog.sources[1].id
    keys = Keys(catalog, index.revision)
    keys.computed_by({asked: "plain", beside: "plain"})
    plain = both(keys)
    keys.computed_by({asked: "plain", beside: "fbgemm-int8"})
    assert both(keys) == plain
    keys.computed_by({asked: "fbgemm-int8", beside: "plain"})
    screened = both(keys)
    assert all(one != other for one, other in zip(screened, plain, strict=True))
    other = Keys(catalog, index.revision, deterministic=True)
    other.computed_by({asked: "fbgemm-int8"})
    assert all(one != other for one, other in zip(both(other), screened, strict=True))


def test_what_is_served_beside_it_does_not_matter(served: tuple[Catalog, RecordStore]) -> None:
    """So that replicas with more or fewer sources share what both can answer."""
    catalog, index = served
    expected = both(Keys(catalog, index.revision))
    assert both(Keys(changed(catalog, 1, revision="another"), index.revision)) == expected
    fewer = replace(catalog, sources=(catalog.sources[0], catalog.sources[2]))
    search_work = replace(SEARCH, filters=(SourceFilter(0), SourceFilter(1, (1, 2))))
    keys = Keys(fewer, index.revision)
    assert (keys.search(search_work, []), keys.encode(replace(ENCODE, sources=(0, 1)))) == expected


def test_values_do_not_run_together(served: tuple[Catalog, RecordStore]) -> None:
    keys = Keys(served[0], "")
    works = [
        SEARCH,
        replace(SEARCH, ids=(5,), rows=(6, 0, 1)),
        replace(SEARCH, ids=(5, 6, 0), rows=(1,)),
        replace(SEARCH, ids=(5, 6, 0, 1), rows=()),
        replace(SEARCH, rows=(0,)),
        *(replace(SEARCH, ranking=one) for one in (Ranking.RELATIVE, Ranking.SURPRISAL)),
        replace(SEARCH, limit=24),
        replace(SEARCH, aggregate=Aggregate.SUM),
        replace(SEARCH, bos_row=True),
        replace(SEARCH, filters=(SourceFilter(0, (1, 2)), SourceFilter(2))),
        replace(SEARCH, filters=(SourceFilter(0), SourceFilter(2, None, (1, 2)))),
        replace(SEARCH, filters=(SourceFilter(0), SourceFilter(2, (1,), (2,)))),
        replace(SEARCH, filters=(SourceFilter(0, ()), SourceFilter(2, (1, 2)))),
        replace(SEARCH, filters=(SourceFilter(0, None, (), 0.5), SourceFilter(2, (1, 2)))),
        replace(SEARCH, filters=(SourceFilter(0, None, (), None, 0.5), SourceFilter(2, (1, 2)))),
        replace(SEARCH, filters=(SourceFilter(0, None, (), None, None, 0), SourceFilter(2, (1, 2)))),
    ]
    found = [keys.search(work, positions) for work in works for positions in ([], [1], [0, 1])]
    found += [
        keys.encode(work)
        for work in (
            ENCODE,
            replace(ENCODE, sources=(0,), features=((2, 5),)),
            replace(ENCODE, sources=(), features=((0, 2), (2, 5))),
            replace(ENCODE, sources=(), features=((0, 5), (2, 2))),
        )
    ]
    assert len(set(found)) == len(found)
    assert {len(key) for key in found} == {32}


def test_no_two_rows_of_numbers_run_together_even_where_one_looks_like_the_mark_between_them(
    served: tuple[Catalog, RecordStore],
) -> None:
    keys = Keys(served[0], "")
    mark, body = b"n", bytes(range(1, 8))  # the mark of numbers, and seven bytes of one
    last, first = (int.from_bytes(data, "little") for data in (body + mark, mark + body))
    one = replace(SEARCH, ids=(5,), rows=(last, 7))
    other = replace(SEARCH, ids=(5, first), rows=(7,))
    assert keys.search(one, []) != keys.search(other, [])
