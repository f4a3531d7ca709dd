# SPDX-License-Identifier: Apache-2.0
"""Exact byte-level probabilities of tokenized language models (arXiv 2410.09303), for cut prompts and ensembles.

The derivation is ours, from the lemma of the paper: where a model gives no mass to token sequences that its tokenizer
would never produce, the probability of bytes x is the sum over the *covers* of x, the canonical sequences whose text
begins with x and whose last token is needed for that. Real models leak a little mass; :class:`ByteLM` offers two
readings. With ``exact=True`` tokens that no canonical sequence may have next count as nothing, with ``exact=False``
they count as the model has them. For a model without leaks both are the ratio of sums of covers. For one that leaks a
lot (random weights) the second is the nearer to that ratio, since the first leaves out mass that the other covers
were weighed with.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from tokernel.papers import paper
from tokernel.text._byte_sampling import draw
from tokernel.text._byte_tokenizer import (
    BOS,
    EOS,
    SLOTS,
    UNKNOWN,
    Array,
    ByteLevelTokenizer,
    ByteTokenizer,
    Ids,
    TokenTable,
)
from tokernel.text._sentencepiece import SentencePieceTokenizer

__all__ = [
    "BOS",
    "EOS",
    "PAPER",
    "SLOTS",
    "UNKNOWN",
    "ByteEnsemble",
    "ByteLM",
    "ByteLevelTokenizer",
    "ByteTokenizer",
    "Cover",
    "LanguageModel",
    "SentencePieceTokenizer",
    "TokenTable",
    "covers",
    "first_byte_sum",
    "infill_context",
    "valid_next_mask",
]

PAPER = paper("exact_byte_probs")


class LanguageModel(Protocol):
    """Any causal model of tokens; :class:`tokernel.text.causal_lm.CausalLM` makes one of a transformers model."""

    def logits(self, ids: Sequence[int], last: int) -> Array:
        """Return (last, V): what the model expects behind each of the `last` longest prefixes of `ids`."""
        ...


class Cover(NamedTuple):
    """A canonical token sequence whose text begins with the prefix and whose last token is needed for that."""

    ids: Ids
    extra: bytes
    """Bytes of its last token beyond the prefix."""


@dataclass(frozen=True)
class _Whole:
    """A cover without extra bytes: what the model says next is asked behind it."""

    ids: Ids
    tail: bytes  # what its last tokens spell, behind the last certain cut
    tail_ids: Ids
    weight: float  # log P, given what certainly precedes


@dataclass
class _Branch:
    """Covers that share all tokens but the last."""

    left: Ids
    tokens: Array
    weights: Array  # log P(left, token), given what certainly precedes
    used: int  # bytes of the last token that lie in the prefix


def first_byte_sum(probs: Array, slot: Array) -> Array:
    """Sum next-token probabilities by the first byte of the token.

    Args:
        probs: (V,) probabilities.
        slot: (V,) slot of each token, as :attr:`TokenTable.slot`.

    Returns:
        (259,) float64: the 256 bytes, other special tokens, beginning, end.

    >>> first_byte_sum(np.array([0.5, 0.25, 0.25]), np.array([97, 97, 258]))[[97, 258]]
    array([0.75, 0.25])
    """
    return np.bincount(slot, weights=probs.astype(np.float64), minlength=SLOTS)


def _tail(tokenizer: ByteTokenizer, prefix: bytes) -> tuple[Ids, int]:
    """Tokens up to the last certain cut, and where that is."""
    cut = tokenizer.certain_cut(prefix)
    head = tokenizer.encode(prefix[:cut]) if cut else ()
    if head is None:
        raise ValueError(f"exact_byte_probs: no tokens spell the bytes {prefix[:cut]!r}")
    return head, cut


def _lefts(tokenizer: ByteTokenizer, tail: bytes) -> list[tuple[Ids, Array, int]]:
    """For each place the last token may begin: the tokens before it, those it may be, and its bytes in the tail."""
    found = []
    for i in range(len(tail)):
        candidates = tokenizer.table.with_prefix(tail[i:])
        for left in tokenizer.spellings(tail[:i]):
            tokens = candidates[tokenizer.valid_next(tail[:i], left, candidates)]
            if len(tokens):
                found.append((left, tokens, len(tail) - i))
    return found


def covers(tokenizer: ByteTokenizer, prefix: bytes) -> list[Cover]:
    """List the covers of a prefix: every canonical token sequence that may spell a text that begins so.

    Args:
        tokenizer: the tokenizer.
        prefix: bytes as the model sees them (:meth:`ByteTokenizer.to_model`).

    Returns:
        Covers in ascending order of their ids; none for an empty prefix.

    Raises:
        ValueError: bytes that no tokens spell.
    """
    head, cut = _tail(tokenizer, prefix)
    table = tokenizer.table
    return sorted(
        Cover((*head, *left, token), table.tokens[token][used:])
        for left, tokens, used in _lefts(tokenizer, prefix[cut:])
        for token in tokens.tolist()
    )


def valid_next_mask(tokenizer: ByteTokenizer, prefix: bytes) -> Array:
    """Which tokens a canonical sequence may have behind the canonical tokens of a prefix: (V,) bool.

    Special tokens always may. Costs one encoding of the last word for every token of the vocabulary.

    Raises:
        ValueError: bytes that no tokens spell.
    """
    _, cut = _tail(tokenizer, prefix)
    ids = tokenizer.encode(prefix[cut:])
    if ids is None:
        raise ValueError(f"valid_next_mask: no tokens spell the bytes {prefix[cut:]!r}")
    return tokenizer.valid_next(prefix[cut:], ids, np.arange(len(tokenizer.table)))


def infill_context(tokenizer: ByteTokenizer, suffix: bytes, suffix_token: int, prefix_token: int) -> Ids:
    """Tokens before the prefix of a text to fill in: sentinel, suffix, sentinel (suffix first; our reconstruction).

    Pass it as `context` of :class:`ByteLM` and generate from the bytes before the gap: these then need not end where a
    token does. The suffix is encoded as it stands.

    Raises:
        ValueError: no tokens spell the suffix.
    """
    ids = tokenizer.encode(suffix) if suffix else ()
    if ids is None:
        raise ValueError(f"infill_context: no tokens spell the suffix {suffix!r}")
    return (suffix_token, *ids, prefix_token)


class _Bytewise(ABC):
    """What continues a text byte by byte."""

    @abstractmethod
    def start(self, text: bytes) -> None:
        """Begin anew with a text."""

    @abstractmethod
    def next_byte_probs(self) -> Array:
        """Probabilities of what comes next: (259,) float32."""

    @abstractmethod
    def advance(self, byte: int) -> None:
        """Append one byte."""

    def generate(
        self,
        prompt: bytes,
        max_bytes: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        generator: np.random.Generator | None = None,
    ) -> bytes:
        """Continue a prompt byte by byte, until the text ends or `max_bytes` have come.

        Args:
            prompt: any bytes; they need not end where a token does.
            max_bytes: how many to add at most.
            temperature: below 0.1 the likeliest byte; else p ** (1 / temperature), renormalised.
            top_p: keep outcomes while those before them, the likeliest first, hold at most this much.
            generator: source of randomness; None: numpy's default.

        Returns:
            The bytes that the model added.
        """
        self.start(prompt)
        generator = np.random.default_rng() if generator is None else generator
        out = bytearray()
        while len(out) < max_bytes:
            outcome = draw(self.next_byte_probs(), temperature, top_p, generator)
            if outcome >= UNKNOWN:
                break
            out.append(outcome)
            self.advance(outcome)
        return bytes(out)


class ByteLM(_Bytewise):
    """A model of bytes made of a model of tokens, without training.

    Args:
        lm: the model of tokens.
        tokenizer: its tokenizer.
        exact: leave out tokens that no canonical sequence may have next; costs one encoding of the last word for every
            token of the vocabulary and byte.
        context: token ids before the first byte, instead of the tokenizer's own beginning.

    Raises:
        ValueError: neither the context nor the tokenizer gives the model a first token.

    The state is a prefix of bytes *as the model sees them*: what :meth:`start` makes of a text. For SentencePiece these
    have U+2581, three bytes, for a space.
    """

    def __init__(
        self, lm: LanguageModel, tokenizer: ByteTokenizer, exact: bool = True, context: Sequence[int] = ()
    ) -> None:
        self._lm = lm
        self.tokenizer = tokenizer
        self.exact = exact
        self._context = tuple(context) or (() if tokenizer.bos is None else (tokenizer.bos,))
        if not self._context:
            raise ValueError("ByteLM: context must hold at least one token, the tokenizer has none for the beginning")
        self._memory: OrderedDict[Ids, Array] = OrderedDict()
        self.start(b"")

    @property
    def prefix(self) -> bytes:
        """The bytes so far, as the model sees them."""
        return self._prefix

    def start(self, text: bytes) -> None:
        """Begin anew with a text.

        Raises:
            ValueError: bytes that no tokens spell.
        """
        self._restart(self.tokenizer.to_model(text, first=True))

    def feed(self, text: bytes) -> None:
        """Advance by every byte of a text."""
        for byte in self.tokenizer.to_model(text, first=False):
            self.advance(byte)

    def _restart(self, prefix: bytes) -> None:
        self._prefix = prefix
        self._head, cut = _tail(self.tokenizer, prefix)
        self._branches = []
        for left, tokens, used in _lefts(self.tokenizer, prefix[cut:]):
            weights = self._path(left) + self._log_probs((*self._head, *left))[tokens]
            self._branches.append(_Branch((*self._head, *left), tokens, weights, used))
        self._find_wholes()

    def _path(self, left: Ids) -> float:
        """log P(left), given the head."""
        if not left:
            return 0.0
        self._log_probs((*self._head, *left), 1 + len(left))
        steps = ((*self._head, *left[:i]) for i in range(len(left)))
        return float(sum(self._log_probs(ids)[left[i]] for i, ids in enumerate(steps)))

    def _log_probs(self, ids: Ids, last: int = 1) -> Array:
        """log P(next token | context, ids): (V,) float64; remembers those of the `last` longest prefixes."""
        if ids not in self._memory:
            logits = self._lm.logits((*self._context, *ids), last).astype(np.float64)
            logits = logits - logits.max(axis=-1, keepdims=True)
            rows = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
            for i, row in enumerate(rows):
                self._memory[ids[: len(ids) - last + 1 + i]] = row
        self._memory.move_to_end(ids)
        while len(self._memory) > 64:
            self._memory.popitem(last=False)
        return self._memory[ids]

    def _find_wholes(self) -> None:
        """Find the covers without extra bytes, by their ids: where tokens leak, others may spell the same."""
        head, cut = _tail(self.tokenizer, self._prefix)
        tail = self._prefix[cut:]
        self._wholes = []
        self._next: list[Array] | None = None
        for ids in self.tokenizer.spellings(tail):
            weight = self._weight_of((*head, *ids)) if self._prefix else 0.0
            if weight > -np.inf:
                self._wholes.append(_Whole((*head, *ids), tail, ids, weight))

    def _weight_of(self, ids: Ids) -> float:
        """The weight of a cover without extra bytes; -inf where it is not among those that are followed."""
        for branch in self._branches:
            if branch.left == ids[:-1] and branch.used == self.tokenizer.table.length[ids[-1]]:
                same = branch.tokens == ids[-1]
                if same.any():
                    return float(branch.weights[same][0])
        return -np.inf

    def covers(self) -> list[tuple[Cover, float]]:
        """The covers that are followed, with log P of each after the last certain cut of the prompt."""
        tokens = self.tokenizer.table.tokens
        found = [
            (Cover((*branch.left, token), tokens[token][branch.used :]), float(weight))
            for branch in self._branches
            for token, weight in zip(branch.tokens.tolist(), branch.weights, strict=True)
        ]
        return sorted(found)

    def _following(self) -> list[Array]:
        """log P of each whole cover with each token behind it: (V,); -inf for those that do not count."""
        if self._next is None:
            self._next = [self._behind(whole) for whole in self._wholes]
        return self._next

    def _behind(self, whole: _Whole) -> Array:
        weights = self._log_probs(whole.ids) + whole.weight
        if not self.exact:
            return weights
        everything = np.arange(len(self.tokenizer.table))
        return np.where(self.tokenizer.valid_next(whole.tail, whole.tail_ids, everything), weights, -np.inf)

    def log_mass(self) -> Array:
        """log of the mass of each next outcome, not normalised: (259,) float64.

        The mass of byte b is that of the covers of the prefix with b behind it, given the last certain cut of the
        prompt.
        """
        groups = [(weights, self.tokenizer.table.slot) for weights in self._following()]
        for branch in self._branches:
            groups.append((branch.weights, self.tokenizer.table.byte_at(branch.tokens, branch.used)))
        top = max((float(weights.max(initial=-np.inf)) for weights, _ in groups), default=-np.inf)
        if top == -np.inf:
            return np.full(SLOTS, -np.inf)
        mass = np.zeros(SLOTS)
        for weights, slot in groups:
            open_ = slot >= 0
            mass += first_byte_sum(np.exp(weights[open_] - top), slot[open_])
        with np.errstate(divide="ignore"):
            return np.log(mass) + top

    def next_byte_probs(self, prefix: bytes | None = None) -> Array:
        """Probabilities of what comes next: (259,) float32, of sum 1.

        Args:
            prefix: bytes as the model sees them; None: those so far. Where it continues them, the state advances,
                else it begins anew.

        Raises:
            ValueError: no token sequence covers the prefix.
        """
        if prefix is not None:
            self._go_to(prefix)
        mass = self.log_mass()
        if mass.max() == -np.inf:
            raise ValueError(f"next_byte_probs: no token sequence covers the prefix {self._prefix!r}")
        probs = np.exp(mass - mass.max())
        return np.asarray(probs / probs.sum(), dtype=np.float32)

    def _go_to(self, prefix: bytes) -> None:
        if not prefix.startswith(self._prefix):
            self._restart(prefix)
        for byte in prefix[len(self._prefix) :]:
            self.advance(byte)

    def advance(self, byte: int) -> None:
        """Append one byte of the model to the prefix: one call of the model, two where blanks may yet be cut otherwise.

        Raises:
            ValueError: `byte` is no byte.
        """
        if not 0 <= byte <= 255:
            raise ValueError(f"ByteLM.advance: byte expected 0 to 255, got {byte}")
        table = self.tokenizer.table
        kept = []
        for branch in self._branches:
            same = table.byte_at(branch.tokens, branch.used) == byte
            if same.any():
                kept.append(_Branch(branch.left, branch.tokens[same], branch.weights[same], branch.used + 1))
        for whole, following in zip(self._wholes, self._following(), strict=True):
            begun = np.flatnonzero((table.slot == byte) & (following > -np.inf))
            if len(begun):
                kept.append(_Branch(whole.ids, begun, following[begun], 1))
        self._branches = kept
        self._prefix += bytes([byte])
        self._find_wholes()

    def logprob(self, text: bytes) -> float:
        """Advance by a text and return the natural logarithm of its probability behind the prefix so far."""
        total = 0.0
        for byte in self.tokenizer.to_model(text, first=False):
            with np.errstate(divide="ignore"):
                total += float(np.log(np.float64(self.next_byte_probs()[byte])))
            self.advance(byte)
        return total


class ByteEnsemble(_Bytewise):
    """The mean of the next-byte probabilities of several models; their vocabularies need not have anything in common.

    Args:
        members: models of bytes. All must see the same bytes: a SentencePiece member sees U+2581 for spaces, and so
            meets only its like.
        weights: of each; None: equal.

    Raises:
        ValueError: no member, or weights that do not fit or do not have a positive sum.
    """

    def __init__(self, members: Sequence[ByteLM], weights: Sequence[float] | None = None) -> None:
        if not members:
            raise ValueError("ByteEnsemble: members must not be empty")
        self.members = list(members)
        self.weights = np.ones(len(members)) if weights is None else np.asarray(weights, dtype=np.float64)
        if self.weights.shape != (len(members),) or (self.weights < 0).any() or not self.weights.sum() > 0:
            raise ValueError(
                f"ByteEnsemble: weights must be {len(members)} numbers >= 0 of positive sum, got {weights}"
            )
        self.weights = self.weights / self.weights.sum()

    def start(self, text: bytes) -> None:
        """Begin anew with a text, every member."""
        for member in self.members:
            member.start(text)

    def next_byte_probs(self) -> Array:
        """The weighted mean of the members' probabilities: (259,) float32."""
        each = zip(self.members, self.weights, strict=True)
        return np.asarray(sum(w * m.next_byte_probs().astype(np.float64) for m, w in each), dtype=np.float32)

    def advance(self, byte: int) -> None:
        """Append one byte to the prefix of every member."""
        for member in self.members:
            member.advance(byte)
