# SPDX-License-Identifier: Apache-2.0
"""CLEAR's attention (arXiv 2412.16112): a disc around every image token, the text, pooled keys of the whole image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tokernel.ops import Disc, attention, scatter_add_rows

__all__ = [
    "attended_pairs",
    "disc_mask",
    "disc_neighbours",
    "local_disc_attention",
    "local_disc_attention_down",
    "pool_image",
    "proportional_scale",
]


def disc_neighbours(H: int, W: int, r: float) -> Tensor:
    """List the offsets (dy, dx) from an image token to the tokens it may see: ``dy**2 + dx**2 < r**2``, strictly.

    Args:
        H, W: extents of the grid; no offset leaves it from every token.
        r: radius in tokens.

    Returns:
        (n, 2) int64, in row-major order.

    >>> [len(disc_neighbours(64, 64, r)) for r in (1, 8, 16, 32)]
    [1, 193, 793, 3205]
    """
    _check_grid("disc_neighbours", H, W, r)
    reach = math.ceil(r)
    tall, wide = min(reach, H), min(reach, W)
    dy, dx = torch.meshgrid(torch.arange(-tall, tall + 1), torch.arange(-wide, wide + 1), indexing="ij")
    inside = (dy**2 + dx**2 < r * r) & (dy.abs() < H) & (dx.abs() < W)
    return torch.stack([dy[inside], dx[inside]], 1)


def disc_mask(H: int, W: int, T: int, r: float, down: int = 1) -> Tensor:
    """Write out who sees whom: the reference of :func:`local_disc_attention`, for small grids.

    Queries are [T text | H * W image, row by row], keys the same and, with down > 1, the pooled tokens behind them.
    Text sees text and image but no pooled token; an image token sees the text, the image tokens at a distance strictly
    below r (clipped at the border, no wrap-around), and every pooled token.

    Args:
        H, W: extents of the image in tokens, multiples of down.
        T: number of text tokens.
        r: radius in tokens.
        down: factor of the pooling; 1 is the variant without pooled tokens.

    Returns:
        bool (T + H * W, T + H * W) or (T + H * W, T + H * W + H * W / down**2), True where the query sees the key.

    Raises:
        ValueError: an extent is negative, or H or W is not divisible by down.

    >>> disc_mask(1, 3, 1, 1).int()
    tensor([[1, 1, 1, 1],
            [1, 1, 0, 0],
            [1, 0, 1, 0],
            [1, 0, 0, 1]], dtype=torch.int32)
    """
    _check_grid("disc_mask", H, W, r, T)
    _check_factor("disc_mask", H, W, down)
    at = torch.arange(H * W)
    y, x = at // max(W, 1), at % max(W, 1)
    near = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2 < r * r
    pooled = 0 if down == 1 else (H // down) * (W // down)
    mask = torch.ones(T + H * W, T + H * W + pooled, dtype=torch.bool)
    mask[T:, T : T + H * W] = near
    mask[:T, T + H * W :] = False
    return mask


def attended_pairs(H: int, W: int, T: int, r: float, down: int = 1) -> int:
    """Count the (query, key) pairs of :func:`disc_mask` without writing it out; times 4 D it is the FLOPs of a head.

    >>> attended_pairs(512, 512, 512, 16) / (512 * 512 + 512) ** 2 < 0.007
    True
    """
    _check_grid("attended_pairs", H, W, r, T)
    _check_factor("attended_pairs", H, W, down)
    dy, dx = disc_neighbours(H, W, r).abs().unbind(1)
    local = int(((H - dy) * (W - dx)).sum())
    pooled = 0 if down == 1 else (H // down) * (W // down)
    return T * (T + H * W) + H * W * (T + pooled) + local


def proportional_scale(S: int, D: int, base: float = 4608, mult: float = 1) -> float:
    """Scale logits for more keys than in training: ``sqrt(log_base(mult * S) / D)``.

    Args:
        S: number of keys before pooling, text and image.
        D: width of a head.
        base: keys in training, 64 * 64 + 512 in the paper; there the scale is exactly 1 / sqrt(D).
        mult: the official code has 10 in the variant with pooling and 1 without, undocumented.

    >>> proportional_scale(4608, 64), round(proportional_scale(512 * 512 + 512, 64), 4)
    (0.125, 0.152)
    """
    if not (S >= 1 and D >= 1 and base > 1 and mult * S >= 1):
        raise ValueError(
            f"proportional_scale: expected S and D at least 1, base above 1, mult * S at least 1; "
            f"got S={S}, D={D}, base={base}, mult={mult}"
        )
    return math.sqrt(math.log(mult * S) / math.log(base)) / math.sqrt(D)


def local_disc_attention(
    q: Tensor, k: Tensor, v: Tensor, H: int, W: int, T: int, r: float, scale: float | None = None
) -> Tensor:
    """Attend within discs: exact softmax over the keys that :func:`disc_mask` allows, at a cost linear in H * W.

    CLEAR section 3 (arXiv 2412.16112). Differentiable in q, k and v.

    Args:
        q, k, v: (B, h, T + H * W, D) of one float dtype, [text | image row by row], normalised and rotated.
        H, W: extents of the image in tokens.
        T: number of text tokens.
        r: radius of the disc, strict: 1 leaves an image token the text and itself.
        scale: of the logits; None is 1 / sqrt(D). See :func:`proportional_scale`.

    Returns:
        (B, h, T + H * W, D) of the dtype of q.

    Raises:
        ValueError: the number of tokens is not T + H * W, or an extent is negative.

    >>> q = k = v = torch.ones(1, 1, 2 + 3 * 4, 8)
    >>> local_disc_attention(q, k, v, H=3, W=4, T=2, r=1.5).shape
    torch.Size([1, 1, 14, 8])
    """
    _check_grid("local_disc_attention", H, W, r, T)
    _check_tokens("local_disc_attention", (q, k, v), H, W, T)
    return _attend(q, k, v, Disc((H, W), r, T), scale)


def local_disc_attention_down(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    H: int,
    W: int,
    T: int,
    r: float,
    d: int,
    w: Tensor,
    scale: float | None = None,
) -> Tensor:
    """Attend within discs and to a pooled copy of the whole image, which repairs repetition when discs are small.

    The image part of k and v, pooled by :func:`pool_image`, is appended to the keys: image tokens see all of it, text
    tokens none. Differentiable in q, k, v and w.

    Args:
        q, k, v: (B, h, T + H * W, D) of one float dtype, [text | image row by row], normalised and rotated.
        H, W: extents of the image in tokens, multiples of d.
        T: number of text tokens; 512 is hard-wired in the official code.
        r: radius of the disc, strict.
        d: factor of the pooling.
        w: (d, d) weights of the pooling, shared by heads, channels, k and v.
        scale: of the logits; None is 1 / sqrt(D).

    Returns:
        (B, h, T + H * W, D) of the dtype of q.

    Raises:
        ValueError: the number of tokens is not T + H * W, w is not (d, d), or H or W is not divisible by d.

    >>> q = k = v = torch.ones(1, 1, 2 + 4 * 4, 8)
    >>> local_disc_attention_down(q, k, v, H=4, W=4, T=2, r=1.5, d=2, w=torch.full((2, 2), 0.25)).shape
    torch.Size([1, 1, 18, 8])
    """
    op = "local_disc_attention_down"
    _check_grid(op, H, W, r, T)
    _check_factor(op, H, W, d)
    _check_tokens(op, (q, k, v), H, W, T)
    if w.shape != (d, d):
        raise ValueError(f"{op}: w expected shape {(d, d)}; got {tuple(w.shape)}")
    k, v = (torch.cat([x, pool_image(x[:, :, T:], H, W, w)], 2) for x in (k, v))
    return _attend(q, k, v, Disc((H, W), r, T, (H // d) * (W // d)), scale)


def pool_image(x: Tensor, H: int, W: int, w: Tensor) -> Tensor:
    """Pool cells of d x d image tokens: ``out[Y, X] = sum of w[a, b] * x[Y * d + a, X * d + b]``, in float32.

    Args:
        x: (B, h, H * W, D) float32, float16 or bfloat16, row by row.
        H, W: extents of the image in tokens, multiples of d.
        w: (d, d) weights.

    Returns:
        (B, h, H / d * W / d, D) of the dtype of x, differentiable in x and w.

    >>> pool_image(torch.arange(8.0).view(1, 1, 8, 1), 2, 4, torch.full((2, 2), 0.25)).flatten()
    tensor([2.5000, 4.5000])
    """
    batch, heads, tokens, width = x.shape
    if w.dim() != 2 or w.shape[0] != w.shape[1]:
        raise ValueError(f"pool_image: w expected shape (d, d); got {tuple(w.shape)}")
    d = w.shape[0]
    _check_factor("pool_image", H, W, d)
    if tokens != H * W:
        raise ValueError(f"pool_image: x expected {H} * {W} = {H * W} tokens; got {tokens}")
    cells = (H // d) * (W // d)
    y, column = (torch.arange(n, device=x.device) for n in (H, W))
    index = ((y // d)[:, None] * (W // d) + column // d).flatten()
    weight = w.float().repeat(H // d, W // d).flatten()
    rows = x.flatten(0, 1)
    pooled = scatter_add_rows(rows, index.expand(len(rows), -1), cells, weight.expand(len(rows), -1))
    return pooled.view(batch, heads, cells, width)


def _attend(q: Tensor, k: Tensor, v: Tensor, policy: Disc, scale: float | None) -> Tensor:
    out: Tensor = attention(q, k, v, policy, scale=scale)
    return out


def _check_grid(op: str, H: int, W: int, r: float, T: int = 0) -> None:
    if min(H, W, T) < 0:
        raise ValueError(f"{op}: H, W and T expected at least 0; got H={H}, W={W}, T={T}")
    if not (r >= 0 and math.isfinite(r)):
        raise ValueError(f"{op}: r expected a finite number, at least 0; got {r}")


def _check_factor(op: str, H: int, W: int, d: int) -> None:
    if d < 1:
        raise ValueError(f"{op}: the factor of the pooling expected at least 1; got {d}")
    if H % d or W % d:
        raise ValueError(f"{op}: H and W expected to be divisible by the factor {d} of the pooling; got {H} x {W}")


def _check_tokens(op: str, tensors: tuple[Tensor, ...], H: int, W: int, T: int) -> None:
    for name, x in zip("qkv", tensors, strict=True):
        if x.dim() != 4 or x.shape[2] != T + H * W:
            raise ValueError(
                f"{op}: {name} expected shape (batch, heads, T + H * W = {T + H * W}, width); got {tuple(x.shape)}"
            )
