# SPDX-License-Identifier: Apache-2.0
"""What a patch may do to a live model: nothing that unpatching does not undo."""

import copy
import io
import pickle
from functools import partial

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")

from integrations.timm_like import VisionTransformer
from tokernel.integrations import patch_of, unpatch
from tokernel.reduce import diffrate, tome

PATCHES = {
    "tome": lambda model: tome.patch_vit(model, 3, trace_source=True),
    "diffrate": lambda model: diffrate.patch_vit(model, [17, 14, 9], [17, 11, 7]),
}


def image(batch=2):
    return torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def everything(model):
    """All that a module can hold, by identity."""
    return {name: {key: id(value) for key, value in vars(part).items()} for name, part in model.named_modules()}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return VisionTransformer().eval()


@pytest.fixture(params=PATCHES.values(), ids=PATCHES.keys())
def patch(request):
    return request.param


def test_unpatch_restores_the_model_exactly(model, patch):
    dense, before, state = model(image()), everything(model), {k: v.clone() for k, v in model.state_dict().items()}
    patch(model)
    assert not torch.equal(model(image()), dense)
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    unpatch(model)
    assert everything(model) == before
    assert torch.equal(model(image()), dense)
    unpatch(model)  # Nothing to undo: nothing happens.
    assert everything(model) == before


def test_a_forward_that_another_library_put_there_comes_back(model, patch):
    def hooked(block, x):
        return type(block).forward(block, x) + 1

    for block in model.blocks:
        block.forward = partial(hooked, block)
    theirs = [vars(block)["forward"] for block in model.blocks]
    with pytest.raises(ValueError, match="computes something else"):
        patch(model)
    for block in model.blocks:
        block.forward = partial(type(block).forward, block)
    theirs = [vars(block)["forward"] for block in model.blocks]
    patch(model).unpatch()
    assert [vars(block)["forward"] for block in model.blocks] == theirs


def test_patching_again_replaces_the_patch(model, patch):
    before, dense = everything(model), model(image())
    first = PATCHES["tome"](model)
    second = patch(model)
    assert patch_of(model) is second is not first
    once = model(image())
    second.unpatch()
    assert everything(model) == before
    assert torch.equal(model(image()), dense)
    patch(model)
    assert torch.equal(model(image()), once)


def test_a_bad_argument_leaves_the_patch_in_place(model, patch):
    handle = patch(model)
    merged = model(image())
    with pytest.raises(ValueError, match="at least 0"):
        tome.patch_vit(model, -1)
    with pytest.raises(ValueError, match="one count for each of 3 blocks"):
        diffrate.patch_vit(model, [17], [17])
    assert patch_of(model) is handle
    assert torch.equal(model(image()), merged)


def test_blocks_are_patched_through_one_module_only(model, patch):
    class Wrapper(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = model

        def forward(self, x):
            return self.backbone(x)

    wrapper = Wrapper()
    patch(model)
    with pytest.raises(ValueError, match="another module"):
        patch(wrapper)
    unpatch(model)
    dense = model(image())
    patch(wrapper)
    assert not torch.equal(wrapper(image()), dense)
    unpatch(wrapper)
    assert torch.equal(wrapper(image()), dense)


def deep(model):
    return copy.deepcopy(model)


def pickled(model):
    return pickle.loads(pickle.dumps(model))


def saved(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("duplicate", [deep, pickled, saved])
def test_copies_are_patched_and_independent(model, patch, duplicate):
    dense = model(image())
    handle = patch(model)
    merged = model(image())
    twin = duplicate(model)
    assert torch.equal(twin(image()), merged)
    assert patch_of(twin) is not handle
    assert [view.module for view in patch_of(twin).vit.views] == list(twin.blocks)
    unpatch(twin)
    assert torch.equal(twin(image()), dense)
    assert torch.equal(model(image()), merged)


def test_compiled_equals_eager_and_follows_the_handle(model):
    handle = tome.patch_vit(model, 4)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for r in (4, 2, 0):
        handle.r = r
        assert torch.equal(compiled(image()), model(image()))
    unpatch(model)
    assert torch.equal(compiled(image()), model(image()))
    with pytest.raises(ValueError, match="patch first"):
        tome.patch_vit(compiled, 4)


def test_compiled_diffrate_equals_eager(model):
    handle = diffrate.patch_vit(model, [17, 14, 9], [17, 11, 7])
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.equal(compiled(image()), model(image()))
    handle.schedule = diffrate.Schedule([17, 8, 8], [12, 8, 5])
    assert torch.equal(compiled(image()), model(image()))


def test_training_gives_every_parameter_a_gradient(model, patch):
    patch(model)
    model.train()
    model(image()).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_recomputed_blocks_meet_the_same_sizes(model, patch):
    patch(model)
    model.train()
    model(image()).square().sum().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model.grad_checkpointing = True
    model(image()).square().sum().backward()
    assert all(torch.equal(p.grad, grad) for p, grad in zip(model.parameters(), expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_keeps_sizes_in_float32(model, patch, dtype):
    # Not close to float32 in general: another rounding of a key may choose another partner.
    model.to(dtype)
    handle = patch(model)
    out = model(image().to(dtype))
    assert out.dtype == dtype
    assert out.isfinite().all()
    assert handle.size.dtype == torch.float32


def test_autocast(model, patch):
    handle = patch(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(image()).dtype == torch.bfloat16
    assert handle.size.dtype == torch.float32


def test_masks_and_stray_blocks_are_refused(model, patch):
    patch(model)
    with pytest.raises(ValueError, match="mask"):
        model(image(), attn_mask=torch.zeros(17, 17))
    model(image())
    with pytest.raises(ValueError, match="block 2 expected"):
        model.blocks[2](torch.zeros(2, 5, 16))


def test_sizes_of_the_last_images_are_no_part_of_the_next(model, patch):
    patch(model)
    expected = model(image(3))
    model(image(2))
    assert torch.equal(model(image(3)), expected)
