"""What is said where there is no connection, or another one than was meant: by really making such connections."""

import asyncio
import contextlib
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

import saeserve
from saeserve import AsyncClient, Client
from saeserve.transport.proxy import proxy_for
from saeserve.transport.target import parse_target
from saeserve.v1 import feature_service_pb2_grpc as rpc
from tests.client.fake import Failure, new_service, status
from tests.client.test_calls import free_port
from tests.security.certificates import Authority


@pytest.fixture(autouse=True)
def one_attempt(monkeypatch):
    """What is tried is what the last attempt says."""
    monkeypatch.setattr("saeserve.transport.channel.MAX_ATTEMPTS", 1)
    for name in ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    ours, theirs = Authority(folder / "ours", "ours"), Authority(folder / "theirs", "theirs")
    return {
        "ours": ours.cert,
        "theirs": theirs.cert,
        "here": ours.sign("here", "DNS:localhost", "IP:127.0.0.1"),
        "elsewhere": ours.sign("elsewhere", "DNS:elsewhere.example"),
        "stranger": theirs.sign("stranger", "DNS:me"),
    }


@pytest.fixture(scope="module")
def secure(keys):
    """Ports of three servers: one with TLS, one whose certificate is another's, one that asks for a certificate."""
    server = grpc.server(ThreadPoolExecutor(4))
    rpc.add_FeatureServiceServicer_to_server(new_service(), server)

    def port(pair, mutual=False):
        files = [(pair.key.read_bytes(), pair.cert.read_bytes())]
        credentials = grpc.ssl_server_credentials(files, keys["ours"].read_bytes() if mutual else None, mutual)
        return f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', credentials)}"

    ports = {"tls": port(keys["here"]), "other name": port(keys["elsewhere"]), "mutual": port(keys["here"], True)}
    server.start()
    yield ports
    server.stop(0).wait(10)


@pytest.fixture
def listens():
    """Makes listeners that read, send these bytes, and hang up; None: say nothing."""
    opened = []

    def listener(reply, heard=None):
        listening = socket.create_server(("127.0.0.1", 0))
        opened.append(listening)

        def serve():
            with contextlib.suppress(OSError):  # closed, at either end
                while True:
                    taken, _ = listening.accept()
                    opened.append(taken)
                    if reply is not None:
                        answer(taken)

        def answer(taken):
            with contextlib.suppress(OSError):
                said = taken.recv(1000)
                if heard is not None:
                    heard.append(said)
                for part in reply:
                    taken.sendall(part)
                    time.sleep(0.05)
                taken.shutdown(socket.SHUT_RDWR)

        threading.Thread(target=serve, daemon=True).start()
        return f"127.0.0.1:{listening.getsockname()[1]}"

    yield listener
    for one in opened:
        one.close()


def fails(target, kind=saeserve.Unavailable, **options):
    with Client(target, **{"timeout": 5} | options) as client, pytest.raises(kind) as raised:
        client.tokenize("a")
    return raised.value


def says(error, reason, *words):
    assert error.reason == reason, error
    for word in words:
        assert word in error.message
    # Our own words stand first, gRPC's behind them.
    assert error.message.index("(gRPC: ") > 40
    assert "\n" not in error.message


def test_nothing_listens(tmp_path):
    target = f"127.0.0.1:{free_port()}"
    says(fails(target), "CONNECTION_REFUSED", f"nothing listens at {target}: has the server started")

    async def run():
        async with AsyncClient(target, timeout=5) as client:
            with pytest.raises(saeserve.Unavailable) as raised:
                await client.tokenize("a")
            says(raised.value, "CONNECTION_REFUSED", f"nothing listens at {target}")
            with pytest.raises(saeserve.Unavailable) as raised:
                [item async for item in client.encode_stream(["a"], features="2:1", timeout=0.1)]
            says(raised.value, "CONNECTION_REFUSED", f"nothing listens at {target}")

    asyncio.run(run())
    says(fails(f"unix:{tmp_path}/none"), "SOCKET_MISSING", "there is no socket", "has the server started")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(f"{tmp_path}/left")
    says(fails(f"unix:{tmp_path}/left"), "CONNECTION_REFUSED", "has the server ended?")
    with pytest.raises(ValueError, match="at most 107 bytes"):
        Client("unix:/" + "a" * 200)


