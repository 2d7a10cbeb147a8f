"""The tables that a file of settings may hold: `[[sources]]`, and `[synthetic.NAME]`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationInfo, field_validator, model_validator

from saeserve_server.complaints import Expected
from saeserve_server.errors import shown

Factor = Annotated[float, Field(gt=0, allow_inf_nan=False)]

FORMAT_NAMES = (
    "saelens",
    "sparsify",
    "gemma-scope",
    "dictionary-learning",
    "llama-scope",
    "qwen-scope",
    "hook-z",
    "circuit-tracer",
    "openai",
    "linear",
)
"""Layouts of SAEs on disk; `sources/formats/` has a module for each."""


class Section(BaseModel):
    """A table of the file: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _without_nul(cls, value: object, info: ValidationInfo) -> object:
        texts = value.values() if isinstance(value, Mapping) else (value,)
        if info.field_name != "bos" and any(isinstance(text, str | Path) and "\0" in str(text) for text in texts):
            raise ValueError("expected a text without the character of code 0")
        return value


class SourceSettings(Section):
    """One `[[sources]]` table: an SAE, or one for each layer. Everything but `set` and `path` corrects the files."""

    set: Annotated[str, Expected("a name of letters, digits, `_`, `.` and `-` that begins with a letter")] = Field(
        pattern=r"^[A-Za-z][A-Za-z0-9_.-]*$", description="name of the set; ids are LAYER-SET"
    )
    path: Annotated[str | Mapping[str, str], Expected("a path, or a table from layers (0, 1, …) to paths")] = Field(
        description="file or folder of an SAE, a folder of many, a pattern with `{layer}` or `*`, `hf://REPOSITORY/…` "
        "in the local hub cache, or a table from layers to any of these"
    )
    format: Literal[FORMAT_NAMES] | None = Field(  # type: ignore[valid-type]
        default=None, description="how it is stored; default: found out"
    )
    release: str | None = Field(
        default=None, min_length=1, description="published release whose facts its files leave out; default: by name"
    )
    layers: str | None = Field(default=None, description="which layers, `0-11` or `0,3,5`; default: all that exist")
    hook: str | None = Field(
        default=None,
        min_length=1,
        description="hook point, by its TransformerLens or Hugging Face name; `{layer}` stands for the layer",
    )
    aliases: tuple[str, ...] = Field(default=(), description="other ids, `{layer}` stands for the layer")
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        default=None, description="type in which the weights are kept; computation is in float32"
    )
    bos: int | str | None = Field(
        default=None,
        description="what stands before the texts that this source reads: `none`, a token, or its id; default: the "
        "model's",
    )
    activation: Literal["relu", "jumprelu", "gated", "topk", "groupmax"] | None = Field(
        default=None, description="the nonlinearity"
    )
    k: int | None = Field(default=None, ge=1, description="latents that fire (topk), or groups (groupmax)")
    threshold: FiniteFloat | None = Field(default=None, description="one threshold for all latents (jumprelu)")
    normalization: Literal["none", "layer_norm", "constant_norm_rescale"] | None = Field(
        default=None, description="what is done to each row of inputs"
    )
    center_input: bool | None = Field(
        default=None, description="subtract the mean of each row: trained on a model with centred writing weights"
    )
    scaling_factor: Annotated[
        Factor | Mapping[str, Factor] | None,
        Expected("a number over 0, or a table from layers (0, 1, …) to such numbers"),
    ] = Field(default=None, description="factor by which inputs are scaled, or a table from layers to factors")
    subtract_bias: bool | None = Field(default=None, description="subtract the decoder's bias from inputs")
    fold_decoder_norm: bool | None = Field(
        default=None, description="multiply activations by the norm of the latent's decoder row, as Neuronpedia does"
    )

    @field_validator("bos", mode="before")
    @classmethod
    def _bos_is_a_token(cls, value: object) -> object:
        return None if value is None else check_bos(value)

    @field_validator("path", "scaling_factor")
    @classmethod
    def _keys_are_layers(cls, value: object) -> object:
        if isinstance(value, Mapping):
            if not value:
                raise ValueError("expected a table from layers (0, 1, …), got an empty one")
            bad = next((key for key in value if not re.fullmatch("[0-9]{1,4}", key)), None)
            if bad is not None:
                raise ValueError(f"expected a table from layers (0, 1, …), got one with the key {shown(bad)}")
        return value


class SyntheticSettings(Section):
    """One `[synthetic.NAME]` table: a GPT-2-shaped model with random weights and random SAEs, for load tests."""

    layers: int = Field(ge=1, le=512, description="number of layers")
    d_model: int = Field(ge=8, description="width of the residual stream")
    heads: int = Field(ge=1, description="attention heads; they divide d_model")
    vocabulary: int = Field(default=50257, ge=8192, description="at least that of the demo's tokenizer, which it uses")
    context: int = Field(default=1024, ge=8, description="longest sequence, BOS included")
    latents: int = Field(default=32768, ge=1, description="latents of the SAE of each layer")
    hook: str = Field(default="blocks.{layer}.hook_mlp_out", description="hook point of the SAE of each layer")
    l0: float = Field(default=50.0, gt=0, description="mean number of latents that fire on a token")
    seed: int = Field(default=0, ge=0, lt=2**63, description="seed of all weights")

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> SyntheticSettings:
        if self.d_model % self.heads:
            raise ValueError(f"heads: {self.heads} does not divide d_model, {self.d_model}")
        return self


RESIDUAL = "blocks.{layer}.hook_resid_post"
BUILT_IN_SHAPES = {
    "gpt2-small": SyntheticSettings(layers=12, d_model=768, heads=12),
    # As wide and as deep as those models and their public SAEs, in GPT-2's architecture: MLPs of two matrices,
    # 4 d_model wide, and as many heads of keys as of queries. Gemma's eight heads of 256 would not fill d_model.
    "gemma-2-2b": SyntheticSettings(
        layers=26, d_model=2304, heads=9, vocabulary=256_000, context=8192, latents=16384, hook=RESIDUAL, l0=80.0
    ),
    "gemma-2-2b-65k": SyntheticSettings(
        layers=26, d_model=2304, heads=9, vocabulary=256_000, context=8192, latents=65536, hook=RESIDUAL, l0=80.0
    ),
    "llama-8b": SyntheticSettings(
        layers=32, d_model=4096, heads=32, vocabulary=128_256, context=8192, latents=32768, hook=RESIDUAL
    ),
    "tiny": SyntheticSettings(layers=2, d_model=32, heads=2, vocabulary=8192, context=128, latents=256, l0=8.0),
}


def check_bos(value: object) -> object:
    """`auto`, `none`, a token's text or an id, unchanged. Raises ValueError for anything else."""
    is_id = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if not is_id and not (isinstance(value, str) and value):
        raise ValueError("expected `auto`, `none`, a token's text, or its id as a number")
    return value
