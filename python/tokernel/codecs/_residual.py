# SPDX-License-Identifier: Apache-2.0
"""Residual vector quantization (SoundStream, arXiv 2107.03312): every layer quantizes what the layers before left."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from tokernel import ops
from tokernel.codecs._book import Book, book_options
from tokernel.codecs._checks import between, check_index, check_rows, one_of, whole
from tokernel.codecs._draw import draw_below
from tokernel.codecs._losses import codebook_loss, commitment_loss
from tokernel.codecs._quantizer import Quantized, Quantizer, dropped
from tokernel.codecs._vector import WEIGHTS, carried


class ResidualVQ(Quantizer):
    """A stack of codebooks: r_0 = x, index_l = nearest(r_l), r_{l+1} = r_l - sg(e_l), quantized = sum of the e_l.

    All indices come from one call of :func:`tokernel.ops.rvq_encode`, which keeps the residual in registers. A layer
    that is left out has index -1 and adds nothing.

    Args:
        dim: channels of x.
        codebook_size: K, of every layer.
        num_quantizers: Q.
        codebook_dim: width of a code; where it is not dim, linear layers lead there and back.
        shared_codebook: one codebook for all layers, learnt once a batch from all of them.
        quantizer_dropout: in training, keep layers 0 to j, j uniform in [dropout_cutoff, Q - 1], their number
            rounded up to a multiple of `dropout_multiple_of`. Draws follow the seed and the number of steps.
        gradient: "ste" and "rotation" act in every layer, as the layers' outputs are summed: with "ste" the gradient
            reaches x once a layer. "once": one identity from the sum to x.
        commitment_weight, codebook_loss_weight, channel_first: as in :class:`VectorQuantizer`.
        **book: see :class:`tokernel.codecs.codebook.BookOptions`. With `encodec_compat` the residual of a layer passes
            gradients as EnCodec's training does: the commitment losses of all layers but the first give none.

    Returns of ``forward(x, mask=None, n_q=None)``:
        Quantized(quantized, index (B, ..., Q), losses of shape (Q,)). `n_q`: use only the first layers, a whole number,
        or one a row of shape (B, ...).

    >>> rvq = ResidualVQ(4, 16, num_quantizers=3).eval()
    >>> out = rvq(torch.randn(2, 5, 4))
    >>> out.index.shape, bool((rvq.decode(out.index) == out.quantized).all())
    (torch.Size([2, 5, 3]), True)
    >>> ResidualVQ(4, 1024, num_quantizers=32).layers_for(kbps=6, frame_rate=75)
    8
    """

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        num_quantizers: int,
        codebook_dim: int | None = None,
        *,
        shared_codebook: bool = False,
        quantizer_dropout: bool = False,
        dropout_cutoff: int = 0,
        dropout_multiple_of: int = 1,
        gradient: str = "ste",
        commitment_weight: float | None = None,
        codebook_loss_weight: float | None = None,
        channel_first: bool = False,
        **book: Any,
    ) -> None:
        width = dim if codebook_dim is None else whole(self, "codebook_dim", codebook_dim)
        options = book_options(self, book)
        one_of(self, "metric", options.metric, ("l2", "cosine"))
        one_of(self, "mode", options.mode, ("ema", "grad", "frozen"))
        one_of(self, "gradient", gradient, ("ste", "rotation", "once"))
        super().__init__(dim, width, channel_first)
        self.num_quantizers = whole(self, "num_quantizers", num_quantizers)
        self.shared = shared_codebook
        self.quantizer_dropout = quantizer_dropout
        self.dropout_cutoff = whole(self, "dropout_cutoff", dropout_cutoff, 0)
        self.dropout_multiple_of = whole(self, "dropout_multiple_of", dropout_multiple_of)
        if dropout_cutoff >= num_quantizers:
            raise ValueError(
                f"ResidualVQ: dropout_cutoff must be below num_quantizers, {num_quantizers}, got {dropout_cutoff}"
            )
        self.gradient = gradient
        custom = WEIGHTS[options.mode]
        self.commitment_weight = custom[0] if commitment_weight is None else commitment_weight
        self.codebook_loss_weight = custom[1] if codebook_loss_weight is None else codebook_loss_weight
        self.index_axes = (num_quantizers,)
        self.book = Book(self, () if shared_codebook else (num_quantizers,), codebook_size, width, options)

    @property
    def codebooks(self) -> Tensor:
        """The codes of all layers, (Q, K, width)."""
        codes = self.book.current()
        return codes.expand(self.num_quantizers, -1, -1) if self.shared else codes

    @property
    def codebook_size(self) -> int:
        return self.book.size

    def set_codes(self, codes: Tensor) -> None:
        """Put codes (Q, K, width), or (K, width) of a shared codebook, in place; counts start anew."""
        self.book.set_codes(codes)

    def layers_for(self, kbps: float | None, frame_rate: float) -> int:
        """How many layers fit a bit rate: max(1, floor(1000 kbps / (log2 K * frame_rate))); None or 0: all."""
        return layers_for(self.num_quantizers, self.codebook_size, kbps, frame_rate)

    def forward(self, x: Tensor, mask: Tensor | None = None, n_q: int | Tensor | None = None) -> Quantized:
        """Quantize; see the class."""
        return self._run(x, mask, n_q=self._layers(n_q, x))

    def encode(self, x: Tensor, mask: Tensor | None = None, n_q: int | Tensor | None = None) -> Tensor:
        """Return the indices (B, ..., Q) alone: no losses, no gradient, nothing learnt."""
        return self._search(x, mask, n_q=self._layers(n_q, x))

    def decode(self, index: Tensor) -> Tensor:
        """Sum the codes of `index` (B, ..., q), the first q layers, in float32; index -1 adds nothing."""
        given = index.shape[-1] if isinstance(index, Tensor) and index.dim() else 0
        axes = (given if 1 <= given <= self.num_quantizers else self.num_quantizers,)
        check_index(self, index, axes, self.codebook_size)
        return self._expand(index, 1)

    def _codes(self) -> int:
        return self.book.size

    def _layers(self, n_q: int | Tensor | None, x: Tensor) -> int | Tensor | None:
        if not isinstance(n_q, Tensor):
            if n_q is not None and whole(self, "n_q", n_q) > self.num_quantizers:
                raise ValueError(f"ResidualVQ: n_q must be at most {self.num_quantizers}, got {n_q}")
            return n_q
        check_rows(self, x, self.dim, self.channel_first)
        lead = (x.movedim(1, -1) if self.channel_first else x).shape[:-1]
        if n_q.dtype not in (torch.int32, torch.int64):
            raise TypeError(f"ResidualVQ: n_q must be whole numbers, got {n_q.dtype}")
        if n_q.shape != lead:
            raise ValueError(f"ResidualVQ: n_q must have the shape {tuple(lead)}, got {tuple(n_q.shape)}")
        return n_q.reshape(-1)

    def _dropout(self, rows: int) -> Tensor:
        """How many layers this batch keeps, for every row."""
        step = self.book.steps
        kept = draw_below(self.num_quantizers - self.dropout_cutoff, self.book.options.seed + 2**32, step)
        kept = self.dropout_cutoff + kept + 1
        kept = (kept + self.dropout_multiple_of - 1) // self.dropout_multiple_of * self.dropout_multiple_of
        return kept.clamp(max=self.num_quantizers).expand(rows)

    def _encode(self, rows: Tensor, n_q: int | Tensor | None = None, **_: Any) -> Tensor:
        return self._chosen(rows, self.codebooks, n_q)

    def _chosen(self, rows: Tensor, codes: Tensor, n_q: int | Tensor | None) -> Tensor:
        """Indices (N, Q). Cosine residuals need no norm: direction is all that is compared."""
        index: Tensor = ops.rvq_encode(rows, codes, n_q=n_q, metric=self.book.options.metric).index
        return index

    def _decode(self, index: Tensor) -> Tensor:
        sums: Tensor = ops.rvq_decode(index, self.codebooks[: index.shape[-1]])
        return sums

    def _quantize(
        self, rows: Tensor, valid: Tensor | None, n_q: int | Tensor | None = None, **_: Any
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        if self.training and self.book.waits and self._place(rows, valid):
            self.book.start()
        if self.training and self.quantizer_dropout and n_q is None:
            n_q = self._dropout(rows.shape[0])
        codes = self.codebooks
        index = dropped(self._chosen(rows.detach(), codes.detach(), n_q), valid)
        carrier, met, losses = self._assemble(rows, index, codes)
        out = ops.straight_through(carrier, ops.rvq_decode(index, codes.detach()))
        if self.training:
            alive = torch.isfinite(rows.detach().square().sum(-1))
            alive = alive if valid is None else alive & valid
            self._learn(met, dropped(index, alive), alive)
        return out, index, losses

    def _assemble(self, rows: Tensor, index: Tensor, codes: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Walk the layers once more, for gradients: what carries them, what each layer met (Q, N, width), losses."""
        met, carriers, commitment, learning = [], [], [], []
        residual = rows
        for layer in range(self.num_quantizers):
            kept = index[:, layer] >= 0
            q = ops.lookup(codes[layer], index[:, layer])
            z = self.book.on_sphere(residual)
            through = torch.where(kept[:, None], carried(z, q.detach(), self.gradient), 0.0)
            met.append(z.detach())
            carriers.append(through)
            commitment.append(commitment_loss(z, q, kept))
            learning.append(codebook_loss(z, q, kept))
            residual = residual - (through if self.book.options.encodec_compat else q.detach())
        losses = {}
        if self.commitment_weight:
            losses["commitment"] = self.commitment_weight * torch.stack(commitment)
        if self.codebook_loss_weight:
            losses["codebook"] = self.codebook_loss_weight * torch.stack(learning)
        once = torch.where(index[:, :1] >= 0, rows, 0.0)
        carrier = once if self.gradient == "once" else torch.stack(carriers).sum(0)
        return carrier, torch.stack(met), losses

    def _learn(self, met: Tensor, index: Tensor, alive: Tensor) -> None:
        if not self.shared:
            self.book.learn(met, index.T, alive)
            return
        # Row by row, not layer by layer: then the rows of several processes follow each other as those of one would.
        self.book.learn(
            met.transpose(0, 1).flatten(0, 1), index.flatten(), alive.repeat_interleave(self.num_quantizers)
        )

    @torch.no_grad()
    def _place(self, rows: Tensor, valid: Tensor | None) -> bool:
        """k-means of every layer, over what the layers before leave; of a shared codebook, over the rows."""
        residual = rows.detach()
        if self.shared:
            return self.book.place(self.book.on_sphere(residual), valid)
        for layer in range(self.num_quantizers):
            z = self.book.on_sphere(residual)
            if not self.book.place(z, valid, layer):
                return False
            codes = self.codebooks[layer]
            index = ops.nearest(z, codes, metric=self.book.options.metric).index
            residual = residual - ops.lookup(codes, index)
        return True


