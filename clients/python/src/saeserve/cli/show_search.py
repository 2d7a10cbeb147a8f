"""What `saeserve search` draws."""

from __future__ import annotations

from saeserve.answers.results import Hit, SearchResult
from saeserve.answers.types import Cache, Feature, Match
from saeserve.answers.wording import MARKS
from saeserve.cli.screen import Screen, milliseconds, number, percent, usual
from saeserve.cli.shading import column, label
from saeserve.cli.show_explanations import under_tokens

_ON = 12
_CACHED: dict[Cache | None, str] = {
    Cache.LOCAL: ", from the cache",
    Cache.SHARED: ", from the shared cache",
    Cache.INNER: ", ranked anew from the cache",
}
_SURPRISAL = "bits: log2(N / n), n of the index's N tokens on which it is as active or more"
_BEYOND = "beyond: more active than anywhere in the index"
_LEGEND = "match: ✓ a token it usually fires on, ~ but for case or spaces, ✗ another"


def search(result: SearchResult, screen: Screen, *, ranking: str) -> None:
    """A line for each feature and below it the text, shaded; or by token."""
    if result.token_results:
        _by_token(result, screen)
    elif result.results:
        _by_feature(result, screen, ranking)
    else:
        screen.line("no feature fires")
    _footer(result, screen, ranking)


def _by_feature(result: SearchResult, screen: Screen, ranking: str) -> None:
    # With sort tokens, or compared with the index, the rank's value is not the largest activation: both are shown.
    both = bool(result.sort_positions) or ranking != "raw"
    bits = ranking == "surprisal"
    names = max(len("feature"), *(len(str(hit.name)) for hit in result.results))
    header = f"{'#':>3}  {'feature':<{names}}  {'bits' if bits else 'value':>8}  "
    header += f"{'n≥':>7}  " if bits else ""
    header += f"{'max':>8}  " if both else ""
    header += f"{'on':<{_ON}}   {'density':>7}  "
    screen.line(header + "usually on", "bold")
    for rank, hit in enumerate(result.results, 1):
        line = f"{rank:>3}  {hit.name!s:<{names}}  {number(hit.value):>8}  "
        line += f"{_count(hit):>7}  " if bits else ""
        line += f"{number(hit.max_activation):>8}  " if both else ""
        line += f"{column(label(result.tokens[hit.max_position]), _ON)} {MARKS[hit.match]} "
        line += f"{percent(hit.feature.density):>7}  "
        screen.line(line + usual(hit.feature.usual_tokens, max(8, screen.width - len(header))))
        _text(result, hit, screen)


def _count(hit: Hit) -> str:
    """On how many tokens of the index it is at least this active: an estimate, in few digits."""
    if hit.beyond_index:
        return "beyond"
    count = hit.tokens_at_least
    return "" if count is None else f"{count:.1f}" if count < 10 else f"{count:,.0f}"


def _text(result: SearchResult, hit: Hit, screen: Screen) -> None:
    screen.tokens(result.tokens, hit.activations, hit.max_activation, hit.max_position)
    under_tokens(hit.feature, screen)


def _by_token(result: SearchResult, screen: Screen) -> None:
    features = [feature for row in result.token_results for feature in row.features]
    names = max((len(str(feature)) for feature in features), default=7)
    for row in result.token_results:
        screen.line(f"{row.position:>3}  {label(row.token)}", "bold")
        if not row.features:
            screen.line("     no feature fires")
        for rank, (feature, value, match) in enumerate(zip(row.features, row.values, row.matches, strict=True), 1):
            screen.line(_token_line(rank, feature, float(value), match, names, screen.width))


def _token_line(rank: int, feature: Feature, value: float, match: Match, names: int, width: int) -> str:
    line = f"     {rank:>3}  {feature!s:<{names}}  {number(value):>8} {MARKS[match]} {percent(feature.density):>7}  "
    return line + usual(feature.usual_tokens, max(8, width - len(line)))


def _footer(result: SearchResult, screen: Screen, ranking: str) -> None:
    if ranking == "surprisal" and (result.results or result.token_results):
        screen.wrapped(_SURPRISAL, "dim")
        if any(hit.beyond_index for hit in result.results):
            screen.wrapped(_BEYOND, "dim")
    if result.sort_positions:
        tokens = ", ".join(f"{place} {label(result.tokens[place])}" for place in result.sort_positions)
        value = "bits" if ranking == "surprisal" else "value"
        what = "answered for" if result.token_results else f"{value}: sum over"
        screen.wrapped(f"{what} {'token' if len(result.sort_positions) == 1 else 'tokens'} {tokens}", "dim")
    if result.truncated:
        screen.wrapped("the text was cut to the token limit", "dim")
    if any(hit.match is not Match.UNKNOWN for hit in result.results) or result.token_results:
        screen.wrapped(_LEGEND, "dim")
    sources = len(result.sources_considered)
    screen.wrapped(
        f"{result.features_considered:,} features of {sources} {'source' if sources == 1 else 'sources'} considered, "
        f"{milliseconds(result.call_info.total_micros)}{_CACHED.get(result.call_info.cache, '')}",
        "dim",
    )
