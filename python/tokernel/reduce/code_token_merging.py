# SPDX-License-Identifier: Apache-2.0
"""Token merging for code encoders (arXiv 2507.14423): the subtokens of one identifier become one hidden state.

No code was released, so there are no golden vectors: merging by mean or by learnt weights is the paper's, the lexers,
the choice of units and the form of the learnt scorer are our reconstruction, marked [ours]. Encoders only: merged
into a causal decoder, a unit would leak its later subtokens.

Segment ids g are (T,) or (B, T) integers, 0, 1, 2... from the first real token of a sample to its last, -1 on padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tokernel import ops
from tokernel.integrations import unpatch
from tokernel.papers import paper
from tokernel.reduce._code_encoder import patch_encoder
from tokernel.reduce._code_lexer import LEXICAL, identifier_spans, unit_spans
from tokernel.reduce._code_segments import count_units, segment_offsets

__all__ = [
    "LEXICAL",
    "PAPER",
    "LearnedSegmentMerger",
    "MergingFlops",
    "char_offsets",
    "identifier_spans",
    "merging_flops",
    "patch_encoder",
    "segment_mean",
    "segment_restore",
    "segment_softmax_pool",
    "segments_from_spans",
    "unit_spans",
    "unpatch",
]

PAPER = paper("code_token_merging")

Spans = Sequence[tuple[int, int]]


def segments_from_spans(
    offsets: Spans | Tensor,
    unit_spans: Spans,
    special_mask: Sequence[int] | Tensor,
    *,
    attention_mask: Sequence[int] | Tensor | None = None,
    source: str | None = None,
) -> Tensor:
    """Give every subtoken of one sample the number of the unit it belongs to.

    A subtoken belongs to the unit whose span contains its own. One that crosses a border, lies outside every unit or
    is special forms a segment of its own, so that units never join across it.

    Args:
        offsets: (T, 2) character spans of the subtokens, as a fast tokenizer returns them.
        unit_spans: ascending disjoint character spans, e.g. of :func:`identifier_spans`.
        special_mask: (T,) nonzero on special tokens, and on GraphCodeBERT's data-flow nodes.
        attention_mask: (T,) zero on padding; without it nothing is padding.
        source: the text. Needed by byte-level tokenizers that count the white space before a word as part of it
            (``trim_offsets=False``): that white space then does not count.

    Returns:
        (T,) int64 segment ids, -1 on padding.

    Raises:
        ValueError: shapes do not fit, or the spans overlap, are empty or not ascending.

    >>> segments_from_spans([(0, 0), (0, 3), (3, 7), (8, 9), (0, 0)], [(0, 7)], [1, 0, 0, 0, 1])
    tensor([0, 1, 1, 2, 3])
    """
    tokens = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
    units = np.asarray(unit_spans, dtype=np.int64).reshape(-1, 2)
    special = np.asarray(special_mask, dtype=bool)
    real = np.ones(len(tokens), dtype=bool) if attention_mask is None else np.asarray(attention_mask, dtype=bool)
    for name, mask in (("special_mask", special), ("attention_mask", real)):
        if mask.shape != (len(tokens),):
            raise ValueError(f"segments_from_spans: {name} expected shape ({len(tokens)},); got {mask.shape}")
    if (units[:, 0] >= units[:, 1]).any() or (units[1:, 0] < units[:-1, 1]).any():
        raise ValueError("segments_from_spans: unit_spans expected ascending, disjoint, non-empty spans; got others")

    unit = _containing_unit(tokens, units)
    if source is not None:
        # Tried second: white space inside a unit, such as a string literal, belongs to it.
        unit = np.where(unit < 0, _containing_unit(_trimmed(tokens, source), units), unit)
    unit[special | ~real] = -1
    joins = np.zeros(len(tokens), dtype=bool)
    joins[1:] = (unit[1:] >= 0) & (unit[1:] == unit[:-1])
    ids = np.cumsum(real & ~joins) - 1
    return torch.from_numpy(np.where(real, ids, -1))


def _containing_unit(tokens: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Find the unit around each span, -1 where there is none."""
    # An empty span (white space that the tokenizer trimmed away) must lie inside, not at the border of a unit.
    empty = tokens[:, 0] == tokens[:, 1]
    candidate = np.searchsorted(units[:, 0], tokens[:, 0] - empty, side="right") - 1
    ends = np.append(units[:, 1], -1)  # candidate -1 meets the last entry, which contains nothing
    inside = tokens[:, 1] + empty <= ends[candidate]
    unit: np.ndarray = np.where(inside, candidate, -1)
    return unit


def _trimmed(tokens: np.ndarray, source: str) -> np.ndarray:
    """Take the white space off both ends of each span; nothing else inside leaves an empty span at its end."""
    texts = [source[start:end] for start, end in tokens]
    ends = tokens[:, 1] - [len(text) - len(text.rstrip()) if text.strip() else 0 for text in texts]
    return np.stack([tokens[:, 0] + [len(text) - len(text.lstrip()) for text in texts], ends], 1)


