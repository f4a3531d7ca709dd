# SPDX-License-Identifier: Apache-2.0
"""PixArt-Sigma: the official outputs, and every line of "What must be true" of the paper's page."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")
from torch.nn import functional

from tokernel.diffusion import pixart_sigma as sigma

ATOL = 1e-5  # of the golden files
MODES = ("conv", "mean", "nearest", "uniform", "uniform_every")
OFFICIAL = ("conv", "nearest", "uniform")  # by the official sampling_id


def load(golden, name):
    with np.load(golden / "pixart_sigma" / f"{name}.npz") as file:
        return {key: torch.from_numpy(v) if v.ndim else v.item() for key, v in file.items()}


def tokens(H=6, W=8, C=8, batch=2, seed=0):
    return torch.randn(batch, H * W, C, generator=torch.Generator().manual_seed(seed))


def attention_of(d):
    module = sigma.KVCompressAttention(
        d["x"].shape[-1], d["num_heads"], d["sr_ratio"], OFFICIAL[d["sampling_id"]], d["qk_norm"]
    )
    module.load_state_dict({key[2:]: value for key, value in d.items() if key.startswith("w.")})
    return module


def multi_head(x, qkv, proj, heads):
    """Ordinary attention in torch."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in qkv(x).chunk(3, -1))
    return proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("name", ["conv_r2", "conv_r4_qknorm", "uniform_r2", "ave_nearest_r2"])
class TestGolden:
    @torch.no_grad()
    def test_module(self, golden, name):
        d = load(golden, name)
        torch.testing.assert_close(attention_of(d)(d["x"], d["H"], d["W"]), d["y"], atol=ATOL, rtol=0)

    @torch.no_grad()
    def test_pooled_keys_and_values(self, golden, name):
        d = load(golden, name)
        module = attention_of(d)
        _, k, v = module.qkv(d["x"]).chunk(3, -1)
        for got, expected in ((module.k_norm(k), "k_compressed"), (v, "v_compressed")):
            torch.testing.assert_close(module.compress(got, d["H"], d["W"]), d[expected], atol=ATOL, rtol=0)

    @torch.no_grad()
    def test_function(self, golden, name):
        d = load(golden, name)
        module = attention_of(d)
        q, k, v = module.qkv(d["x"]).chunk(3, -1)
        y = sigma.attention_kv_pooled(
            module.q_norm(q),
            module.k_norm(k),
            v,
            d["H"],
            d["W"],
            d["sr_ratio"],
            heads=d["num_heads"],
            mode=OFFICIAL[d["sampling_id"]],
            weight=d.get("w.sr.weight"),
            bias=d.get("w.sr.bias"),
            norm_weight=d.get("w.norm.weight"),
            norm_bias=d.get("w.norm.bias"),
        )
        torch.testing.assert_close(module.proj(y), d["y"], atol=ATOL, rtol=0)


