# SPDX-License-Identifier: Apache-2.0
"""segment_reduce: every backend against the reference, the reference against NumPy in float64."""

import numpy as np
import pytest

import tokernel
from segment_cases import BLOCK, EMPTY, SHAPES, cuts, ids_of, labels
from tokernel.kernels import merge

MODES = ("mean", "sum", "amax")


def oracle(x, ids, segments, mode, weight=None):
    """The definition, in float64."""
    batch, tokens, width = x.shape
    w = np.ones((batch, tokens)) if weight is None else weight.astype(np.float64)
    out = np.zeros((batch, segments, width))
    mass = np.zeros((batch, segments))
    for b in range(batch):
        for s in range(segments):
            members = np.flatnonzero(ids[b] == s)
            mass[b, s] = w[b, members].sum()
            if members.size == 0:
                continue
            rows = x[b, members].astype(np.float64)
            if mode == "amax":
                out[b, s] = rows.max(axis=0)
            elif mode == "sum" or mass[b, s] != 0:
                out[b, s] = (w[b, members, None] * rows).sum(axis=0) / (mass[b, s] if mode == "mean" else 1)
    return out, mass


def naive(x, ids, segments, mode, weight=None):
    """The definition in the dtype of x: the yardstick of rounding."""
    out = np.zeros((x.shape[0], segments, x.shape[2]), x.dtype)
    for b in range(x.shape[0]):
        for s in range(segments):
            members = np.flatnonzero(ids[b] == s)
            w = np.ones(len(members), x.dtype) if weight is None else weight[b, members].astype(x.dtype)
            if mode == "amax":
                out[b, s] = x[b, members].max(axis=0) if members.size else 0
                continue
            total = np.zeros(x.shape[2], x.dtype)
            for i, n in enumerate(members):
                total = total + w[i] * x[b, n]
            out[b, s] = total / w.sum() if mode == "mean" and members.size else total
    return out


def assert_close(got, x, ids, segments, mode, weight=None):
    exact, _ = oracle(x, ids, segments, mode, weight)
    allowed = 2 * np.abs(naive(x, ids, segments, mode, weight).astype(np.float64) - exact).max(initial=0)
    unit = np.finfo(x.dtype).eps * (1 + np.abs(exact))
    assert got.dtype == x.dtype
    assert (np.abs(got.astype(np.float64) - exact) <= allowed + unit).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("mode", MODES)
def test_close_to_float64(backend, rng, shape, dtype, mode):
    batch, tokens, segments, width = shape
    x = rng.standard_normal((batch, tokens, width)).astype(dtype)
    weight = None if mode == "amax" else rng.random((batch, tokens)).astype(np.float32)
    ids = labels(rng, batch, tokens, segments)
    assert_close(merge.segment_reduce(x, ids=ids, segments=segments, mode=mode), x, ids, segments, mode)
    got = merge.segment_reduce(x, ids=ids, segments=segments, mode=mode, weight=weight)
    assert_close(got, x, ids, segments, mode, weight)
    offsets = cuts(rng, batch, tokens, segments)
    got, mass = merge.segment_reduce(x, offsets=offsets, mode=mode, weight=weight, return_mass=True)
    ids = ids_of(offsets, tokens)
    assert_close(got, x, ids, segments, mode, weight)
    np.testing.assert_allclose(mass, oracle(x, ids, segments, mode, weight)[1], rtol=1e-7)


@pytest.mark.parametrize("mode", MODES)
def test_bits_of_the_reference(backend, rng, mode):
    """Without weight nothing is contracted: every backend adds up in the same order."""
    x = rng.standard_normal((2, 70, 37)).astype(np.float32)
    ids = labels(rng, 2, 70, 4)
    got = merge.segment_reduce(x, ids=ids, segments=4, mode=mode)
    with tokernel.use_backend("ref"):
        expected = merge.segment_reduce(x, ids=ids, segments=4, mode=mode)
    assert np.array_equal(got, expected)


@pytest.mark.parametrize("shape", EMPTY)
@pytest.mark.parametrize("mode", MODES)
def test_nothing_gives_zeros(backend, shape, mode):
    batch, tokens, segments, width = shape
    x = np.ones((batch, tokens, width), np.float32)
    ids = np.full((batch, tokens), -1)
    out, mass = merge.segment_reduce(x, ids=ids, segments=segments, mode=mode, return_mass=True)
    assert out.shape == (batch, segments, width)
    assert mass.shape == (batch, segments)
    assert not out.any()
    assert not mass.any()
    offsets = np.zeros(segments + 1, np.int64)
    offsets[1:] = tokens
    if segments or not tokens:
        out, mass = merge.segment_reduce(x, offsets=offsets, mode=mode, return_mass=True)
        assert out.shape == (batch, segments, width)
        assert (mass.sum(axis=1) == tokens).all()


