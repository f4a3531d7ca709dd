# SPDX-License-Identifier: Apache-2.0
"""What the tests of trainers share: counted words, and the vocabularies that trainers start with."""

import functools
from collections import Counter

import numpy as np

from tokernel.kernels import bpe


@functools.cache
def byte_chars():
    """The printable character that stands for every byte in vocabularies of the tokenizers library."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [b for b in range(256) if b not in shown]
    chars = {b: chr(b) for b in shown} | {b: chr(0x100 + i) for i, b in enumerate(hidden)}
    return [chars[b] for b in range(256)]


def ragged(words):
    """Byte strings as (bytes, offsets)."""
    return b"".join(words), np.cumsum([0, *map(len, words)], dtype=np.int64)


def counted(texts, ends_of):
    """Unique pieces of the texts as (pieces, offsets, counts)."""
    counter = Counter()
    for text in texts:
        begin = 0
        for end in ends_of(text):
            counter[text[begin:end]] += 1
            begin = end
    pieces = sorted(counter)
    return *ragged(pieces), np.array([counter[p] for p in pieces], np.int64)


def split_ends(pattern):
    return lambda text: bpe.split(text, pattern).tolist()


def start_vocabulary(specials=(), alphabet=None):
    """Tokens and ids of bytes as the tokenizers library begins: special tokens, then the alphabet by code point."""
    chars = byte_chars()
    alphabet = sorted(set(chars) if alphabet is None else set(alphabet), key=ord)
    tokens = [*specials, *(c for c in alphabet if c not in specials)]
    ids = {token: i for i, token in enumerate(tokens)}
    return [t.encode() for t in tokens], np.array([ids.get(c, -1) for c in chars])


def spelled(merges, tokens):
    """The tokens of a vocabulary after these merges."""
    tokens = list(tokens)
    for left, right, result in merges.tolist():
        if result == len(tokens):
            tokens.append(tokens[left] + tokens[right])
        assert tokens[result] == tokens[left] + tokens[right]
    return tokens
