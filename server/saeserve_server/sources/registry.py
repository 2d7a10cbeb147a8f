"""From configuration to sources: what is served, loaded and checked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from saeserve_server.catalog import Kind, ModelInfo, SourceInfo
from saeserve_server.config import Config
from saeserve_server.errors import ConfigError, nearest
from saeserve_server.sources.formats import FORMATS
from saeserve_server.sources.neurons import neuron_source
from saeserve_server.sources.plan import LAYER, PlannedSae, plan_saes
from saeserve_server.sources.revision import content_hash, text_hash
from saeserve_server.sources.sae import Sae, fold_decoder_norm, fold_scaling_factor
from saeserve_server.sources.source import SaeSource, Source
from saeserve_server.sources.synthetic import synthetic_sae
from saeserve_server.sources.tensors import naming

ENCODING_VERSION = "1"
"""Part of every revision: raise it when the same file comes to give other activations."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

SYNTHETIC = "synthetic"


class HookPoints(Protocol):
    """The model's hook points, as sources need them."""

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


def load_sources(config: Config, model: ModelInfo, hooks: HookPoints, device: torch.device | str) -> tuple[Source, ...]:
    """All sources that `config` asks for, in the order of ties, their weights on `device`.

    SAEs of `config.sources`, else those of the demo or of a synthetic model, and the MLP neurons of every layer that
    has them if `config.neurons`. Raises ConfigError, which names the file, the key and what was expected.
    """
    planned = plan_saes(config, model.n_layers)
    neurons = list(_neurons(config, model, hooks))
    names = [(sae.place, (sae.id, *sae.aliases)) for sae in planned]
    _check_unique([*names, *(("the neurons", (n.info.id, *n.info.aliases)) for n in neurons)])
    for sae in planned:
        _check_hook(f"{sae.place}.{_hook_key(sae)}", sae.hook_name, sae.layer, hooks)
    latents = [_load(sae, config, model, hooks, device) for sae in planned]
    if not config.sources and config.model.startswith(f"{SYNTHETIC}:"):
        latents = list(_synthetic(config, model, hooks, device))
    sources: list[Source] = [*latents, *neurons]
    if not sources:
        raise ConfigError(f"{config.origin}: sources: nothing to serve, expected [[sources]] or neurons = true")
    return tuple(sorted(sources, key=lambda source: source.info.order))


def _load(
    planned: PlannedSae, config: Config, model: ModelInfo, hooks: HookPoints, device: torch.device | str
) -> SaeSource:
    settings, place = planned.settings, planned.place
    form = FORMATS[settings.format]
    with naming(f"{place}.path"):
        sae = form.read(planned.path)
        try:
            content = content_hash(form.files(planned.path))
        except OSError as error:
            raise ConfigError(f"{error.filename}: cannot be read: {error.strerror}") from error
        width = hooks.width(planned.hook_name)
        if sae.d_in != width:
            raise ConfigError(f"{planned.path}: expected d_in = {width}, that of {planned.hook_name}, got {sae.d_in}")
    warnings = list(sae.warnings)
    has_bos = model.bos_id is not None
    if sae.prepend_bos and not has_bos:
        warnings.append("saved with prepend_bos: true; the model as it is served has no BOS")
    if has_bos and not sae.prepend_bos:
        warnings.append("saved with prepend_bos: false; it was trained on texts without BOS and is served with it")
    if settings.scaling_factor is not None:
        if not sae.accepts_scaling:
            raise ConfigError(
                f"{place}.scaling_factor: expected none, {planned.path} was not saved with "
                "normalize_activations = expected_average_only_in"
            )
        sae = fold_scaling_factor(sae, settings.scaling_factor)
    elif sae.accepts_scaling:
        warnings.append(
            "saved with normalize_activations = expected_average_only_in and served on inputs that are not scaled: "
            "set scaling_factor"
        )
    if settings.fold_decoder_norm:
        with naming(place):
            sae = fold_decoder_norm(sae)
    dtype = settings.dtype or config.dtype
    with naming(f"{place}.dtype: {planned.path}"):
        sae = sae.stored_as(DTYPES[dtype])
    options = (settings.format, planned.hook_name, dtype, settings.fold_decoder_norm, settings.scaling_factor)
    info = _info(
        sae,
        id=planned.id,
        set_name=settings.set.lower(),
        layer=planned.layer,
        hook_name=planned.hook_name,
        revision=text_hash(ENCODING_VERSION, content, *map(str, options)),
        bos_id=model.bos_id,
        aliases=planned.aliases,
        fold=settings.fold_decoder_norm,
        warnings=tuple(warnings),
    )
    return SaeSource(info, sae.to(device))


