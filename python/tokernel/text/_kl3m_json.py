# SPDX-License-Identifier: Apache-2.0
"""tokenizer.json of the tokenizers of KL3M."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FLAGS = ("single_word", "lstrip", "rstrip")
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def document_of(
    vocab: Sequence[str], merges: NDArray[np.int64], added: Sequence[tuple[int, str, bool]], nfkc: bool, lowercase: bool
) -> dict[str, Any]:
    """The JSON of a tokenizer; `added` holds (id, text, special)."""
    steps = [{"type": "NFKC"}] * nfkc + [{"type": "Lowercase"}] * lowercase
    flags = dict.fromkeys(_FLAGS, False)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": at, "content": text, **flags, "normalized": not special, "special": special}
            for at, text, special in added
        ],
        "normalizer": {"type": "Sequence", "normalizers": steps} if steps else None,
        "pre_tokenizer": _BYTE_LEVEL,
        "post_processor": None,
        "decoder": _BYTE_LEVEL,
        "model": {
            "type": "BPE",
            "vocab": {text: at for at, text in enumerate(vocab)},
            "merges": [[vocab[left], vocab[right]] for left, right, _ in merges.tolist()],
        },
    }


def fields_of(document: dict[str, Any]) -> dict[str, Any]:
    """The arguments of document_of; ValueError names the field that says something else."""
    model = document.get("model") or {}
    _expect("model.type", model.get("type"), "BPE")
    for name in ("pre_tokenizer", "decoder"):
        _expect(f"{name}.type", (document.get(name) or {}).get("type"), "ByteLevel")
    split = document["pre_tokenizer"]
    _expect("pre_tokenizer.add_prefix_space", split.get("add_prefix_space"), False)
    _expect("pre_tokenizer.use_regex", split.get("use_regex", True), True)
    vocab = sorted(model["vocab"], key=model["vocab"].__getitem__)
    _expect("model.vocab's ids", sorted(model["vocab"].values()), list(range(len(vocab))))
    for token in document.get("added_tokens", ()):
        for flag in _FLAGS:
            _expect(f"added_tokens: {token['content']!r}.{flag}", token.get(flag, False), False)
        _expect(f"added_tokens: {token['content']!r}.normalized", token["normalized"], not token["special"])
    steps = _steps(document.get("normalizer"))
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    return {
        "vocab": vocab,
        "merges": np.array([_ids(model["vocab"], pair) for pair in pairs], np.int64).reshape(-1, 3),
        "added": [(token["id"], token["content"], token["special"]) for token in document.get("added_tokens", ())],
        "nfkc": "NFKC" in steps,
        "lowercase": "Lowercase" in steps,
    }


def _steps(normalizer: dict[str, Any] | None) -> list[str]:
    if normalizer is None:
        return []
    steps = [each.get("type") for each in normalizer.get("normalizers", [normalizer])]
    if steps not in (["NFKC"], ["Lowercase"], ["NFKC", "Lowercase"], []):
        raise ValueError(f"ByteLevelBPE: normalizer: expected NFKC, then Lowercase, got {steps}")
    return steps


def _ids(vocab: dict[str, int], pair: Sequence[str]) -> list[int]:
    for text in (*pair, "".join(pair)):
        if text not in vocab:
            raise ValueError(f"ByteLevelBPE: model.merges: {pair} names {text!r}, which is not in the vocabulary")
    return [vocab[pair[0]], vocab[pair[1]], vocab["".join(pair)]]


def _expect(field: str, got: object, expected: object) -> None:
    if got != expected:
        raise ValueError(f"ByteLevelBPE: {field}: expected {expected!r}, got {got!r}")


def save(path: str | os.PathLike[str], document: dict[str, Any]) -> None:
    """Write the JSON; a failure leaves an old file whole."""
    target = Path(path)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        part.write_text(json.dumps(document, ensure_ascii=False, indent=1), encoding="utf-8")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
