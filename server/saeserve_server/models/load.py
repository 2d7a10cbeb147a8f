"""Loads a model through TransformerLens' TransformerBridge and keeps what serving needs of it.

The bridge names the hook points and is the reference; it is dropped once every source is loaded (`LoadedModel.seal`).
"""

from __future__ import annotations

import copy
import json
import logging
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from saeserve_server.catalog import ModelInfo
from saeserve_server.config import Config
from saeserve_server.errors import ConfigError
from saeserve_server.models.forward import MAX_PADDING, HookedForward
from saeserve_server.models.hooks import HookPlace, hook_names, place_of_hook
from saeserve_server.models.locate import DEMO_FOLDER, Location, locate_model
from saeserve_server.models.synthetic import build_synthetic
from saeserve_server.sources.revision import content_hash

log = logging.getLogger(__name__)

PROBE_TOKENS = 48
PROBE_TOLERANCE = 1e-4
"""Largest difference between plain modules and bridge, relative to the largest activation."""


class LoadedModel:
    """A model ready to run, and the hook points it offers."""

    def __init__(self, bridge: Any, plain: Any, info: ModelInfo, device: torch.device) -> None:
        self.info = info
        self.device = device
        self.forward = HookedForward(plain, device)
        self._bridge = bridge
        self._places: dict[str, HookPlace] = {}
        self._samples: dict[str, Tensor] = {}

    def seal(self) -> None:
        """Drops the bridge and the probes: from here on only hook points already asked for can be read."""
        self._bridge = None
        self._samples.clear()

    def place(self, hook_name: str) -> HookPlace:
        """Where a hook point that a source asked for while loading lies."""
        return self._places[hook_name]

    def known(self) -> list[str]:
        """Names of all hook points that can be read."""
        return hook_names(self._bridge)

    def neuron_hook(self, layer: int) -> str | None:
        """The hook point of a layer's MLP neurons, after their activation function; None for a layer without any.

        For a mixture of experts the bridge gives the MLP's output by that name: no neurons.
        """
        name = f"blocks.{layer}.mlp.hook_post"
        place = place_of_hook(self._bridge, name)
        whole = place_of_hook(self._bridge, f"blocks.{layer}.hook_mlp_out")
        return None if place is None or place == whole else name

    def width(self, hook_name: str) -> int | None:
        """Width of the activations at a hook point; None if the model has no such hook.

        Raises ConfigError if the plain modules do not give what TransformerLens gives there.
        """
        if hook_name not in self._places:
            place = place_of_hook(self._bridge, hook_name)
            if place is None:
                return None
            self._samples[hook_name] = self._probe(hook_name, place)
            self._places[hook_name] = place
        return int(self._samples[hook_name].shape[-1])

    def sample(self, hook_name: str) -> Tensor:
        """Activations [rows, width] at a hook point on random tokens, BOS left out. Call `width` first."""
        return self._samples[hook_name]

    def _probe(self, hook_name: str, place: HookPlace) -> Tensor:
        """Activations at a hook point on random tokens, after two checks.

        They are what TransformerLens gives there, and a text in a padded batch has those that it has alone.
        """
        generator = torch.Generator().manual_seed(0)
        count = min(PROBE_TOKENS, self.info.context_tokens)
        ids = torch.randint(self.info.vocabulary, (count,), generator=generator).tolist()
        if self.info.bos_id is not None:
            ids[0] = self.info.bos_id
        shorter = ids[: math.ceil(count * (1 - MAX_PADDING))]  # near enough to share a batch
        try:
            ours = self.forward.run([ids], {hook_name: place})[0][hook_name]
            alone = self.forward.run([shorter], {hook_name: place})[0][hook_name]
            padded = self.forward.run([ids, shorter], {hook_name: place})[1][hook_name]
            with torch.inference_mode():
                _, cache = self._bridge.run_with_cache(
                    torch.tensor([ids], device=self.device), names_filter=[hook_name], prepend_bos=False
                )
            theirs = cache[hook_name].float().reshape(count, -1)
        except Exception as error:
            raise ConfigError(
                f"model {self.info.name}: {hook_name} cannot be read: {type(error).__name__}: {error}"
            ) from error
        if not _close(ours, theirs):
            raise ConfigError(
                f"model {self.info.name}: {hook_name} of this architecture cannot be served: read from the plain model "
                f"it differs from TransformerLens'"
            )
        if not _close(padded, alone):
            raise ConfigError(
                f"model {self.info.name}: tokens see what stands after them; only causal models can be served"
            )
        return ours[1:]


