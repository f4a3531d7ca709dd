# SPDX-License-Identifier: Apache-2.0
"""``python -m bench.bpe_train``: training against every trainer that is installed, each run in a process of its own.

The text is `prose` and `multi` of :mod:`bench.bpe_corpora`, in parts of 64 KB, or as a file for trainers that read
files. Reported are the least seconds of the runs, and the memory that one run adds at its peak, text not included.
Contenders split as cl100k, or as gpt2 and line by line where they know nothing else; ours races both, and the cases of
``python -m bench bpe`` hold it to the same tokens.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bench import bpe_corpora, memory
from bench.core import Case, Floor, Work

PART = 1 << 16  # characters
FASTER = Floor("fastest", 2.5)
VOCABULARIES = (8192, 32768)
Texts = list[str]


def texts_of(characters: int | None = None) -> Texts:
    """The mixed corpus; or so many characters of code, which is on every machine."""
    if characters is None:
        text = bpe_corpora.corpus("prose") + bpe_corpora.corpus("multi")
    else:
        text = bpe_corpora.corpus("code")[:characters]
    return [text[i : i + PART] for i in range(0, len(text), PART)]


def file_of(texts: Texts) -> Path:
    """The same as a file, for as long as the process runs."""
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / "mixed.txt"
    path.write_text("".join(texts), encoding="utf-8")
    _folders.append(folder)
    return path


_folders: list[tempfile.TemporaryDirectory[str]] = []


def _regex() -> str:
    from tokernel.text.pretokenizer import CLASSIC

    return CLASSIC["cl100k"]


def _ours(texts: Texts, vocab: int) -> set[bytes]:
    from tokernel.text import train

    return set(train(texts, vocab, "cl100k", ids="bytes", progress=False).token_byte_values())


def _ours_of_lines(path: Path, vocab: int) -> set[bytes]:
    """As gigabpe does it: lines as texts, and tokens for the bytes that occur."""
    from tokernel.text import train

    enc = train(path, vocab, "gpt2", lines=True, alphabet="seen", progress=False)
    return set(enc.token_byte_values())


def _rustbpe(texts: Texts, vocab: int) -> set[bytes]:
    import rustbpe

    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(iter(texts), vocab, pattern=_regex())
    return {bytes(token) for token, _ in trainer.get_mergeable_ranks()}


def _bpeasy(texts: Texts, vocab: int) -> set[bytes]:
    import bpeasy

    return {bytes(token) for token in bpeasy.train_bpe(iter(texts), _regex(), 10_000, vocab)}


def _tokenizers(pattern: str, texts: Texts, vocab: int) -> set[bytes]:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
    from tokernel.text._byte_map import BYTE_TO_CHAR

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if pattern == "cl100k":
        level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        split = pre_tokenizers.Split(Regex(_regex()), "isolated")
        trained.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    alphabet = list(BYTE_TO_CHAR)
    trainer = trainers.BpeTrainer(vocab_size=vocab, show_progress=False, initial_alphabet=alphabet)
    trained.train_from_iterator(texts, trainer)
    return _spelled(trained.get_vocab())


def _gigabpe(path: Path, vocab: int) -> set[bytes]:
    import gigabpe

    found, _ = gigabpe.train_bpe([str(path)], vocab, special_tokens=[], pretokenizer="bytelevel")
    return _spelled(found)


def _spelled(vocab: dict[str, int]) -> set[bytes]:
    from tokernel.text._byte_map import BYTE_TO_CHAR

    byte = {char: i for i, char in enumerate(BYTE_TO_CHAR)}
    return {bytes(byte[c] for c in token) for token in vocab}


# Name -> (package, function of (texts or file, vocabulary), whether it takes a file).
CONTENDERS: dict[str, tuple[str, Callable[[Any, int], set[bytes]], bool]] = {
    "tokernel": ("tokernel", _ours, False),
    "rustbpe": ("rustbpe", _rustbpe, False),
    "bpeasy": ("bpeasy", _bpeasy, False),
    "tokenizers": ("tokenizers", partial(_tokenizers, "cl100k"), False),
    "tokernel, gpt2 file": ("tokernel", _ours_of_lines, True),
    "gigabpe, gpt2 file": ("gigabpe", _gigabpe, True),
}


def _equal(ours: set[bytes], peer: set[bytes]) -> None:
    assert ours == peer


def _work(vocab: int, from_file: bool, quick: bool) -> Work:
    texts = texts_of(200_000 if quick else None)
    vocab = 400 if quick else vocab
    source = file_of(texts) if from_file else texts
    racing = {n: c for n, c in CONTENDERS.items() if c[2] == from_file and c[0] in ("tokernel", "rustbpe", "gigabpe")}
    calls = {name: partial(run, source, vocab) for name, (_, run, _) in racing.items()}
    ours = next(name for name in calls if name.startswith("tokernel"))
    size = sum(len(text.encode()) for text in texts)
    return Work(calls.pop(ours), calls, _equal, moved_bytes=float(size))


def cases() -> list[Case]:
    """Every case that this machine has the text and the peer for; RAYON_NUM_THREADS holds the peers' threads."""
    found: list[Case] = []
    if "TOKERNEL_BPE_DATA" not in os.environ:
        return found
    for from_file, package, name in ((False, "rustbpe", "cl100k"), (True, "gigabpe", "gpt2, a file")):
        if importlib.util.find_spec(package) is None:
            continue
        for vocab in VOCABULARIES:
            build = partial(_work, vocab, from_file)
            found.append(Case("bpe", "train", f"7.8 MB, {name}, {vocab}", "bytes", build, (FASTER,)))
    return found


