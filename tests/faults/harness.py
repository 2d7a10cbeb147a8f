"""What fault runs share: servers that fail on request, questions with their right answers, and how a call may end."""

from __future__ import annotations

import dataclasses
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from grpc import StatusCode

import saeserve
from saeserve.answers import results
from saeserve.calls import request
from saeserve.v1.feature_service_pb2_grpc import FeatureServiceStub
from tests.answers import EPSILON, Differs, Tally
from tests.conftest import DEVICE
from tests.faults import faulty_server
from tests.faults.faulty_server import GATES, MEMORY, REACHED, RUNS
from tests.service.servers import PATIENCE, SERVING, Server, until
from tests.service.test_concurrency import hold, requests
from tests.service.wire import Refusal, connect, passages, read_refusal, stub_of

FEATURES = ["0-demo:248", "0:52", "3-demo:7"]
IDLE = ("saeserve_queue_size", "saeserve_requests_in_flight", "saeserve_queue_load_ratio", "saeserve_streams_in_flight")
GRPC_MAKES = (StatusCode.CANCELLED, StatusCode.DEADLINE_EXCEEDED)
"""Codes that a call ends with by itself: nothing of the server's stands in them."""


class Faulty(Server):
    """A server on the demo with its index, whose worker fails on request. Settings that are None are left out."""

    def __init__(self, folder: Path, **settings: object) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port_file = folder / "port"
        self._log = folder / "log"
        self._log.touch()
        chosen = {
            "bind": "127.0.0.1:0",
            "metrics_bind": "127.0.0.1:0",
            "port_file": self.port_file,
            "device": DEVICE,
            "log_format": "json",
            "drain_delay": 0,
            **settings,
        }
        flags = [part for name, value in chosen.items() for part in ("--" + name.replace("_", "-"), str(value))]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(faulty_server.__file__), "start", *flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | {faulty_server.FOLDER: str(folder)},
            )
        self.target = ""

    def value(self, sample: str) -> float:
        """A sample of the metrics; 0 for one that is not there yet."""
        return self.metrics().get(f"saeserve_{sample}", 0.0)

    def await_value(self, sample: str, value: float) -> None:
        """Waits until a sample has a value."""
        until(lambda: self.value(sample) == value, f"{sample} is {value:g}")

    def await_more(self, sample: str, than: float) -> None:
        """Waits until a sample has grown."""
        until(lambda: self.value(sample) > than, f"{sample} is more than {than:g}")

    @contextmanager
    def closed(self, marker: str) -> Iterator[None]:
        """Batches with the marker stand still meanwhile."""
        gate = self.folder / GATES[marker]
        gate.with_suffix(REACHED).unlink(missing_ok=True)
        gate.touch()
        try:
            yield
        finally:
            gate.unlink(missing_ok=True)

    @contextmanager
    def short_of_memory(self, tokens: int) -> Iterator[None]:
        """Runs of more tokens run out of memory meanwhile."""
        (self.folder / MEMORY).write_text(str(tokens))
        try:
            yield
        finally:
            (self.folder / MEMORY).unlink()

    def runs(self) -> list[int]:
        """Tokens of each run of the model so far."""
        path = self.folder / RUNS
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def stands_still(self, marker: str) -> bool:
        """Whether a batch has come to a closed gate."""
        return (self.folder / GATES[marker]).with_suffix(REACHED).exists()

    def is_occupied(self) -> bool:
        """Whether all that was submitted has gone into a batch, and the batch is not done."""
        metrics = self.metrics()
        return metrics["saeserve_queue_size"] == 0 and metrics["saeserve_queue_load_ratio"] > 0


@contextmanager
def faulty(folder: Path, **settings: object) -> Iterator[Faulty]:
    """Such a server, ready."""
    one = Faulty(folder, **settings)
    try:
        with connect(one.await_listening()) as channel:
            one.await_ready(channel)
        yield one
    finally:
        one.end()


@contextmanager
def healthy_after(own: Faulty, *expected: str, replaced: bool = False) -> Iterator[FeatureServiceStub]:
    """A stub on a connection of its own; at the end the server must be as if nothing had happened.

    `expected` are beginnings of messages that may be logged as errors; `replaced`: whether the worker may be another.
    """
    lines, worker = len(own.log()), own.worker()
    with connect(own.target, **{"grpc.use_local_subchannel_pool": 1}) as channel:
        stub = stub_of(channel)
        yield stub
        until(lambda: own.health(channel) == SERVING, "the server is ready")
        assert own.process.poll() is None
        assert replaced or own.worker() == worker
        question = searches(1)[0]
        check(question, question.read(question.send(stub).result(PATIENCE)), own, Tally())
    hold_idle(own)
    errors = [line for line in own.log()[lines:] if line["level"] in ("error", "critical")]
    assert not [line for line in errors if not str(line["message"]).startswith(expected or ("\0",))]


def hold_idle(own: Faulty) -> None:
    """Nothing waits and nothing runs."""
    until(lambda: not any(own.metrics()[name] for name in IDLE), "nothing is left in the server")


