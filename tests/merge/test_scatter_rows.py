# SPDX-License-Identifier: Apache-2.0
"""scatter_rows and its gradient on every backend, against a loop: a copy, so every bit must agree."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="bfloat16 arrays come from torch")

from bits import on_one_and_two_threads
from row_cases import DTYPES, EMPTY, SHAPES, row_case

import tokernel
from tokernel.kernels import merge


def case(shape, dtype=torch.float32):
    base, y, index = row_case(shape, dtype)
    return y, index, base


def expected(y, index, n, base=None):
    out = torch.zeros(y.shape[0], n, y.shape[2], dtype=y.dtype) if base is None else base.clone()
    for b in range(y.shape[0]):
        for m in reversed(range(y.shape[1])):
            out[b, index[b, m]] = y[b, m]
    return out


def expected_backward(grad, index):
    out = torch.zeros(*index.shape, grad.shape[2], dtype=grad.dtype)
    for b, row in enumerate(index.tolist()):
        for m, n in enumerate(row):
            if n not in row[:m]:
                out[b, m] = grad[b, n]
    return out


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES + EMPTY, ids=str)
def test_equals_a_loop(backend, shape, dtype):
    y, index, base = case(shape, dtype)
    n = shape[1]
    assert torch.equal(merge.scatter_rows(y, index, n), expected(y, index, n))
    assert torch.equal(merge.scatter_rows(y, index, n, base), expected(y, index, n, base))
    assert torch.equal(merge.scatter_rows_backward(base, index), expected_backward(base, index))
    assert tokernel.last_backend() == backend


def test_lowest_m_wins(backend):
    y = torch.arange(1.0, 6.0).reshape(1, 5, 1)
    assert merge.scatter_rows(y, torch.tensor([[2, 0, 2, 2, 0]]), 3).flatten().tolist() == [2.0, 0.0, 1.0]


def test_inverts_gather(backend):
    x = torch.randn(2, 9, 5)
    order = torch.stack([torch.randperm(9), torch.randperm(9)])
    assert torch.equal(merge.scatter_rows(merge.gather_rows(x, order), order, 9), x)


def test_nan_payload_survives(backend):
    bits = np.array([[[0x7FA00001, 0x80000000], [0xFFC12345, 0x00000001]]], dtype=np.uint32)
    out = merge.scatter_rows(bits.view(np.float32), np.array([[1, 0]]), 2, bits.view(np.float32))
    assert np.array_equal(out.view(np.uint32), bits[:, ::-1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strided_views(backend, dtype):
    y, index, base = case((2, 7, 6, 18), dtype)
    for view in (slice(None), slice(1, 14), slice(2, 10), slice(None, None, 2)):
        part, below = y[:, ::2, view], base[:, :, view]
        assert torch.equal(
            merge.scatter_rows(part, index[:, ::2], 7, below), expected(part, index[:, ::2], 7, below)
        ), view
        assert torch.equal(merge.scatter_rows_backward(below, index), expected_backward(below, index)), view
    nothing = torch.zeros(18, dtype=dtype).expand(2, 6, -1)
    assert torch.equal(merge.scatter_rows(nothing, index.int(), 7, base), expected(nothing, index, 7, base))


def test_out(backend):
    y, index, base = case((2, 5, 3, 7))
    out = torch.full((2, 5, 7), torch.nan)
    assert merge.scatter_rows(y, index, 5, base, out=out) is out
    assert torch.equal(out, expected(y, index, 5, base))
    with pytest.raises(
        ValueError, match="scatter_rows: out must be memory of its own, got an array that overlaps base"
    ):
        merge.scatter_rows(y, index, 5, base, out=base)


BAD = {
    "index too large": (lambda y, i, n, b: (y, i, n - 2), ValueError, r"scatter_rows: index must be in \[0, 3\), got"),
    "index negative": (lambda y, i, n, b: (y, i - 5, n), ValueError, r"scatter_rows: index must be in \[0, 5\), got -"),
    "n negative": (
        lambda y, i, n, b: (y, i, -1),
        ValueError,
        r"scatter_rows: n must be an integer of at least 0, got -1",
    ),
    "n enormous": (lambda y, i, n, b: (y, i, 2**60), ValueError, r"out must be smaller than 2\*\*60 elements"),
    "n no number": (lambda y, i, n, b: (y, i, "5"), TypeError, "scatter_rows"),
    "base shape": (lambda y, i, n, b: (y, i, n, b[:, :4]), ValueError, r"base must be \(B, N, C\) with B = 2, N = 5"),
    "base dtype": (lambda y, i, n, b: (y, i, n, b.half()), TypeError, r"base must be float32, got float16"),
    "y dtype": (lambda y, i, n, b: (y.double(), i, n), TypeError, r"y must be float32, float16 or bfloat16"),
    "index shape": (lambda y, i, n, b: (y, i[:, :2], n), ValueError, r"index must be \(B, M\) with B = 2, M = 3"),
    "index dtype": (lambda y, i, n, b: (y, i.float(), n), TypeError, r"index must be int32 or int64, got float32"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(backend, name):
    change, error, message = BAD[name]
    y, index, base = case((2, 5, 3, 7))
    index[0, 0] = 4
    with pytest.raises(error, match=message):
        merge.scatter_rows(*change(y, index, 5, base))


def test_bad_gradient_input(backend):
    _, index, base = case((2, 5, 3, 7))
    with pytest.raises(ValueError, match=r"scatter_rows_backward: index must be in \[0, 5\)"):
        merge.scatter_rows_backward(base, index + 5)
    with pytest.raises(TypeError, match="scatter_rows_backward: grad must be an array"):
        merge.scatter_rows_backward([1.0], index)


def test_bits_do_not_depend_on_threads(backend):
    y, index, base = case((3, 150, 20 if backend == "simt" else 200, 65))
    for placed in on_one_and_two_threads(lambda: merge.scatter_rows(y, index, 150, base)):
        assert torch.equal(placed, expected(y, index, 150, base))
    for grad in on_one_and_two_threads(lambda: merge.scatter_rows_backward(base, index)):
        assert torch.equal(grad, expected_backward(base, index))
