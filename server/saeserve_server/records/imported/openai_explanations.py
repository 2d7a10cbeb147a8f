"""OpenAI's explanations: a JSON line a neuron, `{neuron_id, scored_explanations[{explanation, scored_simulation{…}}]}`.

The score is `ev_correlation_score`. Of a simulation its numbers are kept; the simulated activations are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any, Final

from saeserve_server.errors import shown
from saeserve_server.records.imported.items import BadLine, Item, Naming, Words, number_of, text_of, without
from saeserve_server.records.imported.neuron_records import neuron_of

NAME: Final = "openai-explanations"

EXPLANATIONS: Final = "scored_explanations"
SIMULATION: Final = "scored_simulation"
SCORE: Final = "ev_correlation_score"
MOST_EXPLANATIONS: Final = 10_000
"""Of one neuron."""


def recognises(line: Mapping[str, Any]) -> bool:
    """Whether it looks like one."""
    return EXPLANATIONS in line


def read(line: Mapping[str, Any], file: PurePath, naming: Naming) -> Iterator[Item]:
    """The explanations of one neuron. Raises BadLine."""
    feature = neuron_of(line, file, naming)
    given = line.get(EXPLANATIONS)
    if not isinstance(given, list) or len(given) > MOST_EXPLANATIONS:
        raise BadLine(f"{EXPLANATIONS}: expected a list of at most {MOST_EXPLANATIONS}, got {shown(given)}")
    outside = without(line, EXPLANATIONS)
    for place, one in enumerate(given):
        simulation = one.get(SIMULATION) if isinstance(one, dict) else None
        if not isinstance(one, dict) or not isinstance(simulation, dict | None):
            raise BadLine(f"{EXPLANATIONS}[{place}]: expected an explanation, got {shown(one)}")
        text = text_of(one, "explanation")
        if not text:
            raise BadLine(f"{EXPLANATIONS}[{place}].explanation: missing")
        kept = {
            **{name: value for name, value in one.items() if name != SIMULATION and _is_plain(value)},
            SIMULATION: {name: value for name, value in (simulation or {}).items() if _is_plain(value)},
        }
        score = None if simulation is None else number_of(simulation, SCORE)
        yield Words(feature, text, score, kept={"line": outside, "place": place, "explanation": kept})


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str)
