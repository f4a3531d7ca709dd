# SPDX-License-Identifier: Apache-2.0
"""Batches whose tokens are merged for themselves alone (dynamic tokenization)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from tokernel.kernels import bpe
from tokernel.text._dynamic_boundary import BaseTokenizer, BoundaryName, Token, is_punctuation, pair_test

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
NEW = -1


@dataclass(frozen=True, eq=False)
class DynamicBatch:
    """B sequences of tokens, some of which no vocabulary has: tokens are rows of the batch's own table."""

    tokens: Int64s
    """(N,) rows of the table, sequence after sequence."""
    offsets: Int64s
    """(B + 1,): sequence b has tokens[offsets[b]:offsets[b + 1]]."""
    table: list[bytes]
    """T different tokens as byte strings, in the order in which they first occur; special ones spelt out."""
    base_ids: Int64s
    """(T,) id in the base vocabulary, or -1 for a token that is not in it."""
    special: Bools
    """(T,) special tokens."""
    word_ids: Int64s | None
    """(N,) the word that a token comes from, counted in its sequence, -1 for special tokens; None without words."""
    merges: list[tuple[bytes, bytes]]
    """The pair of each merge, in order."""
    replaced: Int64s
    """(m,) by how many tokens each merge shortened the batch."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def sequence(self, b: int) -> list[bytes]:
        """The byte strings of sequence b."""
        return [self.table[t] for t in self.tokens[self.offsets[b] : self.offsets[b + 1]]]

    def padded(self, side: Literal["right", "left"] = "right") -> tuple[Int64s, Bools]:
        """Rows of the table (B, L), 0 where padded, and the mask (B, L), True at tokens; L is the longest length.

        Encoders pad on the right, decoders that score on the left.
        """
        if side not in ("right", "left"):
            raise ValueError(f"padded: side must be 'right' or 'left', got {side!r}")
        lengths = np.diff(self.offsets)
        width = int(lengths.max(initial=0))
        place = np.arange(width) - (0 if side == "right" else width - lengths[:, None])
        mask = (place >= 0) & (place < lengths[:, None])
        rows = np.zeros(mask.shape, np.int64)
        rows[mask] = self.tokens
        return rows, mask


class Names:
    """The byte strings of ids while one batch is merged: those of the tokenizer, and those made on the way."""

    def __init__(self, tokenizer: BaseTokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, Token] = {}
        self._made: dict[bytes, int] = {}

    def __getitem__(self, id: int) -> Token:
        token = self._known.get(id)
        if token is None:
            text = self._tokenizer.decode_single_token_bytes(id)
            special = self._tokenizer.is_special_token(id)
            token = self._known[id] = Token(text, special, is_punctuation(text))
        return token

    def join(self, a: int, b: int, new: int) -> int:
        """The id of a concatenation: that of the vocabulary's token with these bytes, or the one made before."""
        text = self[a].text + self[b].text
        id = self._tokenizer.vocab.id_of(text)
        if id is None:
            id = self._made.setdefault(text, new)
        if id not in self._known:
            self._known[id] = Token(text, False, id < self._tokenizer.n_vocab and is_punctuation(text))
        return int(id)


def merge(
    ids: Int32s,
    offsets: Int64s,
    tokenizer: BaseTokenizer,
    within: BoundaryName | Callable[[bytes, bytes], bool],
    max_merges: int | None,
) -> tuple[bpe.MergedBatch, Names]:
    """Merge one batch; return what came out, and the strings of its ids."""
    names = Names(tokenizer)
    if callable(within):
        rule = within

        def valid(a: int, b: int) -> bool:
            return rule(names[a].text, names[b].text)
    else:
        test = pair_test(within, tokenizer)

        def valid(a: int, b: int) -> bool:
            return test(names[a], names[b])

    merged = bpe.merge_pairs_batch(
        ids, offsets, max_merges, valid, next_id=max(tokenizer.n_vocab, int(ids.max(initial=-1)) + 1), join=names.join
    )
    return merged, names


