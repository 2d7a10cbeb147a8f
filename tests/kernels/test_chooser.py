"""Which kernel an SAE gets: the fastest here, measured once, while it is served the plain way."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from saeserve_server.catalog import Kind, SourceInfo
from saeserve_server.errors import ConfigError
from saeserve_server.kernels import chooser, ways
from saeserve_server.kernels.choices import Choices, shape_of
from saeserve_server.kernels.chooser import Chooser, fastest
from saeserve_server.kernels.screening import Seen
from saeserve_server.rows import SourceRows
from saeserve_server.sources.plain import PlainKernel, RowKernel
from saeserve_server.sources.sae import Sae
from saeserve_server.sources.source import SaeSource

D_IN, D_SAE = 8, 32


class Timed(PlainKernel):
    """The plain kernel under another name, some time later."""

    def __init__(self, sae: Sae, name: str, seconds: float) -> None:
        super().__init__(sae)
        self.name = name
        self._seconds = seconds

    def rows(self, x: Tensor) -> SourceRows:
        time.sleep(self._seconds)
        return super().rows(x)


def source_of(layer: int, d_sae: int = D_SAE) -> SaeSource:
    sae = Sae(W_enc=torch.ones(d_sae, D_IN), b_enc=torch.zeros(d_sae))
    info = SourceInfo(f"{layer}-x", "x", layer, Kind.LATENT, f"blocks.{layer}.hook_mlp_out", "standard", D_IN, d_sae)
    return SaeSource(info, sae)


def sample(hook_name: str) -> Tensor:
    return torch.ones(5, D_IN)


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache folder of its own, and three ways of known speed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    speeds = {"plain": 0.004, "onednn": 0.002, "fbgemm-int8": 0.0}
    made = {name: lambda sae, x, name=name, s=seconds: Timed(sae, name, s) for name, seconds in speeds.items()}
    monkeypatch.setattr(ways, "WAYS", made)
    monkeypatch.setattr(chooser, "WAYS", made)
    monkeypatch.setattr("saeserve_server.kernels.choices.WAYS", made)
    monkeypatch.setattr(chooser, "SMALL", 0)
    monkeypatch.setattr(chooser, "_compile", lambda: None)
    return tmp_path


def test_it_is_served_the_plain_way_until_the_fastest_is_known_and_that_is_remembered(folder: Path) -> None:
    sources = [source_of(0), source_of(1)]
    choosing = Chooser(sources, sample)
    choosing.begin()
    assert choosing.names == {"0-x": "plain", "1-x": "plain"}
    steps = 0
    while choosing.step():
        steps += 1
        if steps == 3:
            assert choosing.names == {"0-x": "plain", "1-x": "plain"}
        assert steps < 100
    assert choosing.names == {"0-x": "fbgemm-int8", "1-x": "fbgemm-int8"}
    again = Chooser([source_of(0), source_of(1)], sample)
    again.begin()
    assert set(again.names.values()) == {"fbgemm-int8"}
    assert not again.step()


def test_other_shapes_are_measured_for_themselves(folder: Path) -> None:
    Choices().put(shape_of(source_of(0)), "onednn")
    sources = [source_of(0), source_of(1, 2 * D_SAE)]
    choosing = Chooser(sources, sample)
    choosing.begin()
    assert choosing.names == {"0-x": "onednn", "1-x": "plain"}
    choosing.finish()
    assert choosing.names == {"0-x": "onednn", "1-x": "fbgemm-int8"}


@pytest.mark.parametrize("what", ["a file in place of the folder", "garbage", "another machine's", "a kernel of old"])
def test_what_cannot_be_remembered_or_read_is_measured_again(
    folder: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = shape_of(source_of(0))
    if what == "a file in place of the folder":
        (folder / "saeserve").write_text("")
    else:
        Choices().put(shape, "magic" if what == "a kernel of old" else "onednn")
        if what == "garbage":
            (folder / "saeserve" / "kernels.json").write_text("[1")
        if what == "another machine's":
            monkeypatch.setattr("saeserve_server.kernels.choices.processor", lambda: "another")
    sources = [source_of(0)]
    choosing = Chooser(sources, sample)
    choosing.begin()
    assert choosing.names == {"0-x": "plain"}
    choosing.finish()
    assert choosing.names == {"0-x": "fbgemm-int8"}


def test_a_small_sae_stays_plain(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chooser, "SMALL", D_IN * D_SAE)
    choosing = Chooser([source_of(0)], sample)
    choosing.begin()
    assert not choosing.step()
    assert choosing.names == {"0-x": "plain"}


def test_a_kernel_that_is_asked_for_is_taken_and_another_where_it_cannot_be_had(folder: Path) -> None:
    choosing = Chooser([source_of(0)], sample, "onednn")
    choosing.begin()
    assert choosing.names == {"0-x": "onednn"}
    assert not choosing.step()

    def refuse(sae: Sae, x: Tensor) -> Any:
        raise ImportError

    ways.WAYS["onednn"] = refuse  # type: ignore[index]
    choosing = Chooser([source_of(0)], sample, "onednn", RowKernel)
    choosing.begin()
    assert choosing.names == {"0-x": "plain-by-row"}
    with pytest.raises(ConfigError, match="onednn suits none"):
        Chooser([source_of(0)], sample, "onednn").begin()


def test_a_library_that_fails_costs_its_kernel_only_and_one_that_fails_late_the_choice(folder: Path) -> None:
    def fail(sae: Sae, x: Tensor) -> Any:
        raise RuntimeError("not implemented on this machine")

    ways.WAYS["fbgemm-int8"] = fail  # type: ignore[index]
    choosing = Chooser([source_of(0)], sample)
    choosing.finish()
    assert choosing.names == {"0-x": "onednn"}

    class Late(Timed):
        def rows(self, x: Tensor) -> SourceRows:
            if len(x) > 1:
                raise FloatingPointError("the activations hold NaN")
            return super().rows(x)

    ways.WAYS["fbgemm-int8"] = lambda sae, x: Late(sae, "fbgemm-int8", 0.0)  # type: ignore[index]
    choosing = Chooser([source_of(1, 2 * D_SAE)], sample)
    choosing.finish()
    assert choosing.names == {"1-x": "plain"}
    assert not choosing.step()


def test_a_copy_of_all_weights_is_taken_only_where_it_fits(folder: Path) -> None:
    del ways.WAYS["fbgemm-int8"]  # type: ignore[attr-defined]
    asked = []

    def has_room(size: int) -> bool:
        asked.append(size)
        return False

    choosing = Chooser([source_of(0), source_of(1)], sample, has_room=has_room)
    choosing.finish()
    assert set(choosing.names.values()) == {"plain"}
    assert asked == [2 * 4 * D_IN * D_SAE]


def test_without_a_library_of_integer_products_a_server_goes_on_without_screening() -> None:
    engine = torch.backends.quantized.engine
    try:
        torch.backends.quantized.engine = "qnnpack"
        assert ways.build("fbgemm-int8", source_of(0).sae, sample("")) is None
    finally:
        torch.backends.quantized.engine = engine


def test_screening_that_leaves_too_much_is_given_up_for_that_source_alone(folder: Path) -> None:
    sources = [source_of(0), source_of(1)]
    choosing = Chooser(sources, sample)
    choosing.finish()
    values = chooser.JUDGED_VALUES
    for source, candidates in zip(sources, (values // 5, values // 50), strict=True):
        source.kernel.seen = Seen(values, candidates)  # type: ignore[attr-defined]
    choosing.judge()
    assert choosing.names == {"0-x": "onednn", "1-x": "fbgemm-int8"}
    assert choosing.fallbacks == 1


def test_the_fastest_is_so_for_few_rows_and_for_many() -> None:
    assert fastest({"a": [1.0, 9.0], "b": [1.5, 5.0], "c": [5.0, 4.0]}) == "b"
