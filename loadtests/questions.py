"""What callers ask: requests about the texts they pick, each with the name under which its times are counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from loadtests.texts import Texts
from saeserve.v1 import feature_service_pb2 as pb
from saeserve.v1 import types_pb2 as types

FEATURES = 8
"""Features of an Encode of chosen ones."""


@dataclass(frozen=True, slots=True)
class Question:
    """One call to make."""

    kind: str
    """What its times are counted under."""
    method: str
    request: Any


@dataclass(frozen=True, slots=True)
class Served:
    """What questions must know of the server that answers them."""

    layers: int
    sources: tuple[tuple[str, int], ...]
    """SAE sources with their numbers of features."""
    indexed: tuple[str, ...]
    """Those of them that have records of top activations."""

    @classmethod
    def read(cls, stub: Any, metadata: Any = None) -> Served:
        """Ask the server, by a blocking stub."""
        info = stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=30, wait_for_ready=True, metadata=metadata)
        listed = stub.ListSources(pb.ListSourcesRequest(), timeout=30, metadata=metadata)
        sources = tuple(
            (source.id, source.n_features) for source in listed.sources if source.kind == types.FEATURE_KIND_LATENT
        )
        covered = set(info.index.sources)
        return cls(info.model.n_layers, sources, tuple(name for name, _ in sources if name in covered))


def search(text: str, kind: str = "Search", **fields: Any) -> Question:
    """A search of a text."""
    return Question(kind, "Search", pb.SearchRequest(input=types.Input(text=text), **fields))


class Asker:
    """One caller: searches texts, and comes back to the last one with other questions."""

    def __init__(self, served: Served, texts: Texts, chance: Random) -> None:
        self._served = served
        self._texts = texts
        self._chance = chance
        self._text = texts.pick(chance)

    def search(self) -> Question:
        """The features of another text."""
        self._text = self._texts.pick(self._chance)
        return search(self._text)

    def sort(self) -> Question:
        """The last text again, sorted by one of its words."""
        word = self._chance.choice(self._text.split(" "))
        return search(self._text, "Search, sorted", sort_tokens=[pb.SortToken(text=word)])

    def narrow(self) -> Question:
        """The last text again, with more features of fewer layers."""
        first = self._chance.randrange(self._served.layers)
        chosen = pb.FeatureSelector(layers=[pb.LayerRange(first=first, last=self._served.layers - 1)])
        return search(self._text, "Search, narrower", filter=pb.Filter(include=chosen), limit=100)

    def by_token(self) -> Question:
        """The top features of each token of the last text."""
        return search(self._text, "Search, by token", by_token=True, limit=5)

    def encode_features(self) -> Question:
        """Chosen features on some texts."""
        features = [self._feature(self._served.sources) for _ in range(FEATURES)]
        distinct = {(feature.source, feature.index): feature for feature in features}
        texts = [self._texts.pick(self._chance) for _ in range(self._chance.randint(1, 3))]
        inputs = [types.Input(text=text) for text in texts]
        request = pb.EncodeRequest(inputs=inputs, features=list(distinct.values()))
        return Question("Encode, features", "Encode", request)

    def encode_source(self) -> Question:
        """All features of a source on one text, sparse."""
        source, _ = self._chance.choice(self._served.sources)
        inputs = [types.Input(text=self._texts.pick(self._chance))]
        return Question("Encode, source", "Encode", pb.EncodeRequest(inputs=inputs, sources=[source], omit_tokens=True))

    def top(self) -> Question:
        """Where a feature fires most; a search where the server has no index."""
        known = [source for source in self._served.sources if source[0] in self._served.indexed]
        if not known:
            return self.search()
        return Question("TopActivations", "TopActivations", pb.TopActivationsRequest(feature=self._feature(known)))

    def _feature(self, sources: Sequence[tuple[str, int]]) -> types.FeatureId:
        source, features = self._chance.choice(sources)
        return types.FeatureId(source=source, index=self._chance.randrange(features))
