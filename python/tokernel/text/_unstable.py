# SPDX-License-Identifier: Apache-2.0
"""encode_with_unstable: which tokens may still change when the text goes on, and into what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokernel.kernels import bpe
from tokernel.text._bytes_input import stable_prefix

if TYPE_CHECKING:
    from tokernel.text.encoding import Encoding


def completions(encoding: Encoding, tokens: list[int], last: bytes) -> tuple[list[int], list[list[int]]]:
    """`tokens` of a text whose last ordinary segment is `last`: the stable ones, and every way the rest may go on.

    A way to go on puts one token across the end of the text, at any place of the unstable bytes, and encodes the
    result again; only the tokens that begin within the text are kept.
    """
    if not last:
        return tokens, []
    own = encoding.encode_ordinary(last.decode("utf-8"))
    stable, unstable = stable_prefix(encoding, own, last)
    stable = tokens[: len(tokens) - len(own)] + stable
    found: set[tuple[int, ...]] = {(token,) for token in bpe.tokens_with_prefix(encoding.vocab, unstable).tolist()}
    for cut in range(1, len(unstable)):
        head = unstable[:cut]
        for token in bpe.tokens_with_prefix(encoding.vocab, unstable[cut:]).tolist():
            found.add(_reaching(encoding, head + encoding.decode_single_token_bytes(token), len(unstable)))
    if (space := _last_space(unstable)) and space < len(unstable):
        # \s+(?!\S) may give up the last white space of a run once something follows.
        head, tail = unstable[:-space], unstable[-space:]
        found.add((*bpe.encode_list(encoding.vocab, head), *bpe.encode_list(encoding.vocab, tail)))
    return stable, [list(way) for way in sorted(found)]


def _reaching(encoding: Encoding, data: bytes, size: int) -> tuple[int, ...]:
    """The first tokens of the data that cover `size` bytes."""
    try:
        tokens = encoding.encode_ordinary(data.decode("utf-8"))
    except UnicodeDecodeError:
        tokens = bpe.encode_list(encoding.vocab, data)
    covered = 0
    for count, token in enumerate(tokens, 1):
        covered += len(encoding.decode_single_token_bytes(token))
        if covered >= size:
            return tuple(tokens[:count])
    return tuple(tokens)


def _last_space(data: bytes) -> int:
    """The bytes of the last character if it is white space, else 0."""
    for size in range(1, min(4, len(data)) + 1):
        try:
            char = data[-size:].decode("utf-8")
        except UnicodeDecodeError:
            continue
        return size if char.isspace() and char not in "\x1c\x1d\x1e\x1f" else 0
    return 0
