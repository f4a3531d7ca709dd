# SPDX-License-Identifier: Apache-2.0
"""Low-level ops by family, over any DLPack array: NumPy, torch, JAX, CuPy.

Results come back in the framework of the first array argument; ``out=`` fills the caller's arrays instead.
"""

from tokernel.kernels import attention, bpe, cluster, merge, quantize, select, tree

__all__ = ["attention", "bpe", "cluster", "merge", "quantize", "select", "tree"]
