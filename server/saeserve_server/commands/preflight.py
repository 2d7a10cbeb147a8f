"""What is wrong with a configuration, found in under a second: before torch is imported and a model is loaded.

It looks at paths, headers, names and addresses. What it cannot know without the model is judged when that is there, by
the rooms that own it.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from saeserve_server.addresses import collide
from saeserve_server.config import Config
from saeserve_server.errors import ConfigError

if TYPE_CHECKING:
    from saeserve_server.models.facts import ModelFacts
    from saeserve_server.sources.plan import PlannedSae

GPUS = ("/dev/nvidia*", "/dev/nvhost*", "/dev/nvgpu*", "/dev/nvmap", "/dev/dxg", "/dev/kfd")
"""Files of which a machine has some where torch finds a `cuda` device, be it NVIDIA's or AMD's."""
MOST_LAYERS = 512
"""Of a model whose files do not say how many it has."""


def check_serving(config: Config) -> None:
    """All that `start` needs. Raises ConfigError with a line for each thing that is wrong."""
    problems = _Problems()
    for check in (_check_addresses, _check_port_file, _check_credentials, _check_cache):
        with problems.collected():
            check(config)
    _check_served(config, problems, with_index=True)
    problems.tell()


def check_served(config: Config, *, with_index: bool) -> None:
    """Model, sources and index: what is loaded. Raises ConfigError with a line for each thing that is wrong."""
    problems = _Problems()
    _check_served(config, problems, with_index=with_index)
    problems.tell()


def check_out(out: Path) -> None:
    """That an index can be put there. Raises ConfigError."""
    from saeserve_server.records.layout import is_index
    from saeserve_server.sources.tensors import naming

    with naming(out):
        if out.is_dir() and any(out.iterdir()) and not is_index(out):
            raise ConfigError("exists and is not an index: choose another place, or move it away")
        if out.exists() and not out.is_dir():
            raise ConfigError("a file, expected the folder of an index or none: choose another place")
        check_writable(out.absolute().parent)


def check_writable(folder: Path) -> None:
    """That the folder is there and can be written to, or can be made. Raises ConfigError."""
    for place in (folder, *folder.parents):
        if place.exists():
            if not place.is_dir():
                raise ConfigError(f"{place} is a file, expected a folder: choose another place")
            if not os.access(place, os.W_OK | os.X_OK):
                raise ConfigError(f"the folder {place} cannot be written to: choose another place")
            return


class _Problems:
    """Lines about what is wrong, of checks that do not hang on each other."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    @contextmanager
    def collected(self) -> Iterator[None]:
        """What the block raises is kept for later."""
        try:
            yield
        except ConfigError as error:
            self._lines += error.args

    def tell(self) -> None:
        """Raises ConfigError if there is anything to tell."""
        if self._lines:
            raise ConfigError(*self._lines)


def _check_addresses(config: Config) -> None:
    from saeserve_server.api.listen import obstacle

    problems = _Problems()
    bind, metrics = config.bind, config.metrics_bind
    if metrics != "none" and collide(bind, metrics):
        raise ConfigError(f"metrics_bind: {metrics} is bind's too: give another port, 0 for one that is free, or none")
    for key, address in (("bind", bind), ("metrics_bind", metrics)):
        with problems.collected():
            if address != "none" and (reason := obstacle(address)) is not None:
                remedy = "; none serves no metrics" if key == "metrics_bind" else ""
                raise ConfigError(f"{key}: {address} cannot be listened on: {reason}{remedy}")
    problems.tell()


def _check_port_file(config: Config) -> None:
    from saeserve_server.sources.tensors import naming

    if config.port_file is None or config.port_file == Path("-"):
        return
    with naming(f"port_file: {config.port_file}"):
        if config.port_file.is_dir():
            raise ConfigError("a folder, expected a file")
        if not config.port_file.parent.exists():
            raise ConfigError(f"there is no folder {config.port_file.parent}: make it, or choose another place")
        check_writable(config.port_file.parent)


def _check_credentials(config: Config) -> None:
    from saeserve_server.api.security import credentials_of, token_of

    problems = _Problems()
    with problems.collected():
        token_of(config)
    with problems.collected():
        credentials_of(config)
    problems.tell()


def _check_cache(config: Config) -> None:
    if config.cache_url is None:
        return
    from saeserve_server.cache.answers import make_answer_cache
    from saeserve_server.metrics import Metrics

    make_answer_cache(config, Metrics())


