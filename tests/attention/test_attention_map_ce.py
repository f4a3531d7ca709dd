# SPDX-License-Identifier: Apache-2.0
"""attention_map_ce and its gradient on every backend, against float64 with both maps stored."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="bfloat16 arrays come from torch")

from bits import on_one_and_two_threads

import tokernel
from tokernel.kernels import attention as ka

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SHAPES = [  # batch, heads, queries, keys, width of the student, width of the teacher
    (1, 1, 1, 1, 1, 1),
    (2, 3, 5, 7, 8, 4),
    (1, 2, 17, 33, 16, 40),
    (1, 1, 66, 65, 20, 20),
    (1, 1, 3, 130, 72, 64),
    (1, 1, 2, 3, 256, 130),
]
EMPTY = [(0, 1, 3, 4, 8, 8), (1, 0, 3, 4, 8, 8), (1, 1, 0, 4, 8, 8), (1, 1, 3, 0, 8, 8)]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def case(shape, dtype=torch.float32):
    b, h, n, m, d, e = shape
    extents = [(n, d), (m, d), (n, e), (m, e)]
    return [(normal(b, h, *extent, seed=i) * 1.5).to(dtype) for i, extent in enumerate(extents)]


def scores(q, k, scale=None):
    return q.double() @ k.double().transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)


def dense(student, teacher):
    """Loss of each row, from float64 scores."""
    return -(torch.softmax(teacher, -1) * torch.log_softmax(student, -1)).sum(-1)


def score_error(q, k):
    """What float32 sums may err in a score: width + 2 roundings of the sum of magnitudes."""
    return (q.shape[-1] + 2) * 2.0**-24 * scores(q.abs(), k.abs())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES + EMPTY, ids=str)
def test_forward(backend, shape, dtype):
    q_s, k_s, q_t, k_t = case(shape, dtype)
    loss, lse_s, lse_t = ka.attention_map_ce(q_s, k_s, q_t, k_t, return_lse=True)
    student, teacher = scores(q_s, k_s), scores(q_t, k_t)
    exact = dense(student, teacher)
    assert loss.dtype == torch.float32
    assert tokernel.last_backend() == backend
    if 0 in shape[:4]:
        assert loss.shape == exact.shape
        assert not loss.any()
        return
    # An error e of the scores moves the loss by at most 2 e + 2 e max |S|, sums over keys add their own roundings.
    spread = (student.amax(-1) - student.amin(-1)) + 1
    moved = 2 * score_error(q_s, k_s).amax(-1) + 2 * score_error(q_t, k_t).amax(-1) * spread
    bound = moved + (shape[3] + 8) * 2.0**-23 * spread
    assert ((loss.double() - exact).abs() <= bound).all()
    assert ((lse_s.double() - student.logsumexp(-1)).abs() <= bound + 2.0**-22 * student.abs().amax(-1)).all()
    assert ((lse_t.double() - teacher.logsumexp(-1)).abs() <= bound + 2.0**-22 * teacher.abs().amax(-1)).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES + EMPTY, ids=str)
def test_backward(backend, shape, dtype):
    q_s, k_s, q_t, k_t = case(shape, dtype)
    grad = normal(*shape[:3], seed=9)
    _, lse_s, lse_t = ka.attention_map_ce(q_s, k_s, q_t, k_t, return_lse=True)
    grads = ka.attention_map_ce_backward(grad, q_s, k_s, q_t, k_t, lse_s, lse_t)
    assert tokernel.last_backend() == backend
    leaves = [x.double().requires_grad_() for x in (q_s, k_s)]
    exact = torch.autograd.grad(dense(scores(*leaves), scores(q_t, k_t)), leaves, grad.double())
    for ours, theirs in zip(grads, exact, strict=True):
        assert ours.dtype == dtype
        assert ours.shape == theirs.shape
        if ours.numel():
            scale = max(float(theirs.abs().max()), 1e-2)
            bound = 2e-5 * scale + torch.finfo(dtype).eps / 2 * theirs.abs() + 2.0**-25
            assert ((ours.double() - theirs).abs() <= bound).all()


def test_teacher_given_as_logits(backend):
    q_s, k_s, q_t, k_t = case((2, 2, 9, 12, 8, 8))
    logits = scores(q_t, k_t).float()
    by_product = ka.attention_map_ce(q_s, k_s, q_t, k_t, return_lse=True)
    by_logits = ka.attention_map_ce(q_s, k_s, teacher_logits=logits, return_lse=True)
    for a, b in zip(by_product, by_logits, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    grad = torch.ones(2, 2, 9)
    first = ka.attention_map_ce_backward(grad, q_s, k_s, q_t, k_t, *by_product[1:])
    second = ka.attention_map_ce_backward(grad, q_s, k_s, None, None, *by_logits[1:], teacher_logits=logits)
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_teacher_hides_keys(backend):
    q_s, k_s, _, _ = case((1, 1, 3, 130, 8, 8))
    logits = torch.full((1, 1, 3, 130), float("-inf"))
    logits[..., 100:] = normal(1, 1, 3, 30, seed=3)
    loss = ka.attention_map_ce(q_s, k_s, teacher_logits=logits)
    weights = torch.softmax(logits.double(), -1)
    exact = -(weights * torch.log_softmax(scores(q_s, k_s), -1)).sum(-1)
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=1e-5)


def test_official_vectors(backend, golden):
    """Logits stand in for products: a student whose queries are its logits and whose keys are the unit vectors."""
    z = np.load(golden / "haste" / "attention_linear.npz")
    student, teacher = (torch.from_numpy(z[name]) for name in ("student_logits", "teacher_logits"))
    student = student[:, :, : teacher.shape[2]].flatten(0, 1)
    teacher = teacher.flatten(0, 1)
    unit = torch.eye(student.shape[-1]).expand(*student.shape[:2], -1, -1)
    rows = ka.attention_map_ce(student, unit, teacher_logits=teacher, scale=1.0)
    torch.testing.assert_close(rows.mean(), torch.from_numpy(z["attn_loss"]).float().reshape(()), rtol=1e-5, atol=0)


def test_least_at_the_entropy_of_the_teacher(backend):
    """Law 1: the loss exceeds the entropy of the teacher's rows by a divergence that is zero for equal maps."""
    q_s, k_s, q_t, k_t = case((1, 2, 6, 9, 8, 8))
    teacher = scores(q_t, k_t)
    entropy = dense(teacher, teacher)
    assert (ka.attention_map_ce(q_s, k_s, q_t, k_t) >= entropy - 1e-6).all()
    torch.testing.assert_close(ka.attention_map_ce(q_t, k_t, q_t, k_t).double(), entropy, rtol=1e-5, atol=1e-6)


