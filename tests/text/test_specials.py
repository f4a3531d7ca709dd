# SPDX-License-Identifier: Apache-2.0
"""Special and added tokens: tiktoken's rules, and those of tokenizer.json's flags."""

import json
import time

import pytest
from bpe_files import EOT, added, gpt2, published, ragged, small_json, texts

from tokernel.text import Encoding

BYTES = {bytes([b]): b for b in range(256)}


def with_specials(**tokens: int) -> Encoding:
    return Encoding("specials", pat_str="gpt2", mergeable_ranks=BYTES, special_tokens=tokens)


def test_golden_rules_of_tiktoken():
    enc = published("cl100k_base")
    inputs = texts("special_and_bytes")
    assert [enc.encode(t, allowed_special="all") for t in inputs] == ragged("special_and_bytes", "ids_all")
    assert [enc.encode(t, disallowed_special=()) for t in inputs] == ragged("special_and_bytes", "ids_none")
    only = [enc.encode(t, allowed_special={EOT}, disallowed_special=()) for t in inputs]
    assert only == ragged("special_and_bytes", "ids_eot")
    assert [enc.encode_ordinary(t) for t in inputs] == ragged("special_and_bytes", "ids_none")
    assert [enc.decode(ids) for ids in ragged("special_and_bytes", "ids_all")] == inputs
    assert enc.encode_batch(inputs, allowed_special="all") == ragged("special_and_bytes", "ids_all")


def test_disallowed_is_everything_but_what_is_allowed():
    enc = gpt2()
    with pytest.raises(ValueError, match=r"'<\|endoftext\|>', a special token that is not allowed"):
        enc.encode(f"a{EOT}")
    with pytest.raises(ValueError, match="special token"):
        enc.encode(f"a{EOT}", disallowed_special={EOT})
    assert enc.encode(EOT, allowed_special={EOT}) == [50256]
    assert enc.encode(EOT, disallowed_special=()) == enc.encode_ordinary(EOT) == [27, 91, 437, 1659, 5239, 91, 29]
    # What is disallowed need not be a special token; what is allowed and unknown is nothing.
    with pytest.raises(ValueError, match="'b'"):
        enc.encode("abc", disallowed_special=["b"])
    assert enc.encode("abc", allowed_special={"b"}) == enc.encode_ordinary("abc")
    with pytest.raises(ValueError, match="endoftext"):
        enc.encode(EOT, allowed_special="all", disallowed_special=[EOT])


def test_the_longest_at_one_place_wins():
    enc = with_specials(**{"<a>": 300, "<a>b": 301, "<a>bc": 302})
    assert enc.encode("<a>bcd<a>bd<a>c", allowed_special="all") == [302, 100, 301, 100, 300, 99]
    # Leftmost-longest over all tokens: what is not allowed still stands where it stands.
    assert enc.encode("<a>b", allowed_special={"<a>"}, disallowed_special=()) == list(b"<a>b")


def test_a_disallowed_match_skips_one_character():
    enc = with_specials(ab=300, bc=301)
    assert enc.encode("abc", allowed_special={"bc"}, disallowed_special=()) == [97, 301]
    assert enc.encode("abc", allowed_special="all") == [300, 99]


def test_text_between_specials_is_split_alone():
    enc = Encoding("x", pat_str="gpt2", mergeable_ranks={**BYTES, b"  ": 256}, special_tokens={"<s>": 300})
    assert enc.encode("a  b") == [97, 32, 32, 98]  # the white space gives up its last space to the word
    assert enc.encode("a  <s>b", allowed_special="all") == [97, 256, 300, 98]  # the cut is the end of a text


def test_ids_may_be_anywhere():
    enc = Encoding("high", pat_str="gpt2", mergeable_ranks=BYTES, special_tokens={"<s>": 10**6, "<t>": 256})
    assert enc.encode("<s>a<t>", allowed_special="all") == [10**6, 97, 256]
    assert enc.decode([10**6, 97, 256]) == "<s>a<t>"
    assert enc.decode([10**6, 97, 256], skip_special_tokens=True) == "a"
    assert enc.decode([10**6] * 100 + [97]) == "<s>" * 100 + "a"
    assert enc.n_vocab == 10**6 + 1
    assert enc.encode_single_token("<s>") == 10**6
    assert enc.decode_single_token_bytes(256) == b"<t>"
    assert [enc.is_special_token(i) for i in (97, 256)] == [False, True]


