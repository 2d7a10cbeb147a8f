"""From configuration to sources: what is served, loaded and checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from saeserve_server.catalog import Kind, ModelInfo, SourceInfo
from saeserve_server.config import Config
from saeserve_server.errors import ConfigError, nearest
from saeserve_server.layers import LAYER
from saeserve_server.sources.description import Description, doubts, screening_bytes
from saeserve_server.sources.directions import Decoder, decoder_of
from saeserve_server.sources.neurons import neuron_source
from saeserve_server.sources.plan import PlannedSae, check_unique
from saeserve_server.sources.reading import read
from saeserve_server.sources.revision import content_hash, text_hash
from saeserve_server.sources.sae import Sae, fold_decoder_norm
from saeserve_server.sources.source import SaeSource, Source
from saeserve_server.sources.steps import SubtractBias
from saeserve_server.sources.synthetic import synthetic_sae
from saeserve_server.sources.tensors import naming
from saeserve_server.text.bos import AUTO, bos_id

ENCODING_VERSION = "2"
"""Part of every revision: raise it when the same file comes to give other activations."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

SYNTHETIC = "synthetic"


USUAL = (
    "hook_resid_pre",
    "hook_resid_mid",
    "hook_resid_post",
    "hook_attn_out",
    "hook_mlp_out",
    "attn.hook_z",
    "ln2.hook_normalized",
    "mlp.hook_in",
    "mlp.hook_post",
)
"""Hook points that public SAEs read, by their names within a layer: what an error offers."""


class HookPoints(Protocol):
    """The model's hook points, as sources need them."""

    def resolve(self, name: str) -> str | None:
        """TransformerLens' name of a hook point, given that or Hugging Face's; None if the model has none such."""
        ...

    def is_layer_normed(self) -> bool:
        """Whether its norms subtract the mean: LayerNorm, not RMSNorm."""
        ...

    def prepare(self, names: Sequence[str]) -> None:
        """Checks all of these together that they can be read: one pass instead of one for each."""
        ...

    def width(self, hook_name: str) -> int | None:
        """Numbers in one row of its activations, heads side by side; None if the model has no such hook point."""
        ...

    def known(self) -> list[str]:
        """The names of all hook points that can be read."""
        ...

    def sample(self, hook_name: str) -> Tensor:
        """Some activations of text tokens, BOS left out: [rows, width]."""
        ...

    def neuron_hook(self, layer: int) -> str | None:
        """The hook point of the MLP neurons of a layer."""
        ...


def sae_bytes(config: Config, planned: Sequence[PlannedSae], device: torch.device) -> tuple[int, int]:
    """Memory that the SAEs will take as they are served, synthetic ones included; nothing of them is read.

    What they take for themselves, with the copies that screening makes on a CPU, and what is mapped from their files.
    """
    on_cpu, private, mapped = device.type == "cpu", 0, 0
    for sae in planned:
        one, dtype = sae.description, DTYPES[sae.settings.dtype or config.dtype]
        lies = one.mapped_bytes(dtype.itemsize) if on_cpu else 0
        mapped += lies
        private += one.memory_bytes(dtype.itemsize) - lies
        if on_cpu and dtype == torch.float32:
            private += screening_bytes(one.d_sae, one.d_in)
    shape = config.synthetic.get(config.model.removeprefix(f"{SYNTHETIC}:"))
    if not config.sources and config.model.startswith(f"{SYNTHETIC}:") and shape is not None:
        dtype = DTYPES[config.dtype]
        each = shape.latents * (shape.d_model * dtype.itemsize + 16)
        if on_cpu and dtype == torch.float32:
            each += screening_bytes(shape.latents, shape.d_model)
        private += shape.layers * each
    return private, mapped


def load_sources(
    config: Config,
    planned: Sequence[PlannedSae],
    model: ModelInfo,
    hooks: HookPoints,
    device: torch.device | str,
) -> tuple[Source, ...]:
    """All sources that `config` asks for, in the order of ties, their weights on `device`.

    The SAEs that were planned, else those of a synthetic model, and the MLP neurons of every layer that has them if
    `config.neurons`. Raises ConfigError, which names the file, the key and what was expected.
    """
    planned = [_resolved(sae, hooks) for sae in planned]
    neuron_hooks = _neuron_hooks(config, model, hooks)
    hooks.prepare(list(dict.fromkeys([*(sae.hook_name for sae in planned), *neuron_hooks.values()])))
    neurons = list(_neurons(model, hooks, neuron_hooks))
    names = [(sae.place, (sae.id, *sae.aliases)) for sae in planned]
    check_unique([*names, *(("the neurons", (n.info.id, *n.info.aliases)) for n in neurons)])
    for sae in planned:
        _check_width(sae, hooks)
    latents = [_load(sae, config, model, device) for sae in planned]
    if not config.sources and config.model.startswith(f"{SYNTHETIC}:"):
        latents = list(_synthetic(config, model, hooks, device))
    sources: list[Source] = [*latents, *neurons]
    if not sources:
        raise ConfigError(f"{config.origin}: sources: nothing to serve, expected [[sources]] or neurons = true")
    return tuple(sorted(sources, key=lambda source: source.info.order))


