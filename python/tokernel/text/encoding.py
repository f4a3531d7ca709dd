# SPDX-License-Identifier: Apache-2.0
"""A tokenizer: a vocabulary, the merges it implies, a pre-tokenizer and special tokens."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from tokernel.kernels import bpe
from tokernel.text import _bytes_input, _offsets, _registry, _unstable
from tokernel.text._decode import Decoding
from tokernel.text._errors import UnknownTokenError
from tokernel.text._files import Files
from tokernel.text._front import Front, PatternStep
from tokernel.text._specials import ALL, check_disallowed, from_dict
from tokernel.text._state import State
from tokernel.text.pretokenizer import Pattern

if TYPE_CHECKING:
    import torch

__all__ = ["Encoding"]

Text = str | bytes | bytearray | memoryview | npt.NDArray[np.uint8]
Allowed = Literal["all"] | AbstractSet[str]
Disallowed = Literal["all"] | Collection[str]
_NONE: frozenset[str] = frozenset()


class Encoding(Decoding, Files):
    r"""Byte-level BPE with every method of `tiktoken.Encoding`, the same arguments and the same ids.

    `pat_str` is the pre-tokenizer's regex (or the name of a scanner: "gpt2", "cl100k", ...), `mergeable_ranks` gives
    every token its rank, which is its id and its priority, `special_tokens` ids to texts that are found literally.
    `Encoding.from_tiktoken`, `from_hf`, `from_tekken` and `tokernel.text.get_encoding` read files.

    A str may hold lone surrogates (they become U+FFFD). Bytes are accepted too; `errors` says what becomes of those
    that are no UTF-8: "replace" (U+FFFD), "tiktoken" (its rule for bytes: the text before them as usual, its last
    piece and the rest merged without a split) or "raw" (all bytes are one piece, without a split: lossless). The last
    two look for no special tokens.

    Immutable, picklable, and safe to share between threads. Source: Sennrich et al., arXiv 1508.07909, on bytes.

    >>> from tokernel.text import Encoding
    >>> ranks = {bytes([i]): i for i in range(256)} | {b"he": 256, b"ll": 257, b"hell": 258, b"hello": 259}
    >>> enc = Encoding("small", pat_str="gpt2", mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 260})
    >>> enc.encode("hello hell<|endoftext|>", allowed_special="all")
    [259, 32, 258, 260]
    >>> enc.decode([259, 32, 258])
    'hello hell'
    """

    def __init__(
        self,
        name: str,
        *,
        pat_str: str,
        mergeable_ranks: Mapping[bytes, int],
        special_tokens: Mapping[str, int],
        explicit_n_vocab: int | None = None,
    ) -> None:
        if not mergeable_ranks:
            raise ValueError("Encoding: mergeable_ranks: expected at least one token, got none")
        ids = np.array(list(mergeable_ranks.values()))
        if ids.dtype.kind != "i":
            raise TypeError(f"Encoding: mergeable_ranks: expected integer ranks, got {ids.dtype}")
        vocab = bpe.Vocab(list(mergeable_ranks), ids)
        self._set(State(name, vocab, Front([PatternStep(Pattern(pat_str))]), from_dict(special_tokens)))
        count = len(mergeable_ranks) + len(special_tokens)
        if explicit_n_vocab and explicit_n_vocab != count:
            raise ValueError(f"Encoding: explicit_n_vocab: {explicit_n_vocab}, but there are {count} tokens")
        if explicit_n_vocab and explicit_n_vocab != self.n_vocab:
            raise ValueError(f"Encoding: explicit_n_vocab: {explicit_n_vocab}, but ids go to {self.max_token_value}")

    @classmethod
    def _of(cls, state: State) -> Encoding:
        new = cls.__new__(cls)
        new._set(state)
        return new

    def _set(self, state: State) -> None:
        state.check()
        self._state = state
        self.name = state.name
        self.vocab = state.vocab
        self._added = state.added
        self._added_bytes = {t.id: t.content.encode() for t in reversed(state.added)}
        self._special_ids = frozenset(t.id for t in state.added if t.special)
        self._specials = frozenset(t.content for t in state.added if t.special)
        self._scanner = state.scanner
        self._has_words = len(self._specials) < len(state.added)  # tokens that are found without being allowed
        self._one_part = not self._has_words and state.front.normalizer is None
        self.max_token_value: int = max(state.largest_id, *(self._added_bytes or (0,)))

    def __repr__(self) -> str:
        return f"<Encoding {self.name!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        if _registry.is_named(self):
            return _registry.get_encoding, (self.name,)
        return _restore, (self._state,)

    # To ids

    def encode_ordinary(self, text: Text, *, errors: str = "replace") -> list[int]:
        """The ids of a text in which no special token counts.

        >>> from tokernel.text import train
        >>> enc = train(["low lower lowest " * 3], 262, "gpt2", progress=False)
        >>> enc.encode_ordinary("low lower")
        [257, 261]
        """
        if self._scanner is not None and self._one_part and type(text) is str:  # the common case, kept short
            try:
                return bpe.encode_list(self.vocab, text, self._scanner)
            except ValueError:
                text = _bytes_input.repaired_or_raise(text)
        return self._list(text, _NONE, _NONE, errors)

    def encode(
        self,
        text: Text,
        *,
        allowed_special: Allowed = _NONE,
        disallowed_special: Disallowed = ALL,
        errors: str = "replace",
    ) -> list[int]:
        """The ids of a text. Special tokens in `allowed_special` ("all": every one) become their ids; texts in
        `disallowed_special` ("all": every special token that is not allowed) raise ValueError; what is in neither is
        plain text. The text between special tokens is split as separate texts. Where several special tokens begin at
        one place, the longest counts.

        >>> from tokernel.text import train
        >>> enc = train(["low lower lowest " * 3], 263, "gpt2", ["<|end|>"], progress=False)
        >>> enc.encode("low lower<|end|>", allowed_special="all")
        [258, 262, 0]
        """
        if disallowed_special == ALL and type(text) is str and not self._state.may_hold_added(text):
            return self.encode_ordinary(text)  # nothing to allow or to refuse
        return self._list(text, allowed_special, disallowed_special, errors)

    def encode_to_numpy(
        self,
        text: Text,
        *,
        allowed_special: Allowed = _NONE,
        disallowed_special: Disallowed = ALL,
        errors: str = "replace",
    ) -> npt.NDArray[np.uint32]:
        """`encode` as a uint32 array, without a list in between."""
        return self._array(text, allowed_special, disallowed_special, errors).view(np.uint32)

    def encode_to_tensor(
        self,
        text: Text,
        *,
        allowed_special: Allowed = _NONE,
        disallowed_special: Disallowed = ALL,
        errors: str = "replace",
    ) -> torch.Tensor:
        """`encode` as an int32 tensor that owns the kernel's output (needs torch)."""
        import torch

        return torch.from_numpy(self._array(text, allowed_special, disallowed_special, errors))

    def encode_ordinary_batch(
        self, text: Sequence[Text], *, num_threads: int | None = None, errors: str = "replace"
    ) -> list[list[int]]:
        """`encode_ordinary` of every text, in parallel (None: on tokernel.get_num_threads() threads)."""
        if self._scanner is None or not self._one_part or not all(isinstance(t, str) for t in text):
            return [self.encode_ordinary(t, errors=errors) for t in text]
        texts = [str(t) for t in text]
        try:
            return bpe.encode_lists(self.vocab, texts, self._scanner, num_threads)
        except ValueError:
            fixed = [_bytes_input.clean(t) for t in texts]
            if fixed == texts:
                raise
            return bpe.encode_lists(self.vocab, fixed, self._scanner, num_threads)

    def encode_batch(
        self,
        text: Sequence[Text],
        *,
        num_threads: int | None = None,
        allowed_special: Allowed = _NONE,
        disallowed_special: Disallowed = ALL,
        errors: str = "replace",
    ) -> list[list[int]]:
        """`encode` of every text, in parallel."""
        disallowed = self._frozen(disallowed_special)
        plain = [isinstance(t, str) and not self._state.may_hold_added(t) for t in text]
        for t, is_plain in zip(text, plain, strict=True):
            if is_plain:
                self._text(t, self._allowed(allowed_special), disallowed)
        whole = iter(
            self.encode_ordinary_batch([t for t, p in zip(text, plain, strict=True) if p], num_threads=num_threads)
        )
        return [
            next(whole)
            if is_plain
            else self.encode(t, allowed_special=allowed_special, disallowed_special=disallowed, errors=errors)
            for t, is_plain in zip(text, plain, strict=True)
        ]

    def encode_with_unstable(
        self, text: str, *, allowed_special: Allowed = _NONE, disallowed_special: Disallowed = ALL
    ) -> tuple[list[int], list[list[int]]]:
        """The ids that stay when the text goes on, and all short ways in which the rest may turn out. Ways are sorted
        (tiktoken's come in no order)."""
        text = self._checked(text, allowed_special, disallowed_special)
        tokens = self._state.encode_list(text, self._allowed(allowed_special))
        data = text.encode()
        segments = self._state.finder.segments(data, self._allowed(allowed_special))
        last = segments[-1] if segments else None
        tail = data[last.start : last.end] if last is not None and last.id is None else b""
        return _unstable.completions(self, tokens, tail)

    def encode_single_token(self, text_or_bytes: str | bytes) -> int:
        """The id of a token, special tokens too; UnknownTokenError (a KeyError and a ValueError) if it is none.

        >>> from tokernel.text import train
        >>> enc = train(["low lower lowest " * 3], 262, "gpt2", progress=False)
        >>> enc.encode_single_token("low")
        257
        """
        data = text_or_bytes.encode() if isinstance(text_or_bytes, str) else bytes(text_or_bytes)
        if (token := self.vocab.id_of(data)) is not None:
            return int(token)
        for token, content in self._added_bytes.items():
            if content == data:
                return token
        raise UnknownTokenError(f"encode: {self.name!r} has no token {text_or_bytes!r}")

    def encode_with_offsets(
        self,
        text: str,
        *,
        unit: Literal["byte", "char"] = "byte",
        trim: bool = False,
        allowed_special: Allowed = _NONE,
        disallowed_special: Disallowed = ALL,
    ) -> tuple[list[int], npt.NDArray[np.int64]]:
        """The ids and, for each, where it begins and ends in the text: (N, 2), in bytes of its UTF-8 or in characters.

        Byte spans tile what is encoded. In characters, every token of a split character reports the whole character
        (as HF's). `trim` leaves spaces at either end of a token out of its span (HF's trim_offsets). Text that a
        normalizer changed reports the cluster, or the stretch, that it came from.
        """
        text = self._checked(text, allowed_special, disallowed_special)
        return _offsets.encode(self._state, text, self._allowed(allowed_special), unit, trim)

    def count(self, text: Text, **options: Any) -> int:
        """How many ids `encode` gives; the same arguments."""
        allowed, disallowed = options.pop("allowed_special", _NONE), options.pop("disallowed_special", ALL)
        return self._array(text, allowed, disallowed, options.pop("errors", "replace"), **options).size

    def count_till_limit(self, text: Text, limit: int) -> int | None:
        """How many ids `encode_ordinary` gives, or None if they are more than `limit`; stops when that is clear."""
        if limit < 0:
            return None
        if self._scanner is not None and self._one_part and isinstance(text, str):
            return bpe.count_till_limit(self.vocab, _bytes_input.clean(text), limit, self._scanner)
        count = len(self.encode_ordinary(text))
        return count if count <= limit else None

    def split(self, text: str) -> npt.NDArray[np.int64]:
        """The byte ends of the pieces of the (normalized) text, special tokens aside."""
        front = self._state.front
        data, ends = front.prepare(front.normalize(_bytes_input.clean(text)))
        return bpe.split(data, front.scanner or "none") if ends is None else ends

    # About the vocabulary

    def token_byte_values(self) -> list[bytes]:
        """The bytes of all tokens but the special ones, in the order of the bytes."""
        return sorted(self._mergeable_ranks)

    @property
    def eot_token(self) -> int:
        """The id of <|endoftext|>."""
        return self._special_tokens_of("<|endoftext|>")

    def _special_tokens_of(self, content: str) -> int:
        for token in self._added:
            if token.content == content:
                return token.id
        raise UnknownTokenError(f"{self.name!r} has no special token {content!r}")

    @functools.cached_property
    def special_tokens_set(self) -> set[str]:
        """The special tokens."""
        return set(self._specials)

    def is_special_token(self, token: int) -> bool:
        """Whether the id is that of a special token."""
        return token in self._special_ids

    @property
    def n_vocab(self) -> int:
        """The largest id plus one."""
        return self.max_token_value + 1

    @functools.cached_property
    def _mergeable_ranks(self) -> dict[bytes, int]:
        return self._state.mergeable_ranks()

    @property
    def _special_tokens(self) -> dict[str, int]:
        return {t.content: t.id for t in self._added if t.special}

    @property
    def _pat_str(self) -> str:
        return self._state.regex()

    # Inside

    def _encode_single_piece(self, text_or_bytes: str | bytes) -> list[int]:
        data = text_or_bytes.encode() if isinstance(text_or_bytes, str) else bytes(text_or_bytes)
        return bpe.encode_list(self.vocab, data)

    def _encode_bytes(self, text: bytes) -> list[int]:
        return self.encode_ordinary(text, errors="tiktoken")

    @staticmethod
    def _allowed(allowed: Allowed | None) -> AbstractSet[str] | None:
        return None if allowed is None or isinstance(allowed, str) else allowed  # None: all of them

    @staticmethod
    def _frozen(disallowed: Disallowed) -> Literal["all"] | frozenset[str]:
        return "all" if isinstance(disallowed, str) else frozenset(disallowed)

    def _checked(self, text: Any, allowed: Allowed, disallowed: Disallowed) -> str:
        if not isinstance(text, str):
            raise TypeError(f"encode: text: expected str, got {type(text).__name__}")
        whole = _bytes_input.clean(text)
        check_disallowed(whole, self._specials, self._allowed(allowed), disallowed, self._state.may_hold_added)
        return whole

    def _text(self, text: Any, allowed: AbstractSet[str] | None, disallowed: Disallowed) -> str:
        """The text, decoded if it is bytes and checked for special tokens that may not be in it."""
        whole: str = text if isinstance(text, str) else str(_bytes_input.as_bytes(text, "encode"), "utf-8", "replace")
        check_disallowed(whole, self._specials, allowed, disallowed, self._state.may_hold_added)
        return whole

    def _list(self, text: Any, allowed: Allowed, disallowed: Disallowed, errors: str) -> list[int]:
        if not isinstance(text, str) and errors != "replace":
            return _bytes_input.encode_by_rule(self, _bytes_input.as_bytes(text, "encode"), errors)
        names = self._allowed(allowed)
        text = self._text(text, names, disallowed)
        try:
            return self._state.encode_list(text, names)
        except ValueError:
            return self._state.encode_list(_bytes_input.repaired_or_raise(text), names)

    def _array(self, text: Any, allowed: Allowed, disallowed: Disallowed, errors: str) -> npt.NDArray[np.int32]:
        if not isinstance(text, str) and errors != "replace":
            return np.array(self._list(text, allowed, disallowed, errors), np.int32)
        names = self._allowed(allowed)
        text = self._text(text, names, disallowed)
        try:
            return self._state.encode(text, names)
        except ValueError:
            return self._state.encode(_bytes_input.repaired_or_raise(text), names)


def _restore(state: State) -> Encoding:
    return Encoding._of(state)
