# SPDX-License-Identifier: Apache-2.0
"""encode_batch and decode_batch of the device kernels: the ids of the CPU, on the host executor and on a GPU."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tokernel
from tokernel.kernels import bpe
import itertools

PATTERNS = ("none", "gpt2", "cl100k", "o200k", "qwen2", "tekken")
USABLE = tokernel.backends()["usable"]


@pytest.fixture(params=["simt", *(name for name in ["cuda"] if name in USABLE)])
def there(request):
    """Bring an array to where the device kernels run."""
    if request.param not in USABLE:
        pytest.skip("needs the host executor (TOKERNEL_SIMT=ON)")
    if request.param == "simt":
        with tokernel.use_backend("simt"):
            yield np.asarray
    else:
        torch = pytest.importorskip("torch", reason="arrays on a GPU are torch's here")
        yield lambda array: torch.from_numpy(np.array(array)).cuda()


def back(array):
    return array.cpu().numpy() if hasattr(array, "cpu") else array


def flat(texts):
    return np.frombuffer(b"".join(texts), np.uint8), np.cumsum([0, *map(len, texts)])


def check(there, vocab, texts, pattern, dtype=np.int32):
    """The ids of the CPU, and bytes that come back."""
    data, offsets = flat(texts)
    with tokernel.use_backend("ref"):
        ids, starts = bpe.encode_batch(vocab, (data, offsets), pattern)
    found, begins = bpe.encode_batch(vocab, (there(data), there(offsets)), pattern, dtype=dtype)
    assert back(found).dtype == dtype
    np.testing.assert_array_equal(back(found), ids)
    np.testing.assert_array_equal(back(begins), starts)
    with tokernel.use_backend("ref"):
        plain, cuts = bpe.decode_batch(vocab, ids, starts)
    bytes_found, byte_starts = bpe.decode_batch(vocab, found, begins)
    np.testing.assert_array_equal(back(bytes_found), plain)
    np.testing.assert_array_equal(back(byte_starts), cuts)
    return back(found)


def gpt2(golden, merges, **rules):
    """The first merges of GPT-2, by ranks or by the list."""
    vectors = np.load(golden / "bpe" / "gpt2_merges.npz")
    tokens = [b""] * 256
    for byte, token in enumerate(vectors["byte_to_id"].tolist()):
        tokens[token] = bytes([byte])
    pairs = vectors["merges"][:merges]
    for left, right in pairs.tolist():
        tokens.append(tokens[left] + tokens[right])
    listed = np.concatenate([pairs, np.arange(256, 256 + len(pairs))[:, None]], 1)
    return bpe.Vocab(tokens, merges=listed if rules.pop("listed", False) else None, **rules)


def suite(golden, limit):
    vectors = np.load(golden / "bpe" / "encode_suite.npz")
    data, offsets = vectors["text_bytes"].astype(np.uint8).tobytes(), vectors["text_off"].tolist()
    return [data[i : min(j, i + limit)] for i, j in itertools.pairwise(offsets)]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("rules", [{}, {"listed": True, "whole_piece": False}], ids=["ranks", "merges"])
def test_the_texts_of_the_suite(there, golden, pattern, rules):
    check(there, gpt2(golden, 400, **rules), suite(golden, 80), pattern)


def test_the_whole_vocabulary_of_gpt2(there, golden):
    vectors = np.load(golden / "bpe" / "encode_suite.npz")
    texts, wanted, offsets = suite(golden, 10**9), vectors["ids_gpt2"], vectors["ids_gpt2_off"]
    short = [i for i, text in enumerate(texts) if 0 < len(text) <= 60][:25]
    found = check(there, gpt2(golden, 50000), [texts[i] for i in short], "gpt2")
    assert found.tolist() == [i for k in short for i in wanted[offsets[k] : offsets[k + 1]].tolist()]


TOKENS = [bytes([c]) for c in b"ab '"]


@st.composite
def vocabularies(draw):
    """Few bytes, tokens in any order: most have ranks that do not ascend."""
    longer = draw(st.lists(st.text("ab '", min_size=2, max_size=5), max_size=14, unique=True))
    tokens = draw(st.permutations(TOKENS + [text.encode() for text in longer]))
    if draw(st.booleans()):
        return bpe.Vocab(tokens, whole_piece=draw(st.booleans()))
    place = {token: i for i, token in enumerate(tokens)}
    cuts = [(token[:i], token[i:], token) for token in tokens for i in range(1, len(token))]
    known = [[place[part] for part in cut] for cut in cuts if all(part in place for part in cut)]
    order = draw(st.permutations(known))
    return bpe.Vocab(tokens, merges=np.array(order, np.int64).reshape(-1, 3), whole_piece=draw(st.booleans()))


@pytest.mark.skipif("simt" not in USABLE, reason="needs the host executor (TOKERNEL_SIMT=ON)")
@settings(deadline=None, max_examples=40)
@given(vocabularies(), st.lists(st.text("ab '", max_size=40).map(str.encode), max_size=4), st.sampled_from(PATTERNS))
def test_vocabularies_of_any_order(vocab, texts, pattern):
    with tokernel.use_backend("simt"):
        check(np.asarray, vocab, texts, pattern)


def letters(**rules):
    """Runs of one letter merge in every round; `ab` never comes before its parts are tokens."""
    tokens = [b"a", b"b", b" ", b"aa", b"ab", b"aaaa", b"aab", b"abab", b" a", b"ba"]
    return bpe.Vocab(tokens, **rules)


@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 63, 64, 65, 127, 129, 257])
def test_pieces_of_every_length(there, length):
    vocab = letters()
    texts = [b"a" * length, b"ab" * (length // 2), b"aab" * (length // 3 + 1), (b"a" * 7 + b"b") * (length // 8)]
    check(there, vocab, texts, "none")
    check(there, vocab, texts, "gpt2")


@pytest.mark.parametrize("ascending", [True, False])
def test_pieces_longer_than_shared_memory(there, ascending):
    vocab = letters() if ascending else bpe.Vocab([b"a", b"b", b"aab", b"ab", b"abab", b"aa"])
    assert vocab.ascending == ascending
    check(there, vocab, [(b"a" * 5 + b"bab") * 140, b"ab", b"ab" * 515][: 3 if ascending else 2], "none")


def test_texts_that_are_empty_or_end_at_the_parts_of_threads(there):
    vocab = letters()
    for texts in ([], [b""], [b"", b""], [b"a"], [b"", b"a", b"", b"", b"ab"], [b"a" * 128, b"b" * 128, b""]):
        check(there, vocab, texts, "gpt2")
    check(there, vocab, [b"ab a" * 40, b" " * 127, b" " + b"a" * 300, b"ab " * 50], "gpt2")
    check(there, vocab, [b"a"] * 300, "cl100k")


def test_bytes_that_are_no_tokens(there):
    texts = [b"ab a", b"acab", b"c", b"a" * 40 + b"c" + b"a" * 40]
    check(there, letters(missing="drop"), texts, "gpt2")
    data, offsets = flat(texts)
    with pytest.raises(
        ValueError,
        match=r"^encode_batch: texts must be made of bytes that are tokens, got byte 99 at flat position 5$",
    ):
        bpe.encode_batch(letters(), (there(data), there(offsets)), "gpt2")


def test_a_token_of_bytes_that_are_no_tokens(there):
    """Found as a whole piece only."""
    check(there, bpe.Vocab([b"a", b"xyz", b"b"]), [b"xyz", b"ab", b"xyz"], "gpt2")


def test_ids_of_any_order_and_width(there):
    vocab = bpe.Vocab([b"a", b"b", b"ab", b"aab"], ids=np.array([700, 2**31 - 2, 5, 90]))
    check(there, vocab, [b"aabab", b"", b"bb"], "none", np.int64)


def test_invalid_utf8(there, golden):
    check(there, gpt2(golden, 100), [b"\xff\xfe ab\xc3", b"\xe2\x82", b"a\x80b 12\xf0\x9f\x99"], "o200k")


def test_decode_refuses_unknown_ids(there):
    ids, offsets = there(np.array([0, 77, 1])), there(np.array([0, 3]))
    if isinstance(ids, np.ndarray):
        with pytest.raises(ValueError, match=r"^decode_batch: ids must be ids of tokens, got 77 at position 1$"):
            bpe.decode_batch(letters(), ids, offsets)
    else:  # a device has no way to raise: no bytes
        assert bytes(back(bpe.decode_batch(letters(), ids, offsets)[0])) == b"ab"


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([1, 3], "offsets must be 0 at its start, got 1 at flat position 0"),
        ([0, 2], "offsets must be equal to the number of tokens at its end, got 2 at flat position 1"),
    ],
)
@pytest.mark.skipif("simt" not in USABLE, reason="needs the host executor (TOKERNEL_SIMT=ON)")
def test_bad_offsets(offsets, message):
    with tokernel.use_backend("simt"):
        with pytest.raises(ValueError, match=f"^encode_batch: {message}$"):
            bpe.encode_batch(letters(), (np.frombuffer(b"aba", np.uint8), np.array(offsets)), "none")
        with pytest.raises(ValueError, match=f"^decode_batch: {message}$"):
            bpe.decode_batch(letters(), np.array([0, 1, 0]), np.array(offsets))


@pytest.mark.skipif("simt" not in USABLE, reason="needs the host executor (TOKERNEL_SIMT=ON)")
def test_torch_gives_torch():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    vocab, text = letters(), torch.tensor(list(b"aabab"), dtype=torch.uint8)
    with tokernel.use_backend("simt"):
        ids, starts = bpe.encode_batch(vocab, (text, torch.tensor([0, 2, 5])))
        data, cuts = bpe.decode_batch(vocab, ids, starts)
    assert isinstance(ids, torch.Tensor)
    assert ids.dtype == torch.int32
    assert bytes(data.tolist()) == b"aabab"
    assert cuts.tolist() == [0, 2, 5]
