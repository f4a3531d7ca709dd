# SPDX-License-Identifier: Apache-2.0
"""gather_rows on every backend: a bit-exact copy, whatever the sizes, strides and dtypes."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="bfloat16 arrays come from torch")

from bits import on_one_and_two_threads
from row_cases import DTYPES, EMPTY, SHAPES, row_case

import tokernel
from tokernel.kernels import merge


def case(shape, dtype=torch.float32):
    x, _, index = row_case(shape, dtype)
    return x, index


def expected(x, index):
    return torch.gather(x, 1, index[..., None].expand(-1, -1, x.shape[2]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_torch(backend, shape, dtype):
    x, index = case(shape, dtype)
    assert torch.equal(merge.gather_rows(x, index), expected(x, index))


@pytest.mark.parametrize("shape", EMPTY, ids=str)
def test_empty(backend, shape):
    x, index = case(shape)
    assert merge.gather_rows(x, index).shape == (shape[0], shape[2], shape[3])


def test_nan_payload_survives(backend):
    """A copy keeps every bit, signalling NaN and negative zero included."""
    bits = np.array([[[0x7FA00001, 0x80000000], [0xFFC12345, 0x00000001]]], dtype=np.uint32)
    out = merge.gather_rows(bits.view(np.float32), np.array([[1, 0, 1]]))
    assert np.array_equal(out.view(np.uint32), bits[:, [1, 0, 1]])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strided_views(backend, dtype):
    x, index = case((2, 6, 5, 18), dtype)
    views = {
        "every second row": x[:, ::2],
        "a channel slice, offset by one element": x[:, :, 1:14],
        "rows and channels": x[:, 1::2, 2:10],
        "batch": x[::2],
        "every second channel": x[:, :, ::2],
        "transposed": x.transpose(1, 2),
        "one row expanded": x[:, :1].expand(-1, 4, -1),
    }
    for name, view in views.items():
        picks = index[: view.shape[0]] % view.shape[1]
        assert torch.equal(merge.gather_rows(view, picks), expected(view, picks)), name


def test_int32_and_strided_index(backend):
    x, index = case((2, 6, 8, 5))
    for view in (index.int(), index[:, ::2], index.int()[:, ::3], index.t().contiguous().t()):
        assert torch.equal(merge.gather_rows(x, view), expected(x, view.long()))


def test_out(backend):
    x, index = case((2, 6, 8, 5))
    out = torch.full((2, 8, 5), torch.nan)
    assert merge.gather_rows(x, index, out=out) is out
    assert torch.equal(out, expected(x, index))


BAD = {
    "index too large": (lambda x, i: (x, i + 3), ValueError, r"gather_rows: index must be in \[0, 3\), got"),
    "index negative": (lambda x, i: (x, i - 3), ValueError, r"gather_rows: index must be in \[0, 3\), got -"),
    "index from an empty x": (lambda x, i: (x[:, :0], i), ValueError, r"index must be in \[0, 0\)"),
    "rank": (lambda x, i: (x[0], i), ValueError, r"gather_rows: x must be \(B, N, C\), got \(3, 4\)"),
    "batch": (lambda x, i: (x, i[:1]), ValueError, r"index must be \(B, M\) with B = 2, got \(1, 5\)"),
    "x dtype": (lambda x, i: (x.double(), i), TypeError, r"x must be float32, float16 or bfloat16, got float64"),
    "index dtype": (lambda x, i: (x, i.float()), TypeError, r"index must be int32 or int64, got float32"),
    "no array": (lambda x, i: (x, [[0]]), TypeError, r"gather_rows: index must be an array"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(backend, name):
    change, error, message = BAD[name]
    x, index = case((2, 3, 5, 4))
    with pytest.raises(error, match=message):
        merge.gather_rows(*change(x, index))


def test_bad_out_is_left_alone(backend):
    x, index = case((2, 3, 5, 4))
    wrong = {
        "shape": torch.zeros(2, 5, 3),
        "dtype": torch.zeros(2, 5, 4, dtype=torch.float16),
        "strided": torch.zeros(2, 4, 5).transpose(1, 2),
    }
    for out in wrong.values():
        with pytest.raises((ValueError, TypeError), match="gather_rows: out must be"):
            merge.gather_rows(x, index, out=out)
        assert not out.any()
    with pytest.raises(ValueError, match="memory of its own"):
        merge.gather_rows(x, index[:, :3], out=x)
    frozen = np.zeros((2, 5, 4), np.float32)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="writable"):
        merge.gather_rows(x.numpy(), index.numpy(), out=frozen)


def test_the_asked_backend_ran(backend):
    x, index = case((2, 3, 5, 4))
    merge.gather_rows(x, index)
    assert tokernel.last_backend() == backend


def test_bits_do_not_depend_on_threads(backend):
    x, index = case((3, 50, 20 if backend == "simt" else 200, 65))
    for picked in on_one_and_two_threads(lambda: merge.gather_rows(x, index)):
        assert torch.equal(picked, expected(x, index))
