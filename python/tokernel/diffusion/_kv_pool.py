# SPDX-License-Identifier: Apache-2.0
"""The parts of :mod:`tokernel.diffusion.pixart_sigma`: pooling keys and values, and attending to what is left."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from tokernel import ops

__all__ = ["KVPool", "Mode", "attention_kv_pooled", "kv_pool", "merge_heads", "pooled_length", "split_heads"]

Mode = Literal["conv", "mean", "nearest", "uniform", "uniform_every"]
NORM_EPS = 1e-5


def pooled_length(H: int, W: int, R: int, mode: Mode = "conv") -> int:
    """Count the keys that are left of H * W: ``(H // R) * (W // R)``, with ``uniform_every`` ``H * W // R``.

    Raises:
        ValueError: an extent below 1, an unknown mode, or extents that ``uniform`` and ``uniform_every`` cannot divide.

    >>> pooled_length(7, 8, 2), pooled_length(6, 8, 2, "uniform_every")
    (12, 24)
    """
    if min(H, W, R) < 1:
        raise ValueError(f"kv_pool: H, W and R expected at least 1; got {H}, {W}, {R}")
    if mode not in get_args(Mode):
        raise ValueError(f"kv_pool: mode expected one of {', '.join(get_args(Mode))}; got {mode!r}")
    if mode == "uniform" and (H % R or W % R):
        raise ValueError(f"kv_pool: uniform expected H and W divisible by R = {R}; got {H} and {W}")
    if mode == "uniform_every":
        if H * W % R:
            raise ValueError(f"kv_pool: uniform_every expected H * W divisible by R = {R}; got {H * W}")
        return H * W // R
    return (H // R) * (W // R)


def _sampled(H: int, W: int, R: int, mode: Mode, device: torch.device) -> Tensor:
    """Numbers of the tokens that a sampling mode keeps."""
    if mode == "uniform_every":
        return torch.arange(0, H * W, R, device=device)
    rows = torch.arange(H // R, device=device) * R
    columns = torch.arange(W // R, device=device) * R
    return (rows[:, None] * W + columns).flatten()


def _cells(H: int, W: int, R: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The cell of every token, -1 past the last whole one, and the token's row and column in its cell."""
    rows, columns = torch.arange(H, device=device)[:, None], torch.arange(W, device=device)
    cells = rows // R * (W // R) + columns // R
    whole = (rows < H // R * R) & (columns < W // R * R)
    inner_row, inner_column = (x.expand(H, W).flatten() for x in (rows % R, columns % R))
    return torch.where(whole, cells, -1).flatten(), inner_row, inner_column


def kv_pool(
    x: Tensor, H: int, W: int, R: int, mode: Mode = "conv", weight: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """Pool the tokens of an H x W grid by R x R cells (section 3.2 of the paper): the operator on keys and on values.

    ``conv``: ``y[cell, c] = bias[c] + sum weight[c, 0, i, j] * x[token (i, j) of cell, c]``, summed in float32;
    ``mean``: the plain mean; ``nearest``: the upper left token, what the official code calls "ave"; ``uniform``: rows
    and columns 0, R, 2R, ...; ``uniform_every``: every R-th token of the flattened sequence, so that N / R are left and
    not N / R^2. Rows and columns that do not fill a cell are dropped by the first three and refused by ``uniform``.
    The LayerNorm that the official code has after ``conv`` is not part of this: see :class:`KVPool`.

    Args:
        x: (B, H * W, C) float32, float16 or bfloat16, row by row.
        H, W: height and width of the grid.
        R: edge of a cell; 1 returns x, whatever the mode and the weights.
        mode: see above.
        weight: (C, 1, R, R) or (C, R, R), only with ``conv``; None is ``1 / R**2``.
        bias: (C), only with ``conv``; None is 0.

    Returns:
        (B, N', C) of the dtype of x, N' of :func:`pooled_length`; differentiable in x, weight and bias.

    Raises:
        ValueError: shapes do not fit, an unknown mode, a weight without ``conv``, extents that cannot be divided.

    >>> kv_pool(torch.arange(8.0).view(1, 8, 1), 2, 4, 2, "mean").flatten()
    tensor([2.5000, 4.5000])
    """
    pooled_length(H, W, R, mode)
    if x.dim() != 3 or x.shape[1] != H * W:
        raise ValueError(f"kv_pool: x expected shape (B, {H * W}, C); got {tuple(x.shape)}")
    if mode != "conv" and not (weight is None and bias is None):
        raise ValueError(f"kv_pool: weight and bias expected None with mode {mode!r}")
    if mode == "conv":
        _check_parameters(weight, bias, x.shape[2], R)
    if R == 1:
        return x
    if mode in ("nearest", "uniform", "uniform_every"):
        index = _sampled(H, W, R, mode, x.device)
        return ops.gather_rows(x, index.expand(x.shape[0], -1))
    cells, row, column = _cells(H, W, R, x.device)
    count = (H // R) * (W // R)
    if weight is None:
        pooled: Tensor = ops.segment_reduce(x, ids=cells, segments=count, mode="mean")
    else:
        # Weights differ by channel, those of segment_reduce by token: multiply first.
        tile = weight.reshape(-1, R, R)[:, row, column].T.float()
        pooled = ops.segment_reduce(x.float() * tile, ids=cells, segments=count, mode="sum").to(x.dtype)
    return pooled if bias is None else pooled + bias.to(x.dtype)


def _check_parameters(weight: Tensor | None, bias: Tensor | None, channels: int, R: int) -> None:
    if weight is not None and tuple(weight.shape) not in ((channels, 1, R, R), (channels, R, R)):
        raise ValueError(f"kv_pool: weight expected shape {(channels, 1, R, R)}; got {tuple(weight.shape)}")
    if bias is not None and bias.shape != (channels,):
        raise ValueError(f"kv_pool: bias expected shape {(channels,)}; got {tuple(bias.shape)}")


class KVPool(nn.Module):
    """:func:`kv_pool` with its parameters, and after ``conv`` the LayerNorm of the official code.

    The weights begin as ``1 / R**2``. The LayerNorm (not in the paper's formula) keeps that from being the mean; with
    ``norm=False`` it is. R = 1 has no parameters and changes nothing.

    Args:
        channels: C.
        R: edge of a cell.
        mode: of :func:`kv_pool`.
        norm: whether a LayerNorm follows ``conv``.

    >>> KVPool(8, R=2, mode="conv")(torch.ones(1, 12, 8), 3, 4).shape
    torch.Size([1, 2, 8])
    """

    def __init__(self, channels: int, R: int, mode: Mode = "conv", norm: bool = True) -> None:
        super().__init__()
        pooled_length(R, R, R, mode)
        self.R = R
        self.mode: Mode = mode
        learnt = mode == "conv" and R > 1
        self.weight = nn.Parameter(torch.full((channels, 1, R, R), 1 / R**2)) if learnt else None
        self.bias = nn.Parameter(torch.zeros(channels)) if learnt else None
        self.norm: nn.Module = nn.LayerNorm(channels, eps=NORM_EPS) if learnt and norm else nn.Identity()

    def forward(self, x: Tensor, H: int, W: int) -> Tensor:
        """Pool (B, H * W, C) tokens."""
        pooled: Tensor = self.norm(kv_pool(x, H, W, self.R, self.mode, self.weight, self.bias))
        return pooled

    def extra_repr(self) -> str:
        """Name R and the mode."""
        return f"R={self.R}, mode={self.mode!r}"


def split_heads(x: Tensor, heads: int) -> Tensor:
    """View (B, N, C) as (B, heads, N, C / heads)."""
    view: Tensor = x.unflatten(-1, (heads, -1)).transpose(1, 2)
    return view


def merge_heads(x: Tensor) -> Tensor:
    """Undo :func:`split_heads`."""
    return x.transpose(1, 2).flatten(2)


def attention_kv_pooled(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    H: int,
    W: int,
    R: int,
    *,
    heads: int,
    mode: Mode = "conv",
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Attend to pooled keys and values: ``softmax(q k'^T / sqrt(C / heads)) v'``, k' and v' of the same operator.

    N x N' scores instead of N x N, never stored; the projections around it cost what they did.

    Args:
        q, k, v: (B, H * W, C) of one dtype: float32, float16 or bfloat16.
        H, W, R, mode, weight, bias: as for :func:`kv_pool`.
        heads: a divisor of C.
        norm_weight, norm_bias: (C), of a LayerNorm (eps 1e-5) after the pooling, the same for k' and v'; without a
            weight there is none.
        mask: bool (B, N, N'), True where a query sees a pooled key; a query that sees none gets 0.

    Returns:
        (B, H * W, C), differentiable in everything that is float.

    Raises:
        ValueError: shapes do not fit, or those of :func:`kv_pool`.

    >>> x = torch.randn(1, 16, 8)
    >>> attention_kv_pooled(x, x, x, 4, 4, 2, heads=2).shape
    torch.Size([1, 16, 8])
    """
    if q.shape != k.shape or q.shape != v.shape:
        raise ValueError(
            f"attention_kv_pooled: q, k and v expected one shape; got {tuple(q.shape)}, {tuple(k.shape)}, "
            f"{tuple(v.shape)}"
        )
    if heads < 1 or q.shape[-1] % heads:
        raise ValueError(f"attention_kv_pooled: heads expected a divisor of {q.shape[-1]}; got {heads}")
    k, v = (kv_pool(x, H, W, R, mode, weight, bias) for x in (k, v))
    if norm_weight is not None:
        k, v = (functional.layer_norm(x, x.shape[-1:], norm_weight, norm_bias, NORM_EPS) for x in (k, v))
    return attend_pooled(q, k, v, heads, mask)


def attend_pooled(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Attend from (B, N, C) to (B, N', C), heads packed in C."""
    if mask is None:
        policy: ops.Dense | ops.Mask = ops.Dense()
    else:
        expected = (q.shape[0], q.shape[1], k.shape[1])
        if mask.dtype != torch.bool or mask.shape != expected:
            raise ValueError(
                f"attention_kv_pooled: mask expected bool of shape {expected}; got {mask.dtype} {tuple(mask.shape)}"
            )
        policy = ops.Mask(mask.unsqueeze(1))
    q, k, v = (split_heads(x, heads) for x in (q, k, v))
    return merge_heads(ops.attention(q, k, v, policy))
