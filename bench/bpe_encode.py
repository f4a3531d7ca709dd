# SPDX-License-Identifier: Apache-2.0
"""Cases of the bpe family: encoding, decoding and loading, against every encoder of the same vocabularies.

Nothing here runs without TOKERNEL_BPE_DATA; see bpe_corpora.py. Every contender gives its ids in the form it is
fastest in; all of them are compared.
"""

from __future__ import annotations

import base64
import functools
import importlib.util
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from tokernel.kernels import bpe

from bench.bpe_corpora import corpus, rank_file
from bench.bpe_split import PATTERNS
from bench.core import Case, Floor, Work

NAMES = ("cl100k", "o200k")
FASTEST = Floor("fastest", 1.5)
TWICE = Floor("ratio", 2.0)
TWO_THREADS = Floor("speedup", 1.8)


@functools.cache
def vocabulary(name: str) -> bpe.Vocab:
    """The published vocabulary."""
    tokens, offsets, ranks = bpe.parse_ranks(rank_file(name))
    return bpe.Vocab((tokens, offsets), ranks)


@functools.cache
def _ranks(name: str) -> dict[bytes, int]:
    lines = (line.split() for line in rank_file(name).splitlines())
    return {base64.b64decode(token): int(rank) for token, rank in lines}


@functools.cache
def _tiktoken(name: str) -> Any:
    import tiktoken

    return tiktoken.Encoding(name, pat_str=PATTERNS[name], mergeable_ranks=_ranks(name), special_tokens={})


def _peers(name: str, text: str) -> dict[str, Callable[[], Any]]:
    found: dict[str, Callable[[], Any]] = {}
    if importlib.util.find_spec("tiktoken"):
        found["tiktoken"] = partial(_tiktoken(name).encode_ordinary, text)
    if importlib.util.find_spec("quicktok"):
        import quicktok

        found["quicktok"] = partial(quicktok.get_encoding(f"{name}_base").encode_ordinary, text)
    if importlib.util.find_spec("splintr"):
        import splintr

        found["splintr"] = partial(splintr.Tokenizer.from_pretrained(f"{name}_base").encode, text)
    if importlib.util.find_spec("riptoken"):
        import riptoken

        found["riptoken"] = partial(riptoken.CoreBPE(_ranks(name), {}, PATTERNS[name]).encode_ordinary, text)
    if importlib.util.find_spec("rs_bpe"):
        from rs_bpe.bpe import openai

        found["rs-bpe"] = partial(getattr(openai, f"{name}_base")().encode, text)
    return found


def _same(ours: Any, peer: Any) -> None:
    assert np.array_equal(np.asarray(ours), np.asarray(peer))


def _encode(name: str, kind: str, quick: bool) -> Work:
    text = corpus(kind)[: 10_000 if quick else None]
    vocab = vocabulary(name)
    size = len(text.encode())
    ids = len(bpe.encode(vocab, text, name))
    return Work(lambda: bpe.encode(vocab, text, name), _peers(name, text), _same, moved_bytes=size + 4.0 * ids)


def _decode(name: str, kind: str, quick: bool) -> Work:
    text = corpus(kind)[: 10_000 if quick else None]
    vocab = vocabulary(name)
    ids = bpe.encode(vocab, text, name).tolist()
    peers: dict[str, Callable[[], Any]] = {}
    if importlib.util.find_spec("tiktoken"):
        peers["tiktoken"] = partial(_tiktoken(name).decode_bytes, ids)

    def same(ours: bytes, peer: bytes) -> None:
        assert ours == peer

    return Work(lambda: bpe.decode(vocab, ids), peers, same, moved_bytes=8.0 * len(ids) + len(text.encode()))


def cases() -> list[Case]:
    """Every case, in the order of the table."""
    if "TOKERNEL_BPE_DATA" not in os.environ:
        return []
    kinds = ("code", "prose", "multi")
    return [
        Case("bpe", op, f"{kind}, {name}", "utf-8", partial(build, name, kind), floors)
        for op, build, floors in (("encode", _encode, (FASTEST, TWO_THREADS)), ("decode", _decode, (TWICE,)))
        for name in NAMES
        for kind in kinds
    ]
