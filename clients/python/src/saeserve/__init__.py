"""saeserve: what a language model's features (SAE latents, MLP neurons) respond to, asked over gRPC.

    import saeserve

    with saeserve.Client("127.0.0.1:50051") as client:
        for hit in client.search("My favorite color is red.", sort="red").results:
            print(hit.name, hit.value)

Every name below is loaded when it is first used: `import saeserve` costs milliseconds, and the generated code in
`saeserve.v1` can be imported without the client.
"""

import importlib
from typing import TYPE_CHECKING

from saeserve._version import __version__ as __version__

if TYPE_CHECKING:
    from saeserve.activations import Csr as Csr
    from saeserve.aio import AsyncClient as AsyncClient
    from saeserve.client import Client as Client
    from saeserve.errors import Aborted as Aborted
    from saeserve.errors import Cancelled as Cancelled
    from saeserve.errors import DeadlineExceeded as DeadlineExceeded
    from saeserve.errors import FailedPrecondition as FailedPrecondition
    from saeserve.errors import FieldViolation as FieldViolation
    from saeserve.errors import Internal as Internal
    from saeserve.errors import InvalidArgument as InvalidArgument
    from saeserve.errors import NotFound as NotFound
    from saeserve.errors import PermissionDenied as PermissionDenied
    from saeserve.errors import ResourceExhausted as ResourceExhausted
    from saeserve.errors import SaeserveError as SaeserveError
    from saeserve.errors import Unauthenticated as Unauthenticated
    from saeserve.errors import Unavailable as Unavailable
    from saeserve.errors import Unimplemented as Unimplemented
    from saeserve.local_server import LocalServerError as LocalServerError
    from saeserve.local_server import local as local
    from saeserve.local_server import local_async as local_async
    from saeserve.names import FeatureName as FeatureName
    from saeserve.results import EncodedText as EncodedText
    from saeserve.results import EncodeResult as EncodeResult
    from saeserve.results import FeatureInfo as FeatureInfo
    from saeserve.results import Hit as Hit
    from saeserve.results import SearchResult as SearchResult
    from saeserve.results import ServerInfo as ServerInfo
    from saeserve.results import SourceList as SourceList
    from saeserve.results import StreamItem as StreamItem
    from saeserve.results import TokenHits as TokenHits
    from saeserve.results import TokenizeResult as TokenizeResult
    from saeserve.results import TopActivations as TopActivations
    from saeserve.types import Cache as Cache
    from saeserve.types import CallInfo as CallInfo
    from saeserve.types import DensityOrigin as DensityOrigin
    from saeserve.types import Feature as Feature
    from saeserve.types import HistogramBin as HistogramBin
    from saeserve.types import Index as Index
    from saeserve.types import Kind as Kind
    from saeserve.types import Limits as Limits
    from saeserve.types import Match as Match
    from saeserve.types import Model as Model
    from saeserve.types import Record as Record
    from saeserve.types import Source as Source
    from saeserve.types import Statistics as Statistics
    from saeserve.types import Token as Token
    from saeserve.types import UsualToken as UsualToken

# Which module defines which public name.
_MODULES = {
    "activations": ["Csr"],
    "aio": ["AsyncClient"],
    "client": ["Client"],
    "errors": [
        "Aborted",
        "Cancelled",
        "DeadlineExceeded",
        "FailedPrecondition",
        "FieldViolation",
        "Internal",
        "InvalidArgument",
        "NotFound",
        "PermissionDenied",
        "ResourceExhausted",
        "SaeserveError",
        "Unauthenticated",
        "Unavailable",
        "Unimplemented",
    ],
    "local_server": ["LocalServerError", "local", "local_async"],
    "names": ["FeatureName"],
    "results": [
        "EncodeResult",
        "EncodedText",
        "FeatureInfo",
        "Hit",
        "SearchResult",
        "ServerInfo",
        "SourceList",
        "StreamItem",
        "TokenHits",
        "TokenizeResult",
        "TopActivations",
    ],
    "types": [
        "Cache",
        "CallInfo",
        "DensityOrigin",
        "Feature",
        "HistogramBin",
        "Index",
        "Kind",
        "Limits",
        "Match",
        "Model",
        "Record",
        "Source",
        "Statistics",
        "Token",
        "UsualToken",
    ],
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = ["__version__", *sorted(_MODULE_OF)]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    """Load a public name from its module, once."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
