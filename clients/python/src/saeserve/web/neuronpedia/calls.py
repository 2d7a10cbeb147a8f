"""Each call by the RPCs that answer it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from saeserve.answers import reading
from saeserve.answers.activations import Floats
from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1 import types_pb2 as types
from saeserve.web.forwarding import Asked
from saeserve.web.gateway import Gateway
from saeserve.web.neuronpedia import answers
from saeserve.web.neuronpedia.requests import Wrong
from saeserve.web.neuronpedia.served import Served, is_neurons

MOST_PROMPTS = 4
MOST_RESULTS = 1000
MOST_TOP_K = 20
MOST_SIMILAR = 128

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """One request: who asks, what is served, how many tokens a prompt may have."""

    gateway: Gateway
    asked: Asked
    served: Served
    token_limit: float

    @property
    def lead(self) -> list[types.Token]:
        """The BOS; none for a model without one."""
        return [] if self.served.bos is None else [self.served.bos]

    async def ask(self, method: str, message: Any) -> Any:
        """An RPC. Raises SaeserveError."""
        return await self.gateway.ask(self.asked, method, message)

    async def tokens(self, text: str, limit: float | None = None) -> list[types.Token]:
        """The tokens of a prompt, its BOS first. Raises Wrong for one that is too long."""
        found = await self.ask("Tokenize", service.TokenizeRequest(input=types.Input(text=text)))
        count = len(found.tokens) + len(self.lead)
        most = self.token_limit if limit is None else limit
        if count > most:
            raise Wrong(f"Text too long: {count} tokens, max is {most:g}")
        return list(found.tokens)


Fields = Mapping[str, Any]


# activation/all


async def all_(call: Call, fields: Fields) -> dict[str, Any]:
    """The features that fire most on a prompt."""
    return await _all_of(call, fields, fields["prompt"], None)


async def all_batch(call: Call, fields: Fields) -> dict[str, Any]:
    """The same of several, each by itself."""
    prompts, limit = _prompts(fields), call.token_limit / MOST_PROMPTS
    return {"results": await _together([_all_of(call, fields, prompt, limit) for prompt in prompts])}


async def _all_of(call: Call, fields: Fields, prompt: str, limit: float | None) -> dict[str, Any]:
    sources = call.served.chosen(fields["source_set"], fields["selected_sources"])
    if fields["num_results"] < 1:
        raise Wrong(f"numResults is {fields['num_results']}: at least 1 is expected")
    tokens = await call.tokens(prompt, limit)
    lead = int(call.served.leads(sources))
    asked = _All(
        prompt=prompt,
        sources=sources,
        count=call.served.at_most(min(fields["num_results"], MOST_RESULTS)),
        indexes=_sort_indexes(fields, lead + len(tokens)),
        ignored=bool(fields["ignore_bos"] and lead),
    )
    found = await _ranked(call, asked, lead)
    asked = replace(asked, ignored=bool(fields["ignore_bos"] and found.bos_included))
    activations = []
    for one in found.results:
        values = asked.shown(np.array(one.activations, np.float32))
        feature, summed = one.facts.feature, one.value if asked.indexes else 0.0
        activations.append(answers.activation(feature.source, feature.index, values, summed))
    activations += await _without_value(call, asked, found)
    return {"activations": activations, "tokens": answers.strings(found.tokens), "counts": None}


@dataclass(frozen=True, slots=True)
class _All:
    """What is asked of one prompt."""

    prompt: str
    sources: Sequence[types.Source]
    count: int
    indexes: Sequence[int]
    """Rows to sort by."""
    ignored: bool
    """Whether the BOS row counts as 0."""

    def shown(self, values: Floats) -> Floats:
        """Values [rows, …] as they count; written into."""
        if self.ignored:
            values[0] = 0
        return values


async def _ranked(call: Call, asked: _All, lead: int) -> service.SearchResponse:
    """What fires, ranked by the server."""
    by_nothing = asked.ignored and list(asked.indexes) == [0]  # by a row of zeros nothing has a value
    request = service.SearchRequest(
        input=types.Input(text=asked.prompt),
        filter=service.Filter(include=service.FeatureSelector(sources=[source.id for source in asked.sources])),
        include_bos=True,
        rank_bos=not asked.ignored,
        limit=1 if by_nothing else asked.count,
    )
    for index in asked.indexes:
        if index >= lead:
            request.sort_tokens.add(position=index - lead)
        elif not asked.ignored:
            request.sort_tokens.add(bos=True)
    found: service.SearchResponse = await call.ask("Search", request)
    if by_nothing:
        del found.results[:]
    return found


def _sort_indexes(fields: Fields, rows: int) -> list[int]:
    """Raises Wrong for an index that is none of the prompt's, or that stands twice."""
    given: list[int] = fields["sort_by_token_indexes"]
    for index in given:
        if not 0 <= index < rows:
            raise Wrong(
                f"Sort by token index {index} is out of range for the given prompt, which only has {rows} tokens."
            )
    if len(set(given)) != len(given):
        raise Wrong("sortByTokenIndexes holds an index twice: each is counted once")
    return given


