# SPDX-License-Identifier: Apache-2.0
"""ToDRE: Visual Token Pruning via Diversity and Task Awareness (arXiv 2505.18757).

Stage 1, before the language model: start from one pivot token, and add again and again the token least similar, in
total, to those already chosen, until about a tenth is left: greedy max-sum dispersion. Stage 2, inside the model, at
one deep layer: how much do text and vision attend to each other? Where both shares are below tau, all visual tokens
left are dropped for the layers above and for decoding. No training.

No official code was found. Formulas are those of version 2 of the paper; the rest is our reconstruction, marked
[ours]: the index of the probed layer, rounding, ties, which token is the pivot where there is no class token. Version
1 of the paper calls stage 1 "greedy k-center", which is max-min: ``objective="min"``, [ours] and unverified.

Max-sum dispersion likes extremes: it may keep near-duplicates in two opposite directions, which max-min
(:mod:`tokernel.reduce.divprune`) never does. That is the paper's objective, not a fault of this version.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, overload

import torch
from torch import Tensor, nn

from tokernel.integrations.llava import Positions
from tokernel.ops import farthest_points, topk
from tokernel.papers import paper
from tokernel.reduce._modal_shares import TokenSet, cross_modal_ratios, modal_shares
from tokernel.reduce._todre_llava import Text, ToDREPatch, install
from tokernel.reduce._visual_span import check_features, check_ratio, floor_of_product, keep_count

__all__ = [
    "PAPER",
    "ToDRE",
    "ToDREPatch",
    "TokenSet",
    "cls_pivot",
    "cross_modal_ratios",
    "max_sum_select",
    "modal_shares",
    "patch_llava",
]

PAPER = paper("todre")

Objective = Literal["sum", "min"]
_MODES = {"sum": "maxsum", "min": "maxmin"}


def max_sum_select(x: Tensor, k: int, pivot: int | Tensor | None = None, objective: Objective = "sum") -> Tensor:
    """Choose k tokens, starting from a pivot, greedily by the least total similarity to those chosen (section 3.2).

    ``order[0] = pivot``, ``order[t] = argmin_v sum_{c in order[:t]} s(v, c)`` over the tokens not chosen yet, with
    ``s(u, v) = x_u . x_v / (|x_u| |x_v|)``: the largest sum of ``1 - s``. The choice of k tokens is the beginning of
    that of k + 1.

    Args:
        x: (B, N, D) or (N, D) float32, float16 or bfloat16: visual tokens as they enter the language model, after the
            projector. Sums are float32.
        k: in [0, N].
        pivot: the first token, for all samples, or (B) int64 or int32, one a sample; None is token 0 (the paper: any
            token does nearly as well). See :func:`cls_pivot`.
        objective: ``sum`` is version 2 of the paper; ``min`` replaces the sum by the largest similarity to any chosen
            token, our reading of version 1's abstract.

    Returns:
        (B, k) or (k) int64, all different, in the order of choice. Ties: the lowest index. A zero row has similarity
        0 to all; a row with a NaN comes last.

    Raises:
        ValueError: a shape does not fit, k is not in [0, N], or the pivot is not in [0, N).
        TypeError: not a tensor, or a dtype that is not listed.

    >>> x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [-1.0, 0.2], [0.0, 1.0]])
    >>> max_sum_select(x, 3), max_sum_select(x, 3, objective="min")
    (tensor([0, 2, 1]), tensor([0, 2, 3]))
    """
    check_features("max_sum_select", "x", x)
    k = keep_count("max_sum_select", x.shape[-2], 1.0, k)
    if objective not in _MODES:
        raise ValueError(f"max_sum_select: objective must be 'sum' or 'min', got {objective!r}")
    start = ("maxmin" if x.shape[-2] == 0 else 0) if pivot is None else pivot  # without tokens there is no token 0
    order: Tensor = farthest_points(x, k, metric="cosine", mode=_MODES[objective], start=start)
    return order


def cls_pivot(
    cls_attn: Tensor, thumbnail_span: tuple[int, int] | None = None, frame_ids: Tensor | None = None
) -> int | Tensor:
    """Find the pivot: the visual token to which the class token of the vision encoder attends most (section 3.2).

    A single image: of all its tokens. An image with crops: of its global thumbnail only. A video: of every frame, and
    of these winners the one of highest attention, which is the most attended token of any frame.

    Args:
        cls_attn: (N) or (B, N) float: the class token's row of the encoder's last map, mean over heads, without the
            class token's own column.
        thumbnail_span: (start, stop) of the thumbnail's tokens.
        frame_ids: (N) or (B, N) integers; a token of a negative frame (a separator) is no candidate.

    Returns:
        An int for (N), a (B) int64 tensor for (B, N). Ties: the lowest index, [ours]. NaN loses to every number.

    Raises:
        ValueError: a shape does not fit, or a row has no candidate.

    >>> attention = torch.tensor([0.1, 0.2, 0.1, 0.6])
    >>> cls_pivot(attention), cls_pivot(attention, thumbnail_span=(0, 3))
    (3, 1)
    """
    if cls_attn.dim() not in (1, 2):
        raise ValueError(f"cls_pivot: cls_attn must be (N) or (B, N), got {tuple(cls_attn.shape)}")
    candidate = torch.ones_like(cls_attn, dtype=torch.bool)
    if thumbnail_span is not None:
        start, stop = thumbnail_span
        if not 0 <= start < stop <= cls_attn.shape[-1]:
            tokens = cls_attn.shape[-1]
            raise ValueError(f"cls_pivot: thumbnail_span must hold tokens of [0, {tokens}), got {(start, stop)}")
        at = torch.arange(cls_attn.shape[-1], device=cls_attn.device)
        candidate &= (at >= start) & (at < stop)
    if frame_ids is not None:
        if frame_ids.shape not in (cls_attn.shape, cls_attn.shape[-1:]):
            raise ValueError(f"cls_pivot: frame_ids must be {tuple(cls_attn.shape)}, got {tuple(frame_ids.shape)}")
        candidate &= frame_ids >= 0
    if not bool(candidate.any(-1).all()):
        raise ValueError(f"cls_pivot: cls_attn must have a candidate in every row, got {tuple(cls_attn.shape)}")
    index = topk(cls_attn.float(), 1, mask=candidate)[1]
    return int(index) if cls_attn.dim() == 1 else index[:, 0]


@dataclass(frozen=True)
class ToDRE:
    """Both stages' decisions, for whatever carries them out in a model. Tensors in, indices and masks out.

    Args:
        retention: share of the visual tokens that stage 1 keeps, in [0, 1]; k is rounded, halves to even, [ours]. The
            paper uses 0.25 and 0.1.
        tau: stage 2 drops the rest where both ratios are below it; 0 never drops, anything above 1 always.
        probe_depth: in (0, 1], at which depth stage 2 looks.
        objective: of stage 1, see :func:`max_sum_select`.

    >>> todre = ToDRE(retention=0.5, tau=0.1)
    >>> todre.select(torch.tensor([[1.0, 0.0], [0.9, 0.1], [-1.0, 0.2], [0.0, 1.0]]))
    tensor([0, 2])
    >>> todre.probe_layer(32), todre.decide(0.05, 0.0), todre.decide(0.3, 0.0)
    (27, True, False)
    """

    retention: float = 0.1
    tau: float = 0.1
    probe_depth: float = 7 / 8
    objective: Objective = "sum"

    def __post_init__(self) -> None:
        check_ratio("ToDRE", "retention", self.retention)
        if not self.tau >= 0:
            raise ValueError(f"ToDRE: tau must be at least 0, got {self.tau}")
        if not 0 < self.probe_depth <= 1:
            raise ValueError(f"ToDRE: probe_depth must be in (0, 1], got {self.probe_depth}")
        if self.objective not in _MODES:
            raise ValueError(f"ToDRE: objective must be 'sum' or 'min', got {self.objective!r}")

    def select(
        self,
        features: Tensor,
        cls_attn: Tensor | None = None,
        thumbnail_span: tuple[int, int] | None = None,
        frame_ids: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Stage 1: choose the visual tokens that enter the language model.

        The pivot is :func:`cls_pivot`'s where there is a cls_attn, else drawn from the generator if there is one, else
        token 0.

        Args:
            features: (B, N, D) or (N, D), see :func:`max_sum_select`.
            cls_attn, thumbnail_span, frame_ids: see :func:`cls_pivot`.
            generator: draws a pivot, the same in all samples, for encoders without a class token.

        Returns:
            (B, k) or (k) int64, ascending: kept tokens stay in their order.
        """
        check_features("ToDRE.select", "features", features)
        k = keep_count("ToDRE.select", features.shape[-2], self.retention, None)
        pivot: int | Tensor | None = None
        if k and cls_attn is not None:
            if cls_attn.shape != features.shape[:-1]:
                shape = tuple(features.shape[:-1])
                raise ValueError(f"ToDRE.select: cls_attn must be {shape}, got {tuple(cls_attn.shape)}")
            pivot = cls_pivot(cls_attn, thumbnail_span, frame_ids)
        elif k and generator is not None:
            pivot = int(torch.randint(features.shape[-2], (), generator=generator, device=generator.device))
        return max_sum_select(features, k, pivot, self.objective).sort(-1).values

    def probe_layer(self, layers: int) -> int:
        """Say after which layer, counted from 0, stage 2 decides: the last of the first ``probe_depth * layers``.

        The paper says depth 7/8; the index, rounded down and at least 0, is our reading: 27 of 32 layers. [ours]
        """
        if layers < 1:
            raise ValueError(f"ToDRE.probe_layer: layers must be at least 1, got {layers}")
        return max(floor_of_product(self.probe_depth, layers), 1) - 1

    @overload
    def decide(self, alpha_tv: float, alpha_vt: float) -> bool: ...

    @overload
    def decide(self, alpha_tv: Tensor, alpha_vt: Tensor) -> Tensor: ...

    def decide(self, alpha_tv: float | Tensor, alpha_vt: float | Tensor) -> bool | Tensor:
        """Stage 2: say whether all visual tokens left are dropped: ``alpha_tv < tau and alpha_vt < tau``.

        Takes numbers, or tensors of :func:`cross_modal_ratios`, one decision a sample. A ratio that is NaN keeps.
        """
        if isinstance(alpha_tv, Tensor):
            return (alpha_tv < self.tau) & (alpha_vt < self.tau)
        return alpha_tv < self.tau and bool(alpha_vt < self.tau)

    def keep_mask(self, visual: Tensor, alpha_tv: Tensor, alpha_vt: Tensor) -> Tensor:
        """Stage 2: mark what stays after the probed layer: all that is not visual, and vision where it is not dropped.

        Args:
            visual: (L) or (B, L) bool, True at visual tokens.
            alpha_tv, alpha_vt: () or (B), as :func:`cross_modal_ratios` returns them.

        Returns:
            bool of the shape of visual.
        """
        return ~(visual & self.decide(alpha_tv, alpha_vt).unsqueeze(-1))


