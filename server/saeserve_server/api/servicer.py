"""The RPCs of saeserve.v1.FeatureService, each handed to its module once the server can answer."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from google.protobuf.message import Message

from saeserve.v1 import feature_service_pb2 as service
from saeserve.v1.feature_service_pb2_grpc import FeatureServiceServicer
from saeserve_server.api import lookups
from saeserve_server.api.contrast import contrast
from saeserve_server.api.encode import encode
from saeserve_server.api.encode_stream import encode_stream
from saeserve_server.api.explanations import search_explanations
from saeserve_server.api.large import refuse_large_answer
from saeserve_server.api.search import search
from saeserve_server.api.similar import similar_features
from saeserve_server.api.vectors import get_vectors
from saeserve_server.errors import Unavailable
from saeserve_server.serving.serving import Serving

Response = TypeVar("Response", bound=Message | bytes)
Context = Any

LOADING_RETRY_SECONDS = 3.0
"""About what loading a small model takes; with gRPC's few retries, a delay much shorter would give up before."""


class FeatureServicer(FeatureServiceServicer):
    """Answers while `serving` is set; UNAVAILABLE before the model is loaded and while its worker restarts."""

    def __init__(self) -> None:
        self.serving: Serving | None = None

    async def Search(  # type: ignore[override]  # serialised already
        self, request: service.SearchRequest, context: Context
    ) -> bytes:
        return await self._answer(search, request)

    async def Encode(self, request: service.EncodeRequest, context: Context) -> service.EncodeResponse:
        return await self._answer(encode, request)

    async def EncodeStream(
        self, requests: AsyncIterator[service.EncodeStreamRequest], context: Context
    ) -> AsyncIterator[service.EncodeStreamResponse]:
        async with contextlib.aclosing(encode_stream(self._serving(), requests)) as responses:
            async for response in responses:
                yield response

    async def TopActivations(
        self, request: service.TopActivationsRequest, context: Context
    ) -> service.TopActivationsResponse:
        return await self._answer(lookups.top_activations, request)

    async def ListSources(self, request: service.ListSourcesRequest, context: Context) -> service.ListSourcesResponse:
        return await self._answer(lookups.list_sources, request)

    async def GetFeature(self, request: service.GetFeatureRequest, context: Context) -> service.GetFeatureResponse:
        return await self._answer(lookups.get_feature, request)

    async def Tokenize(  # type: ignore[override]  # serialised already
        self, request: service.TokenizeRequest, context: Context
    ) -> bytes:
        return await self._answer(lookups.tokenize, request)

    async def SearchExplanations(
        self, request: service.SearchExplanationsRequest, context: Context
    ) -> service.SearchExplanationsResponse:
        return await self._answer(search_explanations, request)

    async def SimilarFeatures(
        self, request: service.SimilarFeaturesRequest, context: Context
    ) -> service.SimilarFeaturesResponse:
        return await self._answer(similar_features, request)

    async def GetVectors(self, request: service.GetVectorsRequest, context: Context) -> service.GetVectorsResponse:
        return await self._answer(get_vectors, request)

    async def Contrast(
        self, requests: AsyncIterator[service.ContrastRequest], context: Context
    ) -> service.ContrastResponse:
        return await self._answer(contrast, requests)

    async def GetServerInfo(
        self, request: service.GetServerInfoRequest, context: Context
    ) -> service.GetServerInfoResponse:
        return await self._answer(lookups.get_server_info, request)

    async def _answer(self, method: Callable[[Serving, Any], Awaitable[Response]], request: Any) -> Response:
        serving = self._serving()
        response = await method(serving, request)
        refuse_large_answer(serving, len(response) if isinstance(response, bytes) else response.ByteSize())
        return response

    def _serving(self) -> Serving:
        if self.serving is None:
            raise Unavailable("the model is being loaded", reason="LOADING", retry_after=LOADING_RETRY_SECONDS)
        return self.serving
