# SPDX-License-Identifier: Apache-2.0
"""DyMU in live ViTs: merging by thresholds against a plain one-image version, batches, pooling heads, calibration."""

import copy
import pickle

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")
transformers = pytest.importorskip("transformers", reason="transformers is an extra")

from integrations.timm_like import VisionTransformer
from tokernel.integrations import patch_of, unpatch
from tokernel.reduce import dymu, tome

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "image_size": 24, "patch_size": 4}


def clip(layers=3, **options):
    torch.manual_seed(0)
    config = transformers.CLIPVisionConfig(**SIZES, num_hidden_layers=layers, **options)
    return distinct(transformers.CLIPVisionModel(config))


def siglip(layers=3, **options):
    torch.manual_seed(0)
    config = transformers.SiglipVisionConfig(**SIZES, num_hidden_layers=layers, **options)
    return distinct(transformers.SiglipVisionModel(config))


def distinct(model):
    """Random weights large enough that images differ in what they can spare."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "proj.weight" in name or "fc" in name:
                weight.mul_(2)
    return model.eval()


def images(batch=1):
    """From busy to plain: the last one repeats its first patch everywhere."""
    x = torch.randn(batch, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    if batch > 1:
        x[-1] = x[-1, :, :4, :4].repeat(1, 6, 6)
    return x


def middle(model, batch):
    """Thresholds that merge some, not all, in every layer; a calibrated one is a cosine of the batch, and rounds."""
    return [tau + 1e-5 for tau in dymu.calibrate(model, [batch], 12, progress=False).thresholds]


def plain(model, pixels, thresholds, class_token):
    """One image, in plain torch: states and sizes after the last layer, and the input positions of each row."""
    x = model.embeddings(pixels)
    x = model.pre_layrnorm(x)[0] if hasattr(model, "pre_layrnorm") else x[0]
    size, parts = torch.ones(len(x)), [{i} for i in range(len(x))]
    for layer, tau in zip(model.encoder.layers, thresholds, strict=True):
        attention, y = layer.self_attn, layer.layer_norm1(x)
        q, k, v = (
            getattr(attention, f"{n}_proj")(y).view(len(x), attention.num_heads, -1).transpose(0, 1) for n in "qkv"
        )
        logits = (q @ k.mT).double() * attention.scale + size.double().log()
        y = (logits.softmax(-1) @ v.double()).float().transpose(0, 1).flatten(1)
        x = x + attention.out_proj(y)
        metric = torch.nn.functional.normalize(k.mean(0), dim=-1)
        cosine = metric[::2] @ metric[1::2].mT
        if class_token:
            cosine[0] = -torch.inf
        best, partner = cosine.max(1)
        count = min(int((best > tau).sum()), (len(x) - class_token) // 2) if tau < 1 else 0
        if count:
            order = best.argsort(descending=True, stable=True)
            merged, kept = order[:count], order[count:]
            kept = kept.sort().values if class_token else kept
            rows = [[2 * i] for i in kept.tolist()]
            rows += [[2 * j + 1] + [2 * i for i in merged.tolist() if partner[i] == j] for j in range(len(x) // 2)]
            new = torch.stack([size[row].sum() for row in rows])
            x = torch.stack([(x[row] * size[row, None]).sum(0) for row in rows]) / new[:, None]
            size, parts = new, [set().union(*(parts[i] for i in row)) for row in rows]
        x = x + layer.mlp(layer.layer_norm2(x))
    return x, size, parts


@pytest.mark.parametrize("make", [clip, siglip])
@torch.no_grad()
def test_one_image_equals_the_plain_version(make):
    model, pixels, first = make(), images(), make is clip
    thresholds = middle(model, pixels)
    x, size, parts = plain(model, pixels, thresholds, first)
    handle = dymu.patch_vit(model, thresholds)
    out = model(pixels, output_hidden_states=True)
    assert 36 + first > len(x) > 18
    torch.testing.assert_close(out.hidden_states[-1][0], x, atol=1e-5, rtol=1e-4)
    assert torch.equal(handle.size[0, :, 0], size)
    assert [set((handle.mapping[0] == row).nonzero().flatten().tolist()) for row in range(len(x))] == parts
    assert handle.valid is None
    assert out.hidden_states[-2].shape[1] == handle.sizes[-2].shape[1]  # what LLaVA reads


@pytest.mark.parametrize("make", [clip, siglip, VisionTransformer])
@torch.no_grad()
def test_thresholds_of_1_are_the_model_bit_for_bit(make):
    model = make().eval()
    pixels = images(2) if make is not VisionTransformer else torch.randn(2, 3, 16, 16)
    before = model(pixels)
    handle = dymu.patch_vit(model)
    for thresholds in (handle.thresholds, [1.5] * len(handle.thresholds)):
        handle.thresholds = thresholds
        after = model(pixels)
        for a, b in zip(outputs(before), outputs(after), strict=True):
            assert torch.equal(a, b)
    assert handle.size is None
    assert handle.mapping is None
    handle.unpatch()
    assert patch_of(model) is None
    assert "forward" not in vars(model.encoder.layers[0] if hasattr(model, "encoder") else model.blocks[0])


def outputs(out):
    return [out] if isinstance(out, torch.Tensor) else [x for x in out.values() if x is not None]


@torch.no_grad()
def test_images_of_a_batch_end_as_they_do_alone():
    # Every layer merges something of every image: else its rows stay in place alone, and are sorted in the batch.
    model, pixels = clip(), images(4)
    thresholds = [min(taus) for taus in zip(*(middle(model, pixels[b : b + 1]) for b in range(4)), strict=True)]
    handle = dymu.patch_vit(model, thresholds)
    batch = model(pixels)
    size, valid, mapping = handle.size, handle.valid, handle.mapping
    lengths = []
    for b in range(4):
        alone = model(pixels[b : b + 1])
        lengths.append(alone.last_hidden_state.shape[1])
        assert None not in handle.mappings
        together = batch.last_hidden_state[b, : lengths[b]]
        torch.testing.assert_close(together, alone.last_hidden_state[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(batch.pooler_output[b], alone.pooler_output[0], atol=1e-5, rtol=1e-4)
        assert torch.equal(mapping[b], handle.mapping[0])
        assert torch.equal(size[b, : lengths[b]], handle.size[0])
    assert min(lengths) < max(lengths) == size.shape[1]  # the plain image lost more
    assert lengths[3] == min(lengths)
    assert valid.sum(1).tolist() == lengths
    assert torch.equal(size.sum((1, 2)), torch.full((4,), 37.0))
    assert torch.equal(size[..., 0] > 0, valid)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_padding_in_low_precision(dtype):
    model, pixels = clip(), images(4)
    thresholds = middle(model, pixels)
    handle = dymu.patch_vit(model.to(dtype), thresholds)
    out = model(pixels.to(dtype))
    assert out.last_hidden_state.isfinite().all()
    assert handle.valid is not None
    assert torch.equal(handle.size.sum((1, 2)), torch.full((4,), 37.0))


@torch.no_grad()
def test_cap_and_parity():
    model, pixels = clip(), images(2)
    handle = dymu.patch_vit(model, [-1.0] * 3, max_r=2)
    assert model(pixels).last_hidden_state.shape[1] == 37 - 3 * 2
    exact = model(pixels).last_hidden_state
    single = model(pixels[:1]).last_hidden_state
    handle = dymu.patch_vit(model, [-1.0] * 3, max_r=2, parity=True)
    shrunk = model(pixels).last_hidden_state
    assert not torch.equal(shrunk, exact)
    torch.testing.assert_close(shrunk, exact, atol=5e-3, rtol=1e-2)
    assert torch.equal(model(pixels[:1]).last_hidden_state, single)  # the path of one image never divides so
    dymu.patch_vit(model, [-1.0] * 3, max_r=0)
    assert model(pixels).last_hidden_state.shape[1] == 37
    assert handle is not patch_of(model)


@torch.no_grad()
def test_siglips_pooling_head_counts_merged_tokens_by_size():
    # Without position embeddings a constant image has one state 36 times: merging it changes nothing.
    model = siglip()
    model.embeddings.position_embedding.weight.zero_()
    left = images()[:, :, :4, :4].repeat(1, 1, 6, 6)
    right = images(2)[:1, :, 4:8, 4:8].repeat(1, 1, 6, 6)
    pixels = torch.cat([left[..., :20], right[..., :4]], 3)  # five columns of one patch, one of another
    dense = model(pixels).pooler_output
    handle = dymu.patch_vit(model, [0.99999] * 3)
    merged = model(pixels).pooler_output
    assert handle.size.shape[1] < 12
    torch.testing.assert_close(merged, dense, atol=1e-5, rtol=1e-4)
    tome.patch_vit(model, 12)  # every paper's patch gets this head
    torch.testing.assert_close(model(pixels).pooler_output, dense, atol=1e-5, rtol=1e-4)


def test_it_trains():
    model = clip()
    handle = dymu.patch_vit(model, middle(model, images(2)))
    model.train()(images(2)).pooler_output.square().sum().backward()
    assert model.embeddings.patch_embedding.weight.grad.isfinite().all()
    assert handle.size is not None
    assert not handle.size.requires_grad


@torch.no_grad()
def test_copies_and_pickles_are_patched_models_of_their_own():
    model = clip()
    thresholds = middle(model, images())
    handle = dymu.patch_vit(model, thresholds)
    merged = model(images()).last_hidden_state
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert patch_of(twin) is not handle
        assert patch_of(twin).mapping is None
        assert torch.equal(twin(images()).last_hidden_state, merged)
        unpatch(twin)
        assert twin(images()).last_hidden_state.shape[1] == 37
    assert torch.equal(model(images()).last_hidden_state, merged)


@torch.no_grad()
def test_it_compiles_around_the_merges():
    model = clip(2)
    dymu.patch_vit(model, middle(model, images()))
    merged = model(images()).last_hidden_state
    assert torch.equal(torch.compile(model, backend="eager")(images()).last_hidden_state, merged)


class TestCalibration:
    @torch.no_grad()
    def test_it_merges_the_asked_number_on_average_and_gives_the_model_back(self):
        model, pixels = clip().train(), images(4)
        model.encoder.layers[0].eval()
        found = dymu.calibrate(model, [pixels], 12, progress=False)
        assert model.training
        assert not model.encoder.layers[0].training
        assert patch_of(model) is None
        handle = dymu.patch_vit(model.eval(), found)
        model(pixels)
        left = (handle.size[..., 0] > 0).sum()
        assert left == 4 * (37 - 12)  # the batch it was calibrated on

    @torch.no_grad()
    def test_batches_are_averaged_and_may_be_mappings(self):
        model, pixels = clip(), images(4)
        a, b = (dymu.calibrate(model, [x], 9, "linear", progress=False).thresholds for x in (pixels[:2], pixels[2:]))
        both = dymu.calibrate(model, [{"pixel_values": pixels[:2]}, pixels[2:]], 9, "linear", progress=True)
        assert both.thresholds == pytest.approx([(x + y) / 2 for x, y in zip(a, b, strict=True)])

    def test_layers_that_merge_nothing_keep_1(self):
        found = dymu.calibrate(clip(), [images(2)], 2, "constant", progress=False)
        assert found.thresholds[2] == 1.0
        assert found.thresholds[0] < 1

    def test_parity_also_for_one_image(self):
        model, pixels = clip(), images()
        exact = dymu.calibrate(model, [pixels], 12, progress=False).thresholds
        official = dymu.calibrate(model, [pixels], 12, parity=True, progress=False).thresholds
        assert official != exact
        assert official == pytest.approx(exact, abs=1e-3)

    def test_an_error_in_a_batch_leaves_the_model_unpatched(self):
        model = clip()
        with pytest.raises(ValueError, match="doesn't match model"):
            dymu.calibrate(model, [torch.zeros(1, 3, 8, 8)], 4, progress=False)
        assert patch_of(model) is None
        with pytest.raises(ValueError, match="at least one"):
            dymu.calibrate(model, [], 4, progress=False)


@pytest.mark.parametrize(
    ("thresholds", "max_r", "error", "match"),
    [
        ([0.5], None, ValueError, "one for each of 3 layers; got 1"),
        ([0.5, 0.5, float("nan")], None, ValueError, "finite"),
        ([0.5, 0.5, "1"], None, TypeError, "numbers"),
        (None, -1, ValueError, "max_r expected"),
    ],
)
def test_bad_arguments(thresholds, max_r, error, match):
    model = clip()
    with pytest.raises(error, match=match):
        dymu.patch_vit(model, thresholds, max_r=max_r)
    assert patch_of(model) is None


def test_models_that_merging_would_change_otherwise_are_refused():
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config={"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
        vision_config=SIZES | {"num_hidden_layers": 2},
        projection_dim=16,
    )
    both = transformers.CLIPModel(config)
    assert dymu.patch_vit(both).vit.module is both.vision_model  # the text model is no ViT
    with pytest.raises(ValueError, match="classifier expected"):
        dymu.patch_vit(transformers.CLIPForImageClassification(config))
    deit = transformers.DeiTConfig(**SIZES, num_hidden_layers=1)
    with pytest.raises(ValueError, match="distillation token"):
        dymu.patch_vit(transformers.DeiTModel(deit))
