# SPDX-License-Identifier: Apache-2.0
"""Cases of the quantize family."""

from __future__ import annotations

from bench import (
    quantize_bits,
    quantize_codebook,
    quantize_entropy,
    quantize_nearest,
    quantize_product,
    quantize_residual,
)
from bench.core import Case


def cases() -> list[Case]:
    """Every case of the family, in the order of the table."""
    families = (
        quantize_nearest,
        quantize_bits,
        quantize_entropy,
        quantize_codebook,
        quantize_residual,
        quantize_product,
    )
    return [case for family in families for case in family.cases()]
