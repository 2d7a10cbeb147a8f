"""One function for each command: it builds the call that the client makes too, sends it, and prints the answer."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from typing import Any

from saeserve.answers.as_json import as_json
from saeserve.answers.types import Kind
from saeserve.calls import request
from saeserve.calls.request import Call
from saeserve.calls.steps import Steps
from saeserve.cli import compare, completion, contrast, encode_file, explanations, match, similar, vector, web
from saeserve.cli.options import connection
from saeserve.cli.printing import json_text
from saeserve.cli.values import listed, read_texts
from saeserve.client import Client

_COMPOSED: dict[str, Callable[[argparse.Namespace], Steps[Any]]] = {"compare": compare.steps, "match": match.steps}

FEATURE = re.compile(r"\d+(-[\w.-]+)?:\d+")


class BadAnswer(Exception):
    """The server's answer makes no sense, and cannot be shown."""


def run(arguments: argparse.Namespace) -> int:
    """Run the command that was asked for, and return its exit code where it did not fail.

    Raises SaeserveError, ValueError for wrong arguments, BadAnswer and Ended.
    """
    if arguments.command == "completion":
        sys.stdout.write(completion.script(arguments.shell))
        return 0
    if arguments.command == "web":
        return web.run(arguments, connection(arguments))
    if arguments.command in _COMPOSED:
        _run_composed(arguments)
        return 0
    if arguments.command == "encode" and encode_file.asked(arguments):
        encode_file.run(arguments, lambda: Client(timeout=arguments.timeout, **connection(arguments)))
        return 0
    build: Callable[[argparse.Namespace], Call[Any]] = {
        "search": search,
        "encode": encode,
        "top": top,
        "similar": similar.call,
        "vector": vector.call,
        "explanations": explanations.call,
        "contrast": contrast.call,
        "feature": feature,
        "sources": sources,
        "tokenize": tokenize,
        "info": info,
    }[arguments.command]
    call = build(arguments)
    with Client(timeout=arguments.timeout, **connection(arguments)) as client:
        if arguments.wait is not None:
            client.wait_ready(arguments.wait)
        answer = client._invoke(call)
    try:
        _show(call, answer, arguments)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # whatever a server may have made of its answer
        raise BadAnswer(f"{type(error).__name__}: {error}") from error
    return 0


def _run_composed(arguments: argparse.Namespace) -> None:
    """Of commands whose answer is put together here: what they print is no message of the service."""
    steps: Steps[Any] = _COMPOSED[arguments.command](arguments)
    with Client(timeout=arguments.timeout, **connection(arguments)) as client:
        if arguments.wait is not None:
            client.wait_ready(arguments.wait)
        result = client._drive(steps)
    if arguments.command == "match" and arguments.plot is not None:
        result.plot(arguments.plot)
    if arguments.json:
        print(json_text(result.as_dict(), sys.stdout.encoding or "utf-8"))
        return
    from saeserve.cli import show

    show.answer(result, arguments)


def _show(call: Call[Any], answer: Any, arguments: argparse.Namespace) -> None:
    if arguments.command == "sources" and arguments.kind != "all":
        _keep_kind(answer, arguments.kind)
    if arguments.json:
        print(json_text(as_json(answer), sys.stdout.encoding or "utf-8"))
        return
    from saeserve.cli import show  # rich is loaded only where there is something to draw

    show.answer(call.read(answer), arguments)


def search(arguments: argparse.Namespace) -> Call[Any]:
    return request.search(
        _text(arguments),
        ids=arguments.ids,
        kinds=arguments.kind,
        sets=listed(arguments.sets),
        sources=listed(arguments.sources),
        layers=listed(arguments.layers),
        features=listed(arguments.features),
        exclude_sets=listed(arguments.exclude_sets),
        exclude_sources=listed(arguments.exclude_sources),
        exclude_layers=listed(arguments.exclude_layers),
        exclude_features=listed(arguments.exclude_features),
        min_density=arguments.min_density,
        max_density=arguments.max_density,
        sort=[*arguments.sort, *arguments.sort_position],
        ranking=arguments.ranking,
        min_fires=arguments.min_fires,
        limit=arguments.limit,
        by_token=arguments.by_token,
        include_bos=arguments.include_bos,
        rank_bos=arguments.rank_bos,
        sort_bos=arguments.sort_bos,
        truncate=arguments.truncate,
    )


def encode(arguments: argparse.Namespace) -> Call[Any]:
    """Features come first, texts after them; with --text all positionals are features, with --sources texts."""
    features: list[str] | None = None
    if arguments.sources is not None:
        texts = [*(arguments.text or []), *arguments.arguments]
    elif arguments.text is not None:
        features, texts = arguments.arguments, arguments.text
    else:
        features, texts = arguments.arguments[:1], arguments.arguments[1:]
        if any(FEATURE.fullmatch(text) for text in texts[:-1]):
            raise ValueError("join features with commas (0-DEMO:1633,0-DEMO:1217), or give the texts with --text")
    if not texts or features == []:
        raise ValueError("encode needs features (or --sources) and at least one text (see saeserve encode --help)")
    return request.encode(
        read_texts(texts),
        sources=listed(arguments.sources),
        features=listed(features),
        include_bos=arguments.include_bos,
        truncate=arguments.truncate,
    )


def top(arguments: argparse.Namespace) -> Call[Any]:
    return request.top_activations(
        arguments.feature,
        group=arguments.group,
        diversity=arguments.diversity,
        threshold=arguments.threshold,
        origin=arguments.origin,
        page_size=arguments.count,
        page_token=arguments.page_token,
    )


def feature(arguments: argparse.Namespace) -> Call[Any]:
    return request.get_feature(arguments.feature)


def sources(arguments: argparse.Namespace) -> Call[Any]:
    return request.list_sources()


def tokenize(arguments: argparse.Namespace) -> Call[Any]:
    return request.tokenize(_text(arguments), ids=arguments.ids)


def info(arguments: argparse.Namespace) -> Call[Any]:
    return request.server_info()


def _text(arguments: argparse.Namespace) -> str | None:
    return None if arguments.text is None else read_texts([arguments.text])[0]


def _keep_kind(answer: Any, kind: str) -> None:
    """Leave only sources of one kind. There are few: the server has no filter for them."""
    from saeserve.answers.convert import source as convert

    kept = [source for source in answer.sources if convert(source).kind is Kind(kind)]
    del answer.sources[:]
    answer.sources.extend(kept)
