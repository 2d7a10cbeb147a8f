"""Clients in other processes and under other schedulers: pickled, forked, patched by gevent; and the page about it."""

import copy
import pickle  # noqa: TID251 (what multiprocessing does)
import re
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

import saeserve
from saeserve import AsyncClient, Client
from tests.client.fake import TEXT, one_value

PAGE = Path(__file__).parents[2] / "clients" / "python" / "docs" / "concurrency.md"
IMPORTS = "import asyncio, functools, multiprocessing, sys\nimport saeserve\ntarget = sys.argv[1]\n"


def run(tmp_path, target, program):
    """Run a program in an interpreter of its own; it is a file, because spawned children import it."""
    file = tmp_path / "program.py"
    file.write_text(program)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(file), target], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def snippet(heading):
    """The code under a heading of the page."""
    section = re.search(rf"^##+ {heading}\n(.*?)(?=^##|\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return re.search(r"```python\n(.*?)```", section[1], re.DOTALL)[1]


def main(code):
    """What stands at the left margin and is not a definition goes under the guard that spawned children need."""
    parts = re.split(r"(?m)^(?=with |found)", code, maxsplit=1)
    return parts[0] + "if __name__ == '__main__':\n" + re.sub(r"(?m)^", "    ", parts[1])


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_client_that_is_pickled_carries_its_settings(kind, tmp_path):
    (tmp_path / "token").write_text("sesame")
    given = {
        "token_file": tmp_path / "token",
        "client_name": "notebook",
        "metadata": (pair for pair in [("x-extra", "1")]),
        "max_message_bytes": 12345,
        "options": iter([("grpc.max_send_message_length", 99)]),
    }
    client = kind(iter(["127.0.0.1:1", "127.0.0.1:2"]), timeout=None, **given)
    for again in (pickle.loads(pickle.dumps(client)), copy.copy(client), copy.deepcopy(client)):
        assert type(again) is kind
        assert (again.target, again.timeout) == ("127.0.0.1:1,127.0.0.1:2", None)
        assert again._connection.address == client._connection.address
        assert again._connection.options == client._connection.options
        sent = dict(again._connection.headers(None, "id"))
        assert sent == dict(client._connection.headers(None, "id"))
        assert (sent["x-extra"], sent["authorization"]) == ("1", "Bearer sesame")


def test_what_arrives_connects_anew_though_the_other_was_closed(target):
    client = Client(target)
    client.close()
    with pickle.loads(pickle.dumps(client)) as again:
        assert again.search("a").tokens


def test_credentials_cannot_travel():
    client = Client("127.0.0.1:1", credentials=grpc.ssl_channel_credentials())
    with pytest.raises(TypeError, match="give it ca_cert"):
        pickle.dumps(client)


def test_a_client_goes_to_a_spawned_process(tmp_path, target):
    program = IMPORTS + main(snippet("Processes")) + "    print(counts)"
    assert run(tmp_path, target, program) == "[6, 6]\n"


def test_a_forked_child_connects_anew(tmp_path, target):
    """With a stream under way in the parent, whose threads the child has not: an inherited channel would be silent."""
    program = IMPORTS + (
        "import os, threading, time\n"
        "client = saeserve.Client(target, timeout=5)\n"
        "def texts():\n"
        "    while True:\n"
        "        time.sleep(0.02)\n"
        "        yield 'a'\n"
        "threading.Thread(target=lambda: list(client.encode_stream(texts(), features='2:1')), daemon=True).start()\n"
        "time.sleep(0.2)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(len(list(client.encode_stream(['a', 'b'], features='2:1'))) + len(client.tokenize('a')))\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), len(client.tokenize('a')), flush=True)\n"
        "os._exit(0)\n"
    )
    assert run(tmp_path, target, program) == "8 6\n"


def test_threads_and_tasks_share_a_client(tmp_path, target):
    program = IMPORTS + snippet("Threads") + "print(len(found))\n" + snippet("asyncio") + "print(len(found))\n"
    assert run(tmp_path, target, program) == "3\n2\n"


def test_a_data_loader_s_workers_ask(tmp_path, target):
    program = IMPORTS + "import torch.utils.data\n" + main(snippet("PyTorch's DataLoader")) + "    print(shapes)"
    assert run(tmp_path, target, program) == "[torch.Size([6, 8]), torch.Size([6, 8])]\n"


def test_an_application_of_a_web_server_asks(tmp_path, target):
    program = IMPORTS + snippet("gunicorn") + "print(application({}, lambda *_: None))"
    assert run(tmp_path, target, program) == "[b'0-DEMO:1633']\n"


def test_gevent_works_and_timeouts_hold_in_it(tmp_path, target, fake):
    pytest.importorskip("gevent")

    def stream(requests, context):
        for message in requests:
            if message.item.input.text == "hang":
                fake.release.wait(20)
            if message.HasField("item"):
                yield one_value(message.item)

    fake.streams = [stream]
    streams = (
        "    jobs += [gevent.spawn(lambda: list(client.encode_stream(['a'] * 20, features='2:1'))) for _ in range(3)]\n"
        "    gevent.joinall(jobs, timeout=10)\n"
        "    print([len(job.value) for job in jobs])\n"
        "with saeserve.Client(target, timeout=0.3) as client:\n"
        "    def never():\n"
        "        yield 'a'\n"
        "        yield 'hang'\n"
        "    try:\n"
        "        list(client.encode_stream(never(), features='2:1'))\n"
        "    except saeserve.DeadlineExceeded:\n"
        "        print('in time')\n"
        "try:\n"
        "    saeserve.AsyncClient(target)\n"
        "except RuntimeError as error:\n"
        "    print(error)\n"
    )
    # The client is imported, and has loaded its streams, before gevent patches the program.
    program = IMPORTS + "import gevent.monkey\nsaeserve.Client\n" + snippet("gevent") + streams
    expected = (
        "[2, 2, 20, 20, 20]\nin time\n"
        "gevent has patched this program's threads, and grpc.aio would hang: use saeserve.Client\n"
    )
    assert run(tmp_path, target, program) == expected


def test_eventlet_is_refused(monkeypatch):
    class Patcher:
        @staticmethod
        def is_monkey_patched(name):
            return name == "thread"

    monkeypatch.setitem(sys.modules, "eventlet.patcher", Patcher)
    with pytest.raises(RuntimeError, match="use gevent, threads or processes"):
        Client("127.0.0.1:1")


def test_the_page_names_what_there_is():
    for name in re.findall(r"`saeserve\.(\w+)", PAGE.read_text()):
        assert hasattr(saeserve, name)
    assert TEXT in PAGE.read_text()
    assert f"docs/{PAGE.name}" in (PAGE.parents[1] / "README.md").read_text()
