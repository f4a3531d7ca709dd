# SPDX-License-Identifier: Apache-2.0
"""The half of Encoding that reads and writes files. Readers are imported when they are used."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tokernel.text._atomic import PathLike
from tokernel.text._state import State

if TYPE_CHECKING:
    from tokernel.text.encoding import Encoding


class Files:
    """Methods of Encoding. Savers write whole files or none: after a failure the old file is as it was."""

    _state: State

    @staticmethod
    def _of(state: State) -> Encoding:
        from tokernel.text.encoding import Encoding as Class

        return Class._of(state)

    @classmethod
    def from_tiktoken(
        cls,
        path: PathLike,
        *,
        pat_str: str | None = None,
        special_tokens: Mapping[str, int] | None = None,
        name: str | None = None,
        explicit_n_vocab: int | None = None,
    ) -> Encoding:
        """Read a rank file: a line `base64 SPACE rank` for each token. The file does not name its pattern or its
        special tokens; those of r50k_base, p50k_base, cl100k_base and o200k_base are known by the file's hash, any
        other file needs `pat_str` (a regex, or the name of a scanner).

        FormatError (a ValueError) names the line of a duplicate, a gap that no special token fills, or bad base64.
        """
        from tokernel.text import _tiktoken_file

        return cls._of(_tiktoken_file.load(path, pat_str, special_tokens, name, explicit_n_vocab))

    @classmethod
    def from_hf(
        cls,
        source: PathLike | Mapping[str, Any] | tuple[PathLike, PathLike],
        *,
        name: str | None = None,
        **options: Any,
    ) -> Encoding:
        """Read a `tokenizer.json` (a path, or its parsed content), or a pair of paths (`vocab.json`, `merges.txt`).

        Byte-level BPE only: FormatError names the field of what is not supported. Added tokens that are not special
        are always found; special ones as `encode` allows them. `with_template` adds what the post-processor adds.
        For a pair, `options` are `pat_str` ("gpt2"), `special_tokens` ({}) and `add_prefix_space` (False).
        """
        if isinstance(source, tuple):
            from tokernel.text import _merges_txt

            return cls._of(_merges_txt.load(source[0], source[1], name=name, **options))
        from tokernel.text import _hf_json

        return cls._of(_hf_json.load(source, name, **options))

    @classmethod
    def from_tekken(cls, path: PathLike, *, name: str | None = None) -> Encoding:
        """Read Mistral's tekken JSON: ids are rank + number of special tokens."""
        from tokernel.text import _tekken

        return cls._of(_tekken.load(path, name))

    def save_tiktoken(self, path: PathLike) -> None:
        """Write a rank file. ValueError if ids are not the order of merging, for which the format has no room."""
        from tokernel.text import _tiktoken_file

        _tiktoken_file.save(self._state, path)

    def save_hf(self, path: PathLike) -> None:
        """Write a `tokenizer.json` (to the path itself, or into a folder)."""
        from tokernel.text import _hf_save

        target = os.path.join(path, "tokenizer.json") if os.path.isdir(path) else path
        _hf_save.save(self._state, target)

    def save_merges(self, vocab_path: PathLike, merges_path: PathLike) -> None:
        """Write `vocab.json` and `merges.txt`; both are replaced, or none."""
        from tokernel.text import _merges_txt

        _merges_txt.save(self._state, vocab_path, merges_path)

    def with_template(self, ids: Sequence[int], second: Sequence[int] | None = None) -> list[int]:
        """The ids with what the tokenizer.json's post-processor puts around one text (or two): tokenizers' `encode`
        with `add_special_tokens=True`."""
        return self._state.template.apply(ids, second)
