"""Encoders that lie in their files as they are used are read there; all others are copied, and decoders never stay."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from saeserve_server.errors import ConfigError
from saeserve_server.sources import layout as layouts
from saeserve_server.sources.formats import describe
from saeserve_server.sources.layout import Layout, Part
from saeserve_server.sources.reading import read
from saeserve_server.sources.weights import open_weights
from tests.sources.formats import random_weights, write_openai, write_saelens


def lies_in(tensor: Tensor, file: Path) -> bool:
    """Whether the memory of a tensor is a mapping of the file."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(one, 16) for one in line.split()[0].split("-"))
        if begin <= tensor.data_ptr() < end:
            return line.endswith(str(file))
    raise AssertionError("memory that is not mapped at all")


def rewrite(file: Path, state: dict[str, Any], change: Any) -> None:
    torch.save(state | {"encoder.weight": change(state["encoder.weight"])}, file)


@pytest.mark.parametrize(
    ("case", "mapped"), [("zip", True), ("legacy", True), ("other way round", False), ("bfloat16", False)]
)
def test_a_state_dict_s_encoder_is_mapped_if_its_numbers_lie_as_they_are_used(
    tmp_path: Path, case: str, mapped: bool
) -> None:
    file = tmp_path / "3.pt"
    state = write_openai(file, d_sae=600, legacy=case == "legacy")
    if case == "other way round":
        rewrite(file, state, lambda weights: weights.t().contiguous().t())
    if case == "bfloat16":
        state = write_openai(file, d_sae=600, dtype=torch.bfloat16)
    description = describe(file)
    sae, _ = read(description)
    assert description.is_mapped is mapped
    assert lies_in(sae.W_enc, file) is mapped
    assert sae.W_enc.is_contiguous()
    assert torch.equal(sae.W_enc, state["encoder.weight"].float())
    assert not lies_in(sae.b_enc, file)


def test_safetensors_are_mapped_and_saelens_encoders_which_lie_the_other_way_round_are_copied(tmp_path: Path) -> None:
    _, tensors = write_saelens(tmp_path, d_sae=600)
    description = describe(tmp_path)
    sae, _ = read(description)
    assert not description.is_mapped
    assert not lies_in(sae.W_enc, description.weights)
    assert torch.equal(sae.W_enc, tensors["W_enc"].t())
    save_file({"W": torch.ones(600, 12), "half": torch.ones(600, 12, dtype=torch.float16)}, tmp_path / "x.safetensors")
    file = open_weights(tmp_path / "x.safetensors")
    assert file.entries["W"].is_mapped
    assert lies_in(file.read("W"), tmp_path / "x.safetensors")


def test_an_archive_s_arrays_are_read_into_memory(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", W=np.ones((600, 12), np.float32))
    file = open_weights(tmp_path / "x.npz")
    assert not file.entries["W"].is_mapped
    assert not lies_in(file.read("W"), tmp_path / "x.npz")


def test_a_file_that_another_takes_the_place_of_is_served_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "3.pt"
    state = write_openai(file, d_sae=600)
    sae, _ = read(describe(file))
    write_openai(tmp_path / "new.pt", d_sae=600, seed=1).clear()
    (tmp_path / "new.pt").replace(file)
    assert torch.equal(sae.W_enc, state["encoder.weight"])
    assert not torch.equal(read(describe(file))[0].W_enc, state["encoder.weight"])


@pytest.mark.parametrize("axes", [("d_sae", "d_in"), ("d_in", "d_sae")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_of_a_decoder_are_read_in_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, axes: tuple[str, str], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(layouts, "LATENTS_AT_ONCE", 16)
    decoder = random_weights(12, 40, 0, 0.0)["decoder"].to(dtype)  # [d_sae, d_in]
    stored = decoder if axes[0] == "d_sae" else decoder.t().contiguous()
    layout = Layout({"W_dec": Part("W_dec", *axes)})
    save_file({"W_dec": stored}, tmp_path / "x.safetensors")
    largest = 0
    usual = Tensor.float

    def watched(tensor: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, len(tensor))
        return usual(tensor)

    monkeypatch.setattr(Tensor, "float", watched)
    norms = layout.decoder_norms(open_weights(tmp_path / "x.safetensors"))
    assert largest == 16
    assert torch.equal(norms, usual(decoder).norm(dim=1))
    decoder[39, 3] = torch.inf
    save_file({"W_dec": decoder if axes[0] == "d_sae" else decoder.t().contiguous()}, tmp_path / "x.safetensors")
    with pytest.raises(ConfigError, match="W_dec: holds values that are not finite"):
        layout.decoder_norms(open_weights(tmp_path / "x.safetensors"))
