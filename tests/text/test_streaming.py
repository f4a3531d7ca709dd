# SPDX-License-Identifier: Apache-2.0
"""The incremental decoder never shows half a character and ends with the whole text."""

import pytest
from bpe_files import EOT, gpt2
from hypothesis import given, settings
from hypothesis import strategies as st

from tokernel.text import UnknownTokenError


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 50256) | st.integers(0, 255), max_size=40), st.data())
def test_what_comes_out_is_the_text_however_it_is_cut(ids, data):
    enc, stream, out, at = gpt2(), gpt2().stream(), [], 0
    while at < len(ids):
        step = data.draw(st.integers(1, 5))
        out.append(stream.push(ids[at : at + step]))
        at += step
        assert enc.decode(ids[:at]).startswith("".join(out))
    out.append(stream.finish())
    assert "".join(out) == enc.decode(ids)


@given(st.text(alphabet="aé中👍\n ", max_size=20))
def test_of_a_text_every_push_ends_at_a_character(text):
    ids = gpt2().encode(text)
    pieces = list(gpt2().stream().iterate(iter(ids)))
    assert "".join(pieces) == text
    assert all(pieces)
    assert "\ufffd" not in "".join(pieces)


def test_a_character_comes_with_its_last_token():
    enc, stream = gpt2(), gpt2().stream()
    ids = enc.encode("👍")
    assert len(ids) > 1
    assert [stream.push(i) for i in ids] == [*[""] * (len(ids) - 1), "👍"]
    assert stream.pending == b""
    stream.push(ids[0])
    assert stream.pending == enc.decode_bytes(ids[:1])
    assert stream.finish() == "\ufffd"
    assert stream.push(enc.encode("new")) == "new"  # as new


def test_special_tokens_and_errors():
    enc = gpt2()
    assert list(enc.stream().iterate(enc.encode(f"a{EOT}", allowed_special="all"))) == ["a", EOT]
    strict = enc.stream(errors="strict")
    strict.push(enc.encode("é")[:1])
    byte = enc.encode_single_token(b"\xc3")
    strict = enc.stream(errors="strict")
    assert strict.push(byte) == ""
    with pytest.raises(UnicodeDecodeError):
        strict.finish()
    with pytest.raises(LookupError):
        enc.stream(errors="no such rule")
    with pytest.raises(UnknownTokenError, match="99999"):
        enc.stream().push(99999)
