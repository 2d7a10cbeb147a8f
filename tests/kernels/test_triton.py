"""Triton's loops in its interpreter, which needs no GPU: the same as torch's own operations."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from saeserve_server.kernels import triton_loops
from saeserve_server.kernels.bounds import gamma
from saeserve_server.kernels.cuda import HalfKernel
from saeserve_server.kernels.halves import half_rows
from saeserve_server.rows import as_csr
from saeserve_server.sources.sae import Sae
from tests.kernels.halves import ACTIVATIONS, entries, hard_rows, hard_sae

INTERPRETER = "TRITON_INTERPRET"


def compare() -> None:
    """In a process that interprets: every loop against torch, on shapes that no tile divides."""
    for seed, (d_in, d_sae, rows) in enumerate([(48, 240, 21), (130, 131, 33), (7, 300, 1), (64, 128, 32)]):
        for activation in ACTIVATIONS:
            if activation == "groupmax" and d_sae % 12:
                continue
            sae, x = hard_sae(activation, seed, d_in, d_sae, rescale=seed == 0), hard_rows(seed, d_in, rows)
            ours, reference = HalfKernel(sae, loops=True), HalfKernel(sae, loops=False)
            inputs = sae.inputs(x)
            (keys, count), (expected, expected_count) = (
                kernel._candidates(inputs, rows * d_sae) for kernel in (ours, reference)
            )
            assert int(count) == int(expected_count), activation
            assert torch.equal(keys, expected), activation
            found, right = entries(ours.rows(x)), entries(reference.rows(x))
            assert found.keys() == right.keys(), activation
            off = gamma(d_in + 2) * (inputs.norm(dim=1)[:, None] * sae.W_enc.norm(dim=1) + 1) * 8  # and what scales p
            assert all(abs(found[place] - right[place]) <= off[place] for place in right), activation

    sae, x = hard_sae("relu", 3), hard_rows(3)
    kernel = HalfKernel(sae, loops=True)
    rows, alone = as_csr(kernel.rows(x)), [as_csr(kernel.rows(one[None])) for one in x]
    assert np.array_equal(rows.data, np.concatenate([one.data for one in alone]))  # to the bit, whatever the batch

    keys, count = kernel._loops.screen(half_rows(sae.inputs(x)), kernel._latents, 100)  # type: ignore[union-attr]
    assert int(count) > 100  # what there was no room for is counted
    assert len(keys.unique()) == 100

    x[5, 1] = torch.nan
    with pytest.raises(FloatingPointError):
        kernel.rows(x)
    for empty in (torch.zeros(0, 48), torch.zeros(2, 48)):
        sae = Sae(torch.eye(48), -torch.ones(48))
        assert entries(HalfKernel(sae, loops=True).rows(empty)) == {}
    print("the same")


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_the_loops_find_what_torch_finds() -> None:
    command = [sys.executable, "-c", "from tests.kernels.test_triton import compare; compare()"]
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, INTERPRETER: "1", "PYTHONPATH": paths}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.stdout == "the same\n", done.stderr


def test_on_a_cpu_torch_does_it_unless_the_loops_are_asked_for() -> None:
    assert not triton_loops.is_there(torch.zeros(1))
    assert HalfKernel(hard_sae("relu", 0))._loops is None