def char_offsets(source: str, byte_offsets: Spans | Tensor) -> list[tuple[int, int]]:
    """Turn UTF-8 byte spans into character spans; a span that cuts a character covers all of it.

    >>> char_offsets("né = 1", [(0, 2), (2, 3), (4, 5)])
    [(0, 2), (1, 2), (3, 4)]
    """
    lengths = [len(char.encode("utf-8", "surrogatepass")) for char in source]
    ends = np.cumsum(lengths)
    spans = np.asarray(byte_offsets, dtype=np.int64).reshape(-1, 2)
    if len(spans) and not (spans.min() >= 0 and spans.max() <= sum(lengths) and (spans[:, 0] <= spans[:, 1]).all()):
        raise ValueError(f"char_offsets: byte_offsets expected spans within {sum(lengths)} bytes; got others")
    first = np.searchsorted(ends, spans[:, 0], side="right")
    last = np.where(spans[:, 0] == spans[:, 1], first, np.searchsorted(ends, spans[:, 1], side="left") + 1)
    return list(zip(first.tolist(), last.tolist(), strict=True))


def segment_mean(h: Tensor, g: Tensor) -> Tensor:
    """Merge by mean: ``u[b, k] = mean of h[b, t] over g[b, t] == k``.

    Args:
        h: (B, T, C) hidden states.
        g: (T,) or (B, T) segment ids.

    Returns:
        (B, U, C), U the largest number of units in the batch; rows past a sample's own number are zero.

    >>> segment_mean(torch.tensor([[[1.0], [2.0], [4.0]]]), torch.tensor([0, 1, 1]))
    tensor([[[1.],
             [3.]]])
    """
    out: Tensor = ops.segment_reduce(h, ids=g, segments=count_units(g), mode="mean")
    return out


def segment_softmax_pool(h: Tensor, scores: Tensor, g: Tensor) -> Tensor:
    """Merge by weights: ``u[b, k] = sum of softmax(scores)[b, t] h[b, t]``, both over g[b, t] == k.

    Args:
        h: (B, T, C) hidden states.
        scores: (B, T), any float dtype.
        g: (T,) or (B, T) segment ids.

    Returns:
        (B, U, C) as :func:`segment_mean`, which equal scores reduce it to. Differentiable in h and scores.

    >>> segment_softmax_pool(torch.tensor([[[1.0], [2.0], [4.0]]]), torch.zeros(1, 3), torch.tensor([0, 1, 1]))
    tensor([[[1.],
             [3.]]])
    """
    offsets = segment_offsets(g.expand(h.shape[:2]))
    # The op wants every token in a segment: padding gets one on either side, and weights that the sum passes over.
    ends = [offsets.new_full((len(h), 1), end) for end in (0, h.shape[1])]
    weight = ops.segment_softmax(scores.float(), offsets=torch.cat([ends[0], offsets, ends[1]], 1))
    out: Tensor = ops.segment_reduce(h, ids=g, segments=count_units(g), mode="sum", weight=weight)
    return out


def segment_restore(u: Tensor, g: Tensor) -> Tensor:
    """Copy every unit back to its subtokens: ``h[b, t] = u[b, g[b, t]]``; padding becomes zero.

    >>> segment_restore(torch.tensor([[[1.0], [3.0]]]), torch.tensor([0, 1, 1])).flatten()
    tensor([1., 3., 3.])
    """
    return ops.segment_broadcast(u, ids=g)


class LearnedSegmentMerger(nn.Module):
    """Merge by learnt weights: ``softmax(w2 . tanh(W1 h + b1) + b2)`` within each unit.

    [ours]: the paper's summary speaks of attention-like learnt weights only. The last map starts at zero, so that
    training begins at the mean.

    Args:
        dim: width C of the hidden states.
        hidden: width of the tanh layer; None scores with one linear map.

    >>> merger = LearnedSegmentMerger(dim=1)
    >>> merger(torch.tensor([[[1.0], [2.0], [4.0]]]), torch.tensor([0, 1, 1])).flatten().tolist()
    [1.0, 3.0]
    """

    def __init__(self, dim: int, hidden: int | None = None) -> None:
        super().__init__()
        last = nn.Linear(dim if hidden is None else hidden, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.score = last if hidden is None else nn.Sequential(nn.Linear(dim, hidden), nn.Tanh(), last)

    def forward(self, h: Tensor, g: Tensor) -> Tensor:
        """Merge (B, T, C) by ids g to (B, U, C)."""
        return segment_softmax_pool(h, self.score(h).squeeze(-1), g)


class MergingFlops(NamedTuple):
    """FLOPs of an encoder before and after merging, and the share saved."""

    dense: int
    merged: int

    @property
    def saving(self) -> float:
        """Share of the FLOPs saved; negative where the merge costs more than it saves."""
        return 1 - self.merged / self.dense


def merging_flops(T: int, U: int, layer: int, L: int, C: int) -> MergingFlops:
    """Count the FLOPs of L encoder layers of width C when those past `layer` see U units instead of T subtokens.

    With an MLP ratio of 4 and multiply-add = 2, a layer of length n costs ``24 n C^2 + 4 n^2 C``; the merge ``2 T C``.

    >>> round(merging_flops(T=512, U=256, layer=6, L=12, C=768).saving, 3)
    0.262
    """
    if not (0 <= U <= T and 0 <= layer <= L and T >= 1 and L >= 1 and C >= 1):
        raise ValueError(
            "merging_flops: expected 0 <= U <= T, 0 <= layer <= L and positive sizes; got "
            f"T={T}, U={U}, layer={layer}, L={L}, C={C}"
        )

    def cost(n: int) -> int:
        return 24 * n * C * C + 4 * n * n * C

    return MergingFlops(L * cost(T), layer * cost(T) + (L - layer) * cost(U) + 2 * T * C)
