"""Loads a model through TransformerLens' TransformerBridge and keeps what serving needs of it.

The bridge names the hook points and is the reference: `loaded.py` compares with it what is read from the plain model.
"""

from __future__ import annotations

import copy
import importlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers.utils import logging as transformers_logging

from saeserve_server.catalog import ModelInfo
from saeserve_server.config import Config
from saeserve_server.errors import ConfigError
from saeserve_server.models.checkpoint import Checkpoint, load_tokenizer, load_weights, open_checkpoint, parameter_count
from saeserve_server.models.loaded import LoadedModel
from saeserve_server.models.locate import DEMO_FOLDER, Location, locate_model
from saeserve_server.models.synthetic import build_synthetic, synthetic_settings
from saeserve_server.sources.revision import content_hash
from saeserve_server.text.bos import bos_id, tokens_without_embedding

log = logging.getLogger(__name__)


def load_model(config: Config, device: torch.device) -> LoadedModel:
    """The configured model on `device`. Raises ConfigError."""
    transformers_logging.disable_progress_bar()
    transformers_logging.disable_default_handler()  # what it says goes through our formatter, on one line
    transformers_logging.enable_propagation()
    place = f"{config.origin}: model"
    location = locate_model(config)
    log.info("loading model %s", location.name)
    tokenizer = load_tokenizer(location.folder or DEMO_FOLDER / "model", place)
    # Before TransformerLens reconfigures it: it gives a tokenizer without BOS its EOS for one.
    plain_tokenizer, own_bos = tokenizer.backend_tokenizer.to_str(), tokenizer.bos_token_id
    checkpoint = _checkpoint(location, place)
    dtype = run_dtype(config, checkpoint)
    if location.synthetic is not None:
        model = build_synthetic(location.synthetic, int(own_bos)).to(dtype)
    elif checkpoint is not None:
        model = load_weights(checkpoint, dtype, place)
    model = model.to(device)
    plain = _twin(model)
    try:
        bridge = boot_bridge(model, tokenizer, str(location.folder or "gpt2"), dtype, device)
    except Exception as error:
        raise ConfigError(
            f"{place}: TransformerLens cannot load {location.name}: {type(error).__name__}: {error}"
        ) from error
    shape: Any = bridge.cfg
    has_bos = getattr(shape, "default_prepend_bos", True) is not False and own_bos is not None
    vocabulary = int(plain.get_input_embeddings().num_embeddings)
    bos = bos_id(config.bos, int(own_bos) if has_bos else None, plain_tokenizer, vocabulary, f"{config.origin}: bos")
    info = ModelInfo(
        name=location.name,
        n_layers=int(shape.n_layers),
        d_model=int(shape.d_model),
        context_tokens=int(shape.n_ctx),
        vocabulary=vocabulary,
        bos_id=bos,
        tokenizer_json=plain_tokenizer,
        revision=_revision(location, plain_tokenizer, bos, dtype),
        device=str(device),
        dtype=_name(dtype),
        warnings=_warnings(plain_tokenizer, vocabulary),
    )
    for warning in info.warnings:
        log.warning("model %s: %s", info.name, warning)
    return LoadedModel(bridge, plain, info, device)


@dataclass(frozen=True, slots=True)
class Outline:
    """What a model's configuration says of it."""

    n_layers: int
    weight_bytes: int
    """That its weights take as it will run. While it loads, TransformerLens' bridge takes a few percent more."""


def outline(config: Config) -> Outline:
    """The configured model before anything of it is loaded. Raises ConfigError."""
    place = f"{config.origin}: model"
    location = locate_model(config)
    checkpoint = _checkpoint(location, place)
    settings: Any = checkpoint.settings if checkpoint is not None else None
    if location.synthetic is not None:
        settings = synthetic_settings(location.synthetic)
    try:
        count = parameter_count(settings)
    except Exception as error:  # a configuration that no class can be built from raises anything
        raise ConfigError(
            f"{place}: {location.name} is of no architecture that can be served: {type(error).__name__}: {error}"
        ) from error
    return Outline(int(settings.num_hidden_layers), count * run_dtype(config, checkpoint).itemsize)


def run_dtype(config: Config, checkpoint: Checkpoint | None) -> torch.dtype:
    """The type in which the model runs.

    `auto` is that of its files; float16 runs as float32, which holds the same numbers and does not overflow.
    """
    if config.model_dtype == "auto":
        stated = torch.float32 if checkpoint is None else checkpoint.stated
        return torch.bfloat16 if stated is torch.bfloat16 else torch.float32
    return torch.bfloat16 if config.model_dtype == "bfloat16" else torch.float32


def _checkpoint(location: Location, place: str) -> Checkpoint | None:
    """The model's folder, read; None for a synthetic model."""
    return None if location.folder is None else open_checkpoint(location.folder, place)


def boot_bridge(model: Any, tokenizer: Any, name: str, dtype: torch.dtype, device: torch.device) -> Any:
    """TransformerLens' bridge over a loaded model, which it rewrites. Raises what TransformerLens raises."""
    with _without_processors():
        return TransformerBridge.boot_transformers(
            name, hf_model=model, tokenizer=tokenizer, device=str(device), dtype=dtype
        )


@contextmanager
def _without_processors() -> Iterator[None]:
    """TransformerLens loads no image or audio processor meanwhile.

    For a model that it takes for multimodal it would, and where that fails install packages into this environment.
    """
    loader: Any = importlib.import_module("transformer_lens.model_bridge.sources.transformers.source")
    usual = loader.load_modality_processor
    loader.load_modality_processor = lambda *_: None
    try:
        yield
    finally:
        loader.load_modality_processor = usual


def _twin(model: Any) -> Any:
    """The same model over the same weights. The bridge rewrites the one it is given; this one stays plain."""
    shared = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    return copy.deepcopy(model, shared)


def _warnings(tokenizer_json: str, vocabulary: int) -> tuple[str, ...]:
    beyond = tokens_without_embedding(tokenizer_json, vocabulary)
    if not beyond:
        return ()
    some = ", ".join(f"{token!r} ({token_id})" for token_id, token in list(beyond.items())[:5])
    return (
        f"the tokenizer knows {len(beyond)} tokens beyond the {vocabulary} that the model has embeddings for, and "
        f"texts that hold one are refused: {some}{', …' if len(beyond) > 5 else ''}",
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _revision(location: Location, tokenizer_json: str, bos: int | None, dtype: torch.dtype) -> str:
    facts = {"bos": bos, "tokenizer": tokenizer_json}
    if dtype is not torch.float32:
        facts["dtype"] = _name(dtype)
    rule = json.dumps(facts, sort_keys=True)
    if location.synthetic is not None:
        return content_hash([], rule + location.synthetic.model_dump_json() + torch.__version__)
    folder = location.folder or DEMO_FOLDER
    files = [*folder.glob("*.safetensors"), *folder.glob("*.bin"), folder / "config.json"]
    return content_hash(files, rule)
