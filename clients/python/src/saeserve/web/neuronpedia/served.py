"""What the server behind the gateway serves, as these calls need it: asked now and then, never for each call."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1 import types_pb2 as types
from saeserve.web.forwarding import Asked
from saeserve.web.gateway import Gateway
from saeserve.web.neuronpedia.requests import Wrong

FRESH = 5.0
"""Seconds for which what was asked counts: a server may be started anew with other sources."""

_TOKENS = 100
"""For how many tokens it is kept."""


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """Model and sources."""

    info: service.GetServerInfoResponse
    sources: Mapping[str, types.Source]
    """By every name, lower-case."""
    bos: types.Token | None
    """The token before every text; None for a model without one."""

    @property
    def special(self) -> frozenset[int]:
        """Ids of special tokens."""
        return frozenset((*self.info.model.special_ids, *(() if self.bos is None else (self.bos.id,))))

    def leads(self, sources: Iterable[types.Source]) -> bool:
        """Whether a BOS stands before texts that these sources read: the model's, or one of their own."""
        return self.bos is not None or any(source.HasField("bos_id") for source in sources)

    def at_most(self, count: int) -> int:
        """So many results, or as many as the server gives at a time."""
        return min(count, self.info.limits.max_limit or count)

    def source(self, name: str) -> types.Source:
        """A source by name. Raises Wrong."""
        found = self.sources.get(name.lower())
        if found is None:
            known = ", ".join(dict.fromkeys(source.id for source in self.sources.values()))
            raise Wrong(f"Invalid source: {name[:80]} is none of {known[:400]}")
        return found

    def autoencoder(self, name: str) -> types.Source:
        """The same of a source with latents. Raises Wrong."""
        found = self.source(name)
        if is_neurons(found):
            raise Wrong(f"Invalid SAE ID or type: {name[:80]} are neurons")
        return found

    def chosen(self, set_name: str, names: list[str]) -> list[types.Source]:
        """The sources of a set that were chosen, or all, in that order, each once. Raises Wrong."""
        of_set = {source.id: source for source in self.sources.values() if source.set == set_name.lower()}
        if not of_set:
            known = ", ".join(sorted({source.set for source in self.sources.values()}))
            raise Wrong(f"Invalid source set: {set_name[:80]} is none of {known[:400]}")
        if not names:
            return list(of_set.values())
        chosen = [self.source(name) for name in names]
        for source in chosen:
            if source.id not in of_set:
                raise Wrong(f"Invalid source: {source.id} is not of the set {set_name[:80]}")
        return list({source.id: source for source in chosen}.values())


@dataclass(slots=True)
class _Known:
    """What a token's bearer was told."""

    served: Served | None = None
    until: float = 0.0


class Knowing:
    """Asks once for all callers with the same token, and anew once that is old."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._known: dict[str | None, _Known] = {}
        """By token. None: that of the gateway, or none."""

    async def served(self, asked: Asked) -> Served:
        """What is served. Raises SaeserveError where the server does not answer, or does not take the token."""
        known = self._known.get(asked.token) or _Known()
        if known.served is None or time.monotonic() >= known.until:
            known.until = time.monotonic() + FRESH  # meanwhile others go on with what is known
            try:
                known.served = await self._ask(asked)
            except BaseException:
                known.until = 0.0
                if self._known.get(asked.token) is known:
                    del self._known[asked.token]
                raise
            # Only now: whoever tries tokens leaves none here.
            self._known[asked.token] = known
            while len(self._known) > _TOKENS:
                del self._known[next(iter(self._known))]
        return known.served

    async def _ask(self, asked: Asked) -> Served:
        info = await self._gateway.ask(asked, "GetServerInfo", service.GetServerInfoRequest())
        listed = await self._gateway.ask(asked, "ListSources", service.ListSourcesRequest())
        named = {name.lower(): source for source in listed.sources for name in (source.id, *source.aliases)}
        return Served(info, named, await self._bos(asked, info.model))

    async def _bos(self, asked: Asked, model: service.Model) -> types.Token | None:
        if not model.HasField("bos_id"):
            return None
        twice = types.TokenIds(ids=[model.bos_id, model.bos_id])  # the first is taken for the BOS of a text
        found = await self._gateway.ask(asked, "Tokenize", service.TokenizeRequest(input=types.Input(token_ids=twice)))
        bos: types.Token = found.tokens[0]
        return bos


def is_neurons(source: types.Source) -> bool:
    """Whether its features are neurons."""
    return source.kind == types.FEATURE_KIND_NEURON
