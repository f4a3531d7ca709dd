# SPDX-License-Identifier: Apache-2.0
"""Fuzzing of encoding: split, ids and back, against the reference, against tiktoken and against tokenizers.

    python tests/bpe/fuzz_encode.py --seconds 600
    python tests/bpe/fuzz_encode.py --seconds 600 --vocabulary o200k_base   # as tiktoken has it, its own pattern
    python tests/bpe/fuzz_encode.py --seconds 600 --engine atheris          # pip install '.[fuzz]'

What guides it: an input is kept, and mutated further, if it shows behaviour that no input showed before. Behaviour is
what comes out, not lines of code: for each piece of each pattern, the kinds of its first two characters, of its last
and of the next piece's first, and how long it is; and how many tokens there are beyond one a piece. atheris is guided
by the lines of Python alone (`tokernel.text` and the checks here): it sees nothing of the C++.

A failure prints the input; put it into tests/golden/bpe/fuzz_seeds.txt (one Python literal a line).
"""

from __future__ import annotations

import argparse
import itertools
import ast
import os
import random
import sys
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parents[1]))

import tiktoken
import tokenizers
from bpe_files import gpt2_ranks
from split_oracle import GOLDEN, SCANNED, class_ranges

import tokernel
from tokernel.kernels import bpe
from tokernel.text import Encoding
from tokernel.text.pretokenizer import CLASSIC

SEEDS = GOLDEN / "fuzz_seeds.txt"
LEVELS = [name for name in tokernel.backends()["usable"] if name not in ("ref", "simt", "cuda")]
LONGEST = 400  # characters
EVERY_TOKENIZERS = 16  # it is slow: one input in so many
UNITS = ["'", "'s", "'Ll", "'ſ", " ", "  ", "\n", "\r\n", "\t", "/", "1", "a", "A", ".", "é", "日", "\u0301", "\u3000"]


def seeds() -> list[str]:
    """The committed inputs; a bytes literal stands for text with ill-formed bytes, in surrogates."""
    lines = SEEDS.read_text("ascii").splitlines()
    values = [ast.literal_eval(line) for line in lines if line and not line.startswith("#")]
    return [v if isinstance(v, str) else v.decode("utf-8", "surrogateescape") for v in values]


# ---- what must hold ----------------------------------------------------------------------------------------------
@dataclass
class Pair:
    """Our encoding and tiktoken's, of one vocabulary and one pattern."""

    pattern: str
    ours: Encoding
    theirs: tiktoken.Encoding
    same_split: bool  # the pattern is spelled as it was trained with

    def check(self, text: str) -> tuple[np.ndarray, list[int]]:
        """Raise AssertionError unless both agree; return ends and ids."""
        ids = self.ours.encode_ordinary(text)
        assert ids == self.theirs.encode_ordinary(text), self.pattern
        assert self.ours.decode(ids) == text
        data = text.encode()
        found = bpe.split(data, self.pattern)
        pieces = [data[a:b] for a, b in itertools.pairwise([0, *found.tolist()])]
        assert b"".join(pieces) == data
        if self.same_split:
            assert [i for piece in pieces for i in self.theirs._encode_single_piece(piece)] == ids, self.pattern
        return found, ids

    def check_bytes(self, data: bytes) -> None:
        """Any bytes: every level splits as the reference does, nothing is lost, and tiktoken's rule gives its ids."""
        with tokernel.use_backend("ref"):
            expected = bpe.split(data, self.pattern)
        for level in LEVELS:
            with tokernel.use_backend(level):
                assert np.array_equal(bpe.split(data, self.pattern), expected), (level, self.pattern)
        ids = bpe.encode(self.ours.vocab, data, self.pattern)
        assert bpe.decode(self.ours.vocab, ids) == data
        if self.same_split:
            assert self.ours.encode(data, errors="tiktoken") == self.theirs._encode_bytes(data), self.pattern


@cache
def gpt2_pairs() -> tuple[Pair, ...]:
    """GPT-2's vocabulary, which the tests rebuild from its merges, with every pattern."""
    options = {"mergeable_ranks": gpt2_ranks(), "special_tokens": {}}
    return tuple(
        Pair(p, Encoding(p, pat_str=p, **options), tiktoken.Encoding(p, pat_str=CLASSIC[p], **options), True)
        for p in SCANNED
    )


@cache
def published_pair(name: str) -> tuple[Pair, ...]:
    """A vocabulary of tiktoken's, with the pattern that tiktoken has for it; downloads it unless it is cached."""
    theirs = tiktoken.get_encoding(name)
    ours = Encoding(
        name, pat_str=theirs._pat_str, mergeable_ranks=theirs._mergeable_ranks, special_tokens=theirs._special_tokens
    )
    pattern = {"cl100k_base": "cl100k", "o200k_base": "o200k"}.get(name, "gpt2")
    return (Pair(pattern, ours, theirs, False),)


@cache
def hugging_face() -> tokenizers.Tokenizer:
    """GPT-2 as the tokenizers package has it."""
    with np.load(GOLDEN / "gpt2_merges.npz") as data:
        merges = data["merges"].tolist()
    letters = {ord(c): c for c in map(chr, [*range(33, 127), *range(161, 173), *range(174, 256)])}
    others = (b for b in range(256) if b not in letters)
    letters |= {b: chr(256 + i) for i, b in enumerate(others)}
    names = ["".join(letters[b] for b in token) for token in sorted(gpt2_ranks(), key=gpt2_ranks().__getitem__)]
    pairs = [(names[a], names[b]) for a, b in merges]
    model = tokenizers.models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=pairs)
    found = tokenizers.Tokenizer(model)
    found.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return found


