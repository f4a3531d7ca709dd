# SPDX-License-Identifier: Apache-2.0
"""Token Merging: Your ViT But Faster (Bolya et al., ICLR 2023, arXiv 2210.09461), and its diffusion variant.

Between attention and MLP of every ViT block, the r most redundant tokens are averaged into their most similar partner:
bipartite soft matching on the attention keys (section 3). No training. Each token carries its size, and attention adds
log(size) to the logits of a merged token's key, so that it weighs as much as its parts.

Token Merging for Fast Stable Diffusion (Bolya and Hoffman, arXiv 2303.17604) merges before attention and copies the
result back right after it: :func:`patch_diffusion`.

The matching itself is an op: ``bipartite_match``, ``kth_match``, ``random_match`` and ``match_2d`` are
:mod:`tokernel.ops`' own, repeated here under the paper's roof.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from tokernel.integrations import unpatch
from tokernel.integrations._blocks import BlockView
from tokernel.integrations.attention import proportional_attention
from tokernel.integrations.vit import VitPatch
from tokernel.ops import MergePlan, bipartite_match, kth_match, match_2d, random_match
from tokernel.papers import paper
from tokernel.reduce._tomesd import DiffusionPatch, patch_diffusion

__all__ = [
    "PAPER",
    "DiffusionPatch",
    "MergePlan",
    "Rate",
    "ToMePatch",
    "bipartite_match",
    "kth_match",
    "match_2d",
    "parse_r",
    "patch_diffusion",
    "patch_vit",
    "proportional_attention",
    "random_match",
    "unpatch",
]

PAPER = paper("tome")

Rate = int | tuple[int, float] | Sequence[int]
"""Tokens to merge per layer: one number, (mean, inflection) for a linear schedule, or a list."""


def parse_r(layers: int, r: Rate) -> list[int]:
    """Spell out how many tokens each layer merges (appendix of the paper, "merging schedules").

    Args:
        layers: number of layers L.
        r: an int, for every layer; a tuple (r, f) with f in [-1, 1]: layer i merges
            ``int(lo + (hi - lo) / (L - 1) * i)`` with ``lo = int(r * (1 - f))``, ``hi = 2 r - lo``, so f = -1 falls
            from 2r to 0 and f = 1 rises from 0 to 2r; a list: zeros are appended up to L, a longer one is kept.

    Raises:
        ValueError: a negative count, f outside [-1, 1], or a tuple that is not a pair.
        TypeError: a count that is not an integer.

    >>> parse_r(4, 8), parse_r(5, (8, -1.0)), parse_r(4, [3, 1])
    ([8, 8, 8, 8], [16, 12, 8, 4, 0], [3, 1, 0, 0])
    """
    if layers < 0:
        raise ValueError(f"parse_r: layers expected at least 0; got {layers}")
    if isinstance(r, tuple):
        return _linear_schedule(layers, r)
    counts = [r] * layers if isinstance(r, int) else list(r)
    for count in [r] if isinstance(r, int) else counts:
        _check_count(count)
    return counts + [0] * (layers - len(counts))


def _linear_schedule(layers: int, pair: tuple[int, float]) -> list[int]:
    if len(pair) != 2:
        raise ValueError(f"parse_r: r expected a pair (mean, inflection); got {len(pair)} values")
    mean, inflection = pair
    _check_count(mean)
    if not -1 <= inflection <= 1:
        raise ValueError(f"parse_r: inflection expected between -1 and 1; got {inflection}")
    if layers == 1:
        return [mean]  # The paper's line needs two layers; one layer gets the mean. Our reconstruction.
    lo = int(mean * (1 - inflection))
    hi = 2 * mean - lo
    return [int(lo + (hi - lo) / (layers - 1) * i) for i in range(layers)]


def _check_count(count: object) -> None:
    if not isinstance(count, int) or isinstance(count, bool):
        raise TypeError(f"parse_r: r expected integers; got {type(count).__name__}")
    if count < 0:
        raise ValueError(f"parse_r: r expected counts of at least 0; got {count}")


class ToMePatch(VitPatch):
    """Handle of a ViT that merges tokens; made by :func:`patch_vit`.

    Attributes:
        prop_attn: whether attention weighs a key by its size.
        trace_source: whether :attr:`source` is kept.
        schedule: tokens merged per layer, as asked for; what a short sequence cannot give is not merged.
        size: (B, N, 1) float32 sizes of the tokens the last forward pass put out, or None when it merged none.
    """

    def __init__(self, model: nn.Module, r: Rate, prop_attn: bool = True, trace_source: bool = False) -> None:
        super().__init__(model)
        self.r = r
        self.prop_attn = prop_attn
        self.trace_source = trace_source
        self.sources: list[Tensor | None] = [None] * len(self.vit.views)

    @property
    def r(self) -> Rate:
        """Tokens merged per layer, in any form of :func:`parse_r`; may be set at any time."""
        return self._r

    @r.setter
    def r(self, r: Rate) -> None:
        self.schedule = parse_r(len(self.vit.views), r)
        self._r = r

    @property
    def source(self) -> Tensor | None:
        """Which input tokens each output token holds, (B, N', N) of 0 and 1; None when not traced or nothing merged."""
        return self.sources[-1]

    def block(self, index: int, view: BlockView, x: Tensor, dense: Callable[[Tensor], Tensor]) -> Tensor:
        """``x + attention``, merge, ``x + MLP`` (figure 1); with nothing to merge so far, the block as it was."""
        size = self.size_before(index, x)
        source = self.sources[index - 1] if index and size is not None else None
        r = min(self.schedule[index], (x.shape[1] - self.vit.protected) // 2)
        if size is None and r <= 0:
            self.sizes[index], self.sources[index] = None, None
            return dense(x)
        q, k, v = view.heads(x)
        weights = size if self.prop_attn else None
        y = proportional_attention(q, k, v, weights, scale=view.scale, dropout=view.dropout)
        x = x + view.after_attention(y)
        if r > 0:
            plan = bipartite_match(k.detach().mean(1), r, self.vit.class_token, self.vit.distill_token)
            if self.trace_source:
                source = plan.source(source)
            x, size = plan.merge_weighted(x, size)
            size = size.detach()  # counts; a bias with a gradient would cost the fused attention
        self.sizes[index], self.sources[index] = size, source
        return x + view.mlp(x)

    def __getstate__(self) -> dict[str, object]:
        return super().__getstate__() | {"sources": [None] * len(self.sources)}


def patch_vit(model: nn.Module, r: Rate, prop_attn: bool = True, trace_source: bool = False) -> ToMePatch:
    """Let a live ViT merge tokens, in place.

    Works in training and evaluation, on any device and dtype, with ``torch.compile`` afterwards. Parameters, buffers
    and classes of the modules stay as they are. Patching a patched model replaces the patch.

    Args:
        model: a timm-shaped VisionTransformer, a transformers ViT, DeiT, ViT-MAE, ViT-MSN or DINOv2 model, or a model
            with one of these inside. A head that averages patches weighs them by their size.
        r: tokens to merge per layer, see :func:`parse_r`. A layer merges at most half of its patches; r = 0 gives the
            unpatched model bit for bit.
        prop_attn: add log(size) to the attention logits; the paper switches it off for MAE models without fine-tuning.
        trace_source: keep which patches each token holds (:attr:`ToMePatch.source`).

    Returns:
        The handle: set ``handle.r`` to change the rate, call ``handle.unpatch()`` or ``unpatch(model)`` to undo.

    Raises:
        ValueError: no ViT or more than one inside, blocks that are not plain pre-norm blocks, register tokens, a
            pooling that merging would change, or a bad r.

    >>> import torch
    >>> from transformers import ViTConfig, ViTModel
    >>> config = ViTConfig(
    ...     hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
    ...     image_size=32, patch_size=8,
    ... )
    >>> model = ViTModel(config).eval()
    >>> handle = patch_vit(model, r=4)
    >>> model(torch.zeros(1, 3, 32, 32)).last_hidden_state.shape[1]
    9
    >>> handle.unpatch()
    """
    handle = ToMePatch(model, r, prop_attn, trace_source)
    handle.install()
    return handle
