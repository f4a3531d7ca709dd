# SPDX-License-Identifier: Apache-2.0
"""CLEAR's attention in live diffusers transformers: exact where the disc is everything, trainable, taken out again."""

import copy
import math
import pickle
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")
diffusers = pytest.importorskip("diffusers", reason="diffusers is an extra")

from tokernel.diffusion import clear
from tokernel.integrations import patch_of, unpatch

H, W, T = 4, 6, 3
EVERYTHING = math.hypot(H, W)


def tiny_flux(double=2, single=3):
    torch.manual_seed(0)
    return diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=double,
        num_single_layers=single,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        axes_dims_rope=(4, 4, 8),
    ).eval()


@pytest.fixture
def flux():
    return tiny_flux()


def tiny_sd3(dual_attention_layers=(0,), qk_norm="rms_norm"):
    torch.manual_seed(0)
    return diffusers.SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=8,
        caption_projection_dim=32,
        pooled_projection_dim=8,
        out_channels=4,
        pos_embed_max_size=8,
        dual_attention_layers=dual_attention_layers,
        qk_norm=qk_norm,
    ).eval()


@pytest.fixture
def sd3():
    return tiny_sd3()


def denoise(model, height=H, width=W, text=T, batch=2, **where):
    generator = torch.Generator().manual_seed(1)
    common = {
        "encoder_hidden_states": torch.randn(batch, text, 8, generator=generator),
        "pooled_projections": torch.randn(batch, 8, generator=generator),
        "timestep": torch.full((batch,), 0.5),
        "joint_attention_kwargs": where or None,
    }
    if isinstance(model, diffusers.SD3Transformer2DModel):
        latent = torch.randn(batch, 4, 2 * height, 2 * width, generator=generator)
        return model(hidden_states=latent, **common).sample
    image = torch.zeros(height, width, 3)
    image[..., 1], image[..., 2] = torch.arange(height)[:, None], torch.arange(width)
    latent = torch.randn(batch, height * width, 4, generator=generator)
    return model(hidden_states=latent, img_ids=image.view(-1, 3), txt_ids=torch.zeros(text, 3), **common).sample


@pytest.fixture(params=["flux", "sd3"])
def model(request):
    return request.getfixturevalue(request.param)


def everything(model):
    return {name: {key: id(value) for key, value in vars(part).items()} for name, part in model.named_modules()}


