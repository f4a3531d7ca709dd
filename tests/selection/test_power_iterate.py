# SPDX-License-Identifier: Apache-2.0
"""power_iterate on every backend against explicit products in float64, and the laws of a weighted page rank."""

import numpy as np
import pytest

import tokernel
from tokernel.kernels import select

# around the widths of a vector (of bfloat16 pairs too), a warp and a panel of columns
TOKENS = [1, 2, 3, 5, 8, 15, 16, 17, 31, 32, 33, 47, 65, 130]
LONG = [197, 385, 400, 769]
STEP = 1e-6  # of a sum of probabilities, a step of float32


def stochastic(rng, *shape, dtype=np.float32, sharpness=2.0):
    logits = sharpness * rng.standard_normal(shape)
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return (e / e.sum(-1, keepdims=True)).astype(dtype)


def oracle(A, s0, iters, eps=None):
    """Products in float64, rounded to float32 after every step as the op promises; one head after the other."""
    n = A.shape[-1]
    heads = A.reshape(-1, n, n).astype(np.float64)
    starts = np.full((len(heads), n), np.float32(1) / np.float32(max(n, 1))) if s0 is None else s0.reshape(-1, n)
    out = []
    for head, start in zip(heads, starts, strict=True):
        s = start.astype(np.float32)
        for _ in range(iters):
            before, s = s, (head.T @ s.astype(np.float64)).astype(np.float32)
            if eps is not None and np.all(np.abs(s - before) <= eps):
                break
        out.append(s)
    return np.array(out, np.float32).reshape(A.shape[:-1])


def close(got, want, iters):
    """A sum of N products of float32 is off by at most N half-ulps of the sum of magnitudes, in every step."""
    bound = (iters + 1) * max(want.shape[-1], 8) * 2.0**-24
    np.testing.assert_allclose(got, want, rtol=bound, atol=bound * float(np.abs(want).max(initial=0)))


