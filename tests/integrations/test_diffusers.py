# SPDX-License-Identifier: Apache-2.0
"""tomesd on live diffusers models: shapes never change outside a block, unpatching is exact."""

import copy
import pickle
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")
diffusers = pytest.importorskip("diffusers", reason="diffusers is an extra")

from tokernel.integrations import patch_of, unpatch
from tokernel.reduce import tome


@pytest.fixture
def unet():
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=8,
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()


def denoise(model, batch=2, height=8, width=8):
    generator = torch.Generator().manual_seed(1)
    latent = torch.randn(batch, 4, height, width, generator=generator)
    text = torch.randn(batch, 3, 16, generator=generator)
    return model(latent, torch.tensor([3]), encoder_hidden_states=text).sample


def everything(model):
    return {name: {key: id(value) for key, value in vars(part).items()} for name, part in model.named_modules()}


def seen(model, *names):
    """Token counts that attn1, attn2 or ff modules were given, by module name."""
    lengths = {}
    for name, part in model.named_modules():
        leaf = {"attn1": "to_q", "attn2": "to_q", "ff": "net.0"}.get(name.rsplit(".", 1)[-1])
        if leaf and name.rsplit(".", 1)[-1] in names:
            part.get_submodule(leaf).register_forward_pre_hook(
                lambda module, args, name=name: lengths.__setitem__(name, args[0].shape[1])
            )
    return lengths


def test_unpatch_restores_the_model_exactly(unet):
    dense, before = denoise(unet), everything(unet)
    handle = tome.patch_diffusion(unet, 0.5, parts=("attn", "cross", "mlp"), max_downsample=2)
    merged = denoise(unet)
    assert merged.shape == dense.shape
    assert not torch.equal(merged, dense)
    handle.unpatch()
    assert everything(unet) == before
    assert torch.equal(denoise(unet), dense)


def test_ratio_zero_is_the_dense_model_bit_for_bit(unet):
    dense = denoise(unet)
    tome.patch_diffusion(unet, 0.0)
    assert torch.equal(denoise(unet), dense)


def test_merges_the_parts_and_levels_asked_for(unet):
    lengths = seen(unet, "attn1", "attn2", "ff")
    handle = tome.patch_diffusion(unet, 0.5)
    denoise(unet)
    # 64 tokens at the latent's own size lose half; the level below keeps its 16.
    assert {n for name, n in lengths.items() if name.endswith("attn1")} == {32, 16}
    assert {n for name, n in lengths.items() if not name.endswith("attn1")} == {64, 16}
    handle.max_downsample = 2
    denoise(unet)
    assert {n for name, n in lengths.items() if name.endswith("attn1")} == {32, 8}
    tome.patch_diffusion(unet, 0.9, parts=("attn", "cross", "mlp"))
    denoise(unet)
    assert set(lengths.values()) == {16}  # at most 1 - 1 / (2 x 2) of the tokens are merged


def test_random_destinations_come_from_an_own_generator(unet):
    handle = tome.patch_diffusion(unet, 0.5)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, second = denoise(unet), denoise(unet)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first, second)
    torch.manual_seed(5)
    tome.patch_diffusion(unet, 0.5)
    assert torch.equal(denoise(unet), first)
    handle = patch_of(unet)
    handle.use_rand = False
    assert torch.equal(denoise(unet), denoise(unet))


def test_odd_batches_draw_nothing(unet):
    tome.patch_diffusion(unet, 0.5)
    assert torch.equal(denoise(unet, batch=3), denoise(unet, batch=3))


def test_odd_latents(unet):
    # A level of a 10 x 6 latent is 5 x 3: cells of 2 x 2 leave a remainder, which has sources only.
    lengths = seen(unet, "attn1")
    tome.patch_diffusion(unet, 0.5, max_downsample=2)
    assert denoise(unet, height=10, width=6).shape == (2, 4, 10, 6)
    assert set(lengths.values()) == {30, 8}


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_are_patched_and_independent(unet, duplicate):
    dense = denoise(unet)
    tome.patch_diffusion(unet, 0.5, use_rand=False)
    merged = denoise(unet)
    twin = duplicate(unet)
    assert torch.equal(denoise(twin), merged)
    unpatch(twin)
    assert torch.equal(denoise(twin), dense)
    assert torch.equal(denoise(unet), merged)


def test_recomputed_blocks_meet_the_same_partition(unet):
    unet.train()
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(5)
        tome.patch_diffusion(unet, 0.5)
        unet.zero_grad()
        if checkpointing:
            unet.enable_gradient_checkpointing()
        denoise(unet).square().mean().backward()
        gradients.append([p.grad.clone() for p in unet.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_transformers_with_gates_and_patches():
    torch.manual_seed(0)
    model = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=10,
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)

    def run():
        generator = torch.Generator().manual_seed(1)
        latent = torch.randn(2, 4, 8, 8, generator=generator)
        return model(latent, timestep=torch.tensor([3, 3]), class_labels=torch.tensor([1, 2])).sample

    dense = run()
    handle = tome.patch_diffusion(model, 0.5)
    assert torch.equal(run(), dense)  # patches of 2 x 2: everything is downsampled by 2
    handle.max_downsample = 2
    assert not torch.equal(run(), dense)
    unpatch(model)
    assert torch.equal(run(), dense)


def test_pipelines_are_patched_at_their_denoiser(unet):
    pipeline = SimpleNamespace(unet=unet)
    dense = denoise(unet)
    handle = tome.patch_diffusion(pipeline, 0.5)
    assert handle.model is unet
    assert patch_of(pipeline) is handle
    unpatch(pipeline)
    assert torch.equal(denoise(unet), dense)


def test_bad_arguments(unet):
    for arguments, message in [
        ({"ratio": 1.5}, "ratio expected between 0 and 1"),
        ({"parts": ("attn", "head")}, "parts expected some of attn, cross, mlp; got head"),
        ({"cell": (0, 2)}, "cell expected"),
    ]:
        with pytest.raises(ValueError, match=message):
            tome.patch_diffusion(unet, **arguments)
    with pytest.raises(ValueError, match="BasicTransformerBlock"):
        tome.patch_diffusion(torch.nn.Linear(2, 2))
    assert patch_of(unet) is None


def test_self_attention_masks_are_refused(unet):
    tome.patch_diffusion(unet, 0.5)
    with pytest.raises(ValueError, match="mask"):
        unet(
            torch.zeros(2, 4, 8, 8),
            torch.tensor([3]),
            encoder_hidden_states=torch.zeros(2, 3, 16),
            attention_mask=torch.ones(2, 64),
        )
