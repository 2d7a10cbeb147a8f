"""What the files of an SAE say, without its weights and without torch; and what corrects them.

Three voices, the later over the earlier: the files (`formats/`), the shipped table of releases whose files leave facts
out (`releases.py`), the configuration.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from saeserve_server.errors import ConfigError
from saeserve_server.sources.layout import Layout, Part
from saeserve_server.sources.steps import Centre, LayerNorm, NormRescale, Scale, Step, SubtractBias
from saeserve_server.sources.tensors import check_kept, naming

if TYPE_CHECKING:
    from torch import Tensor

Normalization = Literal["none", "layer_norm", "constant_norm_rescale"]
ActivationName = Literal["relu", "jumprelu", "gated", "topk", "groupmax"]


@dataclass(frozen=True, slots=True)
class DensityFile:
    """Where the share of tokens stands on which each latent fires."""

    path: Path
    tensor: str
    log10: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """One SAE: where its weights are, how they lie, and what is done with them."""

    format: str
    weights: Path
    """The file that holds them; of shards their index."""
    files: tuple[Path, ...]
    """All files that its activations follow from."""
    layout: Layout
    architecture: str
    """As SAELens names it: `standard`, `jumprelu`, `gated`, `topk`, `transcoder`, …"""
    d_in: int
    d_sae: int
    dtype: str
    """In which its encoder is stored."""
    is_mapped: bool = False
    """Whether the encoder can be used where it lies in the file: float32, a latent after the other."""
    activation: ActivationName
    k: int | None = None
    """Latents that fire (topk), or groups (groupmax)."""
    rescale: bool = False
    """Pre-activations are multiplied by the latent's decoder norm (topk)."""
    threshold: float | None = None
    """One threshold for all latents, where no tensor holds them."""
    threshold_is_unscaled: bool = False
    """That threshold counts in inputs that are not scaled yet."""
    threshold_is_log: bool = False
    """The tensor holds the logarithms of the thresholds."""
    normalization: Normalization = "none"
    center_input: bool = False
    """The mean of each row is subtracted first: trained on a model with centred writing weights."""
    centring_is_unsaid: bool = False
    """Of a time when models were centred by default, by files that do not say whether its model was."""
    scaling_factor: float | None = None
    """Factor of the inputs; None: they are taken as they are."""
    expects_scaling: bool = False
    """Trained on inputs times a constant that its files may not hold."""
    subtract_bias: bool = False
    """Whether b_dec is subtracted from the input."""
    fold_decoder_norm: bool | None = None
    """Whether activations are multiplied by decoder norms; None: not."""
    hook_name: str | None = None
    """TransformerLens or Hugging Face name of the hook point that it reads; None where nothing says it."""
    layer: int | None = None
    """Of the hook point; None where nothing says it."""
    model: str | None = None
    """Name of the model that it was trained on; None where nothing says it."""
    bos: bool | None = None
    """Whether it was trained on texts that begin with BOS; None where nothing says it."""
    density: DensityFile | None = None
    release: str | None = None
    """The entry of the table of releases that was applied."""
    warnings: tuple[str, ...] = ()

    def memory_bytes(self, dtype_bytes: int) -> int:
        """Bytes that it takes as it is served, its encoder kept in `dtype_bytes` a number."""
        return self.d_sae * (self.d_in * dtype_bytes + 4 * 4) + 4 * self.d_in

    def mapped_bytes(self, dtype_bytes: int) -> int:
        """Of these, what is read from the file's own pages on a CPU, and takes no memory that others could not have."""
        as_it_is = self.is_mapped and dtype_bytes == 4 and not self.fold_decoder_norm
        return self.d_sae * self.d_in * 4 if as_it_is else 0

    @property
    def steps(self) -> tuple[str, ...]:
        """The input steps by name, in order, `minus b_dec` included."""
        bias = (SubtractBias.name,) if self.subtract_bias else ()
        return (*(step.name for step in self._steps(None)), *bias)

    def input_steps(self, b_dec: Tensor | None) -> tuple[Step, ...]:
        """The input steps over the bias [d_in] of the file."""
        return tuple(self._steps(b_dec))

    def _steps(self, b_dec: Tensor | None) -> Iterator[Step]:
        if self.center_input:
            yield Centre()
        if self.scaling_factor is not None and self.scaling_factor != 1:
            yield Scale(self.scaling_factor)
        if self.normalization == "layer_norm":
            yield LayerNorm()
        elif self.normalization == "constant_norm_rescale":
            yield NormRescale()
        if self.subtract_bias and b_dec is not None:
            yield SubtractBias(b_dec)