def test_zero_mass_gives_zeros(backend):
    x = np.ones((1, 3, 20), np.float32)
    weight = np.array([[1, -1, 0]], np.float32)
    out, mass = merge.segment_reduce(x, ids=np.array([[0, 0, 1]]), segments=2, weight=weight, return_mass=True)
    assert not out.any()
    assert not mass.any()


@pytest.mark.parametrize("width", [1, 5, 64, 70])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.0, 1e-42])
@pytest.mark.parametrize("mode", MODES)
def test_one_token_is_a_copy(backend, width, value, mode):
    x = np.full((1, 1, width), value, np.float32)
    got = merge.segment_reduce(x, ids=np.zeros((1, 1), np.int64), segments=1, mode=mode)
    if backend == "cuda" and np.isnan(value):
        assert np.isnan(got).all()  # arithmetic on a GPU knows one NaN only
    else:
        assert np.array_equal(got.view(np.uint32), x.view(np.uint32))


@pytest.mark.parametrize("where", [0, 1, 2])
@pytest.mark.parametrize("mode", MODES)
def test_nan_stays_in_its_channel(backend, where, mode):
    x = np.zeros((1, 4, 19), np.float32)
    x[0, where, 3] = np.nan
    got = merge.segment_reduce(x, offsets=np.array([0, 3, 4]), mode=mode)
    assert np.isnan(got[0, 0, 3])
    assert np.isnan(got).sum() == 1


def test_amax_of_minus_infinity(backend):
    x = np.full((1, 2, 3), -np.inf, np.float32)
    assert (merge.segment_reduce(x, offsets=np.array([0, 2]), mode="amax") == -np.inf).all()


@pytest.mark.parametrize("count", [15, 16, 17, 32, 33])
def test_groups_of_rows(backend, rng, count):
    """Sums that go through the buffer between groups, on both sides of the group size."""
    x = rng.standard_normal((1, count, 21)).astype(np.float32)
    total = x[0, 0].copy()
    for row in x[0, 1:]:
        total += row
    assert np.array_equal(merge.segment_reduce(x, offsets=np.array([0, count]), mode="sum")[0, 0], total)


