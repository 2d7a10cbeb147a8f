"""What the commands other than `search` draw."""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from saeserve.answers import results
from saeserve.answers.activations import Floats
from saeserve.answers.compare import Comparison
from saeserve.answers.contrast import Contrast
from saeserve.answers.explanations import ExplanationSearch
from saeserve.answers.match_table import MatchTable
from saeserve.answers.similar import SimilarFeatures
from saeserve.answers.types import HistogramBin
from saeserve.answers.vectors import Vectors
from saeserve.cli.screen import Screen, facts, milliseconds, number, percent
from saeserve.cli.shading import column as cell
from saeserve.cli.shading import label
from saeserve.cli.show_compare import compare
from saeserve.cli.show_contrast import contrast
from saeserve.cli.show_explanations import explanations, told
from saeserve.cli.show_match import match
from saeserve.cli.show_search import search
from saeserve.cli.show_similar import similar
from saeserve.cli.show_top import top
from saeserve.cli.vector import show as vectors

_ON = 12
_BAR = 30
_SPARSE_FEATURES = 4
_FIRING = 6


def answer(result: Any, arguments: argparse.Namespace) -> None:
    """Draw any answer."""
    screen = Screen(full=getattr(arguments, "full", False))
    match result:
        case results.SearchResult():
            search(result, screen, ranking=arguments.ranking)
        case results.EncodeResult() if result.dense is not None:
            _dense(result, screen)
        case results.EncodeResult():
            _sparse(result, screen)
        case results.TopActivations():
            top(result, screen, arguments)
        case Comparison():
            compare(result, screen, full=arguments.full)
        case MatchTable():
            match(result, screen)
        case SimilarFeatures():
            similar(result, screen)
        case Vectors():
            vectors(result, screen)
        case ExplanationSearch():
            explanations(result, screen)
        case Contrast():
            contrast(result, screen)
        case results.FeatureInfo():
            _feature(result, screen)
        case results.SourceList():
            _sources(result, screen)
        case results.TokenizeResult():
            _tokens(result, screen)
        case results.ServerInfo():
            _info(result, screen)


def _dense(result: results.EncodeResult, screen: Screen) -> None:
    """For each feature the texts below each other, shaded on one scale, so that they can be compared."""
    for place, name in enumerate(result.features):
        columns = [text.dense[:, place] for text in result.texts if text.dense is not None]
        scale = max((_peak(column, text)[1] for column, text in zip(columns, result.texts, strict=True)), default=0.0)
        if place:
            screen.line()
        screen.line(str(name), "bold")
        screen.line(f"{'max':>8}  {'on':<{_ON}}  text", "bold")
        for activations, text in zip(columns, result.texts, strict=True):
            _one_text(text, activations, scale, screen)


def _one_text(text: results.EncodedText, activations: Floats, scale: float, screen: Screen) -> None:
    peak, largest = _peak(activations, text)
    fires = largest > 0
    prefix = f"{number(largest):>8}  {cell(label(text.tokens[peak]) if fires else '-', _ON)}  "
    screen.tokens(text.tokens, activations, scale, peak if fires else None, prefix=prefix)
    firing = [place for place in np.flatnonzero(activations > 0) if place >= text.bos_included]
    if len(firing) > 1:
        strongest = sorted(firing, key=lambda place: -activations[place])[:_FIRING]
        where = "  ".join(f"{label(text.tokens[p])} {number(float(activations[p]))}" for p in sorted(strongest))
        more = "  ..." if len(firing) > _FIRING else ""
        screen.wrapped(f"fires on {len(firing)} of {len(text.tokens)} tokens: {where}{more}", "dim", indent=10)
    if text.truncated:
        screen.wrapped("the text was cut to the token limit", "dim", indent=10)


def _peak(activations: Floats, text: results.EncodedText) -> tuple[int, float]:
    """Where a feature is largest on a text, BOS left out, and how large."""
    first = int(text.bos_included)
    peak = first + int(np.argmax(activations[first:]))
    return peak, float(activations[peak])


def _sparse(result: results.EncodeResult, screen: Screen) -> None:
    """For each text and source: on each token how many latents fire, and which do most."""
    for place, text in enumerate(result.texts):
        for source, csr in text.sparse.items():
            screen.line(f"text {place}, {source.upper()}: {csr.nnz} of {csr.shape[0]} x {csr.shape[1]}", "bold")
            rows = []
            for position, token in enumerate(text.tokens):
                indices, values = csr.row(position)
                order = np.argsort(-values, kind="stable")[:_SPARSE_FEATURES]
                strongest = "  ".join(f"{indices[i]} {number(float(values[i]))}" for i in order)
                rows.append([str(position), label(token, 16), str(len(indices)), strongest])
            screen.table(["#", "token", "fire", "strongest latents"], rows, right=(0, 2))


