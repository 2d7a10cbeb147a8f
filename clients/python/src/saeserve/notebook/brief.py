"""Every answer in one short line, as `repr` gives it: `<Hit 0-DEMO:1633 8.191 on ' red', match exact>`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch
from typing import Any

from saeserve.answers import results, types
from saeserve.answers.activations import Csr
from saeserve.answers.compare import Comparison, Peak
from saeserve.answers.contrast import Contrast, Distinction
from saeserve.answers.explanations import Explained, ExplanationSearch
from saeserve.answers.match_table import MatchRow, MatchTable
from saeserve.answers.similar import Similar, SimilarFeatures
from saeserve.answers.stretches import characters, whole_characters
from saeserve.answers.wording import counted, milliseconds, number, percent
from saeserve.arguments.printable import printable

_FIRST = 3
"""Of a list so many are named."""
_LINE = 300
"""Characters of a line."""
_TEXT = 40
"""Characters of a text."""


def brief(answer: Any) -> str:
    """The line: the type's name, and what tells this one from others. What is not seen is spelled out."""
    said = printable(words(answer))
    return f"<{type(answer).__name__} {said if len(said) <= _LINE else said[: _LINE - 1] + '…'}>"


@singledispatch
def words(answer: Any) -> str:
    """What is said of an answer. Raises TypeError for a type without words."""
    raise TypeError(f"no words for {type(answer).__name__}")


def quoted(text: str, most: int = _TEXT) -> str:
    """A text in quotes, cut where it is long; what is not seen comes spelled out."""
    text = printable(text)
    return f"'{text if len(text) <= most else text[: most - 1] + '…'}'"


def text_of(tokens: Sequence[types.Token], most: int = _TEXT) -> str:
    """The beginning of a text from its tokens, its characters whole."""
    start, end = whole_characters(tokens, 0, 4 * most)  # a character has at most 4 tokens
    return quoted("".join(text for _, text in characters(tokens[start:end])), most)


def _first(parts: Sequence[str]) -> str:
    """The first of a list, and whether there are more."""
    named = ", ".join(parts[:_FIRST])
    return f": {named}{', …' if len(parts) > _FIRST else ''}" if parts else ""


@words.register
def _(info: types.CallInfo) -> str:
    cached = {None: "", types.Cache.NONE: ", computed"}.get(info.cache, f", from cache: {info.cache}")
    return f"{milliseconds(info.total_micros)}{cached}, request {quoted(info.request_id)}"


@words.register
def _(token: types.Token) -> str:
    return f"{quoted(token.display)} id {token.id}"


@words.register
def _(usual: types.UsualToken) -> str:
    return f"{quoted(usual.token.display)} {counted(usual.count, 'time')}, max {number(usual.max_activation)}"


@words.register
def _(explanation: types.Explanation) -> str:
    score = "" if explanation.score is None else f", score {explanation.score:.2f}"
    return f"{quoted(explanation.text, 80)}{score}"


@words.register
def _(feature: types.Feature) -> str:
    usual = ", ".join(quoted(one.token.display) for one in feature.usual_tokens[:_FIRST])
    density = "" if feature.density is None else f", density {percent(feature.density)}"
    return f"{feature.name} {feature.kind} of layer {feature.layer}{density}{f', on {usual}' if usual else ''}"


@words.register
def _(source: types.Source) -> str:
    return f"{quoted(source.name)} {counted(source.n_features, source.kind)} at {quoted(source.hook_name)}"


@words.register
def _(statistics: types.Statistics) -> str:
    share = percent(statistics.density)
    fires = f"fires on {statistics.fires:,} of {statistics.tokens:,} tokens ({share})"
    return f"{fires}, max {number(statistics.max_activation)}"


@words.register
def _(record: types.Record) -> str:
    if record.max_position >= len(record.tokens):
        return number(record.max_activation)
    peak = record.max_position
    start, end = whole_characters(record.tokens, max(0, peak - 4), min(len(record.tokens), peak + 5))
    around = text_of(record.tokens[start:end], 60)
    return f"{number(record.max_activation)} on {quoted(record.tokens[record.max_position].display)} in {around}"


@words.register
def _(example: types.RecordExample) -> str:
    return f"{number(example.activation)} {quoted(example.text)}"


@words.register
def _(hit: results.Hit) -> str:
    return f"{hit.name} {number(hit.value)} on {quoted(hit.token.display)}, match {hit.match}"


@words.register
def _(row: results.TokenHits) -> str:
    named = [f"{feature} {number(value)}" for feature, value in zip(row.features, row.values, strict=True)]
    return f"{row.position} {quoted(row.token.display)}, {counted(len(named), 'feature')}{_first(named)}"