class TestWhatMustBeTrue:
    @pytest.mark.parametrize("mode", MODES)
    @torch.no_grad()
    def test_r_1_is_ordinary_multi_head_attention(self, mode):
        x, module = tokens(), sigma.KVCompressAttention(8, 2, 1, mode)
        torch.testing.assert_close(module(x, 6, 8), multi_head(x, module.qkv, module.proj, 2), atol=ATOL, rtol=0)
        assert sigma.kv_pool(x, 6, 8, 1, mode) is x

    @pytest.mark.parametrize("R", [2, 3, 4])
    def test_conv_with_equal_weights_is_the_mean(self, R):
        x = tokens(12, 12)
        mean = functional.avg_pool2d(x.mT.unflatten(-1, (12, 12)), R).flatten(2).mT
        for y in (
            sigma.kv_pool(x, 12, 12, R, "conv"),
            sigma.kv_pool(x, 12, 12, R, "conv", torch.full((8, 1, R, R), 1 / R**2), torch.zeros(8)),
            sigma.kv_pool(x, 12, 12, R, "mean"),
            sigma.KVPool(8, R, "conv", norm=False)(x, 12, 12),
        ):
            torch.testing.assert_close(y, mean, atol=1e-6, rtol=0)

    @pytest.mark.parametrize("mode", MODES)
    @torch.no_grad()
    def test_constant_tokens_attend_uniformly(self, mode):
        x, module = tokens(1, 1).repeat(1, 48, 1), sigma.KVCompressAttention(8, 2, 2, mode)
        _, k, v = module.qkv(x).chunk(3, -1)
        k, v = module.compress(k, 6, 8), module.compress(v, 6, 8)
        torch.testing.assert_close(k, k[:, :1].expand_as(k), atol=1e-6, rtol=0)
        torch.testing.assert_close(module(x, 6, 8), module.proj(v[:, :1]).expand_as(x), atol=ATOL, rtol=0)

    @pytest.mark.parametrize(("H", "W", "R"), [(6, 8, 2), (7, 9, 2), (5, 8, 3), (4, 4, 4), (1, 7, 1), (5, 3, 4)])
    @pytest.mark.parametrize("mode", ["conv", "mean", "nearest"])
    @torch.no_grad()
    def test_border_tokens_have_no_influence_and_every_query_an_output(self, H, W, R, mode):
        x, module = tokens(H, W), sigma.KVCompressAttention(8, 2, R, mode)
        q, k, v = module.qkv(x).chunk(3, -1)
        pooled = sigma.kv_pool(k, H, W, R, mode)
        assert pooled.shape[1] == sigma.pooled_length(H, W, R, mode) == (H // R) * (W // R)
        border = torch.ones(H, W, dtype=torch.bool)
        border[: H // R * R, : W // R * R] = False
        other_k, other_v = (torch.where(border.flatten()[:, None], torch.inf, t) for t in (k, v))
        assert torch.equal(sigma.kv_pool(other_k, H, W, R, mode), pooled)
        y = sigma.attention_kv_pooled(q, k, v, H, W, R, heads=2, mode=mode)
        assert torch.equal(sigma.attention_kv_pooled(q, other_k, other_v, H, W, R, heads=2, mode=mode), y)
        assert y.shape == x.shape
        assert y.isfinite().all()

    @pytest.mark.parametrize(("H", "W", "R"), [(6, 6, 2), (6, 9, 3), (4, 8, 4)])
    def test_uniform_and_nearest_agree_when_r_divides(self, H, W, R):
        x = tokens(H, W)
        uniform = sigma.kv_pool(x, H, W, R, "uniform")
        assert torch.equal(uniform, sigma.kv_pool(x, H, W, R, "nearest"))
        assert torch.equal(uniform, x.unflatten(1, (H, W))[:, ::R, ::R].flatten(1, 2))
        resized = functional.interpolate(x.mT.unflatten(-1, (H, W)), scale_factor=1 / R, mode="nearest")
        assert torch.equal(uniform, resized.flatten(2).mT)

    @pytest.mark.parametrize("mode", MODES)
    def test_output_is_a_convex_combination_of_pooled_values(self, mode):
        q, k, v = (tokens(seed=seed) * 3 for seed in range(3))
        y = sigma.attention_kv_pooled(q, k, v, 6, 8, 2, heads=2, mode=mode)
        pooled = sigma.kv_pool(v, 6, 8, 2, mode)
        assert (y <= pooled.amax(1, keepdim=True) + 1e-5).all()
        assert (y >= pooled.amin(1, keepdim=True) - 1e-5).all()
        ones = sigma.attention_kv_pooled(q, k, torch.ones_like(v), 6, 8, 2, heads=2, mode=mode)
        torch.testing.assert_close(ones, torch.ones_like(v), atol=1e-6, rtol=0)

    @pytest.mark.parametrize("R", [1, 2, 4])
    def test_scores_are_n_by_n_over_r_squared(self, R):
        N = 8 * 12
        seen = torch.ones(2, N, sigma.pooled_length(8, 12, R), dtype=torch.bool)
        assert seen[0].numel() * R**2 == N * N
        x = tokens(8, 12)
        y = sigma.attention_kv_pooled(x, x, x, 8, 12, R, heads=2, mask=seen)  # a mask has one entry a score
        torch.testing.assert_close(y, sigma.attention_kv_pooled(x, x, x, 8, 12, R, heads=2), atol=1e-6, rtol=0)


class TestTraps:
    def test_the_layer_norm_undoes_the_mean_and_is_shared(self):
        module = sigma.KVCompressAttention(8, 2, 2)
        names = [name for name, _ in module.named_parameters()]
        assert [name for name in names if name.split(".")[0] in ("sr", "norm")] == [
            "sr.weight",
            "sr.bias",
            "norm.weight",
            "norm.bias",
        ]
        x = tokens()
        pooled = module.compress(x, 6, 8)
        torch.testing.assert_close(pooled.mean(-1), torch.zeros(2, 12), atol=1e-5, rtol=0)
        assert (pooled - sigma.kv_pool(x, 6, 8, 2, "mean")).abs().max() > 0.1

    def test_nearest_is_not_an_average(self):
        x = tokens()
        assert (sigma.kv_pool(x, 6, 8, 2, "nearest") - sigma.kv_pool(x, 6, 8, 2, "mean")).abs().max() > 0.1

    def test_uniform_every_keeps_n_over_r_and_says_what_it_cannot_divide(self):
        x = tokens(3, 4)
        assert torch.equal(sigma.kv_pool(x, 3, 4, 2, "uniform_every"), x[:, ::2])
        with pytest.raises(ValueError, match=r"uniform_every expected H \* W divisible by R = 2; got 15"):
            sigma.kv_pool(tokens(3, 5), 3, 5, 2, "uniform_every")
        with pytest.raises(ValueError, match="uniform expected H and W divisible by R = 2; got 3 and 4"):
            sigma.kv_pool(x, 3, 4, 2, "uniform")

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("mode", ["conv", "mean"])
    def test_half_precision_is_summed_in_float32(self, dtype, mode):
        x = (tokens(8, 8, 4) + 10).to(dtype)
        weight = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
        weight = weight if mode == "conv" else None
        y = sigma.kv_pool(x, 8, 8, 8, mode, weight)[:, 0]
        w = torch.full((4, 64), 1 / 64) if weight is None else weight.reshape(4, 64)
        exact = (x.double() * w.double().T).sum(1)
        assert y.dtype == dtype
        assert ((y.double() - exact).abs() <= torch.finfo(dtype).eps / 2 * exact.abs() * 1.01).all()


class TestGradients:
    def test_kv_pool_against_torch(self):
        x = tokens(7, 9).requires_grad_()
        weight = torch.randn(8, 1, 2, 2, generator=torch.Generator().manual_seed(1)).requires_grad_()
        bias = torch.randn(8, generator=torch.Generator().manual_seed(2)).requires_grad_()
        ours = sigma.kv_pool(x, 7, 9, 2, "conv", weight, bias)
        image = x.mT.unflatten(-1, (7, 9))
        theirs = functional.conv2d(image, weight, bias, stride=2, groups=8).flatten(2).mT
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
        grad = tokens(3, 4, seed=3)
        got, expected = (torch.autograd.grad(y, (x, weight, bias), grad) for y in (ours, theirs))
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize("mode", ["mean", "nearest", "uniform", "uniform_every"])
    def test_every_mode_is_linear_in_x_and_its_gradient_the_transpose(self, mode):
        x, other = tokens().requires_grad_(), tokens(seed=1)
        y = sigma.kv_pool(x, 6, 8, 2, mode)
        grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
        (dx,) = torch.autograd.grad(y, x, grad)
        pooled = sigma.kv_pool(other, 6, 8, 2, mode)
        torch.testing.assert_close((dx * other).sum(), (grad * pooled).sum(), atol=1e-4, rtol=1e-5)

    def test_module_against_torch(self):
        torch.manual_seed(0)
        x, module = tokens(4, 6).requires_grad_(), sigma.KVCompressAttention(8, 2, 2, qk_norm=True)
        with torch.no_grad():
            module.sr.weight.add_(torch.randn(8, 1, 2, 2))

        def reference():
            q, k, v = module.qkv(x).chunk(3, -1)
            q, k = module.q_norm(q), module.k_norm(k)
            k, v = (
                functional.conv2d(t.mT.unflatten(-1, (4, 6)), module.sr.weight, module.sr.bias, stride=2, groups=8)
                for t in (k, v)
            )
            k, v = (module.norm(t.flatten(2).mT) for t in (k, v))
            q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in (q, k, v))
            return module.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

        wanted = (x, *module.parameters())
        grad = tokens(4, 6, seed=1)
        got = torch.autograd.grad(module(x, 4, 6), wanted, grad)
        expected = torch.autograd.grad(reference(), wanted, grad)
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_compiles_in_one_piece(mode):
    x, module = tokens(4, 6), sigma.KVCompressAttention(8, 2, 2, mode)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, 4, 6), module(x, 4, 6), atol=1e-6, rtol=1e-6)