def screening_bytes(d_sae: int, d_in: int) -> int:
    """Bytes of the copy of an encoder in small integers from which is seen what cannot fire, with its bounds."""
    return d_sae * (d_in + 4 * 4)


def complete(description: Description) -> Description:
    """The description, if all is known and goes together that encoding needs. Raises ConfigError, which names the file.

    Readers describe what files say; whether that is enough is settled here, after releases and configuration spoke.
    """
    parts, name, k = description.layout.parts, description.activation, description.k
    with naming(description.weights):
        if name in ("topk", "groupmax"):
            if k is None:
                raise ConfigError(f"k: missing, nothing says how many latents or groups {name} keeps; set k")
            check_kept(name, k, description.d_sae)
        elif k is not None:
            raise ConfigError(f"k: expected none, {name} keeps no fixed number of latents")
        for needed, part in (("jumprelu", "threshold"), ("gated", "b_gate")):
            if part in parts and name != needed:
                raise ConfigError(f"activation: expected {needed}, the file holds {parts[part].name}; got {name}")
        if name == "gated" and "b_gate" not in parts:
            raise ConfigError("activation: expected another than gated, the file holds no gate")
        if name == "jumprelu" and "threshold" not in parts and description.threshold is None:
            raise ConfigError("threshold: missing, the file holds none and activation is jumprelu; set threshold")
        if description.threshold is not None and (name != "jumprelu" or "threshold" in parts):
            held = "the file holds one for each latent" if "threshold" in parts else f"{name} has none"
            raise ConfigError(f"threshold: expected none, {held}")
        if description.subtract_bias and parts.get("b_dec", Part("")).axes != ("d_in",):
            raise ConfigError("subtract_bias: expected false, the file holds no bias of the input's width")
        if description.fold_decoder_norm and "W_dec" not in parts:
            raise ConfigError("fold_decoder_norm: expected false, the file holds no decoder of its own")
        if description.fold_decoder_norm and name in ("topk", "groupmax") and not description.rescale:
            raise ConfigError("fold_decoder_norm: expected false, it would change which latents are the largest")
    return description


def doubts(description: Description) -> list[str]:
    """What may make its values wrong and cannot be told from the files, and what would settle it."""
    found = []
    if description.expects_scaling and description.scaling_factor is None:
        found.append(
            "trained on inputs that were scaled by a constant which its files do not hold, and served on inputs that "
            "are not scaled: set scaling_factor"
        )
    if description.centring_is_unsaid and description.release is None:
        found.append(
            "its files are of a time when SAELens centred the writing weights of models with LayerNorm, and do not say "
            "whether it did: set center_input (of gpt2-small-res-jb and its like release), or center_input = false"
        )
    is_embedding = description.format == "gemma-scope" and description.hook_name == "hook_embed"
    if is_embedding and description.scaling_factor is None:
        found.append(
            "Gemma Scope's SAEs of embeddings were trained on embeddings divided by sqrt(d_in), and this one does not "
            "lie in a folder named embedding: set scaling_factor"
        )
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a release or a configuration says in place of the files; None leaves what the files say."""

    hook_name: str | None = None
    activation: ActivationName | None = None
    k: int | None = None
    threshold: float | None = None
    normalization: Normalization | None = None
    center_input: bool | None = None
    scaling_factor: float | None = None
    subtract_bias: bool | None = None
    fold_decoder_norm: bool | None = None

    def over(self, description: Description) -> Description:
        """The description with these facts in it."""
        given = {name: value for name in self.__slots__ if (value := getattr(self, name)) is not None}
        if "activation" in given and given["activation"] not in ("topk", "groupmax"):
            given.setdefault("k", None)
        if given.get("activation", "topk") != "topk":
            given["rescale"] = False
        if "center_input" in given:
            given["centring_is_unsaid"] = False
        if "threshold" in given:
            given["threshold_is_unscaled"] = False
        return replace(description, **given)
