# SPDX-License-Identifier: Apache-2.0
"""The two entropies of sign bits: of one row's bits, and of the average row's code."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tokernel import ops
from tokernel.codecs._checks import between, name_of, one_of
from tokernel.codecs._losses import entropy_of, mean_of_rows

MODES = ("codebook", "pooled", "group", "bits")
MOST_BITS = 16  # of a histogram over all codes


class BitEntropy(NamedTuple):
    """The entropy loss weight * (sample_weight * per_sample - gamma * codebook), of p = softmax(2 inv_temperature x.c).

    Attributes:
        weight: of the loss; 0 turns it off.
        gamma: of the codebook's entropy.
        inv_temperature: of the softmax over all codes c.
        mode: how groups (codebooks) of bits are put together. "codebook": the mean over groups of both entropies
            (vector-quantize-pytorch). "pooled": one histogram for all groups, mean of a group's sample entropy
            (WeTok). "group": sums over groups (BSQ). "bits": every bit is a group of its own, sums (BSQ, analytical).
        sample: "bits": the closed form, exact for any number of bits. "codes": the sum over all codes with the
            logarithm below, as official codes do it.
        log_floor, log_add: -sum p log(max(p, log_floor) + log_add) of the codebook's entropy.
        sample_weight: of the entropy of one row.
    """

    weight: float = 0.1
    gamma: float = 1.0
    inv_temperature: float = 100.0
    mode: str = "codebook"
    sample: str = "bits"
    log_floor: float = 0.0
    log_add: float = 0.0
    sample_weight: float = 1.0


def bit_entropy_options(owner: object, given: Any, bits: int, **defaults: Any) -> BitEntropy:
    """Make options of a dict, BitEntropy or None (no entropy loss), and check them for groups of `bits`."""
    if given is None:
        return BitEntropy(weight=0.0)
    if isinstance(given, dict):
        for name in given:
            if name not in BitEntropy._fields:
                known = ", ".join(BitEntropy._fields)
                raise TypeError(f"{name_of(owner)}: entropy has no option {name!r}, only {known}")
        given = BitEntropy(**{**defaults, **given})
    if not isinstance(given, BitEntropy):
        raise TypeError(f"{name_of(owner)}: entropy must be a dict or None, got {type(given).__name__}")
    one_of(owner, "entropy mode", given.mode, MODES)
    one_of(owner, "entropy sample", given.sample, ("bits", "codes"))
    between(owner, "entropy inv_temperature", given.inv_temperature, 0.0)
    needs_codes = given.mode != "bits" or given.sample == "codes"
    if given.weight and needs_codes and bits > MOST_BITS:
        raise ValueError(
            f"{name_of(owner)}: entropy over all codes takes at most {MOST_BITS} bits a group, got {bits}; use smaller "
            "groups or the entropy mode 'bits'"
        )
    return given


def bit_entropies(x: Tensor, scale: float, options: BitEntropy, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return (per_sample, codebook): entropies in nats.

    Args:
        x: (N, G, bits) the values whose signs are taken.
        scale: codes are +-scale.
        valid: (N,) bool: the rows that count.

    p factorises into bits, each +scale with probability sigmoid(4 inv_temperature scale x); with no row, both are 0.

    >>> per_sample, codebook = bit_entropies(torch.tensor([[[1.0]], [[-1.0]]]), 1.0, BitEntropy())
    >>> round(float(codebook), 4)
    0.6931
    """
    slope = 4 * options.inv_temperature * scale
    rows = x if valid is None else torch.where(valid[:, None, None], x, 0.0)
    sample = _per_sample(rows, scale, slope, options)
    groups = sample.sum(1, keepdim=True) if options.mode in ("group", "bits") else sample
    per_sample = mean_of_rows(groups, valid)
    if x.shape[0] == 0:
        return per_sample, per_sample
    if options.mode == "bits":
        up = _mean_probability(torch.sigmoid(slope * rows).mean(0), 0.5, x.shape[0], valid)
        p = torch.stack([1 - up, up], -1)
    else:
        share = ops.subcode_histogram(rows, slope, pool=options.mode == "pooled")
        p = _mean_probability(share, 2.0 ** -x.shape[-1], x.shape[0], valid)
    entropy = entropy_of(p, options.log_floor, options.log_add)
    return per_sample, entropy.sum() if options.mode in ("group", "bits") else entropy.mean()


def _per_sample(x: Tensor, scale: float, slope: float, options: BitEntropy) -> Tensor:
    """Entropy of every row and group, (N, G)."""
    entropy: Tensor
    if options.sample == "bits":
        entropy = ops.bit_entropy(x, slope)
        return entropy
    codes = sign_codes(x.shape[-1], scale, x.device)
    got = ops.codebook_entropy(
        x.reshape(-1, x.shape[-1]),
        codes,
        inv_temperature=2 * options.inv_temperature,
        log_add=options.log_add,
        log_floor=options.log_floor,
    )
    entropy = got.entropy.reshape(x.shape[:2])
    return entropy


def sign_codes(bits: int, scale: float, device: torch.device | None = None) -> Tensor:
    """All codes (2^bits, bits) of +-scale, the first bit the least significant."""
    code = torch.arange(2**bits, device=device)[:, None] >> torch.arange(bits, device=device)
    return torch.where(code & 1 == 1, scale, -scale)


def _mean_probability(mean: Tensor, even: float, rows: int, valid: Tensor | None) -> Tensor:
    """Take the rows that do not count, which are 0 and so fall on all codes evenly, out of a mean over all rows."""
    if valid is None:
        return mean
    kept = valid.sum()
    return ((mean * rows - (rows - kept) * even) / kept.clamp(min=1)).clamp(min=0.0)
