"""Everything the worker holds, made from the configuration: model, sources, index, runner."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
from pathlib import Path

import torch
from torch import Tensor

from saeserve_server.catalog import Catalog
from saeserve_server.config import Config
from saeserve_server.engine.memory import WORKING_BYTES, free_host_bytes, memory_plan
from saeserve_server.engine.runner import BatchRunner
from saeserve_server.errors import ConfigError
from saeserve_server.kernels.chooser import AUTO, SMALL, Chooser
from saeserve_server.models.load import load_model, outline
from saeserve_server.models.loaded import LoadedModel
from saeserve_server.models.locate import DEMO_FOLDER
from saeserve_server.records.builder import Settings, build_index
from saeserve_server.records.corpus import Corpus
from saeserve_server.records.imported.store import open_imported
from saeserve_server.records.locate import demo_index_folder
from saeserve_server.records.made_of import Keeping
from saeserve_server.records.store import RecordStore, StoreError
from saeserve_server.records.unfinished import passing_folder, sweep, sweep_passing
from saeserve_server.records.writer import CannotWrite
from saeserve_server.sources.plain import PlainKernel, RowKernel
from saeserve_server.sources.plan import plan_saes
from saeserve_server.sources.registry import load_sources, sae_bytes
from saeserve_server.sources.source import SaeSource, Source
from saeserve_server.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)

PASSAGES = DEMO_FOLDER / "passages.jsonl"
DEMO_SETTINGS = Settings(keeping=Keeping(records=24, per_power=2, near_misses=2, positions=1 << 10))
"""The demo's index is to stay small."""
DETERMINISTIC = "fbgemm-int8"
"""Kernel of a server whose answers are to be the same to the bit: a row's values depend on that row alone. So they do
with any other that screens."""
SAMPLE_TEXTS, SAMPLE_TOKENS = 4, 24
"""Of the passages, on which kernels are timed and fitted; of each text the first tokens."""
NVIDIA_DEVICES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg")
"""Files that are there where an NVIDIA GPU is, the last under WSL."""


def build_runner(config: Config, *, with_index: bool = True) -> tuple[BatchRunner, Path | None]:
    """A runner over the configured model and sources, and the folder of its index. Raises ConfigError.

    With the demo model and no index configured, the demo's index is built if it is not there yet: it takes seconds.
    """
    device = pick_device(config)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # before anything else: it would open a context on the first GPU too
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if config.device == "auto" and device.type == "cpu":
        _warn_of_an_idle_gpu()
    expected = outline(config)
    planned = plan_saes(config, expected.n_layers)  # wrong paths are found before anything heavy is loaded
    plan = memory_plan(expected.weight_bytes, *sae_bytes(config, planned, device), device)
    log.info("%s", plan)
    plan.check(config.origin)
    model = load_model(config, device)
    sources = load_sources(config, planned, model.info, model, device)
    model.seal()
    model.forward.alone = config.deterministic
    infos = tuple(source.info for source in sources)
    imported = open_imported(config.imports, Catalog(model.info, infos)) if with_index else None
    log.info(
        "serving %d sources, %d features, on %s",
        len(sources),
        sum(source.info.n_features for source in sources),
        device,
    )
    if not with_index:
        return BatchRunner(model, sources, None), None
    folder = _index_folder(config, model, sources)
    if folder is None:
        return BatchRunner(model, sources, None, imported), None
    index = RecordStore.open(folder)
    runner = BatchRunner(model, sources, index, imported)
    index.check(runner.catalog)
    without = [source.info.id for source in sources if not index.covers(source.info.id)]
    if without:
        log.warning("the index %s has no records for %s", folder, ", ".join(without))
    return runner, folder


def make_chooser(config: Config, runner: BatchRunner) -> Chooser:
    """What chooses the kernels of the runner's SAEs."""
    saes = [source for source in runner.sources if isinstance(source, SaeSource)]
    if config.deterministic:
        wanted = DETERMINISTIC if config.kernel == AUTO else config.kernel
        return Chooser(saes, Sample(runner), wanted, RowKernel)
    return Chooser(saes, Sample(runner), config.kernel, has_room=_has_room)


