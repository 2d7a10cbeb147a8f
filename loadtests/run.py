"""Load a server with Locust for some seconds and print what came of it; by default a server and a Valkey of its own.

Exit 1 when a call failed with anything but a refusal that says why, when none was made, or when the load generator
stood still. Nothing asserts a time.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from loadtests import connect, guard, probe, records
from loadtests.metrics import Growth, describe
from loadtests.percentiles import milliseconds, percentile
from loadtests.processes import Address, leave_nothing_behind, served, valkey
from loadtests.summary import by_kind, by_tier, faults
from loadtests.table import table

ROOT = Path(__file__).resolve().parents[1]
IDLE_SECONDS = 3
GOAL = "20"
"""Milliseconds within which the p99 of cheap calls should stay; printed, never asserted."""


def load(address: Address, arguments: argparse.Namespace, folder: Path) -> list[str]:
    """Run Locust with a probe beside it, and print the tables; what went wrong."""
    idle = _probe(address.server, IDLE_SECONDS, folder / "idle")
    before = address.page()
    found, busy = _locust_and_probe(address.server, arguments, folder)
    after = address.page()
    if not found:
        return ["no call was made"]
    seconds = max(record.finished for record in found) - min(record.began for record in found)
    expected = guard.expected_rate(arguments.users, found, arguments.think)
    print(
        f"\n{arguments.users} users for {seconds:.1f} s: {len(found)} calls, {len(found) / seconds:.0f} a second; ",
        end="",
    )
    print(f"users and latency make {expected:.0f}\n")
    print(by_kind(found, seconds), end="\n\n")
    print(by_tier(found), end="\n\n")
    if before and after:
        print(table(("the server counted", ""), describe(Growth(before, after))), end="\n\n")
    print(_probes(idle, busy), end="\n\n")
    problem = guard.complaint(arguments.users, found, seconds, arguments.think)
    return [*faults([*found, *idle, *busy]), *([problem] if problem else [])]


def _locust_and_probe(
    server: connect.Server, arguments: argparse.Namespace, folder: Path
) -> tuple[list[records.Record], list[records.Record]]:
    """What both recorded. Exits if Locust failed by itself."""
    made, log = folder / "records", folder / "locust.log"
    with log.open("w") as output:  # what Locust prints at the end is printed here, with more
        locust = subprocess.Popen(_locust(server, arguments, made), cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    try:
        while not made.with_suffix(".began").exists() and locust.poll() is None:
            time.sleep(0.05)
        # The last seconds are left out: users that end make room.
        busy = _probe(server, max(1, arguments.seconds - 2), folder / "busy")
        status = locust.wait(timeout=arguments.seconds + arguments.deadline + 60)
    finally:
        if locust.poll() is None:
            locust.terminate()
            locust.wait(timeout=30)
    if status:
        sys.exit(f"Locust itself failed:\n{log.read_text()[-4000:]}")
    return records.read(made), busy


def _probe(server: connect.Server, seconds: int, file: Path) -> list[records.Record]:
    command = [sys.executable, "-m", "loadtests.probe", "--target", server.target, *server.options()]
    command += ["--seconds", str(seconds), "--records", str(file)]
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        sys.exit("the probe failed, as it says above")
    return records.read(file)


def _probes(idle: list[records.Record], busy: list[records.Record]) -> str:
    rows = []
    for kind in dict.fromkeys(record.kind for record in sorted(busy)):
        quiet, loaded = ([record for record in part if record.kind == kind] for part in (idle, busy))
        times = [milliseconds(percentile([record.seconds for record in quiet], 99))]
        times += [milliseconds(percentile([record.seconds for record in loaded], share)) for share in (50, 99)]
        cached = sum(record.tier in ("local", "shared") for record in loaded)
        name = "(lateness of the probe itself)" if kind == probe.LATE else kind
        rows.append((name, len(loaded), *times, cached if kind.endswith("cached") else ""))
    head = ("asked steadily", "calls", "idle p99 ms", "loaded p50 ms", f"loaded p99 ms (goal {GOAL})", "from the cache")
    return table(head, rows)


def _locust(server: connect.Server, arguments: argparse.Namespace, made: Path) -> list[str]:
    users = str(arguments.users)
    arguments.html.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "locust", "-f", str(ROOT / "loadtests" / "locustfile.py"), "--host", server.target]
    command += server.options()
    command += ["--headless", "--only-summary", "--users", users, "--spawn-rate", users, "--stop-timeout", "60"]
    command += ["--run-time", f"{arguments.seconds}s", "--loglevel", "WARNING", "--exit-code-on-error", "0"]
    command += ["--html", str(arguments.html), "--records", str(made), "--think", str(arguments.think)]
    command += ["--texts", str(arguments.texts), "--zipf", str(arguments.zipf), "--seed", str(arguments.seed)]
    return [*command, "--deadline", str(arguments.deadline), *(["--distinct"] if arguments.distinct else [])]


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--users", type=int, default=32, help="calls at a time")
    parser.add_argument("--seconds", type=int, default=20, help="how long")
    parser.add_argument("--think", type=float, default=0.0, help="seconds that a user pauses between calls")
    parser.add_argument("--distinct", action="store_true", help="no text twice, so that no cache helps")
    parser.add_argument("--texts", type=int, default=2000, help="how many texts there are")
    parser.add_argument("--zipf", type=float, default=1.0, help="exponent of how their popularity falls")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    parser.add_argument("--deadline", type=float, default=60.0, help="seconds that a call may take")
    parser.add_argument("--model", default="demo", help="model of the server started here")
    parser.add_argument("--device", default="auto", help="its device")
    parser.add_argument("--start-timeout", type=float, default=600, help="seconds that it may take to become ready")
    parser.add_argument("--target", help="HOST:PORT of a running server; none is started then")
    parser.add_argument("--metrics", help="HOST:PORT of that server's metrics")
    connect.add_options(parser)
    parser.add_argument(
        "--html", type=Path, default=ROOT / "build" / "loadtest" / "report.html", help="Locust's report"
    )
    arguments = parser.parse_args()
    arguments.html = arguments.html.absolute()
    leave_nothing_behind()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="saeserve-load-")))
        if arguments.target:
            address = Address(connect.Server.read(arguments.target, arguments), arguments.metrics)
            with connect.one_line():
                address.check()
        else:
            settings = {"model": arguments.model, "device": arguments.device}
            settings["cache_url"] = stack.enter_context(valkey())
            address = stack.enter_context(served(folder / "server", arguments.start_timeout, **settings))
            named = replace(address.server, client_names=arguments.client_names)
            address = replace(address, server=named)
        problems = load(address, arguments, folder)
    print(f"report: {arguments.html}")
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
