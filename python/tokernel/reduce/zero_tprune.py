# SPDX-License-Identifier: Apache-2.0
"""Zero-TPrune: Zero-Shot Token Pruning through Leveraging of the Attention Graph in Pre-Trained Transformers
(Wang et al., CVPR 2024, arXiv 2305.17328).

After a few blocks of a trained ViT, tokens vote for each other along the attention map (a weighted PageRank, head by
head); heads whose scores tell nothing are left out; what nearly duplicates a more important token is dropped first
(S-stage), then the least important (I-stage). No training.

The authors released no code, so this is our reconstruction: the steps are the paper's as two independent reading notes
and its project page give them, our decisions are marked [ours], what is from memory and unverified [mem], and no
number of the paper is claimed. The authors say themselves that pruning half of a large model loses to ToMe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn

from tokernel.integrations import unpatch
from tokernel.integrations._blocks import BlockView
from tokernel.integrations.attention import proportional_attention
from tokernel.integrations.vit import VitPatch
from tokernel.ops import gather_rows, topk
from tokernel.papers import paper
from tokernel.reduce._zero_tprune_match import Split, importance_guided_match, kept_patches
from tokernel.reduce._zero_tprune_rank import V_MAX, V_MIN, aggregate_heads, weighted_pagerank
from tokernel.reduce._zero_tprune_search import Config, SearchResult, SearchSpace, random_config_search

__all__ = [
    "PAPER",
    "Config",
    "SearchResult",
    "SearchSpace",
    "ZeroTPruneLayer",
    "ZeroTPrunePatch",
    "aggregate_heads",
    "importance_guided_match",
    "patch_vit",
    "random_config_search",
    "unpatch",
    "weighted_pagerank",
]

PAPER = paper("zero_tprune")


@dataclass(frozen=True)
class ZeroTPruneLayer:
    """One pruning layer, I' -> S -> I: rank roughly, drop duplicates, rank what is left, drop the least important.

    I' is one iteration of :func:`weighted_pagerank` and only orders the tokens for S. Duplicates go first because a
    large group of similar background tokens votes for itself and would outrank the object.

    Attributes:
        iters: iterations of the full ranking, at least 0.
        rho: share of patches that the I-stage keeps, in (0, 1]: ceil(rho n) of n [ours: ceil; rho n is first rounded
            to nine decimals, so that 0.28 of 25 is 7].
        r: patches that the S-stage drops, at most half of them.
        split: see :func:`importance_guided_match`.
        protected: first tokens that stay whatever their importance: 1 for a class token.
        cls_boost: see :func:`weighted_pagerank`; None: where a token is protected.
        vmin, vmax: see :func:`aggregate_heads`.
        eps: see :func:`weighted_pagerank`.
        renormalise: let the rows of the survivors' map sum to 1 again [ours]. A row without any attention to a
            survivor becomes uniform [ours]. False ranks with the mass that is left.

    >>> x = torch.randn(1, 17, 8)
    >>> attn = torch.softmax(torch.randn(1, 2, 17, 17), -1)
    >>> shorter, keep_idx = ZeroTPruneLayer(iters=5, rho=0.75, r=4)(x, attn, keys=x)
    >>> shorter.shape[1], torch.equal(shorter, x[:, keep_idx[0]])  # 1 + ceil(0.75 * (16 - 4))
    (10, True)
    """

    iters: int
    rho: float = 1.0
    r: int = 0
    split: Split = "sequential_u"
    protected: int = 1
    cls_boost: bool | None = None
    vmin: float = V_MIN
    vmax: float = V_MAX
    eps: float | None = None
    renormalise: bool = True

    def __post_init__(self) -> None:
        for name in ("iters", "r", "protected"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"ZeroTPruneLayer: {name} expected an integer; got {type(value).__name__}")
            if value < 0:
                raise ValueError(f"ZeroTPruneLayer: {name} expected at least 0; got {value}")
        if not 0 < self.rho <= 1:
            raise ValueError(f"ZeroTPruneLayer: rho expected in (0, 1]; got {self.rho}")
        if self.split not in get_args(Split):
            raise ValueError(f"ZeroTPruneLayer: split expected one of {get_args(Split)}; got {self.split!r}")
        if not self.vmin <= self.vmax:
            raise ValueError(f"ZeroTPruneLayer: vmin expected at most vmax; got {self.vmin} and {self.vmax}")

    def kept(self, tokens: int) -> int:
        """How many of so many tokens stay: protected + ceil(rho (patches - r)).

        >>> ZeroTPruneLayer(iters=1, rho=0.9, r=10).kept(197)
        169
        """
        patches = tokens - self.protected
        if patches < 0 or self.r > patches // 2:
            raise ValueError(
                f"ZeroTPruneLayer: {tokens} tokens expected at least {self.protected + 2 * self.r}, "
                f"protected + 2 r for r = {self.r}"
            )
        return self.protected + kept_patches(patches, self.rho, self.r)

    def __call__(self, x: Tensor, attn: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Prune tokens x (B, N, C) by the map (B, H, N, N) and the keys (B, N, D) of the block before.

        Returns:
            x of the survivors (B, N', C), differentiable, and their indices (B, N') int64, ascending [ours].
        """
        keep_idx = self.choose(attn, keys)
        if x.ndim != 3 or x.shape[:2] != keys.shape[:2]:
            raise ValueError(f"ZeroTPruneLayer: x expected {(*keys.shape[:2], 'C')}; got {tuple(x.shape)}")
        return (x, keep_idx) if keep_idx.shape[1] == x.shape[1] else (gather_rows(x, keep_idx), keep_idx)

    def choose(self, attn: Tensor, keys: Tensor) -> Tensor:
        """Find the tokens that stay, (B, N') int64 ascending, from the map (B, H, N, N) and the keys (B, N, D)."""
        if keys.ndim != 3 or attn.ndim != 4 or (attn.shape[0], *attn.shape[2:]) != (*keys.shape[:2], keys.shape[1]):
            raise ValueError(
                f"ZeroTPruneLayer: attn and keys expected (B, H, N, N) and (B, N, D); "
                f"got {tuple(attn.shape)} and {tuple(keys.shape)}"
            )
        kept = self.kept(keys.shape[1])
        keep = torch.arange(keys.shape[1], device=keys.device).expand(len(keys), -1)
        if kept == keys.shape[1]:
            return keep
        attn = attn.detach()
        if self.r:
            order = self._importance(attn, 1)
            keep = importance_guided_match(keys, order, self.r, self.split, self.protected)
            attn = self._among(attn, keep)
        if kept == keep.shape[1]:
            return keep
        importance = self._importance(attn, self.iters)[:, self.protected :]
        _, best = topk(importance, kept - self.protected, sorted=False)
        first = keep[:, : self.protected]
        return torch.cat([first, keep.gather(1, best + self.protected)], 1)

    def _importance(self, attn: Tensor, iters: int) -> Tensor:
        boost = self.protected > 0 if self.cls_boost is None else self.cls_boost
        return aggregate_heads(weighted_pagerank(attn, iters, None, boost, self.eps), self.vmin, self.vmax)[0]

    def _among(self, attn: Tensor, keep: Tensor) -> Tensor:
        """The map among the survivors."""
        attn = attn.float().take_along_dim(keep[:, None, :, None], 2).take_along_dim(keep[:, None, None], 3)
        if not self.renormalise:
            return attn
        mass = attn.sum(-1, keepdim=True)
        return torch.where(mass == 0, 1 / attn.shape[-1], attn / mass)