def pin_kernels(config: Config, runner: BatchRunner) -> None:
    """Gives SAEs the kernels that an index is computed with: by configuration and shape, never by a measurement.

    So all shards, tasks and runs have the same."""
    if config.deterministic or config.kernel != AUTO:
        make_chooser(config, runner).begin()
        return
    large = [
        source
        for source in runner.sources
        if isinstance(source, SaeSource) and source.sae.W_enc.numel() > SMALL and not source.sae.W_enc.is_cuda
    ]
    Chooser(large, Sample(runner), DETERMINISTIC, lambda sae: PlainKernel(sae)).begin()


def _has_room(size: int) -> bool:
    free = free_host_bytes()
    return free is None or free >= size + WORKING_BYTES


class Sample:
    """Activations at hook points on a shipped passage: what kernels are timed and fitted on."""

    def __init__(self, runner: BatchRunner) -> None:
        self._runner = runner
        self._read: dict[str, Tensor] = {}

    def __call__(self, hook_name: str) -> Tensor:
        """[rows, d_in] at the hook point of an SAE; the model runs once for all of them."""
        if not self._read:
            model = self._runner.catalog.model
            tokenizer = Tokenizer(model.tokenizer_json, model.bos_id)
            texts = itertools.islice(Corpus([PASSAGES]), SAMPLE_TEXTS)
            self._read = self._runner.read([ids[:SAMPLE_TOKENS] for ids in tokenizer.ids(list(texts)) if ids])
        return self._read[hook_name]


def pick_device(config: Config) -> torch.device:
    """The configured device; `auto` is CUDA where there is one. Raises ConfigError for a device that is not there."""
    if config.device == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    device = torch.device(config.device)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"{config.origin}: device: {config.device} is not there: {torch.cuda.device_count()} CUDA devices"
        )
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


def _warn_of_an_idle_gpu() -> None:
    """A CPU that was picked because the GPU cannot be used is slow for no reason that anybody would see."""
    if torch.version.cuda is not None and any(map(os.path.exists, NVIDIA_DEVICES)):
        log.warning(
            "device: auto is the CPU, though there is an NVIDIA GPU that torch %s cannot use: it wants a driver for "
            "CUDA %s or later, and a container that is given the GPU",
            torch.__version__,
            torch.version.cuda,
        )


def _index_folder(config: Config, model: LoadedModel, sources: tuple[Source, ...]) -> Path | None:
    if config.index == "none":
        return None
    if config.index is not None:
        return config.resolve(config.index)
    if config.model != "demo":
        return None
    return demo_index(BatchRunner(model, sources, None))


def demo_index(runner: BatchRunner) -> Path:
    """The folder of the demo's index, which is built if it is not there: in the cache, or where nothing can be written
    there in a folder that passes with this process. Raises ConfigError where neither can be.
    """
    tokenizer = Tokenizer(runner.catalog.model.tokenizer_json, runner.catalog.model.bos_id)

    def build(folder: Path) -> Path:
        log.info("building the demo's index")
        build_index(runner, tokenizer.ids, Corpus([PASSAGES]), folder, piece=tokenizer.piece, settings=DEMO_SETTINGS)
        return folder

    sweep_passing()
    try:
        folder = demo_index_folder(runner.catalog, PASSAGES, DEMO_SETTINGS.keeping)
        sweep(folder.parent)
        return folder if _is_sound(folder) else build(folder)
    except (CannotWrite, OSError) as error:
        log.warning("the demo's index cannot be kept, and is built in a temporary folder for this run only: %s", error)
    try:
        return build(passing_folder() / "index")
    except (CannotWrite, OSError) as error:
        raise ConfigError(f"the demo's index can be built nowhere: {error}; make room, or set index to none") from error


def _is_sound(folder: Path) -> bool:
    """Whether there is an index in the cache that can be opened. What cannot is cleared away: it is ours alone."""
    if not folder.exists():
        return False
    try:
        RecordStore.open(folder)
    except StoreError as error:
        log.warning("the demo's index in the cache is of no use, and is built again: %s", error)
        shutil.rmtree(folder)
        return False
    return True
