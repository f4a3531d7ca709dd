# SPDX-License-Identifier: Apache-2.0
"""What an Encoding is made of; immutable, and what its pickle holds."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tokernel.kernels import bpe
from tokernel.text._front import Front, PatternStep, SplitStep
from tokernel.text._specials import AddedToken, Finder, unique
from tokernel.text._template import Template


@dataclass(frozen=True)
class State:
    """Name, vocabulary, what precedes merging, tokens found literally, and the template around a text."""

    name: str
    vocab: bpe.Vocab
    front: Front
    added: tuple[AddedToken, ...] = ()
    template: Template = field(default_factory=Template)

    def __reduce__(self) -> tuple[Any, ...]:
        return State, (self.name, self.vocab, self.front, self.added, self.template)

    def check(self) -> None:
        """ValueError if added tokens clash with each other or with the vocabulary."""
        for token in unique(self.added):
            if self.vocab.id_of(token.content.encode()) == token.id:
                continue
            if (clash := self._token_at(token.id)) is not None:
                raise ValueError(f"Encoding: special token {token.content!r} has the id {token.id} of token {clash!r}")

    def _token_at(self, token: int) -> bytes | None:
        try:
            return bytes(self.vocab.token_bytes(token))
        except ValueError:
            return None

    @functools.cached_property
    def finder(self) -> Finder:
        """The tokens that are searched for in the text as it came."""
        return Finder([t for t in self.added if not t.normalized])

    @functools.cached_property
    def normalized_finder(self) -> Finder:
        """The tokens that are searched for after the normalizer."""
        return Finder([t for t in self.added if t.normalized], self.front.normalize)

    def may_hold_added(self, text: str) -> bool:
        """False: no added token is in the text, as it came and (if there is no normalizer) as it is searched."""
        return self.finder.may_be_in(text) or bool(self.normalized_finder.tokens)

    @functools.cached_property
    def scanner(self) -> str | None:
        """The compiled scanner that gives the same ids as the whole front, if there is one."""
        if self.front.scanner is not None or self.front.pattern is None or self._tokens_cross_a_line():
            return self.front.scanner
        return self.front.pattern.scanner

    def _tokens_cross_a_line(self) -> bool:
        """Whether a token may hold white space after a line break; else `\\s++$` changes pieces but no ids."""
        data, offsets, _ = tokens_of(self.vocab)
        breaks = (data[:-1] == 0x0A) | (data[:-1] == 0x0D)
        follows = np.isin(data[1:], np.frombuffer(b"\t\v\f \xc2\xe1\xe2\xe3", np.uint8))
        inside = np.ones(data.size + 1, bool)
        inside[offsets] = False
        return bool((breaks & follows & inside[1:-1]).any())

    @functools.cached_property
    def largest_id(self) -> int:
        """Of the vocabulary without added tokens."""
        return int(tokens_of(self.vocab)[2].max(initial=0))

    @property
    def merges(self) -> npt.NDArray[np.int64] | None:
        """(M, 3) ids of left, right and result; None for a vocabulary of ranks."""
        return None if self.vocab.ranked else self.vocab.tables()["merges"].astype(np.int64)

    def mergeable_ranks(self) -> dict[bytes, int]:
        """Token to id."""
        data, offsets, ids = tokens_of(self.vocab)
        whole, ends = data.tobytes(), offsets.tolist()
        return {whole[a:b]: i for a, b, i in zip(ends, ends[1:], ids.tolist(), strict=False)}

    def regex(self) -> str:
        """The regex of the pre-tokenizer, if it is one."""
        steps = self.front.steps
        if not steps:
            return "none"
        if len(steps) == 1 and isinstance(steps[0], PatternStep | SplitStep):
            return steps[0].pattern.regex
        raise ValueError(f"{self.name!r}: its pre-tokenizer is no single regex")

    def parts(self, text: str, allowed: AbstractSet[str] | None) -> Iterator[int | str]:
        """The text as added tokens (ids) and normalized texts between them."""
        for part in _cut(self.finder, text, allowed):
            if isinstance(part, str):
                yield from _cut(self.normalized_finder, self.front.normalize(part), allowed)
            else:
                yield part

    def encode_part(self, text: str) -> npt.NDArray[np.int32]:
        """The ids of a normalized text without added tokens."""
        if self.scanner is not None:
            return np.asarray(bpe.encode(self.vocab, text, self.scanner))
        if self.front.spaced_scanner is not None and text:
            spaced = text if text.startswith(" ") else " " + text
            return np.asarray(bpe.encode(self.vocab, spaced, self.front.spaced_scanner))
        if (cuts := self.front.cuts) is not None and cuts.scanner is not None and text:
            data, ends = cuts.parts(text)
            parts = (np.frombuffer(data, np.uint8), np.append(np.zeros(1, np.int64), ends))
            return np.asarray(bpe.encode_batch(self.vocab, parts, cuts.scanner)[0])
        whole, ends_of = self.front.prepare(text)
        return np.asarray(bpe.encode(self.vocab, whole, ends=ends_of))

    def encode(self, text: str, allowed: AbstractSet[str] | None) -> npt.NDArray[np.int32]:
        """The ids of a text; special tokens count if `allowed` names them."""
        if text and not self.may_hold_added(text):
            return self.encode_part(self.front.normalize(text))
        return np.array(self.encode_list(text, allowed), np.int32)

    def encode_list(self, text: str, allowed: AbstractSet[str] | None) -> list[int]:
        """`encode` as a list."""
        if self.scanner is not None and self.front.normalizer is None and not self.normalized_finder.tokens:
            if not self.finder.may_be_in(text):
                return bpe.encode_list(self.vocab, text, self.scanner)
            data = text.encode()
            if (found := self.finder.places(data, allowed)) is not None:
                return bpe.encode_between(self.vocab, data, self.scanner, *found)
        ids: list[int] = []
        for part in self.parts(text, allowed):
            if not isinstance(part, str):
                ids.append(part)
            elif self.scanner is not None:
                ids += bpe.encode_list(self.vocab, part, self.scanner)
            else:
                ids += self.encode_part(part).tolist()
        return ids


def _cut(finder: Finder, text: str, allowed: AbstractSet[str] | None) -> Iterator[int | str]:
    if not text or not finder.may_be_in(text):
        return iter([text] if text else [])
    data = text.encode()
    segments = finder.segments(data, allowed)
    return (data[s.start : s.end].decode() if s.id is None else s.id for s in segments)


def tokens_of(vocab: bpe.Vocab) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The tokens of a vocabulary: bytes one after the other, offsets, ids."""
    tables = vocab.tables()
    return tables["token_bytes"], tables["token_offsets"].astype(np.int64), tables["ids"].astype(np.int64)
