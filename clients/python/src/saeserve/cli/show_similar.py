"""What `saeserve similar` draws."""

from __future__ import annotations

from saeserve.answers.similar import Similar, SimilarFeatures
from saeserve.cli.screen import Screen, facts, milliseconds, percent, usual


def similar(result: SimilarFeatures, screen: Screen) -> None:
    """A line for each feature; of overlaps also what they rest on."""
    if result.feature is not None:
        screen.line(facts(result.feature), "bold")
    if result.feature is not None and result.feature.usual_tokens:
        screen.line(f"usually on  {usual(result.feature.usual_tokens, screen.width - 12)}")
    overlaps = not result.space
    header = ["#", "feature", "value", *(["of", "95%", "in it", "it in"] if overlaps else []), "density", "usually on"]
    rows = []
    for rank, one in enumerate(result.similar, 1):
        rests = _rests(one) if overlaps else []
        name, density = str(one.name), percent(one.feature.density)
        rows.append([str(rank), name, f"{one.value:.3f}", *rests, density, usual(one.feature.usual_tokens)])
    if rows:
        screen.table(header, rows, right=(0, 2, 3, *((5, 6, 7) if overlaps else ())))
    else:
        screen.line("no feature has anything in common with it")
    for missing in result.left_out:
        screen.wrapped(f"not compared: {', '.join(missing.sources)}: {missing.reason}", "dim")
    if overlaps:
        legend = (
            "value: overlap; of: positions that it rests on, or records; in it: share of the feature's positions on"
        )
        screen.wrapped(f"{legend} which this one fires too; it in: the other way round", "dim")
    screen.wrapped(
        f"{result.features_compared:,} features compared{f' in the {result.space}' if result.space else ''}, "
        f"{milliseconds(result.call_info.total_micros)}",
        "dim",
    )


def _rests(one: Similar) -> list[str]:
    interval = "-" if one.interval is None else f"{one.interval[0]:.2f}-{one.interval[1]:.2f}"
    shares = ["-" if share is None else percent(share) for share in (one.contained, one.contains)]
    return [str(one.positions or 0), interval, *shares]