def test_two_special_tokens_may_share_an_id():
    enc = with_specials(**{"<s>": 300, "<t>": 300})
    assert enc.encode("<s><t>", allowed_special="all") == [300, 300]
    assert enc.decode([300]) == "<s>"


def test_offsets_count_special_tokens():
    enc = with_specials(**{"<é>": 300})
    ids, spans = enc.encode_with_offsets("a<é>b", allowed_special="all")
    assert ids == [97, 300, 98]
    assert spans.tolist() == [[0, 1], [1, 5], [5, 6]]
    assert enc.encode_with_offsets("a<é>b", allowed_special="all", unit="char")[1].tolist() == [[0, 1], [1, 4], [4, 5]]


def test_many_near_matches_take_linear_time():
    enc = published("cl100k_base")

    def seconds(size: int) -> float:
        text, best = "<|endoftex" * size, 1e9
        for _ in range(3):
            start = time.perf_counter()
            enc.encode(text)
            best = min(best, time.perf_counter() - start)
        return best

    assert seconds(40_000) < 50 * seconds(4_000)  # ten times as long; quadratic would be a hundred


def hf(*tokens: dict, **changes: object) -> Encoding:
    return Encoding.from_hf(small_json() | {"added_tokens": list(tokens)} | changes)


def test_added_tokens_that_are_not_special_are_words():
    enc = hf(added("<w>", 300, special=False), added("<s>", 301))
    assert enc.encode_ordinary("a<w>b") == [97, 300, 98]
    assert enc.encode("a<w>b") == [97, 300, 98]
    assert enc.encode_ordinary("a<s>b") == list(b"a<s>b")
    assert enc.special_tokens_set == {"<s>"}
    assert enc.encode_batch(["a<w>", "b"]) == [[97, 300], [98]]
    assert enc.decode([97, 300, 301], skip_special_tokens=True) == "a<w>"


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word"])
def test_flags_agree_with_tokenizers(flag):
    tokenizers = pytest.importorskip("tokenizers")
    content = small_json() | {"added_tokens": [added("<w>", 262, False, **{flag: True}), added("<w>x", 263, False)]}
    # The tokenizers package numbers added tokens itself unless the vocabulary holds them.
    content["model"]["vocab"] |= {"<w>": 262, "<w>x": 263}
    theirs, enc = tokenizers.Tokenizer.from_str(json.dumps(content)), Encoding.from_hf(content)
    for text in (
        "a <w> b",
        "a<w>b",
        "<w>",
        "  <w>  <w>x <w>",
        "a\n\t<w>\n\nhello",
        "_<w>",
        "é<w>",
        "<w>1 <w> <w>x2",
        "<w><w>",
    ):
        want = theirs.encode(text)
        ids, spans = enc.encode_with_offsets(text, unit="char")
        assert enc.encode(text) == ids == want.ids
        assert [tuple(s) for s in spans.tolist()] == want.offsets


def test_normalized_tokens_are_found_after_the_normalizer():
    tokenizers = pytest.importorskip("tokenizers")
    tokens = [added("<É>", 262, False, normalized=True), added("<S>", 263, False)]
    content = small_json() | {"added_tokens": tokens, "normalizer": {"type": "Lowercase"}}
    content["model"]["vocab"] |= {"<É>": 262, "<S>": 263}
    theirs, enc = tokenizers.Tokenizer.from_str(json.dumps(content)), Encoding.from_hf(content)
    for text in ("a<É>b", "a<é>B", "<S><s>", "HELLO<é>", "É<S>é<É>"):
        want = theirs.encode(text)
        ids, spans = enc.encode_with_offsets(text, unit="char")
        assert enc.encode(text) == ids == want.ids
        assert [tuple(s) for s in spans.tolist()] == want.offsets