@pytest.mark.parametrize("n", TOKENS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_equals_explicit_products(backend, n, dtype, rng):
    A = stochastic(rng, 2, n, n, dtype=dtype)
    s0 = rng.random((2, n)).astype(np.float32)
    for start in (None, s0):
        for iters in (1, 2, 5):
            got = select.power_iterate(A, start, iters=iters)
            assert got.dtype == np.float32
            close(got, oracle(A, start, iters), iters)
    assert tokernel.last_backend() == backend


@pytest.mark.parametrize("n", TOKENS)
def test_bfloat16(backend, n, rng):
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16")
    A = torch.from_numpy(stochastic(rng, 2, n, n)).bfloat16()
    for iters in (1, 4):
        got = select.power_iterate(A, iters=iters)
        assert got.dtype == torch.float32
        close(got.numpy(), oracle(A.float().numpy(), None, iters), iters)


@pytest.mark.parametrize("n", LONG)
def test_several_panels(backend, n, rng):
    """Maps of several panels of columns; those that fit no shared memory of a device."""
    A = stochastic(rng, n, n)
    iters = 2 if backend == "simt" else 7
    close(select.power_iterate(A, iters=iters), oracle(A, None, iters), iters)
    half = A.astype(np.float16)
    close(select.power_iterate(half, iters=1), oracle(half, None, 1), 1)


def test_negative_values_and_any_start(backend, rng):
    A = (rng.standard_normal((2, 3, 40, 40)) / 7).astype(np.float32)
    s0 = rng.standard_normal((2, 3, 40)).astype(np.float32)
    got, want = select.power_iterate(A, s0, iters=3), oracle(A, s0, 3)
    magnitude = oracle(np.abs(A), np.abs(s0), 3)
    assert np.all(np.abs(got - want) <= 4 * 40 * 2.0**-24 * magnitude)


def test_no_step_returns_the_start(backend, rng):
    A = stochastic(rng, 2, 9, 9)
    s0 = rng.standard_normal((2, 9)).astype(np.float32)
    np.testing.assert_array_equal(select.power_iterate(A, s0, iters=0), s0)
    np.testing.assert_array_equal(select.power_iterate(A, iters=0), np.full((2, 9), np.float32(1) / np.float32(9)))


@pytest.mark.parametrize("shape", [(0, 0), (3, 0, 0), (0, 4, 4), (2, 0, 5, 5), (0, 3, 0, 0)], ids=str)
def test_empty(backend, shape):
    assert select.power_iterate(np.zeros(shape, np.float32), iters=3).shape == shape[:-1]


def test_one_token(backend):
    A = np.array([[0.5]], np.float32)
    np.testing.assert_array_equal(select.power_iterate(A, iters=3), [0.125])
    np.testing.assert_array_equal(select.power_iterate(A, np.array([4.0], np.float32), iters=1), [2.0])


# ---- laws ----------------------------------------------------------------------------------------------------------
def test_mass_is_kept_and_stays_positive(backend, rng):
    A = stochastic(rng, 3, 37, 37)
    for iters in (1, 2, 10):
        s = select.power_iterate(A, iters=iters)
        assert np.all(s >= 0)
        assert np.all(np.abs(s.astype(np.float64).sum(-1) - 1) <= iters * STEP)


def test_a_doubly_stochastic_map_keeps_the_uniform_vector(backend, rng):
    n = 33
    permutations = [rng.permutation(n) for _ in range(4)]
    A = np.mean([np.eye(n)[p] for p in permutations], axis=0).astype(np.float32)
    np.testing.assert_allclose(select.power_iterate(A, iters=9), 1 / n, atol=9 * STEP)


def test_blocks_do_not_mix(backend, rng):
    A = np.zeros((30, 30), np.float32)
    A[:13, :13] = stochastic(rng, 13, 13)
    A[13:, 13:] = stochastic(rng, 17, 17)
    s0 = np.zeros(30, np.float32)
    s0[:13] = 1 / 13
    s = select.power_iterate(A, s0, iters=6)
    np.testing.assert_array_equal(s[13:], 0)
    assert abs(s.astype(np.float64).sum() - 1) <= 6 * STEP


def test_permuting_tokens_permutes_the_result(backend, rng):
    A = stochastic(rng, 41, 41)
    p = rng.permutation(41)
    s = select.power_iterate(A, iters=8)
    permuted = select.power_iterate(np.ascontiguousarray(A[np.ix_(p, p)]), iters=8)
    np.testing.assert_allclose(permuted, s[p], atol=STEP)


def test_equals_explicit_products_to_a_millionth(backend, rng):
    A = stochastic(rng, 2, 50, 50)
    s = np.full((2, 50), 1 / 50)
    for _ in range(30):
        s = np.einsum("hij,hi->hj", A.astype(np.float64), s)
    np.testing.assert_allclose(select.power_iterate(A, iters=30), s, atol=1e-6)


def test_many_steps_end_in_the_left_eigenvector_whatever_the_start(backend, rng):
    A = stochastic(rng, 24, 24, sharpness=1.0)
    s0 = rng.random(24).astype(np.float32)
    s0 /= s0.sum()
    s = select.power_iterate(A, iters=60)
    assert np.max(np.abs(A.T.astype(np.float64) @ s - s)) < 1e-6
    np.testing.assert_allclose(select.power_iterate(A, s0, iters=60), s, atol=2e-6)


# ---- stopping ------------------------------------------------------------------------------------------------------
def test_every_head_stops_by_itself(backend, rng):
    """Distances fall by a known factor, and eps lies half-way between two of them."""
    n = 20
    factors = np.array([0.9, 0.5, 0.1])
    A = np.stack([f * np.eye(n) + (1 - f) / n for f in factors]).astype(np.float32)
    s0 = rng.random((3, n)).astype(np.float32)
    s0 /= s0.sum(-1, keepdims=True)
    first = np.abs(oracle(A, s0, 1) - s0).max(-1)  # the distance of step t is factor^(t - 1) times this
    eps = 1e-3
    steps = [int(np.ceil(1 + np.log(eps / d) / np.log(f))) for f, d in zip(factors, first, strict=True)]
    assert len(set(steps)) == 3
    got = select.power_iterate(A, s0, iters=500, eps=eps)
    for head, step in enumerate(steps):
        close(got[head], oracle(A[head], s0[head], step), step)
    np.testing.assert_array_equal(
        select.power_iterate(A, s0, iters=min(steps) - 1, eps=eps), select.power_iterate(A, s0, iters=min(steps) - 1)
    )


def test_zero_eps_stops_at_a_fixed_point(backend):
    A = np.eye(6, dtype=np.float32)
    s0 = np.arange(6, dtype=np.float32)
    np.testing.assert_array_equal(select.power_iterate(A, s0, iters=2**31 - 1, eps=0), s0)


def test_infinite_eps_stops_after_one_step(backend, rng):
    A = stochastic(rng, 7, 7)
    np.testing.assert_array_equal(select.power_iterate(A, iters=50, eps=float("inf")), select.power_iterate(A, iters=1))


# ---- NaN, infinity, memory -----------------------------------------------------------------------------------------
def test_nan_and_infinity_propagate(backend, rng):
    A = stochastic(rng, 3, 19, 19)
    A[0, 4, 7] = np.nan
    A[1, 4, 7] = np.inf
    once = select.power_iterate(A, iters=1, eps=1.0)
    want = np.zeros(19, bool)
    want[7] = True
    np.testing.assert_array_equal(np.isnan(once[0]), want)
    np.testing.assert_array_equal(np.isposinf(once[1]), want)
    close(once[2], oracle(A[2], None, 1), 1)
    twice = select.power_iterate(A, iters=4, eps=1.0)
    assert np.isnan(twice[0]).all()  # a NaN never stops its head, and every token sees it in the next step
    assert not np.isfinite(twice[1]).any()
    close(twice[2], oracle(A[2], None, 1), 1)  # where the others stop is their own business
    zeros = np.zeros(19, np.float32)
    assert np.isnan(select.power_iterate(A[1], zeros, iters=1)[7])  # 0 * inf


def test_strided_views(backend, rng):
    A = stochastic(rng, 3, 2, 36, 40)
    for view in (
        A[:, :, :, :36],
        A[::2, :, :33, 2:35],
        A.transpose(1, 0, 2, 3)[:, :, :20, 7:27],
        A[1, :, 1:18, 5:22],
        A[0, 0, ::2, :18],
        np.broadcast_to(A[0, 0, :9, :9], (4, 9, 9)),
        A[0, 0, :12, :12].T,
        A[0, 0, :12, 11::-1],
    ):
        close(select.power_iterate(view, iters=2), oracle(view, None, 2), 2)


def test_out(backend, rng):
    A = stochastic(rng, 2, 11, 11)
    out = np.full((2, 11), 7, np.float32)
    assert select.power_iterate(A, iters=2, out=out) is out
    close(out, oracle(A, None, 2), 2)


@pytest.mark.parametrize(("heads", "n"), [(5, 70), (2, 560)])
def test_bits_do_not_depend_on_threads(backend, heads, n, rng):
    A = stochastic(rng, heads, n, n)
    answers = []
    try:
        for threads in (1, 2, 3):
            tokernel.set_num_threads(threads)
            answers.append(select.power_iterate(A, iters=4, eps=1e-7).tobytes())
    finally:
        tokernel.set_num_threads(0)
    assert len(set(answers)) == 1


def test_few_large_maps_stop_by_themselves(backend, rng):
    """Threads then share the columns of every step."""
    n = 600
    A = np.stack([np.eye(n), np.full((n, n), 1 / n), 0.5 * np.eye(n) + 0.5 / n]).astype(np.float32)
    s0 = rng.random((3, n)).astype(np.float32)
    got = select.power_iterate(A, s0, iters=9, eps=1e-9 * n)
    np.testing.assert_array_equal(got[0], s0[0])
    close(got[1], oracle(A[1], s0[1], 1), 2)
    close(got[2], oracle(A[2], s0[2], 9), 9)


@pytest.mark.parametrize(
    ("spoiled", "error", "message"),
    [
        ({"A": np.zeros((2, 3), np.float32)}, ValueError, r"A must be .*, got \(2, 3\) float32"),
        ({"A": np.zeros(3, np.float32)}, ValueError, r"A must be .*, got \(3,\) float32"),
        ({"A": np.zeros((2, 3, 3))}, TypeError, "A must be float32, float16 or bfloat16, got float64"),
        ({"s0": np.zeros(3, np.float32)}, ValueError, r"s0 must be \(H, N\) with .*, got \(3,\) float32"),
        ({"s0": np.zeros((2, 4), np.float32)}, ValueError, r"s0 must be \(H, N\) with .*, got \(2, 4\) float32"),
        ({"s0": np.zeros((2, 3), np.float16)}, TypeError, "s0 must be float32, got float16"),
        ({"iters": -1}, ValueError, "iters must be an integer of at least 0, got -1"),
        ({"iters": 2**31}, ValueError, "iters must be below 2\\^31, got 2147483648"),
        ({"iters": 1.0}, TypeError, "iters must be an integer.*, got float"),
        ({"eps": -1e-9}, ValueError, "eps must be a number of at least 0, got -1e-09"),
        ({"eps": float("nan")}, ValueError, "eps must be a number of at least 0, got nan"),
        ({"eps": "1"}, TypeError, "eps must be a number or None, got str"),
    ],
)
def test_bad_input(spoiled, error, message):
    call = {"A": np.zeros((2, 3, 3), np.float32), "iters": 2, **spoiled}
    with pytest.raises(error, match=f"^power_iterate: {message}$"):
        select.power_iterate(**call)
