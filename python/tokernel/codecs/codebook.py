# SPDX-License-Identifier: Apache-2.0
"""What happens to a codebook while it is learnt, as functions: k-means, moving averages, dead codes, losses.

Source: papers/quantizers.md; the moving averages are those of VQ-VAE (arXiv 1711.00937), appendix A.1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import normalize

from tokernel import ops
from tokernel.codecs._draw import draw_rows
from tokernel.codecs._losses import (
    codebook_loss,
    commitment_loss,
    diversity_loss,
    entropy_loss,
    entropy_of,
    orthogonal_loss,
)

__all__ = [
    "Averages",
    "codebook_loss",
    "commitment_loss",
    "diversity_loss",
    "draw_rows",
    "ema_step",
    "entropy_loss",
    "entropy_of",
    "finite_rows",
    "kmeans_init",
    "laplace",
    "orthogonal_loss",
    "revive",
]


class Averages(NamedTuple):
    """A codebook that is averaged: codes [.., K, D], and what they are made of.

    Attributes:
        codes: what rows are compared with.
        counts: moving average of how many rows a code got, [.., K].
        sums: moving average of the sum of those rows, [.., K, D].
    """

    codes: Tensor
    counts: Tensor
    sums: Tensor


def laplace(counts: Tensor, eps: float = 1e-5) -> Tensor:
    """Share of every code, smoothed: (N_k + eps) / (sum N + K eps); 0 where all is 0.

    >>> laplace(torch.tensor([3.0, 1.0, 0.0]), eps=1.0)
    tensor([0.5714, 0.2857, 0.1429])
    """
    total = counts.sum(-1, keepdim=True) + counts.shape[-1] * eps
    return torch.where(total > 0, (counts + eps) / total, 0.0)


def ema_step(
    book: Averages,
    counts: Tensor,
    sums: Tensor,
    decay: float = 0.8,
    eps: float = 1e-5,
    metric: str = "l2",
) -> Averages:
    """Move the averages towards a batch, and the codes to the means they say.

    N <- decay N + (1 - decay) n, M likewise; e = M / N~ with N~ = laplace(N) * sum N. A code whose N~ is 0 stays
    where it was. With metric "cosine" the codes are normalised.

    Args:
        book: before the step.
        counts: rows of the batch that each code got, [.., K], as :func:`tokernel.ops.ema_update` counts them.
        sums: their sums, [.., K, D].

    >>> book = Averages(torch.zeros(2, 1), torch.ones(2), torch.zeros(2, 1))
    >>> ema_step(book, torch.tensor([2, 0]), torch.tensor([[6.0], [0.0]]), decay=0.0, eps=0.0)
    Averages(codes=tensor([[3.],
            [0.]]), counts=tensor([2., 0.]), sums=tensor([[6.],
            [0.]]))
    """
    moved_counts = decay * book.counts + (1 - decay) * counts
    moved_sums = decay * book.sums + (1 - decay) * sums
    smoothed = (laplace(moved_counts, eps) * moved_counts.sum(-1, keepdim=True))[..., None]
    codes = torch.where(smoothed > 0, moved_sums / torch.where(smoothed > 0, smoothed, 1.0), book.codes)
    if metric == "cosine":
        codes = normalize(codes, dim=-1)
    return Averages(codes, moved_counts, moved_sums)


def revive(book: Averages, threshold: float, rows: Tensor, available: Tensor, reset: float | None = None) -> Averages:
    """Put dead codes, those with N_k < threshold, onto rows of the batch: e = r, N = reset, M = reset r.

    Args:
        book: after the step; one codebook [K, D] or several [Q, K, D].
        threshold: of the average count.
        rows: [.., K, D] rows to use, the first for the first dead code of a book, and so on.
        available: how many rows there were to draw from, a tensor; where 0, nothing changes.
        reset: the count of a revived code; by default the threshold.

    >>> book = Averages(torch.zeros(3, 1), torch.tensor([0.5, 4.0, 0.1]), torch.zeros(3, 1))
    >>> revive(book, 2.0, torch.tensor([[7.0], [8.0], [9.0]]), torch.tensor(3)).codes.flatten()
    tensor([7., 0., 8.])
    """
    fill = threshold if reset is None else reset
    dead = (book.counts < threshold) & (available > 0)
    turn = (dead.cumsum(-1) - 1).clamp(min=0)
    drawn = rows.gather(-2, turn[..., None].expand_as(book.codes))
    return Averages(
        torch.where(dead[..., None], drawn, book.codes),
        torch.where(dead, fill, book.counts),
        torch.where(dead[..., None], drawn * fill, book.sums),
    )


def finite_rows(rows: Tensor, valid: Tensor | None) -> Tensor | None:
    """Which rows (N,) of ([Q,] N, D) are finite and valid; None: all. Under ``torch.compile`` all count as finite."""
    if torch.compiler.is_compiling():
        return valid
    finite = torch.isfinite(rows).all(-1)
    finite = finite if rows.dim() == 2 else finite.all(0)
    valid = finite if valid is None else finite & valid
    return None if bool(valid.all()) else valid


def kmeans_init(
    rows: Tensor,
    codebook_size: int,
    iters: int = 10,
    metric: str = "l2",
    init: Tensor | None = None,
    valid: Tensor | None = None,
    seed: int = 0,
    processes: bool = False,
) -> Averages:
    """Codes by k-means: `iters` rounds of :func:`tokernel.ops.kmeans`, never fewer; an empty cluster keeps its centre.

    Args:
        rows: (N, D), or (Q, N, D) for a codebook a book. Rows that are not finite are left out.
        codebook_size: K; may exceed N.
        init: first centres; by default rows drawn with `seed`, without replacement as far as there are enough.
        valid: (N,) bool: the rows to use.
        processes: the rows are spread over the processes of the default group; all get the same codes.

    Returns:
        Averages with the counts of the last assignment and sums = codes * counts.

    >>> kmeans_init(torch.tensor([[0.0], [1.0], [9.0], [11.0]]), 2, init=torch.tensor([[1.0], [9.0]])).codes
    tensor([[ 0.5000],
            [10.0000]])
    """
    rows = rows.detach()
    valid = finite_rows(rows, valid)
    if init is None:
        step = torch.zeros((), dtype=torch.int64, device=rows.device)
        init, _ = draw_rows(rows, valid, codebook_size, seed, step, processes)
    kept = rows if valid is None else rows[..., valid, :]
    books, first = (kept[None], init[None]) if rows.dim() == 2 else (kept, init)
    group = dist.group.WORLD if processes else None
    found = ops.kmeans(books, codebook_size, iters, tol=0.0, init=first, metric=metric, group=group)
    codes = found.centroids.reshape(init.shape)
    counts = found.sizes.reshape(init.shape[:-1]).float()
    return Averages(codes, counts, codes * counts[..., None])