def _close(one: Tensor, other: Tensor) -> bool:
    """Whether two readings agree; never where either holds NaN."""
    return one.shape == other.shape and float((one - other).abs().max()) <= PROBE_TOLERANCE * float(other.abs().max())


def load_model(config: Config, device: torch.device) -> LoadedModel:
    """The configured model on `device`, in float32. Raises ConfigError."""
    transformers_logging.disable_progress_bar()
    location = locate_model(config)
    log.info("loading model %s", location.name)
    tokenizer = _load_tokenizer(location.folder or DEMO_FOLDER / "model", config)
    # Before TransformerLens reconfigures it: it gives a tokenizer without BOS its EOS for one.
    plain_tokenizer, own_bos = tokenizer.backend_tokenizer.to_str(), tokenizer.bos_token_id
    model = _build(location, tokenizer, config).to(device)
    plain = _twin(model)
    try:
        bridge = TransformerBridge.boot_transformers(
            str(location.folder or "gpt2"), hf_model=model, tokenizer=tokenizer, device=str(device)
        )
    except Exception as error:
        raise ConfigError(
            f"{config.origin}: model: TransformerLens cannot load {location.name}: {type(error).__name__}: {error}"
        ) from error
    shape: Any = bridge.cfg
    has_bos = getattr(shape, "default_prepend_bos", True) is not False and own_bos is not None
    bos_id = int(own_bos) if has_bos else None
    info = ModelInfo(
        name=location.name,
        n_layers=int(shape.n_layers),
        d_model=int(shape.d_model),
        context_tokens=int(shape.n_ctx),
        vocabulary=int(plain.get_input_embeddings().num_embeddings),
        bos_id=bos_id,
        tokenizer_json=plain_tokenizer,
        revision=_revision(location, plain_tokenizer, bos_id),
        device=str(device),
        dtype="float32",
    )
    return LoadedModel(bridge, plain, info, device)


def _build(location: Location, tokenizer: Any, config: Config) -> Any:
    if location.synthetic is not None:
        return build_synthetic(location.synthetic, int(tokenizer.bos_token_id))
    if location.folder is None:
        raise ConfigError(f"{config.origin}: model: {location.name} has neither a folder nor a shape")
    try:
        model = AutoModelForCausalLM.from_pretrained(
            location.folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False
        ).eval()
    except Exception as error:  # damaged or foreign files raise anything from OSError to KeyError
        raise ConfigError(
            f"{config.origin}: model: {location.folder} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    for name, weights in model.named_parameters():
        if not bool(torch.isfinite(weights).all()):
            raise ConfigError(f"{config.origin}: model: {location.folder}: {name} holds NaN or infinite weights")
    return model


def _twin(model: Any) -> Any:
    """The same model over the same weights. The bridge rewrites the one it is given; this one stays plain."""
    shared = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    return copy.deepcopy(model, shared)


def _load_tokenizer(folder: Path, config: Config) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ConfigError(
            f"{config.origin}: model: no tokenizer can be loaded from {folder}: {type(error).__name__}: {error}"
        ) from error
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ConfigError(f"{config.origin}: model: {folder} has no fast tokenizer (tokenizer.json)")
    return tokenizer


def _revision(location: Location, tokenizer_json: str, bos_id: int | None) -> str:
    rule = json.dumps({"bos": bos_id, "tokenizer": tokenizer_json}, sort_keys=True)
    if location.synthetic is not None:
        return content_hash([], rule + location.synthetic.model_dump_json() + torch.__version__)
    folder = location.folder or DEMO_FOLDER
    files = [*folder.glob("*.safetensors"), *folder.glob("*.bin"), folder / "config.json"]
    return content_hash(files, rule)
