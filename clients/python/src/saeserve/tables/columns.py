"""The columns of each answer's table, for whichever library.

| answer | a row is |
|---|---|
| SearchResult | a hit; asked by token: one of the top features of one token |
| EncodeResult, EncodedText with chosen features | a token of a text, with a column for each feature (wide) |
| EncodeResult, EncodedText with sources | a token and a feature that fires on it (long); of neurons every value but 0 |
| Comparison | a feature, a row of aligned tokens, and a text that has a token there |
| TopActivations | a record, with its window's tokens and activations as lists |
| SimilarFeatures, Contrast, ExplanationSearch | a feature |
| MatchTable | a text, a layer and a kind |
| SourceList, TokenizeResult | a source; a token |

Wherever a feature stands there are also its source, index, layer, kind, density, largest activation, usual tokens and
best explanation. `token` is what is displayed, `position` counts a text's rows from 0, the BOS among them if it was
asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import singledispatch
from itertools import chain
from typing import Any, TypeAlias

from saeserve.answers import results
from saeserve.answers.compare import Comparison
from saeserve.answers.contrast import Contrast
from saeserve.answers.explanations import ExplanationSearch
from saeserve.answers.match_table import MatchTable
from saeserve.answers.similar import SimilarFeatures
from saeserve.answers.types import Feature
from saeserve.tables import activations


class Holds(Enum):
    """What the cells of a column hold; None where a value is not known."""

    TEXT = "text"
    INTEGER = "integer"
    MAYBE = "integer or None"
    FLOAT = "float64"
    FLOAT32 = "float32"
    FLAG = "True or False"
    TEXTS = "texts"
    FLOATS = "float32s"


@dataclass(frozen=True, slots=True)
class Column:
    """One column."""

    holds: Holds
    values: Any
    """A list, or a NumPy array."""


Columns: TypeAlias = dict[str, Column]
Schema: TypeAlias = Mapping[str, Holds]

_RANK = {"rank": Holds.INTEGER}
_FACTS = {
    "feature": Holds.TEXT,
    "source": Holds.TEXT,
    "index": Holds.INTEGER,
    "layer": Holds.INTEGER,
    "kind": Holds.TEXT,
    "density": Holds.FLOAT,
    "index_max_activation": Holds.FLOAT,
    "usual_tokens": Holds.TEXTS,
    "explanation": Holds.TEXT,
}


def _facts(feature: Feature) -> tuple[Any, ...]:
    return (
        str(feature.name),
        feature.name.source,
        feature.name.index,
        feature.layer,
        feature.kind.value,
        feature.density,
        feature.index_max_activation,
        [usual.token.display for usual in feature.usual_tokens],
        feature.explanations[0].text if feature.explanations else None,
    )


def _table(schema: Schema, rows: Iterable[Sequence[Any]]) -> Columns:
    """Rows turned into columns, which are there without a row too."""
    filled = list(rows)
    turned = zip(*filled, strict=True) if filled else (() for _ in schema)
    return {name: Column(holds, list(values)) for (name, holds), values in zip(schema.items(), turned, strict=True)}


@singledispatch
def columns(answer: Any) -> Columns:
    """The columns by name, all of the same length. Raises TypeError for what is no table."""
    raise TypeError(f"{type(answer).__name__} is no table")


_HIT = {
    "value": Holds.FLOAT,
    "max_activation": Holds.FLOAT,
    "max_position": Holds.INTEGER,
    "token": Holds.TEXT,
    "match": Holds.TEXT,
    "tokens_at_least": Holds.FLOAT,
    "beyond_index": Holds.FLAG,
}
_TOKEN_HIT = {"position": Holds.INTEGER, "token": Holds.TEXT, "rank": Holds.INTEGER}


@columns.register
def _(found: results.SearchResult) -> Columns:
    if found.token_results:
        by_token = (
            (row.position, row.token.display, rank, float(value), match.value, *_facts(feature))
            for row in found.token_results
            for rank, (feature, value, match) in enumerate(zip(row.features, row.values, row.matches, strict=True), 1)
        )
        return _table(_TOKEN_HIT | {"value": Holds.FLOAT, "match": Holds.TEXT} | _FACTS, by_token)
    hits = (
        (
            rank,
            hit.value,
            hit.max_activation,
            hit.max_position,
            hit.token.display,
            hit.match.value,
            hit.tokens_at_least,
            hit.beyond_index,
            *_facts(hit.feature),
        )
        for rank, hit in enumerate(found, 1)
    )
    return _first(("rank", "feature"), _table(_RANK | _HIT | _FACTS, hits))


def _first(names: Sequence[str], table: Columns) -> Columns:
    """What one looks for stands at the left."""
    return {name: table[name] for name in (*names, *(name for name in table if name not in names))}


@columns.register
def _(text: results.EncodedText) -> Columns:
    return _encoded([text], text.columns)


@columns.register
def _(encoded: results.EncodeResult) -> Columns:
    return _encoded(encoded.texts, encoded.columns, numbered=True)


def _encoded(texts: Sequence[results.EncodedText], named: Sequence[str], *, numbered: bool = False) -> Columns:
    rows = activations.rows(texts)
    text = {"text": Column(Holds.INTEGER, rows.text)} if numbered else {}
    if named:
        wide = activations.wide(texts)
        values = {name: Column(Holds.FLOAT32, wide[:, place]) for place, name in enumerate(named)}
        own = {"position": Column(Holds.INTEGER, rows.position), "token": Column(Holds.TEXT, rows.token)}
        return text | own | values
    long = activations.long(texts)
    picked = {name: Column(column.holds, column.values[long.row]) for name, column in text.items()}
    return picked | {
        "position": Column(Holds.INTEGER, rows.position[long.row]),
        "token": Column(Holds.TEXT, rows.token[long.row]),
        "feature": Column(Holds.TEXT, long.feature),
        "source": Column(Holds.TEXT, long.source),
        "index": Column(Holds.INTEGER, long.index),
        "activation": Column(Holds.FLOAT32, long.activation),
    }


@columns.register
def _(comparison: Comparison) -> Columns:
    schema = {
        "feature": Holds.TEXT,
        "row": Holds.INTEGER,
        "differs": Holds.FLAG,
        "text": Holds.INTEGER,
        "position": Holds.INTEGER,
        "token": Holds.TEXT,
        "activation": Holds.FLOAT32,
    }
    differs = [comparison.differs(row) for row in range(len(comparison.rows))]
    tables = ((feature, comparison.activations(feature)) for feature in comparison)
    cells = (
        (
            str(feature),
            row,
            differs[row],
            text,
            place,
            comparison.texts[text].tokens[place].display,
            float(table[row, text]),
        )
        for feature, table in tables
        for row, places in enumerate(comparison.rows)
        for text, place in enumerate(places)
        if place is not None
    )
    return _table(schema, cells)


@columns.register
def _(page: results.TopActivations) -> Columns:
    schema = {
        "feature": Holds.TEXT,
        "max_activation": Holds.FLOAT,
        "token": Holds.TEXT,
        "max_position": Holds.INTEGER,
        "text": Holds.TEXT,
        "text_index": Holds.INTEGER,
        "text_position": Holds.INTEGER,
        "stands_for": Holds.FLOAT,
        "is_lower_bound": Holds.FLAG,
        "least_activation": Holds.FLOAT,
        "most_activation": Holds.FLOAT,
        "origin": Holds.TEXT,
        "import_name": Holds.TEXT,
        "tokens": Holds.TEXTS,
        "activations": Holds.FLOATS,
    }
    return _table(
        schema,
        (
            (
                str(page.name),
                record.max_activation,
                record.tokens[record.max_position].display if record.max_position < len(record.tokens) else None,
                record.max_position,
                record.text,
                record.text_index,
                record.text_position,
                record.stands_for,
                record.is_lower_bound,
                record.least_activation,
                record.most_activation,
                record.origin.value,
                record.import_name,
                [token.display for token in record.tokens],
                record.activations.tolist(),
            )
            for record in page
        ),
    )


@columns.register
def _(found: SimilarFeatures) -> Columns:
    own = {
        "value": Holds.FLOAT,
        "positions": Holds.MAYBE,
        "lower": Holds.FLOAT,
        "upper": Holds.FLOAT,
        "contained": Holds.FLOAT,
        "contains": Holds.FLOAT,
    }
    rows = (
        (
            rank,
            one.value,
            one.positions,
            *(one.interval or (None, None)),
            one.contained,
            one.contains,
            *_facts(one.feature),
        )
        for rank, one in enumerate(found, 1)
    )
    return _first(("rank", "feature"), _table(_RANK | own | _FACTS, rows))


@columns.register
def _(found: Contrast) -> Columns:
    counts = {"side": Holds.TEXT, "texts_a": Holds.INTEGER, "texts_b": Holds.INTEGER}
    measured = ("difference", "log_odds", "p_value", "q_value", "auc", "auc_error", "max_a", "max_b")
    rows = (
        (rank, *(getattr(one, name) for name in chain(counts, measured)), *_facts(one.feature))
        for rank, one in enumerate(found, 1)
    )
    schema = _RANK | counts | dict.fromkeys(measured, Holds.FLOAT) | _FACTS
    return _first(("rank", "feature"), _table(schema, rows))


@columns.register
def _(page: ExplanationSearch) -> Columns:
    own = {
        "relevance": Holds.FLOAT,
        "score": Holds.FLOAT,
        "type": Holds.TEXT,
        "model": Holds.TEXT,
        "origin": Holds.TEXT,
    }
    rows = []
    for rank, one in enumerate(page, 1):
        said = one.explanation
        facts = (*_facts(one.feature)[:-1], said.text)
        rows.append((rank, one.relevance, said.score, said.type, said.model, said.origin, *facts))
    return _first(("rank", "feature", "explanation"), _table(_RANK | own | _FACTS, rows))


@columns.register
def _(table: MatchTable) -> Columns:
    counts = ("features", "matched", "exact", "folded", "unknown")
    schema = {"text": Holds.TEXT, "layer": Holds.INTEGER, "kind": Holds.TEXT, **dict.fromkeys(counts, Holds.INTEGER)}
    rows = (
        (
            table.texts[row.text],
            row.layer,
            row.kind.value,
            *(getattr(row, name) for name in counts),
            row.share,
        )
        for row in table
    )
    return _table(schema | {"share": Holds.FLOAT}, rows)


@columns.register
def _(listed: results.SourceList) -> Columns:
    schema = {
        "id": Holds.TEXT,
        "name": Holds.TEXT,
        "set": Holds.TEXT,
        "layer": Holds.INTEGER,
        "kind": Holds.TEXT,
        "hook_name": Holds.TEXT,
        "architecture": Holds.TEXT,
        "d_in": Holds.INTEGER,
        "n_features": Holds.INTEGER,
        "dead_features": Holds.MAYBE,
        "memory_bytes": Holds.INTEGER,
        "revision": Holds.TEXT,
        "bos_id": Holds.MAYBE,
    }
    lists = {"aliases": Holds.TEXTS, "warnings": Holds.TEXTS}
    rows = ([*(getattr(one, name) for name in schema), list(one.aliases), list(one.warnings)] for one in listed)
    return _table(schema | lists, rows)


@columns.register
def _(tokenized: results.TokenizeResult) -> Columns:
    schema = {
        "position": Holds.INTEGER,
        "id": Holds.INTEGER,
        "token": Holds.TEXT,
        "start": Holds.INTEGER,
        "end": Holds.INTEGER,
    }
    rows = ((place, token.id, token.display, token.start, token.end) for place, token in enumerate(tokenized))
    return _table(schema, rows)
