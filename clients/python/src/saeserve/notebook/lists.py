"""Lists in a notebook: similar features, contrasts, explanations, sources, tokens, matches, and what a server is."""

from __future__ import annotations

from collections.abc import Sequence

from saeserve.answers.contrast import Contrast, Distinction
from saeserve.answers.explanations import Explained, ExplanationSearch
from saeserve.answers.match_table import MatchTable
from saeserve.answers.results import ServerInfo, SourceList, TokenizeResult
from saeserve.answers.similar import Similar, SimilarFeatures
from saeserve.answers.types import Kind, Source, Token
from saeserve.answers.wording import counted, milliseconds, number, percent
from saeserve.notebook import features, shading
from saeserve.notebook.markup import Html, isolated, joined, tag
from saeserve.notebook.page import facts, first, note, page, table

_ROWS = 50
_TOKENS = 200


def similar(found: SimilarFeatures) -> str:
    drawn = first(found.similar, _ROWS, "feature", _similar) if len(found) else note("nothing has anything in common")
    missing = [note(f"not compared: {', '.join(one.sources)}: {one.reason}") for one in found.left_out[:_ROWS]]
    space = f" in the {found.space}" if found.space else ""
    return page(
        *([] if found.feature is None else [features.head(found.feature)]),
        drawn,
        *missing,
        note(f"{counted(found.features_compared, 'feature')} compared{space}"),
    )


def one_similar(one: Similar) -> str:
    return page(_similar([one]))


def _similar(some: Sequence[Similar]) -> Html:
    overlaps = any(one.positions is not None for one in some)
    more = ["of", "95%", "in it", "it in"] if overlaps else []
    said = any(one.feature.explanations for one in some)
    header = ["#", "feature", "value", *more, "density", "usually on", *(["explanation"] if said else [])]
    rows = []
    for rank, one in enumerate(some, 1):
        interval = "-" if one.interval is None else f"{one.interval[0]:.2f}-{one.interval[1]:.2f}"
        rests = [one.positions or 0, interval, percent(one.contained), percent(one.contains)] if overlaps else []
        value = tag("span", f"{one.value:.3f}", style=shading.shade(one.value, 1.0))
        known = one.feature
        told = [features.told(known.explanations[0]) if known.explanations else ""] if said else []
        facts = [percent(known.density), features.usual(known.usual_tokens)]
        rows.append([rank, features.name(known), value, *rests, *facts, *told])
    return table(header, rows, right=["#", "value", "of", "density"], wide="explanation")