async def _without_value(call: Call, asked: _All, found: service.SearchResponse) -> list[dict[str, Any]]:
    """Rows of latents whose value is 0, as many as are missing: source after source, by index. Neurons, which may be
    below 0, have none."""
    taken: dict[str, set[int]] = {}
    for one in found.results:
        taken.setdefault(one.facts.feature.source, set()).add(one.facts.feature.index)
    names: list[tuple[str, int]] = []
    for source in asked.sources:
        if not is_neurons(source):
            left = asked.count - len(found.results) - len(names)
            more = answers.following(taken.get(source.id, set()), left, source.n_features)
            names += [(source.id, index) for index in more]
    if not names:
        return []
    columns = np.zeros((len(found.tokens), len(names)), np.float32)
    if asked.indexes:  # they may fire on other tokens
        most = call.served.info.limits.max_features or len(names)
        for first in range(0, len(names), most):
            some = slice(first, first + most)
            values = await _columns(call, asked.prompt, names[some])
            columns[len(columns) - len(values) :, some] = values  # sources without a BOS may have no row for it
        columns = asked.shown(columns)
    return [answers.activation(*name, columns[:, place], 0.0) for place, name in enumerate(names)]


async def _columns(call: Call, prompt: str, names: Sequence[tuple[str, int]]) -> Floats:
    """[rows, features], with that of the BOS."""
    found = await call.ask("Encode", _encoding([prompt], features=names, omit_tokens=True))
    return reading.dense(found.dense)


def _encoding(prompts: Sequence[str], features: Sequence[tuple[str, int]] = (), **more: Any) -> service.EncodeRequest:
    return service.EncodeRequest(
        inputs=[types.Input(text=prompt) for prompt in prompts],
        features=[types.FeatureId(source=source, index=index) for source, index in features],
        include_bos=True,
        **more,
    )


# activation/single


async def single(call: Call, fields: Fields) -> dict[str, Any]:
    """One feature's activations on a prompt, or its projections on a vector."""
    (found,) = await _single_of(call, fields, [fields["prompt"]], call.token_limit)
    return found


async def single_batch(call: Call, fields: Fields) -> dict[str, Any]:
    """The same of several prompts."""
    return {"results": await _single_of(call, fields, _prompts(fields), call.token_limit / MOST_PROMPTS)}


async def _single_of(call: Call, fields: Fields, prompts: Sequence[str], limit: float) -> list[dict[str, Any]]:
    by_name = fields["source"] is not None and fields["index"] is not None
    if by_name == (fields["vector"] is not None and fields["hook"] is not None):
        raise Wrong("Invalid request data: exactly one of layer/index or vector must be provided")
    await _together([call.tokens(prompt, limit) for prompt in prompts])
    keeps_bos = True
    if by_name:
        source = call.served.source(fields["source"])
        keeps_bos = is_neurons(source)
        request = _encoding(prompts, [(source.id, _index(fields["index"]))])
    else:
        on = service.Projection(hook_name=fields["hook"], vector=fields["vector"])
        request = _encoding(prompts, projections=[on])
    found = await call.ask("Encode", request)
    column, ends = reading.dense(found.dense)[:, 0], found.text_offsets
    return [
        _single_answer(call.served, text, column[start:end], keeps_bos)
        for text, start, end in zip(found.texts, ends, ends[1:], strict=False)
    ]