@torch.no_grad()
def test_a_disc_over_everything_is_the_unpatched_model(model):
    dense = denoise(model)
    clear.patch_transformer(model, EVERYTHING, grid=(H, W), text_length=T)
    torch.testing.assert_close(denoise(model), dense, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("d", [1, 2])
@torch.no_grad()
def test_a_small_disc_runs_and_differs(model, d):
    dense = denoise(model)
    clear.patch_transformer(model, 1.5, d, grid=(H, W), text_length=T)
    local = denoise(model)
    assert local.shape == dense.shape
    assert local.isfinite().all()
    assert (local - dense).abs().max() > 1e-4


@torch.no_grad()
def test_unpatch_restores_the_model_exactly(model):
    dense, before, names = denoise(model), everything(model), list(model.state_dict())
    handle = clear.patch_transformer(model, 2, 2, grid=(H, W))
    assert patch_of(model) is handle
    assert len(model.state_dict()) == len(names) + len(handle.processors)
    denoise(model)
    unpatch(model)
    after = everything(model)
    # The dictionary of submodules is the same object; its length says that no processor stayed in it.
    assert after == before
    assert list(model.state_dict()) == names
    assert torch.equal(denoise(model), dense)
    assert patch_of(model) is None


@torch.no_grad()
def test_patching_again_replaces_the_patch(flux):
    dense = denoise(flux)
    clear.patch_transformer(flux, 1, grid=(H, W))
    clear.patch_transformer(flux, EVERYTHING, grid=(H, W))
    torch.testing.assert_close(denoise(flux), dense, atol=1e-5, rtol=1e-5)
    unpatch(flux)
    assert torch.equal(denoise(flux), dense)


def test_training_reaches_attention_projections_and_pooling_weights(flux):
    clear.patch_transformer(flux, 1.5, 2, grid=(H, W), text_length=T)
    trained = clear.freeze_all_but_attention(flux)
    with torch.no_grad():
        teacher = denoise(flux)
    clear.clear_distill_loss(denoise(flux), teacher + 1, teacher - 1).total.backward()
    names = {name for name, p in flux.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    for block in ["transformer_blocks.0", "transformer_blocks.1", "single_transformer_blocks.2"]:
        for part in ["to_q.weight", "to_k.weight", "to_v.weight", "processor.spatial_weight"]:
            assert f"{block}.attn.{part}" in names
    assert "transformer_blocks.0.attn.to_out.0.weight" in names
    assert not any("add_" in name or "norm" in name or ".ff" in name for name in names)
    assert len(trained) == sum(p.requires_grad for p in flux.parameters())
    before = denoise(flux).detach()
    torch.optim.SGD(trained, 0.1).step()
    assert not torch.equal(denoise(flux), before)


def test_attention_beside_the_joint_one_trains_too(sd3):
    clear.patch_transformer(sd3, 1.5, 2, grid=(H, W))
    clear.freeze_all_but_attention(sd3)
    denoise(sd3).square().mean().backward()
    names = {name for name, p in sd3.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    for part in ["attn.to_q.weight", "attn2.to_k.weight", "attn2.to_out.0.bias", "attn2.processor.spatial_weight"]:
        assert f"transformer_blocks.0.{part}" in names
    assert not any("add_" in name or "norm" in name for name in names)


def test_the_student_learns_from_the_teacher(flux):
    student = copy.deepcopy(flux)
    clear.patch_transformer(student, 1.5, 2, grid=(H, W), text_length=T)
    optimiser = torch.optim.Adam(clear.freeze_all_but_attention(student), 3e-3)
    losses = []
    for _ in range(3):
        with torch.no_grad(), clear.record_attention(flux, [2, 4]) as theirs:
            teacher = denoise(flux)
        with clear.record_attention(student, [2, 4]) as ours:
            prediction = denoise(student)
        assert [x.shape for x in ours] == [(2, T + H * W, 32)] * 2
        loss = clear.clear_distill_loss(prediction, teacher, teacher, ours, theirs)
        losses.append(loss.total.item())
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
    assert losses[-1] < losses[0]


@torch.no_grad()
def test_recording_starts_afresh_with_every_forward_pass_and_leaves_no_hook(flux):
    before = everything(flux)
    with clear.record_attention(flux) as outputs:  # layer 4, the only single-stream one divisible by 4
        denoise(flux)
        denoise(flux)
        assert len(outputs) == 1
    assert everything(flux) == before
    assert not flux._forward_pre_hooks
    with (
        pytest.raises(ValueError, match=r"single-stream blocks in \[2, 5\); got \[0\]"),
        clear.record_attention(flux, [0]),
    ):
        pass


@torch.no_grad()
def test_one_model_serves_several_resolutions_and_texts(model):
    shapes = [(4, 6, 3), (6, 4, 3), (2, 2, 5)]
    dense = [denoise(model, *shape) for shape in shapes]
    clear.patch_transformer(model, 99)
    for shape, expected in zip(shapes, dense, strict=True):
        out = denoise(model, *shape, grid=shape[:2], text_length=shape[2])
        torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_settings_can_be_set_anew(flux):
    dense = denoise(flux)
    handle = clear.patch_transformer(flux, 1, grid=(9, 9))
    handle.set(r=99, grid=(H, W), text_length=T)
    torch.testing.assert_close(denoise(flux), dense, atol=1e-5, rtol=1e-5)
    handle.set(proportional=1.0)
    assert (denoise(flux) - dense).abs().max() > 1e-5
    with pytest.raises(ValueError, match="got d, radius"):
        handle.set(radius=3, d=2)


@torch.no_grad()
def test_proportional_attention_at_the_trained_length_changes_nothing(flux):
    clear.patch_transformer(flux, 2, grid=(H, W))
    plain = denoise(flux)
    handle = clear.patch_transformer(flux, 2, grid=(H, W), proportional=4608 / (T + H * W))
    torch.testing.assert_close(denoise(flux), plain, atol=1e-6, rtol=1e-6)
    handle.set(proportional=1.0)
    assert (denoise(flux) - plain).abs().max() > 1e-5


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@torch.no_grad()
def test_copies_are_patched_and_independent(flux, duplicate):
    dense = denoise(flux)
    clear.patch_transformer(flux, 2, 2, grid=(H, W))
    local = denoise(flux)
    twin = duplicate(flux)
    assert torch.equal(denoise(twin), local)
    unpatch(twin)
    assert torch.equal(denoise(twin), dense)
    assert torch.equal(denoise(flux), local)


@torch.no_grad()
def test_compiled_equals_eager_and_follows_the_handle():
    flux = tiny_flux(1, 1)
    handle = clear.patch_transformer(flux, 2, 2, grid=(H, W), text_length=T)
    compiled = torch.compile(flux, backend="eager")
    for r in (2, 1):
        handle.set(r=r)
        torch.testing.assert_close(denoise(compiled), denoise(flux), atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_fused_projections(flux):
    clear.patch_transformer(flux, 2, grid=(H, W))
    apart = denoise(flux)
    flux.fuse_qkv_projections()
    torch.testing.assert_close(denoise(flux), apart, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_fused_sd3_models_are_patched_and_put_back():
    # The fused processor of diffusers knows neither attention over the image alone nor norms of q and k.
    sd3 = tiny_sd3((), None)
    sd3.fuse_qkv_projections()
    dense = denoise(sd3)
    clear.patch_transformer(sd3, EVERYTHING, grid=(H, W))
    torch.testing.assert_close(denoise(sd3), dense, atol=1e-5, rtol=1e-5)
    unpatch(sd3)
    assert torch.equal(denoise(sd3), dense)


def test_recomputed_blocks_have_the_same_gradients(flux):
    clear.patch_transformer(flux, 1.5, 2)
    gradients = []
    for checkpointing in (False, True):
        flux.zero_grad()
        if checkpointing:
            flux.train().enable_gradient_checkpointing()
        denoise(flux, grid=(H, W)).square().mean().backward()
        gradients.append([p.grad.clone() for p in flux.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@torch.no_grad()
def test_pooling_weights_have_dtype_and_names_of_the_model(flux):
    flux.to(torch.bfloat16)
    handle = clear.patch_transformer(flux, 2, 2, grid=(H, W))
    assert handle.processors[0].spatial_weight.dtype == torch.bfloat16
    torch.testing.assert_close(handle.processors[0].spatial_weight.float(), torch.full((2, 2), 0.25))
    assert "single_transformer_blocks.1.attn.processor.spatial_weight" in flux.state_dict()


@torch.no_grad()
def test_pipelines_are_patched_at_their_transformer(flux):
    pipeline = SimpleNamespace(transformer=flux)
    assert clear.patch_transformer(pipeline, 2, grid=(H, W)) is patch_of(pipeline)
    unpatch(pipeline)
    assert patch_of(flux) is None


@torch.no_grad()
def test_bad_input_is_named(flux):
    with pytest.raises(ValueError, match=r"FluxTransformer2DModel or SD3Transformer2DModel.* got Linear"):
        clear.patch_transformer(torch.nn.Linear(2, 2), 2)
    with pytest.raises(ValueError, match="d expected at least 1"):
        clear.patch_transformer(flux, 2, 0)
    assert patch_of(flux) is None
    handle = clear.patch_transformer(flux, 2)
    with pytest.raises(ValueError, match=r"grid expected \(H, W\)"):
        denoise(flux)
    for settings, message in [
        ({"grid": (H, W + 1)}, "got 27 tokens, 3 of them text"),
        ({"grid": (H, W - 1)}, "expected 7 text and 4 x 5 image tokens; got 27 tokens, 3 of them text"),
        ({"grid": (H, W), "text_length": 4}, "expected 4 text and 4 x 6"),
    ]:
        handle.set(**settings)
        with pytest.raises(ValueError, match=message):
            denoise(flux)
    clear.patch_transformer(flux, 2, 4, grid=(H, W))
    with pytest.raises(ValueError, match="divisible by the factor 4"):
        denoise(flux)
    with pytest.raises(ValueError, match="attention_mask expected None"):
        denoise(flux, attention_mask=torch.ones(1))


def test_other_processors_are_refused(flux):
    flux.transformer_blocks[0].attn.set_processor(
        diffusers.models.transformers.transformer_flux.FluxIPAdapterAttnProcessor(32, 8)
    )
    with pytest.raises(ValueError, match=r"FluxAttnProcessor or .* got FluxIPAdapterAttnProcessor"):
        clear.patch_transformer(flux, 2)
    assert patch_of(flux) is None