@pytest.mark.parametrize("lengths", [(BLOCK,), (BLOCK + 1,), (3, 2 * BLOCK + 1, 5), (BLOCK + 1, BLOCK + 1, 0, 7)])
@pytest.mark.parametrize("form", ["offsets", "ids"])
def test_long_segments_add_up_in_blocks(backend, rng, lengths, form):
    tokens = sum(lengths)
    x = rng.standard_normal((1, tokens, 5)).astype(np.float32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    index = {"offsets": offsets} if form == "offsets" else {"ids": ids_of([offsets], tokens), "segments": len(lengths)}
    for mode in MODES:
        got, mass = merge.segment_reduce(x, **index, mode=mode, return_mass=True)
        with tokernel.use_backend("ref"):
            expected = merge.segment_reduce(x, **index, mode=mode)
        assert np.array_equal(got, expected)
        assert mass.tolist() == [list(lengths)]


def test_many_segments(backend, rng):
    """More than the device counts in shared memory."""
    x = rng.standard_normal((1, 30, 3)).astype(np.float32)
    ids = labels(rng, 1, 30, 4100)
    ids[0, ::3] = 4099
    got = merge.segment_reduce(x, ids=ids, segments=4100)
    with tokernel.use_backend("ref"):
        assert np.array_equal(got, merge.segment_reduce(x, ids=ids, segments=4100))


def test_any_thread_count_gives_the_same_bits(rng):
    x = rng.standard_normal((2, 3 * BLOCK, 40)).astype(np.float32)
    weight = rng.random((2, 3 * BLOCK)).astype(np.float32)
    ids = np.minimum(rng.integers(0, 200, (2, 3 * BLOCK)), 100)
    answers = []
    for threads in (1, 2, 0):
        tokernel.set_num_threads(threads)
        answers.append(merge.segment_reduce(x, ids=ids, segments=101, weight=weight))
    tokernel.set_num_threads(0)
    assert all(np.array_equal(a, answers[0]) for a in answers)


def test_forms_without_batch_and_shared_index(backend, rng):
    x = rng.standard_normal((3, 12, 7)).astype(np.float32)
    weight = rng.random((3, 12)).astype(np.float32)
    ids = labels(rng, 1, 12, 4)
    shared = merge.segment_reduce(x, ids=ids[0], segments=4, weight=weight)
    assert np.array_equal(shared, merge.segment_reduce(x, ids=ids.repeat(3, axis=0), segments=4, weight=weight))
    single, mass = merge.segment_reduce(x[1], ids=ids[0], segments=4, weight=weight[1], return_mass=True)
    assert np.array_equal(single, shared[1])
    assert mass.shape == (4,)
    offsets = np.array([0, 5, 5, 12], np.int32)
    shared = merge.segment_reduce(x, offsets=offsets)
    assert np.array_equal(shared, merge.segment_reduce(x, offsets=np.tile(offsets, (3, 1))))
    assert np.array_equal(shared[2], merge.segment_reduce(x[2], offsets=offsets))


def test_strided_views(backend, rng):
    big = rng.standard_normal((4, 20, 24)).astype(np.float32)
    view = big[::2, 1:19:3, 5:22]
    ids = labels(rng, 2, 6, 3)
    got = merge.segment_reduce(view, ids=ids, segments=3)
    assert np.array_equal(got, merge.segment_reduce(view.copy(), ids=ids, segments=3))
    flipped = merge.segment_reduce(view[:, ::-1, ::-1], ids=ids, segments=3)
    assert np.array_equal(flipped, merge.segment_reduce(view[:, ::-1, ::-1].copy(), ids=ids, segments=3))


def test_bfloat16(backend, rng):
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16")
    x = torch.randn(2, 9, 35).to(torch.bfloat16)
    offsets = torch.tensor([0, 4, 9])
    for mode in MODES:
        wide = merge.segment_reduce(x.float(), offsets=offsets, mode=mode)
        assert torch.equal(merge.segment_reduce(x, offsets=offsets, mode=mode), wide.to(torch.bfloat16))


def test_fills_given_arrays(backend, rng):
    x = rng.standard_normal((1, 4, 3)).astype(np.float32)
    out, mass = np.empty((1, 2, 3), np.float32), np.empty((1, 2), np.float32)
    got = merge.segment_reduce(x, offsets=np.array([0, 1, 4]), return_mass=True, out=out, mass=mass)
    assert got[0] is out
    assert got[1] is mass
    assert mass.tolist() == [[1, 3]]


X = np.zeros((2, 4, 3), np.float32)
IDS = np.zeros((2, 4), np.int64)
OFFSETS = np.array([0, 2, 4])


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, "offsets must be given, or else ids, got neither", {}),
        (ValueError, "offsets must be given, or else ids, got both", {"offsets": OFFSETS, "ids": IDS}),
        (TypeError, "segments must be an integer of at least 0, got NoneType", {"ids": IDS}),
        (TypeError, "segments must be an integer of at least 0, got float", {"ids": IDS, "segments": 2.0}),
        (ValueError, "segments must be an integer of at least 0, got -1", {"ids": IDS, "segments": -1}),
        (ValueError, "segments must be an integer of at least 0, got 1267", {"ids": IDS, "segments": 2**100}),
        (ValueError, "segments must be small enough for an array", {"ids": IDS, "segments": 2**60}),
        (ValueError, "segments must be one less than the number of offsets, 2", {"offsets": OFFSETS, "segments": 3}),
        (
            ValueError,
            r"ids must be in \[-1, 2\), got 2 at flat position 5",
            {"ids": IDS + (np.arange(8) == 5).reshape(2, 4) * 2, "segments": 2},
        ),
        (ValueError, r"ids must be in \[-1, 2\), got -2 at flat position 0", {"ids": IDS - 2, "segments": 2}),
        (ValueError, r"ids must be \(B, N\) with B = 2, N = 4 or \(N,\)", {"ids": IDS[:1], "segments": 2}),
        (TypeError, "ids must be int32 or int64, got float64", {"ids": IDS.astype(float), "segments": 2}),
        (ValueError, "offsets must be at least one offset long", {"offsets": OFFSETS[:0]}),
        (ValueError, "offsets must be 0 at its start, got 1", {"offsets": np.array([1, 4])}),
        (ValueError, "offsets must be non-decreasing, got 1", {"offsets": np.array([0, 2, 1, 4])}),
        (ValueError, "offsets must be equal to the number of tokens at its end, got 3", {"offsets": np.array([0, 3])}),
        (ValueError, "mode must be 'mean', 'sum' or 'amax', got 'max'", {"offsets": OFFSETS, "mode": "max"}),
        (ValueError, "weight must be None with mode 'amax'", {"offsets": OFFSETS, "mode": "amax", "weight": X[..., 0]}),
        (ValueError, r"weight must be \(B, N\) with B = 2, N = 4", {"offsets": OFFSETS, "weight": X}),
        (TypeError, "weight must be float32, got float64", {"offsets": OFFSETS, "weight": X[..., 0].astype(float)}),
        (ValueError, r"out must be \(B, S, C\) with B = 2, S = 2, C = 3", {"offsets": OFFSETS, "out": X.copy()}),
    ],
)
def test_bad_arguments(error, message, arguments):
    with pytest.raises(error, match=f"segment_reduce: {message}"):
        merge.segment_reduce(X, **arguments)
