"""Measure what batching buys, and where the server bends: tables, a picture, and a file of all numbers.

    python -m loadtests.sweep                                            # the demo, some minutes
    python -m loadtests.sweep --model synthetic:gpt2-small --seconds 40  # of a real model's size, most of an hour

Part `batching`: a closed loop at several concurrencies against two servers, one that batches and one that takes one
request at a time; the limits of both are out of the way. Part `knee`: an open loop at multiples of the measured
capacity against a server with its default limits; callers do not retry. Caches are off, and no text is asked twice.
With --target both parts go to a server that runs, as it is set up.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from loadtests import concurrency, connect, knee, plot
from loadtests.closed_loop import Load
from loadtests.percentiles import digits
from loadtests.processes import Address, leave_nothing_behind, served

ROOT = Path(__file__).resolve().parents[1]
UNCACHED: dict[str, object] = {"cache_bytes": 0, "inner_cache_bytes": 0, "index": "none"}
LIMITS_AWAY: dict[str, object] = {"queue_gflop": 100_000, "queue_items": 100_000}
"""So that as many callers as are swept may wait."""
PARTS = ("batching", "knee")


def batching(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The first part."""
    common = UNCACHED | LIMITS_AWAY | {"model": asked.model, "device": asked.device}
    load = Load(0, asked.seconds, _warm_up(asked), asked.patience)
    with contextlib.ExitStack() as stack:
        if asked.target:
            servers = {concurrency.BATCHED: running(asked, asked.target, asked.metrics)}
            if asked.single_target:
                servers[concurrency.SINGLE] = running(asked, asked.single_target, asked.single_metrics)
        else:
            batched = served(folder / "batching", asked.start_timeout, **common)
            single = served(folder / "single", asked.start_timeout, **common, max_batch=1)
            servers = {
                concurrency.BATCHED: named(asked, stack.enter_context(batched)),
                concurrency.SINGLE: named(asked, stack.enter_context(single)),
            }
        points = concurrency.sweep(servers, asked.callers, asked.rounds, load)
    print(f"\n{concurrency.describe(points)}\n", flush=True)
    return {"points": [point.numbers() for point in points]}


def find_knee(asked: argparse.Namespace, folder: Path, picture: Path) -> dict[str, Any]:
    """The second part."""
    warm_up = asked.deadline if asked.warm_up is None else asked.warm_up
    windows = knee.Windows(asked.seconds, warm_up, asked.deadline)
    settings = UNCACHED | {"model": asked.model, "device": asked.device}
    points = []
    with contextlib.ExitStack() as stack:
        if asked.target:
            address = running(asked, asked.target, asked.metrics)
        else:
            address = named(asked, stack.enter_context(served(folder / "knee", asked.start_timeout, **settings)))
        capacity = knee.capacity(address.server, asked.saturating, windows, seed=1)
        print(
            f"  capacity, {asked.saturating} callers in a closed loop: {digits(capacity)} answers a second", flush=True
        )
        for number, multiple in enumerate(asked.multiples):
            point = knee.hold(address.server, multiple, capacity, windows, asked.processes, seed=10 + number)
            points.append(point)
            print(
                f"  {multiple:g} × capacity: {digits(point.goodput)} answers in time a second; {point.driver}",
                flush=True,
            )
        again = knee.capacity(address.server, asked.saturating, windows, seed=2)
    plot.draw(points, capacity, f"{asked.target or asked.model}: deadline {asked.deadline:g} s, no retries", picture)
    print(f"  capacity again, afterwards: {digits(again)} answers a second")
    print(f"\n{knee.describe(points)}\n\npicture: {picture}\n", flush=True)
    found = {"capacity": capacity, "capacity_afterwards": again, "points": knee.numbers(points)}
    return found | {"goodput_left_at_twice_the_capacity": knee.left_share(points)}


def running(asked: argparse.Namespace, target: str, metrics: str | None) -> Address:
    """A server that somebody else started."""
    return Address(connect.Server.read(target, asked), metrics)


