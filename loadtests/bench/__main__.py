"""Measures this checkout's server beside the plain way, an earlier revision, and the floor, on a CPU, in one run.

Sides are servers on one model, with caches off; only one is asked at a time. First all answer a few texts alike, or the
run ends with 1. Then windows alternate: for each number of tokens and of callers there is one of each side in turn, and
after ours the floor for as many rows as ours ran at a time. All that again, as often as the time allows.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from random import Random

from loadtests import connect
from loadtests.bench.floor import Floor, Floored, beside
from loadtests.bench.report import Cell, describe, describe_memory
from loadtests.bench.same import Differs, compare
from loadtests.bench.sides import OURS, revision_of, sides
from loadtests.bench.usage import memory, processes
from loadtests.bench.windows import Load, Ran, Unanswered, measure
from loadtests.percentiles import digits
from loadtests.processes import Address, leave_nothing_behind
from loadtests.rates import abba
from loadtests.sweep import ROOT, counts, machine
from loadtests.texts import compose
from saeserve.v1 import feature_service_pb2 as pb
from saeserve.v1 import feature_service_pb2_grpc

COMPARED = 4
"""Texts of each length that all sides answer before any is measured."""


def main() -> None:
    """Run it. Exits with 1 if sides answer differently or a call fails."""
    asked = arguments()
    leave_nothing_behind()
    ends = time.monotonic() + asked.seconds
    asked.out.mkdir(parents=True, exist_ok=True)
    file = asked.out / f"bench-{asked.model.replace(':', '-')}.json"
    base = None if asked.base is None else revision_of(asked.base)
    with (
        tempfile.TemporaryDirectory(prefix="saeserve-bench-") as folder,
        sides(asked.model, base, Path(folder), asked.start_timeout) as servers,
    ):
        try:
            found = run(asked, servers, ends)
        except (Differs, Unanswered, connect.CannotConnectError) as error:
            sys.exit(str(error))
        chosen = kernels(servers[OURS].server)
        held = {name: memory(processes(address.pid)) for name, address in servers.items() if address.pid}
    revisions = {"ours": revision_of("HEAD"), "base": base}
    print(f"\n{describe(found)}\n\n{describe_memory(held)}\n")
    numbers = {
        "machine": machine(),
        "settings": {name: str(value) if isinstance(value, Path) else value for name, value in vars(asked).items()},
        "revisions": revisions,
        "kernels": chosen,
        "memory": {name: asdict(one) for name, one in held.items()},
        "cells": [cell.numbers() for cell in found],
    }
    file.write_text(json.dumps(numbers, indent=1))
    by = ", ".join(f"{count} of its sources by {kernel}" for kernel, count in chosen.items())
    print(f"ours {revisions['ours']}, {by}; base {base}; numbers: {file}")


def run(asked: argparse.Namespace, servers: Mapping[str, Address], ends: float) -> list[Cell]:
    """Compares answers, then measures until about then. Raises Differs and Unanswered."""
    chance = Random(f"compared {asked.seed}")  # noqa: S311  load, not secrets
    texts = [compose(chance, words) for words in asked.tokens for _ in range(COMPARED)]
    asyncio.run(compare({name: address.server for name, address in servers.items()}, texts))
    print(f"{', '.join(servers)}: the same features for {len(texts)} texts", flush=True)
    sources = encoders(servers[OURS].server)
    cells = [Cell(words, callers) for words in asked.tokens for callers in asked.callers]
    left = list(cells)
    with beside() as thread:
        floor = thread.submit(Floor, asked.model, sources).result()

        def products(ran: Ran) -> Floored:
            return thread.submit(floor.measure, round(ran.model_rows), round(ran.encoder_rows)).result()

        while left:
            for cell in left:
                another(asked, servers, cell, products, len(sources))
            left = [cell for cell in left if time.monotonic() + cell.took < ends]
    return cells


def another(
    asked: argparse.Namespace,
    servers: Mapping[str, Address],
    cell: Cell,
    products: Callable[[Ran], Floored],
    sources: int,
) -> None:
    """A window of each side, and the floor after ours. Sides begin in turn. Raises Unanswered."""
    began, number = time.monotonic(), len(cell.floors)
    load = Load(cell.callers, cell.words, asked.window, asked.patience, asked.seed + number)
    for name in servers if abba(number + 1)[-1] else reversed(list(servers)):
        window = asyncio.run(measure(servers[name], load, sources))
        cell.add(name, window)
        if name == OURS and window.ran is not None:
            cell.floors.append((window.ran.batch, products(window.ran)))
        print(
            f"  {cell.words} tokens, {cell.callers} callers, {name}: {digits(window.rate)} texts a second", flush=True
        )
    cell.took = time.monotonic() - began


def kernels(server: connect.Server) -> dict[str, int]:
    """How many sources a server computes by which kernel, as it says."""
    with connect.channel(server) as channel:
        stub = feature_service_pb2_grpc.FeatureServiceStub(channel)
        info = stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=30, metadata=tuple(server.headers()(0)))
    return dict(Counter(info.kernels.values()))


def encoders(server: connect.Server) -> list[tuple[str, int, int]]:
    """Hook point, d_in and number of features of the sources that a server has."""
    with connect.channel(server) as channel:
        stub = feature_service_pb2_grpc.FeatureServiceStub(channel)
        listed = stub.ListSources(pb.ListSourcesRequest(), timeout=30, metadata=tuple(server.headers()(0)))
    return [(source.hook_name, source.d_in, source.n_features) for source in listed.sources]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--model", default="synthetic:gpt2-small", help="demo or synthetic:NAME (default %(default)s)")
    option("--base", help="a revision of this repository to compare with: a commit, a tag, HEAD~3")
    option("--tokens", type=counts, default=[10, 50], help="lengths of texts (default 10,50)")
    option("--callers", type=counts, default=[1, 8, 32], help="concurrencies (default 1,8,32)")
    option("--seconds", type=float, default=300, help="of the run; longer if once round takes longer (default 300)")
    option("--window", type=float, default=3, help="seconds of a window that count (default %(default)s)")
    option("--patience", type=float, default=120, help="seconds a call may take (default %(default)s)")
    option("--seed", type=int, default=0, help="of the texts (default %(default)s)")
    option("--start-timeout", type=float, default=600, help="seconds to become ready (default %(default)s)")
    option("--out", type=Path, default=ROOT / "build" / "loadtest", help="folder of the results (default %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
