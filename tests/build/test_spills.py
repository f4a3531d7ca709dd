# SPDX-License-Identifier: Apache-2.0
"""Every CUDA kernel keeps its registers in registers."""

import shutil

import pytest

pytest.importorskip("typer", reason="bench needs the bench extra")
from bench.gpu_compile import compile_all
from bench.gpu_model import problems


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed: CUDA kernels cannot be compiled here")
def test_no_cuda_kernel_spills():
    kernels = compile_all(["sm_90a"])
    assert kernels
    assert problems(kernels) == []
