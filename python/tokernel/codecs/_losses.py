# SPDX-License-Identifier: Apache-2.0
"""Losses of codebooks. Means are over the elements of the rows that count, and 0 where there is none."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tokernel import ops


def mean_of_rows(values: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean of `values` (.., N, D) over all elements, or those of the rows N where `valid` (broadcast to (.., N))."""
    if valid is None:
        return values.sum() / max(1, values.numel())
    valid = valid.expand(values.shape[:-1])
    kept = torch.where(valid[..., None], values, 0.0)
    return kept.sum() / (valid.sum() * values.shape[-1]).clamp(min=1)


def commitment_loss(x: Tensor, q: Tensor, valid: Tensor | None = None) -> Tensor:
    """mean (x - sg q)^2: draws rows to their codes.

    >>> commitment_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0]]))
    tensor(2.)
    """
    return mean_of_rows((x - q.detach()).square(), valid)


def codebook_loss(x: Tensor, q: Tensor, valid: Tensor | None = None) -> Tensor:
    """mean (sg x - q)^2: draws codes to their rows.

    >>> codebook_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0]]))
    tensor(2.)
    """
    return mean_of_rows((x.detach() - q).square(), valid)


def entropy_of(p: Tensor, log_floor: float = 0.0, log_add: float = 0.0) -> Tensor:
    """-sum p log(max(p, log_floor) + log_add) over the last axis; with neither, exact, and 0 log 0 = 0.

    >>> entropy_of(torch.tensor([0.5, 0.5, 0.0]))
    tensor(0.6931)
    """
    if log_floor == 0 and log_add == 0:
        return -torch.xlogy(p, p.clamp(min=torch.finfo(p.dtype).tiny)).sum(-1)
    return -(p * (p.clamp(min=log_floor) + log_add).log()).sum(-1)


def entropy_loss(
    x: Tensor,
    codes: Tensor,
    temperature: float = 0.01,
    metric: str = "l2",
    valid: Tensor | None = None,
    log_add: float = 1e-5,
    gamma: float = 1.0,
) -> Tensor:
    """Entropy of a row's code, low for sure choices, less `gamma` times that of the average row, high where all serve.

    p_n = softmax_k(-|x_n - c_k|^2 / temperature) for "l2", of cosine or product for the other metrics; the loss is
    mean_n H(p_n) - gamma H(mean_n p_n), with log(p + log_add) in the second. MaskGIT's form, as the image tokenizers of
    the LlamaGen family use it. The N x K matrix is never stored.

    >>> far = torch.tensor([[0.0], [9.0]])
    >>> entropy_loss(far, far)
    tensor(-0.6931)
    """
    books = 1 if x.dim() == 2 else x.shape[0]
    weight = None if valid is None else valid.float()
    got = ops.codebook_entropy(x, codes, inv_temperature=1 / temperature, metric=metric, weight=weight)
    used = entropy_of(got.mean_prob, log_add=log_add).sum() / books
    if x.shape[-2] == 0:
        return x.sum() * 0.0
    return mean_of_rows(got.entropy[..., None], valid) - gamma * used


def orthogonal_loss(codes: Tensor) -> Tensor:
    """sum_ij (e^_i . e^_j)^2 / K^2 - 1/K of the normalised codes [.., K, D]; the mean over several books.

    arXiv 2112.00384, equation 2.

    >>> orthogonal_loss(torch.eye(4))
    tensor(0.)
    """
    unit = normalize(codes, dim=-1)
    size = codes.shape[-2]
    # |U U^T|^2 = |U^T U|^2: D x D instead of K x K.
    return ((unit.mT @ unit).square().sum((-2, -1)) / size**2 - 1 / size).mean()


def diversity_loss(x: Tensor, codes: Tensor, temperature: float = 100.0) -> Tensor:
    """Minus the entropy of softmax(temperature * -|x - c|), averaged over the batch alone and kept a position.

    Args:
        x: (B, N, D).
        codes: (K, D).

    The matrix of B x N x K is stored: meant for small batches.

    >>> round(float(diversity_loss(torch.tensor([[[0.0]], [[9.0]]]), torch.tensor([[0.0], [9.0]]))), 4)
    -0.6931
    """
    distance = torch.cdist(x.float(), codes.float(), compute_mode="donot_use_mm_for_euclid_dist")
    return -entropy_of((-temperature * distance).softmax(-1).mean(0), log_floor=1e-5).mean()
