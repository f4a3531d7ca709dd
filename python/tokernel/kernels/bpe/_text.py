# SPDX-License-Identifier: Apache-2.0
"""Texts as arrays of bytes."""

from __future__ import annotations

import numpy as np

from tokernel.kernels._arrays import Array


def as_array(op: str, text: str | bytes | Array) -> Array:
    """Return the UTF-8 bytes of a text; lone surrogates of a str become U+FFFD, arrays pass.

    Raises:
        TypeError: neither str, bytes nor an array.
    """
    if isinstance(text, str):
        text = utf8(text)
    if isinstance(text, bytes | bytearray):
        return np.frombuffer(text, np.uint8)
    if isinstance(text, memoryview):
        return np.asarray(text)  # of its own dtype, shape and strides
    if not hasattr(text, "__dlpack__"):
        raise TypeError(f"{op}: text must be str, bytes or an array of uint8, got {type(text).__name__}")
    return text


def utf8(text: str) -> bytes:
    """Encode a str, pairs of surrogates as the character that they stand for, lone ones as U+FFFD."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()