def named(asked: argparse.Namespace, address: Address) -> Address:
    """A server of our own, for callers with the names that were asked for."""
    return replace(address, server=replace(address.server, client_names=asked.client_names))


def _warm_up(asked: argparse.Namespace) -> float:
    return float(asked.seconds / 4 if asked.warm_up is None else asked.warm_up)


def machine() -> dict[str, object]:
    """Where and when this was measured."""
    models = [line for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")]
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "platform": platform.platform(),
        "cpu": models[0].partition(":")[2].strip() if models else platform.processor(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg(),
        "command": sys.argv,
    }


def _lines(file: Path) -> Sequence[str]:
    return file.read_text().splitlines() if file.exists() else ()


def numbers(text: str) -> list[float]:
    """Numbers between commas."""
    return [float(part) for part in text.split(",")]


def counts(text: str) -> list[int]:
    """Whole numbers between commas."""
    return [int(part) for part in text.split(",")]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--target", help="HOST:PORT of a running server, for both parts; none is started then")
    option("--metrics", help="HOST:PORT of that server's metrics")
    option("--single-target", help="batching: HOST:PORT of the same with --max-batch 1, to compare with")
    option("--single-metrics", help="HOST:PORT of its metrics")
    option("--parts", nargs="+", choices=PARTS, default=PARTS, help="which parts (default: both)")
    option("--model", default="demo", help="model of the servers started here (default %(default)s)")
    option("--device", default="auto", help="their device (default %(default)s)")
    option("--seconds", type=float, default=10, help="length of each window that counts (default %(default)s)")
    option("--warm-up", type=float, help="seconds before it (default: a quarter of it; for the knee, the deadline)")
    option("--callers", type=counts, default=[1, 8, 32, 128], help="batching: concurrencies (default 1,8,32,128)")
    option("--rounds", type=int, default=2, help="batching: windows of each server at each (default %(default)s)")
    option("--patience", type=float, default=600, help="batching: seconds a call may take (default %(default)s)")
    multiples = [0.25, 0.5, 0.75, 0.9, 1.0, 1.25, 1.5, 2.0]
    option("--multiples", type=numbers, default=multiples, help="knee: of the capacity (default 0.25 to 2)")
    option(
        "--deadline", type=float, default=30, help="knee: seconds within which an answer counts (default %(default)s)"
    )
    option("--saturating", type=int, default=64, help="knee: callers who measure the capacity (default %(default)s)")
    option("--processes", type=int, default=1, help="knee: driving processes (default %(default)s)")
    option("--start-timeout", type=float, default=600, help="seconds to become ready (default %(default)s)")
    option("--out", type=Path, default=ROOT / "build" / "loadtest", help="folder of the results (default %(default)s)")
    connect.add_options(parser)
    asked = parser.parse_args()
    if asked.single_target and not asked.target:
        parser.error("--single-target is compared with --target: give both")
    return asked


def main() -> None:
    """Run the parts that are asked for."""
    asked = arguments()
    leave_nothing_behind()
    with connect.one_line():
        if asked.target:
            running(asked, asked.target, asked.metrics).check()
        if asked.single_target:
            running(asked, asked.single_target, asked.single_metrics).check()
        measure(asked)


def measure(asked: argparse.Namespace) -> None:
    """The parts, a picture, and a file of all numbers. Raises CannotConnectError."""
    asked.out.mkdir(parents=True, exist_ok=True)
    name = (asked.target or asked.model).translate(str.maketrans(":/[], ", "------"))
    file = asked.out / f"sweep-{name}.json"
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(asked).items()}
    found: dict[str, Any] = {"machine": machine(), "settings": settings}
    with tempfile.TemporaryDirectory(prefix="saeserve-sweep-") as folder:
        if "batching" in asked.parts:
            found["batching"] = batching(asked, Path(folder))
            file.write_text(json.dumps(found, indent=1))
        if "knee" in asked.parts:
            found["knee"] = find_knee(asked, Path(folder), asked.out / f"sweep-{name}.png")
            file.write_text(json.dumps(found, indent=1))
    print(f"numbers: {file}")


if __name__ == "__main__":
    main()
