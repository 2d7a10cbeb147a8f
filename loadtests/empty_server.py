"""The least that grpc.aio can do: a server without interceptors whose one method answers the same bytes every time."""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc.aio
import uvloop

SERVICE, METHOD = "loadtests.Empty", "Answer"
PATH = f"/{SERVICE}/{METHOD}"


async def serve(answer: bytes, listening: Callable[[str], object]) -> None:
    """Serves until SIGTERM, and says where once it does."""

    async def handle(_request: bytes, _context: Any) -> bytes:
        return answer

    server = grpc.aio.server()
    handlers: dict[str, Any] = {METHOD: grpc.unary_unary_rpc_method_handler(handle)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_registered_method_handlers(SERVICE, handlers)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    listening(f"127.0.0.1:{port}")
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    await server.stop(None)


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answer", type=Path, required=True, help="file with the bytes to answer")
    parser.add_argument("--port-file", type=Path, required=True, help="where to write HOST:PORT")
    asked = parser.parse_args()
    uvloop.run(serve(asked.answer.read_bytes(), asked.port_file.write_text))


if __name__ == "__main__":
    main()
