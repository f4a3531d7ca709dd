# SPDX-License-Identifier: Apache-2.0
"""rope_gather, rope_scatter and the attention over shared tokens, on every backend, against float64."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="bfloat16 arrays come from torch")

from bits import on_one_and_two_threads

import tokernel
from tokernel.kernels import attention as ka

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SHAPES = [  # batch, heads, unique rows, places, width
    (1, 1, 1, 1, 2),
    (2, 3, 5, 9, 8),
    (1, 2, 4, 7, 6),
    (2, 1, 33, 40, 64),
    (1, 2, 3, 35, 34),
    (1, 1, 2, 3, 256),
]
EMPTY = [(0, 2, 3, 4, 8), (1, 0, 3, 4, 8), (1, 2, 3, 0, 8), (1, 1, 0, 0, 8), (1, 1, 2, 3, 0)]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def case(shape, dtype=torch.float32):
    batch, heads, rows, places, width = shape
    x = normal(batch, heads, rows, width).to(dtype)
    index = torch.randint(0, max(rows, 1), (batch, places), generator=torch.Generator().manual_seed(1))
    cos, sin = normal(batch, places, width, seed=2), normal(batch, places, width, seed=3)
    return x, index, cos, sin


def turn(x, cos, sin):
    """R(n) x in float64, for rows (B, H, N, D)."""
    low, high = x.double().chunk(2, -1)
    return x.double() * cos.double()[:, None] + torch.cat((-high, low), -1) * sin.double()[:, None]


def turn_magnitude(x, cos, sin):
    """What R(n) x adds up, without signs."""
    low, high = x.double().abs().chunk(2, -1)
    swapped = torch.cat((high, low), -1)
    return x.double().abs() * cos.double().abs()[:, None] + swapped * sin.double().abs()[:, None]


def matrix(index, rows):
    """(B, N, U): 1 where place n holds row u."""
    return torch.nn.functional.one_hot(index, max(rows, 1))[..., :rows].double()


def assert_close(ours, exact, magnitude, terms):
    """`terms` float32 operations on numbers of that magnitude, and one rounding to the dtype."""
    bound = (terms + 2) * 2.0**-24 * magnitude + torch.finfo(ours.dtype).eps / 2 * exact.abs() + 2.0**-25
    assert ours.shape == exact.shape
    assert ((ours.double() - exact).abs() <= bound).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES + EMPTY, ids=str)
def test_gather(backend, shape, dtype):
    x, index, cos, sin = case(shape, dtype)
    picked = torch.gather(x, 2, index[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))
    assert torch.equal(ka.rope_gather(x, index), picked)
    ours = ka.rope_gather(x, index, cos, sin)
    assert ours.dtype == dtype
    assert_close(ours, turn(picked, cos, sin), turn_magnitude(picked, cos, sin), 2)
    assert tokernel.last_backend() == backend


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES + EMPTY, ids=str)
def test_scatter_is_the_adjoint(backend, shape, dtype):
    _, _, rows, places, width = shape
    _, index, cos, sin = case(shape)
    x = normal(shape[0], shape[1], places, width, seed=4).to(dtype)
    # R^T of rows is R with the halves of the sines exchanged and negated.
    back = -torch.cat(sin.chunk(2, -1)[::-1], -1)
    turned = turn(x, cos, back)
    places_of = matrix(index, rows)
    exact = torch.einsum("bnu,bhnd->bhud", places_of, turned)
    magnitude = torch.einsum("bnu,bhnd->bhud", places_of, turn_magnitude(x, cos, back))
    ours = ka.rope_scatter(x, index, rows, cos, sin)
    assert ours.dtype == dtype
    assert_close(ours, exact, magnitude, 2 * places)
    mean = ka.rope_scatter(x, index, rows, mean=True)
    count = places_of.sum(1).clamp(min=1)[:, None, :, None]
    plain = torch.einsum("bnu,bhnd->bhud", places_of, x.double())
    assert_close(mean, plain / count, torch.einsum("bnu,bhnd->bhud", places_of, x.double().abs()), places)
    assert tokernel.last_backend() == backend


def test_one_index_and_table_serve_the_batch(backend):
    x, index, cos, sin = case((3, 2, 5, 6, 8))
    shared = ka.rope_gather(x, index[0], cos[0], sin[0])
    repeated = ka.rope_gather(x, index[:1].repeat(3, 1), cos[:1].repeat(3, 1, 1), sin[:1].repeat(3, 1, 1))
    assert torch.equal(shared, repeated)


def test_strided_rows(backend):
    x, index, cos, sin = case((2, 3, 5, 6, 8))
    tokens_first = x.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(ka.rope_gather(tokens_first, index, cos, sin), ka.rope_gather(x, index, cos, sin))
    y = normal(2, 6, 3, 8).transpose(1, 2)
    assert torch.equal(ka.rope_scatter(y, index, 5, cos, sin), ka.rope_scatter(y.contiguous(), index, 5, cos, sin))


def test_bits_do_not_depend_on_threads():
    x, index, cos, sin = case((2, 4, 40, 300, 64))

    def both():
        turned = ka.rope_gather(x, index, cos, sin)
        return turned, ka.rope_scatter(turned, index, 40, cos, sin, mean=True)

    one, two = on_one_and_two_threads(both)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.fixture(scope="module")
def virtual_unmerging(golden):
    return {k: torch.from_numpy(v) for k, v in np.load(golden / "dymu" / "vtu_small.npz").items()}


def run(vector, **options):
    return ka.gathered_rope_attention(
        vector["q_un"],
        vector["k_un"],
        vector["v_un"],
        vector["mapping"],
        vector["cos"],
        vector["sin"],
        scale=float(vector["scaling"]),
        **options,
    )


def test_virtual_unmerging_equals_the_official_code(backend, virtual_unmerging):
    torch.testing.assert_close(run(virtual_unmerging, remerge=False), virtual_unmerging["out_full"], rtol=0, atol=1e-5)
    torch.testing.assert_close(run(virtual_unmerging), virtual_unmerging["out_remerged"], rtol=0, atol=1e-5)


def test_logits_equal_dense_rotary_logits(backend, virtual_unmerging):
    v = virtual_unmerging
    q, k = (ka.rope_gather(v[name], v["mapping"], v["cos"], v["sin"]).double() for name in ("q_un", "k_un"))
    scores = (q @ k.transpose(-1, -2)).float() * v["scaling"]
    torch.testing.assert_close(scores, v["scores"], rtol=2e-6, atol=2e-6)


def test_one_place_a_token_is_ordinary_attention(backend):
    x, _, cos, sin = case((1, 2, 7, 7, 8))
    q, k, v = x, normal(1, 2, 7, 8, seed=5), normal(1, 2, 7, 8, seed=6)
    ours = ka.gathered_rope_attention(q, k, v, torch.arange(7), cos, sin)
    exact = torch.nn.functional.scaled_dot_product_attention(
        turn(q, cos, sin), turn(k, cos, sin), v.double(), is_causal=True
    )
    torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-5)


def test_places_of_a_token_differ_and_come_back_as_their_mean(backend):
    x, _, cos, sin = case((1, 1, 3, 4, 8))
    index = torch.tensor([0, 1, 1, 2])
    full = ka.gathered_rope_attention(x, x, x, index, cos, sin, remerge=False)
    merged = ka.gathered_rope_attention(x, x, x, index, cos, sin)
    assert not torch.equal(full[0, 0, 1], full[0, 0, 2])
    torch.testing.assert_close(merged[0, 0, 1], full[0, 0, 1:3].mean(0))
    assert torch.equal(merged[0, 0, 0], full[0, 0, 0])
    assert torch.equal(merged[0, 0, 2], full[0, 0, 3])


def test_nan_stays_in_its_row(backend):
    x, _, cos, sin = case((1, 1, 3, 3, 8))
    x[0, 0, 1, 3] = float("nan")
    turned = ka.rope_gather(x, torch.tensor([0, 1, 2]), cos, sin)
    assert turned[0, 0].isnan().any(-1).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("spoiled", "pattern"),
    [
        ({"index": torch.tensor([0, 5])}, r"^rope_gather: index must be in \[0, 5\), got 5 at flat position 1$"),
        ({"sin": None}, r"^rope_gather: sin must be given, as cos, got None$"),
        ({"x": torch.zeros(1, 1, 5, 7)}, r"^rope_gather: "),
        ({"cos": torch.zeros(3, 8)}, r"^rope_gather: cos must"),
    ],
)
def test_bad_input(spoiled, pattern):
    good = {
        "x": torch.zeros(1, 1, 5, 8),
        "index": torch.tensor([0, 1]),
        "cos": torch.zeros(2, 8),
        "sin": torch.zeros(2, 8),
    }
    with pytest.raises(ValueError, match=pattern):
        ka.rope_gather(**{**good, **spoiled})


def test_odd_width_cannot_turn():
    with pytest.raises(ValueError, match=r"^rope_gather: x must be an even head width with cos and sin, got 7$"):
        ka.rope_gather(torch.zeros(1, 1, 5, 7), torch.tensor([0]), torch.zeros(1, 7), torch.zeros(1, 7))
