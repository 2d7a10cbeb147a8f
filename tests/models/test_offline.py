"""Nothing is installed and nothing is downloaded behind the operator's back: not by loading, not by a server."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

import saeserve
from saeserve_server.models.load import boot_bridge
from tests.conftest import DEVICE, START_TIMEOUT
from tests.models import watch
from tests.models.shapes import build, build_multimodal, save, save_multimodal
from tests.models.test_checkpoints import with_added_tokens
from tests.models.test_shapes import load
from tests.reference import MODEL


@pytest.fixture
def watched() -> Iterator[Callable[[], list[str]]]:
    """Every process and every connection of this process is an error meanwhile; gives those that were tried."""
    tried = watch.begin()
    yield lambda: list(tried)
    watch.end()


def test_the_watch_sees_processes_and_connections(watched: Callable[[], list[str]]) -> None:
    import socket
    import subprocess

    for attempt in (
        lambda: subprocess.run([sys.executable, "-c", ""], check=False),
        lambda: os.system("true"),
        lambda: socket.create_connection(("127.0.0.1", 9), timeout=1),
    ):
        with pytest.raises(PermissionError):
            attempt()
    assert len(watched()) == 3


def test_loading_starts_no_process_and_opens_no_connection(tmp_path: Path, watched: Callable[[], list[str]]) -> None:
    load(save(tmp_path / "gpt2", build("gpt2"))).prepare(["blocks.0.hook_mlp_out"])
    load(save_multimodal(tmp_path / "gemma3")).prepare(["blocks.0.hook_mlp_out"])
    assert watched() == []


def test_no_processor_is_asked_for_even_where_transformer_lens_wants_one(
    tmp_path: Path, watched: Callable[[], list[str]]
) -> None:
    """Its adapter of the whole multimodal model does; where the processor fails, it installs torchvision."""
    folder = save_multimodal(tmp_path / "gemma3")
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = build_multimodal()
    model.config.architectures = [type(model).__name__]
    bridge = boot_bridge(model, tokenizer, str(folder), torch.float32, torch.device("cpu"))
    assert bridge.cfg.is_multimodal
    assert watched() == []


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[saeserve.Client, Path]]:
    """A server on multimodal Gemma 3, watched in both of its processes, and what was tried in them."""
    folder = tmp_path_factory.mktemp("offline")
    tried = folder / "tried"
    model = with_added_tokens(save_multimodal(folder / "gemma-3-4b-pt"), "<image_soft_token>")
    (folder / "sitecustomize.py").write_text(
        f"import sys\nsys.path.append({str(Path(watch.__file__).parent)!r})\n"
        f"import watch\nwatch.begin({str(tried)!r})\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        patch.delenv("HF_HUB_OFFLINE")
        with saeserve.local(model=str(model), device=DEVICE, timeout=START_TIMEOUT) as client:
            yield client, tried


def test_a_server_starts_its_worker_and_nothing_else(server: tuple[saeserve.Client, Path]) -> None:
    client, tried = server
    found = client.search("My favorite color is red.", limit=3)
    assert len(found.results) == 3
    noted = [tuple(json.loads(line).values()) for line in tried.read_text().splitlines()]
    assert sorted(noted) == [
        ("front end", "multiprocessing.resource_tracker"),
        ("front end", "multiprocessing.spawn"),
        ("front end", "watched"),
        ("tracker", "watched"),
        ("worker", "watched"),
    ]


def test_multimodal_gemma_3_is_served_as_the_whole_model_computes_it(server: tuple[saeserve.Client, Path]) -> None:
    client, _ = server
    text, whole, seen = "My favorite color is red.", build_multimodal(), list[torch.Tensor]()
    whole.model.language_model.layers[1].mlp.down_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    ids = [token.id for token in client.tokenize(text).tokens]
    with torch.inference_mode():
        whole(input_ids=torch.tensor([[0, *ids]]))
    encoded = client.encode([text], features=[f"1:{neuron}" for neuron in range(48)])
    scale = float(seen[0].abs().max())
    difference = torch.tensor(encoded.dense).reshape(len(ids), 48) - seen[0][0, 1:]
    assert float(difference.abs().max()) <= 1e-5 * scale


def test_a_text_with_a_token_beyond_the_embedding_is_refused_by_its_name(server: tuple[saeserve.Client, Path]) -> None:
    client, _ = server
    for ask in (client.search, client.tokenize):
        with pytest.raises(saeserve.InvalidArgument, match=r"'<image_soft_token>' at byte 5 has id 8192") as error:
            ask("Look <image_soft_token> here")
        assert error.value.reason == "TOKEN_UNKNOWN_TO_MODEL"
    assert client.search("Look here", limit=1).results
