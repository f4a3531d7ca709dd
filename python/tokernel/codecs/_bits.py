# SPDX-License-Identifier: Apache-2.0
"""Sign bits: lookup-free quantization (MAGVIT-v2, arXiv 2310.05737), also on the sphere (BSQ, arXiv 2406.07548)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tokernel import ops
from tokernel.codecs._bit_entropy import BitEntropy, bit_entropies, bit_entropy_options
from tokernel.codecs._checks import check_index, one_of, whole
from tokernel.codecs._losses import commitment_loss, mean_of_rows
from tokernel.codecs._quantizer import Quantizer, dropped

MOST_BITS = 63  # of one int64 index


class LFQ(Quantizer):
    """The sign of every channel is a bit, a group of bits a code that is never stored.

    bit = x > 0 (0 and NaN give 0), code = (2 bit - 1) * scale, with the identity as gradient. The loss "entropy" is
    weight * (per_sample - gamma * codebook) of :class:`BitEntropy`.

    Args:
        bits: of one index, 1 to 63.
        num_codebooks: C; x has C * bits channels, the first `bits` of them the first codebook.
        dim: channels of x, where linear layers lead to C * bits and back.
        bit_order: "msb": the first channel is the most significant bit (vector-quantize-pytorch, bsq-vit). "lsb": the
            least (WeTok, Open-MAGVIT2).
        spherical: normalise x, and let scale be bits^-0.5: binary spherical quantization as vector-quantize-pytorch
            does it.
        scale: of the codes.
        entropy: options of :class:`BitEntropy` by name, or None: no entropy loss.
        commitment_weight: of mean (x - sg q)^2.
        channel_first: x is (B, dim, ...).

    Returns of ``forward(x, mask=None)``:
        Quantized(quantized, index, losses): index (B, ...), or (B, ..., C) of several codebooks.

    >>> LFQ(bits=3)(torch.tensor([[0.5, -1.0, 2.0], [0.0, 0.0, 1.0]])).index
    tensor([5, 1])
    """

    def __init__(
        self,
        bits: int,
        num_codebooks: int = 1,
        dim: int | None = None,
        *,
        bit_order: str = "msb",
        spherical: bool = False,
        scale: float = 1.0,
        entropy: dict[str, Any] | BitEntropy | None = BitEntropy(),  # noqa: B008 (immutable)
        commitment_weight: float = 0.0,
        channel_first: bool = False,
    ) -> None:
        if whole(self, "bits", bits) > MOST_BITS:
            raise ValueError(f"LFQ: bits must be at most {MOST_BITS}, got {bits}; use several codebooks")
        width = bits * whole(self, "num_codebooks", num_codebooks)
        one_of(self, "bit_order", bit_order, ("msb", "lsb"))
        options = bit_entropy_options(self, entropy, bits)
        super().__init__(width if dim is None else dim, width, channel_first)
        self.bits, self.num_codebooks, self.bit_order = bits, num_codebooks, bit_order
        self.spherical = spherical
        self.scale = bits**-0.5 if spherical else float(scale)
        self.entropy, self.commitment_weight = options, commitment_weight
        self.index_axes = (num_codebooks,) if num_codebooks > 1 else ()

    def _codes(self) -> int:
        return 1 << self.bits

    def _groups(self, rows: Tensor) -> Tensor:
        groups = rows.reshape(rows.shape[0], self.num_codebooks, self.bits)
        return normalize(groups, dim=-1) if self.spherical else groups

    def _encode(self, rows: Tensor, **_: Any) -> Tensor:
        index: Tensor = ops.sign_pack(rows, self.bits, self.bit_order)
        return index if self.index_axes else index[:, 0]

    def _decode(self, index: Tensor) -> Tensor:
        ids = index.reshape(-1, self.num_codebooks)
        codes = ops.sign_unpack(ids.clamp(min=0), self.bits, self.bit_order, self.scale)
        return _where_kept(codes, ids.repeat_interleave(self.bits, -1))

    def _quantize(self, rows: Tensor, valid: Tensor | None, **_: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        groups = self._groups(rows)
        index = dropped(self._encode(rows.detach()), valid)
        code = self._decode(index)
        x = groups.flatten(1)
        losses = {}
        if self.entropy.weight:
            per_sample, codebook = self._entropies(groups, valid)
            losses["entropy"] = self.entropy.weight * (
                self.entropy.sample_weight * per_sample - self.entropy.gamma * codebook
            )
        if self.commitment_weight:
            losses["commitment"] = self.commitment_weight * commitment_loss(x, code, valid)
        out = ops.straight_through(x, code)
        return out if valid is None else torch.where(valid[:, None], out, 0.0), index, losses

    def _entropies(self, groups: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        return bit_entropies(groups, self.scale, self.entropy, valid)

    def entropies(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return (per_sample, codebook), the two entropies in nats, without weights."""
        rows, _, valid = self._enter(x, mask)
        with torch.autocast(x.device.type, enabled=False):
            return self._entropies(self._groups(self.project_in(rows)), valid)


