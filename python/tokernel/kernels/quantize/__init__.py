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
from tokernel.kernels.quantize._entropy import (
    CodebookEntropy,
    CodebookLse,
    bit_entropy,
    bit_entropy_backward,
    codebook_entropy,
    codebook_entropy_backward,
    codebook_lse,
    subcode_histogram,
    subcode_histogram_backward,
)
from tokernel.kernels.quantize._nearest import Nearest, TopCodes, nearest, nearest_rank, nearest_topk
from tokernel.kernels.quantize._product import Scanned, adc_scan, adc_tables, pq_decode, pq_encode

__all__ = [
    "CodeSums",
    "CodebookEntropy",
    "CodebookLse",
    "CodebookStats",
    "Grid",
    "Nearest",
    "Scanned",
    "TopCodes",
    "adc_scan",
    "adc_tables",
    "bit_entropy",
    "bit_entropy_backward",
    "bucketize",
    "codebook_entropy",
    "codebook_entropy_backward",
    "codebook_lse",
    "codebook_stats",
    "ema_update",
    "fsq_decode",
    "fsq_encode",
    "fsq_encode_backward",
    "nearest",
    "nearest_rank",
    "nearest_topk",
    "pack_bits",
    "pq_decode",
    "pq_encode",
    "sign_pack",
    "sign_unpack",
    "subcode_histogram",
    "subcode_histogram_backward",
    "unpack_bits",
]
