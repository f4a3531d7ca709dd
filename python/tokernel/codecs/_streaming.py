# SPDX-License-Identifier: Apache-2.0
"""Convolutions over time that pad as EnCodec's do, and whether a network can be run piece by piece."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

PadMode = Literal["reflect", "constant"]


def pad_for_conv(
    x: Tensor, kernel: int, stride: int = 1, dilation: int = 1, causal: bool = True, mode: PadMode = "reflect"
) -> Tensor:
    """Pad (B, C, T) so that a convolution gives ceil(T / stride) frames, the last window full.

    In all ``k - stride`` samples, k = (kernel - 1) * dilation + 1: all on the left where causal, else half (the smaller
    half) on the right; and on the right what the last window lacks. Where a reflection is longer than the sound, zeros
    are appended first.

    >>> import torch
    >>> pad_for_conv(torch.tensor([[[1.0, 2.0, 3.0]]]), kernel=3)
    tensor([[[3., 2., 1., 2., 3.]]])

    EnCodec (arXiv 2210.13438).
    """
    span = (kernel - 1) * dilation + 1
    total = span - stride
    length = x.shape[-1]
    frames = math.ceil((length - span + total) / stride) + 1
    extra = (frames - 1) * stride + span - total - length
    right = 0 if causal else total // 2
    left = total - right
    right += extra
    if mode == "constant" or max(left, right) <= 0:
        return functional.pad(x, (left, right))
    short = max(left, right) - length + 1
    if short <= 0:
        return functional.pad(x, (left, right), mode="reflect")
    padded = functional.pad(functional.pad(x, (0, short)), (left, right), mode="reflect")
    return padded[..., : padded.shape[-1] - short]


class StreamingConv1d(nn.Conv1d):
    """A convolution over time that pads by itself; a causal one can also be fed piece by piece.

    Args:
        in_channels, out_channels, kernel_size, stride, dilation, bias: as of ``nn.Conv1d``.
        causal: pad on the left only.
        mode: "reflect" (EnCodec), or "constant" for zeros, which :meth:`step` needs.

    >>> import torch
    >>> conv = StreamingConv1d(1, 2, kernel_size=4, stride=2, mode="constant")
    >>> x = torch.randn(1, 1, 8)
    >>> first, state = conv.step(x[..., :4], None)
    >>> second, _ = conv.step(x[..., 4:], state)
    >>> torch.allclose(torch.cat([first, second], -1), conv(x), atol=1e-6)
    True
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, dilation: int = 1,
        bias: bool = True, causal: bool = True, mode: PadMode = "reflect",
    ) -> None:  # fmt: skip
        super().__init__(in_channels, out_channels, kernel_size, stride, dilation=dilation, bias=bias)
        self.causal, self.mode = causal, mode
        self.span = (kernel_size - 1) * dilation + 1
        if self.span < stride:
            raise ValueError(
                f"StreamingConv1d: stride must not skip samples between windows of {self.span}, got {stride}"
            )

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, C, T) into (B, C', ceil(T / stride))."""
        padded = pad_for_conv(x, self.kernel_size[0], self.stride[0], self.dilation[0], self.causal, self.mode)
        return super().forward(padded)

    def step(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Convolve the next piece of a sound.

        Args:
            x: (B, C, t), t a multiple of the stride.
            state: what the piece before returned; None at the start.

        Returns:
            the next t / stride frames, the same as of the whole sound at once, and the state: the last
            ``span - stride`` samples.

        Raises:
            ValueError: a layer that is not causal or does not pad with zeros, or a piece that ends between frames.
        """
        if not self.causal or self.mode != "constant":
            raise ValueError("StreamingConv1d.step: the layer must be causal and pad with zeros (mode 'constant')")
        if x.shape[-1] % self.stride[0]:
            raise ValueError(
                f"StreamingConv1d.step: x must hold a multiple of {self.stride[0]} samples, got {x.shape[-1]}"
            )
        kept = self.span - self.stride[0]
        before = x.new_zeros(*x.shape[:-1], kept) if state is None else state
        joined = torch.cat([before, x], -1)
        return super().forward(joined), joined[..., joined.shape[-1] - kept :]


class StreamingConvTranspose1d(nn.ConvTranspose1d):
    """A transposed convolution that cuts ``kernel - stride`` samples off again: T frames give T * stride samples.

    Args:
        in_channels, out_channels, kernel_size, stride, bias: as of ``nn.ConvTranspose1d``.
        causal: cut on the right only; else half (the smaller half) on the right.

    >>> import torch
    >>> StreamingConvTranspose1d(3, 2, kernel_size=4, stride=2)(torch.randn(1, 3, 5)).shape
    torch.Size([1, 2, 10])

    EnCodec (arXiv 2210.13438).
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, bias: bool = True,
        causal: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(in_channels, out_channels, kernel_size, stride, bias=bias)
        self.causal = causal
        if kernel_size < stride:
            raise ValueError(
                f"StreamingConvTranspose1d: kernel_size must be at least the stride {stride}, got {kernel_size}"
            )

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Convolve (B, C, T) into (B, C', T * stride)."""
        out = super().forward(x, output_size)
        total = self.kernel_size[0] - self.stride[0]
        right = total if self.causal else total // 2
        return out[..., total - right : out.shape[-1] - right]


class StreamCheck(NamedTuple):
    """What :func:`streaming_equivalence` found."""

    streams: bool
    """Whether every frame that a prefix completes is what the whole input gives."""
    largest_difference: float
    """Over all such frames and prefixes."""


@torch.no_grad()
def streaming_equivalence(
    module: Callable[[Tensor], Tensor], x: Tensor, chunk: int, tolerance: float = 1e-5
) -> StreamCheck:
    """Check that a network of whole inputs gives the same, as far as it can, on every prefix of `chunk` samples more.

    Args:
        module: (B, C, T) -> (B, C', T'), T' proportional to T.
        x: the whole input; T a multiple of chunk.
        chunk: how many samples arrive at a time; should be a multiple of the hop.
        tolerance: of a difference, absolute.

    Raises:
        ValueError: a chunk that does not divide T, or frames that do not keep pace with samples.

    >>> import torch
    >>> causal, both = (StreamingConv1d(1, 1, 3, causal=causal, mode="constant") for causal in (True, False))
    >>> x = torch.randn(1, 1, 12)
    >>> streaming_equivalence(causal, x, 4).streams, streaming_equivalence(both, x, 4).streams
    (True, False)
    """
    samples = x.shape[-1]
    if chunk < 1 or samples % chunk:
        raise ValueError(f"streaming_equivalence: chunk must divide the {samples} samples, got {chunk}")
    whole = module(x)
    largest = 0.0
    for end in range(chunk, samples, chunk):
        part = module(x[..., :end])
        if part.shape[-1] * samples != whole.shape[-1] * end:
            got = f"{part.shape[-1]} of {end} samples, {whole.shape[-1]} of {samples}"
            raise ValueError(f"streaming_equivalence: module must give frames in proportion, got {got}")
        largest = max(largest, (part - whole[..., : part.shape[-1]]).abs().max().item())
    return StreamCheck(largest <= tolerance, largest)
