# SPDX-License-Identifier: Apache-2.0
"""Which ViTs a patch knows, and which it refuses."""

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")

from integrations.timm_like import ResPostBlock, VisionTransformer
from tokernel.integrations import unpatch
from tokernel.reduce import diffrate, tome

SEEDED = {"init_values": 0.5, "drop_path": 0.3, "qk_norm": True, "attn_drop": 0.2, "proj_drop": 0.2}


def image(batch=2, edge=16):
    return torch.randn(batch, 3, edge, edge, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("options", [{}, {"init_values": 0.5, "qk_norm": True}])
def test_timm_shaped_blocks_are_computed_as_they_are(options, fused):
    model = VisionTransformer(fused=fused, **options).eval()
    dense = model(image())
    handle = tome.patch_vit(model, 0)
    assert torch.equal(model(image()), dense)
    for index, view in enumerate(handle.vit.views):
        x = torch.randn(2, 9, 16)
        q, k, v = view.heads(x)
        y = x + view.after_attention(tome.proportional_attention(q, k, v, scale=view.scale))
        y = y + view.mlp(y)
        expected = type(view.module).forward(view.module, x)
        torch.testing.assert_close(y, expected, atol=2e-6, rtol=1e-5, msg=f"block {index}")


def test_dropouts_act_as_in_the_block_itself():
    model = VisionTransformer(**SEEDED, depth=1).train()
    handle = tome.patch_vit(model, 0)
    (view,) = handle.vit.views
    x = torch.randn(4, 9, 16)
    torch.manual_seed(7)
    expected = type(view.module).forward(view.module, x)
    torch.manual_seed(7)
    q, k, v = view.heads(x)
    y = x + view.after_attention(tome.proportional_attention(q, k, v, scale=view.scale, dropout=view.dropout))
    y = y + view.mlp(y)
    torch.testing.assert_close(y, expected, atol=2e-6, rtol=1e-5)
    model.eval()
    assert view.dropout == 0


def test_distillation_token_is_protected():
    model = VisionTransformer(dist_token=True).eval()
    handle = tome.patch_vit(model, 8, trace_source=True)
    model(image())
    assert handle.vit.protected == 2
    assert torch.equal(handle.size[:, :2], torch.ones(2, 2, 1))
    assert torch.equal(handle.source[:, :2], torch.eye(18)[:2].repeat(2, 1, 1))
    with pytest.raises(ValueError, match="distillation"):
        diffrate.patch_vit(model, [18] * 3, [18] * 3)


@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize("fc_norm", [True, False])
def test_mean_pooling_weighs_tokens_by_size(class_token, fc_norm):
    model = VisionTransformer(global_pool="avg", class_token=class_token, fc_norm=fc_norm).eval()
    handle = tome.patch_vit(model, 3)
    features = model.forward_features(image())
    first = int(class_token)
    size = handle.size[:, first:]
    pooled = (features[:, first:] * size).sum(1) / 16
    torch.testing.assert_close(model(image()), model.head(model.fc_norm(pooled)), atol=1e-6, rtol=1e-5)
    # DiffRate: divided by the sum of the sizes, which its cosines make smaller than the number of patches.
    kept = [16 + first, 12, 12]
    handle = diffrate.patch_vit(model, kept, [16 + first, 9, 9])
    features, size = model.forward_features(image()), handle.size[:, first:]
    pooled = (features[:, first:] * size).sum(1) / size.sum(1)
    torch.testing.assert_close(model(image()), model.head(model.fc_norm(pooled)), atol=1e-6, rtol=1e-5)
    with pytest.raises(ValueError, match="head expected"):
        model.forward_head(features[:1])
    unpatch(model)
    assert "forward_head" not in vars(model)


def test_mean_pooling_keeps_every_token_of_the_last_block_in_diffrate():
    model = VisionTransformer(global_pool="avg")
    with pytest.raises(ValueError, match="last block expected to keep every token"):
        diffrate.patch_vit(model, [17, 12, 3], [17, 12, 3])


class TestRefused:
    def test_post_norm(self):
        with pytest.raises(ValueError, match="ResPostBlock, which computes something else"):
            tome.patch_vit(VisionTransformer(block=ResPostBlock), 4)

    def test_unknown_parts(self):
        model = VisionTransformer()
        model.blocks[1].attn.relative_position_bias_table = torch.nn.Parameter(torch.zeros(3))
        with pytest.raises(ValueError, match=r"got attn\.relative_position_bias_table in Block"):
            tome.patch_vit(model, 4)
        model = VisionTransformer()
        model.blocks[1].adapter = torch.nn.Linear(2, 2)
        with pytest.raises(ValueError, match="got adapter in Block"):
            tome.patch_vit(model, 4)

    def test_register_tokens(self):
        model = VisionTransformer()
        model.num_prefix_tokens = 5
        with pytest.raises(ValueError, match="at most a class and a distillation token"):
            tome.patch_vit(model, 4)

    @pytest.mark.parametrize("pool", ["map", "avgmax", True])
    def test_other_poolings(self, pool):
        model = VisionTransformer()
        model.global_pool = pool
        with pytest.raises(ValueError, match="global_pool"):
            tome.patch_vit(model, 4)

    def test_no_vit_and_two(self):
        with pytest.raises(ValueError, match="exactly one ViT"):
            tome.patch_vit(torch.nn.Linear(2, 2), 4)
        with pytest.raises(ValueError, match="got 2 in VisionTransformer, VisionTransformer"):
            tome.patch_vit(torch.nn.ModuleList([VisionTransformer(), VisionTransformer()]), 4)


TRANSFORMERS = {
    "ViTForImageClassification": "ViTConfig",
    "ViTModel": "ViTConfig",
    "DeiTForImageClassificationWithTeacher": "DeiTConfig",
    "ViTMSNForImageClassification": "ViTMSNConfig",
    "ViTMAEModel": "ViTMAEConfig",
    "Dinov2Model": "Dinov2Config",
}


def transformers_model(name, config, **options):
    transformers = pytest.importorskip("transformers", minversion="5", reason="transformers is an extra")
    options = {"attn_implementation": "sdpa", **options}
    if config == "ViTMAEConfig":
        options["mask_ratio"] = 0.0
    shape = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    model = getattr(transformers, name)(
        getattr(transformers, config)(**shape, image_size=16, patch_size=4, num_labels=5, **options)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


def class_row(model):
    torch.manual_seed(3)  # ViT-MAE shuffles its patches.
    with torch.no_grad():
        out = model(image())
    return out.logits if hasattr(out, "logits") else out.last_hidden_state[:, 0]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("name", "config"), TRANSFORMERS.items())
def test_transformers_models(name, config, attention):
    model = transformers_model(name, config, attn_implementation=attention)
    dense = class_row(model)
    handle = tome.patch_vit(model, 0)
    assert torch.equal(class_row(model), dense)
    handle.r = 3
    merged = class_row(model)
    assert not torch.equal(merged, dense)
    assert handle.size.shape == (2, 16 + handle.vit.protected - 9, 1)
    assert torch.equal(handle.size.sum(1), torch.full((2, 1), 16.0 + handle.vit.protected))
    if not handle.vit.distill_token:
        handle = diffrate.patch_vit(model, [17, 14, 9], [17, 11, 7])
        class_row(model)
        assert handle.size.shape == (2, 7, 1)
    unpatch(model)
    assert torch.equal(class_row(model), dense)


def test_transformers_hidden_states_show_the_merged_tokens():
    model = transformers_model("ViTForImageClassification", "ViTConfig")
    tome.patch_vit(model, 3)
    lengths = [state.shape[1] for state in model(image(), output_hidden_states=True).hidden_states]
    assert lengths == [17, 14, 11, 8]


def test_transformers_gradient_checkpointing():
    model = transformers_model("ViTForImageClassification", "ViTConfig").train()
    tome.patch_vit(model, 3)
    model(image()).logits.sum().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model.gradient_checkpointing_enable()
    model(image()).logits.sum().backward()
    assert all(torch.equal(p.grad, grad) for p, grad in zip(model.parameters(), expected, strict=True))


def test_transformers_heads_over_patch_means_are_refused():
    model = transformers_model("Dinov2ForImageClassification", "Dinov2Config")
    with pytest.raises(ValueError, match="class token alone"):
        tome.patch_vit(model, 3)


@pytest.fixture(scope="module")
def timm():
    # It needs the torchvision of exactly this torch: with another one its import ends in a RuntimeError.
    try:
        import timm
    except (ImportError, RuntimeError) as reason:
        pytest.skip(f"timm and the torchvision of this torch are needed: {reason}")
    return timm


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"init_values": 0.1, "qk_norm": True},
        {"global_pool": "avg"},
        {"global_pool": "avg", "class_token": False},
        {"scale_attn_norm": True, "scale_mlp_norm": True},
    ],
)
def test_real_timm(timm, options):
    model = timm.models.vision_transformer.VisionTransformer(
        img_size=16, patch_size=4, embed_dim=32, depth=3, num_heads=2, num_classes=5, **options
    ).eval()
    dense = model(image())
    handle = tome.patch_vit(model, 0)
    assert torch.equal(model(image()), dense)
    handle.r = 3
    assert not torch.equal(model(image()), dense)
    assert handle.size.sum() == 2 * (16 + handle.vit.protected)
    unpatch(model)
    assert torch.equal(model(image()), dense)


def test_real_timm_post_norm_is_refused(timm):
    module = timm.models.vision_transformer
    model = module.VisionTransformer(
        img_size=16, patch_size=4, embed_dim=32, depth=2, num_heads=2, block_fn=module.ResPostBlock
    )
    with pytest.raises(ValueError, match="computes something else"):
        tome.patch_vit(model, 3)