def contrast(found: Contrast) -> str:
    parts: list[Html] = []
    for side, some in (("A", found.of_a), ("B", found.of_b)):
        parts.append(tag("p", tag("b", f"more often in {side}")))
        parts.append(
            first(some, _ROWS // 2, "feature", lambda part: _distinctions(part, found)) if some else note("no feature")
        )
    tested = f"{counted(found.features_tested, 'feature')} tested, of {found.features_considered:,} considered"
    return page(*parts, note(f"{tested}; {counted(found.texts_a, 'text')} of A, {found.texts_b:,} of B"))


def distinction(one: Distinction) -> str:
    return page(_distinctions([one], None))


def _distinctions(some: Sequence[Distinction], among: Contrast | None) -> Html:
    of_a, of_b = ("", "") if among is None else (f"/{among.texts_a}", f"/{among.texts_b}")
    rows = [
        [
            rank,
            features.name(one.feature),
            tag("span", f"{one.texts_a}{of_a}", style=shading.shade(one.texts_a, among.texts_a if among else 0)),
            tag("span", f"{one.texts_b}{of_b}", style=shading.shade(one.texts_b, among.texts_b if among else 0)),
            f"{one.log_odds:+.2f}",
            f"{one.q_value:.1e}",
            f"{one.auc:.2f} ± {one.auc_error:.2f}",
            number(one.max_a),
            number(one.max_b),
            features.usual(one.feature.usual_tokens),
        ]
        for rank, one in enumerate(some, 1)
    ]
    header = ["#", "feature", "A", "B", "log odds", "q", "AUC", "max A", "max B", "usually on"]
    return table(header, rows, right=["#", "A", "B", "q", "AUC", "max A", "max B"])


def explanations(found: ExplanationSearch) -> str:
    drawn = first(found.results, _ROWS, "explanation", _explained) if len(found) else note("none holds all the words")
    return page(drawn, note("next_page_token leads to more" if found.next_page_token else ""))


def explained(one: Explained) -> str:
    return page(_explained([one]))


def _explained(some: Sequence[Explained]) -> Html:
    rows = [
        [rank, features.name(one.feature), features.told(one.explanation), percent(one.feature.density)]
        for rank, one in enumerate(some, 1)
    ]
    return table(["#", "feature", "explanation", "density"], rows, right=["#", "density"], wide="explanation")


def sources(listed: SourceList) -> str:
    return page(first(listed.sources, _ROWS, "source", _sources))


def source(one: Source) -> str:
    return page(_sources([one]))


def _sources(some: Sequence[Source]) -> Html:
    rows = [
        [
            isolated(one.name),
            one.layer,
            one.kind,
            f"{one.n_features:,}",
            "-" if one.dead_features is None else f"{one.dead_features:,}",
            isolated(one.architecture),
            isolated(one.hook_name),
        ]
        for one in some
    ]
    header = ["source", "layer", "kind", "features", "dead", "architecture", "hook point"]
    warnings = [note(isolated(one.name), ": ", isolated(said)) for one in some for said in one.warnings[:5]]
    return joined([table(header, rows, right=["layer", "features", "dead"]), *warnings])


def tokenized(answer: TokenizeResult) -> str:
    bos = "no BOS" if answer.bos_id is None else f"BOS {answer.bos_id} is prepended"
    over = "; over the limit of a search" if answer.over_limit else ""
    drawn = first(answer.tokens, _TOKENS, "token", _pieces)
    return page(drawn, note(f"{counted(len(answer), 'token')}; {bos}{over}"))


def _pieces(some: Sequence[Token]) -> Html:
    """Two shades in turn show where tokens end."""
    pieces = [
        tag(
            "span",
            one.display,
            title=f"{place}: id {one.id}, bytes {one.start} to {one.end}",
            style=shading.shade((-1) ** place * 0.3, 1),
        )
        for place, one in enumerate(some)
    ]
    return tag("p", isolated(joined(pieces), class_="t"))


def matches(found: MatchTable) -> str:
    return page(
        first(range(len(found.texts)), 10, "text", lambda some: joined([_matches(found, text) for text in some]))
    )


def _matches(found: MatchTable, text: int) -> Html:
    header, *lines = found.lines(text)
    rows = [
        [layer, *(_cell(found, text, int(layer), kind, cell) for kind, cell in zip(found.kinds, cells, strict=True))]
        for layer, *cells in lines
    ]
    named = tag("p", isolated(shading.cut(found.texts[text], 200)))
    return joined([named, table(header, rows, right=header)])


def _cell(found: MatchTable, text: int, layer: int, kind: Kind, cell: str) -> Html:
    share = next(
        (row.share for row in found if (row.text, row.layer, row.kind) == (text, layer, kind)),
        None,
    )
    title = "" if share is None else f"{100 * share:.0f}% on a usual token"
    return tag("span", cell, title=title, style=shading.shade(share or 0, 1.0))


def server(info: ServerInfo) -> str:
    model, index, limits = info.model, info.index, info.limits
    indexed = "none" if index is None else f"{counted(index.texts, 'text')}, {counted(index.tokens, 'token')}"
    rows: list[tuple[str, object]] = [
        ("server", joined([isolated(info.version), " on ", isolated(info.device)])),
        ("model", joined([isolated(model.name), f": {counted(model.n_layers, 'layer')}, d_model {model.d_model:,}"])),
        ("", f"context {counted(model.context_tokens, 'token')}, vocabulary {model.vocabulary:,}"),
        ("features", f"{info.feature_count:,} in {counted(info.source_count, 'source')}"),
        ("index", indexed),
        *(
            ("imported", joined([isolated(one.name), f": {counted(one.records, 'record')}"]))
            for one in info.imports[:20]
        ),
        ("text", f"at most {limits.max_text_bytes:,} bytes and {counted(limits.max_tokens, 'token')}"),
        ("search", f"at most {counted(limits.max_limit, 'feature')}"),
        ("encode", f"at most {counted(limits.max_inputs, 'text')}, {counted(limits.max_features, 'feature')} by name"),
        ("answered in", milliseconds(info.call_info.total_micros)),
    ]
    return page(facts(rows))