@words.register
def _(found: results.SearchResult) -> str:
    where = f"{counted(len(found.tokens), 'token')} {text_of(found.tokens)}"
    if found.token_results:
        return f"by token, for {len(found.token_results)} of {where}"
    return f"{counted(len(found), 'feature')} on {where}{_first([f'{hit.name} {number(hit.value)}' for hit in found])}"


@words.register
def _(csr: Csr) -> str:
    return f"{counted(csr.shape[0], 'token')} × {counted(csr.shape[1], 'feature')}, {counted(csr.nnz, 'value')} > 0"


def _columns(encoded: results.EncodedText | results.EncodeResult) -> str:
    if encoded.dense is not None:
        return f"× {counted(len(encoded.columns), 'feature')}{_first([printable(name) for name in encoded.columns])}"
    neurons = encoded.neurons if isinstance(encoded, results.EncodedText) else {}
    return f"× {', '.join(quoted(source.upper()) for source in (*encoded.sparse, *neurons))}"


@words.register
def _(text: results.EncodedText) -> str:
    rows = [len(block) for block in (text.dense, *text.sparse.values(), *text.neurons.values()) if block is not None]
    count = rows[0] if rows else len(text.tokens)
    return f"{counted(count, 'token')} {f'{text_of(text.tokens)} ' if text.tokens else ''}{_columns(text)}"


@words.register
def _(encoded: results.EncodeResult) -> str:
    return f"{counted(len(encoded), 'text')}, {counted(encoded.text_offsets[-1], 'token')} {_columns(encoded)}"


@words.register
def _(item: results.StreamItem) -> str:
    if item.error is not None:
        return f"{item.sequence} failed: {quoted(str(item.error), 100)}"
    return f"{item.sequence} {'without a result' if item.result is None else words(item.result)}"


@words.register
def _(page: results.TopActivations) -> str:
    more = ", more pages" if page.next_page_token else ""
    strongest = [number(record.max_activation) for record in page]
    return f"{page.name} {counted(len(page), 'record')}{_first(strongest)}{more}"


@words.register
def _(listed: results.SourceList) -> str:
    return f"{counted(len(listed), 'source')}{_first([quoted(source.name) for source in listed])}"


@words.register
def _(info: results.FeatureInfo) -> str:
    fires = "" if info.statistics is None else f", {words(info.statistics)}"
    return f"{info.name} of {quoted(info.source.hook_name)}{fires}"


@words.register
def _(tokenized: results.TokenizeResult) -> str:
    return f"{counted(len(tokenized), 'token')}{_first([quoted(token.display) for token in tokenized])}"


@words.register
def _(info: results.ServerInfo) -> str:
    features = f"{counted(info.feature_count, 'feature')} in {counted(info.source_count, 'source')}"
    return f"{quoted(info.version)} model {quoted(info.model.name)} on {quoted(info.device)}, {features}"


@words.register
def _(peak: Peak) -> str:
    return "does not fire" if peak.token is None else f"{number(peak.activation)} on {quoted(peak.token.display)}"


@words.register
def _(comparison: Comparison) -> str:
    named = _first([str(feature) for feature in comparison])
    return f"{counted(len(comparison.texts), 'text')} × {counted(len(comparison), 'feature')}{named}"


@words.register
def _(one: Distinction) -> str:
    return f"{one.name} more in {one.side.upper() or '?'}, AUC {one.auc:.2f}, q {one.q_value:.1e}"


@words.register
def _(found: Contrast) -> str:
    sides = f"{counted(found.texts_a, 'text')} of A and {found.texts_b:,} of B"
    return f"{counted(len(found), 'feature')} that tell {sides} apart{_first([str(one.name) for one in found])}"


@words.register
def _(one: Explained) -> str:
    return f"{one.name} {quoted(one.explanation.text, 80)}"


@words.register
def _(page: ExplanationSearch) -> str:
    named = _first([f"{one.name} {quoted(one.explanation.text, 30)}" for one in page])
    return f"{counted(len(page), 'explanation')}{named}{', more pages' if page.next_page_token else ''}"


@words.register
def _(row: MatchRow) -> str:
    return f"text {row.text}, {row.kind}s of layer {row.layer}: {row.matched} of {row.features} match"


@words.register
def _(table: MatchTable) -> str:
    layers = counted(len(table.layers), "layer")
    return f"{counted(len(table.texts), 'text')}, {layers}, {', '.join(f'{kind}s' for kind in table.kinds)}"


@words.register
def _(one: Similar) -> str:
    return f"{one.name} {one.value:.3f}"


@words.register
def _(found: SimilarFeatures) -> str:
    return f"to {found.feature or 'a vector'}: {len(found)}{_first([f'{one.name} {one.value:.3f}' for one in found])}"
