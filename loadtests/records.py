"""What became of each call, and how that is told apart: answered, refused as the contract allows, or failed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from saeserve.transport.errors import from_rpc
from saeserve.v1 import types_pb2

OK = "OK"
EXPIRED = "DEADLINE_EXCEEDED"
_REFUSED = "RESOURCE_EXHAUSTED "


class Record(NamedTuple):
    """One call. Times are of the monotonic clock, which the processes of a machine share."""

    kind: str
    began: float
    """When it was sent; in an open loop, when it was meant to be."""
    finished: float
    verdict: str
    """OK, or the status and its reason."""
    tier: str = ""
    """Where the answer came from; empty where the server does not say."""
    waited: float = 0.0
    """Seconds that the caller then waited since it was refused."""

    @property
    def seconds(self) -> float:
        """How long its caller waited for the answer."""
        return self.finished - self.began

    @property
    def answered(self) -> bool:
        """Whether it was answered."""
        return self.verdict == OK

    @property
    def refused(self) -> bool:
        """Whether the server declined it for now, and said why: load that it may refuse."""
        return self.verdict.startswith(_REFUSED)

    @property
    def failed(self) -> bool:
        """Neither."""
        return not self.answered and not self.refused


def tier_of(answer: Any) -> str:
    """Where an answer came from, in lower case; empty where it does not say."""
    name = types_pb2.CacheTier.Name(answer.call_info.cache).removeprefix("CACHE_TIER_").lower()
    return "" if name == "unspecified" else name


def verdict_of(failure: grpc.RpcError) -> tuple[str, float | None, str]:
    """Status with reason, seconds after which the server expects a retry to succeed, and the message."""
    error = from_rpc(failure)
    return f"{error.code.name} {error.reason}".rstrip(), error.retry_delay, error.message


def write(records: Iterable[Record], file: Path) -> None:
    """One JSON array a line."""
    file.write_text("".join(json.dumps(record) + "\n" for record in records))


def read(file: Path) -> list[Record]:
    """What `write` wrote."""
    return [Record(*json.loads(line)) for line in file.read_text().splitlines()]
