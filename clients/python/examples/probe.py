"""A probe on SAE features: does a sentence name a colour? Trained on some colours, tried on others.

    python clients/python/examples/probe.py                     # on the demo model, by a server of its own
    python clients/python/examples/probe.py --target HOST:PORT  # on whatever is served there

Needs scikit-learn and SciPy: pip install scikit-learn "saeserve[scipy]".

Each sentence becomes one row: the largest activation of every latent over its tokens (`FeatureMatrix.by_text`). The
words that the probe is tried on are none that it was trained on. So a bag of tokens can do no better than chance on
them, by design; latents can, if the model has learnt that the words are alike. The sentences are few, and the same for
all words: this shows how a probe is made and what it goes by, and no more of the demo than that it knows some colours.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import saeserve
from saeserve import Client, FeatureMatrix

SENTENCES = [
    "She wore a {} dress.",
    "The door was {} and open.",
    "He bought a {} car.",
    "A {} bird sat on the wall.",
    "They saw the {} house again.",
    "My hat is {}.",
    "There was a {} stone in the garden.",
    "The {} boat came home.",
]
COLOURS = ["red", "blue", "green", "white", "brown", "purple"]
OTHERS = ["old", "small", "heavy", "new", "clean", "quiet"]
NEW_COLOURS = ["black", "yellow", "grey", "crimson", "pink", "orange"]
NEW_OTHERS = ["large", "young", "empty", "cheap", "broken", "strange"]


def main() -> int:
    """1 with a reason where the service refuses, or scikit-learn is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", metavar="HOST:PORT", help="a server that runs, with an index")
    try:
        with connected(parser.parse_args().target) as client:
            run(client)
    except ImportError as error:
        print(f'probe.py: {error}: pip install scikit-learn "saeserve[scipy]"', file=sys.stderr)
        return 1
    except (saeserve.SaeserveError, saeserve.LocalServerError) as error:
        print(f"probe.py: {error}", file=sys.stderr)
        return 1
    return 0


@contextmanager
def connected(target: str | None) -> Iterator[Client]:
    """A client of a server that runs, or of one of its own."""
    with saeserve.local(model="demo", timeout=600) if target is None else Client(target) as client:
        yield client


def run(client: Client) -> None:
    """Trains both probes, compares them, and shows what the one on latents goes by."""
    texts, labels, train = data()
    sources = [source for source in client.list_sources() if source.kind is saeserve.Kind.LATENT]
    matrix = saeserve.collect(client.encode_stream(texts, sources=sources))
    latents = matrix.by_text("max")
    say(f"{train.sum()} sentences to train on, {(~train).sum()} with other words to try it on; half name a colour.")
    say(
        f"Each is a row of {latents.shape[1]:,} latents of {len(sources)} layers, of which "
        f"{latents.nnz / len(texts):.0f} fire in the mean."
    )
    say("\nright on                  known words   new words")
    probe = None
    for name, rows in (("a bag of tokens", bag(matrix)), ("latents", latents)):
        probe = fitted(rows[train], labels[train])
        known, new = (probe.score(rows[part], labels[part]) for part in (train, ~train))
        say(f"  {name:<22} {100 * known:9.0f}% {100 * new:10.0f}%")
    by_word(probe, latents, labels, train)
    weights(client, matrix, probe)


def data() -> tuple[list[str], np.ndarray[Any, np.dtype[np.bool_]], np.ndarray[Any, np.dtype[np.bool_]]]:
    """The sentences, whether each names a colour, and whether it is to train on."""
    words = [(word, word in COLOURS + NEW_COLOURS, word in COLOURS + OTHERS) for word in every_word()]
    made = [(sentence.format(word), colour, train) for word, colour, train in words for sentence in SENTENCES]
    return [text for text, _, _ in made], np.array([one[1] for one in made]), np.array([one[2] for one in made])


def every_word() -> list[str]:
    """In the order of the rows."""
    return COLOURS + OTHERS + NEW_COLOURS + NEW_OTHERS


def bag(matrix: FeatureMatrix) -> Any:
    """[texts, tokens]; which tokens each text has."""
    from sklearn.feature_extraction.text import CountVectorizer

    tokens = [list(matrix.token[matrix.text == text]) for text in matrix.texts]
    return CountVectorizer(analyzer=lambda text: text, binary=True).fit_transform(tokens)


def fitted(rows: Any, labels: Any) -> Any:
    """A logistic regression, each column divided by its largest value first."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MaxAbsScaler

    return make_pipeline(MaxAbsScaler(), LogisticRegression(max_iter=2000)).fit(rows, labels)


def by_word(probe: Any, latents: Any, labels: Any, train: Any) -> None:
    """Of each new word in how many of its sentences the probe is right."""
    right = probe.predict(latents) == labels
    say("\nNew words, and in how many of their sentences the latents are right:")
    for words in (NEW_COLOURS, NEW_OTHERS):
        shown = []
        for word in words:
            first = every_word().index(word) * len(SENTENCES)
            shown.append(f"{word} {right[first : first + len(SENTENCES)].sum()}")
        say(f"  {', '.join(shown)} of {len(SENTENCES)}")


def weights(client: Client, matrix: FeatureMatrix, probe: Any) -> None:
    """The latents with the largest weights, and where in the index each fires most."""
    weight = probe[-1].coef_[0]
    say("\nThe latents that speak most for a colour, and where in the index they fire most:")
    for column in np.argsort(-weight, kind="stable")[:6]:
        feature = matrix.feature(int(column))
        records = client.top_activations(feature, diversity="folded-token", page_size=3).records
        shown = " | ".join(around(record) for record in records)
        say(f"  {weight[column]:5.2f}  {feature!s:<13} {shown}")


def around(record: saeserve.Record) -> str:
    """The token at which a record is strongest, and three on either side."""
    at = record.max_position
    parts = [
        b"".join(token.piece for token in tokens).decode(errors="replace")
        for tokens in (record.tokens[max(0, at - 3) : at], record.tokens[at : at + 1], record.tokens[at + 1 : at + 3])
    ]
    return " ".join(f"{parts[0]}«{parts[1].strip()}»{parts[2]}".split())


def say(text: str) -> None:
    """A line."""
    print(text.rstrip())


if __name__ == "__main__":
    sys.exit(main())
