# SPDX-License-Identifier: Apache-2.0
"""Keys and values pooled inside live diffusers transformers."""

import copy
import pickle
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")
diffusers = pytest.importorskip("diffusers", reason="diffusers is an extra")
from torch.nn import functional

from tokernel.diffusion import pixart_sigma as sigma
from tokernel.integrations import patch_of, unpatch

SIZES = {"num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "num_layers": 3, "sample_size": 8}


@pytest.fixture
def pixart():
    torch.manual_seed(0)
    model = diffusers.PixArtTransformer2DModel(**SIZES, cross_attention_dim=16, caption_channels=6).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model


def denoise(model, height=8, width=12, **more):
    generator = torch.Generator().manual_seed(1)
    latent = torch.randn(2, 4, height, width, generator=generator)
    text = torch.randn(2, 3, 6, generator=generator)
    return model(latent, encoder_hidden_states=text, timestep=torch.tensor([3, 700]), **more).sample


def everything(model):
    return {name: {key: id(value) for key, value in vars(part).items()} for name, part in model.named_modules()}


class Reference:
    """A processor for the same mathematics in plain torch."""

    def __init__(self, grid, R):
        self.grid, self.R = grid, R

    def __call__(self, attention, x, encoder_hidden_states=None, attention_mask=None, **kwargs):
        q, k, v = attention.to_q(x), attention.to_k(x), attention.to_v(x)
        k, v = (functional.avg_pool2d(t.mT.unflatten(-1, self.grid), self.R).flatten(2).mT for t in (k, v))
        q, k, v = (t.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for t in (q, k, v))
        return attention.to_out[0](functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("mode", ["conv", "mean", "nearest", "uniform", "uniform_every"])
@torch.no_grad()
def test_r_1_equals_the_unpatched_model(pixart, mode):
    dense = denoise(pixart)
    sigma.patch_transformer(pixart, sigma.compress_config(range(3), 1, mode))
    torch.testing.assert_close(denoise(pixart), dense, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_pools_the_chosen_layers(pixart):
    dense = denoise(pixart)
    handle = sigma.patch_transformer(pixart, sigma.compress_config([1, 2], 2, "conv"), norm=False)
    assert sorted(handle.pools) == [1, 2]
    pooled = denoise(pixart)
    handle.unpatch()
    for layer in (1, 2):
        pixart.transformer_blocks[layer].attn1.set_processor(Reference((4, 6), 2))
    torch.testing.assert_close(pooled, denoise(pixart), atol=1e-5, rtol=1e-5)
    assert (pooled - dense).abs().max() > 1e-4


@torch.no_grad()
def test_grids_that_cells_do_not_fill(pixart):
    sigma.patch_transformer(pixart, sigma.compress_config([0], 2))
    assert denoise(pixart, 10, 6).shape == (2, 8, 10, 6)  # 5 x 3 tokens, 2 x 1 keys
    sigma.patch_transformer(pixart, sigma.compress_config([0], 2, "uniform"))
    with pytest.raises(ValueError, match="uniform expected H and W divisible"):
        denoise(pixart, 10, 6)


@torch.no_grad()
def test_unpatch_restores_the_model_exactly(pixart):
    dense, before, names = denoise(pixart), everything(pixart), list(pixart.state_dict())
    handle = sigma.patch_transformer(pixart, sigma.compress_config([0, 2]))
    assert patch_of(pixart) is handle
    assert len(list(pixart.state_dict())) == len(names) + 2 * 4
    denoise(pixart)
    unpatch(pixart)
    assert everything(pixart) == before
    assert list(pixart.state_dict()) == names
    assert torch.equal(denoise(pixart), dense)


def test_the_pools_train_with_the_model(pixart):
    pixart.train()
    handle = sigma.patch_transformer(pixart, sigma.compress_config([1]))
    parameters = dict(pixart.named_parameters())
    assert parameters["transformer_blocks.1.attn1.kv_pool.weight"] is handle.pools[1].weight
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            pixart.enable_gradient_checkpointing()
        pixart.zero_grad()
        denoise(pixart).square().mean().backward()
        gradients.append([p.grad.clone() for p in handle.pools[1].parameters()])
    assert all(g.abs().max() > 0 for g in gradients[0])
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@torch.no_grad()
def test_copies_are_patched_and_independent(pixart, duplicate):
    dense = denoise(pixart)
    handle = sigma.patch_transformer(pixart, sigma.compress_config([1]))
    pooled = denoise(pixart)
    twin = duplicate(pixart)
    patch_of(twin).pools[1].weight.add_(1)
    assert torch.equal(denoise(pixart), pooled)
    assert not torch.equal(denoise(twin), pooled)
    unpatch(twin)
    assert torch.equal(denoise(twin), dense)
    assert patch_of(pixart) is handle


@torch.no_grad()
def test_dit_and_pipelines():
    torch.manual_seed(0)
    model = diffusers.DiTTransformer2DModel(**SIZES, out_channels=4, patch_size=2, num_embeds_ada_norm=10).eval()
    pipeline = SimpleNamespace(transformer=model)

    def run():
        latent = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        return model(latent, timestep=torch.tensor([3, 3]), class_labels=torch.tensor([1, 2])).sample

    dense = run()
    sigma.patch_transformer(pipeline, sigma.compress_config([0, 1], 1))
    torch.testing.assert_close(run(), dense, atol=1e-5, rtol=1e-5)
    unpatch(pipeline)
    assert torch.equal(run(), dense)


def test_what_is_refused(pixart):
    with pytest.raises(ValueError, match="patch_transformer: model expected a diffusers pipeline"):
        sigma.patch_transformer(torch.nn.Linear(2, 2), sigma.compress_config([0]))
    with pytest.raises(ValueError, match=r"layers expected in \[0, 3\); got 3"):
        sigma.patch_transformer(pixart, sigma.compress_config([3]))
    pixart.transformer_blocks[1].attn1.set_processor(Reference((4, 6), 2))
    with pytest.raises(ValueError, match="layer 1 expected plain self-attention; got one with Reference"):
        sigma.patch_transformer(pixart, sigma.compress_config([0, 1]))
    assert patch_of(pixart) is None
    sigma.patch_transformer(pixart, sigma.compress_config([0]))
    with pytest.raises(ValueError, match="got a mask or encoder states"):
        denoise(pixart, attention_mask=torch.ones(2, 24))
