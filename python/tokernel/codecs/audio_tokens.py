# SPDX-License-Identifier: Apache-2.0
"""Discrete Audio Tokens: More Than a Survey! (Mousavi et al., 2025).

arXiv 2506.10274. The survey sorts audio tokenizers by how they quantize, and measures them. Here is every kind of
quantizer that it names, and what it measures with:

- one codebook (SVQ): :class:`tokernel.codecs.VectorQuantizer`; a residual stack (RVQ), also by bandwidth:
  :class:`tokernel.codecs.ResidualVQ`; in groups of channels (GVQ, GRVQ): :class:`tokernel.codecs.GroupedResidualVQ`;
  product (PQ): :class:`tokernel.codecs.ProductQuantizer`; grids: :class:`tokernel.codecs.FSQ`;
- :class:`FactorizedRVQ` (DAC), :class:`MultiScaleRVQ` (MSRVQ, SNAC), :class:`CrossScaleRVQ` (CSRVQ, our
  reconstruction), :class:`KMeansTokenizer` (semantic tokens);
- :func:`bitrate`, :func:`token_rate`, :class:`CodebookUtilization`, :func:`sdr`, :func:`si_snr`, and
  :func:`perturb_tokens`;
- EnCodec's convolutions, whole and piece by piece (:class:`StreamingConv1d`), and a check of any network
  (:func:`streaming_equivalence`);
- EnCodec's bit stream: :func:`tokernel.ops.pack_bits`, :class:`ArithmeticCoder`.

:func:`encodec_codes` and :func:`dac_quantizer` take the codebooks of transformers' models. The survey's table rounds
bit rates; compute them from frame rates and sizes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokernel.codecs._arithmetic import ArithmeticCoder, ArithmeticDecoder, quantized_cdf
from tokernel.codecs._audio_metrics import CodebookUtilization, Utilization, bitrate, sdr, si_snr, token_rate
from tokernel.codecs._cross_scale import CrossScaleCodes, CrossScaleRVQ
from tokernel.codecs._factorized_rvq import FactorizedCodes, FactorizedRVQ, FactorizedVQ, LayerCodes, MultiScaleRVQ
from tokernel.codecs._kmeans_tokens import KMeansTokenizer, perturb_tokens
from tokernel.codecs._streaming import (
    StreamCheck,
    StreamingConv1d,
    StreamingConvTranspose1d,
    pad_for_conv,
    streaming_equivalence,
)
from tokernel.papers import paper

__all__ = [
    "PAPER",
    "ArithmeticCoder",
    "ArithmeticDecoder",
    "CodebookUtilization",
    "CrossScaleCodes",
    "CrossScaleRVQ",
    "FactorizedCodes",
    "FactorizedRVQ",
    "FactorizedVQ",
    "KMeansTokenizer",
    "LayerCodes",
    "MultiScaleRVQ",
    "StreamCheck",
    "StreamingConv1d",
    "StreamingConvTranspose1d",
    "Utilization",
    "bitrate",
    "dac_quantizer",
    "encodec_codes",
    "pad_for_conv",
    "perturb_tokens",
    "quantized_cdf",
    "sdr",
    "si_snr",
    "streaming_equivalence",
    "token_rate",
]

PAPER = paper("audio_tokens")


def encodec_codes(model: Any) -> Tensor:
    """Take the codebooks out of a transformers ``EncodecModel``.

    Returns:
        (Q, K, D) float32 for :func:`tokernel.ops.rvq_encode` and :func:`tokernel.ops.rvq_decode`, or
        :meth:`tokernel.codecs.ResidualVQ.set_codes`.

    >>> from transformers import EncodecConfig, EncodecModel
    >>> small = EncodecConfig(num_filters=2, hidden_size=4, codebook_dim=4, codebook_size=8, num_lstm_layers=1)
    >>> encodec_codes(EncodecModel(small)).shape
    torch.Size([106, 8, 4])
    """
    layers = model.quantizer.layers
    return torch.stack([layer.codebook.embed.detach().float() for layer in layers])


def dac_quantizer(model: Any) -> FactorizedRVQ:
    """Build a :class:`FactorizedRVQ` with the layers of a transformers ``DacModel`` (weight norm folded).

    >>> from transformers import DacConfig, DacModel
    >>> small = DacConfig(encoder_hidden_size=4, decoder_hidden_size=32, n_codebooks=2, codebook_size=8, codebook_dim=2)
    >>> dac_quantizer(DacModel(small)).encode(torch.randn(1, small.hidden_size, 5)).shape
    torch.Size([1, 2, 5])
    """
    config, layers = model.config, model.quantizer.quantizers
    ours = FactorizedRVQ(config.hidden_size, len(layers), config.codebook_size, config.codebook_dim)
    for mine, theirs in zip(ours.quantizers, layers, strict=True):
        for name in ("in_proj", "out_proj", "codebook"):
            getattr(mine, name).weight.data.copy_(getattr(theirs, name).weight.detach())
        for name in ("in_proj", "out_proj"):
            getattr(mine, name).bias.data.copy_(getattr(theirs, name).bias.detach())
    return ours
