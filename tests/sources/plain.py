"""The formulas of the formats, written down plainly in NumPy float64, apart from the server's code."""

from typing import Any

import numpy as np

Array = np.ndarray


def f64(tensor: Any) -> Array:
    return tensor.double().numpy() if hasattr(tensor, "double") else np.asarray(tensor, dtype=np.float64)


def top(p: Array, k: int) -> Array:
    """relu(p) for the k largest of each row, 0 elsewhere."""
    kept = np.argsort(-p, axis=1, kind="stable")[:, :k]
    mask = np.zeros_like(p, dtype=bool)
    np.put_along_axis(mask, kept, True, axis=1)
    return np.where(mask, np.maximum(p, 0), 0)


def layer_norm(x: Array) -> Array:
    z = x - x.mean(axis=1, keepdims=True)
    return z / (z.std(axis=1, ddof=1, keepdims=True) + 1e-5)


def openai(state: dict[str, Any], x: Any) -> tuple[Array, Array]:
    """Pre-activations and latents of an OpenAI state dict on x [rows, d_in]."""
    x = f64(x)
    topk = state.get("activation") == "TopK"
    if topk:
        x = layer_norm(x)
    p = (x - f64(state["pre_bias"])) @ f64(state["encoder.weight"]).T + f64(state["latent_bias"])
    return p, top(p, state["activation_state_dict"]["k"]) if topk else np.maximum(p, 0)


def saelens(
    cfg: dict[str, Any], w: dict[str, Any], x: Any, *, scaling_factor: float = 1.0, fold: bool = False
) -> tuple[Array, Array]:
    """Pre-activations and latents of a SAELens folder on x [rows, d_in].

    The factor scales the inputs, as in training. Folding multiplies activations by decoder norms, those of a decoder
    divided by the factor; TopK with rescaling has these activations in any case.
    """
    x = f64(x) * scaling_factor
    if cfg.get("normalize_activations") == "layer_norm":
        x = layer_norm(x)
    if cfg.get("normalize_activations") == "constant_norm_rescale":
        x = x * np.sqrt(x.shape[1]) / np.linalg.norm(x, axis=1, keepdims=True)
    if cfg.get("apply_b_dec_to_input", True):
        x = x - f64(w["b_dec"])
    p = x @ f64(w["W_enc"]) + f64(w["b_enc"])
    norm = np.linalg.norm(f64(w["W_dec"]), axis=1) / scaling_factor
    k = cfg.get("k") or cfg.get("activation_fn_kwargs", {}).get("k")
    if k is not None:
        p = p * norm if cfg.get("rescale_acts_by_decoder_norm") else p
        return p, top(p, k)
    a = np.maximum(p, 0)
    if cfg.get("architecture") == "jumprelu":
        a = a * (p > f64(w["threshold"]))
    return (p * norm, a * norm) if fold else (p, a)
