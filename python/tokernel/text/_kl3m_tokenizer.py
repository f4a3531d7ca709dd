# SPDX-License-Identifier: Apache-2.0
"""A byte-level tokenizer with whole tokens added to it, as Hugging Face's library runs it."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokernel.kernels import bpe
from tokernel.text import _kl3m_json
from tokernel.text._byte_map import is_mapped, to_bytes

Ids = NDArray[np.int32]


class Added(NamedTuple):
    """A token outside the merges. Special ones are found in the text as it is, the others after normalisation."""

    id: int
    text: str
    special: bool


class ByteLevelBPE:
    """Byte-level BPE with GPT-2's splits, NFKC, and added tokens cut out first.

    Added tokens are found leftmost-longest, the special ones before anything else. What lies between them is split by
    GPT-2's pattern and merged; a byte without a token is dropped without a word, as in the official tokenizers.

    Args:
        vocab: the strings of ids 0, 1, ... in GPT-2's byte alphabet. Strings that spell no bytes are legal, and dead.
        merges: (M, 3) ids left, right, result, in the order of training.
        added: tokens with ids of their own, or of a string of `vocab`.
        nfkc, lowercase: how a text is normalised.

    Raises:
        ValueError: an added token that is empty, or an id that two of them share.

    >>> import numpy as np
    >>> tokens = ByteLevelBPE(["a", "b", "ab"], np.array([[0, 1, 2]]), [Added(3, "--", False)])
    >>> tokens.encode("ab--Ba").tolist(), tokens.decode([2, 3, 0])  # no token for B
    ([2, 3, 0], 'ab--a')
    """

    def __init__(
        self, vocab: Sequence[str], merges: NDArray[np.integer], added: Iterable[Added] = (), *, nfkc: bool = True,
        lowercase: bool = False,
    ) -> None:  # fmt: skip
        self.vocab, self.added = tuple(vocab), tuple(added)
        self.merges = np.asarray(merges, np.int64).reshape(-1, 3)
        self.nfkc, self.lowercase = nfkc, lowercase
        if not all(token.text for token in self.added):
            raise ValueError("ByteLevelBPE: an added token must not be empty")
        if len({token.id for token in self.added}) != len(self.added):
            raise ValueError("ByteLevelBPE: two added tokens share an id")
        outside = {token.id for token in self.added}
        alive = [at for at, text in enumerate(self.vocab) if at not in outside and text and is_mapped(text)]
        self._bytes = bpe.Vocab(
            [to_bytes(self.vocab[at]) for at in alive], ids=alive, merges=self.merges, whole_piece=False, missing="drop"
        )

    @property
    def size(self) -> int:
        """Ids in use."""
        return len(self._spelling)

    @cached_property
    def token_ids(self) -> dict[str, int]:
        """Ids of strings: those of `vocab` in the byte alphabet, added tokens as they are."""
        return {text: at for at, text in enumerate(self.vocab)} | {token.text: token.id for token in self.added}

    def normalize(self, text: str) -> str:
        """What the merges see of a text."""
        return normalized(text, self.nfkc, self.lowercase)

    def encode(self, text: str) -> Ids:
        """Find the ids (N,) int32 of a text."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """Find the ids of every text, all threads at work."""
        parts = [list(self._parts(_whole(text))) for text in texts]
        plain = [part for each in parts for part in each if isinstance(part, bytes)]
        ids, offsets = bpe.encode_batch(self._bytes, plain, pattern="gpt2")
        merged = iter(np.split(np.asarray(ids), offsets[1:-1])) if plain else iter(())
        return [
            np.concatenate(
                [next(merged) if isinstance(p, bytes) else np.array([p], np.int32) for p in each] or [np.zeros(0)],
            ).astype(np.int32)
            for each in parts
        ]

    def encode_padded(self, texts: Sequence[str], pad: str = "<|pad|>") -> tuple[Ids, NDArray[np.bool_]]:
        """Ids (B, N) of a batch, the shorter ones padded on the left, and where they are no padding."""
        rows = self.encode_batch(texts)
        width = max(map(len, rows), default=0)
        ids = np.full((len(rows), width), self.token_ids[pad], np.int32)
        real = np.zeros(ids.shape, bool)
        for at, row in enumerate(rows):
            ids[at, width - len(row) :], real[at, width - len(row) :] = row, True
        return ids, real

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Join the bytes of tokens.

        Raises:
            ValueError: an id without a token.
        """
        spelling = self._spelling
        try:
            return b"".join([spelling[int(token)] for token in ids])
        except KeyError as unknown:
            raise ValueError(f"ByteLevelBPE.decode: no token has the id {unknown.args[0]}") from None

    def decode(self, ids: Iterable[int]) -> str:
        """Join tokens to a text; bytes that are no UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def extended(self, added: Iterable[str]) -> ByteLevelBPE:
        """Copy the tokenizer with more added tokens, which get the next ids."""
        more = [Added(self.size + at, text, False) for at, text in enumerate(added)]
        return ByteLevelBPE(
            self.vocab, self.merges, [*self.added, *more], nfkc=self.nfkc, lowercase=self.lowercase
        )  # fmt: skip

    def to_hf_json(self, path: str | os.PathLike[str]) -> None:
        """Write a tokenizer.json; a failure leaves an old file whole."""
        _kl3m_json.save(
            path, _kl3m_json.document_of(self.vocab, self.merges, self.added, self.nfkc, self.lowercase)
        )  # fmt: skip

    @classmethod
    def from_hf_json(cls, path: str | os.PathLike[str]) -> ByteLevelBPE:
        """Read a tokenizer.json of this kind.

        Raises:
            ValueError: a field that says anything this class does not do.
        """
        fields = _kl3m_json.fields_of(json.loads(Path(path).read_text(encoding="utf-8")))
        return cls(**fields | {"added": [Added(*each) for each in fields["added"]]})

    def _parts(self, text: str) -> Iterator[bytes | int]:
        """Cut a text: ids of added tokens, and what lies between them, normalised."""
        for special in _cut(text.encode(), self._special):
            if isinstance(special, int):
                yield special
            else:
                yield from _cut(self.normalize(special.decode()).encode(), self._words)

    @cached_property
    def _special(self) -> bpe.Trie | None:
        found = [token for token in self.added if token.special]
        return bpe.Trie([t.text.encode() for t in found], values=[t.id for t in found]) if found else None

    @cached_property
    def _words(self) -> bpe.Trie | None:
        found = {self.normalize(token.text): token.id for token in self.added if not token.special}
        return bpe.Trie([text.encode() for text in found], values=list(found.values())) if found else None

    @cached_property
    def _spelling(self) -> dict[int, bytes]:
        spelled = {at: to_bytes(text) if is_mapped(text) else text.encode() for at, text in enumerate(self.vocab)}
        return spelled | {token.id: token.text.encode() for token in self.added}


def normalized(text: str, nfkc: bool, lowercase: bool) -> str:
    """NFKC, then lower case, one character after the other: no final sigma, as in Rust.

    >>> normalized("ﬁ ΟΔΟΣ", nfkc=True, lowercase=True)
    'fi οδοσ'
    """
    if nfkc:
        text = unicodedata.normalize("NFKC", text)
    if not lowercase:
        return text
    return "".join(map(str.lower, text)) if "Σ" in text else text.lower()


def _whole(text: str) -> str:
    """The text, its lone surrogates replaced."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _cut(text: bytes, trie: bpe.Trie | None) -> Iterator[bytes | int]:
    begin = 0
    found = zip(*(each.tolist() for each in trie.find_all(text)), strict=True) if trie is not None else ()
    for start, end, token in found:
        if begin < start:
            yield text[begin:start]
        yield token
        begin = end
    if begin < len(text):
        yield text[begin:]
