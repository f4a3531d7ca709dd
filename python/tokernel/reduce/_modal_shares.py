# SPDX-License-Identifier: Apache-2.0
"""How much text and vision attend to each other, from a map or from queries and keys without the map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from tokernel.ops import Causal, Dense, Extras, attention

__all__ = ["TokenSet", "cross_modal_ratios", "modal_shares"]

TokenSet: TypeAlias = slice | Sequence[int] | Tensor
"""Positions of a kind of token: a slice, a range or list, int positions (n), or a bool mask (L) or (B, L)."""

Attended: TypeAlias = Tensor | tuple[Tensor, Tensor, bool]

_SETS = ("sys", "vis", "txt")


def cross_modal_ratios(
    attn: Attended,
    sys: TokenSet,
    vis: TokenSet,
    txt: TokenSet,
    *,
    scale: float | None = None,
    key_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Measure how much text attends to vision and vision to text (section 3.3), as means over heads and queries.

    ``alpha_tv = sum_{i in T, j in V} A_ij / sum_{i in T, j in S, V or T} A_ij`` and ``alpha_vt`` the other way round.
    In a causal decoder with the image before the question no visual query sees text, and alpha_vt is 0: the sets are
    the caller's, so that text before the image may count as T.

    Args:
        attn: the map (H, L, L) or (B, H, L, L), rows summing to 1; or (q, k, causal), with q (H, L, D) or
            (B, H, L, D) and k of as many or fewer heads, as :func:`tokernel.ops.attention` takes them, position
            embedding applied. From q and k the map is computed in tiles and never stored, for the rows of T and V
            only: memory is that of q.
        sys, vis, txt: positions of system prompt, visual and text tokens, see :data:`TokenSet`; a token in none of
            them (padding) counts nowhere. In a batch, a mask (B, L) tells samples apart.
        scale, key_bias: of q and k, as in :func:`tokernel.ops.attention`; a key bias of -inf hides padding.

    Returns:
        (alpha_tv, alpha_vt), each () or (B) float32 in [0, 1] (float64 of a float64 map), without gradient. 0 where
        there are no such queries, or where they attend to none of the sets. [ours]

    Raises:
        ValueError: a shape does not fit, a position is outside the sequence, or two sets share a token.
        TypeError: a set that is neither positions nor a mask.

    >>> q = torch.zeros(1, 6, 8)  # every token attends to all it sees alike
    >>> cross_modal_ratios((q, q, True), sys=slice(0, 1), vis=slice(1, 4), txt=slice(4, 6))
    (tensor(0.5500), tensor(0.))
    """
    of_text, of_vision = _shares("cross_modal_ratios", attn, (sys, vis, txt), scale, key_bias)
    return of_text[..., 1], of_vision[..., 2]


