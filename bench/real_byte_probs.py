# SPDX-License-Identifier: Apache-2.0
"""``python -m bench.real_byte_probs``: what exact byte probabilities change for SmolLM2-135M at prompts cut in a word.

Texts are cut inside words. The ordinary way encodes the cut text and sums next-token probabilities by first byte; the
exact way sums over all token sequences that cover it. Reported: how likely the true next byte is, how often it is the
likeliest, how often the rest of the word comes out right; and how much of the model's mass lies on token sequences
that its tokenizer never makes, which is what the word "exact" leaves out.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import Progress
from tokernel.text import Encoding
from tokernel.text.causal_lm import CausalLM
from tokernel.text.exact_byte_probs import ByteLevelTokenizer, ByteLM, first_byte_sum

from bench.decoding_methods import PROSE
from bench.machine import describe
from bench.real_models import MissingError, load_smollm2
from bench.tables import print_tables, write_json, write_markdown

SHORTEST_WORD = 6
END_OF_TEXT = 0
SEED = 0


@dataclass(frozen=True)
class Cut:
    """One text cut inside a word, both ways."""

    prompt: str
    word: str
    ordinary_bits: float  # -log2 of the true next byte
    exact_bits: float
    ordinary_hit: bool  # the true next byte is the likeliest
    exact_hit: bool
    ordinary_word: bool  # the rest of the word comes out, greedily
    exact_word: bool
    leaked: float  # mass behind the cut prompt on tokens that no canonical sequence has there


def cuts_of(text: str, count: int) -> list[tuple[str, str]]:
    """Pick words behind the first ten, and a place inside each: (text up to there, rest of the word)."""
    words, at, places = text.split(" "), 0, []
    for k, word in enumerate(words):
        if k >= 10 and len(word) >= SHORTEST_WORD and word.isalpha() and word.isascii():
            places.append((at, word))
        at += len(word) + 1
    rng = np.random.default_rng(SEED)
    chosen = sorted(rng.choice(len(places), size=min(count, len(places)), replace=False))
    inside = [int(rng.integers(2, len(places[k][1]) - 1)) for k in chosen]
    return [(text[: places[k][0] + n], places[k][1][n:]) for k, n in zip(chosen, inside, strict=True)]


class Contest:
    """Both ways on one model."""

    def __init__(self, model: Any, encoding: Encoding) -> None:
        self.lm = CausalLM(model)
        size = model.config.vocab_size
        self.tokenizer = ByteLevelTokenizer(encoding.vocab, "gpt2", bos=END_OF_TEXT, eos=END_OF_TEXT, size=size)
        self.bytes = ByteLM(self.lm, self.tokenizer)

    def _ordinary(self, text: bytes) -> Any:
        ids = (END_OF_TEXT, *self.tokenizer.encode(text))
        row = self.lm.logits(ids, 1)[0].astype(np.float64)
        probs = np.exp(row - row.max())
        return probs / probs.sum()

    def _ordinary_rest(self, text: bytes, length: int) -> bytes:
        """Greedy tokens behind the tokens of the cut text."""
        ids, out = [END_OF_TEXT, *self.tokenizer.encode(text)], b""
        while len(out) < length:
            token = int(np.argmax(self.lm.logits(ids, 1)[0]))
            ids.append(token)
            if not self.tokenizer.table.tokens[token]:
                break
            out += self.tokenizer.table.tokens[token]
        return out[:length]

    def run(self, prompt: str, rest: str) -> Cut:
        """Compare both ways at one cut."""
        text, truth = prompt.encode(), rest.encode()
        next_token = self._ordinary(text)
        ordinary = first_byte_sum(next_token, self.tokenizer.table.slot)
        spoken = self._ordinary_rest(text, len(truth))
        cut = self.tokenizer.certain_cut(text)
        tail = self.tokenizer.encode(text[cut:])
        allowed = self.tokenizer.valid_next(text[cut:], tail, np.arange(len(next_token)))
        self.bytes.start(text)
        exact = self.bytes.next_byte_probs()
        completed = self.bytes.generate(text, len(truth))
        return Cut(
            prompt[-40:],
            rest,
            float(-np.log2(ordinary[truth[0]])),
            float(-np.log2(exact[truth[0]])),
            int(np.argmax(ordinary)) == truth[0],
            int(np.argmax(exact)) == truth[0],
            spoken == truth,
            completed == truth,
            float(next_token[~allowed].sum()),
        )


def encoding_of(tokenizer: Any) -> Encoding:
    """Our encoding of a fast tokenizer of transformers."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        path.write_text(tokenizer.backend_tokenizer.to_str(), encoding="utf-8")
        return Encoding.from_hf(path)


def tables(cuts: list[Cut]) -> dict[str, list[list[str]]]:
    """One table: a line each way, the mass that leaks in its title."""
    lines = [["way", "bits of the next byte", "next byte right", "word right"]]
    for way in ("ordinary", "exact"):
        bits, hit, word = (np.mean([getattr(c, f"{way}_{what}") for c in cuts]) for what in ("bits", "hit", "word"))
        lines.append([way, f"{bits:.2f}", f"{hit:.0%}", f"{word:.0%}"])
    leaked = np.mean([c.leaked for c in cuts])
    return {f"{len(cuts)} words cut; {leaked:.1%} of the mass behind the tokens of the cut text leaks": lines}


def main(
    cuts: Annotated[int, typer.Option(min=1, help="cuts in each text")] = 20,
    json_path: Annotated[Path | None, typer.Option("--json", help="write the results here")] = None,
    markdown_path: Annotated[Path | None, typer.Option("--markdown", help="write the table here")] = None,
) -> None:
    """Complete words that a prompt cuts, the ordinary and the exact way."""
    try:
        model, tokenizer = load_smollm2()
    except MissingError as missing:
        Console(stderr=True).print(f"real_byte_probs cannot run here: {missing}")
        raise typer.Exit(1) from None
    contest = Contest(model, encoding_of(tokenizer))
    places = [place for text in PROSE for place in cuts_of(text, cuts)]
    with Progress(console=Console(stderr=True)) as progress:
        found = [contest.run(*place) for place in progress.track(places, description="cuts")]
    lines = tables(found)
    print_tables(lines)
    if json_path:
        document = {"about": describe([torch.get_num_threads()]), "cuts": [asdict(c) for c in found]}
        write_json(json_path, document)
    if markdown_path:
        write_markdown(markdown_path, lines)


if __name__ == "__main__":
    typer.run(main)
