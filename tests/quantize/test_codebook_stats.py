# SPDX-License-Identifier: Apache-2.0
"""codebook_stats on every backend against NumPy in float64 and the measures of the audio benchmark."""

import numpy as np
import pytest
from bits import on_one_and_two_threads

import tokernel
from tokernel.kernels import quantize


def measures(index, codes):
    counts = np.bincount(index[index >= 0], minlength=codes)
    used = counts[counts > 0]
    p = used / max(used.sum(), 1)
    entropy = -(p * np.log(p)).sum()
    normalized = entropy / np.log(len(used)) if len(used) > 1 else 0.0
    return counts, len(used) / codes, entropy, np.exp(entropy), normalized


@pytest.mark.parametrize(("count", "codes"), [(1, 1), (7, 3), (100, 16), (100, 1000), (600, 17), (60_000, 33)])
def test_against_float64(backend, count, codes, rng):
    if backend == "simt":
        count = min(count, 600)
    index = (rng.integers(-1, codes, count) * rng.random(count)).astype(np.int64)
    stats = quantize.codebook_stats(index, codes)
    assert tokernel.last_backend() == backend
    want = measures(index, codes)
    assert stats.counts.dtype == np.int64
    np.testing.assert_array_equal(stats.counts, want[0])
    np.testing.assert_allclose(stats[1:], want[1:], rtol=1e-5, atol=1e-6)


def test_official_measures(backend, golden):
    g = np.load(golden / "audio_tokens" / "codebook_utilisation.npz")
    tokens = np.concatenate([g["tokens_0"][0], g["tokens_1"][0]])  # (N, Q)
    stats = quantize.codebook_stats(tokens.T, int(g["vocab"]), per_book=True)
    np.testing.assert_array_equal(stats.counts, g["counts"])
    usage = np.where(stats.usage > 1 / int(g["vocab"]), stats.usage, 0)  # the benchmark counts a single id as none
    assert abs(100 * usage.mean() - g["codebook_util_percent"]) < 1e-4
    assert abs(100 * stats.normalized_entropy.mean() - g["norm_entropy_percent"]) < 0.006  # rounded to two decimals


def test_uniform_and_renamed_ids(backend, rng):
    index = np.arange(64) % 8
    stats = quantize.codebook_stats(index, 8)
    np.testing.assert_allclose(stats[1:], [1, np.log(8), 8, 1], rtol=1e-6)
    some = rng.integers(0, 8, 50)
    one, two = quantize.codebook_stats(some, 8), quantize.codebook_stats(rng.permutation(8)[some], 8)
    np.testing.assert_array_equal(np.sort(one.counts), np.sort(two.counts))
    np.testing.assert_allclose(one[1:], two[1:], rtol=1e-6)


def test_one_code_and_none(backend):
    one = quantize.codebook_stats(np.array([3, 3, 3, -1]), 5)
    np.testing.assert_array_equal(one.counts, [0, 0, 0, 3, 0])
    np.testing.assert_allclose(one[1:], [0.2, 0, 1, 0], atol=1e-7)
    for index in (np.full(4, -1), np.zeros(0, np.int64)):
        none = quantize.codebook_stats(index, 5)
        assert not none.counts.any()
        assert [float(value) for value in none[1:]] == [0, 0, 1, 0]


def test_shapes(backend, rng):
    index = rng.integers(-1, 6, (2, 3, 4, 5))
    whole = quantize.codebook_stats(index, 6)
    np.testing.assert_array_equal(whole.counts, measures(index.reshape(-1), 6)[0])
    assert np.ndim(whole.entropy) == 0
    books = quantize.codebook_stats(index.astype(np.int32), 6, per_book=True)
    assert books.counts.shape == (2, 6)
    for q in range(2):
        alone = quantize.codebook_stats(index[q], 6)
        np.testing.assert_array_equal(books.counts[q], alone.counts)
        np.testing.assert_array_equal([m[q] for m in books[1:]], alone[1:])
    assert quantize.codebook_stats(np.zeros((0, 3), np.int64), 6, per_book=True).usage.shape == (0,)


def test_bits_do_not_depend_on_threads(backend, rng):
    index = rng.integers(-1, 50, 500 if backend == "simt" else 200_001)
    one, two = on_one_and_two_threads(lambda: quantize.codebook_stats(index, 50))
    for a, b in zip(one, two, strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_bad_input():
    with pytest.raises(ValueError, match=r"^codebook_stats: K must be an integer of at least 1, got 0$"):
        quantize.codebook_stats(np.array([-1]), 0)
    for bad in (-2, 3):
        with pytest.raises(ValueError, match=rf"^codebook_stats: index must be in \[-1, 3\), got {bad} at flat"):
            quantize.codebook_stats(np.array([0, bad]), 3)
    with pytest.raises(ValueError, match=r"^codebook_stats: index must be \(Q, N\).*, got \(2,\) int64$"):
        quantize.codebook_stats(np.array([0, 1]), 3, per_book=True)
