# SPDX-License-Identifier: Apache-2.0
"""permute_rows and inverse_permute_rows on every backend: bit-exact copies that undo each other."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="bfloat16 arrays come from torch")

import tokernel
from tokernel.kernels import cluster

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# B, H, N, C; H = 0 stands for a (B, N, C) array. Rows around the widths of a vector and of a warp of 16-byte words.
SHAPES = [
    (1, 0, 1, 1),
    (2, 0, 5, 7),
    (1, 3, 2, 8),
    (2, 2, 33, 17),
    (1, 0, 65, 64),
    (1, 2, 9, 131),
    (1, 1, 4, 600),
]
EMPTY = [(0, 2, 3, 4), (2, 0, 0, 4), (2, 3, 0, 4), (2, 0, 3, 0), (1, 2, 3, 0)]


def case(shape, dtype=torch.float32):
    batch, heads, tokens, width = shape
    outer = (batch, heads) if heads else (batch,)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*outer, tokens, width, generator=generator).to(dtype)
    return x, torch.rand(*outer, tokens, generator=generator).argsort(-1)


def permuted(x, perm):
    return torch.gather(x, -2, perm[..., None].expand_as(x))


def restored(y, perm):
    return torch.empty_like(y, memory_format=torch.contiguous_format).scatter_(-2, perm[..., None].expand_as(y), y)


def check(x, perm):
    there = cluster.permute_rows(x, perm)
    assert torch.equal(there, permuted(x, perm.long()))
    assert torch.equal(cluster.inverse_permute_rows(x, perm), restored(x, perm.long()))
    assert torch.equal(cluster.inverse_permute_rows(there, perm), x)  # law 2 of svg2


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_torch_and_comes_back(backend, shape, dtype):
    check(*case(shape, dtype))
    assert tokernel.last_backend() == backend


@pytest.mark.parametrize("shape", EMPTY, ids=str)
def test_empty(backend, shape):
    check(*case(shape))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strided_views(backend, dtype):
    x, perm = case((2, 6, 8, 24), dtype)
    views = {
        "transposed heads": x.transpose(1, 2).contiguous().transpose(1, 2),
        "every second row": torch.stack([x, x], 3).flatten(2, 3)[:, :, ::2],
        "a channel slice": x[..., 3:18],
        "an aligned channel slice": x[..., 8:16],
        "every second head": torch.stack([x, x], 2).flatten(1, 2)[:, ::2],
        "every second channel": torch.stack([x, x], 4).flatten(3, 4)[..., ::2],
        "one head for all": x[:, :1].expand(-1, 6, -1, -1),
        "one row": x[:, :, :1].expand(-1, -1, 8, -1),
    }
    for name, view in views.items():
        assert torch.equal(cluster.permute_rows(view, perm), permuted(view, perm)), name
        assert torch.equal(cluster.inverse_permute_rows(view, perm), restored(view, perm)), name
    for index in (perm.int(), perm.transpose(1, 2).contiguous().transpose(1, 2)):
        check(x, index)


def test_nan_payload_survives(backend):
    """A copy keeps every bit, signalling NaN and negative zero included."""
    bits = np.array([[[0x7FA00001, 0x80000000], [0xFFC12345, 0x00000001]]], dtype=np.uint32)
    perm = np.array([[1, 0]])
    for op in (cluster.permute_rows, cluster.inverse_permute_rows):
        assert np.array_equal(op(bits.view(np.float32), perm).view(np.uint32), bits[:, [1, 0]])


@pytest.mark.parametrize("op", ["permute_rows", "inverse_permute_rows"])
@pytest.mark.parametrize(
    ("perm", "message"),
    [
        ([[0, 1, 3]], r"perm must be in \[0, 3\), got 3 at flat position 2$"),
        ([[0, -1, 1]], r"perm must be in \[0, 3\), got -1 at flat position 1$"),
        ([[2, 0, 2]], r"perm must be a permutation in every row, got 2 a second time at flat position 2$"),
    ],
)
def test_no_permutation(backend, op, perm, message):
    out = torch.full((1, 3, 2), 7.0)
    with pytest.raises(ValueError, match=f"^{op}: {message}"):
        getattr(cluster, op)(torch.zeros(1, 3, 2), np.array(perm), out=out)
    assert (out == 7).all()


def test_every_row_of_perm_is_checked_by_itself(backend):
    x = torch.zeros(2, 2, 65, 1)
    perm = torch.arange(65).expand(2, 2, 65).clone()
    cluster.permute_rows(x, perm)
    perm[1, 1, 64] = 0
    with pytest.raises(ValueError, match="got 0 a second time at flat position 259"):
        cluster.permute_rows(x, perm)


def test_bits_do_not_depend_on_threads(backend):
    x, perm = case((2, 3, 20 if backend == "simt" else 300, 65))
    try:
        for threads in (1, 2):
            tokernel.set_num_threads(threads)
            check(x, perm)
    finally:
        tokernel.set_num_threads(0)


def test_large_answers_go_past_the_caches():
    """From 16 MiB on rows are streamed; whole vectors only."""
    for width in (64, 65):
        check(*case((1, 2, 33000, width)))