def _single_answer(served: Served, text: service.EncodedText, values: Floats, keeps_bos: bool) -> dict[str, Any]:
    """Of a latent every BOS is 0, and the leading one is left out."""
    tokens: Sequence[types.Token] = text.tokens
    if not keeps_bos and text.bos_included:
        ids = np.array([token.id for token in tokens])
        tokens, values = tokens[1:], np.where(ids == ids[0], np.float32(0), values)[1:]
    return answers.single(values, tokens, served.special)


def _index(given: str) -> int:
    if not (given.isascii() and given.isdigit() and len(given) < 10):
        raise Wrong(f"index is {given[:40]!r}: the number of a feature is expected")
    return int(given)


# activation/topk-by-token


async def topk(call: Call, fields: Fields) -> dict[str, Any]:
    """The top features of each token."""
    return await _topk_of(call, fields, fields["prompt"], None)


async def topk_batch(call: Call, fields: Fields) -> dict[str, Any]:
    """The same of several prompts."""
    prompts, limit = _prompts(fields), call.token_limit / MOST_PROMPTS
    return {"results": await _together([_topk_of(call, fields, prompt, limit) for prompt in prompts])}


async def _topk_of(call: Call, fields: Fields, prompt: str, limit: float | None) -> dict[str, Any]:
    source = call.served.source(fields["source"])
    count = max(1, min(fields["top_k"], call.served.at_most(MOST_TOP_K), source.n_features))
    await call.tokens(prompt, limit)
    request = service.SearchRequest(
        input=types.Input(text=prompt),
        filter=service.Filter(include=service.FeatureSelector(sources=[source.id])),
        rank_bos=True,
        by_token=True,
        limit=count,
    )
    found = await call.ask("Search", request)
    by_row = {one.position: one for one in found.token_results}
    first = 1 if fields["ignore_bos"] and found.bos_included else 0
    rows = []
    for place, token in list(enumerate(found.tokens))[first:]:
        one = by_row.get(place, service.TokenResult())
        top = [
            (found.features[number].feature.index, value)
            for number, value in zip(one.features, one.values, strict=True)
        ]
        if not is_neurons(source):
            missing = answers.following({index for index, _ in top}, count - len(top), source.n_features)
            top += [(index, 0.0) for index in missing]
        rows.append(answers.top_of_token(place, token, call.served.special, top))
    return {"tokens": answers.strings(found.tokens[first:]), "results": rows}


# activation/source


async def source(call: Call, fields: Fields) -> dict[str, Any]:
    """Everything that fires of a source."""
    prompts = _prompts(fields)
    asked = call.served.autoencoder(fields["source"])
    limit = call.token_limit / (1 if len(prompts) == 1 else MOST_PROMPTS)
    await _together([call.tokens(prompt, limit) for prompt in prompts])
    found = await call.ask("Encode", _encoding(prompts, sources=[asked.id]))
    rows, ends = reading.sparse(found.sparse[0]), found.text_offsets
    return {
        "results": [
            {
                "tokens": answers.strings(text.tokens),
                "activeFeatures": answers.active_features(rows[start:end], int(text.bos_included)),
            }
            for text, start, end in zip(found.texts, ends, ends[1:], strict=False)
        ]
    }


# tokenize, util


