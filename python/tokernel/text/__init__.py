# SPDX-License-Identifier: Apache-2.0
"""Text: encodings, trainers and the papers that live on them. Needs NumPy alone; papers on models need torch."""

from tokernel.text._corpus import count_texts
from tokernel.text._counts import PieceCounts
from tokernel.text._errors import FormatError, UnknownTokenError
from tokernel.text._registry import get_encoding, list_encoding_names
from tokernel.text.encoding import Encoding
from tokernel.text.pretokenizer import Pattern
from tokernel.text.streaming import StreamDecoder
from tokernel.text.training import train

__all__ = [
    "Encoding",
    "FormatError",
    "Pattern",
    "PieceCounts",
    "StreamDecoder",
    "UnknownTokenError",
    "count_texts",
    "get_encoding",
    "list_encoding_names",
    "train",
]
