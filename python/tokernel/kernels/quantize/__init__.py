# SPDX-License-Identifier: Apache-2.0
"""Family quantize: nearest codes, residual stacks, sign bits, grids, entropies of codebooks, product quantization."""

from tokernel.kernels.quantize._bits import (
    Grid,
    bucketize,
    fsq_decode,
    fsq_encode,
    fsq_encode_backward,
    pack_bits,
    sign_pack,
    sign_unpack,
    unpack_bits,
)
from tokernel.kernels.quantize._codebook import CodebookStats, CodeSums, codebook_stats, ema_update

__all__ = [
    "CodeSums",
    "CodebookStats",
    "Grid",
    "bucketize",
    "codebook_stats",
    "ema_update",
    "fsq_decode",
    "fsq_encode",
    "fsq_encode_backward",
    "pack_bits",
    "sign_pack",
    "sign_unpack",
    "unpack_bits",
]
