# SPDX-License-Identifier: Apache-2.0
"""Byte-pair encoding on a GPU: the same ids as on the CPU, and how fast: ``python -m bench.gpu_bpe``.

The vocabulary is GPT-2's, rebuilt from the merges among the tests' golden vectors. Times are medians between CUDA
events, of ops that include their one wait for the size of the answer.
"""

from __future__ import annotations

import json as json_format
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from tokernel.kernels import bpe

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "bpe"
PATTERNS = ("gpt2", "cl100k", "o200k", "none")
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def gpt2(*, ranked: bool = True) -> bpe.Vocab:
    """GPT-2's vocabulary by ranks, or by its list of merges."""
    vectors = np.load(GOLDEN / "gpt2_merges.npz")
    tokens = [b""] * 256
    for byte, token in enumerate(vectors["byte_to_id"].tolist()):
        tokens[token] = bytes([byte])
    pairs = vectors["merges"]
    for left, right in pairs.tolist():
        tokens.append(tokens[left] + tokens[right])
    if ranked:
        return bpe.Vocab(tokens)
    merges = np.concatenate([pairs, np.arange(256, 256 + len(pairs))[:, None]], 1)
    return bpe.Vocab(tokens, merges=merges, whole_piece=False)


def texts(megabytes: float) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Documents of about 4 KB: words as frequent as in English, numbers, code, and scripts without spaces."""
    rng = np.random.default_rng(2)
    alphabet = np.frombuffer(b"etaoinshrdlcumwfgypbvk", np.uint8)
    words = [bytes(alphabet[np.minimum(rng.pareto(1.2, n) * 3, 21).astype(int)]) for n in rng.integers(1, 12, 20000)]
    words += [
        b"tokenization",
        "naïve".encode(),
        "東京都に住んでいます".encode(),
        b"don't",
        b"x_1 = f(y)[0];\n",
        b"2024",
    ]
    words += [b"\n\n    ", "🙂".encode(), "Привет".encode(), b"==========", b"a" * 70]
    size = int(megabytes * 1e6)
    picks = np.minimum(rng.pareto(1.0, size // 4) * 12, len(words) - 1).astype(int)
    rare = rng.random(len(picks)) < 0.02
    picks[rare] = rng.integers(len(words) - 11, len(words), int(rare.sum()))
    data = np.frombuffer(b" ".join(words[i] for i in picks)[:size], np.uint8)
    return data, np.append(np.arange(0, size, 4096), size)


def seconds(call: Callable[[], object], runs: int = 20) -> float:
    """Median of several runs, between CUDA events."""
    for _ in range(3):
        call()
    taken = []
    for _ in range(runs):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        end.synchronize()
        taken.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(taken)


def _same(name: str, ours: tuple[Any, ...], theirs: tuple[Any, ...]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        if not np.array_equal(a.cpu().numpy(), b):
            raise SystemExit(f"bench.gpu_bpe: {name}: the GPU's answer is not the CPU's")


def rows(megabytes: float) -> list[dict[str, Any]]:
    """Check and time every case."""
    data, offsets = texts(megabytes)
    text, bounds = torch.from_numpy(data.copy()).cuda(), torch.from_numpy(offsets).cuda()
    found = []

    def add(op: str, case: str, call: Callable[[], object], moved: int) -> None:
        taken = seconds(call)
        found.append({"op": op, "case": case, "seconds": taken, "gigabytes_per_second": moved / taken / 1e9})

    for ranked in (True, False):
        vocab = gpt2(ranked=ranked)
        for pattern in PATTERNS if ranked else PATTERNS[:1]:
            case = f"{pattern}, {'ranks' if ranked else 'merges'}"
            ids, starts = bpe.encode_batch(vocab, (data, offsets), pattern)
            on_gpu = bpe.encode_batch(vocab, (text, bounds), pattern)
            _same(f"encode_batch {case}", on_gpu, (ids, starts))
            add("encode_batch", case, lambda v=vocab, p=pattern: bpe.encode_batch(v, (text, bounds), p), len(data))
    vocab = gpt2()
    ids, starts = bpe.encode_batch(vocab, (data, offsets), "gpt2")
    device_ids, device_starts = bpe.encode_batch(vocab, (text, bounds), "gpt2")
    _same("decode_batch", bpe.decode_batch(vocab, device_ids, device_starts), (data, offsets))
    add("decode_batch", "gpt2", lambda: bpe.decode_batch(vocab, device_ids, device_starts), len(data))
    weights = np.arange(len(offsets) - 1) % 7
    device_weights = torch.from_numpy(weights).cuda()
    _same("count_pairs", bpe.count_pairs(device_ids, device_starts), bpe.count_pairs(ids, starts))
    _same(
        "count_pairs with weights",
        bpe.count_pairs(device_ids, device_starts, device_weights),
        bpe.count_pairs(ids, starts, weights),
    )
    add("count_pairs", f"{len(ids)} ids", lambda: bpe.count_pairs(device_ids, device_starts), 4 * len(ids))
    return found


@app.command(help="Check byte-pair encoding on a GPU against the CPU, and time it.")
def gpu_bpe(
    megabytes: Annotated[float, typer.Option(help="how much text")] = 64.0,
    json: Annotated[Path | None, typer.Option(help="write the rows here")] = None,
) -> None:
    if not torch.cuda.is_available():
        typer.echo("bench.gpu_bpe: torch sees no CUDA device", err=True)
        raise typer.Exit(2)
    found = rows(megabytes)
    table = Table(title=f"byte-pair encoding, {torch.cuda.get_device_name()}", title_justify="left")
    for name in ("op", "case", "ms", "GB/s of text or ids"):
        table.add_column(name)
    for row in found:
        table.add_row(row["op"], row["case"], f"{row['seconds'] * 1e3:.3f}", f"{row['gigabytes_per_second']:.2f}")
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    if json:
        json.parent.mkdir(parents=True, exist_ok=True)
        json.write_text(json_format.dumps({"device": torch.cuda.get_device_name(), "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    app()