def test_a_name_that_nobody_knows():
    for target in ("nobody.invalid:50051", "dns:///nobody.invalid:50051"):
        says(fails(target), "TARGET_NOT_FOUND", f"no address is known of {target}", "is the name right")


def test_plain_against_tls_and_the_reverse(secure, keys, target):
    says(fails(secure["tls"]), "CONNECTION_CLOSED", "does it want TLS (tls=True, or ca_cert)")
    says(fails(target, ca_cert=keys["ours"]), "SERVER_NOT_TLS", "does not speak TLS: leave out tls")


def test_certificates(secure, keys):
    says(fails(secure["tls"], ca_cert=keys["theirs"]), "CERTIFICATE_NOT_TRUSTED", "as ca_cert", "CERTIFICATE_VERIFY")
    says(fails(secure["tls"], tls=True), "CERTIFICATE_NOT_TRUSTED", "as ca_cert")
    says(fails(secure["other name"], ca_cert=keys["ours"]), "CERTIFICATE_NAME", "give it as server_name")
    says(fails(secure["mutual"], ca_cert=keys["ours"]), "CONNECTION_CLOSED", "client_cert, client_key")
    shown = {"client_cert": keys["stranger"].cert, "client_key": keys["stranger"].key}
    error = fails(secure["mutual"], ca_cert=keys["ours"], **shown)
    says(error, "CONNECTION_CLOSED", "does it trust this client's certificate")


HTTP2 = b"\0\0\0\4\0\0\0\0\0"  # SETTINGS
HTTP2_404 = b"\0\0\0\4\1\0\0\0\0" + b"\0\0\1\1\5\0\0\0\1\x8d"  # their acknowledgement; headers: `:status: 404`


@pytest.mark.parametrize(
    ("reply", "reason", "words", "kind"),
    [
        ([b"HTTP/1.1 400 Bad Request\r\n\r\n"], "NOT_GRPC", "speaks HTTP/1, not gRPC: does it want TLS", None),
        ([b"-ERR unknown command\r\n"], "NOT_GRPC", "does not speak gRPC: does it want TLS", None),
        ([], "CONNECTION_CLOSED", "closed the connection", None),
        # SETTINGS, their acknowledgement, then headers that hold `:status: 404` alone.
        (
            [HTTP2, b"\0\0\0\4\1\0\0\0\0\0\0\1\1\5\0\0\0\1\x8d"],
            "NOT_GRPC",
            "HTTP/2 but not gRPC",
            saeserve.Unimplemented,
        ),
    ],
)
def test_another_service_s_port(listens, reply, reason, words, kind):
    says(fails(listens(reply), kind or saeserve.Unavailable), reason, words)


def test_another_grpc_server():
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    says(fails(f"127.0.0.1:{port}", saeserve.Unimplemented), "OTHER_SERVICE", "another service, or older")
    server.stop(0).wait(10)


def test_who_says_nothing_is_told_from_a_server_that_is_slow(listens, target, fake):
    error = fails(listens(None), saeserve.DeadlineExceeded, timeout=0.3)
    assert "there is no connection to 127.0.0.1" in error.message
    fake.hang = {"Tokenize"}
    assert fails(target, saeserve.DeadlineExceeded, timeout=0.3).message == "no answer within 0.3 s"


@pytest.mark.parametrize("host", ["LOCALHOST", "localhost.", "127.1", "0.0.0.0", "[::ffff:127.0.0.1]", "a.localhost"])
def test_this_machine_is_reached_past_a_proxy_however_it_is_spelt(monkeypatch, target, listens, host):
    monkeypatch.setenv("http_proxy", "http://" + listens([b"HTTP/1.1 403 Forbidden\r\n\r\n"]))
    port = target.rpartition(":")[2]
    for written in (f"{host}:{port}", f"dns:///{host}:{port}", [f"{host}:{port}", f"127.0.0.1:{port}"]):
        if host == "a.localhost" and not isinstance(written, str):
            continue
        with Client(written, token="sesame", timeout=5) as client:
            assert client.tokenize("a").tokens


