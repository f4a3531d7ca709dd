# SPDX-License-Identifier: Apache-2.0
"""The merge family in plain torch: what a user would write without tokernel, and the peers of ``bench/merge.py``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def wide(index: Tensor, like: Tensor) -> Tensor:
    """Repeat row indices (B, M) along the channels of `like`, as gather and scatter want them."""
    return index[..., None].expand(*index.shape, like.shape[-1])


def cosine_match(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Row maximum and argmax of the stored cosine matrix."""
    a = a / a.norm(dim=-1, keepdim=True)
    b = b / b.norm(dim=-1, keepdim=True)
    score, index = (a @ b.transpose(-1, -2)).max(dim=-1)
    return score, index


@dataclass
class Plan:
    """A ToMe plan over the even tokens (sources and unmerged) and the odd ones (destinations)."""

    unmerged: Tensor
    source: Tensor
    target: Tensor

    def merge(self, x: Tensor, flat: bool) -> Tensor:
        """Add the sources to the destinations; output is [unmerged, destinations].

        `flat`: by one index_add_ over the rows of all samples, which torch runs faster than a scatter_reduce.
        """
        even, odd = x[:, ::2], x[:, 1::2]
        if flat:
            row = torch.arange(len(x))[:, None]
            odd = odd.contiguous()
            target = (self.target + row * odd.shape[1]).flatten()
            odd.flatten(0, 1).index_add_(0, target, even[row, self.source].flatten(0, 1))
            return torch.cat([even[row, self.unmerged], odd], dim=1)
        moved = even.gather(1, wide(self.source, x))
        kept = even.gather(1, wide(self.unmerged, x))
        return torch.cat([kept, odd.scatter_reduce(1, wide(self.target, x), moved, "sum")], dim=1)

    def merge_weighted(self, x: Tensor, size: Tensor, flat: bool = False) -> tuple[Tensor, Tensor]:
        """Average by size."""
        merged = self.merge(x * size, flat)
        size = self.merge(size, flat)
        return merged / size, size

    def unmerge(self, y: Tensor) -> Tensor:
        """Copy every merged token back to the places it came from."""
        count = self.unmerged.shape[1]
        kept, odd = y[:, :count], y[:, count:]
        out = y.new_zeros(y.shape[0], count + self.source.shape[1] + odd.shape[1], y.shape[2])
        out[:, 1::2] = odd
        out.scatter_(1, wide(2 * self.unmerged, y), kept)
        out.scatter_(1, wide(2 * self.source, y), odd.gather(1, wide(self.target, y)))
        return out


def bipartite_match(metric: Tensor, r: int) -> Plan:
    """The plan of ToMe with a class token."""
    score, index = cosine_match(metric[:, ::2], metric[:, 1::2])
    score[:, 0] = -torch.inf
    order = score.argsort(dim=-1, descending=True)
    source = order[:, :r]
    return Plan(order[:, r:].sort(dim=-1).values, source, index.gather(1, source))


def segment_reduce(x: Tensor, ids: Tensor, segments: int, mode: str) -> Tensor:
    """Mean, sum or maximum of labelled segments by scatter_reduce."""
    out = x.new_zeros(x.shape[0], segments, x.shape[2])
    return out.scatter_reduce(1, wide(ids, x), x, mode, include_self=False)


def index_add(x: Tensor, ids: Tensor, segments: int, mode: str) -> Tensor:
    """Mean or sum of labelled segments by one index_add_ over the rows of all samples."""
    row = (ids + torch.arange(len(x))[:, None] * segments).flatten()
    out = x.new_zeros(len(x) * segments, x.shape[2]).index_add(0, row, x.flatten(0, 1))
    if mode == "mean":
        out = out / torch.bincount(row, minlength=len(out)).clamp(min=1)[:, None].to(x.dtype)
    return out.unflatten(0, (len(x), segments))


def by_lengths(x: Tensor, offsets: Tensor, mode: str) -> Tensor:
    """Mean or sum of contiguous segments by torch.segment_reduce, zero where a segment is empty."""
    lengths = offsets.diff(dim=1)
    out = torch.segment_reduce(x.flatten(0, 1), mode, lengths=lengths.flatten(), axis=0, initial=0)
    return out.unflatten(0, lengths.shape)


def segment_softmax(scores: Tensor, ids: Tensor, segments: int) -> Tensor:
    """Softmax inside each segment by three scatters."""
    shape = (scores.shape[0], segments)
    top = scores.new_full(shape, -torch.inf).scatter_reduce(1, ids, scores, "amax")
    weight = (scores - top.gather(1, ids)).exp()
    total = scores.new_zeros(shape).scatter_add(1, ids, weight)
    return weight / total.gather(1, ids)


def soft_aggregate(x: Tensor, logits: Tensor, over: str) -> Tensor:
    """Softmax over tokens or targets, then the weighted sum."""
    if over == "tokens":
        return logits.softmax(dim=-1) @ x
    share = logits.softmax(dim=1)
    return (share @ x) / share.sum(dim=-1, keepdim=True)


def compact_rows(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Flat positions of the kept tokens, and where each sample starts."""
    counts = mask.sum(dim=1).cumsum(0)
    return mask.flatten().nonzero().squeeze(1), torch.cat([counts.new_zeros(1), counts])
