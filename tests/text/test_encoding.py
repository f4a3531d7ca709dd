# SPDX-License-Identifier: Apache-2.0
"""Encoding against golden ids of tiktoken, and its own promises."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from bpe_files import EOT, gpt2, published, ragged, small, texts
from hypothesis import given, settings
from hypothesis import strategies as st

from tokernel.text import Encoding, Pattern, UnknownTokenError

NAMED = {"cl100k": "cl100k_base", "o200k": "o200k_base"}


def encoding_of(key: str) -> Encoding:
    return gpt2() if key == "gpt2" else published(NAMED[key])


@pytest.mark.parametrize("key", ["gpt2", "cl100k", "o200k"])
@pytest.mark.parametrize("corpus", ["encode_suite", "encode_fuzz"])
def test_golden_ids(key, corpus):
    enc, want = encoding_of(key), ragged(corpus, f"ids_{key}")
    got = [enc.encode_ordinary(t) for t in texts(corpus)]
    assert got == want
    assert enc.encode_ordinary_batch(texts(corpus)) == want
    assert enc.encode_batch(texts(corpus), disallowed_special=()) == want
    assert [enc.decode(ids) for ids in want] == texts(corpus)


@pytest.mark.parametrize("key", ["gpt2", "cl100k", "o200k", "qwen2", "tekken"])
def test_golden_splits(key):
    enc = Encoding(key, pat_str=key, mergeable_ranks={bytes([b]): b for b in range(256)}, special_tokens={})
    assert [enc.split(t).tolist() for t in texts("encode_suite")] == ragged("encode_suite", f"split_{key}")


@settings(max_examples=200, deadline=None)
@given(st.text() | st.text(alphabet="ab '\n\r\t  é中1٣<|>endoftx"))
def test_a_text_is_its_pieces_and_comes_back(text):
    enc = gpt2()
    ids = enc.encode(text, disallowed_special=())
    data = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
    assert enc.decode_bytes(ids) == data
    pieces, begin = [], 0
    for end in enc.split(text).tolist():
        pieces += enc._encode_single_piece(data[begin:end])
        begin = end
    assert ids == pieces
    assert enc.count(text, disallowed_special=()) == len(ids)
    assert enc.count_till_limit(text, len(ids)) == len(ids)
    assert enc.count_till_limit(text, len(ids) - 1) is None


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_come_back(data):
    enc = gpt2()
    for errors in ("raw", "tiktoken"):
        assert enc.decode_bytes(enc.encode(data, errors=errors)) == data
    assert enc.decode(enc.encode(data, disallowed_special=())) == data.decode("utf-8", "replace")


def test_kinds_of_output_agree():
    enc, text = gpt2(), "Hello world, and a bit more."
    ids = enc.encode(text)
    array = enc.encode_to_numpy(text)
    assert array.dtype == np.uint32
    assert array.tolist() == ids
    torch = pytest.importorskip("torch")
    tensor = enc.encode_to_tensor(text)
    assert tensor.dtype == torch.int32
    assert tensor.tolist() == ids
    assert enc.decode(tensor) == enc.decode(array) == enc.decode(tuple(ids)) == text


def test_every_kind_of_bytes_is_taken():
    enc = gpt2()
    data = "naïve".encode()
    for form in (data, bytearray(data), memoryview(data), np.frombuffer(data, np.uint8)):
        assert enc.encode(form) == enc.encode("naïve")


@pytest.mark.parametrize("text", [None, 3, ["a"], 2.5])
def test_what_is_no_text(text):
    with pytest.raises(TypeError, match="expected str or bytes"):
        gpt2().encode(text)


def test_lone_surrogates_are_replaced_and_pairs_joined():
    enc = gpt2()
    assert enc.encode_ordinary("a\ud800b") == enc.encode_ordinary("a\ufffdb")
    assert enc.encode("\ud83d\udc4d") == enc.encode("👍")
    assert enc.encode_ordinary_batch(["a\udfff", "b"]) == [enc.encode("a\ufffd"), enc.encode("b")]
    assert enc.encode("x\ud800" + EOT, allowed_special="all") == [*enc.encode("x\ufffd"), 50256]
    assert enc.encode_with_offsets("a\ud800b")[1][-1].tolist() == [4, 5]
    assert enc.decode(enc.encode_to_numpy("\ud800")) == "\ufffd"


def test_bytes_that_are_no_text():
    enc = published("cl100k_base")
    raw = [bytes(row) for row in ragged("special_and_bytes", "raw")]
    assert [enc.encode(b, errors="tiktoken") for b in raw] == ragged("special_and_bytes", "raw_ids_cl100k")
    assert [enc._encode_bytes(b) for b in raw] == ragged("special_and_bytes", "raw_ids_cl100k")
    assert [enc.encode(b, errors="raw") for b in raw] == ragged("special_and_bytes", "raw_piece_ids_cl100k")
    replaced = [bytes(row).decode() for row in ragged("special_and_bytes", "raw_replaced")]
    assert [enc.encode(b) for b in raw] == [enc.encode(t) for t in replaced]
    enc = published("o200k_base")
    assert [enc.encode(b, errors="tiktoken") for b in raw] == ragged("special_and_bytes", "raw_ids_o200k")


def test_errors_must_be_a_known_rule():
    with pytest.raises(ValueError, match="errors: expected one of replace, tiktoken, raw, got 'ignore'"):
        gpt2().encode(b"x", errors="ignore")


def test_pickle_and_threads():
    enc = gpt2()
    copy = pickle.loads(pickle.dumps(enc))
    assert copy.name == "gpt2"
    assert copy.encode("hello world" + EOT, allowed_special="all") == [31373, 995, 50256]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(enc.encode_ordinary, texts("encode_suite"))) == ragged("encode_suite", "ids_gpt2")


def test_batch_mixes_plain_texts_bytes_and_specials():
    enc = gpt2()
    batch = ["plain", f"a{EOT}b", b"bytes", "", "\ud800"]
    want = [enc.encode(t, allowed_special="all") for t in batch]
    assert enc.encode_batch(batch, allowed_special="all") == want
    assert enc.encode_batch([]) == []
    with pytest.raises(ValueError, match="endoftext"):
        enc.encode_batch(["plain", f"a{EOT}b"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mergeable_ranks": {}}, "at least one token"),
        ({"special_tokens": {"": 300}}, "expected a text"),
        ({"special_tokens": {"<a>": 97}}, "has the id 97 of token b'a'"),
        ({"special_tokens": {"<a>": -1}}, "expected an id >= 0"),
        ({"special_tokens": {"<a>": 2**31}}, r"an id below 2\*\*31"),
        ({"explicit_n_vocab": 300}, "there are 256 tokens"),
        ({"special_tokens": {"<a>": 300}, "explicit_n_vocab": 257}, "ids go to 300"),
        ({"mergeable_ranks": {b"a": 0, b"b": 0}}, "0"),
        ({"mergeable_ranks": {b"": 0, b"b": 1}}, "empty"),
        ({"pat_str": "(unclosed"}, "no regex"),
    ],
)
def test_constructor_refuses(changes, message):
    good = {"pat_str": "gpt2", "mergeable_ranks": {bytes([b]): b for b in range(256)}, "special_tokens": {}}
    with pytest.raises(ValueError, match=message):
        Encoding("bad", **(good | changes))


@pytest.mark.parametrize("ranks", [{"a": 0}, {b"a": "0"}, {b"a": 1.5}])
def test_constructor_refuses_other_types(ranks):
    with pytest.raises(TypeError):
        Encoding("bad", pat_str="gpt2", mergeable_ranks=ranks, special_tokens={})


def test_ids_that_stand_for_nothing():
    enc = gpt2()
    with pytest.raises(ValueError, match="no token 50257, at position 1"):
        enc.decode([0, 50257])
    with pytest.raises(KeyError):
        enc.decode_bytes([50256, -1])
    for wrong in (2**40, 2**70, -(2**70)):
        with pytest.raises(UnknownTokenError):
            enc.decode([wrong])
    with pytest.raises(UnknownTokenError, match="no token 60000"):
        enc.decode_single_token_bytes(60000)
    with pytest.raises(UnknownTokenError, match="no token 'hello there'"):
        enc.encode_single_token("hello there")


@pytest.mark.parametrize("ids", [["a"], [1.5], [[1, 2]], [None], "ab", [1, "b"]])
def test_ids_that_are_no_ids(ids):
    with pytest.raises(TypeError, match="sequence of integers"):
        gpt2().decode(ids)


def test_one_huge_token():
    token = b"x" * 100_000
    enc = small()
    ranks = dict(enc._mergeable_ranks) | {token: 300}
    enc = Encoding("huge", pat_str="gpt2", mergeable_ranks=ranks, special_tokens={})
    assert enc.encode(token.decode()) == [300]
    assert enc.encode(token.decode() + "x")[-1] == ord("x")
    assert enc.decode([300, 300]) == 2 * token.decode()


def test_offsets_tile_the_text_and_count_characters():
    enc = gpt2()
    for text in texts("encode_suite"):
        ids, spans = enc.encode_with_offsets(text, disallowed_special=())
        assert ids == enc.encode_ordinary(text)
        flat = spans.ravel().tolist()
        assert flat[1:-1:2] == flat[2::2]
        assert not flat or (flat[0], flat[-1]) == (0, len(text.encode()))
        data = text.encode()
        assert [data[a:b] for a, b in spans.tolist()] == enc.decode_tokens_bytes(ids)
    ids, spans = enc.encode_with_offsets("a👍b", unit="char")
    assert spans[0].tolist() == [0, 1]
    assert {tuple(s) for s in spans[1:-1].tolist()} == {(1, 2)}
    with pytest.raises(ValueError, match='expected "byte" or "char"'):
        enc.encode_with_offsets("a", unit="word")


def test_a_pattern_that_leaves_gaps_drops_them():
    enc = Encoding("words", pat_str=r"\w+", mergeable_ranks={bytes([b]): b for b in range(256)}, special_tokens={})
    assert enc.decode(enc.encode("ab, c")) == "abc"
    assert enc.encode_with_offsets("é, c")[1].tolist() == [[0, 1], [1, 2], [4, 5]]


def test_other_patterns_need_only_the_regex_package():
    pattern = Pattern(r"\p{Lu}\p{Ll}*|.$|[^\p{Lu}]")
    assert pattern.scanner is None
    assert pattern.pieces("AbcD\n")[1].tolist() == [3, 4, 5]
    assert pickle.loads(pickle.dumps(pattern)) == pattern


def test_possessive_cl100k_keeps_white_space_at_the_end_whole():
    cl100k = published("cl100k_base")
    possessive = (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
        r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
    )
    enc = Encoding("new", pat_str=possessive, mergeable_ranks=cl100k._mergeable_ranks, special_tokens={})
    assert enc.split("a\n  ").tolist() == [1, 4]
    assert cl100k.split("a\n  ").tolist() == [1, 2, 4]
    for text in texts("encode_suite"):
        assert enc.encode(text, disallowed_special=()) == cl100k.encode(text, disallowed_special=())
    trained = {**small()._mergeable_ranks, b"\n ": 300}  # here the pattern changes ids
    kept = Encoding("kept", pat_str=possessive, mergeable_ranks=trained, special_tokens={})
    assert kept.encode("a\n ") == [97, 300]
    assert kept.encode("a\n b") == [97, 10, 32, 98]
    assert Encoding("cut", pat_str="cl100k", mergeable_ranks=trained, special_tokens={}).encode("a\n ") == [97, 10, 32]


def test_the_document():
    enc = gpt2()
    document = texts("encode_doc")[0]
    assert enc.encode_ordinary(document) == ragged("encode_doc", "ids_gpt2")[0]
