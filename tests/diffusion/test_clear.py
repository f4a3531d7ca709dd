# SPDX-License-Identifier: Apache-2.0
"""CLEAR: the official outputs, and every line of "What must be true" of the paper's page."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")

from tokernel.diffusion import clear
from tokernel.ops import Disc, attention
from tokernel.papers import paper

ATOL, ATOL_POOLED = 2e-6, 1e-6  # of the golden files


def load(golden, name):
    with np.load(golden / "clear" / f"{name}.npz") as file:
        return {k: torch.from_numpy(v) if v.ndim else v.item() for k, v in file.items()}


def qkv(tokens, heads=2, width=16, batch=1, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, batch, heads, tokens, width, generator=generator).unbind(0)


def masked(q, k, v, mask, scale=None):
    """The oracle: float64 softmax over a dense mask."""
    out = torch.nn.functional.scaled_dot_product_attention(q.double(), k.double(), v.double(), mask, scale=scale)
    return out.to(q.dtype)


def by_hand(H, W, T, r, d):
    """The mask, pair by pair, from the words of the paper."""
    cells = [] if d == 1 else [("pooled", y, x) for y in range(H // d) for x in range(W // d)]
    tokens = [("text", 0, t) for t in range(T)] + [("image", y, x) for y in range(H) for x in range(W)]

    def sees(query, key):
        if key[0] == "text" or (query[0] == "text" and key[0] == "image"):
            return True
        if query[0] == "text":
            return False
        return key[0] == "pooled" or (query[1] - key[1]) ** 2 + (query[2] - key[2]) ** 2 < r**2

    return torch.tensor([[sees(query, key) for key in tokens + cells] for query in tokens])


@pytest.mark.usefixtures("backend")
class TestGolden:
    @pytest.mark.parametrize("name", ["local_r3", "local_prop"])
    def test_plain(self, golden, name):
        d = load(golden, name)
        place = d["height"], d["width"], d["text_length"], d["window_size"]
        assert torch.equal(clear.disc_mask(*place), d["mask"])
        out = clear.local_disc_attention(d["q"], d["k"], d["v"], *place, d["scale"])
        torch.testing.assert_close(out, d["out"], atol=ATOL, rtol=0)

    def test_proportional_scale(self, golden):
        d = load(golden, "local_prop")
        assert d["proportional"]
        scale = clear.proportional_scale(d["q"].shape[2], d["q"].shape[3])
        assert scale == pytest.approx(d["scale"], rel=1e-6)  # the file holds float32

    def test_down(self, golden):
        d = load(golden, "local_down4")
        H, W, T, r, down, w = (
            d[name] for name in ("height", "width", "text_length", "window_size", "down_factor", "spatial_weight")
        )
        for name in "kv":
            pooled = clear.pool_image(d[name][:, :, T:], H, W, w)
            torch.testing.assert_close(pooled, d[f"{name}_down"], atol=ATOL_POOLED, rtol=0)
        out = clear.local_disc_attention_down(d["q"], d["k"], d["v"], H, W, T, r, down, w, d["scale"])
        torch.testing.assert_close(out, d["out"], atol=ATOL, rtol=0)

    def test_mask_down(self, golden):
        d = load(golden, "mask_down2")
        mask = clear.disc_mask(d["height"], d["width"], d["text_length"], d["window_size"], d["down_factor"])
        assert torch.equal(mask, d["mask"])


class TestWhatMustBeTrue:
    @pytest.mark.parametrize(("H", "W", "T"), [(1, 1, 0), (5, 7, 3), (4, 4, 0)])
    def test_1_a_radius_beyond_the_diagonal_is_dense_attention(self, H, W, T):
        q, k, v = qkv(T + H * W)
        r = math.hypot(H - 1, W - 1) + 1e-3
        expected = masked(q, k, v, None)
        torch.testing.assert_close(clear.local_disc_attention(q, k, v, H, W, T, r), expected, atol=1e-6, rtol=0)

    def test_2_radius_1_leaves_the_text_and_the_token_itself(self):
        H, W, T = 4, 5, 3
        q, k, v = qkv(T + H * W)
        out = clear.local_disc_attention(q, k, v, H, W, T, 1)
        for i in range(T, T + H * W):
            keys = [*range(T), i]
            expected = masked(q[:, :, [i]], k[:, :, keys], v[:, :, keys], None)
            torch.testing.assert_close(out[:, :, [i]], expected, atol=1e-6, rtol=0)
        alone = clear.local_disc_attention(*(x[:, :, T:] for x in (q, k, v)), H, W, 0, 1)
        torch.testing.assert_close(alone, v[:, :, T:], atol=1e-6, rtol=0)

    @pytest.mark.parametrize("r", [0.5, 1, 1.5, 2, 3, 2.9, 8])
    def test_3_the_plain_mask_is_symmetric_and_counts_the_disc(self, r):
        H, W, T = 6, 9, 4
        mask = clear.disc_mask(H, W, T, r)
        assert torch.equal(mask, mask.T)
        offsets = clear.disc_neighbours(H, W, r)
        for i in range(H * W):
            at = offsets + torch.tensor([i // W, i % W])
            y, x = at[((at >= 0) & (at < torch.tensor([H, W]))).all(1)].unbind(1)
            assert mask[T + i].sum() == T + len(y)
            assert mask[T + i, T + y * W + x].all()
        assert mask[:T].all()

    def test_3_interior_rows_of_radius_8_have_193_image_tokens(self):
        T, edge = 5, 17
        mask = clear.disc_mask(edge, edge, T, 8)
        assert mask[T + 8 * edge + 8].sum() == T + 193
        assert [len(clear.disc_neighbours(99, 99, r)) for r in (8, 16, 32)] == [193, 793, 3205]

    def test_4_pooling_by_1_duplicates_every_image_key(self):
        H, W, T, r = 4, 6, 3, 2
        q, k, v = qkv(T + H * W)
        out = clear.local_disc_attention_down(q, k, v, H, W, T, r, 1, torch.ones(1, 1))
        mask = torch.cat([clear.disc_mask(H, W, T, r), torch.ones(T + H * W, H * W, dtype=torch.bool)], 1)
        mask[:T, T + H * W :] = False
        expected = masked(q, torch.cat([k, k[:, :, T:]], 2), torch.cat([v, v[:, :, T:]], 2), mask)
        torch.testing.assert_close(out, expected, atol=1e-6, rtol=0)

    def test_4_equal_tokens_pool_to_themselves_when_weights_sum_to_1(self):
        w = torch.rand(2, 2, generator=torch.Generator().manual_seed(3))
        x = torch.randn(1, 2, 1, 8).expand(1, 2, 4 * 6, 8)
        pooled = clear.pool_image(x, 4, 6, w / w.sum())
        torch.testing.assert_close(pooled, x[:, :, :6], atol=1e-6, rtol=0)

    def test_5_text_does_not_see_pooled_keys(self):
        H, W, T = 4, 6, 3
        q, k, v = qkv(T + H * W)
        plain = clear.local_disc_attention(q, k, v, H, W, T, 2)
        down = clear.local_disc_attention_down(q, k, v, H, W, T, 2, 2, torch.full((2, 2), 5.0))
        torch.testing.assert_close(down[:, :, :T], plain[:, :, :T], atol=1e-6, rtol=0)
        assert (down[:, :, T:] - plain[:, :, T:]).abs().min(3).values.min() > 1e-4

    @pytest.mark.parametrize(
        ("H", "W", "T", "d"), [(6, 9, 5, 1), (6, 9, 0, 3), (4, 8, 7, 2), (1, 5, 2, 1), (8, 4, 1, 4)]
    )
    @pytest.mark.parametrize("r", [1, 2, 2.5, 4])
    def test_6_equals_attention_under_the_dense_mask(self, H, W, T, d, r):
        q, k, v = qkv(T + H * W, batch=2)
        mask = clear.disc_mask(H, W, T, r, d)
        assert torch.equal(mask, by_hand(H, W, T, r, d))
        if d == 1:
            out = clear.local_disc_attention(q, k, v, H, W, T, r, 0.2)
        else:
            w = torch.rand(d, d, generator=torch.Generator().manual_seed(4)) / d**2
            out = clear.local_disc_attention_down(q, k, v, H, W, T, r, d, w, 0.2)
            k, v = (torch.cat([x, clear.pool_image(x[:, :, T:], H, W, w)], 2) for x in (k, v))
        torch.testing.assert_close(out, masked(q, k, v, mask, 0.2), atol=1e-6, rtol=0)

    def test_7_tokens_outside_the_disc_do_not_matter(self):
        H, W, T, r = 7, 8, 3, 2.5
        q, k, v = qkv(T + H * W)
        out = clear.local_disc_attention(q, k, v, H, W, T, r)
        changed = T + 3 * W + 4
        k, v = k.clone(), v.clone()
        k[:, :, changed] += 3
        v[:, :, changed] -= 3
        new = clear.local_disc_attention(q, k, v, H, W, T, r)
        near = clear.disc_mask(H, W, T, r)[:, changed]
        assert torch.equal(new[:, :, ~near], out[:, :, ~near])
        assert (new - out).abs().amax((0, 1, 3))[near].min() > 1e-4

    def test_7_the_interior_moves_with_its_content(self):
        H, W, r, margin = 10, 11, 2.5, 3
        q, k, v = (x.unflatten(2, (H, W)) for x in qkv(H * W))
        moved = [torch.roll(x, (1, 2), (2, 3)) for x in (q, k, v)]
        out, new = (
            clear.local_disc_attention(*(x.flatten(2, 3) for x in tensors), H, W, 0, r).unflatten(2, (H, W))
            for tensors in ((q, k, v), moved)
        )
        inside = out[:, :, margin : -margin - 1, margin : -margin - 2]
        shifted = new[:, :, margin + 1 : -margin, margin + 2 : -margin]
        torch.testing.assert_close(shifted, inside, atol=1e-6, rtol=0)

    @pytest.mark.parametrize("d", [1, 2])
    def test_8_the_kernel_visits_as_many_pairs_as_are_counted(self, d):
        H, W, T, r = 6, 8, 3, 2.5
        pooled = 0 if d == 1 else H * W // d**2
        assert pairs_visited(H, W, T, r, pooled) == clear.attended_pairs(H, W, T, r, d)
        assert clear.attended_pairs(H, W, T, r, d) == clear.disc_mask(H, W, T, r, d).sum()

    def test_8_cost_grows_linearly_with_the_image(self):
        # A torus would be exactly linear; the border clips discs, by a constant a row of the image.
        counts = [pairs_visited(rows, 12, 2, 3, 0) for rows in (8, 16, 24, 32)]
        assert counts[1] - counts[0] == counts[2] - counts[1] == counts[3] - counts[2]
        area = [clear.attended_pairs(n, n, 512, 16) / n**2 for n in (256, 512, 1024)]
        assert max(area) / min(area) < 1.06
        fraction = clear.attended_pairs(512, 512, 512, 16) / (512 * 512 + 512) ** 2
        # 0.497 % of the pairs of an 8192 x 8192 image for an image token; text tokens see everything.
        assert fraction - 512 / (512 * 512 + 512) == pytest.approx(0.00497, rel=0.05)

    def test_9_proportional_scale_is_plain_at_the_trained_length(self):
        for width in (24, 64, 80, 128):
            assert clear.proportional_scale(4608, width) == 1 / math.sqrt(width)
        assert clear.proportional_scale(9216, 64) == pytest.approx(math.sqrt(math.log(9216, 4608) / 64))
        assert clear.proportional_scale(4608, 64, mult=10) > clear.proportional_scale(4608, 64) == 0.125


def pairs_visited(H, W, T, r, pooled):
    """Ask the kernel: with zero logits, exp(lse) is the number of keys a query sees."""
    q, k = torch.zeros(1, 1, T + H * W, 4), torch.zeros(1, 1, T + H * W + pooled, 4)
    _, lse = attention(q, k, k, Disc((H, W), r, T, pooled), return_lse=True)
    return lse.double().exp().round().sum().long().item()


class TestGradients:
    def test_through_discs_and_pooling(self):
        H, W, T, r, d = 4, 6, 3, 2, 2
        tensors = [*qkv(T + H * W), torch.rand(d, d, generator=torch.Generator().manual_seed(5)) / 4]
        ours, oracle = ([x.clone().requires_grad_() for x in tensors] for _ in range(2))
        weight = torch.randn(1, 2, T + H * W, 16, generator=torch.Generator().manual_seed(6))
        (clear.local_disc_attention_down(*ours[:3], H, W, T, r, d, ours[3]) * weight).sum().backward()
        q, k, v, w = oracle
        cells = [x[:, :, T:].reshape(1, 2, H // d, d, W // d, d, 16) for x in (k, v)]
        k, v = (
            torch.cat([x, torch.einsum("bhyaxcd,ac->bhyxd", cell, w).flatten(2, 3)], 2)
            for x, cell in zip((k, v), cells, strict=True)
        )
        (masked(q, k, v, clear.disc_mask(H, W, T, r, d)) * weight).sum().backward()
        for a, b in zip(ours, oracle, strict=True):
            torch.testing.assert_close(a.grad, b.grad, atol=5e-6, rtol=1e-5)


class TestEdges:
    def test_empty_grids_and_texts(self):
        assert clear.local_disc_attention(*qkv(0), 0, 0, 0, 2).shape == (1, 2, 0, 16)
        q, k, v = qkv(5)
        torch.testing.assert_close(
            clear.local_disc_attention(q, k, v, 0, 0, 5, 2), masked(q, k, v, None), atol=1e-6, rtol=0
        )
        assert clear.disc_mask(0, 0, 2, 3).shape == (2, 2)
        assert clear.disc_neighbours(0, 4, 2).shape == (0, 2)
        assert clear.attended_pairs(0, 0, 3, 1) == 9

    def test_radius_0_sees_the_text_alone(self):
        q, k, v = qkv(2 + 4)
        out = clear.local_disc_attention(q, k, v, 2, 2, 2, 0)
        expected = masked(q[:, :, 2:], k[:, :, :2], v[:, :, :2], None)
        torch.testing.assert_close(out[:, :, 2:], expected, atol=1e-6, rtol=0)
        q, k, v = (x[:, :, 2:] for x in (q, k, v))
        assert torch.equal(clear.local_disc_attention(q, k, v, 2, 2, 0, 0), torch.zeros_like(q))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision(self, dtype):
        H, W, T, r = 4, 6, 3, 2
        q, k, v = (x.to(dtype) for x in qkv(T + H * W))
        mask, w = clear.disc_mask(H, W, T, r, 2), torch.full((2, 2), 0.25)
        out = clear.local_disc_attention_down(q, k, v, H, W, T, r, 2, w)
        k, v = (torch.cat([x, clear.pool_image(x[:, :, T:], H, W, w)], 2) for x in (k, v))
        exact = masked(q.double(), k.double(), v.double(), mask)
        naive = torch.softmax((q @ k.mT * 0.25).masked_fill(~mask, -math.inf), -1) @ v
        assert out.dtype == dtype
        assert (out - exact).abs().max() <= 2 * (naive - exact).abs().max() + 1e-6

    def test_strided_tensors(self):
        H, W, T = 4, 5, 2
        q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in qkv(T + H * W, batch=2))
        expected = clear.local_disc_attention(*(x.contiguous() for x in (q, k, v)), H, W, T, 2)
        assert torch.equal(clear.local_disc_attention(q, k, v, H, W, T, 2), expected)

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda q, w: clear.local_disc_attention(q, q, q, 3, 4, 3, 2), r"q expected shape .* = 15.*got \(1, 2, 14"),
            (lambda q, w: clear.local_disc_attention(q, q[0], q, 3, 4, 2, 2), "k expected shape"),
            (lambda q, w: clear.local_disc_attention(q, q, q, -3, -4, 2, 2), "expected at least 0; got H=-3"),
            (lambda q, w: clear.local_disc_attention(q, q, q, 3, 4, 2, math.nan), "r expected a finite number"),
            (lambda q, w: clear.local_disc_attention_down(q, q, q, 3, 4, 2, 2, 2, w), "divisible by the factor 2"),
            (lambda q, w: clear.local_disc_attention_down(q, q, q, 3, 4, 2, 2, 0, w), "at least 1; got 0"),
            (lambda q, w: clear.local_disc_attention_down(q, q, q, 2, 6, 2, 2, 1, w), r"w expected shape \(1, 1\)"),
            (lambda q, w: clear.pool_image(q, 3, 4, w), "divisible by the factor 2"),
            (lambda q, w: clear.pool_image(q, 2, 4, w), "expected 2 . 4 = 8 tokens; got 14"),
            (lambda q, w: clear.pool_image(q, 2, 4, w[0]), r"w expected shape \(d, d\)"),
            (lambda q, w: clear.disc_mask(3, 4, 2, 2, 2), "3 x 4"),
            (lambda q, w: clear.disc_neighbours(3, 4, -1), "at least 0; got -1"),
            (lambda q, w: clear.proportional_scale(0, 64), "got S=0"),
        ],
    )
    def test_bad_input_is_named(self, call, message):
        with pytest.raises(ValueError, match=message):
            call(qkv(14)[0], torch.ones(2, 2))


class TestDistillLoss:
    def test_is_flow_plus_half_prediction_plus_half_attention(self):
        generator = torch.Generator().manual_seed(7)
        student, teacher, target = torch.randn(3, 2, 5, 4, generator=generator).unbind(0)
        ours, theirs = torch.randn(2, 3, 2, 6, 8, generator=generator).unbind(0)
        loss = clear.clear_distill_loss(student, teacher, target, list(ours), list(theirs))
        mse = torch.nn.functional.mse_loss
        torch.testing.assert_close(loss.flow, mse(student, target))
        torch.testing.assert_close(loss.prediction, mse(student, teacher))
        torch.testing.assert_close(loss.attention, sum(mse(a, b) for a, b in zip(ours, theirs, strict=True)) / 3)
        torch.testing.assert_close(loss.total, loss.flow + 0.5 * loss.prediction + 0.5 * loss.attention)

    def test_weights_are_of_samples(self):
        student, teacher, target = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(8)).unbind(0)
        both = clear.clear_distill_loss(student, teacher, target, [student], [teacher], weight=torch.tensor([2.0, 0.0]))
        first = clear.clear_distill_loss(student[:1], teacher[:1], target[:1], [student[:1]], [teacher[:1]])
        torch.testing.assert_close(both, first)

    def test_the_teacher_gets_no_gradient(self):
        student, teacher = torch.zeros(2, 3, requires_grad=True), torch.ones(2, 3, requires_grad=True)
        clear.clear_distill_loss(student, teacher, torch.ones(2, 3), [student], [teacher]).total.backward()
        assert teacher.grad is None
        assert student.grad.abs().sum() > 0

    def test_bad_input_is_named(self):
        x = torch.zeros(2, 3)
        for arguments, message in [
            ((x, x, x[:1]), "target expected the student's shape"),
            ((x, x[:1], x), "teacher expected the student's shape"),
            ((x, x, x, [x], []), "teacher_attention expected the student's 1 layers; got 0"),
            ((x, x, x, [x], [x[:1]]), "teacher_attention expected the student's shape"),
        ]:
            with pytest.raises(ValueError, match=message):
                clear.clear_distill_loss(*arguments)
        with pytest.raises(ValueError, match=r"weight expected shape \(2,\)"):
            clear.clear_distill_loss(x, x, x, weight=torch.ones(3))

    def test_ten_of_the_57_layers_of_flux_are_compared(self):
        assert clear.distilled_layers(19, 38) == [20, 24, 28, 32, 36, 40, 44, 48, 52, 56]
        assert clear.distilled_layers(1, 2) == []
        with pytest.raises(ValueError, match="every expected at least 1"):
            clear.distilled_layers(1, 2, 0)


def test_the_registry_knows_it():
    assert paper("clear") is clear.PAPER
    assert (16, 4) in clear.CHECKPOINTS
    assert clear.HighResolution().strength == 0.7
