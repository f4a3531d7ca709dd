# SPDX-License-Identifier: Apache-2.0
"""Family quantize: nearest codes, residual stacks, sign bits, grids, entropies of codebooks, product quantization."""

__all__: list[str] = []
