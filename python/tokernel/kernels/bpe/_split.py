# SPDX-License-Identifier: Apache-2.0
"""Pre-tokenizers: where the pieces of a text end."""

from __future__ import annotations

import numpy as np

from tokernel.kernels._arrays import Array, extension_of
from tokernel.kernels.bpe._text import as_array

__all__ = ["split"]


def split(text: str | bytes | Array, pattern: str) -> Array:
    r"""Cut a text into the pieces inside which a byte-level tokenizer merges; the pieces cover the text.

    From every piece's start the first alternative that matches, of::

        gpt2    '(s|t|re|ve|m|ll|d)   ?\p{L}+   ?\p{N}+   ?[^\s\p{L}\p{N}]+   \s+(?!\S)   \s+
        cl100k  (?i)'(s|t|re|ve|m|ll|d)   [^\r\n\p{L}\p{N}]?\p{L}+   \p{N}{1,3}   ?[^\s\p{L}\p{N}]+[\r\n]*
                \s*[\r\n]+   \s+(?!\S)   \s+
        o200k   [^\r\n\p{L}\p{N}]?U*V+C?   [^\r\n\p{L}\p{N}]?U+V*C?   \p{N}{1,3}   ?[^\s\p{L}\p{N}]+[\r\n/]*
                \s*[\r\n]+   \s+(?!\S)   \s+

    with ``U = [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]``, ``V = [\p{Ll}\p{Lm}\p{Lo}\p{M}]``, ``C = (?i)'(s|t|re|ve|m|ll|d)``.
    qwen2 is cl100k with ``\p{N}`` for ``\p{N}{1,3}``; tekken is o200k with that and without C; llama3 is cl100k; none
    makes one piece. Classes are those of Unicode 16.0, and the long s (U+017F) is an s of any case. These are the
    patterns that the vocabularies were trained with; tiktoken since 0.8 keeps white space at the end of a text in one
    piece, which changes no id of its vocabularies.

    A byte that is part of no well-formed UTF-8 character counts as a character that is neither letter, number nor white
    space. A lone surrogate of a str counts as U+FFFD.

    Args:
        text: str, bytes, or (N,) uint8.
        pattern: none, gpt2, cl100k, llama3, o200k, qwen2 or tekken.

    Returns:
        (P,) int64, the byte ends of the P pieces, ascending, the last one N; empty for an empty text. An array of the
        framework of text, where text is one.

    Raises:
        ValueError: an unknown pattern, or text of another shape.
        TypeError: text is neither str, bytes nor an array of uint8.

    >>> text = "Don't panic: 1234!"
    >>> split(text, "cl100k")
    array([ 3,  5, 11, 12, 13, 16, 17, 18])
    >>> split("a b", "none")
    array([3])

    The regular expressions of GPT-2, tiktoken (cl100k_base, o200k_base), Qwen2 and mistral-common.
    """
    array = as_array("split", text)
    ends, count = extension_of("split", "text", array).split(array, pattern)
    found = int(count[0])
    if isinstance(ends, np.ndarray):
        ends.resize(found, refcheck=False)  # gives back the room for a piece a byte
        return ends
    return ends[:found].clone() if hasattr(ends, "clone") else ends[:found]
