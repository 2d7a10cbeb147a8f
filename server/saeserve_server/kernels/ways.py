"""The kernels that can be chosen among, by name. Heavy libraries are imported by those that need them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from torch import Tensor

from saeserve_server.errors import ConfigError
from saeserve_server.sources.plain import PlainKernel
from saeserve_server.sources.sae import Sae
from saeserve_server.sources.source import Kernel

log = logging.getLogger(__name__)

Build = Callable[[Sae, Tensor], Kernel]
"""A kernel for an SAE, given activations [rows, d_in] of its hook point. Raises ConfigError where it does not suit the
SAE or the machine, ImportError where what it needs is not installed."""


def _plain(sae: Sae, sample: Tensor) -> Kernel:
    return PlainKernel(sae)


def _onednn(sae: Sae, sample: Tensor) -> Kernel:
    from saeserve_server.kernels.packed import PackedKernel

    return PackedKernel(sae)


def _onnxruntime(sae: Sae, sample: Tensor) -> Kernel:
    from saeserve_server.kernels.packed import OnnxRuntimeKernel

    return OnnxRuntimeKernel(sae)


def _fbgemm_int8(sae: Sae, sample: Tensor) -> Kernel:
    from saeserve_server.kernels.products import Fbgemm
    from saeserve_server.kernels.screened import ScreenedKernel

    return ScreenedKernel(sae, Fbgemm, sample)


def _onnxruntime_int8(sae: Sae, sample: Tensor) -> Kernel:
    from saeserve_server.kernels.products import OnnxRuntime
    from saeserve_server.kernels.screened import ScreenedKernel

    return ScreenedKernel(sae, OnnxRuntime, sample)


def _cuda_bf16(sae: Sae, sample: Tensor) -> Kernel:
    from saeserve_server.kernels.cuda import fitted

    if not sae.W_enc.is_cuda:
        raise ConfigError(f"W_enc: expected a GPU, got {sae.W_enc.device}")
    return fitted(sae, sample)


WAYS: Mapping[str, Build] = {
    "plain": _plain,
    "onednn": _onednn,
    "onnxruntime": _onnxruntime,
    "fbgemm-int8": _fbgemm_int8,
    "onnxruntime-int8": _onnxruntime_int8,
    "cuda-bf16": _cuda_bf16,
}
"""By name."""


COPIES = ("onednn", "onnxruntime")
"""Those that keep a copy of all weights."""
SCREENING = ("fbgemm-int8", "onnxruntime-int8")
"""Those on a CPU that compute a part of the latents, each row by itself."""


def build(name: str, sae: Sae, sample: Tensor) -> Kernel | None:
    """The kernel of that name, tried on a row so that nothing of it is compiled later; None where it cannot be had."""
    try:
        kernel = WAYS[name](sae, sample)
        kernel.rows(sample[:1])
        return kernel
    except (ConfigError, ImportError) as error:
        log.debug("kernel %s: %s", name, error)
    except Exception as error:  # noqa: BLE001 (libraries that lack it for this machine raise anything)
        log.warning("kernel %s cannot be had here: %s: %s", name, type(error).__name__, error)
    return None
