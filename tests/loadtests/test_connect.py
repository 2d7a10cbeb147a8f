"""Every driver reaches a server that asks for mutual TLS and a token, and says plainly if it cannot."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import pytest

from loadtests import closed_loop, open_loop, probe, run, sweep
from loadtests.attacks import __main__ as attacks
from loadtests.attacks.stand import Stand, attack
from loadtests.connect import CannotConnectError, Server
from loadtests.processes import Address
from loadtests.texts import Distinct
from tests.loadtests.fake import Fake, Refusal, at_once, serving
from tests.security.certificates import Authority

ROOT = Path(__file__).parents[2]
TOKEN = "open-sesame-0123456789"
NAMES = ("ada", "bob", "cy")
NOWHERE = "127.0.0.1:1"


@dataclass(frozen=True)
class Guard:
    """What the server asks for, and what lets a driver in."""

    tls: grpc.ServerCredentials
    known: Server
    """Without its address."""
    other_ca: Path


@pytest.fixture(scope="module")
def guard(tmp_path_factory) -> Guard:
    folder = tmp_path_factory.mktemp("keys")
    ours, others = Authority(folder / "ours", "ca"), Authority(folder / "others", "ca")
    server, client = ours.sign("server", "DNS:inside.example"), ours.sign("client", "DNS:somebody")
    token = folder / "token"
    token.write_text(TOKEN)
    pair = [(server.key.read_bytes(), server.cert.read_bytes())]
    tls = grpc.ssl_server_credentials(pair, ours.cert.read_bytes(), require_client_auth=True)
    known = Server("", True, ours.cert, client.cert, client.key, "inside.example", token, client_names=NAMES)
    return Guard(tls, known, others.cert)


def against(guard: Guard, drive: Callable[[Server], object], behaviour=at_once) -> tuple[object, Fake]:
    """What a driver made of the guarded server, from a thread of its own."""

    async def serve() -> tuple[object, Fake]:
        async with serving(behaviour, TOKEN, guard.tls) as (target, fake):
            return await asyncio.to_thread(drive, replace(guard.known, target=target)), fake

    return asyncio.run(serve())


def command(module: str, server: Server, *words: str) -> list[str]:
    host = "--host" if module == "locust" else "--target"
    return [sys.executable, "-m", module, *words, host, server.target, *server.options()]


def test_callers_of_both_loops_take_their_names_in_turn(guard) -> None:
    def drive(server: Server) -> object:
        driven = open_loop.drive_all(open_loop.Plan(server, rate=100, seconds=0.3))
        window = asyncio.run(closed_loop.measure(server, Distinct(), closed_loop.Load(3, 0.2, 0, 5)))
        return {record.verdict for record in driven.records}, window.other

    ended, fake = against(guard, drive)
    assert ended == ({"OK"}, {})
    assert fake.callers == set(NAMES)


def test_the_sweep_measures_a_server_that_runs(guard, tmp_path) -> None:
    def drive(server: Server) -> object:
        words = ["--seconds", "0.3", "--deadline", "0.3", "--callers", "2", "--rounds", "1", "--saturating", "2"]
        words += ["--multiples", "0.1", "--out", str(tmp_path)]
        done = subprocess.run(
            command("loadtests.sweep", server, *words), cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        return done.returncode, done.stderr, done.stdout

    (status, stderr, stdout), fake = against(guard, drive)
    assert status == 0, stderr
    assert "| callers | answers/s |" in stdout
    assert {file.suffix for file in tmp_path.iterdir()} == {".json", ".png"}
    assert fake.callers >= set(NAMES[:2])


def test_locust_users_take_their_names_in_turn(guard) -> None:
    def drive(server: Server) -> object:
        words = ["-f", "loadtests/locustfile.py", "--headless", "--only-summary", "--users", "6", "--spawn-rate", "6"]
        done = subprocess.run(
            command("locust", server, *words, "--run-time", "1s"), cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        return done.returncode, done.stderr

    (status, stderr), fake = against(guard, drive)
    assert status == 0, stderr
    assert fake.callers >= set(NAMES)


def test_attacker_and_bystander_come_in_and_refusals_are_counted_with_their_delay(guard) -> None:
    async def refuse_the_attacker(number: int) -> None:
        if number > 5:
            raise Refusal

    def drive(server: Server) -> object:
        return attack(Address(server), "unread", Stand(seconds=4, idle=0.2, after=0.2))

    report, fake = against(guard, drive, refuse_the_attacker)
    refused = report.ends.by_verdict["RESOURCE_EXHAUSTED OVERLOADED"]
    assert refused.calls == refused.with_delay > 10
    assert refused.longest_delay == 0.05
    assert {record.kind for record in report.attacked} >= {probe.CHECK, probe.TOKENIZE, probe.CACHED}
    assert fake.callers >= {*NAMES, "bystander"}
    assert "| RESOURCE_EXHAUSTED OVERLOADED |" in report.describe()


def test_what_does_not_fit_is_said_in_one_line(guard, tmp_path) -> None:
    wrong = tmp_path / "token"
    wrong.write_text("not-this-one")
    ways = {
        "another authority": {"ca_cert": guard.other_ca},
        "no client's certificate": {"client_cert": None, "client_key": None},
        "another name": {"server_name": "outside.example"},
        "another token": {"token_file": wrong},
        "no file": {"token_file": tmp_path / "missing"},
        "a key without its certificate": {"client_cert": None},
        "no name": {"client_names": ("ü",)},
    }

    def drive(server: Server) -> object:
        said = {}
        for name, change in ways.items():
            with pytest.raises(CannotConnectError) as caught:
                replace(server, **change).check(timeout=5)
            said[name] = str(caught.value)
        return said

    said, fake = against(guard, drive)
    assert not fake.callers
    assert all(line and len(line.splitlines()) == 1 for line in said.values())
    assert "token_file" in said["no file"]
    assert "client_cert" in said["a key without its certificate"]


@pytest.mark.parametrize("program", [open_loop, probe, run, sweep, attacks], ids=lambda one: one.__name__)
def test_a_program_that_cannot_connect_ends_with_one_line(program, monkeypatch, tmp_path) -> None:
    needed = {open_loop: ["--rate", "1"], probe: ["--records", str(tmp_path / "records")]}.get(program, [])
    monkeypatch.setattr(sys, "argv", ["program", "--target", NOWHERE, *needed])
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert str(ended.value).startswith(NOWHERE)
    assert len(str(ended.value).splitlines()) == 1


def test_locust_that_cannot_connect_ends_with_one_line() -> None:
    words = ["-f", "loadtests/locustfile.py", "--headless", "--run-time", "5s"]
    done = subprocess.run(
        command("locust", Server(NOWHERE), *words), cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    assert NOWHERE in done.stderr
    assert "Traceback" not in done.stderr