def _resolved(planned: PlannedSae, hooks: HookPoints) -> PlannedSae:
    """The SAE with its hook point by TransformerLens' name. Raises ConfigError if the model has none such."""
    name = hooks.resolve(planned.hook_name)
    if name is None:
        key = "hook" if planned.settings.hook else "path"
        raise _no_hook(f"{planned.place}.{key}", planned.hook_name, planned.layer, hooks)
    description = planned.description
    if not hooks.is_layer_normed() and description.release is None and planned.settings.center_input is None:
        # TransformerLens centres the writing weights of models with LayerNorm only, whatever it is told.
        description = replace(description, center_input=False, centring_is_unsaid=False)
    return replace(planned, hook_name=name, description=description)


def _check_width(planned: PlannedSae, hooks: HookPoints) -> None:
    width, d_in = hooks.width(planned.hook_name), planned.description.d_in
    if d_in != width:
        usual = _of_layer(hooks, planned.layer)
        hooks.prepare(usual)
        fitting = [name for name in usual if hooks.width(name) == d_in]
        others = f"; {d_in} wide are {', '.join(fitting)}" if fitting else ", as no hook point of this layer has"
        raise ConfigError(
            f"{planned.place}.path: {planned.path}: expected d_in = {width}, that of {planned.hook_name}, got "
            f"{d_in}{others}"
        )


def _load(planned: PlannedSae, config: Config, model: ModelInfo, device: torch.device | str) -> SaeSource:
    settings, place, description = planned.settings, planned.place, planned.description
    with naming(f"{place}.path"):
        sae, warnings = read(description)
        decoder = decoder_of(description)
        try:
            content = content_hash(description.files)
        except OSError as error:
            raise ConfigError(f"{error.filename}: cannot be read: {error.strerror}") from error
    fold = bool(description.fold_decoder_norm)
    if fold:
        with naming(f"{place}: {planned.path}"):
            sae = fold_decoder_norm(sae)
    dtype = settings.dtype or config.dtype
    with naming(f"{place}.dtype: {planned.path}"):
        sae = sae.stored_as(DTYPES[dtype])
    rule = AUTO if settings.bos is None else settings.bos
    bos = bos_id(rule, model.bos_id, model.tokenizer_json, model.vocabulary, f"{place}.bos")
    info = _info(
        sae,
        id=planned.id,
        set_name=settings.set.lower(),
        layer=planned.layer,
        hook_name=planned.hook_name,
        architecture=description.architecture,
        normalization=_inputs(description),
        revision=text_hash(ENCODING_VERSION, content, *_maths(description), planned.hook_name, dtype, str(bos)),
        bos=bos,
        aliases=planned.aliases,
        fold=fold,
        warnings=(*description.warnings, *warnings, *_warnings(planned, model, bos)),
    )
    return SaeSource(info, sae.to(device), decoder)


def _maths(description: Description) -> list[str]:
    """What an SAE's activations follow from besides its files, as strings: a part of its revision."""
    named = (
        description.format,
        description.activation,
        description.k,
        description.rescale,
        description.threshold,
        description.threshold_is_unscaled,
        description.threshold_is_log,
        description.center_input,
        description.scaling_factor,
        description.normalization,
        description.subtract_bias,
        bool(description.fold_decoder_norm),
    )
    return [str(one) for one in named]


def _inputs(description: Description) -> str:
    """What is done to inputs before encoding, the bias left out: `none`, `layer_norm`, `centred, times 1.05`."""
    return ", ".join(step for step in description.steps if step != SubtractBias.name) or "none"