class TestMask:
    def test_equals_torch(self):
        q, k, v = (tokens(4, 4, seed=seed) for seed in range(3))
        seen = torch.rand(2, 16, 4, generator=torch.Generator().manual_seed(3)) > 0.4
        seen[:, :, 0] = True
        y = sigma.attention_kv_pooled(q, k, v, 4, 4, 2, heads=2, mode="mean", mask=seen)
        k, v = (sigma.kv_pool(t, 4, 4, 2, "mean") for t in (k, v))
        heads = [t.unflatten(-1, (2, 4)).transpose(1, 2) for t in (q, k, v)]
        expected = functional.scaled_dot_product_attention(*heads, attn_mask=seen[:, None]).transpose(1, 2).flatten(2)
        torch.testing.assert_close(y, expected, atol=1e-6, rtol=0)

    def test_a_query_that_sees_nothing_gets_zeros(self):
        x = tokens(4, 4)
        seen = torch.ones(2, 16, 4, dtype=torch.bool)
        seen[:, 3] = False
        y = sigma.attention_kv_pooled(x, x, x, 4, 4, 2, heads=2, mask=seen)
        assert torch.equal(y[:, 3], torch.zeros(2, 8))
        assert y.isfinite().all()

    def test_other_masks_are_refused(self):
        x = tokens(4, 4)
        for mask in (torch.ones(2, 16, 16, dtype=torch.bool), torch.zeros(2, 16, 4)):
            with pytest.raises(ValueError, match=r"mask expected bool of shape \(2, 16, 4\)"):
                sigma.attention_kv_pooled(x, x, x, 4, 4, 2, heads=2, mask=mask)


