# SPDX-License-Identifier: Apache-2.0
"""Learn a byte-level vocabulary from texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from tokernel.kernels import bpe
from tokernel.text._byte_map import BYTE_TO_CHAR
from tokernel.text._corpus import Corpus, Form, as_pattern, check_forms, count_texts, counter_of
from tokernel.text._counts import PieceCounts, words_of
from tokernel.text._front import Front, PatternStep
from tokernel.text._normalizers import Normalizer, parse
from tokernel.text._progress import Progress, telling
from tokernel.text._shards import Shards
from tokernel.text._specials import from_dict
from tokernel.text._state import State
from tokernel.text.encoding import Encoding
from tokernel.text.pretokenizer import Pattern

__all__ = ["train"]

Alphabet: TypeAlias = "Literal['bytes', 'seen'] | bytes | Iterable[int]"
Ids: TypeAlias = Literal["hf", "bytes"]


def train(
    texts: Corpus | PieceCounts,
    vocab_size: int,
    pattern: str | Pattern = "gpt2",
    specials: Sequence[str] = (),
    *,
    min_frequency: int = 0,
    max_token_length: int | None = None,
    alphabet: Alphabet = "bytes",
    ids: Ids = "hf",
    normalizer: Form | Sequence[Form] | None = None,
    lines: bool = False,
    name: str = "trained",
    threads: int | None = None,
    shards: Shards = "local",
    progress: Progress = None,
) -> Encoding:
    """Train byte-level BPE on texts, files or counted pieces.

    The most frequent pair of neighbours inside pieces becomes one token, again and again; among pairs of equal count
    the one with the smaller left id, then the smaller right id. Vocabulary and merges are those of the tokenizers
    library's `BpeTrainer` with the byte-level alphabet, for any number of threads and shards and any order of texts;
    counts do not overflow (that library adds in 32 bits).

    Args:
        texts: what :func:`count_texts` takes, or its result, counted with the same pattern and normalizer.
        vocab_size: tokens in all, special ones and the alphabet included; fewer when no pair is frequent enough.
        pattern: the name of a scanner, a regex, or a `Pattern`.
        specials: special tokens, the lowest ids ("hf") or the highest ("bytes").
        min_frequency: pairs of smaller count are not merged.
        max_token_length: in bytes, as the tokenizers library has it: a pair with a merged token in it is eligible only
            if its length is less than this, so that tokens are shorter; pairs of two bytes always are.
        alphabet: which bytes have tokens: "bytes" (all), "seen", or the seen and these. A byte without one is dropped
            when encoding.
        ids: "hf": special tokens, the alphabet in the order of its printable characters, merges. "bytes": byte b is
            token b, merges, special tokens, as in rustbpe and tiktoken files; ties between pairs follow these ids.
        normalizer: "nfc", "nfd", "nfkc", "nfkd", "lower", or several of them in order; the encoding has it too.
        lines: whether lines of files are texts; see :func:`count_texts`.
        name: of the encoding.
        threads: how many count at most; None: all.
        shards: "local", "dask" or "ray"; see :func:`count_texts`.
        progress: a function of (tokens, vocab_size); True for a bar; None for a bar on a terminal.

    Raises:
        ValueError: `vocab_size` has no room for special tokens and alphabet, or an argument is out of its range.
        TypeError: an argument of another type.

    >>> enc = train(["low lower lowest " * 3], 262, "gpt2", ["<|endoftext|>"], progress=False)
    >>> enc.encode("lower<|endoftext|>", allowed_special="all")
    [258, 69, 82, 0]
    >>> enc.decode_single_token_bytes(258)
    b'low'

    Source: R. Sennrich et al., arXiv 1508.07909, on bytes.
    """
    if not hasattr(vocab_size, "__index__"):
        raise TypeError(f"train: vocab_size must be an integer, got {type(vocab_size).__name__}")
    cut = as_pattern("train", pattern)
    forms = check_forms("train", normalizer)
    _check_specials(specials)
    words = _words(texts, cut, forms, lines, threads, shards)
    start = _Start.of(specials, _alphabet(alphabet, words.pieces), ids, vocab_size)
    with telling(progress, "merges", vocab_size) as tell:
        known = len(start.tokens) + start.behind
        merges = bpe.train_merges(
            *words,
            vocab_size - start.behind,
            tokens=start.tokens,
            byte_ids=start.byte_ids,
            min_frequency=min_frequency,
            max_token_length=max_token_length,
            progress=None if tell is None else lambda done: tell(known + done),
        )
    vocab = _vocab(start, merges, ids)
    first = 0 if ids == "hf" else vocab.size
    added = from_dict({special: first + i for i, special in enumerate(specials)})
    return Encoding._of(State(name, vocab, Front([PatternStep(cut)], _normalizer(forms)), added))


def _words(
    texts: Corpus | PieceCounts,
    pattern: Pattern,
    forms: Sequence[Form],
    lines: bool,
    threads: int | None,
    shards: Shards,
) -> bpe.CountedPieces:
    if isinstance(texts, PieceCounts):
        return words_of(texts)
    if shards == "local":
        return words_of(counter_of("train", texts, pattern, forms, lines, threads))
    return words_of(count_texts(texts, pattern, normalizer=forms, lines=lines, shards=shards))


def _check_specials(specials: Sequence[str]) -> None:
    if isinstance(specials, str) or not all(isinstance(s, str) for s in specials):
        raise TypeError(f"train: specials must be a sequence of str, got {specials!r}")
    if len(set(specials)) < len(specials) or "" in specials:
        raise ValueError(f"train: specials must be different and not empty, got {list(specials)!r}")


def _alphabet(alphabet: Alphabet, pieces: npt.NDArray[np.uint8]) -> list[int]:
    """The bytes that have tokens, ascending."""
    wanted: set[int] = set()
    if isinstance(alphabet, str):
        if alphabet not in ("bytes", "seen"):
            raise ValueError(f"train: alphabet must be 'bytes', 'seen' or bytes, got {alphabet!r}")
        if alphabet == "bytes":
            return list(range(256))
    else:
        wanted = set(alphabet)
        if not all(isinstance(b, int) and 0 <= b < 256 for b in wanted):
            raise ValueError("train: alphabet must be of bytes in [0, 256), got something else")
    return sorted(wanted.union(np.flatnonzero(np.bincount(pieces, minlength=256)).tolist()))


class _Start:
    """What training begins with: spellings of the first tokens, the id of every byte, special tokens to come."""

    def __init__(self, tokens: list[bytes], byte_ids: npt.NDArray[np.int64], behind: int) -> None:
        self.tokens = tokens
        self.byte_ids = byte_ids
        self.behind = behind

    @classmethod
    def of(cls, specials: Sequence[str], alphabet: Sequence[int], ids: Ids, vocab_size: int) -> _Start:
        if ids == "hf":
            start = cls._of_hf(specials, alphabet)
        elif ids == "bytes":
            if len(alphabet) < 256:
                raise ValueError(f"train: alphabet must be 'bytes' where ids='bytes', got {len(alphabet)} of 256")
            start = cls([bytes([b]) for b in range(256)], np.arange(256), len(specials))
        else:
            raise ValueError(f"train: ids must be 'hf' or 'bytes', got {ids!r}")
        if vocab_size < len(start.tokens) + start.behind:
            raise ValueError(
                f"train: vocab_size must be at least {len(start.tokens) + start.behind}, which is {len(specials)} "
                f"special tokens and an alphabet of {len(alphabet)}, got {vocab_size}"
            )
        return start

    @classmethod
    def _of_hf(cls, specials: Sequence[str], alphabet: Sequence[int]) -> _Start:
        """Spelled in printable characters: a special token that is one of them, or a merge of them, is that token."""
        chars = sorted(BYTE_TO_CHAR[b] for b in alphabet)
        tokens = [*specials, *(c for c in chars if c not in specials)]
        of = {token: i for i, token in enumerate(tokens)}
        present = set(alphabet)
        byte_ids = [of[BYTE_TO_CHAR[b]] if b in present else -1 for b in range(256)]
        return cls([t.encode() for t in tokens], np.array(byte_ids, np.int64), 0)


def _vocab(start: _Start, merges: npt.NDArray[np.int64], ids: Ids) -> bpe.Vocab:
    """The vocabulary without special tokens that no text can give."""
    spelled = {int(i): bytes([b]) for b, i in enumerate(start.byte_ids) if i >= 0}
    for left, right, result in merges.tolist():
        spelled[result] = spelled[left] + spelled[right]
    if ids == "bytes":
        return bpe.Vocab(list(spelled.values()))
    order = sorted(spelled)
    missing: Literal["error", "drop"] = "error" if (start.byte_ids >= 0).all() else "drop"
    tokens = [spelled[i] for i in order]
    return bpe.Vocab(tokens, np.array(order, np.int64), merges, whole_piece=False, missing=missing)


def _normalizer(forms: Sequence[Form]) -> Normalizer | None:
    steps = [{"type": "Lowercase"} if form == "lower" else {"type": form.upper()} for form in forms]
    if not steps:
        return None
    return parse(steps[0] if len(steps) == 1 else {"type": "Sequence", "normalizers": steps}, "train")
