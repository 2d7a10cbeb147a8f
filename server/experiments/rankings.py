"""Which features come first: by activation, relative to the index maximum, or by surprisal?

    .venv/bin/python server/experiments/rankings.py --plot rankings.png

Serves the demo, searches sentences that are not in its index, latents and neurons together, and prints for each ranking

* how layers and kinds share the top 25;
* how often a feature peaks on a token that it usually fires on, but for case and spaces;
* the median density of these features, and how many different ones there are over all texts.

Then the same question where the answer is known: planted features (`planted.py`).
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import numpy as np

import saeserve
from experiments import planted
from experiments.sentences import sentences
from saeserve.answers.types import Kind, Match

TOP: Final = 25
MADE: Final = 200
RANKINGS: Final[tuple[Literal["raw", "relative", "surprisal"], ...]] = ("raw", "relative", "surprisal")


@dataclass(slots=True)
class Shares:
    """What one ranking put into the top 25 of all texts."""

    places: Counter[tuple[Kind, int]] = field(default_factory=Counter)
    """By kind and layer."""
    usual: int = 0
    judged: int = 0
    """Of how many it is known whether the token is usual."""
    densities: list[float] = field(default_factory=list)
    features: Counter[str] = field(default_factory=Counter)
    beyond: int = 0

    def add(self, hits: Sequence[saeserve.Hit]) -> None:
        """Counts the hits of a text in."""
        for hit in hits:
            self.places[hit.feature.kind, hit.feature.layer] += 1
            self.usual += hit.match in (Match.EXACT, Match.FOLDED)
            self.judged += hit.match is not Match.UNKNOWN
            self.features[str(hit.name)] += 1
            self.beyond += hit.beyond_index
            if hit.feature.density is not None:
                self.densities.append(hit.feature.density)

    def share(self, kind: Kind, layer: int) -> float:
        """Of all top places, those of a layer's features of a kind."""
        return self.places[kind, layer] / max(1, self.places.total())


def of_texts(client: saeserve.Client, texts: Sequence[str]) -> dict[str, Shares]:
    """What each ranking puts first."""
    found: dict[str, Shares] = {}
    for ranking in RANKINGS:
        shares = found[ranking] = Shares()
        for text in texts:
            shares.add(client.search(text, kinds="all", ranking=ranking, limit=TOP).results)
    return found


def print_shares(found: Mapping[str, Shares], layers: Sequence[int]) -> None:
    """The table of the docs."""
    rows: list[tuple[str, list[str]]] = []
    for kind in (Kind.LATENT, Kind.NEURON):
        for layer in layers:
            rows.append((f"{kind}s of layer {layer}", [percent(one.share(kind, layer)) for one in found.values()]))
    rows += [
        ("peak on a usual token", [percent(one.usual / max(1, one.judged)) for one in found.values()]),
        ("median density", [f"{100 * np.median(one.densities):.2g}%" for one in found.values()]),
        ("different features", [f"{len(one.features):,}" for one in found.values()]),
        ("places of the ten most frequent", [percent(ten(one)) for one in found.values()]),
        ("beyond the index", ["" if name != "surprisal" else percent(beyond(one)) for name, one in found.items()]),
    ]
    table(["share of the top 25", *found], rows)


def ten(shares: Shares) -> float:
    """The share of all top places that the ten features have which stand there most often."""
    return sum(count for _, count in shares.features.most_common(10)) / max(1, shares.features.total())


def beyond(shares: Shares) -> float:
    """The share of top places at activations that the index does not have."""
    return shares.beyond / max(1, shares.places.total())


def print_planted(seed: int) -> None:
    """The table of planted features."""
    found = planted.experiment(seed)
    names = [f"mode at {strength:g} of its strength, in the top {planted.TOP}" for strength in planted.MODES]
    rows = [
        ("mean rank", [f"{one.mean_rank:,.0f}" for one in found.values()]),
        (f"in the top {planted.TOP}", [percent(one.in_top) for one in found.values()]),
        *((name, [percent(one.by_mode[mode]) for one in found.values()]) for mode, name in enumerate(names)),
        (f"top {planted.TOP} taken by rogues", [percent(one.rogues) for one in found.values()]),
    ]
    table(["planted features", *(ranking.value for ranking in found)], rows)


def table(head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Markdown."""
    print("| " + " | ".join(head) + " |\n|---|" + "---:|" * (len(head) - 1))
    for name, cells in rows:
        print(f"| {name} | " + " | ".join(cells) + " |")
    print()


def percent(share: float) -> str:
    """A share in whole percent."""
    return f"{100 * share:.0f}%"


def plot(found: Mapping[str, Shares], layers: Sequence[int], path: Path) -> bool:
    """Draws how layers and kinds share the top 25; False where matplotlib is not installed."""
    try:
        import matplotlib as mpl
    except ImportError:
        return False
    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 3), layout="constrained")
    names = list(found)[::-1]
    for kind, colours in ((Kind.LATENT, "Blues"), (Kind.NEURON, "Oranges")):
        for number, layer in enumerate(layers):
            left = [
                sum(found[name].share(other, one) for other in (Kind.LATENT, Kind.NEURON) for one in layers[:number])
                + (found[name].share(Kind.LATENT, layer) if kind is Kind.NEURON else 0)
                for name in names
            ]
            width = [found[name].share(kind, layer) for name in names]
            colour = mpl.colormaps[colours](0.35 + 0.5 * number / max(1, len(layers) - 1))
            axis.barh(names, width, left=left, color=colour, edgecolor="white", label=f"layer {layer}, {kind}s")
    axis.set_xlim(0, 1)
    axis.xaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f}%")
    axis.set_xlabel(f"share of the top {TOP}, by layer and kind")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize="small")
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return True


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--plot", type=Path, metavar="PATH", help="draw how layers and kinds share the top 25")
    parser.add_argument("--made", type=int, default=MADE, help=f"made sentences, beside the licence's ({MADE})")
    parser.add_argument("--seed", type=int, default=0, help="of the sentences and of the planted features (0)")
    arguments = parser.parse_args()
    texts = sentences(arguments.made, arguments.seed)
    with saeserve.local(model="demo") as client:
        index = client.server_info().index
        if index is None:
            sys.exit("the demo is served without its index")
        layers = sorted({source.layer for source in client.list_sources()})
        found = of_texts(client, texts)
    print(f"{len(texts)} texts outside the index, latents and neurons together; {index.tokens:,} tokens indexed\n")
    print_shares(found, layers)
    if arguments.plot is not None:
        drawn = plot(found, layers, arguments.plot)
        print(f"picture: {arguments.plot}\n" if drawn else "no picture: matplotlib is not installed\n")
    print(
        f"{planted.TEXTS} texts of {planted.LENGTH} tokens, {planted.LAYERS} layers, {planted.TOKENS:,} indexed; "
        "each is about one planted feature of each layer\n"
    )
    print_planted(arguments.seed)


if __name__ == "__main__":
    main()
