# SPDX-License-Identifier: Apache-2.0
"""Zero-TPrune's S-stage (arXiv 2305.17328): drop what nearly duplicates a more important token."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from tokernel.ops import cosine_match, gather_rows, topk

__all__ = ["Split", "importance_guided_match", "kept_patches"]

Split = Literal["sequential_u", "alternate", "random"]


def kept_patches(patches: int, rho: float, r: int) -> int:
    """How many patches both stages leave: ceil(rho (patches - r)), the product rounded to nine decimals."""
    return math.ceil(round(rho * (patches - r), 9))


def importance_guided_match(
    keys: Tensor,
    importance: Tensor,
    r: int,
    split: Split = "sequential_u",
    protected: int = 1,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Choose the tokens that stay when the r that are most similar to a token of the other half are dropped.

    n patches are split into a half that may lose tokens, floor(n/2) of them [ours], and one that may not. Each token
    of the first finds its best cosine in the second, and the r highest go. Nothing is merged: a backbone that does
    not weigh tokens by size keeps working.

    Args:
        keys: (B, N, C) float32, float16 or bfloat16, the attention's keys with heads concatenated [ours].
        importance: (B, N) float. Of equals the lower index counts as more important, NaN counts as least.
        r: in [0, floor(n/2)].
        split: "sequential_u", the less against the more important half; "alternate", every second token in order of
            importance may be dropped, beginning with the second; "random", whatever the importance.
        protected: the first tokens are in neither half and stay: 1 for a class token [ours].
        generator: of the random split; None for torch's own.

    Returns:
        (B, N - r) int64, ascending. Of equally similar tokens the higher index goes. A zero key has cosine 0 with
        all; a key with a NaN or an infinity is similar to none, and dropped last.

    Raises:
        ValueError: shapes that do not fit, an unknown split, protected outside [0, N], or r outside its range.

    >>> keys = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [2.0, 0.1], [1.0, 1.0]]])
    >>> importance_guided_match(keys, torch.tensor([[9.0, 4.0, 3.0, 2.0, 1.0]]), r=1)  # 3 is nearly 1
    tensor([[0, 1, 2, 4]])
    """
    if keys.ndim != 3 or importance.shape != keys.shape[:2]:
        raise ValueError(
            f"importance_guided_match: keys and importance expected (B, N, C) and (B, N); "
            f"got {tuple(keys.shape)} and {tuple(importance.shape)}"
        )
    if split not in get_args(Split):
        raise ValueError(f"importance_guided_match: split expected one of {get_args(Split)}; got {split!r}")
    tokens = keys.shape[1]
    if not 0 <= protected <= tokens:
        raise ValueError(f"importance_guided_match: protected expected in [0, {tokens}]; got {protected}")
    half = (tokens - protected) // 2
    if not 0 <= r <= half:
        raise ValueError(f"importance_guided_match: r expected in [0, {half}], half of the patches; got {r}")
    less, more = (_ascending(part) + protected for part in _halves(importance[:, protected:], split, half, generator))
    keys = keys.detach()
    score, _ = cosine_match(gather_rows(keys, less), gather_rows(keys, more))
    _, stay = topk(-score, half - r, sorted=False)
    first = torch.arange(protected, device=keys.device).expand(len(keys), -1)
    return torch.cat([first, _ascending(torch.cat([less.gather(1, stay), more], 1))], 1)


def _ascending(index: Tensor) -> Tensor:
    return index.sort(1).values


def _halves(importance: Tensor, split: Split, half: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """The patches that may be dropped, and those that may not."""
    if split == "random":
        device = generator.device if generator is not None else importance.device
        importance = torch.rand(importance.shape, generator=generator, device=device).to(importance.device)
    patches = importance.shape[1]
    _, order = topk(importance.detach().float(), patches)
    if split == "alternate":
        return order[:, 1::2], order[:, ::2]
    return order[:, patches - half :], order[:, : patches - half]
