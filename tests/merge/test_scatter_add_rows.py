# SPDX-License-Identifier: Apache-2.0
"""scatter_add_rows and its gradient on every backend, against float64."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="bfloat16 arrays come from torch")

from bits import on_one_and_two_threads
from row_cases import DTYPES, EMPTY, SHAPES, row_case

import tokernel
from tokernel.kernels import merge


def case(shape, dtype=torch.float32):
    grad, y, index = row_case(shape, dtype)
    weight = torch.randn(index.shape, generator=torch.Generator().manual_seed(1))
    return y, index, weight, grad


def exact(y, index, n, weight=None):
    """The sum in float64."""
    values = y.double() if weight is None else y.double() * weight.double()[..., None]
    out = torch.zeros(y.shape[0], n, y.shape[2], dtype=torch.float64)
    return out.scatter_add_(1, index[..., None].expand(-1, -1, y.shape[2]), values)


def assert_close(ours, exact_value, magnitude, terms):
    """A float32 sum of `terms` products errs by (terms + 1) eps of the sum of magnitudes; one rounding follows."""
    bound = (terms + 1) * 2.0**-24 * magnitude + torch.finfo(ours.dtype).eps / 2 * exact_value.abs() + 1e-30
    if ours.dtype == torch.float16:
        bound = bound + 2.0**-25  # half the spacing of subnormal halves
    assert ((ours.double() - exact_value).abs() <= bound).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES + EMPTY, ids=str)
def test_forward(backend, shape, dtype):
    y, index, weight, _ = case(shape, dtype)
    n, picks = shape[1], shape[2]
    ours = merge.scatter_add_rows(y, index, n)
    assert ours.dtype == dtype
    assert_close(ours, exact(y, index, n), exact(y.abs(), index, n), picks)
    ours = merge.scatter_add_rows(y, index, n, weight)
    assert_close(ours, exact(y, index, n, weight), exact(y.abs(), index, n, weight.abs()), picks)
    assert tokernel.last_backend() == backend


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES + EMPTY, ids=str)
def test_backward(backend, shape, dtype):
    y, index, weight, grad = case(shape, dtype)
    if index.numel() and not grad.shape[1]:
        return
    grad_y, grad_weight = merge.scatter_add_rows_backward(grad, y, index, weight)
    gathered = torch.gather(grad, 1, index[..., None].expand(-1, -1, y.shape[2])).double()
    scaled = weight.double()[..., None] * gathered
    assert grad_y.dtype == dtype
    assert_close(grad_y, scaled, scaled.abs(), 1)
    products = y.double() * gathered
    assert grad_weight.dtype == torch.float32
    assert_close(grad_weight, products.sum(-1), products.abs().sum(-1), shape[3])


def test_sum_runs_in_ascending_m(backend):
    """2**24 swallows every one that comes later, but not two ones that came earlier."""
    y = torch.tensor([[1.0, 1.0, 2.0**24], [2.0**24, 1.0, 1.0]])[..., None]
    out = merge.scatter_add_rows(y, torch.zeros(2, 3, dtype=torch.int64), 1)
    assert out.flatten().tolist() == [2.0**24 + 2, 2.0**24]


def test_half_precision_is_rounded_once(backend):
    """2048 + 1 + 1 in float16 stays 2048 when every step is rounded."""
    y = torch.tensor([2048.0, 1.0, 1.0], dtype=torch.float16).reshape(1, 3, 1)
    assert merge.scatter_add_rows(y, torch.zeros(1, 3, dtype=torch.int64), 1).item() == 2050.0


def test_nan_and_infinity_stay_in_their_row(backend):
    y = torch.tensor([float("nan"), 1.0, float("inf"), -float("inf")]).reshape(1, 4, 1)
    out = merge.scatter_add_rows(y, torch.tensor([[0, 1, 2, 3]]), 4).flatten()
    assert torch.isnan(out[0])
    assert out[1:].tolist() == [1.0, float("inf"), -float("inf")]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strided_views(backend, dtype):
    y, index, weight, grad = case((2, 7, 6, 18), dtype)
    for view in (slice(None), slice(1, 14), slice(2, 10), slice(None, None, 2)):
        part, above, picks, scale = y[:, ::2, view], grad[:, :, view], index.int()[:, ::2], weight[:, ::2]
        dense = [t.contiguous() for t in (part, picks.long(), scale, above)]
        assert torch.equal(
            merge.scatter_add_rows(part, picks, 7, scale), merge.scatter_add_rows(dense[0], dense[1], 7, dense[2])
        )
        ours = merge.scatter_add_rows_backward(above, part, picks, scale)
        theirs = merge.scatter_add_rows_backward(dense[3], dense[0], dense[1], dense[2])
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])


def test_out(backend):
    y, index, weight, _ = case((2, 5, 3, 7))
    out = torch.full((2, 5, 7), torch.nan)
    assert merge.scatter_add_rows(y, index, 5, weight, out=out) is out
    assert torch.equal(out, merge.scatter_add_rows(y, index, 5, weight))


def test_numpy(backend):
    y, index, weight, _ = case((2, 5, 3, 7))
    out = merge.scatter_add_rows(y.numpy(), index.numpy().astype(np.int32), 5, weight.numpy())
    assert np.array_equal(out, merge.scatter_add_rows(y, index, 5, weight).numpy())


BAD = {
    "index too large": (
        lambda y, i, n, w: (y, i, 4),
        ValueError,
        r"scatter_add_rows: index must be in \[0, 4\), got 4",
    ),
    "index negative": (lambda y, i, n, w: (y, i - 5, n), ValueError, r"index must be in \[0, 5\), got -"),
    "n negative": (
        lambda y, i, n, w: (y, i, -1),
        ValueError,
        r"scatter_add_rows: n must be an integer of at least 0, got -1",
    ),
    "n enormous": (lambda y, i, n, w: (y, i, 2**60), ValueError, r"out must be smaller than 2\*\*60 elements"),
    "weight shape": (lambda y, i, n, w: (y, i, n, w[:1]), ValueError, r"weight must be \(B, M\) with B = 2, M = 3"),
    "weight dtype": (lambda y, i, n, w: (y, i, n, w.half()), TypeError, r"weight must be float32, got float16"),
    "y rank": (lambda y, i, n, w: (y[0], i, n), ValueError, r"y must be \(B, M, C\), got \(3, 7\)"),
    "index dtype": (lambda y, i, n, w: (y, i.float(), n), TypeError, r"index must be int32 or int64"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(backend, name):
    change, error, message = BAD[name]
    y, index, weight, _ = case((2, 5, 3, 7))
    index[0, 0] = 4
    with pytest.raises(error, match=message):
        merge.scatter_add_rows(*change(y, index, 5, weight))


def test_bad_gradient_input(backend):
    y, index, weight, grad = case((2, 5, 3, 7))
    with pytest.raises(ValueError, match=r"scatter_add_rows_backward: index must be in \[0, 5\)"):
        merge.scatter_add_rows_backward(grad, y, index - 5, weight)
    with pytest.raises(TypeError, match="scatter_add_rows_backward: y must be float32, got bfloat16"):
        merge.scatter_add_rows_backward(grad, y.bfloat16(), index, weight)


def test_bits_do_not_depend_on_threads(backend):
    y, index, weight, grad = case((3, 5, 120, 700))

    def run():
        sums = merge.scatter_add_rows(y, index, 5, weight)
        return sums, *merge.scatter_add_rows_backward(grad, y, index, weight)

    assert all(torch.equal(a, b) for a, b in zip(*on_one_and_two_threads(run), strict=True))
