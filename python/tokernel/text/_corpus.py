# SPDX-License-Identifier: Apache-2.0
"""Count the pieces of a corpus: texts and files of any size, in parts that fit memory."""

from __future__ import annotations

import functools
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np

from tokernel import _C
from tokernel.kernels.bpe._pieces import add_texts
from tokernel.text._counts import PieceCounts
from tokernel.text._shards import Shards, gathered
from tokernel.text.pretokenizer import Pattern

__all__ = ["Corpus", "count_texts"]

Item: TypeAlias = "str | bytes | os.PathLike[str]"
Corpus: TypeAlias = "Iterable[Item] | os.PathLike[str]"
"""Texts (str, UTF-8 bytes) and files (`pathlib.Path`); a str is a text, never the name of a file."""
Form: TypeAlias = Literal["nfc", "nfd", "nfkc", "nfkd", "lower"]
_FORMS = {"nfc": "NFC", "nfd": "NFD", "nfkc": "NFKC", "nfkd": "NFKD"}

BATCH = 1 << 22
"""Bytes of text that are held at once; more is no faster, and a larger buffer is slower to get."""
_MOST_TEXTS = 1 << 16


def check_forms(op: str, normalizer: Form | Sequence[Form] | None) -> tuple[Form, ...]:
    """The normalizer as a sequence of known forms."""
    forms: tuple[Any, ...] = (normalizer,) if isinstance(normalizer, str) else tuple(normalizer or ())
    for form in forms:
        if form not in (*_FORMS, "lower"):
            raise ValueError(f"{op}: normalizer must be of nfc, nfd, nfkc, nfkd and lower, got {form!r}")
    return forms


def normalized(text: str, forms: Sequence[Form]) -> str:
    """The text in these forms, one after the other."""
    for form in forms:
        if form != "lower":
            text = text if text.isascii() else unicodedata.normalize(_FORMS[form], text)  # type: ignore[arg-type]
        else:  # character by character, so that a final sigma is a sigma, as in the tokenizers library
            text = text.lower() if text.isascii() else "".join(map(str.lower, text))
    return text


def as_pattern(op: str, pattern: str | Pattern) -> Pattern:
    """The pattern of a name or regex."""
    if isinstance(pattern, Pattern):
        return pattern
    if not isinstance(pattern, str):
        raise TypeError(f"{op}: pattern must be a str or a Pattern, got {type(pattern).__name__}")
    return Pattern(pattern)


class Counting:
    """Counts texts of one corpus, a batch at a time."""

    def __init__(self, pattern: Pattern, forms: Sequence[Form], lines: bool, threads: int | None) -> None:
        self.counter = _C.PieceCounter()
        self.seen = 0  # bytes, roughly
        self._pattern = pattern
        self._forms = forms
        self._lines = lines
        self._threads = threads
        # What the scanner alone cuts; a file that another pattern cuts must be held whole.
        self._scanner = None if pattern.joins_trailing_space else pattern.scanner

    def add_texts(self, texts: Sequence[str | bytes]) -> None:
        """Each of them as a text of its own."""
        self.seen += sum(map(len, texts))
        if self._forms:
            texts = [normalized(_decoded(text), self._forms) for text in texts]
        if self._scanner is not None:
            return add_texts(self.counter, texts, self._scanner, self._threads)
        for text in texts:
            data, ends = self._pattern.pieces(_decoded(text))
            self.counter.add_pieces(np.frombuffer(data, np.uint8), ends)
        return None

    def add_file(self, path: Path, tell: Callable[[], None]) -> None:
        """A file as one text, or every line of it, its end included, as one."""
        with open(path, "rb") as file:
            if self._scanner is None:
                for texts in self._texts_of(file):
                    self.add_texts(texts)
                    tell()
                return
            add = self.counter.add_lines if self._lines else self.counter.add_stream
            rest = b""
            for block in self._blocks(file):
                rest = rest + block if rest else block
                rest = rest[add(rest, self._scanner, False, self._threads) :]
                self.seen += len(block)
                tell()
            add(rest, self._scanner, True, self._threads)

    def _texts_of(self, file: BinaryIO) -> Iterator[list[bytes]]:
        if not self._lines:
            yield [file.read()]
            return
        while lines := file.readlines(BATCH):
            yield lines

    def _blocks(self, file: BinaryIO) -> Iterator[bytes]:
        """Parts of a file, whole lines where they are normalized: no normalizer looks over a line break."""
        rest = b""
        while block := file.read(BATCH):
            if not self._forms:
                yield block
                continue
            end = block.rfind(b"\n") + 1
            if end:
                yield self._normalized(rest + block[:end])
            rest = block[end:] if end else rest + block
        if rest:
            yield self._normalized(rest)

    def _normalized(self, block: bytes) -> bytes:
        return normalized(_decoded(block), self._forms).encode()


