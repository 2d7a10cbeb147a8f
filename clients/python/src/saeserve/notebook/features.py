"""What is known of features, wherever they stand: the card of one, its statistics, its records."""

from __future__ import annotations

from collections.abc import Sequence

from saeserve.answers.results import FeatureInfo, TopActivations
from saeserve.answers.types import Explanation, Feature, HistogramBin, Record, RecordOrigin, Statistics, UsualToken
from saeserve.answers.wording import counted, number, percent
from saeserve.notebook import shading
from saeserve.notebook.markup import SPACE, Html, isolated, joined, tag
from saeserve.notebook.page import facts, first, note, page, table

_RECORDS = 25
_EXPLANATIONS = 5
_TEXT = 300
"""Characters of an explanation."""
_BAR = 36
"""Height of the largest bar of a histogram, in pixels."""


def usual(tokens: Sequence[UsualToken]) -> Html:
    """The tokens on which a feature usually peaks, and on hover how often."""
    return joined(
        [
            shading.label(one.token, title=f"{counted(one.count, 'record')}, max {number(one.max_activation)}")
            for one in tokens[:5]
        ],
        SPACE,
    )


def told(explanation: Explanation) -> Html:
    """The words, then who says so and how well it predicts."""
    by = [isolated(part) for part in (explanation.origin, explanation.type, explanation.model) if part]
    by += [] if explanation.score is None else [tag("span", f"score {explanation.score:.2f}")]
    who = [" (", joined(by, ", "), ")"] if by else []
    return joined(["“", isolated(shading.cut(explanation.text, _TEXT)), "”", *who])


def name(feature: Feature) -> Html:
    """A feature's name, and on hover its kind."""
    return isolated(feature.name, title=f"{feature.kind} of layer {feature.layer}")


def head(feature: Feature) -> Html:
    """A feature in a line or two, its explanations below."""
    known = [f"{feature.kind} of layer {feature.layer}"]
    if feature.density is not None:
        known.append(f"density {percent(feature.density)} ({feature.density_origin})")
    if feature.index_max_activation is not None:
        known.append(f"max {number(feature.index_max_activation)} ({feature.index_max_origin})")
    on = joined([", usually on ", usual(feature.usual_tokens)]) if feature.usual_tokens else Html()
    explained = [note(told(one)) for one in feature.explanations[:_EXPLANATIONS]]
    return joined([tag("p", tag("b", isolated(feature.name)), f" {', '.join(known)}", on), *explained])


def feature(one: Feature) -> str:
    return page(head(one))


def bars(histogram: Sequence[HistogramBin]) -> Html:
    """A bar for each bin, its height by the root of its count, so that rare strong activations are seen."""
    most = max((one.count for one in histogram), default=0)
    drawn = [
        tag(
            "span",
            title=f"{one.lower:.4g} to {one.upper:.4g}: {counted(one.count, 'token')}",
            style="display:inline-block;width:7px;margin-right:1px;background:currentColor;opacity:.6;"
            f"height:{max(1 if one.count else 0, round(_BAR * (one.count / most) ** 0.5))}px",
        )
        for one in histogram
        if most
    ]
    return tag("div", *drawn, role="img", aria_label="histogram of activations") if drawn else Html()


def _fires(one: Statistics) -> str:
    return (
        f"fires on {one.fires:,} of {one.tokens:,} tokens ({percent(one.density)}), "
        f"mean {number(one.mean_activation)}, max {number(one.max_activation)}"
    )


def statistics(one: Statistics) -> str:
    return page(*_measured(one))


def _measured(one: Statistics) -> list[Html]:
    peaks = note("peaks on ", usual(one.top_tokens)) if one.top_tokens else Html()
    return [tag("p", _fires(one)), bars(one.histogram), peaks]


def info(one: FeatureInfo) -> str:
    source = one.source
    rows: list[tuple[str, object]] = [
        (
            "source",
            joined([isolated(source.name), ", ", isolated(source.architecture), " at ", isolated(source.hook_name)]),
        )
    ]
    if one.dead is not None:
        rows.append(("dead", "yes, it never fires" if one.dead else "no"))
    if one.decoder_norm is not None:
        rows.append(("decoder norm", number(one.decoder_norm)))
    measured = [note("no index: no statistics")] if one.statistics is None else _measured(one.statistics)
    return page(head(one.feature), facts(rows), *measured)


def record(one: Record) -> str:
    return page(_records([one], one.max_activation))


def top(answer: TopActivations) -> str:
    scale = max([answer.statistics.max_activation, *(one.max_activation for one in answer)])
    measured = [tag("p", _fires(answer.statistics))] if answer.statistics.tokens else []
    more = "next_page_token leads to more" if answer.next_page_token else ""
    records = first(answer.records, _RECORDS, "record", lambda some: _records(some, scale))
    return page(head(answer.feature), *measured, records if len(answer) else note("no records"), note(more))


def _records(records: Sequence[Record], scale: float) -> Html:
    rows = [
        [
            rank,
            number(one.max_activation),
            joined([shading.tokens(one.tokens, one.activations, scale, one.max_position), _stands_for(one)]),
            isolated(one.import_name) if one.origin is RecordOrigin.IMPORT else f"text {one.text_index}",
        ]
        for rank, one in enumerate(records, 1)
    ]
    return table(["#", "max", "tokens", "from"], rows, right=["#", "max"], wide="tokens")


def _stands_for(one: Record) -> Html:
    if one.stands_for <= 1:
        return Html()
    count = f"{one.stands_for:,.1f}".removesuffix(".0")
    words = f"stands for {'at least ' if one.is_lower_bound else ''}{count} blocks"
    also = [joined(["also ", isolated(f"…{example.text}…")]) for example in one.examples]
    return joined([note(f"{words}, {number(one.least_activation)} to {number(one.most_activation)}"), *map(note, also)])