def dynamic_merge(
    batch_ids: npt.ArrayLike,
    offsets: npt.ArrayLike,
    tokenizer: BaseTokenizer,
    boundary: BoundaryName | Callable[[bytes, bytes], bool] = "pretokens",
    max_merges: int | None = None,
) -> bpe.MergedBatch:
    """Merge neighbouring tokens of one batch, the most frequent pair first, where a boundary allows it.

    The rule of :func:`tokernel.kernels.bpe.merge_pairs_batch`: largest count, of equals the pair met first; the new
    token is the concatenation of the bytes, and is the base vocabulary's own token where there is one (a special token
    never is: text that spells one stays text). A pair (a, b) with c = a + b is valid if c has no space, newline or tab
    behind its first byte, unless c is made of these alone and is not two newlines; and

    - sentence: neither is special;
    - otherwise, if c is no UTF-8: always. If it is:
    - pretokens: the tokenizer's pre-tokenizer makes one piece of c;
    - word: splitting c at white space gives one piece, and neither is special;
    - word_hyphen: as word, and a punctuation token comes after one that is none only if it is a hyphen. Punctuation
      tokens are of the base vocabulary, with one of ``.,!?;:()-"'\\/`$%&*+<=>@[]^_{|}~`` and no digit.

    Args:
        batch_ids: (N,) ids of the tokenizer.
        offsets: (B + 1,): sequence b is batch_ids[offsets[b]:offsets[b + 1]].
        tokenizer: a `tokernel.text.Encoding`.
        boundary: one of the four names, or a function of the two byte strings.
        max_merges: no limit by default.

    Returns:
        MergedBatch; new tokens have the ids n_vocab, n_vocab + 1, ... and parts gives what they are made of.

    Raises:
        ValueError: an unknown boundary, or ids, offsets or max_merges are out of range.
        TypeError: ids or offsets are no integers.

    >>> from tokernel.text import Encoding
    >>> ranks = {bytes([b]): b for b in range(256)}
    >>> encoding = Encoding("bytes", pat_str="gpt2", mergeable_ranks=ranks, special_tokens={})
    >>> dynamic_merge(list(b"ab ab"), [0, 5], encoding, max_merges=2).parts
    array([[ 97,  98],
           [ 32, 256]], dtype=int32)

    Dynamic tokenization (arXiv 2411.18553), section 3; rules of the official code.
    """
    ids, cuts = np.asarray(batch_ids), np.asarray(offsets)
    return merge(ids, cuts, tokenizer, boundary, max_merges)[0]


class DynamicTokenizer:
    """A tokenizer that merges further in every batch, for that batch alone.

    The result depends on the batch: the same text is cut differently in other company, and differently again by itself.
    Fix the composition of batches in evaluations, and do not cache keys and values of merged inputs across requests.

    Args:
        tokenizer: a `tokernel.text.Encoding`.
        boundary: where merges stop, see :func:`dynamic_merge`: "pretokens", "word", "word_hyphen" or "sentence".
        bos: special token that begins every sequence, or None.
        eos: special token that ends every sequence, or None (multiple-choice prompts of decoders have none).

    Raises:
        ValueError: an unknown boundary, or bos or eos is no special token.

    >>> from tokernel.text import Encoding
    >>> ranks = {bytes([b]): b for b in range(256)} | {b"th": 256, b"the": 257}
    >>> encoding = Encoding("small", pat_str="gpt2", mergeable_ranks=ranks, special_tokens={"<s>": 258})
    >>> batch = DynamicTokenizer(encoding, "word", bos="<s>").tokenize_batch(["then the", "then"], max_merges=1)
    >>> batch.sequence(0), batch.sequence(1), batch.merges
    ([b'<s>', b'then', b' ', b'the'], [b'<s>', b'then'], [(b'the', b'n')])
    >>> batch.base_ids
    array([258,  -1,  32, 257])

    Dynamic tokenization (arXiv 2411.18553), section 3. Validity is kept for a batch, not longer: memory stays bounded.
    """

    def __init__(
        self,
        tokenizer: BaseTokenizer,
        boundary: BoundaryName | Callable[[bytes, bytes], bool] = "pretokens",
        *,
        bos: str | None = None,
        eos: str | None = None,
    ) -> None:
        if not callable(boundary):
            pair_test(boundary, tokenizer)  # says what is wrong with a name
        self.tokenizer = tokenizer
        self.boundary = boundary
        self._bos = _special_ids(tokenizer, "bos", bos)
        self._eos = _special_ids(tokenizer, "eos", eos)

    def tokenize_batch(
        self,
        texts: Sequence[str] | Sequence[Sequence[str]],
        max_merges: int | None = None,
        *,
        max_length: int | None = None,
    ) -> DynamicBatch:
        """Tokenize texts as usual, cut them to ``max_length`` tokens (the last one stays), and merge.

        Sequences of words instead of texts are tokenized word by word, and their tokens know their word; a merged token
        belongs to the word of its left part.

        Args:
            texts: B texts, or B sequences of words.
            max_merges: the budget of the batch; None merges all that the boundary allows.
            max_length: of a sequence before merging, its special tokens included.

        Raises:
            ValueError: max_length leaves no room for the special tokens, or max_merges is negative.
            TypeError: texts is a str.
        """
        ids, offsets, words = self._base(texts, max_length)
        merged, names = merge(ids, offsets, self.tokenizer, self.boundary, max_merges)
        rows, first, tokens = np.unique(merged.ids, return_index=True, return_inverse=True)
        order = np.argsort(first)
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        table = [names[int(id)] for id in rows[order]]
        made = rows[order] >= self.tokenizer.n_vocab
        return DynamicBatch(
            tokens=rank[tokens.reshape(-1)],
            offsets=merged.offsets,
            table=[token.text for token in table],
            base_ids=np.where(made, NEW, rows[order]).astype(np.int64),
            special=np.array([token.special for token in table], bool),
            word_ids=None if words is None else words[_left_parts(ids, merged.ids, names)],
            merges=[(names[a].text, names[b].text) for a, b in merged.parts.tolist()],
            replaced=merged.replaced,
        )

    def _base(
        self, texts: Sequence[str] | Sequence[Sequence[str]], max_length: int | None
    ) -> tuple[Int32s, Int64s, Int64s | None]:
        if isinstance(texts, str):
            raise TypeError("tokenize_batch: texts must be a sequence of texts, got str")
        room = None if max_length is None else max_length - len(self._bos) - len(self._eos)
        if room is not None and room < 0:
            raise ValueError(f"tokenize_batch: max_length must have room for the special tokens, got {max_length}")
        by_word = any(not isinstance(text, str) for text in texts)
        rows, words = [], []
        for text in texts:
            pieces = [self.tokenizer.encode_ordinary(word) for word in ([text] if isinstance(text, str) else text)]
            row = list(itertools.chain.from_iterable(pieces))[:room]
            owner = list(itertools.chain.from_iterable([w] * len(piece) for w, piece in enumerate(pieces)))[:room]
            rows.append([*self._bos, *row, *self._eos])
            words.append([*(NEW for _ in self._bos), *owner, *(NEW for _ in self._eos)])
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        return _flat(rows).astype(np.int32), offsets, _flat(words) if by_word else None


