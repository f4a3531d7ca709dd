# SPDX-License-Identifier: Apache-2.0
"""One codebook: vector quantization (VQ-VAE, arXiv 1711.00937), by distance or cosine, learnt in four ways."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokernel import ops
from tokernel.codecs._book import Book, book_options
from tokernel.codecs._checks import between, one_of, whole
from tokernel.codecs._losses import codebook_loss, commitment_loss, entropy_loss
from tokernel.codecs._quantizer import Quantizer

# Weights of (commitment, codebook) where none is given: the custom of the papers that use the mode.
WEIGHTS = {"ema": (1.0, 0.0), "grad": (0.25, 1.0), "frozen": (1.0, 0.0), "simvq": (0.25, 1.0)}


def carried(x: Tensor, q: Tensor, gradient: str) -> Tensor:
    """The value of q, bit for bit, with the gradient of x, or of the rotation of x onto q."""
    out: Tensor = ops.straight_through(ops.rotate_to(x, q) if gradient == "rotation" else x, q)
    return out


class VectorQuantizer(Quantizer):
    """Replace every row by its nearest code.

    index = argmin_k |x - e_k|^2 (or argmax of cosine, or product), the lowest of equals; quantized = e_index with a
    gradient to x that is the identity ("ste") or the rotation of x onto e (arXiv 2410.06424). The codes that are
    returned are those from before this batch moved them. A row that is not finite has index 0, makes the losses NaN,
    and never reaches the codebook.

    Args:
        dim: channels of x.
        codebook_size: K.
        codebook_dim: width of a code; by default dim / heads. Where heads * codebook_dim is not dim, linear layers lead
            there and back.
        heads: parts of a row that are quantized apart.
        separate_heads: each with a codebook of its own.
        gradient: "ste" or "rotation".
        commitment_weight: of mean (x - sg q)^2; by default 1, and 0.25 in modes "grad" and "simvq".
        codebook_loss_weight: of mean (sg x - q)^2; by default 0, and 1 in modes "grad" and "simvq".
        entropy_weight: of :func:`tokernel.codecs.codebook.entropy_loss`.
        entropy_temperature: of its softmax.
        channel_first: x is (B, dim, ...).
        **book: see :class:`tokernel.codecs.codebook.BookOptions`: metric, mode, decay, eps, threshold, kmeans_init, ...

    Returns of ``forward(x, mask=None)``:
        Quantized(quantized, index, losses): index (B, ...), or (B, ..., heads) of several heads; losses "commitment",
        "codebook" and "entropy", those with a weight, in eval mode too.

    >>> vq = VectorQuantizer(1, 2, mode="frozen")
    >>> vq.set_codes(torch.tensor([[0.0], [4.0]]))
    >>> vq(torch.tensor([[1.0], [3.0], [5.0]])).index
    tensor([0, 1, 1])
    """

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        codebook_dim: int | None = None,
        *,
        heads: int = 1,
        separate_heads: bool = False,
        gradient: str = "ste",
        commitment_weight: float | None = None,
        codebook_loss_weight: float | None = None,
        entropy_weight: float = 0.0,
        entropy_temperature: float = 0.01,
        channel_first: bool = False,
        **book: Any,
    ) -> None:
        whole(self, "heads", heads)
        if codebook_dim is None and whole(self, "dim", dim) % heads:
            raise ValueError(f"VectorQuantizer: dim must be a multiple of heads, {heads}, got {dim}")
        width = dim // heads if codebook_dim is None else whole(self, "codebook_dim", codebook_dim)
        options = book_options(self, book)
        one_of(self, "gradient", gradient, ("ste", "rotation"))
        super().__init__(dim, heads * width, channel_first)
        self.heads, self.separate = heads, separate_heads and heads > 1
        self.gradient = gradient
        custom = WEIGHTS[options.mode]
        self.commitment_weight = custom[0] if commitment_weight is None else commitment_weight
        self.codebook_loss_weight = custom[1] if codebook_loss_weight is None else codebook_loss_weight
        self.entropy_weight = entropy_weight
        self.entropy_temperature = between(self, "entropy_temperature", entropy_temperature, 1e-30)
        self.index_axes = (heads,) if heads > 1 else ()
        self.book = Book(self, (heads,) if self.separate else (), codebook_size, width, options)

    @property
    def codebook(self) -> Tensor:
        """The codes as they are searched and emitted: (K, width), or (heads, K, width) of separate heads."""
        return self.book.current()

    @property
    def codebook_size(self) -> int:
        return self.book.size

    def set_codes(self, codes: Tensor) -> None:
        """Put codes of the codebook's shape in place; those on the sphere are normalised, counts start anew."""
        self.book.set_codes(codes)

    def _codes(self) -> int:
        return self.book.size

    def _split(self, rows: Tensor) -> Tensor:
        """(N, heads * width) to (heads, N, width) of separate heads, or (N * heads, width)."""
        if not self.separate:
            return rows.reshape(rows.shape[0] * self.heads, self.code_dim // self.heads)
        return rows.reshape(rows.shape[0], self.heads, self.code_dim // self.heads).movedim(1, 0)

    def _join(self, parts: Tensor, rows: int) -> Tensor:
        """Undo `_split`, of codes (.., width) or indices."""
        parts = parts.movedim(0, 1) if self.separate else parts
        return parts.reshape(rows, *self.index_axes, *parts.shape[1 + self.separate :])

    def _every_head(self, valid: Tensor) -> Tensor:
        return valid if self.separate or self.heads == 1 else valid.repeat_interleave(self.heads)

    def _encode(self, rows: Tensor, **_: Any) -> Tensor:
        parts = self.book.on_sphere(self._split(rows))
        found = ops.nearest(parts, self.codebook, metric=self.book.options.metric)
        return self._join(found.index, rows.shape[0])

    def _decode(self, index: Tensor) -> Tensor:
        parts = index.movedim(1, 0) if self.separate else index.reshape(-1)
        return self._join(ops.lookup(self.codebook, parts), index.shape[0]).reshape(index.shape[0], self.code_dim)

    def _quantize(self, rows: Tensor, valid: Tensor | None, **_: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        z = self.book.on_sphere(self._split(rows))
        kept = None if valid is None else self._every_head(valid)
        if self.training and self.book.waits and self.book.place(z, kept):
            self.book.start()
        codes = self.codebook
        found = ops.nearest(z.detach(), codes.detach(), metric=self.book.options.metric)
        index = found.index if kept is None else torch.where(kept, found.index, -1)
        q = ops.lookup(codes, index)
        losses = self._losses(z, q, codes, kept)
        out = carried(z, q.detach(), self.gradient)
        if kept is not None:
            out = torch.where(kept[:, None], out, 0.0)
        if self.training:
            finite = torch.isfinite(found.best)
            alive = finite if kept is None else finite & kept
            together = alive.all(0) if self.separate else alive
            self.book.learn(z.detach(), torch.where(alive, index, -1), together)
        number = rows.shape[0]
        return self._join(out, number).reshape(number, self.code_dim), self._join(index, number), losses

    def _losses(self, z: Tensor, q: Tensor, codes: Tensor, valid: Tensor | None) -> dict[str, Tensor]:
        losses = {}
        if self.commitment_weight:
            losses["commitment"] = self.commitment_weight * commitment_loss(z, q, valid)
        if self.codebook_loss_weight:
            losses["codebook"] = self.codebook_loss_weight * codebook_loss(z, q, valid)
        if self.entropy_weight:
            # A copy: learning moves the buffer before backward reads it.
            codes = codes.clone() if self.book.options.mode == "ema" else codes
            metric = "l2" if self.book.options.on_sphere else self.book.options.metric
            entropy = entropy_loss(z, codes, self.entropy_temperature, metric, valid)
            losses["entropy"] = self.entropy_weight * entropy
        return losses


class SimVQ(VectorQuantizer):
    """A codebook of frozen vectors times one matrix that is learnt, so that every step moves every code.

    Arxiv 2411.02038. e = E W^T with E = randn * D^-0.5; losses mean (sg x - q)^2 + 0.25 mean (x - sg q)^2; gradients
    reach W and x, by rotation. Arguments as :class:`VectorQuantizer`, of which this is mode "simvq".

    >>> simvq = SimVQ(4, 16)
    >>> sorted(name for name, p in simvq.named_parameters())
    ['book.transform.weight']
    """

    def __init__(self, dim: int, codebook_size: int, *, gradient: str = "rotation", **options: Any) -> None:
        super().__init__(dim, codebook_size, gradient=gradient, mode="simvq", **options)
