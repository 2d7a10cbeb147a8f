"""The plain way, as a server: TransformerLens' `run_with_cache`, SAE by SAE, a full sort, one text at a time.

It answers `Search` of a text as this project's server does, so that one client drives both and the answers can be
compared; it knows no other question, no cache and no batch.
"""

from __future__ import annotations

import argparse
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import torch
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tokenizers import Tokenizer

from loadtests.processes import SERVICE
from saeserve.v1 import feature_service_pb2 as pb
from saeserve.v1 import types_pb2 as types
from saeserve_server.config import load_config
from saeserve_server.engine.worker import NICENESS
from saeserve_server.models.load import load_model
from saeserve_server.sources.plan import plan_saes
from saeserve_server.sources.registry import load_sources
from saeserve_server.sources.source import SaeSource

LIMIT = 25
"""Features of an answer: the contract's default."""
CALLS = 256
"""Calls that wait together."""


class Plain:
    """A model on TransformerLens' bridge, and its SAEs."""

    def __init__(self, model: str) -> None:
        """`model` is `demo` or `synthetic:NAME`. Raises ConfigError."""
        config = load_config(None, {"model": model, "index": "none", "device": "cpu"})
        loaded = load_model(config, torch.device("cpu"))
        planned = plan_saes(config, loaded.info.n_layers)
        sources = load_sources(config, planned, loaded.info, loaded, loaded.device)
        self.sources = [source for source in sources if isinstance(source, SaeSource)]
        self._hooks = [source.info.hook_name for source in self.sources]
        self._bridge = loaded._bridge  # a server drops it once its own way of reading has been compared with it
        self._bos = loaded.info.bos_id
        self._tokenizer = Tokenizer.from_str(loaded.info.tokenizer_json)

    @torch.inference_mode()
    def search(self, text: str) -> pb.SearchResponse:
        """The features that fire most on any of the text's tokens."""
        lead = [] if self._bos is None else [self._bos]
        ids = torch.tensor([[*lead, *self._tokenizer.encode(text, add_special_tokens=False).ids]])
        _, cache = self._bridge.run_with_cache(ids, names_filter=self._hooks, prepend_bos=False)
        latents = [source.sae.encode(cache[source.info.hook_name][0, len(lead) :]) for source in self.sources]
        values, order = torch.cat([found.amax(0) for found in latents]).sort(descending=True, stable=True)
        bounds = torch.tensor([found.shape[1] for found in latents]).cumsum(0)
        results = []
        for value, place in zip(values[:LIMIT].tolist(), order[:LIMIT], strict=True):
            if value <= 0:
                break
            rank = int(torch.searchsorted(bounds, place, right=True))
            index = int(place) - (int(bounds[rank - 1]) if rank else 0)
            feature = types.FeatureId(source=self.sources[rank].info.id, index=index)
            activations = latents[rank][:, index].tolist()
            results.append(
                pb.FeatureResult(facts=types.FeatureFacts(feature=feature), value=value, activations=activations)
            )
        return pb.SearchResponse(results=results)


def handler(plain: Plain) -> grpc.GenericRpcHandler:
    """Search alone, one at a time: the bridge keeps in itself what it reads."""
    lock = threading.Lock()

    def search(request: Any, context: grpc.ServicerContext) -> Any:
        with lock:
            # to a caller who has left meanwhile, nothing
            return plain.search(request.input.text) if context.is_active() else pb.SearchResponse()

    unary = grpc.unary_unary_rpc_method_handler(
        search, pb.SearchRequest.FromString, pb.SearchResponse.SerializeToString
    )
    return grpc.method_handlers_generic_handler(SERVICE, {"Search": unary})


def main() -> None:
    """Serve until ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="demo or synthetic:NAME (default %(default)s)")
    parser.add_argument("--port-file", type=Path, required=True, help="where to write HOST:PORT once it serves")
    asked = parser.parse_args()
    os.nice(NICENESS)  # as the worker does: where others compute too, both give way alike
    server = grpc.server(ThreadPoolExecutor(CALLS))
    server.add_generic_rpc_handlers((handler(Plain(asked.model)),))
    alive = health.HealthServicer()
    alive.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(alive, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    asked.port_file.write_text(f"127.0.0.1:{port}")
    server.wait_for_termination()


if __name__ == "__main__":
    main()