def _flat(rows: Iterable[list[int]]) -> Int64s:
    return np.fromiter(itertools.chain.from_iterable(rows), np.int64)


def _special_ids(tokenizer: BaseTokenizer, name: str, token: str | None) -> list[int]:
    if token is None:
        return []
    id = tokenizer.encode_single_token(token)
    if not tokenizer.is_special_token(id):
        raise ValueError(f"DynamicTokenizer: {name} must be a special token, got {token!r}")
    return [id]


def _left_parts(before: Int32s, after: Int32s, names: Names) -> Int64s:
    """For each token after merging, the place before it of the token that it begins with: both begin at the same byte
    of all sequences put together."""

    def starts(ids: Int32s) -> Int64s:
        lengths = np.array([len(names[id].text) for id in ids.tolist()], np.int64)
        return np.cumsum(lengths) - lengths

    return np.searchsorted(starts(before), starts(after))


def merges_to_length(
    tokenizer: DynamicTokenizer,
    batches: Iterable[Sequence[str]],
    max_merges: int,
    *,
    max_length: int | None = None,
) -> npt.NDArray[np.float64]:
    """Mean length of a sequence after 0, 1, ..., max_merges merges a batch, over a sample of batches.

    Returns:
        (max_merges + 1,) float64, never rising; batches in which no pair is left keep their length.

    Raises:
        ValueError: there is no sequence, or max_merges is negative.

    >>> from tokernel.text import Encoding
    >>> ranks = {bytes([b]): b for b in range(256)}
    >>> encoding = Encoding("bytes", pat_str="gpt2", mergeable_ranks=ranks, special_tokens={})
    >>> merges_to_length(DynamicTokenizer(encoding), [["ab ab", "ab"]], 3)
    array([3.5, 2. , 1.5, 1.5])
    """
    if max_merges < 0:
        raise ValueError(f"merges_to_length: max_merges must be at least 0, got {max_merges}")
    total, count = np.zeros(max_merges + 1), 0
    for texts in batches:
        batch = tokenizer.tokenize_batch(texts, max_merges, max_length=max_length)
        saved = np.zeros(max_merges + 1)
        saved[1 : 1 + len(batch.replaced)] = batch.replaced
        total += len(batch.tokens) + batch.replaced.sum() - np.cumsum(saved)
        count += len(batch)
    if count == 0:
        raise ValueError("merges_to_length: batches must hold at least one text")
    return total / count


def merges_for_reduction(lengths: npt.ArrayLike, reduction: float) -> int:
    """The least number of merges whose mean length is at most ``(1 - reduction)`` of that without merges.

    Args:
        lengths: what :func:`merges_to_length` returned.
        reduction: in [0, 1).

    Raises:
        ValueError: reduction is outside [0, 1), or no number of the table reaches it.

    >>> merges_for_reduction([3.5, 2.0, 1.5, 1.5], 0.5)
    2
    """
    table = np.asarray(lengths, np.float64)
    if not 0 <= reduction < 1:
        raise ValueError(f"merges_for_reduction: reduction must be in [0, 1), got {reduction}")
    enough = np.flatnonzero(table <= (1 - reduction) * table[0])
    if enough.size == 0:
        reached = 1 - table[-1] / table[0]
        raise ValueError(
            f"merges_for_reduction: reduction must be at most {reached:.4f} in this table, got {reduction}"
        )
    return int(enough[0])