def _check_served(config: Config, problems: _Problems, *, with_index: bool) -> None:
    from saeserve_server.models.facts import ModelFacts

    facts, planned = ModelFacts(), list["PlannedSae"]()
    with problems.collected():
        _check_device(config)
    with problems.collected():
        facts = _check_model(config)
    with problems.collected():
        planned = _check_sources(config, facts)
    if with_index:
        with problems.collected():
            _check_index(config, facts, planned)
        with problems.collected():
            _check_imports(config)


def _check_device(config: Config) -> None:
    if config.device.startswith("cuda") and not any(glob.glob(path) for path in GPUS):  # noqa: PTH207 - whole paths
        raise ConfigError(f"{config.origin}: device: {config.device} is not there: this machine shows no GPU; take cpu")


def _check_model(config: Config) -> ModelFacts:
    from saeserve_server.models.facts import read_facts
    from saeserve_server.models.locate import locate_model

    place = f"{config.origin}: model"
    try:
        return read_facts(locate_model(config), place)
    except OSError as error:
        raise ConfigError(f"{place}: {error.filename or config.model}: {error.strerror}") from error


def _check_sources(config: Config, facts: ModelFacts) -> list[PlannedSae]:
    from saeserve_server.models.hook_names import is_stream_wide, misnamed
    from saeserve_server.sources.plan import plan_saes

    for i, table in enumerate(config.sources):  # before the files: what they say of it is passed over
        if table.hook is not None and (wrong := misnamed(table.hook)) is not None:
            raise ConfigError(f"{config.origin}: sources[{i}].hook: {wrong}")
    shape = config.synthetic.get(config.model.removeprefix("synthetic:"))
    is_synthetic = config.model.startswith("synthetic:")
    if is_synthetic and shape is not None and not config.sources:
        place = f"{config.origin}: {config.model.replace(':', '.')}"
        if (wrong := misnamed(shape.hook)) is not None:
            raise ConfigError(f"{place}.hook: {wrong}")
        if shape.l0 >= shape.latents:
            raise ConfigError(
                f"{place}.l0: expected less than the number of latents ({shape.latents}), got {shape.l0:g}"
            )
    planned = plan_saes(config, facts.n_layers or MOST_LAYERS)
    for sae in planned:
        key = "hook" if sae.settings.hook else "path"
        if (wrong := misnamed(sae.hook_name)) is not None:
            raise ConfigError(f"{sae.place}.{key}: {sae.path}: {wrong}")
        d_in, width = sae.description.d_in, facts.d_model
        if width is not None and d_in != width and is_stream_wide(sae.hook_name):
            raise ConfigError(
                f"{sae.place}.path: {sae.path}: expected d_in = {width}, that of {sae.hook_name}, got {d_in}: it was "
                "made for another model or hook point"
            )
    if not planned and not is_synthetic and not config.neurons:
        raise ConfigError(f"{config.origin}: sources: nothing to serve, expected [[sources]] or neurons = true")
    return planned


def _check_imports(config: Config) -> None:
    """That the store of imported records is one."""
    from saeserve_server.records.imported.contents import read_contents
    from saeserve_server.sources.tensors import naming

    if config.imports is not None:
        with naming(f"{config.origin}: imports"):
            read_contents(config.imports)


def _check_index(config: Config, facts: ModelFacts, planned: Sequence[PlannedSae]) -> None:
    """That it is there and whole, and not certainly another model's: its revision is known once the model is loaded."""
    from saeserve_server.records.store import RecordStore
    from saeserve_server.sources.tensors import naming

    if config.index in (None, "none"):
        return
    with naming(f"{config.origin}: index"):
        folder = config.resolve(str(config.index))
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"{folder}: a file, expected the folder of an index")
        index = RecordStore.open(folder)
        latents = {sae.id: sae.description.d_sae for sae in planned}
        for source in index.sources:
            layer = source.id.partition("-")[0]
            if facts.n_layers is not None and layer.isdecimal() and int(layer) >= facts.n_layers:
                raise ConfigError(
                    f"{folder}: built with another model, {index.model_name}: it knows layer {layer}, and this model "
                    f"has {facts.n_layers}: build the index again"
                )
            if latents.get(source.id, source.n_features) != source.n_features:
                raise ConfigError(
                    f"{folder}: built with another {source.id} of {source.n_features} latents, and the configured one "
                    f"has {latents[source.id]}: build the index again"
                )
