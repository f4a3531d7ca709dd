# SPDX-License-Identifier: Apache-2.0
"""KL3M Tokenizers: A Family of Domain-Specific and Character-Level Tokenizers for Legal, Financial, and Preprocessing
Applications (Bommarito et al., 2025).

arXiv 2503.17247. Two recipes over byte-level BPE:

- :func:`train_domain`: a vocabulary of domain text, more than a thousand hand-chosen whole tokens
  (:func:`legal_custom_tokens`), and padding to a power of two (:func:`pad_to_power_of_two`);
- :func:`train_characters`: merges of at most 2 to 4 characters, so that an error of OCR changes few tokens and leaves
  the others' boundaries where they were (:func:`boundary_stability`).

Both are :func:`train_bpe` with other arguments, and give a :class:`ByteLevelBPE`. "Characters" are those of GPT-2's
byte alphabet everywhere: an accented letter is two, a Chinese one three.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from tokernel.kernels import bpe
from tokernel.papers import paper
from tokernel.text._byte_map import BYTE_TO_CHAR, is_mapped, to_bytes
from tokernel.text._kl3m_metrics import (
    boundary_stability,
    term_token_counts,
    token_length_histogram,
    tokens_per_character,
)
from tokernel.text._kl3m_splits import Split, random_chunk_split, random_whitespace_split
from tokernel.text._kl3m_tokenizer import Added, ByteLevelBPE, normalized
from tokernel.text._kl3m_tokens import SPECIALS, legal_custom_tokens

__all__ = [
    "PAPER",
    "SPECIALS",
    "Added",
    "ByteLevelBPE",
    "boundary_stability",
    "legal_custom_tokens",
    "pad_to_power_of_two",
    "random_chunk_split",
    "random_whitespace_split",
    "term_token_counts",
    "token_length_histogram",
    "tokens_per_character",
    "train_bpe",
    "train_characters",
    "train_domain",
]

PAPER = paper("kl3m")

RAW = 255
"""The alphabet of character models starts with the code points below this one, as they are."""


def train_bpe(
    texts: Iterable[str], vocab_size: int, min_frequency: int = 10, specials: Sequence[str] = SPECIALS,
    alphabet: Literal["bytes", "raw"] = "bytes", max_chars: int | None = None,
    normalizer: Literal["nfkc", "none"] = "nfkc", lowercase: bool = False, split: Split | None = None,
) -> ByteLevelBPE:  # fmt: skip
    """Train byte-level BPE as Hugging Face's trainer does: the same ids and merges.

    Ids: the special tokens, then the alphabet by code point, then merges.

    Args:
        texts: read once, and held.
        vocab_size: of all three together.
        min_frequency: of the pair that becomes the last merge.
        alphabet: "bytes": the 256 characters of GPT-2's byte alphabet. "raw": code points 0 to 254 as they are and, of
            the byte alphabet, what the texts hold: 68 of these ids spell no byte and are wasted, so are those of bytes
            that no UTF-8 text holds; and other bytes that training never saw have no token.
        max_chars: a merge of more characters is never made.
        normalizer, lowercase: of texts, in training and later.
        split: cuts texts into the pieces that merges stay within, in training only; None: GPT-2's pattern.

    Raises:
        ValueError: a vocabulary too small for special tokens and alphabet, a max_chars below 2, a min_frequency below
            0, a normalizer or alphabet of another name.

    >>> tokens = train_bpe(["the cat, the hat, the bat"], vocab_size=13 + 256 + 3, min_frequency=2)
    >>> [tokens.vocab[result] for result in tokens.merges[:, 2]]
    ['at', 'he', 'the']
    """
    if max_chars is not None and max_chars < 2:
        raise ValueError(f"train_bpe: max_chars must be at least 2, got {max_chars}")
    if min_frequency < 0:
        raise ValueError(f"train_bpe: min_frequency must not be negative, got {min_frequency}")
    if normalizer not in ("nfkc", "none") or alphabet not in ("bytes", "raw"):
        raise ValueError(f"train_bpe: unknown normalizer or alphabet, got {normalizer!r} and {alphabet!r}")
    nfkc = normalizer == "nfkc"
    pieces = _count([normalized(text, nfkc, lowercase) for text in texts], split)
    vocab = [*specials, *_alphabet(pieces, alphabet)]
    if vocab_size < len(vocab):
        raise ValueError(
            f"train_bpe: vocab_size must hold the {len(vocab)} special tokens and characters, got {vocab_size}"
        )
    spelled = [to_bytes(text) if at >= len(specials) and is_mapped(text) else b"" for at, text in enumerate(vocab)]
    byte_ids = np.full(256, -1)
    for at in range(len(specials), len(vocab)):
        if spelled[at]:
            byte_ids[spelled[at][0]] = at
    merges = bpe.train_merges(
        *pieces,
        vocab_size,
        tokens=spelled,
        byte_ids=byte_ids,
        min_frequency=min_frequency,
        max_token_length=None if max_chars is None else max_chars + 1,
    )
    for left, right, result in np.asarray(merges).tolist():
        if result == len(vocab):  # else this spelling was there before
            vocab.append(vocab[left] + vocab[right])
    added = [Added(at, text, True) for at, text in enumerate(specials)]
    return ByteLevelBPE(vocab, merges, added, nfkc=nfkc, lowercase=lowercase)


def train_domain(
    texts: Iterable[str], vocab_size: int, min_frequency: int = 10, lowercase: bool = False, extra: Iterable[str] = (),
    specials: Sequence[str] = SPECIALS,
) -> ByteLevelBPE:  # fmt: skip
    """Train a domain tokenizer: merges, then the custom tokens that they did not make, then padding.

    Merges leave room for every custom token, also for those that turn out to exist: the size before padding varies.

    Args:
        vocab_size: of special tokens, alphabet, merges and custom tokens together; padding comes on top.
        extra: phrases for :func:`legal_custom_tokens`.
        texts, min_frequency, lowercase, specials: as for :func:`train_bpe`.

    Raises:
        ValueError: as :func:`train_bpe`.

    >>> tokens = train_domain(["The Borrower shall pay."] * 20, vocab_size=2600)
    >>> tokens.size, tokens.decode(tokens.encode("(iv) The Borrower"))
    (2048, '(iv) The Borrower')
    """
    custom = legal_custom_tokens(lowercase, extra)
    target = vocab_size - len(specials) - len(custom)
    trained = train_bpe(texts, target, min_frequency, specials, lowercase=lowercase)
    return pad_to_power_of_two(trained.extended(text for text in custom if text not in trained.token_ids))


def train_characters(
    texts: Iterable[str], vocab_size: int, max_chars: int = 3, min_frequency: int = 10, lowercase: bool = False,
    specials: Sequence[str] = SPECIALS,
) -> ByteLevelBPE:  # fmt: skip
    """Train a character tokenizer: merges of at most max_chars characters over the raw alphabet, then padding.

    Args:
        texts, min_frequency, max_chars, lowercase, specials: as for :func:`train_bpe`. The released models have 3
            characters (4,096 and 8,192 ids) or 4 (16,384).
        vocab_size: before padding, the special tokens counted twice, as in the official script.

    Raises:
        ValueError: as :func:`train_bpe`.

    >>> tokens = train_characters(["The Borrower shall pay."] * 20, vocab_size=512)
    >>> max(len(tokens.vocab[result]) for result in tokens.merges[:, 2])
    3
    """
    target = vocab_size - len(specials)
    return pad_to_power_of_two(
        train_bpe(texts, target, min_frequency, specials, "raw", max_chars, lowercase=lowercase)
    )  # fmt: skip


def pad_to_power_of_two(tokenizer: ByteLevelBPE) -> ByteLevelBPE:
    """Add runs of 2, 3, ... spaces and of as many newlines until the size is the next power of two.

    A size that is a power of two already is doubled, as in the official code. Only strings are compared: two spaces
    are added beside the token that spells them in the byte alphabet, and hide it from then on. Small vocabularies get
    runs of hundreds of characters.

    >>> import numpy as np
    >>> pad_to_power_of_two(ByteLevelBPE(["a", "b"], np.zeros((0, 3)))).added
    (Added(id=2, text='  ', special=False), Added(id=3, text='\\n\\n', special=False))
    """
    missing = (1 << tokenizer.size.bit_length()) - tokenizer.size
    added: list[str] = []
    length = 2
    while len(added) < missing:
        runs = (" " * length, "\n" * length)
        added += [run for run in runs if run not in tokenizer.token_ids]
        length += 1
    return tokenizer.extended(added[:missing])


def _count(texts: list[str], split: Split | None) -> bpe.CountedPieces:
    if split is None:
        return bpe.count_pieces(texts, "gpt2")
    cut = [[piece.encode() for piece in split(text)] for text in texts]
    ends = [np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts))) for parts in cut]
    return bpe.count_pieces([b"".join(parts) for parts in cut], ends=ends)


def _alphabet(pieces: bpe.CountedPieces, kind: str) -> list[str]:
    if kind == "bytes":
        return sorted(BYTE_TO_CHAR)
    seen = {BYTE_TO_CHAR[byte] for byte in np.unique(pieces.pieces).tolist()}
    return sorted(seen.union(map(chr, range(RAW))))
