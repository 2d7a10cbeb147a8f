"""Products of ONNX Runtime (MLAS) with weights that it packs once: the optional half of the kernels.

A model of one node is written here, since that takes thirty lines of protobuf and no other package. The weights stay
outside of it: ONNX Runtime keeps what is inside, beside its packed copy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from saeserve_server.catalog import FloatArray
from saeserve_server.errors import ConfigError
from saeserve_server.kernels.compiled import Integers

INPUT, WEIGHTS, ZERO, OUTPUT = "x", "weights", "zero_point", "y"
TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6}
"""TensorProto.DataType."""
IR_VERSION, OPSET = 8, 13
EXTERNAL, ATTRIBUTE_INT = 1, 2

Array = npt.NDArray[Any]


class IntegerProduct:
    """x @ weights of whole numbers, x from 0 and less `zero_point`: the operator MatMulInteger."""

    def __init__(self, weights: Integers, zero_point: int, threads: int) -> None:
        """`weights` [d_in, latents] are overwritten. Raises ConfigError where they would have to be kept."""
        node = _node("MatMulInteger", INPUT, WEIGHTS, ZERO) + _bytes(5, _tensor(ZERO, np.array(zero_point, np.uint8)))
        self._latents = weights.shape[1]
        self._session = _session(node, weights, ("uint8", weights.shape[0]), ("int32", self._latents), threads)
        probe = np.arange(2 * weights.shape[0], dtype=np.uint8).reshape(2, -1) % 128
        before = self(probe)
        weights.fill(0)
        if (self(probe) != before).any():
            raise ConfigError(
                "onnxruntime: expected weights to be packed, this machine's kernels read them as they were"
            )

    def __call__(self, x: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
        """int32 [rows, latents] of x [rows, d_in]."""
        return _run(self._session, x, np.empty((len(x), self._latents), dtype=np.int32))


class FloatProduct:
    """x @ weightsᵀ in float32: the operator Gemm. Reads the weights [latents, d_in] where they are, if it does not
    pack them."""

    def __init__(self, weights: FloatArray, threads: int) -> None:
        transposed = _bytes(5, _text(1, "transB") + _number(3, 1) + _number(20, ATTRIBUTE_INT))
        self._weights = weights
        latents, d_in = weights.shape
        node = _node("Gemm", INPUT, WEIGHTS, attributes=transposed)
        self._session = _session(node, weights, ("float32", d_in), ("float32", latents), threads)

    def __call__(self, x: FloatArray) -> FloatArray:
        """float32 [rows, latents] of x [rows, d_in]."""
        return _run(self._session, x, np.empty((len(x), len(self._weights)), dtype=np.float32))


def _session(
    node: bytes, weights: Array, given: tuple[str, int], result: tuple[str, int], threads: int
) -> onnxruntime.InferenceSession:
    """The model of a node: its input and its result by type and columns."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = False
    options.add_external_initializers([WEIGHTS], [onnxruntime.OrtValue.ortvalue_from_numpy(weights)])
    elsewhere = _bytes(13, _text(1, "location") + _text(2, "memory")) + _number(14, EXTERNAL)
    ends = _bytes(11, _value(INPUT, *given)) + _bytes(12, _value(OUTPUT, *result))
    graph = node + _text(2, "product") + _bytes(5, _header(WEIGHTS, weights) + elsewhere) + ends
    model = _number(1, IR_VERSION) + _bytes(8, _number(2, OPSET)) + _bytes(7, graph)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _run(session: onnxruntime.InferenceSession, x: Array, out: Array) -> Array:
    binding = session.io_binding()
    binding.bind_cpu_input(INPUT, x)
    binding.bind_output(OUTPUT, "cpu", 0, out.dtype, out.shape, out.ctypes.data)
    session.run_with_iobinding(binding)
    return out


def _node(operator: str, *names: str, attributes: bytes = b"") -> bytes:
    """A NodeProto, as a part of a GraphProto."""
    return _bytes(1, b"".join(_text(1, name) for name in names) + _text(2, OUTPUT) + _text(4, operator) + attributes)


def _header(name: str, values: Array) -> bytes:
    """A TensorProto's shape, type and name."""
    shape = b"".join(_number(1, size) for size in values.shape)
    return shape + _number(2, TYPES[values.dtype.name]) + _text(8, name)


def _tensor(name: str, values: Array) -> bytes:
    """A TensorProto."""
    return _header(name, values) + _bytes(9, values.tobytes())


def _value(name: str, kind: str, columns: int) -> bytes:
    """A ValueInfoProto [rows, columns]."""
    shape = _bytes(1, _text(2, "rows")) + _bytes(1, _number(1, columns))
    return _text(1, name) + _bytes(2, _bytes(1, _number(1, TYPES[kind]) + _bytes(2, shape)))


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())