def _child(name: str, vocab: int) -> None:
    _, run, from_file = CONTENDERS[name]
    run(file_of(texts_of(20_000)) if from_file else texts_of(20_000), 300)  # imports and code pages
    texts = texts_of()
    source = file_of(texts) if from_file else texts
    if from_file:
        del texts
    gc.collect()
    before = memory._resident("VmRSS")
    Path("/proc/self/clear_refs").write_text(memory.RESET_PEAK)
    start, processor = time.perf_counter(), time.process_time()
    run(source, vocab)
    seconds, cpu = time.perf_counter() - start, time.process_time() - processor
    added = max(0, memory._resident("VmHWM") - before)
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "peak_mem_bytes": added}))


def _measured(name: str, vocab: int, threads: int) -> dict[str, float]:
    count = str(threads)
    extra = {"RAYON_NUM_THREADS": count, "TOKERNEL_NUM_THREADS": count, "TOKENIZERS_PARALLELISM": "true"}
    command = [sys.executable, "-m", "bench.bpe_train", "--child", name, "--vocab", str(vocab)]
    done = subprocess.run(command, env={**os.environ, **extra}, stdout=subprocess.PIPE, text=True, check=True)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def main(
    vocab: Annotated[list[int] | None, typer.Option(help="vocabulary; may be repeated")] = None,
    threads: Annotated[list[int] | None, typer.Option(help="threads; may be repeated")] = None,
    rounds: Annotated[int, typer.Option(help="runs of each contender, in turns")] = 3,
    child: Annotated[str, typer.Option(hidden=True)] = "",
    json_path: Annotated[Path | None, typer.Option("--json", help="write every row here")] = None,
) -> None:
    """Train with everything that is installed."""
    if child:
        return _child(child, (vocab or [8192])[0])
    rows = []
    names = [name for name, (package, _, _) in CONTENDERS.items() if importlib.util.find_spec(package)]
    for size in vocab or VOCABULARIES:
        for count in threads or (1, 2):
            runs = [{name: _measured(name, size, count) for name in names} for _ in range(rounds)]
            for name in names:
                least = {key: min(run[name][key] for run in runs) for key in runs[0][name]}
                rows.append({"trainer": name, "vocab": size, "threads": count, **least})
    if json_path:
        json_path.write_text(json.dumps(rows, indent=1) + "\n")
    table = Table("trainer", "vocabulary", "threads", "seconds", "CPU seconds", "peak MB")
    for row in rows:
        shown = (f"{row['seconds']:.3f}", f"{row['cpu_seconds']:.3f}", f"{row['peak_mem_bytes'] / 1e6:.0f}")
        table.add_row(row["trainer"], str(row["vocab"]), str(row["threads"]), *shown)
    Console(width=100).print(table)
    return None


if __name__ == "__main__":
    typer.run(main)
