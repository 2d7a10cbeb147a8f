"""How an attacker's calls ended, counted by verdict: what was refused, and whether it was told when to come again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from loadtests import records


@dataclass(slots=True)
class End:
    """Calls that ended alike."""

    calls: int = 0
    with_delay: int = 0
    """Of them said after how long a retry is expected to succeed (RetryInfo)."""
    longest_delay: float = 0.0
    """Seconds."""


@dataclass(slots=True)
class Ends:
    """All calls of an attack."""

    sent: int = 0
    """Calls begun."""
    sent_bytes: int = 0
    """Of their messages."""
    answer_bytes: int = 0
    """Of the answers that came whole."""
    by_verdict: dict[str, End] = field(default_factory=dict)
    """OK, a status with its reason, or what HTTP/2 said of a stream or connection."""

    def begin(self, size: int) -> None:
        """A call with a message of that many bytes."""
        self.sent += 1
        self.sent_bytes += size

    def add(self, verdict: str, delay: float | None = None) -> None:
        """A call has ended."""
        end = self.by_verdict.setdefault(verdict, End())
        end.calls += 1
        if delay is not None:
            end.with_delay += 1
            end.longest_delay = max(end.longest_delay, delay)

    def failed(self, error: grpc.RpcError) -> None:
        """A call has ended with an error."""
        verdict, delay, _ = records.verdict_of(error)
        self.add(verdict, delay)

    @property
    def refused(self) -> int:
        """Calls that were declined for now, with a reason."""
        return sum(end.calls for verdict, end in self.by_verdict.items() if verdict.startswith("RESOURCE_EXHAUSTED "))

    def numbers(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)

    @classmethod
    def read(cls, numbers: Mapping[str, Any]) -> Ends:
        """What `numbers` gave."""
        ends = {verdict: End(**end) for verdict, end in numbers["by_verdict"].items()}
        return cls(numbers["sent"], numbers["sent_bytes"], numbers["answer_bytes"], ends)


def verdict_of_trailers(code: int, details: bytes) -> tuple[str, float | None]:
    """The same verdict from `grpc-status` and the decoded `grpc-status-details-bin`."""
    name = next((one.name for one in grpc.StatusCode if one.value[0] == code), str(code))
    reason, delay = "", None
    for packed in status_pb2.Status.FromString(details).details:
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if packed.Unpack(info):
            reason = info.reason
        elif packed.Unpack(retry):
            delay = retry.retry_delay.ToTimedelta().total_seconds()
    return f"{name} {reason}".rstrip(), delay
