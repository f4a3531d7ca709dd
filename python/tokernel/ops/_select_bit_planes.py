# SPDX-License-Identifier: Apache-2.0
"""Family select as torch ops: rows in two bit-planes, and attention that reads the low one where it has to."""

from __future__ import annotations

import torch
from torch import Tensor

from tokernel.kernels import select as kernels
from tokernel.ops._torch_op import define

__all__ = ["join_bits", "progressive_attention", "split_bits"]


def _split_fake(x: Tensor, msb: int, lsb: int) -> tuple[Tensor, Tensor, Tensor]:
    low = (x.shape[-1] + 1) // 2 if lsb > 0 else 0
    return (
        x.new_empty(x.shape, dtype=torch.int8),
        x.new_empty((*x.shape[:-1], low), dtype=torch.uint8),
        x.new_empty(x.shape[:-1], dtype=torch.float32),
    )


def _attend(
    q: Tensor,
    high_k: Tensor,
    low_k: Tensor,
    scale_k: Tensor,
    v: Tensor,
    threshold: float,
    scale_v: Tensor | None,
    lsb: int,
    scale: float | None,
    key_valid: Tensor | None,
    causal: bool,
) -> tuple[Tensor, Tensor]:
    return kernels.progressive_attention(
        q,
        high_k,
        low_k,
        scale_k,
        v,
        threshold,
        scale_v=scale_v,
        lsb=lsb,
        scale=scale,
        key_valid=key_valid,
        causal=causal,
    )


_split_bits = define(
    "split_bits(Tensor x, int msb, int lsb) -> (Tensor, Tensor, Tensor)", kernels.split_bits, _split_fake
)
_join_bits = define(
    "join_bits(Tensor high, Tensor? low, Tensor? scale, int lsb) -> Tensor",
    kernels.join_bits,
    lambda high, low, scale, lsb: high.new_empty(high.shape, dtype=torch.float32),
)
_progressive_attention = define(
    "progressive_attention(Tensor q, Tensor high_k, Tensor low_k, Tensor scale_k, Tensor v, float threshold, "
    "Tensor? scale_v, int lsb, float? scale, Tensor? key_valid, bool causal) -> (Tensor, Tensor)",
    _attend,
    lambda q, *others: (q.new_empty(q.shape), q.new_empty(q.shape[:3], dtype=torch.bool)),
)


def split_bits(x: Tensor, msb: int = 8, lsb: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Quantise rows to msb + lsb bits and split every number: ``n = (high << lsb) + low`` with ``x ~ n * scale``.
    Torch form of :func:`tokernel.kernels.select.split_bits`, which states the rule; without gradient.

    Args:
        x: (B, H, N, D), (B, N, D) or (N, D) float32, float16 or bfloat16, any outer strides.
        msb: bits of the high plane, in [2, 8].
        lsb: bits of the low plane, in [0, 4].

    Returns:
        high int8 of the shape of x, low (..., N, (D + 1) // 2) uint8, and scale (..., N) float32.

    >>> split_bits(torch.tensor([[2047.0, -1.0, 16.0, 0.0]]))
    (tensor([[127,  -1,   1,   0]], dtype=torch.int8), tensor([[255,   0]], dtype=torch.uint8), tensor([1.]))
    """
    high, low, scale = _split_bits(x.detach(), msb, lsb)
    return high, low, scale


def join_bits(high: Tensor, low: Tensor | None = None, scale: Tensor | None = None, lsb: int = 4) -> Tensor:
    """Read bit-planes back: ``out = ((high << lsb) + low) * scale``. Torch form of
    :func:`tokernel.kernels.select.join_bits`, without gradient.

    Args:
        high: (B, H, N, D), (B, N, D) or (N, D) int8, any outer strides.
        low: (..., N, (D + 1) // 2) uint8; None reads the high plane alone.
        scale: (..., N) float32; None gives the whole numbers themselves.
        lsb: bits of the low plane, in [0, 4].

    Returns:
        float32 of the shape of high.

    >>> join_bits(*split_bits(torch.tensor([[2047.0, -1.0, 16.0, 0.0]]))).tolist()
    [[2047.0, -1.0, 16.0, 0.0]]
    """
    out: Tensor = _join_bits(high, low, None if scale is None else scale.detach(), lsb)
    return out


def progressive_attention(
    q: Tensor,
    high_k: Tensor,
    low_k: Tensor,
    scale_k: Tensor,
    v: Tensor,
    threshold: float = 0.1,
    *,
    scale_v: Tensor | None = None,
    lsb: int = 4,
    scale: float | None = None,
    key_valid: Tensor | None = None,
    causal: bool = False,
) -> tuple[Tensor, Tensor]:
    """Attend to keys in two bit-planes, the low one read only for rows of P below `threshold` everywhere. Torch form of
    :func:`tokernel.kernels.select.progressive_attention`, which states the rule; without gradient.

    Args:
        q: (B, H, Q, D) float32, float16 or bfloat16; D from 1 to 256.
        high_k: (B, G, K, D) int8; H is a multiple of G.
        low_k: (B, G, K, (D + 1) // 2) uint8.
        scale_k: (B, G, K) float32.
        v: (B, G, K, D) of the dtype of q, or int8 with scale_v.
        threshold: at least 0; the paper has about 0.1.
        scale_v: (B, G, K) float32, exactly where v is int8.
        lsb: bits of the low plane, in [0, 4].
        scale: of the products; None is D**-0.5.
        key_valid: (B, K) bool, False for a key that no row sees.
        causal: whether row i sees only the keys j <= i + K - Q.

    Returns:
        out (B, H, Q, D) of the dtype of q, and refetched (B, H, Q) bool: rows that were computed anew.

    >>> q, k = torch.tensor([[[[8.0, 0.0], [0.0, 0.0]]]]), torch.tensor([[[[1.0, 0.0], [-1.0, 0.5]]]])
    >>> progressive_attention(q, *split_bits(k), torch.eye(2)[None, None], threshold=0.6)[1]
    tensor([[[False,  True]]])
    """
    given = None if scale_v is None else scale_v.detach()
    out, refetched = _progressive_attention(
        q.detach(), high_k, low_k, scale_k.detach(), v.detach(), threshold, given, lsb, scale, key_valid, causal
    )
    return out, refetched