def patch_llava(
    model: nn.Module,
    policy: ToDRE | None = None,
    *,
    probe: int | None = None,
    text: Text = "after",
    positions: Positions = "renumber",
    generator: torch.Generator | None = None,
) -> ToDREPatch:
    """Carry out both stages in a live LLaVA of transformers, in place and without training.

    Stage 1 chooses from the projected features, with the class token's attention of the vision tower's last layer for
    the pivot, computed for that one row. Stage 2 looks at the queries and keys of one decoder layer; where it decides
    so, a prompt goes on without visual tokens through the layers above, whose caches never hold them. Every prompt of a
    batch decides for itself; left padding, several images a prompt, beams and conversations work. [ours: no official
    code was found]

    Args:
        model: a LlavaForConditionalGeneration with its head; a tower without class token starts from the generator's
            token or token 0.
        policy: the settings; None is ``ToDRE()``. With retention 1 and tau 0 everything is bit for bit as without the
            patch.
        probe: the decoder layer of stage 2, counted from 0 or, where negative, from the end; None:
            ``policy.probe_layer``.
        text: "after": text from the first visual token on is T and text before it S; "all": all text is T.
        positions: of stage 1. "renumber": the tokens that are left count 0, 1, 2...; "original": as before.
        generator: draws the pivot where the tower has no class token.

    Returns:
        The handle; ``handle.ratios`` are the shares that stage 2 saw last.

    Raises:
        ValueError: another kind of model, or a setting out of range.

    >>> from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
    >>> sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    >>> vision, words = CLIPVisionConfig(**sizes, image_size=24, patch_size=4), LlamaConfig(**sizes, vocab_size=50)
    >>> config = LlavaConfig(vision_config=vision, text_config=words, image_token_index=49)
    >>> model = LlavaForConditionalGeneration(config).eval()
    >>> handle = patch_llava(model, ToDRE(retention=0.25, tau=2.0))  # above 1: always drops
    >>> ids = torch.tensor([[1, 2] + [49] * 36 + [3]])
    >>> out = model(input_ids=ids, pixel_values=torch.randn(1, 3, 24, 24))
    >>> out.logits.shape, [layer.keys.shape[2] for layer in out.cache.layers]
    (torch.Size([1, 3, 50]), [12, 12, 3])
    """
    return install(model, ToDRE() if policy is None else policy, probe, text, positions, generator)
