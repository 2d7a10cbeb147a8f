"""Locust users who ask over gRPC and wait for their answers.

    locust -f loadtests/locustfile.py --headless --host 127.0.0.1:50051 --users 32 --run-time 20s [--distinct]

The generated stub, not `saeserve.Client`: the client's channel retries, and a refusal must count as one here.
"""

from __future__ import annotations

import functools
import itertools
import time
from argparse import ArgumentParser
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.experimental.gevent
from locust import User, events, task
from locust.env import Environment

from loadtests import connect, records, texts
from loadtests.questions import Asker, Question, Served
from saeserve.v1 import feature_service_pb2_grpc

# Before any channel: without it every call blocks the whole process, and nothing says so.
grpc.experimental.gevent.init_gevent()

DEFAULT_HOST = "127.0.0.1:50051"
DEFAULT_PAUSE = 0.1
"""Seconds after a refusal that names no delay."""

hooks: Any = events  # which the types do not let us call
made: list[records.Record] = []
numbers = itertools.count()


def add_options(parser: ArgumentParser, **_: Any) -> None:
    """Our options. Each can be set by its environment variable as well."""
    parser.add_argument("--deadline", type=float, default=60, **_variable("deadline"), help="seconds a call may take")
    parser.add_argument("--think", type=float, default=0, **_variable("think"), help="seconds between calls")
    parser.add_argument("--distinct", action="store_true", **_variable("distinct"), help="no text twice")
    parser.add_argument("--texts", type=int, default=2000, **_variable("texts"), help="how many texts there are")
    parser.add_argument("--zipf", type=float, default=1, **_variable("zipf"), help="how their popularity falls")
    parser.add_argument("--seed", type=int, default=0, **_variable("seed"), help="of all that is drawn")
    parser.add_argument("--records", type=Path, **_variable("records"), help="file for what became of each call")
    connect.add_options(parser, _variable)


def _variable(name: str) -> dict[str, Any]:
    return {"env_var": f"LOAD_{name.upper()}", "include_in_web_ui": False}


def prepare(environment: Environment, **_: Any) -> None:
    """Ask the server once, before any user does. With --records: mark when all users are there, and leave what became
    of each call."""
    options = environment.parsed_options
    if options is not None and (options.host or not environment.web_ui):
        with connect.one_line():
            connect.Server.read(options.host or DEFAULT_HOST, options).check()
    file: Path | None = getattr(environment.parsed_options, "records", None)
    if file:
        hooks.spawning_complete.add_listener(lambda **_: file.with_suffix(".began").touch())
        hooks.quitting.add_listener(lambda **_: records.write(made, file))


hooks.init_command_line_parser.add_listener(add_options)
hooks.init.add_listener(prepare)


@functools.cache
def popular(count: int, exponent: float, seed: int) -> texts.Popular:
    """The texts that all users share."""
    return texts.Popular(count, exponent, seed)


class Caller(User):
    """Searches a text, asks more about it, encodes, looks where features fire; one call at a time."""

    def on_start(self) -> None:
        """Open this user's own channel, as separate callers would, and learn what is served."""
        self.options = self.environment.parsed_options
        server = connect.Server.read(self.host or DEFAULT_HOST, self.options)
        self.channel = connect.channel(server)
        self.stub = feature_service_pb2_grpc.FeatureServiceStub(self.channel)
        options = self.options
        source: texts.Texts = (
            texts.Distinct() if options.distinct else popular(options.texts, options.zipf, options.seed)
        )
        number = next(numbers)
        self.headers = partial(server.headers(), number)
        self.asker = Asker(Served.read(self.stub, self.headers()), source, texts.caller(options.seed, number))

    def on_stop(self) -> None:
        """Close it."""
        self.channel.close()

    def wait_time(self) -> float:
        """Pause between calls."""
        return float(self.options.think)

    @task(10)
    def search(self) -> None:
        """Another text."""
        self.ask(self.asker.search())

    @task(4)
    def sort(self) -> None:
        """The last text, sorted."""
        self.ask(self.asker.sort())

    @task(3)
    def narrow(self) -> None:
        """More features of fewer layers."""
        self.ask(self.asker.narrow())

    @task(2)
    def by_token(self) -> None:
        """Token by token."""
        self.ask(self.asker.by_token())

    @task(3)
    def encode_features(self) -> None:
        """Chosen features, dense."""
        self.ask(self.asker.encode_features())

    @task(1)
    def encode_source(self) -> None:
        """A whole source, sparse."""
        self.ask(self.asker.encode_source())

    @task(3)
    def top(self) -> None:
        """Records of a feature."""
        self.ask(self.asker.top())

    def ask(self, question: Question) -> None:
        """One call; a refusal is an entry of its own, and the user then waits as long as the server says."""
        answer: Any = None
        verdict, tier, pause, name = records.OK, "", 0.0, question.kind
        error: Exception | None = None
        start = time.monotonic()
        try:
            answer = getattr(self.stub, question.method)(
                question.request, timeout=self.options.deadline, metadata=self.headers()
            )
            tier = records.tier_of(answer)
        except grpc.RpcError as raised:
            verdict, delay, message = records.verdict_of(raised)
            if records.Record(name, 0, 0, verdict).refused:
                name, pause = f"{name} (refused)", DEFAULT_PAUSE if delay is None else delay
            else:
                error = RuntimeError(f"{verdict}: {message}")
        end = time.monotonic()
        if self.options.records:
            made.append(records.Record(question.kind, start, end, verdict, tier, pause))
        self.environment.events.request.fire(
            request_type="grpc",
            name=name,
            response_time=(end - start) * 1000,
            response_length=answer.ByteSize() if answer is not None else 0,
            response=answer,
            exception=error,
            context={},
        )
        if pause:
            time.sleep(pause)  # gevent's, as Locust has patched it
