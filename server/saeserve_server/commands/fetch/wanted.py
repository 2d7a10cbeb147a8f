"""What was asked for: a model, and SAEs by repository and path; and the configuration that serves them.

A configuration names what `fetch` brings by the folders that it lies in: `google/gemma-2-2b` is that repository of the
hub, `google/gemma-scope-2b-pt-res/layer_{layer}/…` a path in that one. The shipped ones in `ready/` are all that is
known of well-known sets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from saeserve_server.config import Config
from saeserve_server.errors import ConfigError, quoted
from saeserve_server.layers import LAYER, parse_layers, ranges
from saeserve_server.tables import SourceSettings

READY = Path(__file__).parents[1] / "ready"
HUB = "hf://"
STATIC = "sparse-autoencoder/gpt2-small"
"""The folder of OpenAI's files: `LOCATION/autoencoders/LAYER.pt` under it, here as on their server."""
REPOSITORY = r"[\w-][\w.-]*/[\w.-]+"
SAE = re.compile(
    rf"(?:(?P<set>[A-Za-z][\w.-]*)=)?{HUB}(?P<repo>{REPOSITORY})(?:@(?P<revision>[^/]+))?(?:/(?P<path>.*))?"
)


@dataclass(frozen=True, slots=True)
class WantedSae:
    """SAEs of one set: `path` in repository `repo`, or, with `repo` None, on OpenAI's server."""

    set: str
    repo: str | None
    path: str
    revision: str | None = None
    layers: str | None = None
    """Which, as `0-3,5`; None for all."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """All that one call of `fetch` is asked for."""

    name: str
    """Of the configuration."""
    model: str | None
    revision: str | None
    saes: tuple[WantedSae, ...]
    text: str | None = None
    """The configuration, where it is one that exists."""
    data_set: str | None = None
    """A data set's repository, at `revision`: then nothing else."""


def ready_names() -> list[str]:
    """The configurations that ship with the package."""
    return sorted(file.stem for file in READY.glob("*.toml"))


def of_config(config: Config, name: str, text: str, layers: Sequence[int] | None = None) -> Wanted:
    """What a configuration names, of `layers` only where they are given.

    Absolute paths, and those that begin with a dot or ~, are nobody's repositories. Raises ConfigError.
    """
    model, _, revision = config.model.partition("@")
    saes = []
    for i, source in enumerate(config.sources):
        those = source.layers if layers is None else ranges(layers)
        for path in _paths(source, those):
            found = _place(path)
            if found is None:
                continue
            repo, revision_of_saes, inner = found
            if repo is None and LAYER in inner and those is None:
                raise ConfigError(f"{config.origin}: sources[{i}].layers: missing, OpenAI's server lists no files")
            saes.append(WantedSae(source.set, repo, inner, revision_of_saes, those if LAYER in inner else None))
    on_hub = re.fullmatch(rf"{REPOSITORY}|[\w-][\w.-]*", model) and model != "demo"
    return Wanted(name, model if on_hub else None, revision or None, tuple(saes), text)


def of_options(model: str | None, saes: Sequence[str], layers: str | None) -> Wanted:
    """A model by its hub name, and SAEs as `[SET=]hf://OWNER/NAME[@REVISION]/PATH`. Raises ConfigError."""
    found = []
    for text in saes:
        match = SAE.fullmatch(text)
        if match is None:
            raise ConfigError(f"--sae: expected [SET=]hf://OWNER/NAME[@REVISION]/PATH, got {text!r}")
        path = (match["path"] or "").strip("/")
        if layers is not None and LAYER not in path:
            raise ConfigError(f"--layers: expected {LAYER} in the path of --sae, got {text!r}")
        name = match["set"] or match["repo"].rpartition("/")[2].lower()
        found.append(WantedSae(name, match["repo"], path, match["revision"], layers))
    repo, _, revision = (model or "").partition("@")
    return Wanted((repo or found[0].repo or "").rpartition("/")[2], repo or None, revision or None, tuple(found))


def sources_toml(sae: WantedSae, chosen: Mapping[int | None, str]) -> str:
    """The `[[sources]]` table of SAEs that lie in a folder named like their repository."""
    layers = [layer for layer in chosen if layer is not None]
    paths = {layer: "/".join(filter(None, (sae.repo, path))) for layer, path in chosen.items()}
    plain = "/".join(filter(None, (sae.repo, sae.path)))
    lines = ["[[sources]]", f"set = {quoted(sae.set)}"]
    if not layers:
        lines.append(f"path = {quoted(paths[None])}")
    elif all(plain.replace(LAYER, str(layer)) == paths[layer] for layer in layers):
        lines += [f"path = {quoted(plain)}", f"layers = {quoted(ranges(layers))}"]
    else:
        lines += ["[sources.path]", *(f"{layer} = {quoted(paths[layer])}" for layer in layers)]
    return "\n".join(lines) + "\n"


def _paths(source: SourceSettings, layers: str | None) -> list[str]:
    """The paths of a source; of a table those of `layers`."""
    if isinstance(source.path, str):
        return [source.path]
    kept = None if layers is None else parse_layers(layers, f"{source.set}: layers")
    return [path.replace(LAYER, key) for key, path in source.path.items() if kept is None or int(key) in kept]


def _place(path: str) -> tuple[str | None, str | None, str] | None:
    """Repository, revision, and path within it; None for a path that names no repository."""
    if path.startswith(STATIC + "/"):
        return None, None, path
    match = re.fullmatch(rf"(?:{HUB})?({REPOSITORY})(?:@([^/]+))?(?:/(.*))?", path)
    return (match[1], match[2], (match[3] or "").strip("/")) if match else None
