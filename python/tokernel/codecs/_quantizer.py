# SPDX-License-Identifier: Apache-2.0
"""What all quantizers share: rows of channels in, codes and indices out, always in float32."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tokernel.codecs._checks import check_index, check_mask, check_rows, whole


class Quantized(NamedTuple):
    """What a quantizer returns.

    Attributes:
        quantized: shape and dtype of the input; its value is what ``decode(index)`` gives.
        index: int64, the shape of the input without its channels, and behind it one axis where a row has several.
        losses: auxiliary losses by name, weighted; a residual stack has one value a layer.
    """

    quantized: Tensor
    index: Tensor  # type: ignore[assignment]
    losses: dict[str, Tensor]

    @property
    def loss(self) -> Tensor:
        """The sum of all losses."""
        return torch.stack([self.quantized.new_zeros(()), *(value.sum() for value in self.losses.values())]).sum()


class Float32Module(nn.Module):
    """Parameters and buffers stay float32: ``.to(dtype)`` and ``.half()`` move devices, but never round a codebook."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        def keeping_float32(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if moved.dtype == tensor.dtype or not tensor.is_floating_point():
                return moved
            return tensor.to(device=moved.device)

        return super()._apply(keeping_float32, recurse)  # type: ignore[no-untyped-call]


class Quantizer(Float32Module, ABC):
    """Base of the quantizers.

    Inputs are (B, ..., dim), or (B, dim, ...) where `channel_first`, of any floating dtype. Everything is computed in
    float32, autocast or not. A row that `mask` (B, ..., True where a row counts) leaves out has index -1 and the output
    of the zero code, and takes no part in losses, gradients or learning. In eval mode nothing is ever changed.

    A quantizer is a subclass with `_encode`, `_decode` and `_quantize`, which see rows (N, code_dim).
    """

    index_axes: tuple[int, ...] = ()

    def __init__(self, dim: int, code_dim: int, channel_first: bool) -> None:
        super().__init__()
        self.dim = whole(self, "dim", dim)
        self.code_dim = code_dim
        self.channel_first = channel_first
        narrow = dim != code_dim
        self.project_in = nn.Linear(dim, code_dim, dtype=torch.float32) if narrow else nn.Identity()
        self.project_out = nn.Linear(code_dim, dim, dtype=torch.float32) if narrow else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Quantized:
        """Quantize; see the class."""
        return self._run(x, mask)

    def encode(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the indices alone: no losses, no gradient, nothing learnt."""
        return self._search(x, mask)

    def _run(self, x: Tensor, mask: Tensor | None, **options: Any) -> Quantized:
        rows, lead, valid = self._enter(x, mask)
        with _float32(x):
            out, index, losses = self._quantize(self.project_in(rows), valid, **options)
            return Quantized(self._leave(out, lead).to(x.dtype), index.reshape(lead + index.shape[1:]), losses)

    def _search(self, x: Tensor, mask: Tensor | None, **options: Any) -> Tensor:
        rows, lead, valid = self._enter(x, mask)
        with torch.no_grad(), _float32(x):
            index = dropped(self._encode(self.project_in(rows), **options), valid)
            return index.reshape(lead + index.shape[1:])

    def decode(self, index: Tensor) -> Tensor:
        """Return what `index` stands for, in float32; index -1 is the zero code. Learnt codebooks get gradients."""
        check_index(self, index, self.index_axes, self._codes())
        return self._expand(index, len(self.index_axes))

    def _expand(self, index: Tensor, axes: int) -> Tensor:
        lead = index.shape[: index.dim() - axes]
        with _float32(index):
            return self._leave(self._decode(index.reshape(-1, *index.shape[index.dim() - axes :])), lead)

    @abstractmethod
    def _codes(self) -> int:
        """How many values an index may have."""

    @abstractmethod
    def _encode(self, rows: Tensor, **options: Any) -> Tensor:
        """Indices (N, *index_axes)."""

    @abstractmethod
    def _decode(self, index: Tensor) -> Tensor:
        """Codes (N, code_dim) of indices (N, *index_axes)."""

    @abstractmethod
    def _quantize(self, rows: Tensor, valid: Tensor | None, **options: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Codes with their gradients, indices and losses; this is where a codebook learns in training."""

    def _enter(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, torch.Size, Tensor | None]:
        check_rows(self, x, self.dim, self.channel_first)
        moved = x.movedim(1, -1) if self.channel_first else x
        lead = moved.shape[:-1]
        rows = moved.reshape(-1, self.dim).float()
        if mask is None:
            return rows, lead, None
        check_mask(self, mask, lead)
        valid = mask.reshape(-1)
        # Cut off at the entrance: padding may hold anything, NaN included, and 0 * NaN is no zero in a gradient.
        return torch.where(valid[:, None], rows, 0.0), lead, valid

    def _leave(self, rows: Tensor, lead: torch.Size) -> Tensor:
        out: Tensor = self.project_out(rows).reshape(*lead, self.dim)
        return out.movedim(-1, 1) if self.channel_first else out


def dropped(index: Tensor, valid: Tensor | None) -> Tensor:
    """Give masked rows the index -1."""
    if valid is None:
        return index
    return torch.where(valid.reshape(-1, *(1,) * (index.dim() - 1)), index, -1)


def _float32(x: Tensor) -> torch.autocast:
    return torch.autocast(x.device.type, enabled=False)