# ---- what guides it ----------------------------------------------------------------------------------------------
@cache
def kinds() -> np.ndarray:
    """A number for every code point: its class, and what the patterns name."""
    found = np.zeros(0x110000, np.uint8)
    for number, name in enumerate(("S_white", "N", "M", "Lu", "Lt", "Ll", "Lm", "Lo"), start=1):
        for first, last in class_ranges()[name]:
            found[first : last + 1] = number
    for number, characters in enumerate(("\r\n", "'", "/", " ", "sS\u017f", "tTmMdD", "rRvVlL", "eE"), start=16):
        found[[ord(c) for c in characters]] = number
    return found


def behaviour(pattern: str, text: str, ends: np.ndarray, tokens: int) -> set[tuple[object, ...]]:
    """What the pieces of a text show."""
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    kind = [*kinds()[points].tolist(), 255, 255]
    width = 1 + (points > 0x7F) + (points > 0x7FF) + (points > 0xFFFF)
    stops = np.searchsorted(np.cumsum(width), ends) + 1
    shown: set[tuple[object, ...]] = {(pattern, min(tokens - len(ends), 20))}
    begin = 0
    for stop in stops.tolist():
        second = kind[begin + 1] if stop > begin + 1 else 254
        shown.add((pattern, kind[begin], second, kind[stop - 1], kind[stop], min(stop - begin, 5), stop - begin > 64))
        begin = stop
    return shown


@dataclass
class Fuzzer:
    """Mutates what showed something new. `random` alone decides, so that a seed repeats a run."""

    pairs: tuple[Pair, ...]
    random: random.Random
    corpus: list[str] = field(default_factory=list)
    shown: set[tuple[object, ...]] = field(default_factory=set)
    tried: int = 0

    def run(self, seconds: float) -> None:
        """Try the seeds, then mutations until the time is over."""
        stop = time.monotonic() + seconds
        for text in [*seeds(), *UNITS]:
            self.attempt(text)
        while time.monotonic() < stop:
            self.attempt(self.mutated(self.random.choice(self.corpus)))

    def attempt(self, text: str) -> None:
        """Check one input, and keep it if it shows something new. Lone surrogates stand for ill-formed bytes."""
        self.tried += 1
        data = text.encode("utf-8", "surrogateescape")
        try:
            clean = data.decode("utf-8", "replace")
            shown = set[tuple[object, ...]]()
            for pair in self.pairs:
                ends, ids = pair.check(clean)
                shown |= behaviour(pair.pattern, clean, ends, len(ids))
                pair.check_bytes(data)
            if self.pairs is gpt2_pairs() and self.tried % EVERY_TOKENIZERS == 0:
                assert hugging_face().encode(clean).ids == self.pairs[0].ours.encode_ordinary(clean), "tokenizers"
        except BaseException:
            print(f"input {self.tried}: {data!r}", file=sys.stderr)
            raise
        if not shown <= self.shown:
            self.shown |= shown
            self.corpus.append(text)

    def mutated(self, text: str) -> str:
        """One to four changes."""
        for _ in range(self.random.randint(1, 4)):
            a, b = sorted(self.random.choices(range(len(text) + 1), k=2))
            new = self.material(text[a:b])
            text = self.random.choice([text[:a] + new + text[a:], text[:a] + new + text[b:], text[:a] + text[b:]])
        return text[:LONGEST]

    def material(self, here: str) -> str:
        """What may be put somewhere."""
        choice = self.random.randrange(6)
        if choice == 0:
            return here[:20] * self.random.choice([2, 3, 20])
        if choice == 1:
            other = self.random.choice(self.corpus)
            a, b = sorted(self.random.choices(range(len(other) + 1), k=2))
            return other[a:b]
        if choice == 2:
            return self.random.choice(UNITS) * self.random.choice([1, 1, 2, 3, 70])
        if choice == 3:
            return chr(0xDC80 + self.random.randrange(0x80))
        return "".join(self.character() for _ in range(self.random.randint(1, 3)))

    def character(self) -> str:
        """An edge of a class, or any code point."""
        edges = self.random.choice(list(class_ranges().values()))
        point = int(self.random.choice(self.random.choice(edges))) + self.random.choice([-1, 0, 0, 1])
        if self.random.random() < 0.1:
            point = self.random.randrange(0x110000)
        return chr(point) if 0 <= point < 0x110000 and not 0xD800 <= point < 0xE000 else "\ufffd"


def run_atheris(fuzzer: Fuzzer, seconds: int) -> None:
    """Let atheris choose the bytes."""
    import atheris

    for module in ("tokernel.text.encoding", "tokernel.text._bytes_input", "tokernel.text.pretokenizer"):
        for function in vars(sys.modules[module]).values():
            if callable(function) and getattr(function, "__module__", "") == module and hasattr(function, "__code__"):
                atheris.instrument_func(function)
    behave = atheris.instrument_func(lambda data: fuzzer.attempt(data.decode("utf-8", "surrogateescape")))
    atheris.Setup([sys.argv[0], f"-max_total_time={seconds}", f"-max_len={LONGEST}"], behave)
    atheris.Fuzz()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=int(os.environ.get("TOKERNEL_FUZZ_SECONDS", "10")))
    parser.add_argument("--vocabulary", default="gpt2-merges")
    parser.add_argument("--engine", choices=["behaviour", "atheris"], default="behaviour")
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    pairs = gpt2_pairs() if options.vocabulary == "gpt2-merges" else published_pair(options.vocabulary)
    fuzzer = Fuzzer(pairs, random.Random(options.seed))
    if options.engine == "atheris":
        run_atheris(fuzzer, options.seconds)
    else:
        fuzzer.run(options.seconds)
    print(f"{fuzzer.tried} inputs, {len(fuzzer.corpus)} kept, {len(fuzzer.shown)} behaviours")


if __name__ == "__main__":
    main()
