# SPDX-License-Identifier: Apache-2.0
"""Small regex lexers for Python, C and Java: where the lexical units of a source text begin and end.

[ours]: the paper does not say which lexer it used. A regex lexer answers for source that is cut off or does not
parse, which is what a model with a limited context sees.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple

LEXICAL = ("identifier", "keyword", "number", "string", "operator")


class Lexeme(NamedTuple):
    """One lexical unit: its kind (one of LEXICAL) and its character span."""

    kind: str
    start: int
    end: int


_NAME = r"[^\W\d]\w*"
_DOLLAR_NAME = r"(?:[^\W\d]|\$)[\w$]*"
_QUOTED = r""""(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?"""
_TRIPLE = r'"""(?:\\.|[^\\])*?(?:"""|\Z)'
_SLASH_COMMENT = r"//(?:\\\n|[^\n])*|/\*.*?(?:\*/|\Z)"
_DECIMAL = r"(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][+-]?\d[\d_]*)?"
_SUFFIXED = rf"0[xX][\da-fA-F_.]*(?:[pP][+-]?[\d_]+)?\w*|{_DECIMAL}\w*"


@dataclass(frozen=True)
class _Language:
    keywords: frozenset[str]
    tokens: re.Pattern[str]
    directives: bool = False


def _language(keywords: str, *, directives: bool = False, **patterns: str) -> _Language:
    tokens = "|".join(f"(?P<{kind}>{pattern})" for kind, pattern in patterns.items())
    return _Language(frozenset(keywords.split()), re.compile(tokens, re.DOTALL), directives)


_LANGUAGES = {
    "python": _language(
        " ".join(keyword.kwlist),
        comment=r"#[^\n]*",
        string=rf"(?i:[rubft]|[bft]r|r[bft])?(?:{_TRIPLE}|{_TRIPLE.replace(chr(34), chr(39))}|{_QUOTED})",
        number=rf"0[xX][\da-fA-F_]+|0[bB][01_]+|0[oO][0-7_]+|{_DECIMAL}[jJ]?",
        identifier=_NAME,
        operator=r"\*\*=|//=|>>=|<<=|\.\.\.|\*\*|//|>>|<<|->|:=|[-+*/%&|^@=<>!]=|[-+*/%&|^~<>=@,:;.()\[\]{}]",
    ),
    "c": _language(
        """auto break case char const continue default do double else enum extern float for goto if inline int long
        register restrict return short signed sizeof static struct switch typedef union unsigned void volatile while
        _Alignas _Alignof _Atomic _Bool _Complex _Generic _Imaginary _Noreturn _Static_assert _Thread_local""",
        directives=True,
        comment=_SLASH_COMMENT,
        string=rf"(?:u8|[uUL])?(?:{_QUOTED})",
        number=_SUFFIXED,
        identifier=_DOLLAR_NAME,
        operator=r"<<=|>>=|\.\.\.|->|\+\+|--|##|&&|\|\||<<|>>|[-+*/%&|^<>=!]=|[-+*/%&|^~<>=!?:;,.()\[\]{}#]",
    ),
    "java": _language(
        """abstract assert boolean break byte case catch char class const continue default do double else enum extends
        false final finally float for goto if implements import instanceof int interface long native new null package
        private protected public return short static strictfp super switch synchronized this throw throws transient
        true try void volatile while""",
        comment=_SLASH_COMMENT,
        string=rf"{_TRIPLE}|{_QUOTED}",
        number=_SUFFIXED,
        identifier=_DOLLAR_NAME,
        operator=r">>>=|<<=|>>=|>>>|\.\.\.|->|::|\+\+|--|&&|\|\||<<|>>|[-+*/%&|^<>=!]=|[-+*/%&|^~<>=!?:;,.()\[\]{}@]",
    ),
}
_HEADER = re.compile(r"[ \t]*(<[^>\n]*>)")


def lexemes(source: str, lang: str) -> list[Lexeme]:
    """Split source into lexical units; white space, comments and characters foreign to the language are no units.

    >>> [source[l.start : l.end] for source in ["x1 += f(0.5)  # add"] for l in lexemes(source, "python")]
    ['x1', '+=', 'f', '(', '0.5', ')']
    """
    if lang not in _LANGUAGES:
        raise ValueError(f"lexemes: lang expected one of {', '.join(_LANGUAGES)}; got {lang!r}")
    language = _LANGUAGES[lang]
    units = (_with_directives if language.directives else _plain)(source, language)
    return [unit for unit in units if unit.kind != "comment"]


def _plain(source: str, language: _Language, start: int = 0) -> Iterator[Lexeme]:
    for match in language.tokens.finditer(source, start):
        kind = str(match.lastgroup)
        if kind == "identifier" and match[0] in language.keywords:
            kind = "keyword"
        yield Lexeme(kind, *match.span())


def _with_directives(source: str, language: _Language) -> Iterator[Lexeme]:
    """Read C: the name after a # that opens a line is a keyword, and what #include names in <> is one string."""
    hash_end = header = -1
    for unit in _plain(source, language):
        if unit.start < header:
            continue
        text = source[unit.start : unit.end]
        if hash_end >= 0 and unit.kind == "identifier" and not source[hash_end : unit.start].strip(" \t"):
            unit = Lexeme("keyword", unit.start, unit.end)
            match = _HEADER.match(source, unit.end) if text in ("include", "include_next") else None
            if match:
                header = match.end()
                yield unit
                unit = Lexeme("string", match.start(1), header)
        yield unit
        line = source.rfind("\n", 0, unit.start) + 1
        hash_end = unit.end if text == "#" and not source[line : unit.start].strip() else -1


def unit_spans(source: str, lang: str, kinds: Collection[str] = LEXICAL) -> list[tuple[int, int]]:
    """Find the character spans of the lexical units of the given kinds, ascending and disjoint.

    Args:
        source: program text, whole or cut off.
        lang: "python", "c" or "java".
        kinds: some of "identifier", "keyword", "number", "string", "operator".

    >>> unit_spans("int a = 10;", "c", kinds=["identifier", "number"])
    [(4, 5), (8, 10)]
    """
    unknown = set(kinds) - set(LEXICAL)
    if unknown:
        raise ValueError(f"unit_spans: kinds expected some of {', '.join(LEXICAL)}; got {', '.join(sorted(unknown))}")
    return [(unit.start, unit.end) for unit in lexemes(source, lang) if unit.kind in kinds]


def identifier_spans(source: str, lang: str) -> list[tuple[int, int]]:
    """Find the character spans of the identifiers, keywords excepted: the default units [ours].

    >>> identifier_spans("def read_all(path): return path", "python")
    [(4, 12), (13, 17), (27, 31)]
    """
    return unit_spans(source, lang, kinds=("identifier",))
