# SPDX-License-Identifier: Apache-2.0
"""Residual stacks whose layers look codes up in a few dimensions (DAC), some at a coarser rate (SNAC)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from tokernel import ops


class LayerCodes(NamedTuple):
    """What one layer returns."""

    quantized: Tensor
    """(B, dim, T), the codes projected back, repeated to the rate of the input."""
    index: Tensor  # type: ignore[assignment]
    """(B, T / stride) int64."""
    latents: Tensor
    """(B, codebook_dim, T / stride), what was looked up, not normalised."""
    error: Tensor
    """(B,) float32: the squared distance between latents and code, mean over channels and frames, with gradients to
    the latents only; the codebook's error has the same value."""
    codebook_error: Tensor
    """(B,) float32: the same with gradients to the codebook only."""


class FactorizedVQ(nn.Module):
    """One layer: project to a few channels, find the code at the smallest angle, project the code back.

    The search normalises both sides (eps 1e-12); what goes on is the code as it is stored, not normalised, with a
    straight-through gradient to the projected latents. Parameters carry the names of DAC (weight norm folded), so
    ``load_state_dict`` takes a layer of transformers' ``DacModel``.

    Args:
        dim: channels of the input.
        codebook_size, codebook_dim: K codes of d channels.
        stride: frames that share a code; their mean is looked up.
    """

    def __init__(self, dim: int, codebook_size: int, codebook_dim: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.in_proj = nn.Conv1d(dim, codebook_dim, 1)
        self.out_proj = nn.Conv1d(codebook_dim, dim, 1)
        self.codebook = nn.Embedding(codebook_size, codebook_dim)

    def forward(self, x: Tensor) -> LayerCodes:
        """Quantize (B, dim, T); T must be a multiple of the stride."""
        pooled = functional.avg_pool1d(x, self.stride, self.stride) if self.stride > 1 else x
        latents = self.in_proj(pooled)
        rows = latents.transpose(1, 2).float()
        codes = self.codebook.weight.float()
        index = ops.nearest(rows.detach().flatten(0, 1), codes.detach(), "cosine").index.reshape(rows.shape[:2])
        q = ops.lookup(codes, index)
        passed = ops.straight_through(rows, q.detach()).transpose(1, 2).to(latents.dtype)
        error = (rows - q.detach()).square().mean((1, 2))
        codebook_error = (rows.detach() - q).square().mean((1, 2))
        return LayerCodes(self._back(passed), index, latents, error, codebook_error)

    def decode(self, index: Tensor) -> Tensor:
        """Project the codes of (B, T / stride) ids back: (B, dim, T)."""
        return self._back(ops.lookup(self.codebook.weight, index).transpose(1, 2))

    def _back(self, codes: Tensor) -> Tensor:
        out: Tensor = self.out_proj(codes).repeat_interleave(self.stride, -1)
        return out


class FactorizedCodes(NamedTuple):
    """What :class:`FactorizedRVQ` and :class:`MultiScaleRVQ` return."""

    quantized: Tensor
    """(B, dim, T)."""
    index: Tensor | list[Tensor]  # type: ignore[assignment]
    """(B, Q, T) int64; for several rates a list of (B, T / stride)."""
    losses: dict[str, Tensor]
    """``commitment`` and ``codebook``, float32 scalars summed over the layers, unweighted (DAC: 0.25 and 1)."""
    latents: list[Tensor]
    """What each layer looked up, (B, codebook_dim, T / stride)."""


class MultiScaleRVQ(nn.Module):
    """A residual stack of :class:`FactorizedVQ` layers, each at its own rate (SNAC).

    Layer q averages ``strides[q]`` frames, looks their mean up, and repeats what it found; the rest goes
    on to the next.

    Args:
        dim: channels D of the input.
        strides: frames to a code of every layer, the coarsest first; T must be a multiple of each.
        codebook_size, codebook_dim: of every layer; SNAC: 4096 and 8.
        dropout: in training, the share of items whose number of layers is drawn from 1 to Q. Layers left out add
            nothing to answer and losses, but the layers after them still see what they would have left over.
        generator: of that draw; None: torch's own.

    Raises:
        ValueError: no layer, a stride, size or width below 1, or a share outside [0, 1].

    >>> import torch
    >>> stack = MultiScaleRVQ(dim=10, strides=(4, 2, 1), codebook_size=16, codebook_dim=4)
    >>> out = stack(torch.randn(2, 10, 8))
    >>> [tuple(ids.shape) for ids in out.index]
    [(2, 2), (2, 4), (2, 8)]
    >>> torch.allclose(stack.decode(out.index), out.quantized, atol=1e-5)
    True

    SNAC (arXiv 2410.14411), as the survey of discrete audio tokens (arXiv 2506.10274) describes it.
    """

    def __init__(
        self, dim: int, strides: Sequence[int], codebook_size: int = 4096, codebook_dim: int = 8, dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        name = type(self).__name__
        self.strides = tuple(strides)
        if not self.strides or min(dim, codebook_size, codebook_dim, *self.strides) < 1:
            raise ValueError(
                f"{name}: there must be at least one layer, and sizes of at least 1, got strides={self.strides}, "
                f"dim={dim}, codebook_size={codebook_size}, codebook_dim={codebook_dim}"
            )
        if not 0 <= dropout <= 1:
            raise ValueError(f"{name}: dropout must be between 0 and 1, got {dropout}")
        self.dim, self.codebook_size, self.dropout, self.generator = dim, codebook_size, dropout, generator
        self.quantizers = nn.ModuleList(
            FactorizedVQ(dim, codebook_size, codebook_dim, stride) for stride in self.strides
        )

    def forward(self, x: Tensor, n_q: int | None = None) -> FactorizedCodes:
        """Quantize (B, dim, T).

        Args:
            x: float tensor; searched in float32.
            n_q: read so many layers only, 1 to Q; None: all. While a dropout is active the draw decides instead.

        Raises:
            ValueError: a shape that does not fit, or n_q out of range.
        """
        self._check(x)
        depth = self._depth(n_q)
        layers, keep = list(self.quantizers), None
        if self.training and self.dropout > 0:
            keep = self._draw_depths(len(x)).to(x.device)
        else:
            layers = layers[:depth]
        rest, total, found, losses = x, torch.zeros_like(x), [], []
        for at, layer in enumerate(layers):
            out: LayerCodes = layer(rest)
            rest = rest - out.quantized
            kept = torch.ones(len(x), device=x.device) if keep is None else (at < keep).float()
            total = total + out.quantized * kept[:, None, None].to(x.dtype)
            losses.append((kept * out.error, kept * out.codebook_error))
            found.append(out)
        sums = [torch.stack([each[side].mean() for each in losses]).sum() for side in (0, 1)]
        named = dict(zip(("commitment", "codebook"), sums, strict=True))
        return FactorizedCodes(total, self._arranged(found), named, [out.latents for out in found])

    def encode(self, x: Tensor, n_q: int | None = None) -> Tensor | list[Tensor]:
        """Find the ids of (B, dim, T), read as :meth:`forward` without a draw reads them."""
        self._check(x)
        rest, found = x, []
        for layer in list(self.quantizers)[: self._depth(n_q)]:
            out: LayerCodes = layer(rest)
            rest = rest - out.quantized
            found.append(out)
        return self._arranged(found)

    def decode(self, index: Tensor | Sequence[Tensor]) -> Tensor:
        """Rebuild (B, dim, T) from the ids of all layers, or of the first few.

        Raises:
            ValueError: no layer, more layers than there are, ids of rates that do not fit, or out of range.
        """
        parts = list(self._layers_of(index))
        if not 1 <= len(parts) <= len(self.strides):
            raise ValueError(
                f"{type(self).__name__}.decode: index must hold 1 to {len(self.strides)} layers, got {len(parts)}"
            )
        frames = {ids.shape[-1] * stride for ids, stride in zip(parts, self.strides, strict=False)}
        if len(frames) != 1:
            raise ValueError(
                f"{type(self).__name__}.decode: index must be of one length in frames, got {sorted(frames)}"
            )
        layers: list[Any] = list(self.quantizers)
        decoded = [layer.decode(ids) for layer, ids in zip(layers, parts, strict=False)]
        return torch.stack(decoded).sum(0)

    def token_rate(self, frame_rate: float) -> float:
        """Tokens a second, all layers together, at so many frames a second."""
        return sum(frame_rate / stride for stride in self.strides)

    def bitrate(self, frame_rate: float) -> float:
        """Bits a second, all layers together, at so many frames a second: the token rate times log2 of K."""
        return self.token_rate(frame_rate) * torch.tensor(self.codebook_size, dtype=torch.float64).log2().item()

    def _arranged(self, found: Sequence[LayerCodes]) -> Tensor | list[Tensor]:
        return [out.index for out in found]

    def _layers_of(self, index: Tensor | Sequence[Tensor]) -> Iterator[Tensor]:
        yield from index

    def _draw_depths(self, batch: int) -> Tensor:
        layers = len(self.strides)
        depths = torch.full((batch,), layers)
        some = int(batch * self.dropout)
        depths[:some] = torch.randint(1, layers + 1, (some,), generator=self.generator)
        return depths

    def _depth(self, n_q: int | None) -> int:
        layers = len(self.strides)
        if n_q is not None and not 1 <= n_q <= layers:
            raise ValueError(f"{type(self).__name__}: n_q must be between 1 and {layers}, got {n_q}")
        return layers if n_q is None else n_q

    def _check(self, x: Tensor) -> None:
        fits = x.ndim == 3 and x.shape[1] == self.dim and not any(x.shape[2] % stride for stride in self.strides)
        if not fits:
            name, dim, longest = type(self).__name__, self.dim, max(self.strides)
            raise ValueError(
                f"{name}: x must have shape (B, {dim}, T), T a multiple of {longest}, got {tuple(x.shape)}"
            )


class FactorizedRVQ(MultiScaleRVQ):
    """A residual stack of :class:`FactorizedVQ` layers at one rate (Descript Audio Codec).

    Args:
        dim: channels D of the input.
        n_codebooks: Q layers; DAC: 9 to 32.
        codebook_size, codebook_dim: of every layer; DAC: 1024 and 8.
        dropout, generator: see :class:`MultiScaleRVQ`.

    >>> import torch
    >>> stack = FactorizedRVQ(dim=10, n_codebooks=3, codebook_size=16, codebook_dim=4)
    >>> out = stack(torch.randn(2, 10, 5))
    >>> out.index.shape, stack.encode(torch.randn(2, 10, 5), n_q=2).shape
    (torch.Size([2, 3, 5]), torch.Size([2, 2, 5]))

    DAC (arXiv 2306.06546).
    """

    def __init__(
        self, dim: int, n_codebooks: int, codebook_size: int = 1024, codebook_dim: int = 8, dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:  # fmt: skip
        super().__init__(dim, (1,) * n_codebooks, codebook_size, codebook_dim, dropout, generator)

    def _arranged(self, found: Sequence[LayerCodes]) -> Tensor:
        return torch.stack([out.index for out in found], 1)

    def _layers_of(self, index: Tensor | Sequence[Tensor]) -> Iterator[Tensor]:
        yield from torch.as_tensor(index).unbind(1)