async def tokenize(call: Call, fields: Fields) -> dict[str, Any]:
    """A text's tokens, with a BOS if it is asked for, or if the model has one."""
    tokens = await call.tokens(fields["text"])
    prepends = bool(call.lead) and fields["prepend_bos"] is not False
    # A BOS that the text itself begins with is no token of our answer: before the first token stand its bytes.
    is_led = bool(call.lead) and (tokens[0].start > 0 if tokens else True)
    shown = [*call.lead * (prepends + is_led), *tokens]
    return {
        "tokens": [token.id for token in shown],
        "tokenStrings": answers.strings(shown),
        "prependBos": prepends,
    }


async def vector(call: Call, fields: Fields) -> dict[str, Any]:
    """A latent's encoder column."""
    asked = call.served.autoencoder(fields["source"])
    request = service.GetVectorsRequest(
        feature=types.FeatureId(source=asked.id, index=_number(fields["index"])), side=service.VECTOR_SIDE_ENCODER
    )
    found = await call.ask("GetVectors", request)
    return {"vector": list(found.encoder.values), "hookName": found.encoder.hook_name}


async def similar(call: Call, fields: Fields) -> dict[str, Any]:
    """The latents of a source whose decoder rows point most nearly where a feature's, or a vector, does."""
    feature, given = fields["feature"], fields["vector"]
    if (feature is None) == (given is None):
        raise Wrong("Invalid request data: exactly one of feature or vector must be provided")
    asked = call.served.autoencoder(fields["source"])
    count = max(1, min(fields["num_results"], call.served.at_most(MOST_SIMILAR), asked.n_features))
    request = service.SimilarFeaturesRequest(
        filter=service.Filter(include=service.FeatureSelector(sources=[asked.id])), limit=count
    )
    if feature is None:
        request.vector.extend(given)
    else:
        request.feature.CopyFrom(types.FeatureId(source=asked.id, index=_number(feature["index"])))
    found = await call.ask("SimilarFeatures", request)
    rows = answers.similar(dict(fields), fields["model"], fields["source"], found.similar)
    return {"feature": feature, "topkDecoderCossimFeatures": rows[:count]}


def _number(given: int) -> int:
    if not 0 <= given < 2**32:
        raise Wrong(f"index is {given}: the number of a feature is expected")
    return given


# What the model can do


def capabilities(served: Served, token_limit: int) -> dict[str, Any]:
    """What this face of the service answers. Advisory, in snake_case as it always was."""
    info = served.info
    return {
        "model": info.model.name,
        "backend": "saeserve",
        "device": info.device,
        "max_tokens": token_limit,
        "token_limit": token_limit,
        "activation_token_limit": token_limit,
        "max_num_results": served.at_most(MOST_RESULTS),
        "num_layers": info.model.n_layers,
        "sae_sets": sorted({source.set for source in served.sources.values()}),
        "endpoints": {
            "tokenize": True,
            "activation_single": True,
            "activation_all": True,
            "activation_source": True,
            "activation_raw": False,
            "activation_topk_by_token": True,
            "activation_attention": False,
            "dfa": False,
            "steer_completion": False,
            "steer_completion_chat": False,
            "lens_logit": False,
            "lens_jacobian": False,
            "neurons": any(map(is_neurons, served.sources.values())),
        },
    }


CALLS: Mapping[str, Callable[[Call, Fields], Awaitable[dict[str, Any]]]] = {
    "activation/all": all_,
    "activation/all-batch": all_batch,
    "activation/single": single,
    "activation/single-batch": single_batch,
    "activation/topk-by-token": topk,
    "activation/topk-by-token-batch": topk_batch,
    "activation/source": source,
    "tokenize": tokenize,
    "util/sae-vector": vector,
    "util/sae-topk-by-decoder-cossim": similar,
}


def _prompts(fields: Fields) -> list[str]:
    prompts: list[str] = fields["prompts"]
    if not prompts:
        raise Wrong("At least one prompt is required")
    if len(prompts) > MOST_PROMPTS:
        raise Wrong(f"Batch size {len(prompts)} exceeds maximum of {MOST_PROMPTS}")
    return prompts


async def _together(waits: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all, or the first error, the others cancelled."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