class ZeroTPrunePatch(VitPatch):
    """Handle of a ViT that prunes tokens after some blocks; made by :func:`patch_vit`.

    Attributes:
        layers: the pruning layer by number of its block.
    """

    def __init__(self, model: nn.Module, config: Mapping[int, tuple[int, float, int]], **options: Any) -> None:
        super().__init__(model)
        depth, protected = len(self.vit.views), self.vit.protected
        fits = all(
            isinstance(block, int) and 0 <= block < depth and isinstance(entry, tuple | list) and len(entry) == 3
            for block, entry in config.items()
        )
        if not fits:
            raise ValueError(
                f"patch_vit: config expected {{block: (iters, rho, r)}} with block in [0, {depth}); got {dict(config)}"
            )
        # The boost is the class token's: a distillation token alone would be another one.
        options = {"cls_boost": self.vit.class_token} | options
        self.layers = {
            block: ZeroTPruneLayer(*config[block], protected=protected, **options) for block in sorted(config)
        }
        self.keeps: dict[int, Tensor] = {}

    @property
    def kept(self) -> Tensor | None:
        """Which input tokens the last forward pass put out, (B, N') int64 ascending; None when it dropped none."""
        out: Tensor | None = None
        for block in self.layers:
            keep = self.keeps.get(block)
            if keep is not None:
                out = keep if out is None else out.gather(1, keep)
        return out

    def block(self, index: int, view: BlockView, x: Tensor, dense: Callable[[Tensor], Tensor]) -> Tensor:
        """Run the block, then prune by its map, made for that alone; with nothing to prune, the block as it was."""
        layer = self.layers[index]
        self.keeps.pop(index, None)
        if layer.kept(x.shape[1]) == x.shape[1]:
            return dense(x)
        q, k, v = view.heads(x)
        x = x + view.after_attention(proportional_attention(q, k, v, scale=view.scale, dropout=view.dropout))
        x = x + view.mlp(x)
        attn = torch.softmax((q.detach() @ k.detach().mT).float() * view.scale, -1)
        x, self.keeps[index] = layer(x, attn, k.detach().transpose(1, 2).flatten(2))
        return x

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"keeps": {}}


