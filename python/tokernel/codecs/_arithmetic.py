# SPDX-License-Identifier: Apache-2.0
"""EnCodec's arithmetic coder: symbols of known probabilities, in nearly as few bits as possible."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

RANGE_BITS = 24
SMALLEST = 2  # of a symbol's share of 2^24, so that each can be coded
STEP = 1e-8  # to which probabilities are cut


def quantized_cdf(pdf: Tensor) -> Tensor:
    """Turn probabilities into cumulative whole shares of 2^24, each symbol's at least 2.

    ``share_k = floor((1 - 2K / 2^24) * 2^24 * p_k) + 2``, p cut to steps of 1e-8. Coder and decoder must be given the
    same bits.

    Args:
        pdf: (..., K) float32, at least 0, rows of sum 1 (up to 1e-4 more).

    Returns:
        (..., K) int64, ascending.

    Raises:
        ValueError: no symbol, more than 2^22 of them, a value that is negative or not finite, or a row whose
            sum exceeds 1.

    >>> import torch
    >>> quantized_cdf(torch.tensor([0.5, 0.25, 0.25]))
    tensor([ 8388607, 12582911, 16777215])

    EnCodec (arXiv 2210.13438).
    """
    symbols = pdf.shape[-1] if pdf.ndim else 0
    if not 1 <= symbols <= 1 << (RANGE_BITS - 2):
        raise ValueError(
            f"quantized_cdf: pdf must have 1 to {1 << (RANGE_BITS - 2)} symbols in its last dimension, got {symbols}"
        )
    if not bool((pdf >= 0).all()) or not bool(pdf.isfinite().all()):
        raise ValueError("quantized_cdf: pdf must be finite and at least 0 everywhere")
    total = 1 << RANGE_BITS
    cut = (pdf.float() / STEP).floor() * STEP
    shares = ((1 - SMALLEST * symbols / total) * total * cut).floor().long() + SMALLEST
    # Rounding may bring a row of sum 1 a few shares above the whole: the largest gives them back (ours: the official
    # code refuses such a row).
    over = (shares.sum(-1, keepdim=True) - total).clamp(min=0)
    if bool((over > total // 10_000).any()):
        raise ValueError("quantized_cdf: pdf must have rows of sum 1, got a larger one")
    return shares.scatter_add(-1, shares.argmax(-1, keepdim=True), -over).cumsum(-1)


class _Interval:
    """The interval that coder and decoder narrow: binary digits low to high, the first of them ever shifted out."""

    def __init__(self) -> None:
        self.low, self.high, self.digits = 0, 0, 0

    def widen(self) -> int:
        """Add digits until the interval has 2^24 numbers; return how many."""
        added = 0
        while self.high - self.low + 1 < 1 << RANGE_BITS:
            self.low, self.high = 2 * self.low, 2 * self.high + 1
            added += 1
        self.digits += added
        return added

    def part(self, start: int, end: int) -> tuple[int, int]:
        """The numbers of shares start to end - 1 of 2^24."""
        wide = self.high - self.low + 1
        first = -(-start * wide // (1 << RANGE_BITS))
        last = (end - 1) * wide // (1 << RANGE_BITS)
        return self.low + first, self.low + last

    def narrow(self, low: int, high: int) -> list[int]:
        """Keep low to high; return the leading digits that they agree on, and forget them."""
        self.low, self.high = low, high
        agreed = []
        while self.digits and self.low >> (self.digits - 1) == self.high >> (self.digits - 1):
            self.digits -= 1
            digit = self.low >> self.digits
            agreed.append(digit)
            self.low -= digit << self.digits
            self.high -= digit << self.digits
        return agreed


def _shares(cdf: Sequence[int], symbol: int) -> tuple[int, int]:
    return (cdf[symbol - 1] if symbol else 0), cdf[symbol]


class ArithmeticCoder:
    """Write symbols, each with its own table of shares, into bits.

    >>> import torch
    >>> table = quantized_cdf(torch.tensor([0.9, 0.1]))
    >>> coder = ArithmeticCoder()
    >>> for symbol in (0, 0, 1, 0):
    ...     coder.push(symbol, table)
    >>> data = coder.finish()
    >>> decoder = ArithmeticDecoder(data)
    >>> [decoder.pull(table) for _ in range(4)]
    [0, 0, 1, 0]

    EnCodec (arXiv 2210.13438); its bytes, bit for bit.
    """

    def __init__(self) -> None:
        self._interval = _Interval()
        self._digits: list[int] = []

    def push(self, symbol: int, cdf: Tensor) -> None:
        """Code one symbol by a table (K,) of :func:`quantized_cdf`.

        Raises:
            ValueError: a symbol that is not in the table.
        """
        table: list[int] = cdf.tolist()
        if not 0 <= symbol < len(table):
            raise ValueError(f"ArithmeticCoder.push: symbol must be between 0 and {len(table) - 1}, got {symbol}")
        self._interval.widen()
        self._digits += self._interval.narrow(*self._interval.part(*_shares(table, symbol)))

    def finish(self) -> bytes:
        """Write what is left, and return everything; the coder then starts anew."""
        inside = self._interval
        digits = [*self._digits, *((inside.low >> at) & 1 for at in range(inside.digits - 1, -1, -1))]
        self._interval, self._digits = _Interval(), []
        digits += [0] * (-len(digits) % 8)
        return bytes(sum(digit << at for at, digit in enumerate(digits[i : i + 8])) for i in range(0, len(digits), 8))


class ArithmeticDecoder:
    """Read back what :class:`ArithmeticCoder` wrote, given the same tables in the same order.

    Args:
        data: its bytes. The number of symbols is not in them.
    """

    def __init__(self, data: bytes) -> None:
        self._interval, self._data, self._at, self._value = _Interval(), data, 0, 0

    def pull(self, cdf: Tensor) -> int:
        """Decode the next symbol by its table (K,).

        Raises:
            ValueError: the bytes end before it, or were not written with this table.
        """
        table: list[int] = cdf.tolist()
        for _ in range(self._interval.widen()):
            self._value = 2 * self._value + self._digit()
        first, last = 0, len(table) - 1
        while first < last:
            middle = (first + last) // 2
            if self._value > self._interval.part(*_shares(table, middle))[1]:
                first = middle + 1
            else:
                last = middle
        low, high = self._interval.part(*_shares(table, first))
        if not low <= self._value <= high:
            raise ValueError("ArithmeticDecoder.pull: data was not written with this table")
        self._interval.narrow(low, high)
        self._value &= (1 << self._interval.digits) - 1  # the digits agreed on are forgotten here as well
        return first

    def _digit(self) -> int:
        byte, bit = divmod(self._at, 8)
        if byte >= len(self._data):
            raise ValueError("ArithmeticDecoder.pull: data must hold another symbol, got its end")
        self._at += 1
        return (self._data[byte] >> bit) & 1
