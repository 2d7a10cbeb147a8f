"""A search in a notebook: its features with the shaded text, or token by token."""

from __future__ import annotations

from collections.abc import Sequence

from saeserve.answers.results import Hit, SearchResult, TokenHits
from saeserve.answers.types import Match
from saeserve.answers.wording import MARKS, counted, milliseconds, number, percent
from saeserve.notebook import features, shading
from saeserve.notebook.markup import SPACE, Html, isolated, joined, tag
from saeserve.notebook.page import first, note, page, table

_HITS = 25
_TOKENS = 100
_OF_TOKEN = 5
"""Features of one token that are named."""
_MEANS = {
    Match.EXACT: "a token it usually fires on",
    Match.FOLDED: "a token it usually fires on, but for case or spaces",
    Match.NONE: "not a token it usually fires on",
}


def search(found: SearchResult) -> str:
    if found.token_results:
        drawn = first(found.token_results, _TOKENS, "token", _by_token)
    elif found.results:
        drawn = first(found.results, _HITS, "feature", _hits)
    else:
        drawn = tag("p", "no feature fires")
    return page(drawn, *_notes(found))


def hit(one: Hit) -> str:
    return page(_hits([one]))


def token_hits(row: TokenHits) -> str:
    return page(_by_token([row]))


def mark(match: Match) -> Html:
    """✓, ~ or ✗, and on hover what it means."""
    return tag("span", MARKS[match], title=_MEANS.get(match, ""))


def _hits(hits: Sequence[Hit]) -> Html:
    # Sorted, or compared with the index, the value is not the largest activation: both are shown.
    both = any(one.value != one.max_activation for one in hits)
    header = ["#", "feature", "value", *(["max"] if both else []), "on", "", "tokens", "density", "usually on"]
    rows = [
        [
            rank,
            features.name(one.feature),
            number(one.value),
            *([number(one.max_activation)] if both else []),
            shading.label(one.token),
            mark(one.match),
            joined(
                [shading.tokens(one.tokens, one.activations, one.max_activation, one.max_position), _explained(one)]
            ),
            percent(one.feature.density),
            features.usual(one.feature.usual_tokens),
        ]
        for rank, one in enumerate(hits, 1)
    ]
    return table(header, rows, right=["#", "value", "max", "density"], wide="tokens")


def _explained(one: Hit) -> Html:
    return note(features.told(one.feature.explanations[0])) if one.feature.explanations else Html()


def _by_token(rows: Sequence[TokenHits]) -> Html:
    drawn = [
        [row.position, shading.label(row.token), joined([_named(row, place) for place in _places(row)]), _more(row)]
        for row in rows
    ]
    return table(["#", "token", "features", ""], drawn, right=["#"])


def _places(row: TokenHits) -> range:
    return range(min(_OF_TOKEN, len(row.features)))


def _named(row: TokenHits, place: int) -> Html:
    one, value = row.features[place], float(row.values[place])
    scale = max(float(row.values[0]), value)
    shaded = isolated(one.name, style=shading.shade(value, scale), title=f"density {percent(one.density)}")
    return joined([shaded, f" {number(value)} ", mark(row.matches[place]), SPACE])


def _more(row: TokenHits) -> Html:
    left = len(row.features) - _OF_TOKEN
    return tag("span", f"… {left} more", class_="d") if left > 0 else Html()


def _notes(found: SearchResult) -> list[Html]:
    notes = []
    if found.sort_positions:
        named = joined([shading.label(found.tokens[place]) for place in found.sort_positions[:20]], SPACE)
        notes.append(note("answered for " if found.token_results else "sorted by ", named))
    if found.truncated:
        notes.append(note("the text was cut to the token limit"))
    considered = counted(found.features_considered, "feature")
    sources = counted(len(found.sources_considered), "source")
    notes.append(note(f"{considered} of {sources} considered, {milliseconds(found.call_info.total_micros)}"))
    return notes