def _warnings(planned: PlannedSae, model: ModelInfo, bos: int | None) -> list[str]:
    """What a reader of the source's numbers should know of how it was trained and how it is served."""
    description, settings = planned.description, planned.settings
    found = []
    if description.bos is True and bos is None:
        found.append("trained on texts that begin with a BOS and served on texts without; bos sets another rule")
    if description.bos is False and bos is not None:
        found.append('trained on texts without BOS and served on texts with one; bos = "none" sets the other rule')
    if description.model is not None and not same_model(description.model, model.name):
        found.append(
            f"trained on {description.model}, and the served model is called {model.name}; if it is that model, set "
            "model_name"
        )
    found += doubts(description)
    if description.center_input and settings.center_input is None and description.release is None:
        found.append("trained on a model with centred writing weights: the mean of each input is subtracted")
    return found


def _synthetic(config: Config, model: ModelInfo, hooks: HookPoints, device: torch.device | str) -> Iterable[SaeSource]:
    name = config.model.partition(":")[2]
    settings = config.synthetic.get(name)
    if settings is None:
        raise ConfigError(f"{config.origin}: model: no table [synthetic.{name}]{nearest(name, config.synthetic)}")
    place = f"{config.origin}: synthetic.{name}"
    names = [settings.hook.replace(LAYER, str(layer)) for layer in range(model.n_layers)]
    hooks.prepare(names)
    for layer, hook_name in enumerate(names):
        if hooks.width(hook_name) is None:
            raise _no_hook(f"{place}.hook", hook_name, layer, hooks)
        with naming(place):
            sae = synthetic_sae(settings, layer, hooks.sample(hook_name)).stored_as(DTYPES[config.dtype])
        info = _info(
            sae,
            id=f"{layer}-{SYNTHETIC}",
            set_name=SYNTHETIC,
            layer=layer,
            hook_name=hook_name,
            revision=text_hash(ENCODING_VERSION, SYNTHETIC, settings.model_dump_json(), str(layer), config.dtype),
            bos=model.bos_id,
        )
        sae = sae.to(device)
        # Its decoder is its encoder turned round, each row made of norm 1.
        yield SaeSource(info, sae, Decoder(partial(_same, sae.W_enc), is_mapped=True))


def _same(rows: Tensor) -> Tensor:
    return rows


def _neuron_hooks(config: Config, model: ModelInfo, hooks: HookPoints) -> dict[int, str]:
    """The hook point of the neurons of each layer; a layer without MLP neurons has none."""
    found = {layer: hooks.neuron_hook(layer) for layer in range(model.n_layers)} if config.neurons else {}
    return {layer: name for layer, name in found.items() if name is not None}


def _neurons(model: ModelInfo, hooks: HookPoints, names: Mapping[int, str]) -> Iterable[Source]:
    for layer, hook_name in names.items():
        width = hooks.width(hook_name)
        if width is not None:
            yield neuron_source(layer, hook_name, width, model.bos_id)


def _info(
    sae: Sae,
    *,
    id: str,  # noqa: A002 - its name in SourceInfo
    set_name: str,
    layer: int,
    hook_name: str,
    revision: str,
    bos: int | None,
    architecture: str = "standard",
    normalization: str = "none",
    aliases: tuple[str, ...] = (),
    fold: bool = False,
    warnings: tuple[str, ...] = (),
) -> SourceInfo:
    return SourceInfo(
        id=id,
        set=set_name,
        layer=layer,
        kind=Kind.LATENT,
        hook_name=hook_name,
        architecture=architecture,
        d_in=sae.d_in,
        n_features=sae.d_sae,
        normalization=normalization,
        fold_decoder_norm=fold,
        memory_bytes=sae.memory_bytes,
        revision=revision,
        bos_id=bos,
        aliases=aliases,
        warnings=warnings,
        file_density=sae.density,
        decoder_norm=None if sae.decoder_norm is None else sae.decoder_norm.numpy(),
    )


def _no_hook(place: str, hook_name: str, layer: int, hooks: HookPoints) -> ConfigError:
    known = ", ".join(_of_layer(hooks, layer)) or "none"
    return ConfigError(f"{place}: the model has no hook point {hook_name}; layer {layer} has {known}")


def _of_layer(hooks: HookPoints, layer: int) -> list[str]:
    """Those of a layer's hook points that SAEs are made for. A model has dozens more, and not all can be read."""
    known = set(hooks.known())
    return [name for end in USUAL if (name := f"blocks.{layer}.{end}") in known]


def same_model(one: str, other: str) -> bool:
    """Whether two names are those of one model: owners, case and TransformerLens' short names apart."""
    return _bare(one) == _bare(other)


def _bare(name: str) -> str:
    bare = name.rpartition("/")[2].casefold().removeprefix("meta-")
    return {"gpt2": "gpt2-small"}.get(bare, bare)