class BSQ(Quantizer):
    """Signs of a vector on the unit sphere, as the authors' code does it: out = sign(x) / sqrt(bits).

    Losses: "commitment" = beta * mean over rows of |x - sg out|^2, and "entropy" = zeta * (gamma0 H_s - gamma H_c) /
    inv_temperature, where H_s is the entropy of a row's bits and H_c that of the average row's code. In entropy mode
    "group" the code is cut into groups of `group_size` bits and H_c is their sum over sub-codes; in mode "bits" (their
    analytical form) over bits.

    Args:
        bits: channels of a code. Up to 63 make one index a row, more one index a group.
        group_size: bits of a group; must divide `bits`; by default the largest divisor up to 9.
        dim: channels of x, where linear layers lead to `bits` and back.
        normalize: divide x by its norm first. False where that was done already (a second time changes nothing but the
            gradient, and rounding).
        unit: codes are +-1 / sqrt(bits); False: +-1.
        mode: "group" or "bits".
        beta, zeta, gamma0, gamma, inv_temperature: see above.
        bit_order: "msb" (theirs) or "lsb".
        channel_first: x is (B, dim, ...).

    >>> bsq = BSQ(bits=4)
    >>> out = bsq(torch.tensor([[3.0, -1.0, -1.0, 2.0]]))
    >>> out.quantized, out.index
    (tensor([[ 0.5000, -0.5000, -0.5000,  0.5000]]), tensor([9]))
    """

    def __init__(
        self,
        bits: int,
        group_size: int | None = None,
        dim: int | None = None,
        *,
        normalize: bool = True,
        unit: bool = True,
        mode: str = "group",
        beta: float = 0.25,
        zeta: float = 0.1,
        gamma0: float = 1.0,
        gamma: float = 1.0,
        inv_temperature: float = 100.0,
        log_add: float = 1e-8,
        bit_order: str = "msb",
        channel_first: bool = False,
    ) -> None:
        whole(self, "bits", bits)
        if group_size is None:
            group_size = max(size for size in range(1, min(9, bits) + 1) if bits % size == 0)
        if bits % whole(self, "group_size", group_size) or group_size > MOST_BITS:
            raise ValueError(f"BSQ: group_size must divide bits, {bits}, and be at most {MOST_BITS}; got {group_size}")
        one_of(self, "mode", mode, ("group", "bits"))
        one_of(self, "bit_order", bit_order, ("msb", "lsb"))
        entropy = BitEntropy(
            zeta / inv_temperature, gamma, inv_temperature, mode, log_add=log_add, sample_weight=gamma0
        )
        options = bit_entropy_options(self, entropy, group_size)
        super().__init__(bits if dim is None else dim, bits, channel_first)
        self.bits, self.group_size, self.bit_order = bits, group_size, bit_order
        self.normalize = normalize
        self.scale = bits**-0.5 if unit else 1.0
        self.beta, self.entropy = beta, options
        self.index_axes = () if bits <= MOST_BITS else (bits // group_size,)

    def _codes(self) -> int:
        return 1 << (self.group_size if self.index_axes else self.bits)

    def _width(self) -> int:
        return self.group_size if self.index_axes else self.bits

    def _encode(self, rows: Tensor, **_: Any) -> Tensor:
        index: Tensor = ops.sign_pack(rows, self._width(), self.bit_order)
        return index if self.index_axes else index[:, 0]

    def _decode(self, index: Tensor) -> Tensor:
        ids = index.reshape(index.shape[0], self.bits // self._width())
        codes = ops.sign_unpack(ids.clamp(min=0), self._width(), self.bit_order, self.scale)
        return _where_kept(codes, ids.repeat_interleave(self._width(), -1))

    def _quantize(self, rows: Tensor, valid: Tensor | None, **_: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        z = self._on_sphere(rows)
        index = dropped(self._encode(rows.detach()), valid)
        code = self._decode(index)
        losses = {}
        if self.beta:
            squares = (z - code).square().sum(-1, keepdim=True)
            losses["commitment"] = self.beta * mean_of_rows(squares, valid)
        if self.entropy.weight:
            per_sample, codebook = self._entropies(z, valid)
            losses["entropy"] = self.entropy.weight * (
                self.entropy.sample_weight * per_sample - self.entropy.gamma * codebook
            )
        # As the authors' code: the identity up to the sign, then the scale.
        out = ops.straight_through(z * self.scale, code)
        return out if valid is None else torch.where(valid[:, None], out, 0.0), index, losses

    def _on_sphere(self, rows: Tensor) -> Tensor:
        return normalize(rows, dim=-1) if self.normalize else rows

    def _entropies(self, z: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        groups = z.reshape(z.shape[0], self.bits // self.group_size, self.group_size)
        return bit_entropies(groups, self.scale, self.entropy, valid)

    def entropies(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return (H_s, H_c) in nats, without weights."""
        rows, _, valid = self._enter(x, mask)
        with torch.autocast(x.device.type, enabled=False):
            return self._entropies(self._on_sphere(self.project_in(rows)), valid)

    def group_index(self, index: Tensor) -> Tensor:
        """Cut indices (B, ...) of all bits into one index a group, (B, ..., bits / group_size)."""
        check_index(self, index, self.index_axes, self._codes())
        if self.index_axes:
            return index
        count = self.bits // self.group_size
        turn = torch.arange(count, device=index.device)
        shift = self.group_size * (turn.flip(0) if self.bit_order == "msb" else turn)
        ids = (index.clamp(min=0)[..., None] >> shift) & ((1 << self.group_size) - 1)
        return torch.where((index >= 0)[..., None], ids, -1)


def _where_kept(codes: Tensor, index: Tensor) -> Tensor:
    return torch.where(index >= 0, codes, 0.0)
