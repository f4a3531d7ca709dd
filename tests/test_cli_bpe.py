# SPDX-License-Identifier: Apache-2.0
"""``tokernel bpe``: files and pipes in, ids and text out, tokens in colours, one sentence for what is wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="the command line needs the cli extra")
pytest.importorskip("matplotlib", reason="the demo needs the cli extra")
from typer.testing import CliRunner

from tokernel import _bpe_commands as commands
from tokernel import _bpe_files, _bpe_view
from tokernel._commands import app
from tokernel.text import Encoding

TEXT = "the cat sat on the mat; the dogs sat on the logs.\nÜber allen Gipfeln ist Ruh 🙂\n" * 20


def bpe(*arguments: object, stdin: str | bytes = ""):
    return CliRunner().invoke(app, ["bpe", *map(str, arguments)], input=stdin)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture
def tokenizer(tmp_path: Path, corpus: Path) -> Path:
    out = tmp_path / "tokenizer.json"
    result = bpe("train", corpus, "--vocab-size", 300, "--out", out, "--special", "<|end|>")
    assert result.exit_code == 0, result.output
    return out


def test_train_writes_a_tokenizer_that_reads_its_text_back(tokenizer: Path) -> None:
    encoding = Encoding.from_hf(tokenizer)
    assert encoding.n_vocab == 300
    assert encoding.special_tokens_set == {"<|end|>"}
    assert encoding.decode(encoding.encode(TEXT)) == TEXT


def test_train_from_a_pipe_equals_train_from_a_file(tmp_path: Path, corpus: Path) -> None:
    one, two = tmp_path / "one.tiktoken", tmp_path / "two.tiktoken"
    assert bpe("train", corpus, "--vocab-size", 290, "--out", one).exit_code == 0
    assert bpe("train", "--vocab-size", 290, "--out", two, stdin=TEXT.encode()).exit_code == 0
    assert one.read_bytes() == two.read_bytes()
    assert len(one.read_bytes().splitlines()) == 290


def test_encode_and_decode_by_pipe(tokenizer: Path) -> None:
    ids = bpe("encode", "-t", tokenizer, stdin=TEXT.encode())
    assert ids.exit_code == 0, ids.output
    assert re.fullmatch(r"(\d+ )+\d+\n", ids.stdout)
    back = bpe("decode", "-t", tokenizer, stdin=ids.stdout)
    assert back.stdout_bytes.decode() == TEXT


@pytest.mark.parametrize("name", ["ids.npy", "ids.json", "ids.txt"])
def test_encode_and_decode_by_files(tmp_path: Path, corpus: Path, tokenizer: Path, name: str) -> None:
    ids, back = tmp_path / "new" / name, tmp_path / "back.txt"
    assert bpe("encode", "-t", tokenizer, corpus, "--out", ids).exit_code == 0
    assert bpe("decode", "-t", tokenizer, ids, "--out", back).exit_code == 0
    assert back.read_text(encoding="utf-8") == TEXT


def test_special_tokens_are_text_unless_asked_for(tokenizer: Path) -> None:
    plain, special = (bpe("encode", "-t", tokenizer, *more, stdin="a<|end|>") for more in ((), ("--special",)))
    assert len(plain.stdout.split()) > 2
    assert len(special.stdout.split()) == 2


def test_tokens_in_colours(tmp_path: Path, tokenizer: Path) -> None:
    shown = bpe("encode", "-t", tokenizer, "--show", "--ids", stdin="the cat\n🙂")
    assert "the" in shown.stdout
    assert "↵" in shown.stdout
    page = tmp_path / "tokens.html"
    assert bpe("encode", "-t", tokenizer, "--out", page, stdin="<b>the & cat").exit_code == 0
    written = page.read_text(encoding="utf-8")
    assert "<b>" not in written
    assert "&lt;" in written
    assert "&amp;" in written
    assert written.count('<span class="c') == len(Encoding.from_hf(tokenizer).encode("<b>the & cat"))
    assert "http" not in written  # nothing is fetched


def test_a_token_inside_a_character_is_shown_by_its_bytes() -> None:
    found = _bpe_view.pieces([1, 2, 3], [b"\xf0\x9f", b"a\tb", "�".encode()])
    assert [p.text for p in found] == ["⟨f0 9f⟩", "a\tb", "�"]
    assert "⇥" in _bpe_view.terminal(found).plain


def test_count_as_table_and_as_json(tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("the mat")
    rows = json.loads(bpe("count", "-t", tokenizer, corpus, other, "--json").stdout)
    assert [Path(row["file"]).name for row in rows] == ["corpus.txt", "other.txt", "all"]
    assert rows[0]["bytes"] == len(TEXT.encode())
    assert rows[0]["characters"] == len(TEXT)
    assert rows[0]["tokens"] == len(Encoding.from_hf(tokenizer).encode(TEXT))
    assert rows[2]["tokens"] == rows[0]["tokens"] + rows[1]["tokens"]
    assert "bytes a token" in bpe("count", "-t", tokenizer, corpus).stdout


def test_compare(tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    larger, page = tmp_path / "larger.tiktoken", tmp_path / "compared.html"
    assert bpe("train", corpus, "--vocab-size", 330, "--out", larger).exit_code == 0
    result = bpe("compare", "-t", tokenizer, "-t", larger, "--pattern", "cl100k", corpus, "--json", "--html", page)
    rows = json.loads(result.stdout)
    assert rows[0]["shared borders"] == 1.0
    assert 0 < rows[1]["shared borders"] <= 1
    assert rows[1]["tokens"] < rows[0]["tokens"]
    assert page.read_text(encoding="utf-8").count("<h1>") == 2


def test_several_files_have_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    assert commands._with_bar(paths, "texts") is paths  # a pipe or a log
    monkeypatch.setattr(commands.sys.stderr, "isatty", lambda: True, raising=False)
    assert commands._with_bar(paths[:1], "texts") == paths[:1]
    barred = commands._with_bar(paths, "texts")
    assert barred is not paths
    assert list(barred) == paths


@pytest.mark.parametrize(
    ("arguments", "stdin", "expected"),
    [
        (("encode", "-t", "missing/tokenizer.json"), "a", "--tokenizer: no such file: missing/tokenizer.json"),
        (("encode", "-t", "no_such_encoding"), "a", "no_such_encoding"),
        (("encode", "-t", "{tokenizer}", "missing.txt"), "", "missing.txt"),
        (("decode", "-t", "{tokenizer}"), "1 two 3", "line 1: expected whole numbers, got 'two'"),
        (("decode", "-t", "{tokenizer}"), "1 999999", "999999"),
        (("compare", "-t", "{tokenizer}"), "a", "must be given at least twice, got 1"),
        (("train", "--vocab-size", "5"), "a b", "vocab_size"),
        (("train", "missing.txt"), "", "missing.txt"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(tokenizer: Path, arguments, stdin, expected) -> None:
    result = bpe(*(a.format(tokenizer=tokenizer) for a in arguments), stdin=stdin)
    assert result.exit_code == 2
    assert expected in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"tokernel bpe {arguments[0]}: ")


def test_load_knows_files_by_what_they_are(tmp_path: Path, corpus: Path, tokenizer: Path) -> None:
    ids = Encoding.from_hf(tokenizer).encode("the cat")
    assert _bpe_files.load(str(tokenizer.parent)).encode("the cat") == ids
    ranks = tmp_path / "small.tiktoken"
    assert bpe("train", corpus, "--vocab-size", 300, "--out", ranks).exit_code == 0
    encoding = _bpe_files.load(str(ranks), "cl100k")
    assert encoding.decode(encoding.encode("the cat")) == "the cat"
    with pytest.raises(ValueError, match="pat_str"):
        _bpe_files.load(str(ranks))