# Questions


@dataclass(frozen=True, eq=False)
class Question:
    """A unary call, as both clients and the bare stubs can send it."""

    method: str
    arguments: tuple[Any, ...]
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.method} {self.arguments} {dict(self.options)}"

    def ask(self, client: Any) -> Any:
        """Through a client: the answer, or with an AsyncClient its awaitable."""
        return getattr(client, self.method)(*self.arguments, **self.options)

    def send(self, stub: FeatureServiceStub, timeout: float | None = 2 * PATIENCE, client: str = "") -> Any:
        """Through a stub, without retries: the call in progress."""
        call = self._call
        metadata = [("x-saeserve-client", client)] if client else None
        return getattr(stub, call.method).future(call.request, timeout=timeout, metadata=metadata)

    def read(self, response: Any) -> Any:
        """What the stub answered, as the clients give it."""
        return self._call.read(response)

    @property
    def _call(self) -> Any:
        return getattr(request, self.method)(*self.arguments, **self.options)


def searches(count: int) -> list[Question]:
    """Up to 240 distinct searches of all kinds."""
    return [Question("search", (text,), options) for text, options in requests()[:count]]


def encodes(count: int) -> list[Question]:
    """Up to 240 distinct encodings."""
    return [Question("encode", (f"Long ago {text[:60]}",), {"features": FEATURES}) for text in passages(count)]


def marked(marker: str, count: int) -> list[Question]:
    """Distinct searches that begin with a marker."""
    return [Question("search", (f"{marker} number {place}",)) for place in range(count)]


_right: dict[str, Any] = {}
_asker: list[saeserve.Client] = []


def answer_with(client: saeserve.Client) -> None:
    """From now on right answers are those of this client's server, which nobody else keeps busy."""
    _asker[:] = [client]


def alone(question: Question) -> Any:
    """The answer that the question gets alone, by a server to which nothing happens."""
    key = str(question)
    if key not in _right:
        _right[key] = question.ask(_asker[0])
    return _right[key]


def check(question: Question, answer: Any, what: object, tally: Tally) -> None:
    """Raises Differs unless the answer is the one that the question gets alone."""
    right = alone(question)
    if isinstance(answer, results.SearchResult):
        hold(answer, right, str(question), tally)
    elif isinstance(answer, results.EncodeResult):
        if [text.tokens for text in answer] != [text.tokens for text in right]:
            raise Differs(f"{question}: other tokens")
        hold_dense(answer.dense, right.dense, str(question))
    elif not same(answer, right):
        raise Differs(f"{question}: {answer}, alone {right}")


def hold_dense(answer: Any, right: Any, what: str) -> None:
    """Raises Differs unless all values are within ε."""
    if answer.shape != right.shape or abs(answer - right).max() > EPSILON * max(1.0, float(abs(right).max())):
        raise Differs(f"{what}: other activations")


def same(one: Any, other: Any) -> bool:
    """Whether two answers that nothing was computed for are equal in all but what the calls cost."""
    if dataclasses.is_dataclass(one):
        names = [field.name for field in dataclasses.fields(one) if field.name != "call_info"]
        return type(one) is type(other) and all(same(getattr(one, name), getattr(other, name)) for name in names)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(itertools.starmap(same, zip(one, other, strict=True)))
    return bool(one == other)


# How calls end


@dataclass(frozen=True)
class Ending:
    """What became of a call: an answer, a refusal with its details, or a code that gRPC itself makes."""

    question: Question
    code: StatusCode
    answer: Any = None
    refusal: Refusal | None = None


def end_of(question: Question, call: Any) -> Ending:
    """Waits for a stub's call. Fails if it hangs, and if it is refused without all that a refusal carries."""
    try:
        return Ending(question, StatusCode.OK, question.read(call.result(2 * PATIENCE)))
    except grpc.FutureTimeoutError:
        raise AssertionError(f"not answered: {question}") from None
    except grpc.FutureCancelledError:
        return Ending(question, StatusCode.CANCELLED)
    except grpc.RpcError as error:
        code: StatusCode = error.code()
        return Ending(question, code, refusal=None if code in GRPC_MAKES else read_refusal(error))


def ends_of(questions: list[Question], calls: list[Any]) -> list[Ending]:
    """How the calls ended; every answer among them is right."""
    ends = [end_of(question, call) for question, call in zip(questions, calls, strict=True)]
    check_all([(end.question, end.answer) for end in ends if end.code is StatusCode.OK])
    return ends


def check_all(answered: list[tuple[Question, Any]]) -> None:
    """Raises Differs unless every answer is the one that its question gets alone."""
    tally = Tally(texts=len({str(question) for question, _ in answered}))
    for question, answer in answered:
        check(question, answer, "", tally)
    tally.exceptions = sorted(set(tally.exceptions))
    tally.check()


def refusals(ends: list[Ending]) -> list[Refusal]:
    """Of those that were refused."""
    return [end.refusal for end in ends if end.refusal is not None]
