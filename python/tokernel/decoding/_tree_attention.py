# SPDX-License-Identifier: Apache-2.0
"""How transformers' layers reach tree attention: an attention function of their registry, and one pass's settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from tokernel import ops

__all__ = ["CausalPass", "TreePass", "attending"]

NAME = "tokernel_tree"


class CausalPass:
    """Every row sees itself and the rows before it: a prompt, from position 0 on."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
        """(B, H, N, D) over the first N rows of (B, G, S, D)."""
        k, v = k[:, :, : self.tokens], v[:, :, : self.tokens]
        if q.dtype == torch.float64:
            return _plain(q, k, v, None, scale)
        return ops.attention(q, k, v, ops.Causal(), scale=scale)


class TreePass:
    """Nodes ``first ..`` of a tree: each sees the committed rows, its ancestors and itself.

    Args:
        lengths: (B) committed rows, the longest beside it.
        parents: (m) or (B, m) int64 of the m nodes so far, padded with -1.
        mask: (n, m) or (B, n, m) bool: which of them the new ones see.
    """

    def __init__(self, lengths: Tensor, longest: int, parents: Tensor, mask: Tensor) -> None:
        self.lengths = lengths
        self.total = longest + parents.shape[-1]
        self.parents = parents
        self.nodes = mask
        self.whole = mask.shape[-2] == mask.shape[-1]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
        """(B, H, n, D) over (B, G, S, D)."""
        if q.dtype != torch.float64 and self.whole:
            return ops.tree_attention(q, k, v, self.lengths, self.parents, scale)
        k, v = k[:, :, : self.total], v[:, :, : self.total]
        if q.dtype != torch.float64:
            return ops.attention(q, k, v, ops.Mask(self.mask), scale=scale)
        return _plain(q, k, v, self.mask, scale)

    @cached_property
    def mask(self) -> Tensor:
        """(B, 1, n, S) bool: what each new node sees of the rows in use."""
        nodes, so_far = self.nodes.shape[-2:]
        at = torch.arange(self.total, device=self.lengths.device) - self.lengths[:, None]
        index = at.clamp(0, so_far - 1)[:, None].expand(-1, nodes, -1)
        seen = self.nodes.expand(len(self.lengths), nodes, so_far).gather(2, index)
        within = (at >= 0) & (at < so_far)
        return ((seen & within[:, None]) | (at < 0)[:, None])[:, None]


def _plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """Attention of float64, which our kernels do not take."""
    return functional.scaled_dot_product_attention(
        q, k, v, mask, is_causal=mask is None, scale=scale, enable_gqa=k.shape[1] != q.shape[1]
    )


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    tree_pass: CausalPass | TreePass | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    if tree_pass is None:
        raise RuntimeError("TargetModel: the model was called by somebody else while one of its passes was running")
    changed = [name for name in ("sliding_window", "softcap", "s_aux", "position_bias") if more.get(name) is not None]
    if changed:
        raise ValueError(f"TargetModel: attention must be plain, got a layer with {', '.join(changed)}")
    return tree_pass.attend(query, key, value, scaling).transpose(1, 2), None


AttentionInterface.register(NAME, _attention)


@contextmanager
def attending(configs: Sequence[Any]) -> Iterator[None]:
    """Let the layers that read these configurations attend by :class:`TreePass`; put back what they said before."""
    before = [config._attn_implementation for config in configs]
    try:
        for config in configs:
            config._attn_implementation = NAME
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation = name
