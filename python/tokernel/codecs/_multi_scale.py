# SPDX-License-Identifier: Apache-2.0
"""Residuals from coarse to fine: one quantizer at every size of a map (TokenFlow, after VAR)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from tokernel.codecs._filter import draw


class SharedCodes(NamedTuple):
    """What a quantizer of maps returns."""

    quantized: Tensor
    """(B, C, *size)."""
    index: Tensor  # type: ignore[assignment]
    """(B, *size) int64."""
    losses: dict[str, Tensor]
    """Weighted float32 scalars to add up; empty outside training."""


class MapQuantizer(Protocol):
    """What :class:`MultiScaleResidual` needs of its quantizer."""

    def __call__(self, z: Tensor) -> SharedCodes:
        """Quantize maps (B, C, h, w)."""
        ...

    def lookup(self, index: Tensor) -> Tensor:
        """Codes (B, C, h, w) of ids (B, h, w)."""
        ...


class MultiScaleCodes(NamedTuple):
    """What :class:`MultiScaleResidual` returns."""

    quantized: Tensor
    """(B, C, R, R): the sum over all scales."""
    index: Tensor  # type: ignore[assignment]
    """(B, sum of s^2) int64, scale by scale, each in raster order."""
    losses: dict[str, Tensor]
    """The quantizer's losses, means over the scales."""


def _resized(x: Tensor, size: int, mode: str) -> Tensor:
    return x if x.shape[-1] == size else functional.interpolate(x, (size, size), mode=mode)