def _feature(result: results.FeatureInfo, screen: Screen) -> None:
    feature, source = result.feature, result.source
    screen.line(facts(feature), "bold")
    rows: list[tuple[str, object]] = [("source", f"{source.name}, {source.architecture} at {source.hook_name}")]
    if result.dead is not None:
        rows.append(("dead", "yes, it never fires" if result.dead else "no"))
    if result.decoder_norm is not None:
        rows.append(("decoder norm", number(result.decoder_norm)))
    rows += [("explained", told(one)) for one in feature.explanations]
    statistics = result.statistics
    if statistics is None:
        screen.pairs([*rows, ("index", "none: no statistics, no records")])
        return
    share = percent(statistics.density)
    rows.append(("fires on", f"{statistics.fires:,} of {statistics.tokens:,} tokens ({share})"))
    if statistics.texts:
        texts = f"{statistics.fires_in_texts:,} of {statistics.texts:,} texts"
        rows.append(("in", f"{texts}, in {statistics.blocks:,} blocks of them"))
    rows.append(("activation", f"mean {number(statistics.mean_activation)}, max {number(statistics.max_activation)}"))
    if statistics.top_tokens:
        rows.append(("peaks on", "  ".join(f"{label(t.token)} ({t.count})" for t in statistics.top_tokens)))
    screen.pairs(rows)
    powers = _by_power(statistics.histogram)
    most = max((count for _, count in powers), default=0)
    for power, count in powers:
        bar = "#" * max(1, round(_BAR * count / most))
        screen.line(f"  {2.0**power:>10.4g} to {2.0 ** (power + 1):<10.4g} {bar:<{_BAR}} {count:,}")


def _by_power(histogram: Sequence[HistogramBin]) -> list[tuple[int, int]]:
    """Powers of two of a finer histogram, ascending, with how many activations lie in each; the empty are left out."""
    counts: Counter[int] = Counter()
    for bin_ in histogram:
        counts[math.frexp(bin_.lower or bin_.upper)[1] - 1] += bin_.count
    return sorted((power, count) for power, count in counts.items() if count)


def _sources(result: results.SourceList, screen: Screen) -> None:
    rows = [
        [
            source.name,
            str(source.layer),
            source.kind,
            f"{source.n_features:,}",
            "-" if source.dead_features is None else f"{source.dead_features:,}",
            source.architecture,
            source.hook_name,
        ]
        for source in result.sources
    ]
    header = ["source", "layer", "kind", "features", "dead", "architecture", "hook point"]
    if len({source.bos_id for source in result.sources}) > 1:
        header.insert(5, "BOS")
        for row, source in zip(rows, result.sources, strict=True):
            row.insert(5, "none" if source.bos_id is None else str(source.bos_id))
    screen.table(header, rows, right=(1, 3, 4))
    for source in result.sources:
        for warning in source.warnings:
            screen.wrapped(f"{source.name}: {warning}", "dim")


def _tokens(result: results.TokenizeResult, screen: Screen) -> None:
    rows = [[str(i), str(t.id), str(t.start), str(t.end), label(t)] for i, t in enumerate(result.tokens)]
    screen.table(["#", "id", "start", "end", "token"], rows, right=(0, 1, 2, 3))
    bos = "no BOS" if result.bos_id is None else f"BOS {result.bos_id} is prepended by the server"
    screen.wrapped(f"{len(rows)} tokens; {bos}{'; over the limit of a search' if result.over_limit else ''}", "dim")


def _kernels(result: results.ServerInfo) -> str:
    """How latents are computed, by the number of SAEs."""
    counts = Counter(result.kernels.values())
    found = ", ".join(f"{kernel} for {count} SAEs" for kernel, count in sorted(counts.items())) or "none"
    return f"{found}; answers are the same to the bit in every batch" if result.deterministic else found


def _info(result: results.ServerInfo, screen: Screen) -> None:
    model, index, limits = result.model, result.index, result.limits
    batch = f"at most {limits.batch_tokens:,} tokens"
    if limits.max_batch:
        batch += f", {limits.max_batch:,} requests"
    screen.pairs(
        [
            (
                "server",
                f"{result.version} on {result.device}, answered in {milliseconds(result.call_info.total_micros)}",
            ),
            ("model", f"{model.name}: {model.n_layers} layers, d_model {model.d_model}, revision {model.revision}"),
            ("", f"context {model.context_tokens} tokens, vocabulary {model.vocabulary:,}, BOS {model.bos_id}"),
            ("features", f"{result.feature_count:,} in {result.source_count} sources"),
            ("kernels", _kernels(result)),
            (
                "index",
                "none"
                if index is None
                else f"{index.texts:,} texts, {index.tokens:,} tokens, {index.records_per_feature} records a feature, "
                f"revision {index.revision}",
            ),
            *(
                (
                    "" if place else "imported",
                    f"{one.name} ({one.format}): {one.records:,} records of {one.features:,} features, "
                    f"{one.explanations:,} explanations",
                )
                for place, one in enumerate(result.imports)
            ),
            ("text", f"at most {limits.max_text_bytes:,} bytes and {limits.max_tokens:,} tokens"),
            ("search", f"at most {limits.max_limit:,} features, {limits.default_limit} by default"),
            ("encode", f"at most {limits.max_inputs:,} texts, {limits.max_features:,} features by name"),
            ("messages", f"requests {limits.max_request_bytes:,} bytes, answers {limits.max_answer_bytes:,} bytes"),
            (
                "calls",
                f"at most {limits.max_calls:,} at a time, {limits.max_streams:,} of them streams, "
                f"{limits.max_concurrent_streams:,} on one connection",
            ),
            ("batch", batch),
            (
                "queue",
                f"at most {limits.queue_items:,} texts, {limits.queue_gflop:,.0f} GFLOP, {limits.queue_bytes:,} bytes",
            ),
            (
                "front end",
                f"at most {limits.front_seconds:g} s of work and {limits.answer_bytes:,} bytes of answers; "
                f"memory under {limits.most_memory_bytes:,} bytes",
            ),
        ]
    )
