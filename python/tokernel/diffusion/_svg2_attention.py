# SPDX-License-Identifier: Apache-2.0
"""Sparse VideoGen2's attention (arXiv 2505.18875): cluster, choose pairs of clusters, permute, attend, put back."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional

from tokernel.diffusion._svg2_config import NEVER_DENSE
from tokernel.integrations._patch import eager
from tokernel.kernels.cluster import KMeans
from tokernel.ops import (
    BlockMap,
    attention,
    centroid_topp_map,
    inverse_permute_rows,
    kmeans,
    map_density,
    permute_rows,
    sort_by_label,
)

__all__ = [
    "Blocks",
    "SemanticAwareAttention",
    "batched_kmeans",
    "inverse_permute",
    "permute_by_labels",
    "text_blocks",
    "varblock_sparse_attention",
]


def batched_kmeans(
    x: Tensor,
    k: int,
    max_iters: int,
    tol: float = 1e-4,
    init: Tensor | str | None = None,
    metric: str = "l2",
    generator: torch.Generator | None = None,
) -> KMeans:
    """Cluster the rows of every problem: :func:`tokernel.ops.kmeans` under the paper's name.

    Lloyd's iterations from k rows drawn with replacement (the paper says k-means++, the official code draws uniformly;
    ``init="++"`` does what the paper says). One stopping decision serves the whole batch. Stopped by `tol`, it returns
    the centroids that the labels were computed from; stopped by `max_iters`, the means of the labels.

    Args:
        x: (B, N, D) float32, float16 or bfloat16.
        k: clusters of each problem; may exceed N.
        max_iters: most iterations.
        tol: the loop stops when no centroid moved as far.
        init: None, "++", or (B, k, D) centroids to start from.
        metric: "l2", or "cosine".
        generator: of the draw.

    Returns:
        KMeans(labels (B, N) int64, centroids (B, k, D) of the dtype of x, sizes (B, k) int64, n_iter).

    >>> x = torch.tensor([[[0.0], [1.0], [9.0], [10.0]]])
    >>> batched_kmeans(x, 2, 10, init=x[:, :2]).sizes
    tensor([[2, 2]])
    """
    return kmeans(x, k, max_iters, tol, init, metric, generator)


def permute_by_labels(
    x: Tensor, labels: Tensor | None = None, clusters: int | None = None, *, index: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Make clusters contiguous: tokens by ascending label, in their former order within a cluster.

    Args:
        x: (B, H, S, D) float32, float16 or bfloat16.
        labels: (B, H, S) int64 or int32; not needed with `index`.
        clusters: number of labels; None looks for the largest.
        index: the order an earlier call returned, so that keys and values share one sort.

    Returns:
        x in that order, and the order: (B, H, S) int64 with ``out[b, h, i] = x[b, h, index[b, h, i]]`` (the official
        code has int32). Differentiable in x.

    Raises:
        ValueError: neither labels nor index is given, or the shapes differ.

    >>> out, index = permute_by_labels(torch.arange(4.0).view(1, 1, 4, 1), torch.tensor([[[1, 0, 1, 0]]]))
    >>> out.flatten().tolist(), index.flatten().tolist()
    ([1.0, 3.0, 0.0, 2.0], [1, 3, 0, 2])
    """
    given = labels if index is None else index
    if given is None:
        raise ValueError("permute_by_labels: expected labels or index; got neither")
    if x.dim() != 4 or given.shape != x.shape[:3]:
        raise ValueError(
            f"permute_by_labels: x expected shape (B, H, S, D), labels and index (B, H, S); "
            f"got {tuple(x.shape)} and {tuple(given.shape)}"
        )
    if index is None:
        if clusters is None:
            clusters = int(given.max()) + 1 if given.numel() else 0
        index = sort_by_label(given.flatten(0, 1), clusters)[0].view(given.shape)
    return permute_rows(x, index), index


