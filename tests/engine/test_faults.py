"""What an error of torch is taken for, and that a worker whose device is lost is gone at once."""

from __future__ import annotations

import atexit
import multiprocessing
import threading
import time
from multiprocessing.connection import Connection

import pytest
import torch

from saeserve_server.config import Config, load_config
from saeserve_server.engine import worker
from saeserve_server.engine.faults import Fault, fault_of

MESSAGES = {
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.1 GiB": Fault.MEMORY,
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported": Fault.MEMORY,
    "CUDA driver error: out of memory": Fault.MEMORY,
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`": Fault.MEMORY,
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED": Fault.MEMORY,
    "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory": Fault.MEMORY,
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`": Fault.MEMORY_OR_DEVICE,
    "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED": Fault.MEMORY_OR_DEVICE,
    'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "../c10/cuda/CUDACachingAllocator.cpp":1015': Fault.MEMORY_OR_DEVICE,
    "CUDA error: device-side assert triggered": Fault.DEVICE,
    "CUDA error: an illegal memory access was encountered": Fault.DEVICE,
    "CUDA error: unspecified launch failure": Fault.DEVICE,
    "CUDA driver error: device not ready": Fault.DEVICE,
    "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`": Fault.DEVICE,
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED": Fault.DEVICE,
    "CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling `cublasSgemm(...)`": Fault.WORK,
    "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED": Fault.WORK,
    "mat1 and mat2 shapes cannot be multiplied (1x2 and 3x4)": Fault.WORK,
}


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message[:40])
def test_what_torch_says_tells_memory_device_and_work_apart(message: str) -> None:
    assert fault_of(RuntimeError(message)) is MESSAGES[message]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("x"), MemoryError()], ids=["device", "machine"])
def test_errors_of_memory_need_no_words(error: Exception) -> None:
    assert fault_of(error) is Fault.MEMORY


def test_the_class_that_torch_has_for_devices_is_read_by_its_words_too() -> None:
    assert fault_of(torch.AcceleratorError("CUDA error: an illegal memory access was encountered")) is Fault.DEVICE


def test_words_in_an_error_of_another_kind_mean_nothing() -> None:
    assert fault_of(ValueError("CUDA error: device-side assert triggered")) is Fault.WORK


def raised(outer: Exception, cause: Exception, *, hidden: bool = False) -> Exception:
    """`outer` as it is once raised over `cause`; with its context hidden where that is asked for."""
    try:
        try:
            raise cause
        except Exception:  # noqa: BLE001 - whatever it was given
            if hidden:
                raise outer from None
            raise outer  # noqa: B904 - over it, and not from it
    except Exception as error:  # noqa: BLE001 - the same
        return error


def test_the_cause_tells_where_the_error_itself_does_not() -> None:
    lost = RuntimeError("CUDA error: device-side assert triggered")
    assert fault_of(raised(ValueError("a hook failed"), lost)) is Fault.DEVICE
    assert fault_of(raised(RuntimeError("outer"), raised(KeyError("x"), MemoryError()))) is Fault.MEMORY
    assert fault_of(raised(ValueError("a hook failed"), lost, hidden=True)) is Fault.WORK
    ring = RuntimeError("one")
    ring.__cause__ = RuntimeError("two")
    ring.__cause__.__cause__ = ring
    assert fault_of(ring) is Fault.WORK


# A worker whose device is lost

PATIENCE = 60.0


def hang() -> None:
    """Stands for a teardown over a context that is gone."""
    time.sleep(10 * PATIENCE)


def worker_that_loses_its_device(connection: Connection, lifeline: Connection, config: Config) -> None:
    """In a process of its own: a worker whose batch ends as on a card that is gone, and whose teardown hangs."""

    def serve(connection: Connection, config: Config) -> None:
        atexit.register(hang)
        threading.Thread(target=hang, name="not a daemon").start()
        connection.send("serving")
        raise RuntimeError("CUDA error: device-side assert triggered")

    worker._serve = serve
    worker.main(connection, lifeline, config)


def test_a_worker_whose_device_is_lost_is_gone_at_once_though_its_teardown_would_hang() -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    lifeline, tied = context.Pipe(duplex=False)
    process = context.Process(
        target=worker_that_loses_its_device, args=(theirs, lifeline, load_config(None, {}, {})), daemon=True
    )
    process.start()
    try:
        theirs.close()
        assert ours.recv() == "serving"
        process.join(PATIENCE)
        assert process.exitcode == 1
    finally:
        tied.close()
        process.kill()
        process.join()
