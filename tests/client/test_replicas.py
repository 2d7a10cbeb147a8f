"""Several servers behind one client: calls are shared, and go to none that is not ready."""

from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health, health_pb2_grpc

import saeserve
from saeserve.transport.channel import SERVICE
from saeserve.v1 import feature_service_pb2_grpc as rpc
from tests.client.fake import new_service
from tests.service.servers import NOT_SERVING, SERVING, until


class Replica:
    """A fake service that reports health."""

    def __init__(self):
        self.fake, self.health = new_service(), health.HealthServicer()
        self._server = grpc.server(ThreadPoolExecutor(16))
        rpc.add_FeatureServiceServicer_to_server(self.fake, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self.set(SERVING)
        self._server.start()

    def set(self, state):
        self.health.set(SERVICE, state)

    def kill(self):
        self._server.stop(0).wait(10)

    @property
    def calls(self):
        return len(self.fake.seen)


@pytest.fixture
def replicas():
    made = [Replica(), Replica()]
    yield made
    for replica in made:
        replica.kill()


@pytest.fixture
def both(connect, replicas):
    """A client of both, connected to both."""
    client = connect([replica.target for replica in replicas])

    def shared():
        client.search("a")
        return all(replica.calls for replica in replicas)

    until(shared, "both answer", 10)
    return client


def counts(client, replicas, searches=20):
    before = [replica.calls for replica in replicas]
    for _ in range(searches):
        assert client.search("a").tokens
    return [replica.calls - count for replica, count in zip(replicas, before, strict=True)]


def test_calls_are_shared(both, replicas):
    assert counts(both, replicas) == [10, 10]


def test_who_is_not_ready_gets_none_until_it_is(both, replicas):
    replicas[0].set(NOT_SERVING)
    until(lambda: counts(both, replicas, 4) == [0, 4], "the first gets none", 10)
    assert counts(both, replicas) == [0, 20]
    replicas[0].set(SERVING)
    until(lambda: counts(both, replicas, 4) == [2, 2], "the first is back", 10)


def test_one_that_dies_costs_no_call(both, replicas):
    replicas[0].kill()
    assert counts(both, replicas) == [0, 20]
    texts = ["a" * length for length in range(1, 20)]
    assert [item.error for item in both.encode_stream(texts, features="2:1")] == [None] * 19


def test_if_none_is_ready_the_call_ends_unavailable(both, replicas):
    for replica in replicas:
        replica.set(NOT_SERVING)
    until(lambda: not answers(both), "neither gets calls", 20)
    with pytest.raises(saeserve.Unavailable):
        list(both.encode_stream(["a"], features="2:1", timeout=0.5))
    replicas[1].set(SERVING)
    until(lambda: answers(both), "the second is back", 10)


def answers(client):
    try:
        client.search("a", timeout=5)
    except saeserve.Unavailable:
        return False
    return True


def test_a_single_server_is_asked_whatever_its_health(connect, replicas):
    replicas[0].set(NOT_SERVING)  # it knows best why it cannot answer
    assert connect(replicas[0].target).search("a").tokens
