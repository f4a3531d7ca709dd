# SPDX-License-Identifier: Apache-2.0
"""The dense transform of :mod:`tokernel.reduce.token_transforming`: from similarities to assignment."""

from __future__ import annotations

import torch
from torch import Tensor

from tokernel.reduce._transforms import SoftTransform, TokenTransform

# Below, a similarity of 1 divided by tau would leave the range of float32.
_SMALLEST_TAU = 1e-30


def transform_matrix(
    metric: Tensor,
    importance: Tensor,
    M: int,
    tau: float = 0.1,
    mass: Tensor | None = None,
    protected: int = 1,
    topk: int | None = None,
) -> TokenTransform:
    """Compute the many-to-many transform of one compression point; all of it is our reconstruction.

    ``P = softmax over targets of cos(metric[sel], metric) / tau``; ``mass_out = P mass``; ``W = P mass / mass_out``.
    The targets are the protected tokens and the most important others, in the order of the tokens; equal importance
    goes to the lowest index, NaN counts as the lowest importance. A protected token gives and receives nothing. A zero
    or not finite metric vector has cosine 0 with every other.

    Args:
        metric: (B, N, D) float, e.g. the mean over heads of the attention keys [ours].
        importance: (B, N) float, e.g. the class token's attention, averaged over heads [ours].
        M: number of targets, protected tokens included; protected < M <= N, or M = N.
        tau: temperature, at least 1e-30, may be infinite. The paper's value is unknown; 0.1 is ours.
        mass: (B, N) float32 masses of the tokens so far; ones if None.
        protected: leading tokens (class, distillation) that pass through untouched.
        topk: keep only the s largest shares of every source and renormalise; 1 is merging with the nearest target.

    Raises:
        ValueError: a shape does not fit, or M, tau, protected or topk is out of range.

    >>> x = torch.tensor([[[9.0], [1.0], [1.0], [-1.0]]])
    >>> t = transform_matrix(x, torch.tensor([[0.0, 3.0, 1.0, 2.0]]), M=3, tau=0.1)
    >>> t.sel_idx.tolist(), t.apply(x).flatten().tolist(), t.mass.tolist()
    ([[0, 1, 3]], [9.0, 1.0, -1.0], [[1.0, 2.0, 1.0]])
    """
    _check_transform(metric, importance, M, tau, mass, protected, topk)
    sel_idx = _most_important(importance, M, protected)
    unit = metric.float()
    unit = torch.nan_to_num(unit / torch.linalg.vector_norm(unit, dim=-1, keepdim=True), 0.0, 0.0, 0.0)
    chosen = torch.take_along_dim(unit, sel_idx.unsqueeze(-1), 1)
    logits = chosen @ unit.mT / tau
    # Softmax gives -inf the weight 0, which isolates the protected tokens.
    logits[:, :protected] = -torch.inf
    logits[:, :, :protected] = -torch.inf
    if topk is not None:
        others = torch.sort(logits, dim=1, descending=True, stable=True).indices[:, topk:]
        logits = logits.scatter(1, others, -torch.inf)
    first = torch.arange(protected, device=logits.device)
    logits[:, first, first] = 0.0
    return SoftTransform(logits, mass, sel_idx)


def check_spread(where: str, tau: float, topk: int | None) -> None:
    """Refuse a temperature or a number of shares that means nothing."""
    if not tau >= _SMALLEST_TAU:
        raise ValueError(f"{where}: tau expected at least {_SMALLEST_TAU}; got {tau}")
    if topk is not None and topk < 1:
        raise ValueError(f"{where}: topk expected None or at least 1; got {topk}")


def _check_transform(
    metric: Tensor, importance: Tensor, M: int, tau: float, mass: Tensor | None, protected: int, topk: int | None
) -> None:
    def fail(name: str, expected: str, got: object) -> ValueError:
        return ValueError(f"transform_matrix: {name} expected {expected}; got {got}")

    if metric.ndim != 3:
        raise fail("metric", "shape (B, N, D)", tuple(metric.shape))
    batch, tokens = metric.shape[:2]
    for name, value in (("importance", importance), ("mass", mass)):
        if value is not None and value.shape != (batch, tokens):
            raise fail(name, f"shape {(batch, tokens)}", tuple(value.shape))
    if not 0 <= protected <= tokens:
        raise fail("protected", f"a number in [0, {tokens}]", protected)
    if not (protected < M <= tokens or tokens == M):
        raise fail("M", f"a number in [{min(protected + 1, tokens)}, {tokens}]", M)
    check_spread("transform_matrix", tau, topk)


def _most_important(importance: Tensor, M: int, protected: int) -> Tensor:
    ranked = importance[:, protected:].float()
    ranked = ranked.masked_fill(ranked.isnan(), -torch.inf)
    order = torch.sort(ranked, dim=1, descending=True, stable=True).indices[:, : M - protected]
    first = torch.arange(protected, device=importance.device).expand(len(importance), -1)
    return torch.cat([first, order.sort(1).values + protected], 1)