@torch.no_grad()
def test_fp32_attention_keeps_the_answer_unrounded():
    x = tokens().bfloat16()
    module = sigma.KVCompressAttention(8, 2, 2, fp32=True).bfloat16()
    y = module(x, 6, 8)
    assert y.dtype == torch.bfloat16
    module.fp32 = False
    torch.testing.assert_close(y, module(x, 6, 8), atol=0.05, rtol=0.05)


class TestPositionEmbedding:
    @pytest.mark.parametrize(("grid", "scale"), [(4, 1.0), (8, 2.0), (6, 0.5)])
    def test_equals_diffusers_on_square_grids(self, grid, scale):
        embeddings = pytest.importorskip("diffusers.models.embeddings", reason="diffusers is an extra")
        theirs = embeddings.get_2d_sincos_pos_embed(16, grid, base_size=5, interpolation_scale=scale)
        ours = sigma.position_embedding(grid, grid, 16, 5, scale)
        torch.testing.assert_close(ours.double(), theirs.double(), atol=1e-6, rtol=0)

    def test_equals_the_written_formula(self):
        code = sigma.position_embedding(3, 5, 8, 4, 0.5).view(3, 5, 8).double()
        for row in range(3):
            for column in range(5):
                x, y = (np.array([1, 0.01]) * at for at in (column * 4 / 5 / 0.5, row * 4 / 3 / 0.5))
                expected = np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)])
                np.testing.assert_allclose(code[row, column], expected, atol=1e-7)

    @pytest.mark.parametrize("pixels", [256, 512, 1024, 2048])
    def test_the_table_of_interpolations_keeps_the_extent_of_the_512_model(self, pixels):
        base = pixels // 16
        assert base / sigma.PE_INTERPOLATION[pixels] == 32
        assert sigma.position_embedding(base, base, 4, base, sigma.PE_INTERPOLATION[pixels]).shape == (base**2, 4)

    def test_bad_arguments(self):
        with pytest.raises(ValueError, match="interpolation expected a positive number; got 0"):
            sigma.position_embedding(2, 2, 8, 2, 0)
        with pytest.raises(ValueError, match="channels expected a multiple of 4; got 6"):
            sigma.position_embedding(2, 2, 6, 2)


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((tokens(), 6, 7, 2), r"x expected shape \(B, 42, C\); got \(2, 48, 8\)"),
            ((tokens(), 6, 8, 0), "H, W and R expected at least 1; got 6, 8, 0"),
            ((tokens(), 6, 8, 2, "ave"), "mode expected one of conv, mean, nearest, uniform, uniform_every; got 'ave'"),
            ((tokens(), 6, 8, 2, "mean", torch.ones(8, 1, 2, 2)), "weight and bias expected None with mode 'mean'"),
            ((tokens(), 6, 8, 2, "conv", torch.ones(8, 1, 3, 3)), r"weight expected shape \(8, 1, 2, 2\)"),
            ((tokens(), 6, 8, 2, "conv", None, torch.ones(7)), r"bias expected shape \(8,\); got \(7,\)"),
        ],
    )
    def test_kv_pool(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            sigma.kv_pool(*arguments)

    def test_attention(self):
        x = tokens()
        with pytest.raises(ValueError, match="heads expected a divisor of 8; got 3"):
            sigma.attention_kv_pooled(x, x, x, 6, 8, 2, heads=3)
        with pytest.raises(ValueError, match="q, k and v expected one shape"):
            sigma.attention_kv_pooled(x, x, x[:1], 6, 8, 2, heads=2)
        with pytest.raises(ValueError, match="heads expected a divisor of 8; got 3"):
            sigma.KVCompressAttention(8, 3)

    def test_config(self):
        assert sigma.compress_config([3, 1, 3], 4, "mean") == sigma.CompressConfig((1, 3), 4, "mean")
        assert sigma.XL2.layers == tuple(range(14, 28))
        assert (sigma.XL2.R, sigma.XL2.mode) == (2, "conv")
        with pytest.raises(ValueError, match="layers expected numbers of at least 0; got -1"):
            sigma.compress_config([-1])
        with pytest.raises(ValueError, match="R expected at least 1"):
            sigma.compress_config([1], 0)

    @pytest.mark.parametrize("mode", MODES)
    def test_empty_batches(self, mode):
        assert sigma.kv_pool(tokens(batch=0), 6, 8, 2, mode).shape[0] == 0
