"""`saeserve.local` with stand-ins for `saeserve-server`: it starts, is found ready, and ends with its caller."""

import asyncio
import contextlib
import io
import json
import logging
import multiprocessing.spawn  # which remembers what runs it, before a test puts a stand-in there
import os
import pickle  # noqa: TID251 (our own client, not a file)
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import saeserve
from saeserve import server_process
from tests.security.certificates import Authority

SERVES = """
from tests.client.fake import new_service, serve
server, address = serve(new_service())
print(address, flush=True)
say("info", "listening")
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
server.wait_for_termination(60)
"""
FAILS = """
say("info", "a line before")
print("config.toml: modle: unknown \\x1b[31mkey", file=sys.stderr)
sys.exit(3)
"""
SILENT = "say('info', 'loading'); time.sleep(60)"
STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SERVES
HEAD = """
import json, os, pathlib, signal, sys, threading, time
def say(level, message, **more):
    line = {"time": "", "level": level, "logger": "x", "message": message, **more}
    print(json.dumps(line), file=sys.stderr, flush=True)
(here / "pid").write_text(str(os.getpid()))
(here / "arguments").write_text("\\n".join(sys.argv[1:]))
(here / "environment").write_text(json.dumps(dict(os.environ)))
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a stand-in for `saeserve-server` beside the interpreter."""

    def write(body):
        script = tmp_path / "saeserve-server"
        script.write_text(f"#!{sys.executable}\nimport pathlib\nhere = pathlib.Path({str(tmp_path)!r})\n{HEAD}\n{body}")
        script.chmod(0o755)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
        return tmp_path

    return write


def exists(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def alive(folder):
    return exists(int((folder / "pid").read_text()))


def test_a_ready_client_for_the_length_of_the_block(install):
    folder = install(SERVES)
    with saeserve.local(device="cpu", timeout=30, max_tokens=64, neurons=False, index=folder) as client:
        assert client.search("a").results
        assert alive(folder)
    assert not alive(folder)
    assert (folder / "arguments").read_text().splitlines() == [
        *("start", "--bind=127.0.0.1:0", "--metrics-bind=none", "--log-format=json", "--model=demo", "--device=cpu"),
        *("--drain-delay=0", "--max-tokens=64", "--neurons=false", f"--index={folder}"),
        *("--port-file=-", "--end-with-caller"),
    ]


def test_without_a_block_it_is_closed_or_collected(install):
    folder = install(SERVES)
    client = saeserve.local(timeout=30)
    assert client.search("a").results
    client.close()
    assert not alive(folder)
    client.close()
    with pytest.raises(saeserve.Cancelled, match="closed"):
        client.search("a")
    client = saeserve.local(timeout=30)
    assert alive(folder)
    del client
    assert not alive(folder)


def test_several_at_a_time_in_other_processes_too(install):
    folder = install(SERVES)
    with saeserve.local(timeout=30) as one, saeserve.local(timeout=30) as other:
        assert one.target != other.target
        copy = pickle.loads(pickle.dumps(one))
        assert type(copy) is saeserve.Client
        copy.close()  # the server is not the copy's
        assert one.search("a").results
        child = os.fork()
        if child == 0:
            one.close()
            os._exit(0)
        os.waitpid(child, 0)
        assert one.search("a").results
        assert alive(folder)


def start_and_ask(executable, answer):
    sys.executable = executable
    client = saeserve.local(timeout=30)
    answer.put((client.search("a").results[0].name.index, client._end.peek()[1].__self__._process.pid))


def test_a_spawned_process_may_have_one_which_ends_with_it(install):
    install(SERVES)
    spawn = multiprocessing.get_context("spawn")
    answer = spawn.Queue()
    process = spawn.Process(target=start_and_ask, args=(sys.executable, answer), daemon=True)
    process.start()
    index, pid = answer.get(timeout=30)
    process.join(30)
    assert (index, process.exitcode, exists(pid)) == (1633, 0, False)


def test_a_configuration_names_its_own_model_and_says_what_its_client_must_know(install, tmp_path):
    folder = install(SERVES)
    (tmp_path / "my.toml").write_text('auth_token_file = "token"\n')
    (tmp_path / "token").write_text("sesame")
    with saeserve.local(config=tmp_path / "my.toml", timeout=30) as client:
        assert client._connection.headers(None, None)[-1] == ("authorization", "Bearer sesame")
    arguments = (folder / "arguments").read_text()
    assert "--model" not in arguments
    assert f"--config={tmp_path / 'my.toml'}" in arguments


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"sources": [{"set": "a"}]}, TypeError, "tables stand in the config file"),
        ({"port_file": "x"}, TypeError, "port_file"),
        ({"max-tokens": 4}, TypeError, "no name of a setting"),
        ({"token": "a", "auth_token_file": "b"}, ValueError, "give one of them"),
        ({"tls_cert": "a", "tls_key": "b", "tls_client_ca": "c"}, ValueError, "client_cert"),
        ({"timeout": "soon"}, TypeError, "timeout"),
        ({"timeout": 0}, ValueError, "timeout"),
    ],
)
def test_settings_that_can_be_none_are_refused_before_anything_starts(settings, error, says):
    with pytest.raises(error, match=says):
        saeserve.local(**settings)


