"""English sentences that are in no index: most put together at random out of everyday words, some from a licence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import numpy as np

ROOT: Final = Path(__file__).resolve().parents[2]
FEWEST: Final = 6
MOST: Final = 30
"""Words of a sentence of the licence that is taken."""

_WORDS: Final = {
    "who": """the old sailor; my grandmother; a tired nurse; the chess champion; our new neighbour; a retired pilot;
        the minister of finance; a young engineer; the goalkeeper; Professor Lindqvist; the baker on the corner;
        the committee; an orphaned fox; the orchestra; two detectives; the tax inspector; a beekeeper from Crete;
        the last astronaut; the plumber; a street musician""",
    "did": """repaired; forgot; described; sold; dreamed of; carried; painted; argued about; measured; stole;
        translated; inherited; photographed; apologised for; buried; counted; borrowed; tasted; defended; drew""",
    "what": """a purple umbrella; the broken telescope; seventeen oranges; an unpaid invoice; the green bicycle; a
        letter in Portuguese; the church bell; a jar of honey; the wrong suitcase; a proof of the theorem; the
        frozen lake; three black horses; a recipe for onion soup; the satellite's antenna; an ivory chess set; a
        bottle of whale oil; the mayor's speech; a sick parrot; the quarterly budget; her wedding ring""",
    "where": """behind the cathedral; in the middle of a thunderstorm; on the slow train to Lisbon; at the county court;
        under a yellow street lamp; near the volcano; in a hospital corridor; on the moon; outside the stadium;
        beneath the kitchen table; at the harbour of Ithaca; in an empty theatre; by the frozen river; on the
        third floor; among the vineyards; inside the submarine""",
    "when": """last winter; every Thursday; before the war; at half past nine; in 1964; long after midnight; twice a
        year; during the strike; as the sun was setting; when the music stopped; three days later; on her
        birthday""",
    "why": """because nobody else would; although it was raining hard; so that the children could sleep; until the
        police arrived; without saying a single word; for less than forty dollars; as if nothing had happened;
        and laughed about it afterwards; while the engine was still running; despite the doctor's warning; which
        surprised even the judge; before anyone could object""",
}
_SHAPES: Final = (
    "{when} {who} {did} {what} {where}.",
    "{who} {did} {what} {why}.",
    "{when}, {where}, {who} {did} {what} {why}.",
    "why had {who} {did} {what} {where}?",
    '"{when} {who} {did} {what}," said {who2}, "{why}."',
    "{who} and {who2} {did} {what}; {when} {who3} {did2} {what2}.",
)


def sentences(made: int, seed: int = 0) -> list[str]:
    """So many made sentences, all different, then those of this project's licence: the same in every run."""
    generator = np.random.default_rng(seed)
    phrases = {part: [" ".join(one.split()) for one in words.split(";")] for part, words in _WORDS.items()}
    found: dict[str, None] = {}
    while len(found) < made:
        chosen = {}
        for part, several in phrases.items():
            for number, place in enumerate(generator.choice(len(several), 3, replace=False), 1):
                chosen[part if number == 1 else f"{part}{number}"] = several[place]
        made_one = _SHAPES[generator.integers(len(_SHAPES))].format(**chosen)
        found[re.sub("[a-z]", lambda first: first[0].upper(), made_one, count=1)] = None
    return [*found, *_of_the_licence()]


def _of_the_licence() -> list[str]:
    """The sentences of LICENSE that are neither very short nor very long."""
    text = " ".join((ROOT / "LICENSE").read_text(encoding="utf-8").split())
    cut = re.split(r"(?<=[.;:])\s", text)
    return list(dict.fromkeys(one for one in cut if FEWEST <= len(one.split()) <= MOST))
