# SPDX-License-Identifier: Apache-2.0
"""Token Transforming (arXiv 2506.05709): pruning, merging and a dense many-to-many map as one product Y = W X.

The unified product is the paper's. Its official repository holds no code and no method section could be read, so
everything else is our reconstruction, marked [ours]: how the dense W is computed, its temperature, the masses, where
it sits in a block, restoration. Nothing here reproduces a number of the paper.

Our reading: the M most important tokens become targets; every source spreads a total weight of 1 over them by the
softmax, over targets, of cosine similarity / tau; targets are the mass-weighted means of what they receive. (A softmax
over sources instead would be plain cross-attention, and lose control of the mass.) Small tau approaches merging with
the most similar target; with large tau every output approaches the mean, and repeated transforms smooth further:
report tau with every number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tokernel.integrations import unpatch
from tokernel.integrations._blocks import BlockView
from tokernel.integrations.attention import attention_received, proportional_attention
from tokernel.integrations.vit import VitPatch
from tokernel.ops import MergePlan
from tokernel.papers import paper
from tokernel.reduce._transform_matrix import check_spread, transform_matrix
from tokernel.reduce._transforms import GroupTransform, PruneTransform, TokenTransform

__all__ = [
    "PAPER",
    "TokenTransform",
    "TransformPatch",
    "classify",
    "from_assignment",
    "from_fuse",
    "from_merge",
    "from_prune",
    "patch_vit",
    "transform_matrix",
    "unpatch",
]

PAPER = paper("token_transforming")


def from_prune(keep_idx: Tensor, N: int, mass: Tensor | None = None) -> TokenTransform:
    """Write pruning as a transform: target m is a copy of token ``keep_idx[b, m]``.

    Args:
        keep_idx: (B, M) int64, distinct in each sample.
        N: number of tokens.
        mass: (B, N) float32; a target takes over that of its token.

    >>> from_prune(torch.tensor([[2, 0]]), N=3).apply(torch.tensor([[[1.0], [2.0], [3.0]]])).flatten()
    tensor([3., 1.])
    """
    ordered = keep_idx.sort(1).values if keep_idx.ndim == 2 else None
    if ordered is None or bool((ordered[:, 1:] == ordered[:, :-1]).any()):
        raise ValueError(f"from_prune: keep_idx expected (B, M) distinct tokens; got {keep_idx.tolist()}")
    if bool(((keep_idx < 0) | (keep_idx >= N)).any()):
        raise ValueError(f"from_prune: keep_idx expected tokens in [0, {N}); got {keep_idx.tolist()}")
    return PruneTransform(keep_idx.long(), N, mass)


def from_assignment(labels: Tensor, M: int, mass: Tensor | None = None) -> TokenTransform:
    """Write merging as a transform: target m is the mass-weighted mean of the tokens labelled m.

    Args:
        labels: (B, N) int64 in [-1, M); -1 drops the token. A target without tokens is zero, with mass 0.
        M: number of targets.
        mass: (B, N) float32; ones if None.

    >>> t = from_assignment(torch.tensor([[0, 1, 1]]), M=2)
    >>> t.apply(torch.tensor([[[1.0], [2.0], [4.0]]])).flatten(), classify(t)
    (tensor([1., 3.]), 'merge')
    """
    if labels.ndim != 2 or bool(((labels < -1) | (labels >= M)).any()):
        raise ValueError(f"from_assignment: labels expected (B, N) in [-1, {M}); got {tuple(labels.shape)} or others")
    return GroupTransform(labels, M, mass, mass)


def from_merge(plan: MergePlan, mass: Tensor | None = None) -> TokenTransform:
    """Write a merge plan of :mod:`tokernel.ops` as a transform: the same as its size-weighted merge.

    >>> from tokernel.ops import bipartite_match
    >>> plan = bipartite_match(torch.tensor([[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [1.0, 1.0]]]), r=1)
    >>> classify(from_merge(plan))
    'merge'
    """
    return from_assignment(plan.map, plan.kept, mass)


def from_fuse(keep_idx: Tensor, importance: Tensor, mass: Tensor | None = None) -> TokenTransform:
    """Write EViT's reduction as a transform: kept tokens, then one more, the importance-weighted mean of the rest.

    Args:
        keep_idx: (B, M) int64, distinct in each sample.
        importance: (B, N) float, at least 0; a rest without any is averaged plainly.
        mass: (B, N) float32; the last target takes over the mass of the rest.

    >>> t = from_fuse(torch.tensor([[0]]), torch.tensor([[5.0, 1.0, 3.0]]))
    >>> t.apply(torch.tensor([[[7.0], [2.0], [4.0]]])).flatten()
    tensor([7.0000, 3.5000])
    """
    batch, tokens = importance.shape
    kept = from_prune(keep_idx, tokens).P.sum(1) > 0
    M = keep_idx.shape[1]
    labels = torch.full((batch, tokens), M, device=keep_idx.device)
    labels = labels.scatter(1, keep_idx.long(), torch.arange(M, device=keep_idx.device).expand(batch, -1))
    weight = importance.float().masked_fill(kept, 0.0)
    weight = torch.where(weight.sum(1, keepdim=True) > 0, weight, 1.0).masked_fill(kept, 1.0)
    return GroupTransform(labels, M + (tokens > M), mass, weight)


def classify(W: Tensor | TokenTransform) -> Literal["prune", "merge", "many-to-many"]:
    """Say which kind of reduction W (B, M, N) or (M, N) is: the loosest kind of any sample.

    ``prune``: rows are one-hot and no token is used twice; ``merge``: no token goes to two targets.

    >>> classify(torch.eye(3)[:2]), classify(torch.full((2, 3), 1 / 3))
    ('prune', 'many-to-many')
    """
    matrix = W if isinstance(W, Tensor) else W.W
    if bool(((matrix != 0).sum(-2) > 1).any()):
        return "many-to-many"
    one_hot = ((matrix != 0).sum(-1) == 1) & (matrix.sum(-1) == 1)
    return "prune" if bool(one_hot.all()) else "merge"


class TransformPatch(VitPatch):
    """Handle of a ViT that transforms tokens; made by :func:`patch_vit`.

    Attributes:
        targets: tokens kept, by number of the block.
        transforms: what each block of the last forward pass did, None where it did nothing.
        size: (B, M, 1) float32 masses of the tokens that the last forward pass put out, None when nothing was merged.
    """

    def __init__(
        self, model: nn.Module, targets: Mapping[int, int], tau: float, prop_attn: bool, topk: int | None
    ) -> None:
        super().__init__(model)
        check_spread("patch_vit", tau, topk)
        depth = len(self.vit.views)
        bad = [block for block, M in targets.items() if not 0 <= block < depth or self.vit.protected >= M]
        if bad:
            raise ValueError(
                f"patch_vit: targets expected {{block: M}} with block in [0, {depth}) and M > {self.vit.protected}; "
                f"got {dict(targets)}"
            )
        self.targets = dict(targets)
        self.tau = tau
        self.prop_attn = prop_attn
        self.topk = topk
        self.transforms: list[TokenTransform | None] = [None] * depth

    def block(self, index: int, view: BlockView, x: Tensor, dense: Callable[[Tensor], Tensor]) -> Tensor:
        """``x + attention``, transform, ``x + MLP``; with nothing to do so far, the block as it was."""
        size = self.size_before(index, x)
        M = min(self.targets.get(index, x.shape[1]), x.shape[1])
        self.transforms[index] = transform = None
        if size is None and x.shape[1] == M:
            self.sizes[index] = None
            return dense(x)
        q, k, v = view.heads(x)
        weights = size if self.prop_attn else None
        y = proportional_attention(q, k, v, weights, scale=view.scale, dropout=view.dropout)
        x = x + view.after_attention(y)
        if x.shape[1] > M:
            mass = None if size is None else size[..., 0]
            transform = self._transform(q.detach(), k.detach(), mass, M, view.scale)
            x = transform.apply(x)
            size = transform.mass.unsqueeze(-1)
        self.sizes[index], self.transforms[index] = size, transform
        return x + view.mlp(x)

    def _transform(self, q: Tensor, k: Tensor, mass: Tensor | None, M: int, scale: float) -> TokenTransform:
        size = mass.unsqueeze(-1) if mass is not None and self.prop_attn else None
        importance = attention_received(q, k, size, scale, self.vit.class_token)
        return transform_matrix(k.mean(1), importance, M, self.tau, mass, self.vit.protected, self.topk)

    def restore(self, y: Tensor) -> Tensor:
        """Bring (B, M, C) tokens of the last forward pass back to all N, for a dense head: P^T Y, point by point."""
        for transform in reversed(self.transforms):
            if transform is not None:
                y = transform.restore(y)
        return y

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"transforms": [None] * len(self.transforms)}


def patch_vit(
    model: nn.Module,
    targets: Mapping[int, int],
    tau: float = 0.1,
    *,
    prop_attn: bool = True,
    topk: int | None = None,
) -> TransformPatch:
    """Let a live ViT transform tokens after the attention of a few blocks, in place and without training.

    A dense W costs about as much as one attention layer: a few points pay, one in every block does not.

    Args:
        model: as for :func:`tokernel.reduce.tome.patch_vit`.
        targets: ``{block: M}``, tokens that leave each compression point, class token included; a block whose input
            is no longer than M does nothing. The placement around blocks 3, 6 and 9 of 12 is unverified.
        tau: temperature of :func:`transform_matrix`.
        prop_attn: add log(mass) to the attention logits of later blocks [ours].
        topk: see :func:`transform_matrix`.

    Returns:
        The handle: ``handle.restore(tokens)`` for dense heads; ``unpatch(model)`` undoes the patch.

    Raises:
        ValueError: the model does not fit, a block out of range, or too few targets.
    """
    handle = TransformPatch(model, targets, tau, prop_attn, topk)
    handle.install()
    return handle
