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
    from saeserve.aio import AsyncClient as AsyncClient
    from saeserve.answers.activations import Csr as Csr
    from saeserve.answers.compare import Comparison as Comparison
    from saeserve.answers.compare import Peak as Peak
    from saeserve.answers.contrast import Contrast as Contrast
    from saeserve.answers.contrast import Distinction as Distinction
    from saeserve.answers.explanations import Explained as Explained
    from saeserve.answers.explanations import ExplanationSearch as ExplanationSearch
    from saeserve.answers.match_table import MatchRow as MatchRow
    from saeserve.answers.match_table import MatchTable as MatchTable
    from saeserve.answers.names import FeatureName as FeatureName
    from saeserve.answers.results import EncodedText as EncodedText
    from saeserve.answers.results import EncodeResult as EncodeResult
    from saeserve.answers.results import FeatureInfo as FeatureInfo
    from saeserve.answers.results import Hit as Hit
    from saeserve.answers.results import SearchResult as SearchResult
    from saeserve.answers.results import ServerInfo as ServerInfo
    from saeserve.answers.results import SourceList as SourceList
    from saeserve.answers.results import StreamItem as StreamItem
    from saeserve.answers.results import TokenHits as TokenHits
    from saeserve.answers.results import TokenizeResult as TokenizeResult
    from saeserve.answers.results import TopActivations as TopActivations
    from saeserve.answers.similar import NotCompared as NotCompared
    from saeserve.answers.similar import Similar as Similar
    from saeserve.answers.similar import SimilarFeatures as SimilarFeatures
    from saeserve.answers.types import Cache as Cache
    from saeserve.answers.types import CallInfo as CallInfo
    from saeserve.answers.types import DensityOrigin as DensityOrigin
    from saeserve.answers.types import Explanation as Explanation
    from saeserve.answers.types import Feature as Feature
    from saeserve.answers.types import HistogramBin as HistogramBin
    from saeserve.answers.types import Import as Import
    from saeserve.answers.types import Index as Index
    from saeserve.answers.types import Kind as Kind
    from saeserve.answers.types import Limits as Limits
    from saeserve.answers.types import Match as Match
    from saeserve.answers.types import Model as Model
    from saeserve.answers.types import Record as Record
    from saeserve.answers.types import RecordExample as RecordExample
    from saeserve.answers.types import RecordOrigin as RecordOrigin
    from saeserve.answers.types import Source as Source
    from saeserve.answers.types import Statistics as Statistics
    from saeserve.answers.types import Token as Token
    from saeserve.answers.types import UsualToken as UsualToken
    from saeserve.answers.vectors import Direction as Direction
    from saeserve.answers.vectors import Vectors as Vectors
    from saeserve.arguments.examples import EXAMPLES as EXAMPLES
    from saeserve.client import Client as Client
    from saeserve.files.activations import Activations as Activations
    from saeserve.files.read import read_activations as read_activations
    from saeserve.local_server import LocalAsyncClient as LocalAsyncClient
    from saeserve.local_server import LocalClient as LocalClient
    from saeserve.local_server import LocalServerError as LocalServerError
    from saeserve.local_server import local as local
    from saeserve.local_server import local_async as local_async
    from saeserve.tables.matrix import FeatureMatrix as FeatureMatrix
    from saeserve.tables.matrix import collect as collect
    from saeserve.transport.errors import Aborted as Aborted
    from saeserve.transport.errors import Cancelled as Cancelled
    from saeserve.transport.errors import DeadlineExceeded as DeadlineExceeded
    from saeserve.transport.errors import FailedPrecondition as FailedPrecondition
    from saeserve.transport.errors import FieldViolation as FieldViolation
    from saeserve.transport.errors import Internal as Internal
    from saeserve.transport.errors import InvalidArgument as InvalidArgument
    from saeserve.transport.errors import NotFound as NotFound
    from saeserve.transport.errors import PermissionDenied as PermissionDenied
    from saeserve.transport.errors import ResourceExhausted as ResourceExhausted
    from saeserve.transport.errors import SaeserveError as SaeserveError
    from saeserve.transport.errors import Unauthenticated as Unauthenticated
    from saeserve.transport.errors import Unavailable as Unavailable
    from saeserve.transport.errors import Unimplemented as Unimplemented

# Which module defines which public name.
_MODULES = {
    "answers.activations": ["Csr"],
    "aio": ["AsyncClient"],
    "client": ["Client"],
    "transport.errors": [
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
    "files.activations": ["Activations"],
    "files.read": ["read_activations"],
    "local_server": ["LocalAsyncClient", "LocalClient", "LocalServerError", "local", "local_async"],
    "answers.compare": ["Comparison", "Peak"],
    "answers.contrast": ["Contrast", "Distinction"],
    "answers.explanations": ["Explained", "ExplanationSearch"],
    "answers.match_table": ["MatchRow", "MatchTable"],
    "answers.names": ["FeatureName"],
    "answers.similar": ["NotCompared", "Similar", "SimilarFeatures"],
    "answers.vectors": ["Direction", "Vectors"],
    "arguments.examples": ["EXAMPLES"],
    "tables.matrix": ["FeatureMatrix", "collect"],
    "answers.results": [
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
    "answers.types": [
        "Cache",
        "CallInfo",
        "DensityOrigin",
        "Explanation",
        "Feature",
        "HistogramBin",
        "Import",
        "Index",
        "Kind",
        "Limits",
        "Match",
        "Model",
        "Record",
        "RecordExample",
        "RecordOrigin",
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
