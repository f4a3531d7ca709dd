# SPDX-License-Identifier: Apache-2.0
"""The lexers against Python's own, on the standard library's own source, and on what C and Java do differently."""

from __future__ import annotations

import io
import sysconfig
import tokenize
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from tokernel.reduce._code_lexer import lexemes, unit_spans
from tokernel.reduce.code_token_merging import identifier_spans

STDLIB = Path(sysconfig.get_paths()["stdlib"])
KINDS = {tokenize.NAME: "name", tokenize.NUMBER: "number", tokenize.STRING: "string", tokenize.OP: "operator"}


def texts(source: str, lang: str) -> list[str]:
    return [source[unit.start : unit.end] for unit in lexemes(source, lang)]


def kinds(source: str, lang: str) -> dict[str, str]:
    return {source[unit.start : unit.end]: unit.kind for unit in lexemes(source, lang)}


def units_of_tokenize(source: str) -> list[tuple[str, int, int]]:
    starts = np.cumsum([0, *(len(line) for line in io.StringIO(source))])
    units: list[tuple[str, int, int]] = []
    fstring_depth = 0  # since Python 3.12 tokenize looks into f-strings; here all of one is a unit
    for t in tokenize.generate_tokens(io.StringIO(source).readline):
        name = tokenize.tok_name[t.type]
        fstring_depth += (name == "FSTRING_START") - (name == "FSTRING_END")
        start, end = (int(starts[line - 1]) + column for line, column in (t.start, t.end))
        if name == "FSTRING_START" and fstring_depth == 1:
            fstring_start = start
        elif name == "FSTRING_END" and fstring_depth == 0:
            units.append(("string", fstring_start, end))
        elif t.type in KINDS and fstring_depth == 0:
            units.append((KINDS[t.type], start, end))
    return units


@pytest.mark.parametrize("name", ["argparse.py", "ast.py", "fractions.py", "heapq.py", "string.py", "typing.py"])
def test_python_units_are_those_of_tokenize(name: str):
    path = STDLIB / name if (STDLIB / name).exists() else STDLIB / name.removesuffix(".py") / "__init__.py"
    source = path.read_text(encoding="utf-8")
    got = [
        ("name" if u.kind in ("identifier", "keyword") else u.kind, u.start, u.end) for u in lexemes(source, "python")
    ]
    assert got == units_of_tokenize(source)


def test_python_strings_numbers_and_operators():
    source = "x = rb'a\\'b' + f\"{y}\" + '''a\n'b''' # c 'd'\ny **= 0x1F + 1_0.5e-3j // .5 -> :="
    assert texts(source, "python") == [
        *["x", "=", "rb'a\\'b'", "+", 'f"{y}"', "+", "'''a\n'b'''"],
        *["y", "**=", "0x1F", "+", "1_0.5e-3j", "//", ".5", "->", ":="],
    ]


def test_keywords_are_no_identifiers():
    source = "def f(größe): return größe"
    assert [source[a:b] for a, b in identifier_spans(source, "python")] == ["f", "größe", "größe"]
    assert kinds("int main", "c") == {"int": "keyword", "main": "identifier"}
    assert kinds("class Big$1", "java") == {"class": "keyword", "Big$1": "identifier"}


def test_c_directives_headers_and_strings():
    source = '#ifndef X\n#  include <a/b.h>\n#define error(x) #x u8"a\\"b" L\'c\' 0x1Fu 1.5e-3f\n'
    source += "error->y <<= ... // c \\\n d\nz"
    assert texts(source, "c") == [
        *["#", "ifndef", "X", "#", "include", "<a/b.h>", "#", "define", "error", "(", "x", ")", "#", "x"],
        *['u8"a\\"b"', "L'c'", "0x1Fu", "1.5e-3f", "error", "->", "y", "<<=", "...", "z"],
    ]
    found = {(source[u.start : u.end], u.kind) for u in lexemes(source, "c")}
    assert {("include", "keyword"), ("<a/b.h>", "string"), ("error", "identifier"), ("x", "identifier")} <= found


def test_c_covers_real_headers():
    """Every character of NumPy's headers is part of a unit, a comment, white space or a line continuation."""
    for header in sorted(Path(np.get_include(), "numpy").glob("npy_*.h"))[:6]:
        source = header.read_text(encoding="utf-8")
        units = lexemes(source, "c")
        gaps = zip([0, *(u.end for u in units)], [*(u.start for u in units), len(source)], strict=True)
        for start, end in gaps:
            gap = source[start:end].replace("\\\n", " ").strip()
            assert gap == "" or gap.startswith(("/*", "//")), (header.name, gap[:80])


def test_java_text_blocks_annotations_and_operators():
    source = "/* c */ @Override int f(List<List<A>> a) { char c = '\\'';"
    source += ' t = """\n a "q" b"""; return a.x >>>= 2L + 0x1E+1 - b::c; }'
    assert texts(source, "java") == [
        *[
            "@",
            "Override",
            "int",
            "f",
            "(",
            "List",
            "<",
            "List",
            "<",
            "A",
            ">>",
            "a",
            ")",
            "{",
            "char",
            "c",
            "=",
            "'\\''",
        ],
        *[";", "t", "=", '"""\n a "q" b"""', ";", "return", "a", ".", "x", ">>>=", "2L", "+", "0x1E", "+", "1"],
        *["-", "b", "::", "c", ";", "}"],
    ]


@pytest.mark.parametrize("lang", ["python", "c", "java"])
def test_source_that_is_cut_off_still_has_units(lang: str):
    source = {"python": 'x = """a b', "c": "int x = /* a", "java": 'String x = "a b'}[lang]
    spans = unit_spans(source, lang)
    assert all(a < b for a, b in spans)
    assert "x" in [source[a:b] for a, b in spans]
    assert unit_spans("", lang) == []


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"lexemes: lang expected one of python, c, java; got 'rust'"):
        lexemes("", "rust")
    with pytest.raises(ValueError, match=r"unit_spans: kinds expected some of identifier, .*; got comment"):
        unit_spans("", "c", kinds=["comment"])
