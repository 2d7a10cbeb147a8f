"""Which SAEs a configuration asks for: ids, files, hook points and maths, settled before any weights are read."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from saeserve_server.catalog import NEURON_SET
from saeserve_server.config import Config
from saeserve_server.errors import ConfigError
from saeserve_server.layers import LAYER, parse_layers
from saeserve_server.sources.description import Description, Facts, complete
from saeserve_server.sources.formats import describe
from saeserve_server.sources.paths import MOST_LISTED, Located, locate
from saeserve_server.sources.releases import with_release
from saeserve_server.sources.tensors import naming
from saeserve_server.tables import SourceSettings

HOOK_LAYER = re.compile(r"(?:^|\.)(?:blocks|layers|h)\.(\d+)(?:\.|$)")

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
    description: Description

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

    Opens headers and configurations only. Raises ConfigError, which names the file, the key and what was expected.
    """
    if config.sources:
        tables = [(f"{config.origin}: sources[{i}]", settings) for i, settings in enumerate(config.sources)]
    elif config.model == "demo":
        demo = SourceSettings(set="demo", path=str(DEMO_SAES / f"{LAYER}-demo"))
        tables = [("the demo's sources", demo)]
    else:
        tables = []
    planned = [sae for place, settings in tables for sae in _plan(config, place, settings, n_layers)]
    check_unique([(sae.place, (sae.id, *sae.aliases)) for sae in planned])
    return planned


def _plan(config: Config, place: str, settings: SourceSettings, n_layers: int) -> list[PlannedSae]:
    if settings.set.casefold() == NEURON_SET:
        raise ConfigError(f"{place}.set: expected another name, {NEURON_SET} are the model's MLP neurons")
    for alias in settings.aliases:
        if not alias or re.search(r"[\s:]", alias):
            raise ConfigError(f"{place}.aliases: expected names without spaces and colons, got {alias!r}")
    layers = None if settings.layers is None else parse_layers(settings.layers, f"{place}.layers")
    if layers is not None and layers[-1] >= n_layers:
        raise ConfigError(f"{place}.layers: expected layers from 0 to {n_layers - 1}, got {settings.layers!r}")
    located = _located(config, place, settings, layers, n_layers)
    planned = [sae for found in located if (sae := _sae(place, settings, found, layers, n_layers)) is not None]
    if not planned:
        raise ConfigError(f"{place}.layers: none of the SAEs at {settings.path} is of layers {settings.layers}")
    _refuse_repeats(place, planned)
    return planned


def _located(
    config: Config, place: str, settings: SourceSettings, layers: list[int] | None, n_layers: int
) -> Iterator[Located]:
    """Every path of the table, and its layer where the table says it."""
    if not isinstance(settings.path, Mapping):
        with naming(f"{place}.path"):
            found = locate(config, settings.path, layers, n_layers)
        if len(found) == 1 and found[0].layer is None and layers is not None and len(layers) == 1:
            found = [Located(found[0].path, layers[0])]
        yield from found
        return
    for key, path in settings.path.items():
        layer = int(key)
        if layers is not None and layer not in layers:
            continue
        with naming(f"{place}.path.{key}"):
            here = locate(config, path.replace(LAYER, key), [layer], n_layers)
            if len(here) != 1:
                raise ConfigError(f"{path}: expected one SAE, got {len(here)}: {_listed([one.path for one in here])}")
        yield Located(here[0].path, layer)


def _sae(
    place: str, settings: SourceSettings, found: Located, layers: list[int] | None, n_layers: int
) -> PlannedSae | None:
    """The SAE at a path; None for one of a layer that the table leaves out."""
    with naming(f"{place}.path"):
        description = describe(found.path, settings.format)
    with naming(f"{place}.release"):
        description = with_release(description, found.path, settings.release)
    hook = settings.hook or description.hook_name
    if hook is None:
        raise ConfigError(
            f"{place}.hook: missing, and {found.path} does not name its hook point; expected one such as "
            f"blocks.{LAYER}.hook_resid_post"
        )
    layer = _layer(place, hook, found, description)
    hook = hook.replace(LAYER, str(layer))
    if layers is not None and layer not in layers:
        return None
    if not 0 <= layer < n_layers:
        raise ConfigError(
            f"{place}.{'hook' if settings.hook else 'path'}: expected a hook point of layers 0 to {n_layers - 1}, that "
            f"the model has, got {hook} of {found.path}"
        )
    with naming(place):
        description = complete(_facts(settings, hook, layer).over(description))
    return PlannedSae(place, settings, layer, found.path, hook, description)


def _layer(place: str, hook: str, found: Located, description: Description) -> int:
    """The layer of an SAE: that of its hook point, which the table may not contradict."""
    match = HOOK_LAYER.search(hook)
    of_hook = int(match[1]) if match else None
    if of_hook is not None and found.layer not in (None, of_hook):
        raise ConfigError(f"{place}.hook: expected a hook point of layer {found.layer} for {found.path}, got {hook}")
    layer = next((one for one in (of_hook, found.layer, description.layer) if one is not None), None)
    if layer is None and LAYER in hook:
        raise ConfigError(f"{place}.hook: {LAYER} needs {LAYER} in path, or one layer in layers")
    if layer is None and hook == "hook_embed":
        return 0
    if layer is None:
        raise ConfigError(f"{place}.layers: missing, and hook point {hook} does not say which layer it is of")
    return layer


def _facts(settings: SourceSettings, hook_name: str, layer: int) -> Facts:
    """What the table says in place of the files."""
    factor = settings.scaling_factor
    if isinstance(factor, Mapping):
        if str(layer) not in factor:
            raise ConfigError(f"scaling_factor: expected one for layer {layer}, got those of {', '.join(factor)}")
        factor = factor[str(layer)]
    return Facts(
        hook_name=hook_name,
        activation=settings.activation,
        k=settings.k,
        threshold=settings.threshold,
        normalization=settings.normalization,
        center_input=settings.center_input,
        scaling_factor=factor,
        subtract_bias=settings.subtract_bias,
        fold_decoder_norm=settings.fold_decoder_norm,
    )


def _refuse_repeats(place: str, planned: list[PlannedSae]) -> None:
    """A set has one SAE a layer; a folder of many may hold more."""
    by_layer: dict[int, list[Path]] = defaultdict(list)
    for sae in planned:
        by_layer[sae.layer].append(sae.path)
    for layer, paths in by_layer.items():
        if len(paths) > 1:
            raise ConfigError(
                f"{place}.path: expected one SAE for layer {layer}, got {len(paths)}: {_listed(paths)}; name one, by a "
                f"path with {LAYER} or a table from layers to paths"
            )


def _listed(paths: list[Path]) -> str:
    more = f" and {len(paths) - MOST_LISTED} more" if paths[MOST_LISTED:] else ""
    return ", ".join(map(str, paths[:MOST_LISTED])) + more


def check_unique(tables: Sequence[tuple[str, tuple[str, ...]]]) -> None:
    """Raises ConfigError for an id or alias that two sources have; upper and lower case are the same."""
    taken: dict[str, str] = {}
    for place, names in tables:
        for name in names:
            if name in taken:
                raise ConfigError(f"{place}: {name} is the id or an alias of a source of {taken[name]} too")
            taken[name] = place