@pytest.mark.parametrize(
    ("given", "local"),
    [
        ("[::]:1", True),
        ("[::1]:1", True),
        ("ip6-localhost:1", True),
        ("localhost.localdomain:1", True),
        ("2130706433:1", True),
        ("0x7f.1:1", True),
        ("127.255.0.1:1", True),
        ("unix-abstract:a", True),
        ("ipv4:0.0.0.0:1", True),
        ("dns://8.8.8.8/localhost:1", False),
        ("localhost.example:1", False),
        ("128.0.0.1:1", False),
        ("[::ffff:10.0.0.1]:1", False),
        ("notlocalhost:1", False),
        ("1.localhost.evil.example:1", False),
    ],
)
def test_this_machine(given, local):
    assert parse_target(given).local is local


def test_the_name_in_a_certificate_is_that_which_was_written(secure, keys):
    port = secure["tls"].rpartition(":")[2]
    for host in ("LOCALHOST", "localhost.", "127.1"):
        with Client(f"{host}:{port}", ca_cert=keys["ours"], timeout=5) as client:
            assert client.tokenize("a").tokens


def test_a_proxy_in_the_way_is_named(monkeypatch, listens):
    heard = []
    proxy = "http://user:secret@" + listens([b"HTTP/1.1 403 Forbidden\r\n\r\n"], heard)
    monkeypatch.setenv("https_proxy", proxy)
    error = fails("far.example:50051")
    says(error, "PROXY_REFUSED", "https_proxy=http://127.0.0.1", "no_proxy=far.example goes past it", "status 403")
    assert b"CONNECT far.example:50051" in heard[0]
    assert "secret" not in str(error)
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{free_port()}")
    says(fails("far.example:50051"), "CONNECTION_REFUSED", "https_proxy=", "nothing listens at the proxy")
    # gRPC would ask the proxy for the whole list as if it were one name.
    assert ("grpc.enable_http_proxy", 0) in Client(["10.0.0.1:1", "10.0.0.2:1"])._connection.options


def test_whom_a_proxy_is_not_for(monkeypatch):
    monkeypatch.setenv("http_proxy", "proxy:3128")
    monkeypatch.setenv("no_proxy", "near.example, .corp,10.0.0.0/8")
    for host in ("near.example", "a.near.example", "a.corp", "10.1.2.3"):
        assert proxy_for(host) == ""
    for host in ("far.example", "11.0.0.1"):
        assert proxy_for(host) == "http_proxy=proxy:3128"


LOADING = Failure(
    status(grpc.StatusCode.UNAVAILABLE, "the model is being loaded", reason="LOADING", retry_seconds=0.1),
    (("grpc-retry-pushback-ms", "100"),),
)


def test_a_deadline_does_not_hide_that_the_server_loads(connect, fake, monkeypatch):
    monkeypatch.setattr("saeserve.transport.channel.MAX_ATTEMPTS", 5)
    client = connect()
    fake.failures = [LOADING] * 50
    for timeout in (0.25, 5):  # in the middle of the attempts, and after them
        with pytest.raises(saeserve.SaeserveError, match=r"the model is being loaded.*wait_ready") as raised:
            client.search("a", timeout=timeout)
        assert raised.value.reason == "LOADING"

    def loading(requests, context):
        LOADING.abort(context)
        yield

    fake.streams = [loading]
    with pytest.raises(saeserve.Unavailable, match=r"the model is being loaded.*wait_ready"):
        list(client.encode_stream(["a"], features="2:1", timeout=0.01))
    with pytest.raises(saeserve.DeadlineExceeded, match=r"not ready after 0\.2 s; it last said: the model is being"):
        client.wait_ready(0.2)
    # An attempt that is under way when the time is over.
    fake.failures, fake.hang = [LOADING], set()

    def then_hang(request):
        fake.release.wait(20)
        return fake_answer(request)

    fake_answer, fake.answers["Search"] = fake.answers["Search"], then_hang
    with pytest.raises(saeserve.DeadlineExceeded, match=r"no answer within 0\.5 s; .*is being loaded.*wait_ready"):
        client.search("a", timeout=0.5)


def test_no_waiting_mends_a_wrong_way(keys, target):
    began = time.monotonic()
    with (
        Client(target, ca_cert=keys["ours"]) as client,
        pytest.raises(saeserve.Unavailable, match="does not speak TLS"),
    ):
        client.wait_ready(20)
    assert time.monotonic() - began < 5


def test_every_reason_stands_in_the_readme():
    from pathlib import Path

    from saeserve.transport.explain import _CAUSES

    page = (Path(__file__).parents[2] / "clients" / "python" / "README.md").read_text()
    for _, reason, *_ in _CAUSES:
        assert reason in page
