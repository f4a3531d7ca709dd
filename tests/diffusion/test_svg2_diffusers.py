# SPDX-License-Identifier: Apache-2.0
"""Sparse VideoGen2 in live diffusers transformers: exact where every cluster is kept, taken out again exactly."""

import copy
import pickle
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")
diffusers = pytest.importorskip("diffusers", reason="diffusers is an extra")

from tokernel.diffusion import svg2
from tokernel.integrations import patch_of, unpatch

EVERYTHING = svg2.Svg2Config(4, 5, top_p=1.0, min_ratio=1.0, iter_init=3, first_layers=0, first_times=0)
SPARSE = svg2.Svg2Config(4, 5, top_p=0.3, min_ratio=0.0, iter_init=3, first_layers=0, first_times=0)
STEPS = SimpleNamespace(timesteps=torch.tensor([900.0, 600.0, 300.0, 100.0]))
FRAMES, HEIGHT, WIDTH, TEXT = 2, 6, 8, 7  # 2 x 3 x 4 tokens where patches are 1 x 2 x 2


@pytest.fixture
def wan():
    torch.manual_seed(0)
    return diffusers.WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=8,
        freq_dim=16,
        ffn_dim=32,
        num_layers=3,
        rope_max_seq_len=32,
    ).eval()


@pytest.fixture
def hunyuan():
    torch.manual_seed(0)
    return diffusers.HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        num_single_layers=2,
        num_refiner_layers=1,
        mlp_ratio=2.0,
        guidance_embeds=False,
        text_embed_dim=8,
        pooled_projection_dim=8,
        rope_axes_dim=(4, 4, 4),
    ).eval()


@pytest.fixture
def cosmos():
    torch.manual_seed(0)
    return diffusers.CosmosTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=3,
        mlp_ratio=2,
        text_embed_dim=8,
        adaln_lora_dim=4,
        max_size=(4, 8, 8),
        patch_size=(1, 2, 2),
        concat_padding_mask=False,
        extra_pos_embed_type=None,
    ).eval()


@pytest.fixture(params=["wan", "hunyuan", "cosmos"])
def model(request):
    return request.getfixturevalue(request.param)


def denoise(model, time=500.0, batch=2, prompts=(7, 3), seed=1, width=WIDTH):
    generator = torch.Generator().manual_seed(seed)
    inputs = {
        "hidden_states": torch.randn(batch, 4, FRAMES, HEIGHT, width, generator=generator),
        "timestep": torch.full((batch,), time),
        "encoder_hidden_states": torch.randn(batch, TEXT, 8, generator=generator),
    }
    if isinstance(model, diffusers.HunyuanVideoTransformer3DModel):
        inputs["encoder_attention_mask"] = torch.arange(TEXT) < torch.tensor(prompts[:batch])[:, None]
        inputs["pooled_projections"] = torch.randn(batch, 8, generator=generator)
    return model(**inputs).sample


def everything(model):
    return {name: {key: id(value) for key, value in vars(part).items()} for name, part in model.named_modules()}


@pytest.mark.parametrize("config", [EVERYTHING, svg2.Svg2Config(4, 5, 1.0, 0.0, 3, first_layers=0, first_times=0)])
@torch.no_grad()
def test_a_full_map_is_the_unpatched_model(model, config):
    dense = denoise(model)
    handle = svg2.patch_video(model, config)
    torch.testing.assert_close(denoise(model), dense, atol=1e-5, rtol=1e-5)
    assert handle.density == 1.0


@torch.no_grad()
def test_sparse_attention_runs_and_differs(model):
    dense = denoise(model)
    handle = svg2.patch_video(model, SPARSE)
    sparse = denoise(model)
    assert sparse.shape == dense.shape
    assert sparse.isfinite().all()
    assert (sparse - dense).abs().max() > 1e-5
    assert 0 < handle.density < 1
    assert sorted(handle.attention.density) == list(range(len(handle.attention.centroids)))


@torch.no_grad()
def test_unpatch_restores_the_model_exactly(model):
    dense, before = denoise(model), everything(model)
    handle = svg2.patch_video(model, SPARSE)
    assert patch_of(model) is handle
    denoise(model)
    unpatch(model)
    assert everything(model) == before
    assert torch.equal(denoise(model), dense)
    assert patch_of(model) is None


@torch.no_grad()
def test_later_steps_start_from_the_centroids_and_reset_forgets_them(wan):
    config = svg2.Svg2Config(4, 5, 0.3, 0.0, iter_init=6, iter_step=2, first_layers=0, first_times=0)
    handle = svg2.patch_video(wan, config)
    handle.attention.tol = 0.0
    first = denoise(wan)
    assert set(handle.attention.iterations.values()) == {(6, 6)}
    denoise(wan, seed=2)
    assert set(handle.attention.iterations.values()) == {(2, 2)}
    assert not torch.equal(denoise(wan), first)
    handle.reset()
    assert torch.equal(denoise(wan), first)
    assert set(handle.attention.iterations.values()) == {(6, 6)}


@torch.no_grad()
def test_first_layers_and_first_steps_stay_dense(wan):
    dense = {time: denoise(wan, time) for time in STEPS.timesteps.tolist()}
    handle = svg2.patch_video(wan, svg2.Svg2Config(4, 5, 0.3, 0.0, 3, first_layers=0.4, first_times=0.5), STEPS)
    assert handle.attention.dense_layers == 1
    for time in (900.0, 600.0):
        torch.testing.assert_close(denoise(wan, time), dense[time], atol=1e-5, rtol=1e-5)
        assert handle.attention.centroids == {}
        assert handle.density is None
    assert (denoise(wan, 300.0) - dense[300.0]).abs().max() > 1e-5
    assert sorted(handle.attention.centroids) == [1, 2]


