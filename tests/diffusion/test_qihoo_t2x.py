# SPDX-License-Identifier: Apache-2.0
"""Qihoo-T2X: the official outputs, and every line of "What must be true" of the paper's page."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")
from torch.nn import functional

from tokernel import ops
from tokernel.diffusion import qihoo_t2x as qihoo
from tokernel.diffusion._windows import window_order

ATOL = 1e-5  # of the golden files; outputs reach 30, hence the relative part below
RTOL = 2e-6
NAMES = ["image_w4", "image_w4_p2", "video_w2"]
GRIDS = [
    ((1, 4, 4), (1, 2, 2)),
    ((1, 6, 8), (1, 3, 4)),
    ((4, 4, 6), (2, 2, 3)),
    ((2, 3, 5), (1, 1, 1)),
    ((3, 3, 3),) * 2,
]

SIZES = {
    "layers": 2,
    "heads": 2,
    "head_dim": 8,
    "text_width": 12,
    "window": (1, 2, 2),
    "base_size": 4,
    "interpolation": 1.0,
}


def load(golden, name):
    with np.load(golden / "qihoo_t2x" / f"{name}.npz") as file:
        d = {key: torch.from_numpy(v) if v.ndim else v.item() for key, v in file.items()}
    d["compress"], d["proxy_compress"] = (tuple(d[key].tolist()) for key in ("compress", "proxy_compress"))
    d["grid"] = tuple(d["tokens"].shape[1:4])
    return d


def block_of(d):
    block = qihoo.ProxyTokenBlock(d["tokens"].shape[-1], d["num_heads"], d["compress"], d["proxy_compress"])
    block.load_state_dict(qihoo.from_official({key[2:]: v for key, v in d.items() if key.startswith("w.")}))
    return block


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def block(window=(1, 2, 2), dim=8, heads=2, zero=False, **options):
    torch.manual_seed(0)
    made = qihoo.ProxyTokenBlock(dim, heads, window, **options)
    if not zero:
        torch.nn.init.normal_(made.inject_out.weight, std=0.3)
        if made.shift:
            torch.nn.init.normal_(made.shifted_out.weight, std=0.3)
    return made


def inputs(grid=(1, 4, 4), window=(1, 2, 2), batch=2, dim=8):
    """Windows, time modulation (another one each sample) and text."""
    windows = qihoo.window_partition(normal(batch, *grid, dim), window)
    return windows, normal(batch, 6, dim, seed=1), normal(batch, 5, dim, seed=2)


def layer_norm(x):
    return functional.layer_norm(x, x.shape[-1:], eps=1e-6)


def attend(module, x, context=None, blocked=None):
    """A MultiHead in plain torch."""
    context = x if context is None else context
    q, k, v = (
        t.unflatten(-1, (module.heads, -1)).transpose(1, 2) for t in (module.q(x), module.k(context), module.v(context))
    )
    bias = None if blocked is None else blocked.float().unsqueeze(1) * -10000
    return module.out(functional.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2).flatten(2))


def reference(made, windows, grid, t6, text, blocked=None):
    """The block as the page writes it, in plain torch: masks, repeated modulation in the order (sample, window)."""
    batch, count = len(t6), len(windows) // len(t6)
    e, e3 = made.table + t6, made.shifted_table + t6[:, :3]
    e, e3 = (t.repeat_interleave(count, 0).unsqueeze(2).unbind(1) for t in (e, e3))
    proxies = windows.mean(1).unflatten(0, (batch, count))
    proxies = proxies + attend(made.proxies, layer_norm(proxies))
    tokens = layer_norm(windows).reshape(batch, -1, windows.shape[-1])
    x = windows + made.inject_out(attend(made.inject, tokens, layer_norm(proxies))).reshape(windows.shape)
    x = x + e[2] * attend(made.within, layer_norm(x) * (1 + e[1]) + e[0])
    rolled = layer_norm(qihoo.roll_windows(x, grid, made.window)) * (1 + e3[1]) + e3[0]
    mask = qihoo.shift_region_mask(*grid, made.window).repeat(batch, 1, 1)
    y = qihoo.roll_windows(attend(made.shifted, rolled, blocked=mask), grid, made.window, back=True)
    x = x + made.shifted_out(e3[2] * y)
    flat = x.reshape(batch, -1, x.shape[-1])
    x = x + attend(made.text, flat, text, blocked).reshape(x.shape)
    return x + e[5] * made.mlp(layer_norm(x) * (1 + e[4]) + e[3])


@pytest.mark.parametrize("name", NAMES)
class TestGolden:
    def test_windows(self, golden, name):
        d = load(golden, name)
        windows = qihoo.window_partition(d["tokens"], d["compress"])
        assert torch.equal(windows, d["windows"])
        assert torch.equal(qihoo.window_merge(windows, d["grid"], d["compress"]), d["tokens"])

    def test_proxies(self, golden, name):
        d = load(golden, name)
        batch = len(d["tokens"])
        got = qihoo.proxy_tokens(d["windows"], d["compress"], d["proxy_compress"], batch=batch)
        torch.testing.assert_close(got, d["proxy"], atol=ATOL, rtol=RTOL)

    @torch.no_grad()
    def test_attention_of_proxies(self, golden, name):
        d = load(golden, name)
        got = block_of(d).proxies(layer_norm(d["proxy"]))
        torch.testing.assert_close(got, d["proxy_attn_out"], atol=ATOL, rtol=RTOL)

    def test_shift_and_its_mask(self, golden, name):
        d = load(golden, name)
        assert torch.equal(qihoo.roll_windows(d["windows"], d["grid"], d["compress"]), d["shifted_windows"])
        assert torch.equal(qihoo.shift_region_mask(*d["grid"], d["compress"]), d["shift_mask"])

    @torch.no_grad()
    def test_block(self, golden, name):
        d = load(golden, name)
        out = block_of(d)(d["windows"], d["grid"], d["timestep6"], d["text"])
        torch.testing.assert_close(out, d["out_windows"], atol=ATOL, rtol=RTOL)
        tokens = qihoo.window_merge(out, d["grid"], d["compress"])
        torch.testing.assert_close(tokens, d["out_tokens"], atol=ATOL, rtol=RTOL)


class TestWhatMustBeTrue:
    @pytest.mark.parametrize(("grid", "p"), GRIDS)
    def test_merge_undoes_partition_and_unroll_undoes_roll(self, grid, p):
        x = normal(2, *grid, 3)
        windows = qihoo.window_partition(x, p)
        assert torch.equal(qihoo.window_merge(windows, grid, p), x)
        rolled = qihoo.roll_windows(windows, grid, p)
        assert torch.equal(qihoo.roll_windows(rolled, grid, p, back=True), windows)
        shift = [-(edge // 2) for edge in p]
        assert torch.equal(qihoo.window_merge(rolled, grid, p), x.roll(shift, (1, 2, 3)))

    @torch.no_grad()
    def test_at_initialisation_it_is_window_attention_text_and_mlp(self):
        made = block(zero=True)
        windows, t6, text = inputs()
        e = (made.table + t6).repeat_interleave(4, 0).unsqueeze(2).unbind(1)
        x = windows + e[2] * attend(made.within, layer_norm(windows) * (1 + e[1]) + e[0])
        x = x + attend(made.text, x.reshape(2, 16, 8), text).reshape(x.shape)
        x = x + e[5] * made.mlp(layer_norm(x) * (1 + e[4]) + e[3])
        torch.testing.assert_close(made(windows, (1, 4, 4), t6, text), x, atol=ATOL, rtol=RTOL)
        for part in (made.proxies, made.inject, made.shifted):
            for parameter in part.parameters():
                parameter.normal_()
        torch.testing.assert_close(made(windows, (1, 4, 4), t6, text), x, atol=ATOL, rtol=RTOL)

    @torch.no_grad()
    def test_windows_of_one_token(self):
        made, p = block((1, 1, 1)), (1, 1, 1)
        windows, t6, text = inputs(window=p)
        tokens = windows.reshape(2, 16, 8)
        assert torch.equal(qihoo.proxy_tokens(windows, p, batch=2), tokens)
        # Step 2 reads LN of tokens that have attended globally.
        globally = tokens + attend(made.proxies, layer_norm(tokens))
        expected = tokens + made.inject_out(attend(made.inject, layer_norm(tokens), layer_norm(globally)))
        weights = qihoo.ProxyWeights(made.proxies, made.inject, made.inject_out)
        mixed = qihoo.proxy_attention(windows, p, weights, batch=2)
        torch.testing.assert_close(mixed.reshape(2, 16, 8), expected, atol=ATOL, rtol=RTOL)
        # A softmax over one key is 1: window attention hands on its values.
        e = (made.table + t6).unsqueeze(2).unbind(1)
        x = expected + e[2] * made.within.out(made.within.v(layer_norm(expected) * (1 + e[1]) + e[0]))
        e3 = (made.shifted_table + t6[:, :3]).unsqueeze(2).unbind(1)
        x = x + made.shifted_out(e3[2] * made.shifted.out(made.shifted.v(layer_norm(x) * (1 + e3[1]) + e3[0])))
        x = x + attend(made.text, x, text)
        x = x + e[5] * made.mlp(layer_norm(x) * (1 + e[4]) + e[3])
        torch.testing.assert_close(made(windows, (1, 4, 4), t6, text).reshape(x.shape), x, atol=ATOL, rtol=RTOL)

    @torch.no_grad()
    def test_one_window_over_the_whole_grid(self):
        grid = (1, 4, 4)
        made = block(grid)
        windows, t6, text = inputs(window=grid)
        # One key: softmax weight 1, every token reads the one proxy's value.
        proxy = windows.mean(1, keepdim=True)
        proxy = proxy + made.proxies.out(made.proxies.v(layer_norm(proxy)))
        x = windows + made.inject_out(made.inject.out(made.inject.v(layer_norm(proxy))))
        weights = qihoo.ProxyWeights(made.proxies, made.inject, made.inject_out)
        torch.testing.assert_close(qihoo.proxy_attention(windows, grid, weights, batch=2), x, atol=ATOL, rtol=RTOL)
        # Step 3 is dense self-attention.
        torch.nn.init.zeros_(made.shifted_out.weight)
        e = (made.table + t6).unsqueeze(2).unbind(1)
        x = x + e[2] * attend(made.within, layer_norm(x) * (1 + e[1]) + e[0])
        x = x + attend(made.text, x, text)
        x = x + e[5] * made.mlp(layer_norm(x) * (1 + e[4]) + e[3])
        torch.testing.assert_close(made(windows, grid, t6, text), x, atol=ATOL, rtol=RTOL)

    @pytest.mark.parametrize(("grid", "p"), GRIDS)
    def test_proxies_conserve_the_mean(self, grid, p):
        x = normal(2, *grid, 3)
        windows = qihoo.window_partition(x, p)
        n = windows.shape[1]
        proxies = qihoo.proxy_tokens(windows, p, batch=2)
        torch.testing.assert_close((proxies * n).sum(1), x.sum((1, 2, 3)), atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize(("grid", "p"), GRIDS)
    def test_wrapped_tokens_never_meet(self, grid, p):
        blocked = qihoo.shift_region_mask(*grid, p)
        places = torch.stack(torch.meshgrid(*(torch.arange(extent) for extent in grid), indexing="ij"), -1)
        rolled = qihoo.roll_windows(qihoo.window_partition(places[None], p), grid, p)
        slots = torch.stack(torch.meshgrid(*(torch.arange(edge) for edge in p), indexing="ij"), -1).flatten(0, 2)
        # Two tokens belong together if they lay to each other as they lie now, that is if neither was wrapped around
        # without the other.
        moved = (rolled[:, :, None] - rolled[:, None]) - (slots[:, None] - slots)
        assert torch.equal(blocked, (moved != 0).any(-1))
        assert torch.equal(blocked, blocked.mT)
        assert not blocked.diagonal(dim1=1, dim2=2).any()

    @torch.no_grad()
    def test_without_a_shift_the_mask_is_empty_and_shifted_windows_are_the_windows(self):
        p, grid = (1, 1, 1), (2, 3, 4)
        assert not qihoo.shift_region_mask(*grid, p).any()
        windows = qihoo.window_partition(normal(2, *grid, 8), p)
        assert torch.equal(qihoo.roll_windows(windows, grid, p), windows)
        frames = qihoo.shift_region_mask(4, 2, 2, (2, 1, 1))  # one axis is shifted: only windows at its end are cut
        assert not frames[:-4].any()
        assert torch.equal(frames[-4:], ~torch.eye(2, dtype=torch.bool).expand(4, 2, 2))

    @pytest.mark.parametrize(("tokens", "window", "percent"), [(256, 4, 34.4), (1024, 16, 9.8), (4096, 64, 4.7)])
    def test_the_ratio_of_complexities(self, tokens, window, percent):
        assert 100 * qihoo.attention_ratio(tokens, window) == pytest.approx(percent, abs=0.05)
        # The same from the extents: proxies among themselves, tokens to proxies, two kinds of windows.
        proxies = tokens // window
        assert (proxies**2 + tokens * proxies + 2 * tokens * window) / tokens**2 == pytest.approx(
            qihoo.attention_ratio(tokens, window)
        )

    def test_the_paper_s_2048_px_number_is_not_its_formula(self):
        assert 100 * qihoo.attention_ratio(16384, 256) == pytest.approx(3.5, abs=0.05)  # printed: 2.3

    @torch.no_grad()
    def test_samples_are_independent_at_different_time_steps(self):
        made = block()
        windows, t6, text = inputs(batch=3)
        out = made(windows, (1, 4, 4), t6, text).unflatten(0, (3, 4))
        order = torch.tensor([2, 0, 1])
        permuted = windows.unflatten(0, (3, 4))[order].flatten(0, 1)
        again = made(permuted, (1, 4, 4), t6[order], text[order]).unflatten(0, (3, 4))
        torch.testing.assert_close(again, out[order], atol=1e-6, rtol=1e-6)
        for i in range(3):
            alone = made(windows.unflatten(0, (3, 4))[i], (1, 4, 4), t6[i : i + 1], text[i : i + 1])
            torch.testing.assert_close(alone, out[i], atol=1e-6, rtol=1e-6)


class TestBlock:
    @pytest.mark.parametrize(("grid", "p"), [((1, 4, 4), (1, 2, 2)), ((2, 4, 6), (2, 2, 3)), ((1, 3, 6), (1, 3, 2))])
    def test_equals_the_written_formula_with_gradients(self, grid, p):
        made = block(p)
        windows, t6, text = (x.requires_grad_() for x in inputs(grid, p))
        wanted = (windows, t6, text, *made.parameters())
        got, expected = made(windows, grid, t6, text), reference(made, windows, grid, t6, text)
        torch.testing.assert_close(got, expected, atol=ATOL, rtol=RTOL)
        grad = normal(*got.shape, seed=5)
        # Biases of keys shift all scores of a row: their gradient is zero, up to rounding of gradients around 100.
        for ours, theirs in zip(
            torch.autograd.grad(got, wanted, grad), torch.autograd.grad(expected, wanted, grad), strict=True
        ):
            torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-4)

    @torch.no_grad()
    def test_padding_of_the_text_has_no_weight(self):
        made = block()
        windows, t6, text = inputs()
        mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
        out = made(windows, (1, 4, 4), t6, text, mask)
        torch.testing.assert_close(out, reference(made, windows, (1, 4, 4), t6, text, (mask == 0)[:, None]))
        text[0, 3:] = 1e6
        assert torch.equal(made(windows, (1, 4, 4), t6, text, mask), out)
        assert torch.equal(made(windows, (1, 4, 4), t6, text, mask.bool()), out)

    def test_compiles_in_one_piece(self):
        made, arguments = block((2, 2, 3)), inputs((2, 4, 6), (2, 2, 3))
        compiled = torch.compile(made, fullgraph=True, backend="aot_eager")
        windows, t6, text = arguments
        out, again = (run(windows, (2, 4, 6), t6, text) for run in (made, compiled))
        torch.testing.assert_close(again, out, atol=1e-6, rtol=1e-6)

    @torch.no_grad()
    def test_without_shifted_windows(self):
        made = block(shift=False)
        windows, t6, text = inputs()
        assert not [name for name in made.state_dict() if name.startswith("shifted")]
        with_shift = block()
        with_shift.load_state_dict(made.state_dict(), strict=False)
        torch.nn.init.zeros_(with_shift.shifted_out.weight)
        assert torch.equal(made(windows, (1, 4, 4), t6, text), with_shift(windows, (1, 4, 4), t6, text))

    @pytest.mark.parametrize("mode", ["mean", "first", "random"])
    @torch.no_grad()
    def test_proxy_attention_is_the_block_s_first_two_steps(self, mode):
        made = block(mode=mode)
        windows, t6, text = inputs()
        made.within.out.weight.zero_()
        made.within.out.bias.zero_()
        for last in (made.shifted_out, made.text.out, made.mlp[2]):
            last.weight.zero_()
            last.bias.zero_()
        weights = qihoo.ProxyWeights(made.proxies, made.inject, made.inject_out)
        mixed = qihoo.proxy_attention(
            windows, (1, 2, 2), weights, batch=2, mode=mode, generator=torch.Generator().manual_seed(7)
        )
        out = made(windows, (1, 4, 4), t6, text, generator=torch.Generator().manual_seed(7))
        torch.testing.assert_close(out, mixed, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("grid", "p"), GRIDS)
def test_segments_in_our_order_are_the_shifted_windows_of_the_attention_core(grid, p):
    tokens = torch.Size(grid).numel()
    q, k, v = normal(3, 2, 2, tokens, 4).unbind(0)
    expected = ops.attention(q, k, v, ops.Window(grid, p, tuple(edge // 2 for edge in p)))
    order = window_order(grid, p, q.device)
    # From the grid's order to window-major, from there part by part.
    place = qihoo.window_partition(torch.arange(tokens).view(1, *grid, 1), p).flatten()[order.order]
    y = ops.attention(*(x[:, :, place] for x in (q, k, v)), ops.Segments(order.regions))
    torch.testing.assert_close(torch.empty_like(y).index_copy_(2, place, y), expected, atol=1e-6, rtol=1e-6)


class TestProxyModes:
    P, PROXY = (2, 4, 6), (1, 2, 2)  # 2 x 2 x 3 proxies a window

    def windows(self, batch=2, count=3):
        return normal(batch * count, 48, 2)

    def test_several_proxies_are_dilated_means(self):
        windows = self.windows()
        proxies = qihoo.proxy_tokens(windows, self.P, self.PROXY, batch=2).unflatten(1, (3, 2, 2, 3))
        grid = windows.view(2, 3, *self.P, 2)
        for a, b, c in np.ndindex(2, 2, 3):
            expected = grid[:, :, a::2, b::2, c::3].mean((2, 3, 4))
            torch.testing.assert_close(proxies[:, :, a, b, c], expected, atol=1e-6, rtol=0)

    def test_first(self):
        windows = self.windows()
        assert torch.equal(qihoo.proxy_tokens(windows, self.P, mode="first", batch=2).flatten(0, 1), windows[:, 0])
        proxies = qihoo.proxy_tokens(windows, self.P, self.PROXY, "first", batch=2).unflatten(1, (3, 2, 2, 3))
        assert torch.equal(proxies, windows.view(2, 3, *self.P, 2)[:, :, :2, :2, :3])

    def test_random(self):
        windows = self.windows(count=40)
        first, again, other = (
            qihoo.proxy_tokens(windows, self.P, self.PROXY, "random", torch.Generator().manual_seed(seed), batch=2)
            for seed in (0, 0, 1)
        )
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        same = (first.unflatten(1, (40, 12))[:, :, :, None] == windows.view(2, 40, 1, 48, 2)).all(-1)
        assert (same.sum(-1) == 1).all()
        token = same.long().argmax(-1)
        place = torch.stack([token // 24 % 2, token // 6 % 4 % 2, token % 6 % 3], -1)
        expected = torch.tensor(list(np.ndindex(2, 2, 3)))
        assert torch.equal(place, expected.expand(2, 40, 12, 3))  # each from the tokens it stands for
        assert len(token[:, :, 0].unique()) == 4  # and every one of them at some time

    @pytest.mark.parametrize("mode", ["mean", "first", "random"])
    def test_gradients_are_the_transpose(self, mode):
        windows, other = self.windows().requires_grad_(), normal(6, 48, 2, seed=1)

        def proxies(x):
            return qihoo.proxy_tokens(x, self.P, self.PROXY, mode, torch.Generator().manual_seed(0), batch=2)

        y = proxies(windows)
        grad = normal(*y.shape, seed=2)
        (dx,) = torch.autograd.grad(y, windows, grad)
        torch.testing.assert_close((dx * other).sum(), (grad * proxies(other)).sum(), atol=1e-5, rtol=1e-5)

    def test_bad_arguments(self):
        with pytest.raises(ValueError, match=r"windows expected shape \(4 \* nW, 48, C\); got \(6, 48, 2\)"):
            qihoo.proxy_tokens(self.windows(), self.P, batch=4)
        with pytest.raises(ValueError, match="mode expected one of mean, first, random; got 'last'"):
            qihoo.proxy_tokens(self.windows(), self.P, mode="last")
        with pytest.raises(ValueError, match="expected whole windows"):
            qihoo.proxy_tokens(self.windows(), self.P, (2, 3, 6))


class TestPTDiT:
    def model(self, **options):
        torch.manual_seed(0)
        model = qihoo.PTDiT(qihoo.PTDiTConfig(**SIZES | options))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
        return model

    def test_sizes_of_the_released_model(self):
        config = qihoo.PTDiTConfig()
        assert (config.dim, config.layers, config.window, config.out_channels) == (1152, 28, (1, 8, 8), 8)
        with torch.device("meta"):
            model = qihoo.PTDiT(qihoo.PTDiTConfig(layers=1))
        assert model.caption[0].weight.shape == (1152, 4096)
        assert model.head.weight.shape == (2 * 2 * 8, 1152)

    @torch.no_grad()
    def test_image(self):
        model = self.model()
        latent, text, steps = normal(2, 4, 8, 12), normal(2, 5, 12, seed=1), torch.tensor([10.0, 900.0])
        out = model(latent, steps, text)
        assert (out.shape, out.dtype) == ((2, 8, 8, 12), torch.float32)
        as_video = model(latent[:, :, None], steps, text)
        assert torch.equal(as_video[:, :, 0], out)
        for i in range(2):
            alone = model(latent[i : i + 1], steps[i : i + 1], text[i : i + 1])
            torch.testing.assert_close(alone[0], out[i], atol=1e-5, rtol=1e-5)
        half = self.model().bfloat16()(latent.bfloat16(), steps, text.bfloat16())
        assert half.dtype == torch.float32

    @torch.no_grad()
    def test_video(self):
        model = self.model(window=(2, 2, 2))
        latent = normal(1, 4, 4, 8, 8)
        out = model(latent, torch.tensor([10.0]), normal(1, 5, 12, seed=1))
        assert out.shape == (1, 8, 4, 8, 8)
        reversed_frames = model(latent.flip(2), torch.tensor([10.0]), normal(1, 5, 12, seed=1)).flip(2)
        assert (reversed_frames - out).abs().max() > 1e-4  # frames have places

    def test_patches_are_a_convolution_s_and_come_back(self):
        video, weight = normal(2, 4, 3, 4, 6), normal(16, 4, 2, 2, seed=1)
        expected = functional.conv2d(video.transpose(1, 2).flatten(0, 1), weight, stride=2)
        got = qihoo._cut_patches(video, 2) @ weight.flatten(1).T
        torch.testing.assert_close(got.flatten(0, 1), expected.permute(0, 2, 3, 1), atol=1e-5, rtol=1e-5)
        cut = qihoo._cut_patches(video, 2).unflatten(-1, (4, 4)).mT.flatten(-2)  # pixel, channel
        assert torch.equal(qihoo._join_patches(cut, 2), video)

    def test_positions_are_pixart_s_for_an_image(self):
        from tokernel.diffusion import pixart_sigma

        code = self.model(interpolation=2.0).positions((1, 4, 6), torch.device("cpu"))
        expected = pixart_sigma.position_embedding(4, 6, 16, 4, 2.0)
        torch.testing.assert_close(code.reshape(24, 16).float(), expected, atol=1e-6, rtol=0)

    def test_time_is_embedded_as_in_diffusers(self):
        embeddings = pytest.importorskip("diffusers.models.embeddings", reason="diffusers is an extra")
        model, steps = self.model(), torch.tensor([3.0, 700.0])
        waves = embeddings.get_timestep_embedding(steps, 256, flip_sin_to_cos=True, downscale_freq_shift=0)
        t6, embedded = model.time(steps, torch.float32)
        torch.testing.assert_close(embedded, model.time.embed(waves), atol=1e-4, rtol=1e-4)
        assert torch.equal(t6, model.time.modulate(functional.silu(embedded)))

    def test_learns(self):
        model = self.model()
        with torch.inference_mode():  # leaves nothing behind that training could not use
            model(normal(1, 4, 8, 8), torch.tensor([1.0]), normal(1, 5, 12))
        latent, text, steps = normal(2, 4, 8, 8), normal(2, 5, 12, seed=1), torch.tensor([10.0, 900.0])
        optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
        target, losses = normal(2, 8, 8, 8, seed=3), []
        for _ in range(8):
            loss = functional.mse_loss(model(latent, steps, text), target)
            optimiser.zero_grad()
            loss.backward()
            assert all(p.grad is not None for p in model.parameters())
            optimiser.step()
            losses.append(loss.item())
        assert losses[-1] < 0.85 * losses[0]

    def test_presets(self):
        assert [qihoo.window_for(edge) for edge in (256, 512, 1024, 2048)] == [(1, p, p) for p in (2, 4, 8, 16)]
        assert qihoo.window_for(1024, frames=8) == (4, 8, 8)
        for edge, (_, p, _) in qihoo.WINDOWS.items():
            assert edge // 16 // p == 8  # always 8 x 8 windows
        with pytest.raises(ValueError, match="pixels expected one of 256, 512, 1024, 2048; got 300"):
            qihoo.window_for(300)

    def test_bad_input(self):
        model = self.model()
        text, steps = normal(1, 5, 12), torch.tensor([1.0])
        with pytest.raises(ValueError, match=r"PTDiT: grid expected whole windows of \(1, 2, 2\); got \(1, 3, 4\)"):
            model(normal(1, 4, 6, 8), steps, text)
        with pytest.raises(ValueError, match="latent expected whole patches of 2 x 2"):
            model(normal(1, 4, 7, 8), steps, text)
        with pytest.raises(ValueError, match="latent expected 4 or 5 dimensions; got 3"):
            model(normal(4, 8, 8), steps, text)
        with pytest.raises(ValueError, match="windows expected 2 x 4 of them; got 3"):
            model.blocks[0](normal(3, 4, 16), (1, 4, 4), normal(2, 96), normal(2, 5, 16))
        with pytest.raises(ValueError, match="heads expected a divisor of 16; got 3"):
            qihoo.ProxyTokenBlock(16, 3, (1, 2, 2))
        with pytest.raises(ValueError, match="window expected from 1 to 4 tokens; got 5"):
            qihoo.attention_ratio(4, 5)


class TestWindowErrors:
    def test_partition(self):
        with pytest.raises(ValueError, match=r"window_partition: x expected shape \(B, f, h, w, C\); got \(2, 3\)"):
            qihoo.window_partition(torch.zeros(2, 3), (1, 1, 1))
        with pytest.raises(ValueError, match=r"window_partition: grid expected whole windows of \(1, 2, 2\)"):
            qihoo.window_partition(torch.zeros(1, 1, 3, 4, 2), (1, 2, 2))

    def test_merge(self):
        with pytest.raises(ValueError, match=r"windows expected shape \(B \* 4, 4, C\); got \(3, 4, 2\)"):
            qihoo.window_merge(torch.zeros(3, 4, 2), (1, 4, 4), (1, 2, 2))
        with pytest.raises(ValueError, match="expected 3 extents"):
            qihoo.shift_region_mask(1, 4, 4, (2, 2))
