"""A Locust user who searches over gRPC.

    locust -f loadtests/locustfile.py --headless --host 127.0.0.1:50051 --users 8 --run-time 10s

The generated stub, not `saeserve.Client`: the client's channel retries, and a refusal must count as one here.
"""

import random
import time
from typing import Any, cast

import grpc
import grpc.experimental.gevent
from locust import User, task

from saeserve.v1 import feature_service_pb2 as pb
from saeserve.v1 import feature_service_pb2_grpc, types_pb2

# Before any channel: without it every call blocks the whole process, and nothing says so.
grpc.experimental.gevent.init_gevent()

DEADLINE_S = 30.0
TEXTS = (
    "red",
    "My favorite color is red.",
    "My favorite color is crimson.",
    "I love you, and I hate him.",
    "The whale swam in the sea near the ship.",
    "She put the kettle on and watched the rain run down the window.",
    "Once upon a time there lived a king who had three daughters.",
    "In 'The Odyssey', Homer takes us on an epic journey with Odysseus, whose adventures and trials on his way back to "
    "Ithaca after the Trojan War offer timeless insights into the human condition and the quest for home.",
)


class Searcher(User):
    """Searches a random text, waits for the answer, searches again."""

    def on_start(self) -> None:
        """Open this user's own channel, as separate callers would."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.insecure_channel(self.host or "127.0.0.1:50051", options=options)
        self.stub = feature_service_pb2_grpc.FeatureServiceStub(self.channel)

    def on_stop(self) -> None:
        """Close it."""
        self.channel.close()

    @task
    def search(self) -> None:
        """One search, reported to Locust with its time, its size, and its error if it had one."""
        text = random.choice(TEXTS)  # noqa: S311
        answer: pb.SearchResponse | None = None
        error: Exception | None = None
        began = time.perf_counter()
        try:
            answer = self.stub.Search(pb.SearchRequest(input=types_pb2.Input(text=text)), timeout=DEADLINE_S)
        except grpc.RpcError as raised:
            error = RuntimeError(describe(raised))
        self.report("Search", began, answer, error)

    def report(self, name: str, began: float, answer: Any, error: Exception | None) -> None:
        """Fire Locust's `request` event."""
        self.environment.events.request.fire(
            request_type="grpc",
            name=name,
            response_time=(time.perf_counter() - began) * 1000,
            response_length=answer.ByteSize() if answer is not None else 0,
            response=answer,
            exception=error,
            context={},
        )


def describe(error: grpc.RpcError) -> str:
    """Status and message in one line, so that Locust counts equal failures together."""
    call = cast(grpc.Call, error)  # what a failed call raises is both, which the types do not say
    return f"{call.code().name}: {call.details()}"