def inverse_permute(x: Tensor, index: Tensor) -> Tensor:
    """Put permuted tokens back: ``out[b, h, index[b, h, i]] = x[b, h, i]``, a scatter without another sort.

    Args:
        x: (B, H, S, D) float32, float16 or bfloat16.
        index: (B, H, S), as :func:`permute_by_labels` returns it.

    >>> x = torch.arange(4.0).view(1, 1, 4, 1)
    >>> torch.equal(inverse_permute(*permute_by_labels(x, torch.tensor([[[1, 0, 1, 0]]]))), x)
    True
    """
    return inverse_permute_rows(x, index)


def varblock_sparse_attention(
    q: Tensor, k: Tensor, v: Tensor, M: Tensor, row_sizes: Tensor, col_sizes: Tensor, scale: float | None = None
) -> Tensor:
    """Attend from blocks of queries to those blocks of keys that a map allows; blocks of any size, zero included.

    Args:
        q: (B, H, S, D) of one float dtype, cut into consecutive blocks of row_sizes.
        k, v: (B, H, Sk, D), cut into blocks of col_sizes.
        M: (B, H, Cq, Ck) bool; M[b, h, i, j]: the queries of block i see the keys of block j.
        row_sizes, col_sizes: (B, H, Cq) and (B, H, Ck) int64 or int32, adding up to S and Sk.
        scale: of the logits; None is 1 / sqrt(D).

    Returns:
        (B, H, S, D) of the dtype of q; zeros where a query sees no key at all. Differentiable in q, k and v.

    >>> q = torch.ones(1, 1, 3, 4)
    >>> M = torch.tensor([[[[True, False], [False, False]]]])
    >>> out = varblock_sparse_attention(q, q, q, M, torch.tensor([[[2, 1]]]), torch.tensor([[[1, 2]]]))
    >>> out[0, 0, :, 0]
    tensor([1., 1., 0.])
    """
    out: Tensor = attention(q, k, v, BlockMap(M, row_sizes, col_sizes), scale=scale)
    return out


class Blocks(NamedTuple):
    """Which blocks of queries see which blocks of keys: M (B, H, Cq, Ck), sizes (B, H, Cq) and (B, H, Ck)."""

    M: Tensor
    row_sizes: Tensor
    col_sizes: Tensor


def text_blocks(blocks: Blocks, prompt_length: int | Tensor, context_length: int) -> Blocks:
    """Append the text of HunyuanVideo as two blocks: the prompt, and the unused part of its padded length.

    Prompt and video see each other and themselves, the padding sees and is seen by itself alone.

    Args:
        blocks: of the video tokens.
        prompt_length: real tokens of the prompt, one number or (B,) of them.
        context_length: tokens of the text, padding included.

    Raises:
        ValueError: a prompt length given as a number is outside [0, context_length].

    >>> one = torch.ones(1, 1, 1, dtype=torch.int64)
    >>> M, rows, _ = text_blocks(Blocks(one[..., None] > 0, 6 * one, 6 * one), 2, 5)
    >>> M.int()[0, 0].tolist(), rows.tolist()
    ([[1, 1, 0], [1, 1, 0], [0, 0, 1]], [[[6, 2, 3]]])
    """
    if isinstance(prompt_length, int) and not 0 <= prompt_length <= context_length:
        raise ValueError(
            f"text_blocks: prompt_length expected between 0 and context_length {context_length}; got {prompt_length}"
        )
    M = functional.pad(blocks.M, (0, 2, 0, 2))
    M[..., -2, :-1] = True
    M[..., :-1, -2] = True
    M[..., -1, -1] = True
    prompt = torch.as_tensor(prompt_length, device=M.device, dtype=torch.int64).reshape(-1, 1)
    text = torch.stack([prompt, context_length - prompt], -1)
    rows, columns = (
        torch.cat([sizes, text.to(sizes.dtype).expand(*sizes.shape[:2], 2)], -1)
        for sizes in (blocks.row_sizes, blocks.col_sizes)
    )
    return Blocks(M, rows, columns)