def test_a_constant_added_to_a_row_changes_nothing(backend):
    """Law 2: one more column of the width adds a constant to every score of a row."""
    q_s, k_s, q_t, k_t = case((1, 1, 5, 7, 8, 8))
    shift = normal(1, 1, 5, 1, seed=8)
    shifted = torch.cat((q_s, shift), -1), torch.cat((k_s, torch.ones(1, 1, 7, 1)), -1)
    plain = ka.attention_map_ce(q_s, k_s, q_t, k_t, scale=0.3)
    torch.testing.assert_close(ka.attention_map_ce(*shifted, q_t, k_t, scale=0.3), plain, rtol=1e-5, atol=1e-5)


def test_gradient_is_zero_where_the_maps_are_equal(backend):
    """Law 3."""
    q, k, _, _ = case((1, 2, 6, 9, 8, 8))
    _, lse_s, lse_t = ka.attention_map_ce(q, k, q, k, return_lse=True)
    grads = ka.attention_map_ce_backward(torch.ones(1, 2, 6), q, k, q, k, lse_s, lse_t)
    assert max(float(g.abs().max()) for g in grads) == 0.0


def test_large_logits(backend):
    q, k, q_t, k_t = case((1, 1, 4, 6, 8, 8))
    loss = ka.attention_map_ce(q, k, q_t, k_t, scale=1e4, teacher_scale=1e4)
    exact = dense(scores(q, k, 1e4), scores(q_t, k_t, 1e4))
    torch.testing.assert_close(loss.double(), exact, rtol=1e-4, atol=0.1)


def test_nan_stays_in_its_row(backend):
    q, k, q_t, k_t = case((1, 1, 4, 6, 8, 8))
    q[0, 0, 2, 1] = float("nan")
    assert ka.attention_map_ce(q, k, q_t, k_t).isnan()[0, 0].tolist() == [False, False, True, False]


def test_views_without_the_class_token(backend):
    q, k, q_t, k_t = case((1, 2, 6, 6, 8, 8))
    views = [x[:, :, 1:] for x in (q, k, q_t, k_t)]
    assert torch.equal(ka.attention_map_ce(*views), ka.attention_map_ce(*(x.contiguous() for x in views)))


def test_bits_do_not_depend_on_threads():
    inputs = case((1, 3, 200, 300, 64, 64))

    def both():
        loss, lse_s, lse_t = ka.attention_map_ce(*inputs, return_lse=True)
        return loss, *ka.attention_map_ce_backward(loss, *inputs, lse_s, lse_t)

    one, two = on_one_and_two_threads(both)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize(
    ("spoiled", "pattern"),
    [
        ({"q_t": None}, r"^attention_map_ce: teacher must be q_t and k_t, or else teacher_logits, got another choice"),
        ({"teacher_logits": torch.zeros(1, 1, 3, 5)}, r"^attention_map_ce: teacher must be"),
        ({"k_s": torch.zeros(1, 1, 5, 7)}, r"^attention_map_ce: k_s must"),
        ({"scale": float("nan")}, r"^attention_map_ce: scale must be a finite number, got nan$"),
        ({"q_s": torch.zeros(1, 1, 3, 257), "k_s": torch.zeros(1, 1, 5, 257)}, r"a head width from 1 to 256, got 257$"),
    ],
)
def test_bad_input(spoiled, pattern):
    q, k = torch.zeros(1, 1, 3, 8), torch.zeros(1, 1, 5, 8)
    with pytest.raises(ValueError, match=pattern):
        ka.attention_map_ce(**{"q_s": q, "k_s": k, "q_t": q, "k_t": k, **spoiled})