def test_variables_for_other_servers_are_not_handed_on(install, monkeypatch):
    folder = install(SERVES)
    for name in ("AUTH_TOKEN_FILE", "TLS_CERT", "BIND", "CONFIG", "TARGET", "TOKEN", "CA_CERT", "LOG_LEVEL"):
        monkeypatch.setenv(f"SAESERVE_{name}", "/nowhere")
    with saeserve.local(timeout=30) as client:
        assert client.search("a").results
    inherited = json.loads((folder / "environment").read_text())
    assert "PATH" in inherited
    assert [name for name in inherited if name.startswith("SAESERVE_")] == []


def test_the_server_ends_also_when_the_block_raises(install):
    folder = install(SERVES)
    with pytest.raises(RuntimeError, match="mine"), saeserve.local(timeout=30):
        raise RuntimeError("mine")
    assert not alive(folder)


def test_a_server_that_ignores_sigterm_is_killed(install, monkeypatch):
    folder = install(STUBBORN)
    monkeypatch.setattr(server_process, "_STOP_SECONDS", 0.3)
    with saeserve.local(timeout=30):
        pass
    assert not alive(folder)


def test_its_progress_is_logged_with_its_levels_and_escaped(install, caplog):
    loading = 'say("info", "memory", free="2 GiB"); say("warning", "odd \\x1b[31m\\nSAE", exception="a\\nb\\x07")\n'
    install(loading + 'say("info", "GetServerInfo", reason="LOADING")\n' + SERVES)
    with caplog.at_level(logging.INFO, "saeserve.local"), saeserve.local(timeout=30):
        pass
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert ("INFO", "memory free=2 GiB") in said
    assert ("WARNING", "odd \\x1b[31m\\nSAE\n  | a\n  | b\\x07") in said
    assert said[0][1].startswith("starting saeserve-server")
    assert any(text.startswith("ready at 127.0.0.1:") for _, text in said)
    assert not any("GetServerInfo" in text for _, text in said)


def test_a_server_that_dies_is_quoted(install):
    install(FAILS)
    with pytest.raises(saeserve.LocalServerError) as caught:
        saeserve.local(timeout=30)
    first, *rest = str(caught.value).splitlines()
    assert first.startswith("saeserve-server ended with status 3 after 0.")
    assert rest == ["a line before", "config.toml: modle: unknown \\x1b[31mkey"]


def test_a_server_that_never_listens_is_ended_in_time(install):
    folder = install(SILENT)
    began = time.monotonic()
    with pytest.raises(
        saeserve.DeadlineExceeded, match=r"does not listen after 1\.\d s; the last that it said:\nloading"
    ):
        saeserve.local(timeout=1)
    assert time.monotonic() - began < 15
    assert not alive(folder)