class GroupedResidualVQ(nn.Module):
    """Cut the channels into equal groups, each with a :class:`ResidualVQ` of its own (HiFi-Codec, arXiv 2305.02765).

    Args:
        dim: channels of x, a multiple of `groups`.
        codebook_size, num_quantizers: K and Q of every group.
        groups: G.
        channel_first: x is (B, dim, ...).
        **options: of :class:`ResidualVQ`. All groups draw alike, so that dropout keeps the same layers in each.

    Returns of ``forward(x, mask=None, n_q=None)``:
        Quantized(quantized, index (G, B, ..., Q), losses of shape (G, Q)).

    >>> GroupedResidualVQ(6, 16, num_quantizers=3, groups=2)(torch.randn(4, 6)).index.shape
    torch.Size([2, 4, 3])
    """

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        num_quantizers: int,
        groups: int,
        *,
        channel_first: bool = False,
        **options: Any,
    ) -> None:
        if whole(self, "dim", dim) % whole(self, "groups", groups):
            raise ValueError(f"GroupedResidualVQ: dim must be a multiple of groups, {groups}, got {dim}")
        super().__init__()
        self.dim, self.channel_first = dim, channel_first
        self.groups = nn.ModuleList(
            ResidualVQ(dim // groups, codebook_size, num_quantizers, channel_first=channel_first, **options)
            for _ in range(groups)
        )

    def layers_for(self, kbps: float | None, frame_rate: float) -> int:
        """How many layers of every group fit a bit rate; None or 0: all."""
        first = self._stacks()[0]
        return layers_for(first.num_quantizers, first.codebook_size, kbps, frame_rate * len(self.groups))

    def forward(self, x: Tensor, mask: Tensor | None = None, n_q: int | Tensor | None = None) -> Quantized:
        """Quantize; see the class."""
        parts = [group(chunk, mask, n_q) for group, chunk in zip(self._stacks(), self._chunks(x), strict=True)]
        losses = {name: torch.stack([part.losses[name] for part in parts]) for name in parts[0].losses}
        quantized = torch.cat([part.quantized for part in parts], self._axis())
        return Quantized(quantized, torch.stack([part.index for part in parts]), losses)

    def encode(self, x: Tensor, mask: Tensor | None = None, n_q: int | Tensor | None = None) -> Tensor:
        """Return the indices (G, B, ..., Q) alone."""
        chunks = self._chunks(x)
        return torch.stack([group.encode(c, mask, n_q) for group, c in zip(self._stacks(), chunks, strict=True)])

    def decode(self, index: Tensor) -> Tensor:
        """Sum the codes of `index` (G, B, ..., q) and join the groups."""
        if not isinstance(index, Tensor) or index.dim() < 2 or index.shape[0] != len(self.groups):
            shape = tuple(index.shape) if isinstance(index, Tensor) else type(index).__name__
            raise ValueError(f"GroupedResidualVQ: index must start with the axis ({len(self.groups)},), got {shape}")
        return torch.cat([group.decode(i) for group, i in zip(self._stacks(), index, strict=True)], self._axis())

    def _stacks(self) -> list[ResidualVQ]:
        return [cast(ResidualVQ, group) for group in self.groups]

    def _axis(self) -> int:
        return 1 if self.channel_first else -1

    def _chunks(self, x: Tensor) -> tuple[Tensor, ...]:
        check_rows(self, x, self.dim, self.channel_first)
        return x.chunk(len(self.groups), self._axis())


def layers_for(most: int, codebook_size: int, kbps: float | None, frame_rate: float) -> int:
    """max(1, floor(1000 kbps / (log2 K * F))), at most all of them (EnCodec)."""
    between("layers_for", "frame_rate", frame_rate, 1e-9)
    if kbps is None or kbps <= 0 or codebook_size == 1:
        return most
    return min(most, max(1, math.floor(1000 * kbps / (math.log2(codebook_size) * frame_rate))))