def patch_vit(model: nn.Module, config: Mapping[int, tuple[int, float, int]], **options: Any) -> ZeroTPrunePatch:
    """Let a live ViT prune tokens after some blocks, in place and without training.

    Only the blocks named are replaced; all others are untouched and run at the shorter length. Works in training and
    evaluation, on any device and dtype, with ``torch.compile`` afterwards. Patching a patched model replaces the patch.
    The map of attention is made at the blocks named alone, (B, H, N, N) float32.

    The placement the notes give for DeiT-S [mem]: after blocks 1, 3, 6, 9 and 11 of 12, with iterations 30, 5, 5, 1, 1,
    rho 1, 0.9, 0.8, 0.7, 1 and r = 10. The authors found theirs by search: :func:`random_config_search`.

    Args:
        model: a timm-shaped VisionTransformer, a transformers ViT, DeiT, ViT-MAE, ViT-MSN, DINOv2, CLIP or SigLIP
            vision model, or a model with one of these inside. Class and distillation tokens stay; a head that averages
            patches averages those that are left.
        config: ``{block: (iters, rho, r)}``, blocks from 0; see :class:`ZeroTPruneLayer`. r = 0 with rho = 1 is the
            unpatched model bit for bit.
        options: further options of every :class:`ZeroTPruneLayer`, by name; `protected` follows from the model.

    Returns:
        The handle: ``handle.kept`` tells which tokens are left; ``handle.unpatch()`` or ``unpatch(model)`` undoes it.

    Raises:
        ValueError: no ViT or more than one inside, blocks that are not plain pre-norm blocks, register tokens, or a
            configuration that does not fit. On the first forward pass: r above half of the patches present, a mask.
        TypeError: a count that is not an integer, an unknown option.

    >>> from transformers import ViTConfig, ViTModel
    >>> config = ViTConfig(
    ...     hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64,
    ...     image_size=32, patch_size=8,
    ... )
    >>> model = ViTModel(config).eval()
    >>> handle = patch_vit(model, {0: (30, 1.0, 4), 1: (5, 0.5, 0)})
    >>> model(torch.zeros(1, 3, 32, 32)).last_hidden_state.shape[1]  # 17, 13, 7
    7
    >>> handle.unpatch()
    """
    handle = ZeroTPrunePatch(model, config, **options)
    handle.install(handle.layers)
    return handle