def test_a_server_that_is_never_ready_is_told_with_the_whole_time_and_why(install):
    loading = "Failure(status(grpc.StatusCode.UNAVAILABLE, 'the model is being loaded', reason='LOADING'))"
    never = SERVES.replace("new_service()", f"FakeService(failures=[{loading}] * 999)")
    folder = install("import grpc\nfrom tests.client.fake import FakeService, Failure, status\n" + never)
    with pytest.raises(saeserve.DeadlineExceeded) as caught:
        saeserve.local(timeout=1.5)
    assert caught.value.message.startswith("saeserve-server was not ready after 1.5 s; ")
    assert "the model is being loaded" in caught.value.message
    assert caught.value.message.endswith("; the last that it said:\nlistening")
    assert not alive(folder)


def test_without_the_server_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(saeserve.LocalServerError, match="pip install saeserve-server"), saeserve.local():
        pass


def test_the_module_serves_where_there_is_no_script(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert server_process._command() == [str(tmp_path / "python"), "-m", "saeserve_server"]


def test_the_async_twin_with_and_without_a_block(install):
    folder = install(SERVES)

    async def run():
        async with saeserve.local_async(timeout=30) as client:
            assert (await client.search("a")).results
            assert alive(folder)
        assert not alive(folder)
        client = await saeserve.local_async(timeout=30)
        assert (await client.search("a")).results
        await client.close()

    asyncio.run(run())
    assert not alive(folder)


def test_cancelling_the_async_twin_ends_its_server(install):
    folder = install(SILENT)

    async def run():
        async with asyncio.timeout(1):
            async with saeserve.local_async(timeout=30):
                pass

    with pytest.raises(TimeoutError):
        asyncio.run(run())
    assert not alive(folder)


CALLER = """
import os, signal, sys, time
import saeserve
from saeserve import server_process
if sys.argv[1] == "loading":
    server_process.ServerProcess.await_ready = lambda self, _: print(self._process.pid, flush=True) or time.sleep(60)
client = saeserve.local("synthetic:tiny", tls_cert=sys.argv[2], tls_key=sys.argv[3], token="sesame", timeout=90)
print(client._end.peek()[1].__self__._process.pid, client.search("red").results[0].name, flush=True)
if os.fork():
    os.kill(os.getpid(), signal.SIGKILL)  # the child lives on
time.sleep(60)
"""


def session(leader):
    """The processes that a server started, and itself: it leads a session of its own."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().rpartition(")")
        except OSError:
            continue
        state, _, _, of, *_ = rest.split()
        if int(of) == leader and state != "Z":
            found.append(name)
    return found


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="processes are looked up in /proc")
def test_whatever_kills_the_caller_server_worker_and_files_are_gone_within_three_seconds(tmp_path, monkeypatch):
    """Callers of real servers, over TLS with a token: killed while it loads, and when it is ready, a child left."""
    pair = Authority(tmp_path, "authority").sign("server", "IP:127.0.0.1")
    monkeypatch.setenv("SAESERVE_TLS_CERT", "/nowhere")
    monkeypatch.setenv("SAESERVE_CONFIG", "/nowhere")
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    callers = {}
    try:
        for phase in ("loading", "ready"):
            command = [sys.executable, "-c", CALLER, phase, str(pair.cert), str(pair.key)]
            callers[phase] = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
        for phase, caller in callers.items():
            leader, *name = caller.stdout.readline().split()
            assert len(name) == (phase != "loading")
            if phase == "loading":
                assert session(int(leader)) != []
                caller.kill()
            caller.wait(10)
            deadline = time.monotonic() + 3.0
            while (left := session(int(leader))) and time.monotonic() < deadline:
                time.sleep(0.05)
            assert left == []
        assert list(folder.glob("*saeserve*")) == []
    finally:
        for caller in callers.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(caller.pid, signal.SIGKILL)  # the child that lives on
            caller.wait(10)
            caller.stdout.close()


def test_a_log_handler_that_fails_ends_no_reading():
    """A pipe that nobody reads would block the server."""
    heard = []

    def hear(line):
        heard.append(line)
        raise ValueError("I/O operation on closed file")

    process = server_process.ServerProcess([], 1.0)
    process._listen(io.BytesIO(b"one\ntwo\n"), hear)
    process._listeners[0].join(10)
    assert heard == ["one", "two"]