def modal_shares(
    attn: Attended,
    sys: TokenSet,
    vis: TokenSet,
    txt: TokenSet,
    *,
    scale: float | None = None,
    key_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Say where text and where vision look: :func:`cross_modal_ratios` with every share instead of two.

    Returns:
        (of_text, of_vision), each (3) or (B, 3): shares of the attention that goes to sys, vis and txt, summing to 1.

    >>> q = torch.zeros(1, 6, 8)
    >>> modal_shares((q, q, True), slice(0, 1), slice(1, 4), slice(4, 6))[0]
    tensor([0.1833, 0.5500, 0.2667])
    """
    return _shares("modal_shares", attn, (sys, vis, txt), scale, key_bias)


def _shares(
    op: str, attn: Attended, sets: tuple[TokenSet, ...], scale: float | None, key_bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    first, *keys = _batched(op, attn)
    groups = _groups(op, sets, first)
    if not keys and (scale is not None or key_bias is not None):
        raise ValueError(f"{op}: scale and key_bias must be None with a map, which has them already")
    shares = []
    for rows in (groups == 2, groups == 1):
        if keys:
            mass = _mass_of_qk(first, keys[0], bool(attn[2]), rows, groups, scale, key_bias)
        else:
            mass = _mass_of_map(first, rows, groups)
        total = mass.sum(-1, keepdim=True)
        # A part of a rounded sum of numbers >= 0 never exceeds it, so no share exceeds 1.
        share = torch.where(total == 0, 0.0, mass / total)
        shares.append(share if _rank(attn) == 4 else share[0])
    return shares[0], shares[1]


def _rank(attn: Attended) -> int:
    return attn.dim() if isinstance(attn, Tensor) else attn[0].dim()


def _batched(op: str, attn: Attended) -> list[Tensor]:
    """Return the map, or q and k, with a batch dimension and without gradient."""
    parts = [attn] if isinstance(attn, Tensor) else [*attn[:2]]
    if not isinstance(attn, Tensor) and len(attn) != 3:
        raise ValueError(f"{op}: attn must be a map or (q, k, causal), got {len(attn)} values")
    if not all(isinstance(x, Tensor) for x in parts):
        raise TypeError(f"{op}: attn must be a map or (q, k, causal), got {[type(x).__name__ for x in parts]}")
    shapes = [tuple(x.shape) for x in parts]
    lengths = shapes[0][-2:] if len(shapes) == 1 else [shape[-2] for shape in shapes if len(shape) > 1]
    if {len(shape) for shape in shapes} not in ({3}, {4}) or len(set(lengths)) != 1:
        raise ValueError(
            f"{op}: attn must be (H, L, L) or (B, H, L, L), or q and k of (H, L, D) or (B, H, L, D), got {shapes}"
        )
    return [x.detach() if x.dim() == 4 else x.detach()[None] for x in parts]


def _groups(op: str, sets: tuple[TokenSet, ...], like: Tensor) -> Tensor:
    """Return (B, L) int64: 0, 1, 2 for sys, vis, txt, -1 for none of them."""
    batch, length = like.shape[0], like.shape[2]
    groups = torch.full((batch, length), -1, dtype=torch.int64, device=like.device)
    for number, (name, members) in enumerate(zip(_SETS, sets, strict=True)):
        mask = _mask_of(op, name, members, batch, length, like.device)
        if bool(((groups >= 0) & mask).any()):
            raise ValueError(f"{op}: {name} must not share a token with another set")
        groups = torch.where(mask, number, groups)
    return groups


def _mask_of(op: str, name: str, members: TokenSet, batch: int, length: int, device: torch.device) -> Tensor:
    if isinstance(members, slice):
        members = range(*members.indices(length))
    at = (
        members.to(device)
        if isinstance(members, Tensor)
        else torch.tensor([*members], dtype=torch.int64, device=device)
    )
    if at.dtype == torch.bool:
        if at.shape not in ((length,), (batch, length)):
            raise ValueError(f"{op}: {name} must be ({length}) or {(batch, length)} as a mask, got {tuple(at.shape)}")
        return at.expand(batch, length)
    if at.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"{op}: {name} must be int64, int32 or bool, got {at.dtype}")
    if at.dim() != 1 or bool(((at < 0) | (at >= length)).any()):
        raise ValueError(f"{op}: {name} must be (n) positions in [0, {length}), got {at.tolist()}")
    return torch.zeros(length, dtype=torch.bool, device=device).index_fill(0, at.long(), True).expand(batch, length)


def _span(rows: Tensor) -> slice:
    """Return the shortest span of queries that holds those marked in rows (B, L)."""
    at = rows.any(0).nonzero()
    return slice(int(at[0]), int(at[-1]) + 1) if at.numel() else slice(0, 0)


def _mass_of_map(attn: Tensor, rows: Tensor, groups: Tensor) -> Tensor:
    """Add up (B, 3) of the map (B, H, L, L): over heads and the queries marked in rows, by group of the key."""
    span = _span(rows)
    wide = attn.dtype if attn.dtype == torch.float64 else torch.float32
    received = attn[:, :, span].masked_fill(~rows[:, None, span, None], 0).sum((1, 2), dtype=wide)
    return torch.stack([received.masked_fill(groups != g, 0).sum(1) for g in range(3)], 1)


def _mass_of_qk(
    q: Tensor, k: Tensor, causal: bool, rows: Tensor, groups: Tensor, scale: float | None, key_bias: Tensor | None
) -> Tensor:
    """Add up the same of the map of q and k; of the map only the span of the queries is computed."""
    span = _span(rows)
    keys = slice(0, span.stop if causal else k.shape[2])  # what lies behind the last query is seen by none
    extras = Extras(
        column_sums=True,
        over_heads=True,
        key_groups=groups[:, keys].contiguous(),
        groups=3,
        query_weight=rows[:, span].float(),
    )
    policy = Causal(span.start) if causal else Dense()
    bias = None if key_bias is None else key_bias[..., keys]
    k = k[:, :, keys]
    sums: Tensor = attention(q[:, :, span], k, k, policy, scale=scale, key_bias=bias, extras=extras)[1].column_sums
    return sums