@torch.no_grad()
def test_dense_steps_warm_the_centroids_on_request(wan):
    config = svg2.Svg2Config(4, 5, 0.3, 0.0, 3, first_layers=0, first_times=0.5, zero_step_kmeans_init=True)
    dense = denoise(wan, 900.0)
    handle = svg2.patch_video(wan, config, STEPS)
    torch.testing.assert_close(denoise(wan, 900.0), dense, atol=1e-5, rtol=1e-5)
    assert sorted(handle.attention.centroids) == [0, 1, 2]


@torch.no_grad()
def test_dense_steps_of_hunyuan_keep_the_padding_out(hunyuan):
    dense = denoise(hunyuan, 900.0)
    svg2.patch_video(hunyuan, svg2.Svg2Config(4, 5, 0.3, 0.0, 3, first_times=0.5), STEPS)
    torch.testing.assert_close(denoise(hunyuan, 900.0), dense, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_time_steps_of_tokens_count_by_their_largest(wan):
    handle = svg2.patch_video(wan, svg2.Svg2Config(4, 5, first_times=0.5), STEPS)
    handle.begin(torch.tensor([[0.0, 0.0, 700.0]]))
    assert handle.attention.is_dense(2)
    handle.begin(torch.tensor(300))
    assert not handle.attention.is_dense(2)


@torch.no_grad()
def test_the_padding_of_the_prompt_never_matters(hunyuan):
    svg2.patch_video(hunyuan, SPARSE)
    sparse = denoise(hunyuan, prompts=(3, 3))
    hunyuan.context_embedder.register_forward_hook(lambda module, args, out: torch.cat([out[:, :3], out[:, 3:] + 5], 1))
    patch_of(hunyuan).reset()
    assert torch.equal(denoise(hunyuan, prompts=(3, 3)), sparse)


@torch.no_grad()
def test_fused_projections(wan):
    dense = denoise(wan)
    wan.fuse_qkv_projections()
    svg2.patch_video(wan, EVERYTHING)
    torch.testing.assert_close(denoise(wan), dense, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@torch.no_grad()
def test_copies_are_patched_and_independent(wan, duplicate):
    dense = denoise(wan)
    svg2.patch_video(wan, SPARSE)
    sparse = denoise(wan)
    twin = duplicate(wan)
    patch_of(twin).reset()
    assert torch.equal(denoise(twin), sparse)
    assert patch_of(wan).attention.centroids
    unpatch(twin)
    assert torch.equal(denoise(twin), dense)
    patch_of(wan).reset()
    assert torch.equal(denoise(wan), sparse)


@torch.no_grad()
def test_other_resolutions_go_on_with_the_centroids(wan):
    handle = svg2.patch_video(wan, SPARSE)
    denoise(wan)
    assert denoise(wan, width=4).isfinite().all()
    assert max(handle.attention.iterations[0]) <= SPARSE.iter_step


@torch.no_grad()
def test_compiled_equals_eager(wan):
    config = svg2.Svg2Config(4, 5, 0.3, 0.0, 3, first_layers=0, first_times=0.5)
    handle = svg2.patch_video(wan, config, STEPS)
    eager = [denoise(wan, time) for time in STEPS.timesteps.tolist()]
    handle.reset()
    compiled = torch.compile(wan, backend="eager")
    for time, expected in zip(STEPS.timesteps.tolist(), eager, strict=True):
        torch.testing.assert_close(denoise(compiled, time), expected, atol=1e-6, rtol=1e-5)
    assert isinstance(handle.attention.iterations[0][0], int)


@torch.no_grad()
def test_half_precision(wan):
    wan.to(torch.bfloat16)
    svg2.patch_video(wan, SPARSE)
    generator = torch.Generator().manual_seed(1)
    latent = torch.randn(1, 4, FRAMES, HEIGHT, WIDTH, generator=generator, dtype=torch.bfloat16)
    text = torch.randn(1, TEXT, 8, generator=generator, dtype=torch.bfloat16)
    out = wan(latent, torch.tensor([500]), text).sample
    assert out.dtype == torch.bfloat16
    assert out.isfinite().all()


@torch.no_grad()
def test_pipelines_are_patched_at_their_transformer(wan):
    pipeline = SimpleNamespace(transformer=wan, scheduler=STEPS)
    handle = svg2.patch_video(pipeline, svg2.PRESETS["wan_t2v_720p"], seed=3)
    assert handle is patch_of(pipeline)
    assert handle.scheduler is STEPS
    assert handle.attention.seed == 3
    unpatch(pipeline)
    assert patch_of(wan) is None


@torch.no_grad()
def test_bad_input_is_named(wan):
    with pytest.raises(ValueError, match=r"WanTransformer3DModel or .* got Linear"):
        svg2.patch_video(torch.nn.Linear(2, 2), SPARSE)
    with pytest.raises(ValueError, match=r"first_times is 0\.2; got NoneType"):
        svg2.patch_video(wan, svg2.PRESETS["wan_t2v_720p"])
    wan.blocks[1].attn1.set_processor(SimpleNamespace())
    with pytest.raises(ValueError, match="processor expected WanAttnProcessor; got SimpleNamespace"):
        svg2.patch_video(wan, SPARSE)
    assert patch_of(wan) is None
    processor = svg2.Svg2WanAttnProcessor(svg2.SemanticAwareAttention(2, 2))
    attention, x = wan.blocks[0].attn1, torch.zeros(1, 4, 24)
    with pytest.raises(ValueError, match="encoder_hidden_states expected None in self-attention; got a Tensor"):
        processor(attention, x, x)
    with pytest.raises(ValueError, match="attention_mask expected None"):
        processor(attention, x, None, x)
