"""Which SAEs a configuration asks for: ids, paths and hook points, checked before any weights are read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from saeserve_server.catalog import NEURON_SET
from saeserve_server.config import Config, SourceSettings
from saeserve_server.errors import ConfigError
from saeserve_server.sources.formats import FORMATS
from saeserve_server.sources.tensors import naming

LAYER = "{layer}"

HOOK_LAYER = re.compile(r"blocks\.(\d+)\.")

DEMO_SAES = Path(__file__).parents[1] / "models" / "demo" / "saes"


@dataclass(frozen=True, slots=True)
class PlannedSae:
    """One SAE to be read."""

    place: str
    """The table of the configuration, for messages: `server.toml: sources[0]`."""
    settings: SourceSettings
    layer: int
    path: Path
    hook_name: str

    @property
    def id(self) -> str:
        """Canonical, lower-case."""
        return f"{self.layer}-{self.settings.set}".lower()

    @property
    def aliases(self) -> tuple[str, ...]:
        """Other ids, lower-case, without repetitions."""
        names = (alias.replace(LAYER, str(self.layer)).casefold() for alias in self.settings.aliases)
        return tuple(name for name in dict.fromkeys(names) if name != self.id)


def plan_saes(config: Config, n_layers: int) -> list[PlannedSae]:
    """The SAEs that `config.sources` names; for the demo model without any, those that ship with it.

    Raises ConfigError, which names the file, the key and what was expected.
    """
    if config.sources:
        tables = [(f"{config.origin}: sources[{i}]", settings) for i, settings in enumerate(config.sources)]
    elif config.model == "demo":
        demo = SourceSettings(set="demo", path=str(DEMO_SAES / f"{LAYER}-demo"), format="saelens")
        tables = [("the demo's sources", demo)]
    else:
        tables = []
    return [sae for place, settings in tables for sae in _plan(config, place, settings, n_layers)]


def _plan(config: Config, place: str, settings: SourceSettings, n_layers: int) -> Iterator[PlannedSae]:
    if settings.set.casefold() == NEURON_SET:
        raise ConfigError(f"{place}.set: expected another name, {NEURON_SET} are the model's MLP neurons")
    for alias in settings.aliases:
        if not alias or re.search(r"[\s:]", alias):
            raise ConfigError(f"{place}.aliases: expected names without spaces and colons, got {alias!r}")
    with naming(f"{place}.layers"):
        layers = _layers(settings.layers, n_layers)
    if LAYER not in settings.path:
        yield _plan_single(config, place, settings, layers, n_layers)
        return
    paths = {layer: config.resolve(settings.path.replace(LAYER, str(layer))) for layer in layers or range(n_layers)}
    if layers is None:
        paths = {layer: path for layer, path in paths.items() if path.exists()}
    if not paths:
        pattern = config.resolve(settings.path)
        raise ConfigError(
            f"{place}.path: nothing matches {settings.path} for layers 0 to {n_layers - 1}, searched in "
            f"{_folder(pattern)}"
        )
    for layer, path in paths.items():
        hook = _hook(place, settings, path, layer)
        if _layer_of(hook) not in (None, layer):
            raise ConfigError(f"{place}.hook: expected a hook point of layer {layer} for {path}, got {hook}")
        yield PlannedSae(place, settings, layer, path, hook)


def _plan_single(
    config: Config, place: str, settings: SourceSettings, layers: list[int] | None, n_layers: int
) -> PlannedSae:
    """The SAE of a path without `{layer}`; its layer is that of its hook point, or the one that `layers` names."""
    if layers is not None and len(layers) != 1:
        raise ConfigError(f"{place}.layers: expected one layer, or {LAYER} in path, got {settings.layers!r}")
    path = config.resolve(settings.path)
    given = layers[0] if layers else None
    hook = _hook(place, settings, path, given)
    layer = _layer_of(hook)
    if layer is None:
        layer = given
    if layer is None:
        raise ConfigError(f"{place}.layers: missing, and hook point {hook} does not say which layer it is of")
    if layer >= n_layers:
        raise ConfigError(f"{place}.hook: expected a hook point of layers 0 to {n_layers - 1}, got {hook}")
    if given not in (None, layer):
        raise ConfigError(f"{place}.hook: expected a hook point of layer {given}, got {hook}")
    return PlannedSae(place, settings, layer, path, hook)


def _hook(place: str, settings: SourceSettings, path: Path, layer: int | None) -> str:
    if not path.exists():
        raise ConfigError(f"{place}.path: {path}: does not exist")
    hook = settings.hook
    if hook is None:
        with naming(f"{place}.path"):
            hook = FORMATS[settings.format].hook_name(path)
    if hook is None:
        raise ConfigError(
            f"{place}.hook: missing, and {path} does not name its hook point; expected one such as "
            f"blocks.{LAYER}.mlp.hook_post"
        )
    if LAYER in hook and layer is None:
        raise ConfigError(f"{place}.hook: {LAYER} needs {LAYER} in path, or one layer in layers")
    return hook.replace(LAYER, str(layer))


def _layer_of(hook_name: str) -> int | None:
    match = HOOK_LAYER.match(hook_name)
    return int(match[1]) if match else None


def _layers(text: str | None, n_layers: int) -> list[int] | None:
    """`0-3,5` as sorted layers; None for None."""
    if text is None:
        return None
    layers: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,6})\s*(?:-\s*(\d{1,6})\s*)?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise ConfigError(f"expected layers such as 0-11 or 0,3,5, got {text!r}")
        if last >= n_layers:
            raise ConfigError(f"expected layers from 0 to {n_layers - 1}, got {text!r}")
        layers.update(range(first, last + 1))
    return sorted(layers)


def _folder(pattern: Path) -> Path:
    """The deepest folder of a pattern that does not depend on the layer."""
    while LAYER in str(pattern):
        pattern = pattern.parent
    return pattern
