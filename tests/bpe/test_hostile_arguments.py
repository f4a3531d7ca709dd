# SPDX-License-Identifier: Apache-2.0
"""Arguments that run code, change while they are read, or come from a damaged pickle: errors, and no crash."""

import numpy as np
import pytest

from tokernel.kernels import bpe

BYTES = [bytes([b]) for b in range(256)]


class Index:
    """An integer whose reading does something else too."""

    def __init__(self, act):
        self.act = act

    def __index__(self):
        self.act()
        return 97


def decode_added(vocab, ids):
    return bpe.decode_added(vocab, ids, {})


@pytest.mark.parametrize("decode", [bpe.decode, bpe.decode_offsets, decode_added])
@pytest.mark.parametrize("change", ["clear", "grow"])
def test_a_list_of_ids_that_changes_while_it_is_read(decode, change):
    ids = [97] * 3
    act = ids.clear if change == "clear" else lambda: ids.extend([97] * 100_000)
    ids += [Index(act), *[97] * 1000]
    with pytest.raises(ValueError, match="ids must be a list that stays as long as it is"):
        decode(bpe.Vocab(BYTES), ids)


def test_ids_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=f"got {2**70} at position 1"):
        bpe.decode(bpe.Vocab(BYTES), [97, 2**70])


@pytest.mark.parametrize("call", [bpe.decode, bpe.decode_offsets])
def test_what_is_no_sequence_of_ids_is_named(call):
    with pytest.raises(TypeError, match=f"{call.__name__}: ids must be a list or an array of integers, got NoneType"):
        call(bpe.Vocab(BYTES), None)


def test_offsets_and_ends_must_be_integers():
    vocab = bpe.Vocab(BYTES)
    with pytest.raises(TypeError, match="decode_batch: offsets must be integers, got float64"):
        bpe.decode_batch(vocab, np.array([97, 98]), np.array([0.0, 2.0]))
    with pytest.raises(TypeError, match=r"encode_batch: ends\[1\] must be integers, got float64"):
        bpe.encode_batch(vocab, [b"a", b"ab"], ends=[[1], [1.0, 2.0]])


def test_offsets_that_a_callback_changes():
    ids, offsets = np.tile([1, 2], 500), np.zeros(101, np.int64)
    offsets[-1] = ids.size
    want = bpe.merge_pairs_batch(ids, offsets)

    def valid(left, right):
        offsets[1:] = 10**12
        return True

    got = bpe.merge_pairs_batch(ids, offsets, valid=valid)
    assert all(np.array_equal(a, b) for a, b in zip(got, want, strict=True))


def test_offsets_that_progress_changes():
    words = np.arange(1_000, dtype=np.int64) % 997
    offsets = np.arange(words.size // 2 + 1) * 2
    counts = np.ones(offsets.size - 1, np.int64)
    merges = np.stack([np.arange(200_000) % 997, (np.arange(200_000) + 1) % 997, np.arange(200_000) + 997], 1)
    calls = []

    def progress(step):
        calls.append(step)
        offsets[:] = 10**12

    want = bpe.pair_count_history((words, offsets.copy()), counts, merges)
    got = bpe.pair_count_history((words, offsets), counts, merges, progress=progress)
    assert all(np.array_equal(a, b) for a, b in zip(got, want, strict=True))


def test_memory_views_are_what_their_format_says():
    assert bpe.split(memoryview(b"a-b-c-")[::2], "gpt2").tolist() == bpe.split(b"abc", "gpt2").tolist()
    with pytest.raises(TypeError, match="split: text must be uint8, got uint32"):
        bpe.split(memoryview(b"abcd").cast("I"), "gpt2")
    with pytest.raises(ValueError, match=r"split: text must be \(N,\)"):
        bpe.split(memoryview(b"abcd").cast("B", (2, 2)), "gpt2")


@pytest.mark.parametrize(
    ("at", "value", "error"),
    [
        (0, np.zeros(0, np.uint8), ValueError),
        (1, np.array([0, 3, 1, 257]), ValueError),
        (1, np.full(258, 2**40), ValueError),
        (1, -np.arange(258), ValueError),
        (2, np.full(257, -5, np.int32), ValueError),
        (2, np.zeros(257, np.int32), ValueError),
        (2, np.zeros(257), TypeError),
        (3, np.array([[97, 98, 10**9]]), ValueError),
        (3, np.array([97, 98, 256]), ValueError),
        (5, "no", ValueError),
    ],
)
def test_damaged_pickles_of_a_vocabulary(at, value, error):
    restore, state = bpe.Vocab([*BYTES, b"ab"], merges=[[97, 98, 256]]).__reduce__()
    assert bpe.encode(restore(*state), b"ab").tolist() == [256]
    with pytest.raises(error, match="vocab"):
        restore(*(value if i == at else part for i, part in enumerate(state)))


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (None, TypeError, "join must return an integer, got NoneType"),
        ("3", TypeError, "join must return an integer, got str"),
        (2**40, ValueError, "join must return an id"),
        (-(2**70), ValueError, "join must return an id"),
    ],
)
def test_answers_of_join_that_are_no_ids(answer, error, message):
    with pytest.raises(error, match=message):
        bpe.merge_pairs_batch([1, 2, 1, 2], join=lambda left, right, new: answer)
    assert bpe.merge_pairs_batch([1, 2, 1, 2], join=lambda left, right, new: np.int64(new)).ids.tolist() == [4]


def test_no_id_is_left_for_a_merge():
    with pytest.raises(ValueError, match="next_id must leave room"):
        bpe.merge_pairs_batch([2**31 - 2] * 4)
