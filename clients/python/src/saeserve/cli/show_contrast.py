"""What `saeserve contrast` draws."""

from __future__ import annotations

from collections.abc import Sequence

from saeserve.answers.contrast import Contrast, Distinction
from saeserve.cli.screen import Screen, milliseconds, number, usual


def contrast(result: Contrast, screen: Screen) -> None:
    """A table for each side."""
    for side, found in (("A", result.of_a), ("B", result.of_b)):
        screen.line(f"more often in {side}", "bold")
        if found:
            _table(found, result, screen)
        else:
            screen.line("no feature")
    screen.wrapped(
        "p: Fisher's exact test over texts; q: after Benjamini and Hochberg; AUC: chance that a text of A has a larger "
        "maximum than one of B, and by how much it may be off",
        "dim",
    )
    screen.wrapped(
        f"{result.features_tested:,} features tested, those that fire in any text, of {result.features_considered:,} "
        f"considered; {result.texts_a} texts of A, {result.texts_b} of B, "
        f"{milliseconds(result.call_info.total_micros)}",
        "dim",
    )


def _table(found: Sequence[Distinction], result: Contrast, screen: Screen) -> None:
    rows = [
        [
            str(rank),
            str(one.name),
            f"{one.texts_a}/{result.texts_a}",
            f"{one.texts_b}/{result.texts_b}",
            f"{one.log_odds:+.2f}",
            f"{one.p_value:.1e}",
            f"{one.q_value:.1e}",
            f"{one.auc:.2f}±{one.auc_error:.2f}",
            number(one.max_a),
            number(one.max_b),
            usual(one.feature.usual_tokens),
        ]
        for rank, one in enumerate(found, 1)
    ]
    header = ["#", "feature", "A", "B", "log odds", "p", "q", "AUC", "max A", "max B", "usually on"]
    screen.table(header, rows, right=(0, 2, 3, 4, 5, 6, 7, 8, 9))
