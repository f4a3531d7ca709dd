# SPDX-License-Identifier: Apache-2.0
"""``tokernel bpe``: train, encode, decode, count and compare, with files and standard input."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import numpy as np
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from tokernel import _bpe_view as view
from tokernel._bpe_files import STDIN, is_rank_file, load, open_input, save, write

if TYPE_CHECKING:
    from tokernel.text import Encoding

bpe = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, help="Byte-level BPE: train, encode, decode, count, compare."
)

_TOKENIZER_HELP = "a tokenizer.json, rank file, tekken.json, folder of vocab.json and merges.txt, or a known name"
Tokenizer = Annotated[str, typer.Option("--tokenizer", "-t", help=_TOKENIZER_HELP)]
Pattern = Annotated[
    str,
    typer.Option(help="pre-tokenizer of a rank file that is not a published one: its name, or a regular expression"),
]
Files = Annotated[list[Path] | None, typer.Argument(help="text files; none, or -: standard input")]
Special = Annotated[bool, typer.Option("--special", help="special tokens in the text become their ids")]


@contextmanager
def _one_sentence(command: str) -> Iterator[None]:
    """Errors of input and files end with exit code 2 and one sentence."""
    try:
        yield
    except (ValueError, OSError) as error:
        _stop(command, str(error))


def _stop(command: str, message: str) -> NoReturn:
    sentence = "; ".join(line.strip() for line in message.splitlines())
    typer.echo(f"tokernel bpe {command}: {sentence}", err=True)
    raise typer.Exit(2) from None


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 140)


def _inputs(files: list[Path] | None) -> Iterator[tuple[str, bytes]]:
    """Names and contents, one after the other, with a bar on a terminal while they are worked on."""
    for path in _with_bar(files or [STDIN], "texts"):
        yield str(path), open_input(path)


def _with_bar(paths: list[Path], description: str) -> Iterable[Path]:
    if len(paths) < 2 or not sys.stderr.isatty():
        return paths
    return track(paths, description, console=Console(stderr=True), transient=True)


def _encode(encoding: Encoding, data: bytes, special: bool) -> Any:
    text = data.decode("utf-8", "replace")
    if special:
        return encoding.encode_to_numpy(text, allowed_special="all")
    return encoding.encode_to_numpy(text, disallowed_special=())


@bpe.command()
def train(
    files: Files = None,
    vocab_size: Annotated[int, typer.Option(min=1, help="tokens in all, special ones included")] = 8192,
    out: Annotated[Path, typer.Option(help="tokenizer.json, or a rank file that ends in .tiktoken")] = Path(
        "tokenizer.json"
    ),
    pattern: Pattern = "cl100k",
    min_frequency: Annotated[int, typer.Option(min=0, help="leave out rarer pairs")] = 0,
    max_token_length: Annotated[int | None, typer.Option(min=2, help="merged tokens stay shorter than this")] = None,
    special: Annotated[list[str] | None, typer.Option(help="a special token; may be repeated")] = None,
) -> None:
    """Learn a vocabulary from text files or standard input."""
    from tokernel import text

    with _one_sentence("train"):
        start = time.perf_counter()
        encoding = text.train(
            (open_input(path) if path == STDIN else path for path in _with_bar(files or [STDIN], "counting")),
            vocab_size,
            pattern,
            special or (),
            min_frequency=min_frequency,
            max_token_length=max_token_length,
            ids="bytes" if is_rank_file(out) else "hf",
        )
        save(encoding, out)
    typer.echo(f"{encoding.n_vocab} tokens in {time.perf_counter() - start:.1f} s; wrote {out}", err=True)


@bpe.command()
def encode(
    tokenizer: Tokenizer,
    files: Files = None,
    pattern: Pattern = "",
    special: Special = False,
    out: Annotated[
        Path | None, typer.Option(help="write the ids here: .npy, .json, .html, else one line a file")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="show the tokens in colours instead of their ids")] = False,
    ids: Annotated[bool, typer.Option("--ids", help="with --show: ids behind the tokens")] = False,
) -> None:
    """Encode texts: ids, one line a file; or the tokens in colours, in the terminal or as a page of HTML."""
    with _one_sentence("encode"):
        encoding = load(tokenizer, pattern)
        found = [(name, _encode(encoding, data, special), len(data)) for name, data in _inputs(files)]
        if show:
            for _, tokens, _ in found:
                _console().print(view.terminal(_pieces(encoding, tokens), ids), soft_wrap=True)
        if out is not None and out.suffix == ".html":
            views = [(name, _facts(tokens, size), _pieces(encoding, tokens)) for name, tokens, size in found]
            write(out, view.page(f"Tokens of {tokenizer}", views).encode())
        elif out is not None:
            write(out, _packed([tokens for _, tokens, _ in found], out.suffix))
        elif not show:
            sys.stdout.write(_packed([tokens for _, tokens, _ in found], "").decode())


def _pieces(encoding: Encoding, tokens: Any) -> list[view.Piece]:
    ids = tokens.tolist()
    return view.pieces(ids, encoding.decode_tokens_bytes(ids))


def _facts(tokens: Any, size: int) -> str:
    return f"{len(tokens)} tokens, {size} bytes" + (f", {size / len(tokens):.2f} bytes a token" if len(tokens) else "")


def _packed(rows: list[Any], suffix: str) -> bytes:
    if suffix == ".json":
        return json.dumps([row.tolist() for row in rows]).encode()
    if suffix == ".npy":
        import io

        buffer = io.BytesIO()
        np.save(buffer, np.concatenate(rows) if rows else np.empty(0, np.int64))
        return buffer.getvalue()
    return "".join(" ".join(map(str, row.tolist())) + "\n" for row in rows).encode()


@bpe.command()
def decode(
    tokenizer: Tokenizer,
    file: Annotated[Path, typer.Argument(help="ids: .npy, .json, or numbers between white space; -: input")] = Path(
        "-"
    ),
    pattern: Pattern = "",
    out: Annotated[Path | None, typer.Option(help="write the bytes here; default: standard output")] = None,
) -> None:
    """Decode ids to the bytes that they stand for."""
    with _one_sentence("decode"):
        encoding = load(tokenizer, pattern)
        data = encoding.decode_bytes(_ids_of(file, open_input(file)))
        if out is not None:
            write(out, data)
            return
    sys.stdout.buffer.write(data)


def _ids_of(path: Path, data: bytes) -> list[int]:
    if path.suffix == ".npy":
        import io

        return list(np.load(io.BytesIO(data), allow_pickle=False).ravel().tolist())
    if path.suffix == ".json":
        rows = json.loads(data)
        return [int(i) for row in rows for i in (row if isinstance(row, list) else [row])]
    ids = []
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        for word in line.split():
            if not (word.isascii() and word.isdigit()):
                raise ValueError(f"ids: {path}: line {number}: expected whole numbers, got {word[:40]!r}")
            ids.append(int(word))
    return ids


@bpe.command()
def count(
    tokenizer: Tokenizer,
    files: Files = None,
    pattern: Pattern = "",
    special: Special = False,
    json_: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False,
) -> None:
    """Count the tokens of texts, with bytes and characters a token."""
    with _one_sentence("count"):
        encoding = load(tokenizer, pattern)
        rows = [_counted(name, data, len(_encode(encoding, data, special))) for name, data in _inputs(files)]
    if len(rows) > 1:
        sums = {key: sum(row[key] for row in rows) for key in ("tokens", "bytes", "characters")}
        rows.append({"file": "all", **sums, **_ratios(**sums)})
    _print_rows(rows, json_)


def _counted(name: str, data: bytes, tokens: int) -> dict[str, Any]:
    counts = {"tokens": tokens, "bytes": len(data), "characters": len(data.decode("utf-8", "replace"))}
    return {"file": name, **counts, **_ratios(**counts)}


def _ratios(tokens: int, bytes: int, characters: int) -> dict[str, float]:
    return {"bytes a token": bytes / max(tokens, 1), "characters a token": characters / max(tokens, 1)}


def _print_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    table = Table(header_style="bold")
    for key in rows[0]:
        table.add_column(key, justify="left" if isinstance(rows[0][key], str) else "right")
    for row in rows:
        table.add_row(
            *(f"{v:.3f}" if isinstance(v, float) else f"{v:,}" if isinstance(v, int) else v for v in row.values())
        )
    _console().print(table)


@bpe.command()
def compare(
    tokenizer: Annotated[list[str], typer.Option("--tokenizer", "-t", help=_TOKENIZER_HELP + "; repeat it")],
    files: Files = None,
    pattern: Pattern = "",
    json_: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False,
    html: Annotated[Path | None, typer.Option(help="write the tokens of each, in colours, here")] = None,
) -> None:
    """Compare tokenizers on the same texts: tokens, bytes a token, and how many borders they share with the first."""
    with _one_sentence("compare"):
        if len(tokenizer) < 2:
            raise ValueError(f"--tokenizer must be given at least twice, got {len(tokenizer)}")
        data = b"\n".join(data for _, data in _inputs(files))
        rows: list[dict[str, Any]] = []
        views = []
        first: Any = None
        for name in tokenizer:
            encoding = load(name, pattern)
            tokens = _encode(encoding, data, special=False)
            ends = np.cumsum([len(t) for t in encoding.decode_tokens_bytes(tokens.tolist())])
            first = ends if first is None else first
            shared = len(np.intersect1d(ends, first)) / max(len(first), 1)
            row = {"tokenizer": name, "vocabulary": encoding.n_vocab, "tokens": len(tokens)}
            rows.append({**row, "bytes a token": len(data) / max(len(tokens), 1), "shared borders": shared})
            views.append((name, _facts(tokens, len(data)), _pieces(encoding, tokens) if html else []))
        if html is not None:
            write(html, view.page("Tokenizers compared", views).encode())
    _print_rows(rows, json_)
