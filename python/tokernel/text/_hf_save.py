# SPDX-License-Identifier: Apache-2.0
"""An encoding as Hugging Face writes it: strings in the byte alphabet, and a list of merges."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from tokernel.text import _atomic, _steps
from tokernel.text._atomic import PathLike
from tokernel.text._byte_map import chars_of_all
from tokernel.text._state import State, tokens_of


def save(state: State, path: PathLike) -> None:
    """Write a tokenizer.json; see Encoding.save_hf."""
    _atomic.write(path, json.dumps(to_json(state), ensure_ascii=False, indent=1).encode())


def to_json(state: State) -> dict[str, Any]:
    """The content of the tokenizer.json."""
    vocab, merges = vocab_and_merges(state)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": t.id,
                "content": t.content,
                "single_word": t.single_word,
                "lstrip": t.lstrip,
                "rstrip": t.rstrip,
                "normalized": t.normalized,
                "special": t.special,
            }
            for t in sorted(state.added, key=lambda t: t.id)
        ],
        "normalizer": state.front.normalizer.spec if state.front.normalizer is not None else None,
        "pre_tokenizer": _steps.to_json(state.front),
        "post_processor": state.template.spec,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": state.vocab.whole_piece,
            # Added tokens are entries too: only so does the tokenizers package take their ids as they are.
            "vocab": vocab | {t.content: t.id for t in state.added},
            "merges": [list(m) for m in merges],
        },
    }


def vocab_and_merges(state: State) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Token to id, in the byte alphabet and in the order of the ids, and the merges in their order."""
    data, offsets, ids = tokens_of(state.vocab)
    tokens = chars_of_all(data.tobytes(), offsets.tolist())
    by_id = dict(zip(ids.tolist(), tokens, strict=True))
    merges = state.merges
    pairs = merges[:, :2].tolist() if merges is not None else _pairs(state, by_id)
    return {by_id[i]: i for i in sorted(by_id)}, [(by_id[a], by_id[b]) for a, b in pairs]


def _pairs(state: State, by_id: Mapping[int, str]) -> list[list[int]]:
    """Merges that do what a vocabulary of ranks does.

    Where merging its own bytes makes every token, the last of those merges is enough. Where some tokens come about
    only as whole pieces, each token gets all its splits into two tokens, in the order of their ids.
    """
    left, right, order = state.vocab.history()
    ids = np.array(sorted(by_id), np.int64)
    made = order >= 0
    if made.sum() + sum(len(t) == 1 for t in by_id.values()) == len(by_id):
        result = ids[made]
        pairs = np.stack([ids[left[made]], ids[right[made]]], axis=1)
        return [list(p) for p in pairs[np.argsort(result, kind="stable")].tolist()]
    to_id = {token: i for i, token in by_id.items()}
    out = []
    for i in ids.tolist():
        token = by_id[i]
        cuts = ((to_id.get(token[:k]), to_id.get(token[k:])) for k in range(1, len(token)))
        out.extend(sorted([a, b] for a, b in cuts if a is not None and b is not None))
    return out