@dataclass(eq=False)
class SemanticAwareAttention:
    """Attention of video models among clusters of alike tokens, with centroids remembered from step to step.

    A call clusters the queries and the keys of every head, estimates from centroids and sizes which key clusters matter
    to which query cluster, brings clusters together, attends exactly within the chosen pairs, and puts tokens back.
    Queries and keys have centroids of their own, per layer; each call starts from those the last one left.

    Heads and samples are independent problems but for two things: one stopping decision serves all of a call, and the
    first centroids are drawn for all of them at once. A sample of a batch may thus run more iterations than it would
    alone (the official code takes batches of one only). Nothing else passes between samples.

    The centroids outlive a video, and the passes of classifier-free guidance share them: call :meth:`reset` before the
    next video, and give each pass a `layer` of its own, (layer, "unconditional") say, where they must not mix.

    Attributes:
        num_q, num_k: clusters of queries and keys; may exceed the tokens.
        top_p: estimated attention mass to pass; the cluster that passes it is kept.
        min_ratio: share of the key clusters, the largest in mass, that is kept in any case.
        iter_init, iter_step: most k-means iterations without and with remembered centroids.
        tol: a k-means iteration that moves no centroid as far is the last.
        metric: of k-means, "l2" or "cosine".
        dense_layers: number of first layers that attend densely.
        dense_above: time step above which all layers attend densely.
        zero_step_kmeans_init: dense calls cluster too, for the sake of later ones.
        seed: of the first centroids. No global random state is read or changed.
        timestep: of calls that do not say; None is below any threshold.
        centroids: (queries', keys') by layer, each (B * H, C, D).
        density: (B, H) share of the pairs of video tokens that the last sparse call computed, by layer.
        iterations: of k-means in the last call, for queries and keys, by layer.
    """

    num_q: int
    num_k: int
    top_p: float = 0.9
    min_ratio: float = 0.0
    iter_init: int = 50
    iter_step: int = 2
    tol: float = 1e-4
    metric: str = "l2"
    dense_layers: int = 0
    dense_above: float = NEVER_DENSE
    zero_step_kmeans_init: bool = False
    seed: int = 0
    timestep: float | None = None
    centroids: dict[Hashable, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)
    density: dict[Hashable, Tensor] = field(default_factory=dict, init=False, repr=False)
    iterations: dict[Hashable, tuple[int, int]] = field(default_factory=dict, init=False, repr=False)
    _draws: int = field(default=0, init=False, repr=False)

    def reset(self) -> None:
        """Forget every centroid, and draw as at first again."""
        self.centroids.clear()
        self.density.clear()
        self.iterations.clear()
        self._draws = 0

    def mean_density(self) -> float | None:
        """Average density of the last sparse call of every layer; None if there was none."""
        if not self.density:
            return None
        return torch.stack([share.mean() for share in self.density.values()]).mean().item()

    def is_dense(self, layer: Hashable, timestep: float | None = None) -> bool:
        """Whether a call attends densely: in the first layers, and in the first steps."""
        timestep = self.timestep if timestep is None else timestep
        number = layer[0] if isinstance(layer, tuple) else layer
        first = isinstance(number, int) and number < self.dense_layers
        return first or (timestep is not None and timestep > self.dense_above)

    @eager
    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        layer: Hashable = 0,
        *,
        timestep: float | None = None,
        prompt_length: int | Tensor = 0,
        context_length: int = 0,
    ) -> Tensor:
        """Attend.

        Args:
            q, k, v: (B, H, S, D) of one float dtype, [video | text], normalised and rotated.
            layer: whose centroids to use: a number, or a tuple that starts with it.
            timestep: of this call.
            prompt_length: real text tokens, one number or (B,).
            context_length: text tokens at the end, padding included; 0 for models without text in self-attention.

        Returns:
            (B, H, S, D) of the dtype of q. Gradients pass through the chosen pairs; the choice itself has none (the
            official code is for inference only).

        Raises:
            ValueError: the shapes of q, k and v differ, or the text is longer than the sequence.
        """
        video = self._check(q, k, v, context_length)
        dense = self.is_dense(layer, timestep)
        if video == 0 or (dense and not self.zero_step_kmeans_init):
            return _attend_dense(q, k, v, video, prompt_length, context_length)
        queries, keys = self._cluster(layer, q[:, :, :video], k[:, :, :video])
        if dense:
            return _attend_dense(q, k, v, video, prompt_length, context_length)
        return self._attend_sparse(q, k, v, queries, keys, layer, prompt_length, context_length)

    def _check(self, q: Tensor, k: Tensor, v: Tensor, context_length: int) -> int:
        if q.dim() != 4 or q.shape != k.shape or k.shape != v.shape:
            raise ValueError(
                "SemanticAwareAttention: q, k and v expected one shape (B, H, S, D); "
                f"got {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}"
            )
        if not 0 <= context_length <= q.shape[2]:
            raise ValueError(
                f"SemanticAwareAttention: context_length expected between 0 and the {q.shape[2]} tokens; "
                f"got {context_length}"
            )
        return q.shape[2] - context_length

    def _cluster(self, layer: Hashable, q: Tensor, k: Tensor) -> tuple[KMeans, KMeans]:
        known = self.centroids.get(layer, (None, None))
        queries, keys = (
            self._kmeans(x.detach().flatten(0, 1), clusters, centroids)
            for x, clusters, centroids in ((q, self.num_q, known[0]), (k, self.num_k, known[1]))
        )
        self.centroids[layer] = (queries.centroids, keys.centroids)
        self.iterations[layer] = (queries.n_iter, keys.n_iter)
        return queries, keys

    def _kmeans(self, x: Tensor, clusters: int, known: Tensor | None) -> KMeans:
        # Centroids of another batch, width, dtype or device are no start.
        expected = (x.shape[0], clusters, x.shape[2])
        if known is not None and known.shape == expected and known.dtype == x.dtype and known.device == x.device:
            return batched_kmeans(x, clusters, self.iter_step, self.tol, known, self.metric)
        generator = torch.Generator().manual_seed(self.seed + self._draws)
        self._draws += 1
        return batched_kmeans(x, clusters, self.iter_init, self.tol, None, self.metric, generator)

    def _attend_sparse(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        queries: KMeans,
        keys: KMeans,
        layer: Hashable,
        prompt_length: int | Tensor,
        context_length: int,
    ) -> Tensor:
        heads = q.shape[:2]
        qc, rows, kc, columns = (
            x.unflatten(0, heads) for x in (queries.centroids, queries.sizes, keys.centroids, keys.sizes)
        )
        M = cast(Tensor, centroid_topp_map(qc, kc, columns, self.top_p, self.min_ratio))
        self.density[layer] = map_density(M, rows, columns)
        blocks = Blocks(M, rows, columns)
        if context_length:
            blocks = text_blocks(blocks, prompt_length, context_length)
        order_q, order_k = (
            _order(clusters.labels, count, context_length).unflatten(0, heads)
            for clusters, count in ((queries, self.num_q), (keys, self.num_k))
        )
        q, k, v = permute_rows(q, order_q), permute_rows(k, order_k), permute_rows(v, order_k)
        return inverse_permute(varblock_sparse_attention(q, k, v, *blocks), order_q)


def _order(labels: Tensor, clusters: int, context_length: int) -> Tensor:
    """Video tokens by label, text tokens where they are: (B * H, S)."""
    index, _ = sort_by_label(labels, clusters)
    if not context_length:
        return index
    video = labels.shape[1]
    text = torch.arange(video, video + context_length, device=labels.device)
    return torch.cat([index, text.expand(len(index), -1)], 1)


def _attend_dense(
    q: Tensor, k: Tensor, v: Tensor, video: int, prompt_length: int | Tensor, context_length: int
) -> Tensor:
    if not context_length:
        out: Tensor = attention(q, k, v)
        return out
    size = torch.full((q.shape[0], 1, 1), video, device=q.device, dtype=torch.int64)
    blocks = Blocks(torch.ones_like(size, dtype=torch.bool)[..., None], size, size)
    return varblock_sparse_attention(q, k, v, *text_blocks(blocks, prompt_length, context_length))
