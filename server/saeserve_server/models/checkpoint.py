"""A model folder in Hugging Face layout: what it says of itself, and its weights.

Of a multimodal checkpoint only the language model is read: the weights of its vision or audio tower never leave the
disk, and no processor is asked for. Nothing is downloaded and no code of the folder is run.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM, AutoTokenizer

from saeserve_server.errors import ConfigError

LANGUAGE_MODEL_KEYS = {
    r"^language_model\.model\.": "model.",
    r"^model\.language_model\.": "model.",
    r"^language_model\.lm_head\.": "lm_head.",
}
"""Names of the language model's tensors in multimodal checkpoints, and those that it has alone."""

_HALVES = {torch.bfloat16, torch.float16}
_STATED = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder whose configuration was read."""

    folder: Path
    settings: Any
    """Hugging Face's configuration of the language model."""
    multimodal: bool
    stated: torch.dtype
    """The type in which the weights are stored."""


def open_checkpoint(folder: Path, place: str) -> Checkpoint:
    """Reads the configuration of a model folder. Raises ConfigError; `place` is what its message begins with."""
    try:
        whole = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # foreign files raise anything
        raise _unreadable(place, folder, error) from error
    _check_quantisation(whole, folder, place)
    language: Any = getattr(whole, "text_config", None)
    if language is None:
        return Checkpoint(folder, whole, False, _stated_dtype(folder, whole))
    if type(language) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ConfigError(
            f"{place}: {folder} is multimodal ({whole.model_type}), and its language model "
            f"({getattr(language, 'model_type', 'of no known type')}) cannot be run alone; "
            f"expected a causal language model"
        )
    return Checkpoint(folder, language, True, _stated_dtype(folder, whole))


def parameter_count(settings: Any) -> int:
    """Parameters of the model that a configuration describes, tied ones once. Takes no memory to speak of."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(settings, trust_remote_code=False)
    return sum(weights.numel() for weights in model.parameters())


def load_weights(checkpoint: Checkpoint, dtype: torch.dtype, place: str) -> Any:
    """The causal language model of a checkpoint, in `dtype` on the CPU.

    Raises ConfigError for weights that are missing (transformers would make them up), no numbers, or not of `dtype`.
    """
    folder = checkpoint.folder
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=checkpoint.settings,
            dtype=dtype,
            key_mapping=LANGUAGE_MODEL_KEYS if checkpoint.multimodal else None,
            output_loading_info=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    except Exception as error:  # damaged or foreign files raise anything from OSError to KeyError
        raise _unreadable(place, folder, error) from error
    model, found = loaded
    base = f"{model.base_model_prefix}."  # what is beyond it is never run
    missing = sorted(name for name in found["missing_keys"] if name.startswith(base))
    if missing:
        raise ConfigError(
            f"{place}: {folder} lacks {len(missing)} tensors of {type(model).__name__}: {', '.join(missing[:3])}"
            f"{', …' if len(missing) > 3 else ''}"
        )
    if any(weights.dtype in _HALVES - {dtype} for weights in model.parameters()):
        model = model.to(dtype)  # unpacked from four bits, which transformers does in bfloat16 only
    for name, weights in model.named_parameters():
        if weights.dtype not in (dtype, torch.float32):
            raise ConfigError(
                f"{place}: {folder}: {name} is quantised ({weights.dtype}); take the checkpoint that is not"
            )
        if not bool(torch.isfinite(weights).all()):
            raise ConfigError(f"{place}: {folder}: {name} holds NaN or infinite weights")
    # Which classes these weights are for, in the words of the class that holds them: a text configuration taken out of
    # a multimodal one names none.
    model.config.architectures = [type(model).__name__]
    return model.eval()


def load_tokenizer(folder: Path, place: str) -> Any:
    """The fast tokenizer of a model folder. Raises ConfigError."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ConfigError(
            f"{place}: no tokenizer can be loaded from {folder}: {type(error).__name__}: {error}"
        ) from error
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ConfigError(f"{place}: {folder} has no fast tokenizer (tokenizer.json)")
    return tokenizer


def _check_quantisation(settings: Any, folder: Path, place: str) -> None:
    """Four-bit weights of gpt-oss are to be unpacked. Raises ConfigError for others, whose maths is not the model's."""
    quantisation = getattr(settings, "quantization_config", None)
    if not isinstance(quantisation, dict):
        return
    method = quantisation.get("quant_method", "an unnamed method")
    if method != "mxfp4":
        raise ConfigError(f"{place}: {folder} is quantised ({method}); take the checkpoint that is not")
    quantisation["dequantize"] = True


def _stated_dtype(folder: Path, settings: Any) -> torch.dtype:
    """What the configuration says, else what most of the first file's tensors are, else float32."""
    if isinstance(settings.dtype, torch.dtype):
        return settings.dtype
    for file in sorted(folder.glob("*.safetensors"))[:1]:
        try:
            with safe_open(file, framework="pt") as tensors:
                types = Counter(tensors.get_slice(name).get_dtype() for name in tensors.keys())  # noqa: SIM118
        except (SafetensorError, OSError):  # said with its reason when the weights are read
            break
        return _STATED.get(types.most_common(1)[0][0], torch.float32) if types else torch.float32
    return torch.float32


def _unreadable(place: str, folder: Path, error: Exception) -> ConfigError:
    return ConfigError(f"{place}: {folder} cannot be loaded: {type(error).__name__}: {error}")
