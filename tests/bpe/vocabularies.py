# SPDX-License-Identifier: Apache-2.0
"""Vocabularies for the tests: GPT-2's, rebuilt from its golden merges, and small random ones."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from tokernel.kernels import bpe

GOLDEN = Path(__file__).parents[1] / "golden" / "bpe"


@functools.cache
def gpt2(rule: str = "ranks") -> bpe.Vocab:
    """GPT-2 by ranks (tiktoken) or by merges (Hugging Face)."""
    golden = np.load(GOLDEN / "gpt2_merges.npz")
    tokens: list[bytes] = [b""] * 256
    for byte, token in enumerate(golden["byte_to_id"]):
        tokens[token] = bytes([byte])
    for left, right in golden["merges"]:
        tokens.append(tokens[left] + tokens[right])
    if rule == "ranks":
        return bpe.Vocab(tokens)
    merges = np.column_stack([golden["merges"], 256 + np.arange(len(golden["merges"]))])
    return bpe.Vocab(tokens, merges=merges, whole_piece=False)


def texts_of(name: str) -> list[bytes]:
    """The texts of a golden file."""
    golden = np.load(GOLDEN / f"{name}.npz")
    data, offsets = golden["text_bytes"].astype(np.uint8).tobytes(), golden["text_off"].tolist()
    return [data[i:j] for i, j in itertools.pairwise(offsets)]


LETTERS = b"abcd"


@st.composite
def grown(draw: st.DrawFn) -> bpe.Vocab:
    """A vocabulary whose ranks are the order of merging, as training makes them."""
    tokens = [bytes([c]) for c in LETTERS]
    for _ in range(draw(st.integers(0, 12))):
        left, right = draw(st.sampled_from(tokens)), draw(st.sampled_from(tokens))
        if left + right not in tokens:
            tokens.append(left + right)
    return bpe.Vocab(tokens)


@st.composite
def any_ranks(draw: st.DrawFn) -> bpe.Vocab:
    """Any tokens in any order: ranks need not be the order of merging, and some tokens are never made."""
    words = draw(st.lists(st.text("abcd", min_size=2, max_size=5), max_size=14, unique=True))
    tokens = [bytes([c]) for c in LETTERS] + [word.encode() for word in words]
    return bpe.Vocab(draw(st.permutations(tokens)), whole_piece=draw(st.booleans()))


@st.composite
def merge_lists(draw: st.DrawFn) -> bpe.Vocab:
    """Merges in any order, several of one token, some twice."""
    words = draw(st.lists(st.text("abcd", min_size=2, max_size=5), max_size=10, unique=True))
    tokens = [bytes([c]) for c in LETTERS] + [word.encode() for word in words]
    ids = {token: i for i, token in enumerate(tokens)}
    pairs = [
        (ids[token[:cut]], ids[token[cut:]], ids[token])
        for token in tokens
        for cut in range(1, len(token))
        if token[:cut] in ids and token[cut:] in ids
    ]
    chosen = draw(st.lists(st.sampled_from(pairs), max_size=20)) if pairs else []
    return bpe.Vocab(tokens, merges=np.array(chosen, np.int64).reshape(-1, 3), whole_piece=draw(st.booleans()))


def naive(vocab: bpe.Vocab, piece: bytes) -> list[int]:
    """Merge the smallest rank, leftmost first, over Python lists: independent of the C++."""
    whole = vocab.id_of(piece)
    if vocab.whole_piece and whole is not None:
        return [whole]
    parts = [bytes([c]) for c in piece]
    tables = vocab.tables()
    names = [vocab.token_bytes(i) for i in range(vocab.size)]
    merges = {(names[a], names[b]): i for i, (a, b, _) in enumerate(tables["merges"])} if not vocab.ranked else None

    def rank(a: bytes, b: bytes) -> int | None:
        return vocab.id_of(a + b) if merges is None else merges.get((a, b))

    while True:
        found = [(r, i) for i in range(len(parts) - 1) if (r := rank(parts[i], parts[i + 1])) is not None]
        if not found:
            return [vocab.id_of(part) for part in parts]  # type: ignore[misc]
        _, i = min(found)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
