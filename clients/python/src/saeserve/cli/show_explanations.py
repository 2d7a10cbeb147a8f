"""How explanations are drawn: those that were searched for, and those of a feature beside other answers."""

from __future__ import annotations

from saeserve.answers.explanations import ExplanationSearch
from saeserve.answers.types import Explanation, Feature
from saeserve.arguments.printable import printable
from saeserve.cli.screen import Screen, facts, milliseconds


def explanations(result: ExplanationSearch, screen: Screen) -> None:
    """Each with its feature, the best first."""
    for one in result:
        screen.line(facts(one.feature), "bold")
        screen.wrapped(told(one.explanation), indent=2)
    if not result.results:
        screen.line("no explanation holds all of these words")
    if result.next_page_token:
        screen.wrapped(f"more with --page-token={result.next_page_token}", "dim")
    screen.wrapped(milliseconds(result.call_info.total_micros), "dim")


def told(explanation: Explanation) -> str:
    """The words, then who says so and how well it predicts."""
    by = [explanation.origin, explanation.type, explanation.model]
    by += [] if explanation.score is None else [f"score {explanation.score:.2f}"]
    return f"“{printable(explanation.text)}” ({', '.join(printable(part) for part in by if part)})"


def under_tokens(feature: Feature, screen: Screen) -> None:
    """A line of the best explanation below a feature's text; nothing where none is known."""
    if feature.explanations:
        screen.wrapped(told(feature.explanations[0]), "dim", indent=5)
