"""Which features tell two sets of texts apart, and do they still do so on texts that were not looked at?

    python clients/python/examples/separate.py                     # on the demo model, by a server of its own
    python clients/python/examples/separate.py --target HOST:PORT  # on whatever is served there

A feature that was chosen because it separates some texts separates those: whoever looks at thousands finds one by
chance too. So a third of the texts is held back; what was found on the others is tried on these.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

import saeserve
from saeserve import Client, Distinction

KITCHEN = [
    "Chop the onion and fry it in butter until it is golden.",
    "Add a spoon of salt and stir the soup slowly.",
    "The bread must rest for an hour before it is baked.",
    "Cut the meat into pieces and cook it with garlic.",
    "Pour the milk over the flour and mix it well.",
    "Peel the potatoes and boil them in salted water.",
    "She put the cake into the oven and washed the bowl.",
    "Serve the fish with rice, lemon and a little oil.",
    "The sauce needs two tomatoes, some pepper and time.",
    "Beat the eggs with sugar until they are white.",
    "Roast the carrots with honey for half an hour.",
    "Warm the plates and slice the cheese very thin.",
    "Knead the dough, cover it and leave it near the stove.",
    "Bring the broth to the boil and throw in the noodles.",
    "Melt the chocolate and pour it over the pears.",
    "Season the beans with oil, vinegar and black pepper.",
    "He spread jam on the toast and made a pot of tea.",
    "Grate the apple and fold it into the batter.",
]
SEA = [
    "The ship left the harbour before the storm came.",
    "The captain looked at the waves and said nothing.",
    "A cold wind blew from the north and filled the sails.",
    "The sailors pulled the rope and the anchor rose.",
    "Fog lay on the water and the coast was gone.",
    "The boat turned over in the current near the island.",
    "We saw a lighthouse behind the rocks that night.",
    "The crew threw the nets into the sea at dawn.",
    "The tide carried the wreck far out to the west.",
    "A gull sat on the mast and watched the deck.",
    "The pilot steered between the cliffs with care.",
    "Rain beat on the deck while the men slept below.",
    "The old ferry crossed the bay in half an hour.",
    "They rowed along the shore until the wind fell.",
    "The voyage took three weeks and ended in a port.",
    "The hull was full of water and the pumps stood still.",
    "From the bridge the officer could see the other fleet.",
    "The river met the ocean beyond the last pier.",
]
HELD_BACK = 6
"""Of each set, from its end."""


def main() -> int:
    """1 with a reason where the service refuses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", metavar="HOST:PORT", help="a server that runs")
    try:
        with connected(parser.parse_args().target) as client:
            run(client)
    except (saeserve.SaeserveError, saeserve.LocalServerError) as error:
        print(f"separate.py: {error}", file=sys.stderr)
        return 1
    return 0


@contextmanager
def connected(target: str | None) -> Iterator[Client]:
    """A client of a server that runs, or of one of its own."""
    with saeserve.local(model="demo", timeout=600) if target is None else Client(target) as client:
        yield client


def run(client: Client) -> None:
    """Looks for features on most of the texts, and tries them on the rest."""
    found = client.contrast(KITCHEN[:-HELD_BACK], SEA[:-HELD_BACK], limit=100)
    say(
        f"{found.features_tested:,} of {found.features_considered:,} features fire in {found.texts_a} texts about a "
        f"kitchen or {found.texts_b} about the sea."
    )
    sure = sum(one.q_value < 0.05 for one in found)
    say(f"Differences that count at a false discovery rate of 5%: {sure}.")
    for name, side in (("kitchen", found.of_a), ("sea", found.of_b)):
        say(f"\nMore often about {'a' if name == 'kitchen' else 'the'} {name}:")
        say("  feature          texts found in      q  held back      usually on")
        for one in side[:6]:
            say(line(client, one))


def line(client: Client, one: Distinction) -> str:
    """A feature: in how many texts of either set it fires, of those looked at and of those held back."""
    held = [fires(client, one, texts[-HELD_BACK:]) for texts in (KITCHEN, SEA)]
    usual = " ".join(repr(token.token.display) for token in one.feature.usual_tokens[:3])
    looked = f"{one.texts_a:>2} against {one.texts_b:>2}"
    return f"  {one.name!s:<14} {looked:>16}  {one.q_value:5.3f}  {held[0]} against {held[1]}      {usual}"


def fires(client: Client, one: Distinction, texts: list[str]) -> int:
    """In how many of the texts a feature fires."""
    encoded = client.encode(texts, features=[one.feature])
    return sum(bool(np.any(text.dense > 0)) for text in encoded if text.dense is not None)


def say(text: str) -> None:
    """A line."""
    print(text.rstrip())


if __name__ == "__main__":
    sys.exit(main())