class MultiScaleResidual(nn.Module):
    """Quantize a map at growing sizes, every size what the ones before left over.

    For each size s: the rest is averaged to s x s, quantized, resized to R x R (bicubic), added to the answer and taken
    off the rest. The rest starts as the map itself, not normalised.

    Args:
        quantizer: maps (B, C, s, s) -> :class:`SharedCodes`; also gives codes by ``lookup``.
        scales: sizes s, ascending; R is the last.
        drop_rate: in training, how often one size other than the first is left out.
        generator: of that draw; None: torch's own.

    Raises:
        ValueError: no scale, or scales that do not ascend from at least 1.

    >>> import torch
    >>> from tokernel.codecs.tokenflow import SharedMappingQuantizer
    >>> stack = MultiScaleResidual(SharedMappingQuantizer(16, dims=(6, 2)), scales=(1, 2, 4)).eval()
    >>> out = stack(torch.randn(2, 8, 4, 4))
    >>> out.index.shape, torch.allclose(stack.decode(out.index), out.quantized, atol=1e-5)
    (torch.Size([2, 21]), True)

    TokenFlow (arXiv 2412.03069).
    """

    def __init__(
        self, quantizer: nn.Module, scales: Sequence[int], drop_rate: float = 0.1,
        generator: torch.Generator | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.scales = tuple(scales)
        if not self.scales or self.scales[0] < 1 or list(self.scales) != sorted(set(self.scales)):
            raise ValueError(f"MultiScaleResidual: scales must ascend from at least 1, got {self.scales}")
        if not 0 <= drop_rate <= 1:
            raise ValueError(f"MultiScaleResidual: drop_rate must be between 0 and 1, got {drop_rate}")
        self.quantizer, self.drop_rate, self.generator = quantizer, drop_rate, generator

    @property
    def tokens(self) -> int:
        """How many tokens a map has."""
        return sum(s * s for s in self.scales)

    def forward(self, h: Tensor) -> MultiScaleCodes:
        """Quantize maps (B, C, R, R); in training one size may be left out."""
        return self.encode(h, self._draw_dropped() if self.training else None)

    def encode(self, h: Tensor, dropped: int | None = None) -> MultiScaleCodes:
        """Quantize maps (B, C, R, R), leaving the size number `dropped` out.

        Raises:
            ValueError: maps of another size, or no such size to leave out.
        """
        last = self.scales[-1]
        if h.ndim != 4 or tuple(h.shape[2:]) != (last, last):
            raise ValueError(f"MultiScaleResidual: h must have shape (B, C, {last}, {last}), got {tuple(h.shape)}")
        if dropped is not None and not 0 <= dropped < len(self.scales):
            raise ValueError(f"MultiScaleResidual: dropped must be a scale of {len(self.scales)}, got {dropped}")
        rest, total = h, torch.zeros_like(h)
        ids, losses = [], []
        for at, size in enumerate(self.scales):
            if at == dropped:
                continue
            out = self.quantizer(_resized(rest, size, "area"))
            part = _resized(out.quantized, last, "bicubic")
            total, rest = total + part, rest - part.detach()
            ids.append(out.index.flatten(1))
            losses.append(out.losses)
        means = {name: torch.stack([each[name] for each in losses]).mean() for name in (losses[0] if losses else {})}
        index = torch.cat(ids, 1) if ids else h.new_zeros(len(h), 0, dtype=torch.int64)
        return MultiScaleCodes(total, index, means)

    def decode(self, index: Tensor) -> Tensor:
        """Rebuild the sum (B, C, R, R) float32 from the tokens of all sizes, or of the first few whole ones.

        Args:
            index: (B, n) int64; n is a sum of the first few s^2.

        Raises:
            ValueError: a number of tokens that ends inside a size, or an index out of range.
        """
        parts = [_resized(codes, self.scales[-1], "bicubic") for codes in self._codes(index)]
        return torch.stack(parts).sum(0)

    def ar_inputs(self, index: Tensor, pred_for_curr: int | None = None) -> Tensor:
        """Make the inputs that predict sizes 1, 2, ... from the tokens of the sizes before.

        The sum so far is resized from size to size (and not, as in decoding, to R first).

        Args:
            index: (B, n) int64, tokens of whole sizes.
            pred_for_curr: number of a size, at least 1, whose inputs are replaced by the sum that already holds its own
                tokens, for drawing them once more.

        Returns:
            (B, sum of s^2 over sizes 1 ..., C): up to the size after the last given one, where there is one.

        Raises:
            ValueError: a number of tokens that ends inside a size, or a size that is not among those given.
        """
        codes = self._codes(index)
        if pred_for_curr is not None and not 1 <= pred_for_curr < len(codes):
            raise ValueError(
                f"MultiScaleResidual.ar_inputs: pred_for_curr must be between 1 and {len(codes) - 1}, "
                f"got {pred_for_curr}"
            )
        total, inputs = torch.zeros_like(codes[0]), []
        for at, part in enumerate(codes):
            total = _resized(total, self.scales[at], "bicubic")
            if at:
                inputs.append(total + part if at == pred_for_curr else total)
            total = total + part
        if len(codes) < len(self.scales):
            inputs.append(_resized(total, self.scales[len(codes)], "bicubic"))
        if not inputs:
            return codes[0].new_zeros(len(index), 0, codes[0].shape[1])
        return torch.cat([each.flatten(2) for each in inputs], 2).transpose(1, 2)

    def _codes(self, index: Tensor) -> list[Tensor]:
        ends = torch.tensor([0] + [s * s for s in self.scales]).cumsum(0).tolist()
        if index.ndim != 2 or index.shape[1] not in ends[1:]:
            expected = ", ".join(map(str, ends[1:]))
            raise ValueError(
                f"MultiScaleResidual: index must be (B, n) with n one of {expected}, got {tuple(index.shape)}"
            )
        given = self.scales[: ends.index(index.shape[1])]
        pieces = index.split([s * s for s in given], 1)
        lookup = self._lookup
        return [lookup(piece.unflatten(1, (s, s))) for piece, s in zip(pieces, given, strict=True)]

    def _lookup(self, index: Tensor) -> Tensor:
        quantizer: Any = self.quantizer
        codes: Tensor = quantizer.lookup(index)
        return codes

    def _draw_dropped(self) -> int | None:
        if len(self.scales) == 1 or torch.rand((), generator=self.generator).item() >= self.drop_rate:
            return None
        return int(torch.randint(1, len(self.scales), (), generator=self.generator))


ScaleLogits = Callable[[Tensor, int], "Tensor | tuple[Tensor, Tensor]"]


@torch.no_grad()
def multi_step_sample(
    logits_fn: ScaleLogits, stack: MultiScaleResidual, batch: int,
    schedule: Sequence[tuple[int, float]] = ((1200, 0.8), (1, 0.0)), cfg: float = 7.5,
    generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """Draw the tokens of all sizes, each size after the first several times over.

    A size is drawn with the first (top_k, top_p); then, from the second size on, the model runs again with the inputs
    of this size replaced by the sum that holds the drawn tokens, and they are drawn anew with the next pair.

    Args:
        logits_fn: ``(inputs, at) -> logits (B, s^2, K)`` of size number `at`, given the inputs (B, n, C) of sizes 1 to
            at; or a pair of them, with and without the condition, for guidance.
        stack: the sizes and the codebooks.
        batch: B.
        schedule: (top_k, top_p) of every step; top_k 0 keeps all. The paper's are ``((600, 0.6),)``,
            ``((1200, 0.8), (1, 0))`` and ``((1200, 0.8), (100, 0.8), (1, 0))``.
        cfg: guidance at the last size: logits are ``(1 + t) * given - t * bare`` with t growing linearly from 0.
        generator: of the draws.

    Returns:
        (B, sum of s^2) int64.

    Raises:
        ValueError: an empty schedule.

    TokenFlow (arXiv 2412.03069).
    """
    if not schedule:
        raise ValueError("multi_step_sample: schedule must have at least one step")
    index = torch.zeros(batch, 0, dtype=torch.int64)
    inputs: Tensor | None = None
    for at in range(len(stack.scales)):
        before = index
        for step, (top_k, top_p) in enumerate(schedule if at else schedule[:1]):
            if at:
                known = sum(size * size for size in stack.scales[1 : at + 1])
                inputs = (stack.ar_inputs(index, at) if step else stack.ar_inputs(before))[:, :known]
            given = torch.zeros(batch, 0, _width(stack)) if inputs is None else inputs
            logits = _guided(logits_fn(given, at), cfg * at / max(len(stack.scales) - 1, 1))
            drawn = draw(logits.flatten(0, 1), 1.0, top_k, top_p, generator).reshape(batch, -1)
            index = torch.cat([before.to(drawn.device), drawn], 1)
    return index


def _guided(logits: Tensor | tuple[Tensor, Tensor], scale: float) -> Tensor:
    if isinstance(logits, Tensor):
        return logits
    given, bare = logits
    return (1 + scale) * given - scale * bare


def _width(stack: MultiScaleResidual) -> int:
    return stack._lookup(torch.zeros(1, 1, 1, dtype=torch.int64)).shape[1]
