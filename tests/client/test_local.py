"""`saeserve.local` with stand-ins for `saeserve-server`: it starts, is found ready, and ends with the block."""

import asyncio
import os
import sys
import time

import pytest

import saeserve
from saeserve import local_server

SERVES = """
import argparse, os, pathlib, sys
from tests.client.fake import new_service, serve
parser = argparse.ArgumentParser()
parser.add_argument("command")
parser.add_argument("--port-file", type=pathlib.Path)
known, rest = parser.parse_known_args()
server, address = serve(new_service())
(here / "arguments").write_text(" ".join([known.command, *rest]))
(here / "new").write_text(address)
(here / "new").rename(known.port_file)
server.wait_for_termination(60)
"""
FAILS = """
print("a line before")
print("config.toml: modle: unknown key", file=sys.stderr)
sys.exit(3)
"""
SILENT = "import time; print('loading', flush=True); time.sleep(60)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SERVES


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a stand-in for `saeserve-server` beside the interpreter."""

    def write(body):
        script = tmp_path / "saeserve-server"
        head = f"#!{sys.executable}\nimport os, pathlib, sys\nhere = pathlib.Path({str(tmp_path)!r})\n"
        script.write_text(f"{head}(here / 'pid').write_text(str(os.getpid()))\n{body}")
        script.chmod(0o755)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
        return tmp_path

    return write


def alive(folder):
    try:
        os.kill(int((folder / "pid").read_text()), 0)
    except ProcessLookupError:
        return False
    return True


def test_a_ready_client_for_the_length_of_the_block(install):
    folder = install(SERVES)
    with saeserve.local(device="cpu", timeout=30, max_tokens=64, neurons=False) as client:
        assert client.search("a").results
        assert alive(folder)
    assert not alive(folder)
    assert (folder / "arguments").read_text() == (
        "start --bind 127.0.0.1:0 --metrics-bind none --model demo --device cpu --drain-delay 0"
        " --max-tokens 64 --neurons false"
    )


def test_a_configuration_names_its_own_model(install, tmp_path):
    folder = install(SERVES)
    with saeserve.local(config=tmp_path / "my.toml", timeout=30):
        pass
    arguments = (folder / "arguments").read_text()
    assert "--model" not in arguments
    assert f"--config {tmp_path / 'my.toml'}" in arguments


def test_the_server_ends_also_when_the_block_raises(install):
    folder = install(SERVES)
    with pytest.raises(RuntimeError, match="mine"), saeserve.local(timeout=30):
        raise RuntimeError("mine")
    assert not alive(folder)


def test_a_server_that_ignores_sigterm_is_killed(install, monkeypatch):
    folder = install(STUBBORN)
    monkeypatch.setattr(local_server, "_STOP_SECONDS", 0.3)
    with saeserve.local(timeout=30):
        pass
    assert not alive(folder)


def test_a_server_that_dies_is_quoted(install):
    install(FAILS)
    with (
        pytest.raises(saeserve.LocalServerError, match=r"status 3 before it was ready\n(.*\n)*config\.toml: modle"),
        saeserve.local(timeout=30),
    ):
        pass


def test_a_server_that_never_listens_is_ended_in_time(install):
    folder = install(SILENT)
    began = time.monotonic()
    with pytest.raises(saeserve.DeadlineExceeded, match="does not listen after 1 s"), saeserve.local(timeout=1):
        pass
    assert time.monotonic() - began < 15
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
    assert local_server._command() == [str(tmp_path / "python"), "-m", "saeserve_server"]


def test_the_async_twin(install):
    folder = install(SERVES)

    async def run():
        async with saeserve.local_async(timeout=30) as client:
            assert (await client.search("a")).results
            assert alive(folder)

    asyncio.run(run())
    assert not alive(folder)


def test_cancelling_the_async_twin_ends_its_server(install):
    folder = install(SILENT)

    async def run():
        async with asyncio.timeout(1.5):
            async with saeserve.local_async(timeout=30):
                pass

    with pytest.raises(TimeoutError):
        asyncio.run(run())
    assert not alive(folder)
