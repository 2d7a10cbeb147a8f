"""A bystander beside an attack: what its calls took on the idle server, under the attack and after it, and what the
server held meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

from loadtests import connect, probe, records
from loadtests.attacks.attacker import READY
from loadtests.attacks.ends import Ends
from loadtests.attacks.watch import Watch
from loadtests.metrics import Growth
from loadtests.percentiles import milliseconds, percentile
from loadtests.processes import Address
from loadtests.table import table

ROOT = Path(__file__).resolve().parents[2]
BYSTANDER, ATTACKER = ("bystander",), ("attacker",)
"""Their names, unless the server's description brings others."""
MEGABYTE = 1_000_000
Process: TypeAlias = "subprocess.Popen[str]"


@dataclass(frozen=True, slots=True)
class Stand:
    """How long, and how often."""

    seconds: float = 10.0
    """Of the attack."""
    idle: float = 4.0
    """Seconds before it."""
    after: float = 3.0
    """Seconds beyond it: an attacker who hangs up leaves work behind. They count as attacked."""
    rate: float = 10.0
    """Calls a second of each kind that the bystander makes."""
    uncached: float = 1.0
    """Searches a second that are in no cache."""


@dataclass(slots=True)
class Report:
    """What an attack did."""

    attack: str
    idle: list[records.Record]
    """Of the bystander, ended before the attack."""
    attacked: list[records.Record]
    """Due in the attack, or after it."""
    ends: Ends
    """How the attacker's calls ended."""
    growth: Growth | None
    """Of the server's metrics from before to after."""
    gauges: dict[str, float]
    """The largest value seen of each gauge."""
    memory_before: int
    """Resident bytes of the front end; 0 where its process is not known."""
    memory_peak: int

    def times(self, part: Iterable[records.Record], kind: str) -> list[float]:
        """Seconds of the answers of a kind, in `idle` or `attacked`."""
        return [record.seconds for record in part if record.kind == kind and record.answered]

    def unanswered(self) -> list[records.Record]:
        """The bystander's calls that were refused or failed under the attack."""
        return [record for record in self.attacked if not record.answered]

    def describe(self) -> str:
        """Tables for people."""
        kinds = list(dict.fromkeys(record.kind for record in sorted(self.attacked) if record.kind != probe.LATE))
        rows: list[tuple[object, ...]] = []
        for kind in [*kinds, probe.LATE]:
            shown = []
            for part in (self.idle, self.attacked):
                times = self.times(part, kind)
                shown += [milliseconds(percentile(times, share)) for share in (50, 99, 100)]
            failed = sum(record.kind == kind for record in self.unanswered())
            rows.append(("(lateness of the bystander itself)" if kind == probe.LATE else kind, *shown, failed))
        head = ("bystander, ms", "idle p50", "p99", "max", "attacked p50", "p99", "max", "not answered")
        ends = [
            (verdict, end.calls, end.with_delay, f"{end.longest_delay:.1f}")
            for verdict, end in sorted(self.ends.by_verdict.items(), key=lambda one: -one[1].calls)
        ]
        parts = [f"## {self.attack}", table(head, rows)]
        parts.append(table(("attacker's calls ended with", "calls", "with RetryInfo", "longest s"), ends))
        sent, answered = (f"{size / MEGABYTE:.1f} MB" for size in (self.ends.sent_bytes, self.ends.answer_bytes))
        before, peak = (f"{size / MEGABYTE:.0f} MB" for size in (self.memory_before, self.memory_peak))
        parts.append(
            f"{self.ends.sent} messages of {sent}, answers of {answered} read; "
            f"memory of the front end {before} before, {peak} at most"
        )
        if self.gauges:
            seen = [(name, f"{value:,.3g}") for name, value in sorted(self.gauges.items()) if value]
            parts.append(table(("largest value seen", ""), seen))
        return "\n\n".join(parts)


def attack(address: Address, name: str, stand: Stand) -> Report:
    """Attack a running server for a while, with a bystander beside. Raises CannotConnectError."""
    address.check()
    with TemporaryDirectory(prefix="saeserve-attack-") as made, _attacker(address.server, name, stand.seconds) as foe:
        file = Path(made) / "records"
        _expect(foe, READY)
        with _bystander(address.server, stand, file) as friend:
            _await_file(file.with_suffix(".began"), friend)
            time.sleep(stand.idle)
            before, watch = address.page(), Watch(address)
            began = time.monotonic()
            with watch:
                assert foe.stdin is not None  # noqa: S101  a pipe
                foe.stdin.write("go\n")
                foe.stdin.flush()
                ends = Ends.read(json.loads(_line_of(foe, stand.seconds)))
                if friend.wait(timeout=stand.after + stand.seconds + 2 * probe.DEADLINE + 60):
                    raise connect.CannotConnectError("the bystander failed, as it says above")
            after = address.page()
        found = records.read(file)
    return Report(
        attack=name,
        idle=[record for record in found if record.finished < began],
        attacked=[record for record in found if record.finished >= began],
        ends=ends,
        growth=Growth(before, after) if before and after else None,
        gauges=watch.gauges,
        memory_before=watch.before,
        memory_peak=watch.peak,
    )


@contextmanager
def _attacker(server: connect.Server, name: str, seconds: float) -> Iterator[Process]:
    named = server if server.client_names else replace(server, client_names=ATTACKER)
    words = ["--target", server.target, *named.options(), "--attack", name, "--seconds", str(seconds)]
    with _child("loadtests.attacks.attacker", words) as process:
        yield process


@contextmanager
def _bystander(server: connect.Server, stand: Stand, file: Path) -> Iterator[Process]:
    named = replace(server, client_names=BYSTANDER)
    length = stand.idle + stand.seconds + stand.after
    words = ["--target", server.target, *named.options(), "--seconds", str(length), "--records", str(file)]
    words += ["--rate", str(stand.rate), "--uncached", str(stand.uncached)]
    with _child("loadtests.probe", words) as process:
        yield process


@contextmanager
def _child(module: str, words: list[str]) -> Iterator[Process]:
    command = [sys.executable, "-m", module, *words]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def _expect(process: Process, word: str) -> None:
    assert process.stdout is not None  # noqa: S101  a pipe
    if process.stdout.readline().strip() != word:
        raise connect.CannotConnectError("the attacker ended before it began, as it says above")


def _line_of(process: Process, seconds: float) -> str:
    """The attacker's result; it is killed if it does not come long after its time."""
    late = threading.Timer(seconds + 60, process.kill)
    late.start()
    try:
        assert process.stdout is not None  # noqa: S101  a pipe
        line = process.stdout.readline()
    finally:
        late.cancel()
    if not line:
        raise connect.CannotConnectError("the attacker failed, or did not end; what it said stands above")
    return line


def _await_file(file: Path, process: Process) -> None:
    while not file.exists():
        if process.poll() is not None:
            raise connect.CannotConnectError("the bystander failed, as it says above")
        time.sleep(0.02)
