# SPDX-License-Identifier: Apache-2.0
"""Text: encodings, trainers and the papers that live on them. Needs NumPy alone; papers on models need torch."""

from tokernel.text._errors import FormatError, UnknownTokenError
from tokernel.text._registry import get_encoding, list_encoding_names
from tokernel.text.encoding import Encoding
from tokernel.text.pretokenizer import Pattern
from tokernel.text.streaming import StreamDecoder

__all__ = [
    "Encoding",
    "FormatError",
    "Pattern",
    "StreamDecoder",
    "UnknownTokenError",
    "get_encoding",
    "list_encoding_names",
]
