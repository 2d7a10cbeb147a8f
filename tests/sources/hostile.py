"""One SAE of each format to be damaged, and what every refusal has to be: one line, at once, for next to nothing."""

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from saeserve_server.errors import ConfigError
from saeserve_server.sources.formats import describe
from saeserve_server.sources.reading import read

GOLDEN = Path(__file__).parents[1] / "golden"
CLEAR = Path("/proc/self/clear_refs")
MOST_SECONDS = 2.0
MOST_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Family:
    """A golden SAE, the file of it that holds weights, and those with facts; all relative to `tests/golden`."""

    form: str
    path: str
    weights: str
    facts: tuple[str, ...] = ()

    @property
    def suffix(self) -> str:
        return Path(self.weights).suffix

    def __str__(self) -> str:
        return f"{self.form}{self.suffix}"


def _folder(form: str, folder: str, weights: str, *facts: str) -> Family:
    return Family(form, folder, f"{folder}/{weights}", tuple(f"{folder}/{one}" for one in facts))


def _file(form: str, path: str, *facts: str) -> Family:
    folder = path.rpartition("/")[0]
    return Family(form, path, path, tuple(f"{folder}/{one}" for one in facts))


PUBLISHED = "published"
FAMILIES = [
    _folder("saelens", "saelens/jumprelu-none", "sae_weights.safetensors", "cfg.json"),
    _folder("sparsify", f"{PUBLISHED}/EleutherAI/sae-sae/layers.2", "sae.safetensors", "cfg.json"),
    _folder("gemma-scope", f"{PUBLISHED}/google/gemma-scope-2b-pt-res/layer_2/width_16k/average_l0_71", "params.npz"),
    _folder(
        "gemma-scope",
        f"{PUBLISHED}/google/gemma-scope-2-1b-pt/resid_post/layer_2_width_16k_l0_small",
        *("params.safetensors", "config.json"),
    ),
    _folder(
        "dictionary-learning",
        f"{PUBLISHED}/canrager/saebench/TopK/resid_post_layer_2/trainer_0",
        *("ae.pt", "config.json"),
    ),
    _folder(
        "llama-scope",
        f"{PUBLISHED}/fnlp/Llama3_1-8B-Base-LXR-8x/Llama3_1-8B-Base-L2R-8x",
        *("checkpoints/final.safetensors", "hyperparams.json"),
    ),
    _file("qwen-scope", f"{PUBLISHED}/Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50/layer2.sae.pt", "config.json"),
    _file(
        "hook-z",
        f"{PUBLISHED}/ckkissane/attn-saes-gpt2-small-all-layers/gpt2-small_L2_Hcat_z_lr.pt",
        "gpt2-small_L2_Hcat_z_lr_cfg.json",
    ),
    _file("circuit-tracer", f"{PUBLISHED}/mwhanna/qwen3-4b-transcoders/layer_2.safetensors", "config.yaml"),
    _file("openai", f"{PUBLISHED}/openai/v5/2.pt"),
    _file("linear", f"{PUBLISHED}/Goodfire/Llama-3.1-8B-Instruct-SAE-l19/Llama-3.1-8B-Instruct-SAE-l19.pth"),
]


def of_kind(*suffixes: str) -> list[Family]:
    return [family for family in FAMILIES if family.suffix in suffixes]


@dataclass(frozen=True)
class Victim:
    """A copy that may be damaged."""

    family: Family
    root: Path

    @property
    def path(self) -> Path:
        return self.root / self.family.path

    @property
    def weights(self) -> Path:
        return self.root / self.family.weights

    @property
    def facts(self) -> list[Path]:
        return [self.root / one for one in self.family.facts]

    def tensors(self) -> dict[str, Any]:
        """What the weight file holds."""
        return load_any(self.weights)

    def write(self, tensors: Mapping[str, Any]) -> None:
        save_any(self.weights, tensors)

    def read(self) -> Any:
        return read(describe(self.path, self.family.form))[0]

    def parts(self) -> dict[str, str]:
        """Names in the file, by role."""
        return {role: part.name for role, part in describe(self.path, self.family.form).layout.parts.items()}


@pytest.fixture(params=FAMILIES, ids=str)
def victim(request: pytest.FixtureRequest, tmp_path: Path) -> Victim:
    return copy(request.param, tmp_path)


def copy(family: Family, root: Path) -> Victim:
    for name in (family.weights, *family.facts):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(GOLDEN / name, root / name)
    return Victim(family, root)


def load_any(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        return dict(load_file(path))
    if path.suffix == ".npz":
        return {name: torch.from_numpy(array) for name, array in np.load(path).items()}
    return dict(torch.load(path, weights_only=True))  # noqa: TID251 - weights only


def save_any(path: Path, tensors: Mapping[str, Any]) -> None:
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    elif path.suffix == ".npz":
        np.savez(path, **{name: tensor.numpy() for name, tensor in tensors.items()})
    else:
        torch.save(dict(tensors), path)


def refusal(victim: Victim) -> str:
    """The line with which it is refused, held to what every such line has to be."""
    line = refused(victim.read)
    assert line.startswith(str(victim.root)), line
    return line.removeprefix(f"{victim.root}/")


def refused(call: Callable[[], object]) -> str:
    """The one line of a ConfigError, which took neither time nor memory."""
    begin = _begin_peak()
    started = time.thread_time()  # of a core: the machine may be busy with other things
    with pytest.raises(ConfigError) as caught:
        call()
    assert time.thread_time() - started < MOST_SECONDS
    grown = _peak() - begin
    assert grown < MOST_BYTES, f"{grown >> 20} MiB"
    line = str(caught.value)
    assert line.isprintable()
    assert len(line) <= 2000
    return line


def _begin_peak() -> int:
    """Starts to measure the peak of this process's memory, which is now what it holds; 0 where the system cannot."""
    if CLEAR.exists():
        CLEAR.write_text("5")
    return _peak()


def _peak() -> int:
    if not CLEAR.exists():
        return 0
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024


def change_json(path: Path, change: Mapping[str, Any]) -> None:
    """Changes keys of a JSON file; `a.b` is one inside a table."""
    values = json.loads(path.read_text())
    for key, value in change.items():
        *above, last = key.split(".")
        table = values
        for name in above:
            table = table.setdefault(name, {})
        table[last] = value
    path.write_text(json.dumps(values))


def first(tensors: Mapping[str, Any]) -> tuple[str, Tensor]:
    """The first tensor of a file."""
    return next((name, tensor) for name, tensor in tensors.items() if isinstance(tensor, Tensor))