def _decoded(text: str | bytes) -> str:
    return text if isinstance(text, str) else bytes(text).decode("utf-8", "replace")


def batches(op: str, source: Corpus) -> Iterator[Path | list[str | bytes]]:
    """Files, and texts in batches of bounded size, as they come.

    Raises:
        TypeError: the source is a single str or bytes, or holds something else than texts and paths.
    """
    if isinstance(source, os.PathLike):
        source = [source]
    if isinstance(source, str | bytes | bytearray) or not isinstance(source, Iterable):
        raise TypeError(f"{op}: texts must be an iterable of str, bytes or paths, got {type(source).__name__}")
    held: list[str | bytes] = []
    size = 0
    for position, item in enumerate(source):
        if isinstance(item, os.PathLike):
            yield Path(item)
            continue
        if not isinstance(item, str | bytes):
            raise TypeError(f"{op}: texts must hold str, bytes or paths, got {type(item).__name__} at {position}")
        held.append(item)
        size += len(item)
        if size >= BATCH or len(held) >= _MOST_TEXTS:
            yield held
            held, size = [], 0
    if held:
        yield held


def counter_of(
    op: str,
    texts: Corpus,
    pattern: Pattern,
    forms: Sequence[Form],
    lines: bool,
    threads: int | None,
    tell: Callable[[int], object] | None = None,
) -> Any:
    """The extension's counter after this corpus; `tell` hears how many bytes were seen."""
    counting = Counting(pattern, forms, lines, threads)

    def report() -> None:
        if tell is not None:
            tell(counting.seen)

    for part in batches(op, texts):
        if isinstance(part, Path):
            counting.add_file(part, report)
        else:
            counting.add_texts(part)
        report()
    return counting.counter


def _count_part(part: Path | list[str | bytes], pattern: Pattern, forms: Sequence[Form], lines: bool) -> PieceCounts:
    return PieceCounts.of(
        counter_of("count_texts", [part] if isinstance(part, Path) else part, pattern, forms, lines, 1)
    )


def count_texts(
    texts: Corpus,
    pattern: str | Pattern = "gpt2",
    *,
    normalizer: Form | Sequence[Form] | None = None,
    lines: bool = False,
    threads: int | None = None,
    shards: Shards = "local",
) -> PieceCounts:
    r"""Count how often each piece of a pre-tokenizer occurs in texts and files.

    A text (an item of the iterable) is split by itself. A file is one text: it is read in parts cut where a piece is
    sure to end, which is exact and needs memory for about 4 MB of text besides the counts. With `lines=True` each line
    of a file, its ``\n`` included, is a text of its own, as the tokenizers library reads files: then no run of white
    space goes over the end of a line. A regex without a compiled scanner needs a whole file (or line) at once. Files
    are UTF-8; with a normalizer or such a regex, bytes that are not become U+FFFD.

    Args:
        texts: iterable of str, UTF-8 bytes and paths (`pathlib.Path`; a str is a text), or one path.
        pattern: the name of a scanner ("gpt2", "cl100k", "o200k", "llama3", "qwen2", "tekken", "none"), a regex, or a
            `Pattern`.
        normalizer: "nfc", "nfd", "nfkc", "nfkd", "lower", or several of them in order; none by default.
        lines: whether lines of files are texts.
        threads: how many count at most; None: all. Changes no result.
        shards: "local" counts here; "dask" and "ray" count every file, and every 4 MB of texts, as a task of that
            library (extras `dask`, `ray`), and add up. Same result.

    Raises:
        ValueError: an unknown normalizer or shards.
        TypeError: `texts` is a single str, or holds something else.
        ImportError: the library that `shards` names, or the regex package, is missing.

    >>> dict(count_texts(["to be or", " not to be"]))
    {b' be': 2, b' not': 1, b' or': 1, b' to': 1, b'to': 1}
    """
    cut = as_pattern("count_texts", pattern)
    forms = check_forms("count_texts", normalizer)
    if shards == "local":
        return PieceCounts.of(counter_of("count_texts", texts, cut, forms, lines, threads))
    count = functools.partial(_count_part, pattern=cut, forms=forms, lines=lines)
    return gathered("count_texts", count, batches("count_texts", texts), shards)