def _synthetic(config: Config, model: ModelInfo, hooks: HookPoints, device: torch.device | str) -> Iterable[SaeSource]:
    name = config.model.partition(":")[2]
    settings = config.synthetic.get(name)
    if settings is None:
        raise ConfigError(f"{config.origin}: model: no table [synthetic.{name}]{nearest(name, config.synthetic)}")
    place = f"{config.origin}: synthetic.{name}"
    for layer in range(model.n_layers):
        hook_name = settings.hook.replace(LAYER, str(layer))
        _check_hook(f"{place}.hook", hook_name, layer, hooks)
        with naming(place):
            sae = synthetic_sae(settings, layer, hooks.sample(hook_name)).stored_as(DTYPES[config.dtype])
        info = _info(
            sae,
            id=f"{layer}-{SYNTHETIC}",
            set_name=SYNTHETIC,
            layer=layer,
            hook_name=hook_name,
            revision=text_hash(ENCODING_VERSION, SYNTHETIC, settings.model_dump_json(), str(layer), config.dtype),
            bos_id=model.bos_id,
        )
        yield SaeSource(info, sae.to(device))


def _neurons(config: Config, model: ModelInfo, hooks: HookPoints) -> Iterable[Source]:
    """The neurons of every layer; a layer without MLP neurons has none."""
    for layer in range(model.n_layers) if config.neurons else ():
        hook_name = hooks.neuron_hook(layer)
        width = None if hook_name is None else hooks.width(hook_name)
        if hook_name is not None and width is not None:
            yield neuron_source(layer, hook_name, width, model.bos_id)


def _info(
    sae: Sae,
    *,
    id: str,  # noqa: A002 - its name in SourceInfo
    set_name: str,
    layer: int,
    hook_name: str,
    revision: str,
    bos_id: int | None,
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
        architecture=sae.architecture,
        d_in=sae.d_in,
        n_features=sae.d_sae,
        normalization=sae.normalization,
        fold_decoder_norm=fold,
        memory_bytes=sae.memory_bytes,
        revision=revision,
        bos_id=bos_id,
        aliases=aliases,
        warnings=warnings,
        file_density=sae.density,
        decoder_norm=sae.decoder_norm.numpy(),
    )


def _hook_key(planned: PlannedSae) -> str:
    """The key from which the hook point comes: the setting, or the file."""
    return "hook" if planned.settings.hook else "path"


def _check_hook(place: str, hook_name: str, layer: int, hooks: HookPoints) -> None:
    if hooks.width(hook_name) is not None:
        return
    known = [name for name in hooks.known() if name.startswith(f"blocks.{layer}.")]
    raise ConfigError(
        f"{place}: the model has no hook point {hook_name}; layer {layer} has {', '.join(known) or 'none'}"
    )


def _check_unique(tables: Sequence[tuple[str, tuple[str, ...]]]) -> None:
    """Raises ConfigError for an id or alias that two sources have; upper and lower case are the same."""
    taken: dict[str, str] = {}
    for place, names in tables:
        for name in names:
            if name in taken:
                raise ConfigError(f"{place}: {name} is the id or an alias of a source of {taken[name]} too")
            taken[name] = place
