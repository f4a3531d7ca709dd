# SPDX-License-Identifier: Apache-2.0
"""What every quantizer keeps as a module: layouts, dtypes, masks, states, copies, and what it refuses."""

from __future__ import annotations

import copy
import io
import pickle

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")

from codec_cases import DIM, KINDS, STATELESS, make, rows, state, with_gradient

from tokernel import codecs

EVERY = pytest.mark.parametrize("kind", KINDS)


def index_of(kind, index, at):
    """Index of the rows `at` (of the shape of the input without its channels)."""
    return index[:, at] if kind == "grvq" else index[at]


def same_state(module, before):
    after = module.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def has_state(kind):
    return kind not in STATELESS


# ---- layouts and dtypes --------------------------------------------------------------------------------------------
@EVERY
def test_channels_may_come_first(kind):
    last, first = make(kind), make(kind, channel_first=True)
    x = rows(2, 3, 5, DIM)
    for _ in range(2):
        out, turned = last(x), first(x.movedim(-1, 1))
        assert torch.equal(turned.index, out.index)
        assert torch.equal(turned.quantized.movedim(1, -1), out.quantized)
        assert torch.equal(turned.loss, out.loss)
    assert torch.equal(first.decode(out.index), last.decode(out.index).movedim(-1, 1))
    assert torch.equal(first.encode(x.movedim(-1, 1)), last.encode(x))


@EVERY
@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (2, 1, 3, 2)])
def test_rows_of_any_rank(kind, lead):
    module, x = make(kind).eval(), rows(*lead, DIM)
    out, flat = module(x), module(x.reshape(-1, DIM))
    assert out.quantized.shape == x.shape
    assert torch.equal(out.quantized.reshape(-1, DIM), flat.quantized)
    assert torch.equal(out.index.reshape(flat.index.shape), flat.index)
    assert torch.equal(module.encode(x), out.index)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_everything_is_computed_in_float32(kind, dtype):
    module, x = make(kind).eval(), rows(2, 5, DIM).to(dtype)
    out, exact = module(x), module(x.float())
    assert out.quantized.dtype == dtype
    assert torch.equal(out.index, exact.index)
    assert torch.equal(out.quantized, exact.quantized.to(dtype))
    assert torch.equal(module.decode(out.index), exact.quantized)


@EVERY
def test_autocast_changes_nothing(kind):
    plain, cast = make(kind), make(kind)
    x, y = with_gradient(rows(2, 9, DIM)), with_gradient(rows(2, 9, DIM))
    expected = plain(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = cast(y)
        assert torch.equal(cast.encode(y), plain.encode(x))
    assert torch.equal(out.quantized, expected.quantized)
    for got in (out, expected):
        (got.loss + got.quantized.square().sum()).backward()
    assert torch.equal(x.grad, y.grad)
    same_state(cast, state(plain))


@EVERY
def test_moving_to_another_dtype_leaves_codebooks_in_float32(kind):
    module = make(kind)
    before = state(module)
    same_state(module.half().to(torch.bfloat16).double(), before)
    assert all(v.dtype in (torch.float32, torch.int64, torch.bool) for v in module.state_dict().values())
    assert all(v.device.type == "meta" for v in copy.deepcopy(module).to("meta").state_dict().values())


# ---- masks, nothing, NaN -------------------------------------------------------------------------------------------
@EVERY
def test_masked_rows_take_no_part(kind):
    mask = torch.tensor([[True, False, True, True, False], [True, True, False, True, True]])
    x = rows(2, 5, DIM)
    noise = torch.where(mask[..., None], x, float("nan"))
    masked, packed = make(kind), make(kind)
    for _ in range(2):
        leaf, kept = with_gradient(noise), with_gradient(x[mask])
        out, expected = masked(leaf, mask), packed(kept)
        assert torch.equal(index_of(kind, out.index, mask), expected.index)
        assert (index_of(kind, out.index, ~mask) == -1).all()
        torch.testing.assert_close(out.quantized[mask], expected.quantized, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(out.loss, expected.loss, rtol=1e-5, atol=1e-6)
        for got in (out, expected):
            (got.loss + got.quantized.square().sum()).backward()
        torch.testing.assert_close(leaf.grad[mask], kept.grad, rtol=1e-4, atol=1e-5)
        assert (leaf.grad[~mask] == 0).all()
    for name, value in packed.state_dict().items():
        torch.testing.assert_close(masked.state_dict()[name], value, rtol=1e-5, atol=1e-6)
    fresh = make(kind).eval()
    out = fresh(noise, mask)
    assert torch.equal(fresh.decode(out.index), out.quantized)
    assert torch.equal(fresh.encode(noise, mask), out.index)


@EVERY
@pytest.mark.parametrize("nothing", ["no rows", "all masked"])
def test_a_batch_of_nothing_changes_nothing(kind, nothing):
    module = make(kind)
    before = {name: value for name, value in state(module).items() if not name.endswith("steps")}
    if nothing == "no rows":
        x, mask = with_gradient(torch.zeros(2, 0, DIM)), None
    else:
        x, mask = with_gradient(rows(2, 3, DIM)), torch.zeros(2, 3, dtype=torch.bool)
    out = module(x, mask)
    assert out.quantized.shape == x.shape
    assert (out.index == -1).all()
    assert out.loss == 0
    (out.loss + out.quantized.sum()).backward()
    assert (x.grad == 0).all()
    after = {name: value for name, value in state(module).items() if not name.endswith("steps")}
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert torch.equal(module.encode(x, mask), out.index)
    assert torch.equal(module.decode(out.index), out.quantized)


@pytest.mark.parametrize("kind", ["vq", "vq_cosine_rotation", "vq_heads", "vq_revive", "rvq", "rvq_revive", "grvq"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_rows_that_are_not_finite_never_reach_a_codebook(kind, bad):
    spoilt, clean = make(kind), make(kind)
    for seed in range(3):
        x = rows(30, DIM, seed=seed)
        y = x.clone()
        y[7] = bad
        out = spoilt(y)
        assert not torch.isfinite(out.loss) or bad == 1e30
        clean(x, torch.arange(30) != 7)
        assert out.index.min() >= -1
    for name, value in clean.state_dict().items():
        assert torch.isfinite(value.float()).all()
        if bad != 1e30 or kind in ("vq", "vq_heads", "rvq", "grvq"):
            torch.testing.assert_close(spoilt.state_dict()[name], value, rtol=1e-5, atol=1e-5)


def test_what_a_nan_gives():
    x = torch.full((1, DIM), float("nan"))
    for kind in ("vq_frozen", "pq"):
        assert (make(kind).eval()(x).index == 0).all()
    assert codecs.LFQ(DIM, entropy=None)(x).index == 0  # a NaN is not above 0


# ---- states --------------------------------------------------------------------------------------------------------
@EVERY
def test_eval_mode_changes_nothing(kind):
    module = make(kind).eval()
    before = state(module)
    out = module(with_gradient(rows(2, 40, DIM)))
    (out.loss + out.quantized.sum()).backward()
    module.encode(rows(2, 40, DIM))
    same_state(module, before)
    module.train()
    module.encode(rows(2, 40, DIM))
    same_state(module, before)


@EVERY
def test_runs_repeat(kind):
    one, two = make(kind), make(kind)
    for seed in range(3):
        torch.manual_seed(seed)  # of no importance
        one(rows(2, 20, DIM, seed=seed))
        two(rows(2, 20, DIM, seed=seed))
    same_state(one, state(two))


@EVERY
@pytest.mark.parametrize("how", ["state dict", "deepcopy", "pickle"])
def test_a_copy_goes_on_where_the_module_was(kind, how):
    module = make(kind)
    module(rows(2, 20, DIM))
    if how == "state dict":
        file = io.BytesIO()
        torch.save(module.state_dict(), file)
        file.seek(0)
        twin = make(kind)
        twin.load_state_dict(torch.load(file))
    else:
        twin = copy.deepcopy(module) if how == "deepcopy" else pickle.loads(pickle.dumps(module))
    for seed in (1, 2):
        x = rows(2, 20, DIM, seed=seed)
        out, expected = twin(x), module(x)
        assert torch.equal(out.index, expected.index)
        assert torch.equal(out.quantized, expected.quantized)
    same_state(twin, state(module))


BOOK = ["codes", "counts", "sums", "steps", "ready"]
NAMES = {
    "vq": [f"book.{name}" for name in BOOK],
    "vq_stored": ["book.codes", "book.steps", "book.ready"],
    "vq_frozen": ["book.codes", "book.steps", "book.ready"],
    "vq_revive": [
        *("project_in.weight", "project_in.bias", "project_out.weight", "project_out.bias"),
        *(f"book.{name}" for name in BOOK),
    ],
    "simvq": ["book.codes", "book.steps", "book.ready", "book.transform.weight"],
    "rvq": [f"book.{name}" for name in BOOK],
    "grvq": [f"groups.{g}.book.{name}" for g in range(2) for name in BOOK],
    "fsq": [],
    "lfq": [],
    "bsq": [],
    "pq": ["centroids"],
}


@pytest.mark.parametrize("kind", NAMES)
def test_names_of_the_state_are_a_promise(kind):
    assert list(make(kind).state_dict()) == NAMES[kind]


def test_shapes_of_the_state_are_a_promise():
    def shapes(kind):
        return {n: tuple(v.shape) for n, v in make(kind).state_dict().items() if n in ("book.codes", "book.counts")}

    assert shapes("vq") == {"book.codes": (16, 8), "book.counts": (16,)}
    assert shapes("vq_revive") == {"book.codes": (2, 16, 3), "book.counts": (2, 16)}
    assert shapes("rvq") == {"book.codes": (3, 16, 8), "book.counts": (3, 16)}
    assert shapes("rvq_shared_cosine") == {"book.codes": (16, 4), "book.counts": (16,)}


# ---- what is refused -----------------------------------------------------------------------------------------------
REFUSED = [
    (lambda: codecs.VectorQuantizer(8, 0), ValueError, "VectorQuantizer: codebook_size must be at least 1"),
    (lambda: codecs.VectorQuantizer(0, 4), ValueError, "VectorQuantizer: dim must be at least 1"),
    (lambda: codecs.VectorQuantizer(8, 4.0), TypeError, "VectorQuantizer: codebook_size must be an int"),
    (lambda: codecs.VectorQuantizer(8, 4, metric="l1"), ValueError, "VectorQuantizer: metric must be one of"),
    (lambda: codecs.VectorQuantizer(8, 4, mode="none"), ValueError, "VectorQuantizer: mode must be one of"),
    (lambda: codecs.VectorQuantizer(8, 4, gradient="x"), ValueError, "VectorQuantizer: gradient must be one of"),
    (lambda: codecs.VectorQuantizer(8, 4, heads=3), ValueError, "VectorQuantizer: dim must be a multiple of heads"),
    (lambda: codecs.VectorQuantizer(8, 4, decay=1.5), ValueError, r"VectorQuantizer: decay must be in \[0.0, 1.0\]"),
    (lambda: codecs.VectorQuantizer(8, 4, eps=float("nan")), ValueError, "VectorQuantizer: eps must be"),
    (lambda: codecs.VectorQuantizer(8, 4, treshold=2), TypeError, "VectorQuantizer: there is no option 'treshold'"),
    (lambda: codecs.VectorQuantizer(8, 4, mode="grad", threshold=2), ValueError, "threshold needs mode 'ema'"),
    (lambda: codecs.SimVQ(8, 4, heads=2, separate_heads=True), ValueError, "mode 'simvq' takes one codebook"),
    (lambda: codecs.SimVQ(8, 4, kmeans_init=True), ValueError, "SimVQ: kmeans_init fits neither"),
    (lambda: codecs.ResidualVQ(8, 4, 2, metric="dot"), ValueError, "ResidualVQ: metric must be one of l2, cosine"),
    (lambda: codecs.ResidualVQ(8, 4, 2, mode="simvq"), ValueError, "ResidualVQ: mode must be one of ema, grad"),
    (lambda: codecs.ResidualVQ(8, 4, 0), ValueError, "ResidualVQ: num_quantizers must be at least 1"),
    (lambda: codecs.ResidualVQ(8, 4, 2, dropout_cutoff=2), ValueError, "ResidualVQ: dropout_cutoff must be below"),
    (lambda: codecs.GroupedResidualVQ(8, 4, 2, groups=3), ValueError, "GroupedResidualVQ: dim must be a multiple"),
    (lambda: codecs.FSQ([]), ValueError, "FSQ: levels must not be empty"),
    (lambda: codecs.FSQ([5, 1]), ValueError, "FSQ: levels must be at least 2, got 1"),
    (lambda: codecs.FSQ([5, 2]), ValueError, "FSQ: levels must be at least 3, or"),
    (lambda: codecs.FSQ([2**16] * 4), ValueError, "FSQ: levels must have a product below"),
    (lambda: codecs.LFQ(64), ValueError, "LFQ: bits must be at most 63"),
    (lambda: codecs.LFQ(17), ValueError, "LFQ: entropy over all codes takes at most 16 bits"),
    (lambda: codecs.LFQ(4, bit_order="big"), ValueError, "LFQ: bit_order must be one of"),
    (lambda: codecs.LFQ(4, entropy={"wieght": 1}), TypeError, "LFQ: entropy has no option 'wieght'"),
    (lambda: codecs.LFQ(4, entropy={"mode": "all"}), ValueError, "LFQ: entropy mode must be one of"),
    (lambda: codecs.LFQ(4, entropy=3), TypeError, "LFQ: entropy must be a dict or None"),
    (lambda: codecs.BSQ(10, 4), ValueError, "BSQ: group_size must divide bits"),
    (lambda: codecs.BSQ(8, mode="all"), ValueError, "BSQ: mode must be one of"),
    (lambda: codecs.ProductQuantizer(8, 3), ValueError, "ProductQuantizer: dim must be a multiple of parts"),
    (lambda: codecs.ProductQuantizer(8, 2, 4).fit(torch.zeros(0, 8)), ValueError, "ProductQuantizer: x must be at"),
    (lambda: make("pq").search(rows(1, 8), make("pq").encode(rows(3, 8)), 4), ValueError, "ProductQuantizer: k must"),
    (lambda: make("pq").adc_tables(rows(1, 8), "l1"), ValueError, "ProductQuantizer: metric must be one of"),
    (lambda: make("rvq")(rows(3, 8), n_q=4), ValueError, "ResidualVQ: n_q must be at most 3, got 4"),
    (lambda: make("rvq")(rows(3, 8), n_q=0), ValueError, "ResidualVQ: n_q must be at least 1"),
    (lambda: make("rvq")(rows(3, 8), n_q=torch.ones(2, dtype=torch.int64)), ValueError, "ResidualVQ: n_q must have"),
    (lambda: make("rvq").layers_for(6, 0), ValueError, "frame_rate must be at least"),
    (lambda: make("vq").set_codes(torch.zeros(3, 8)), ValueError, r"set_codes: codes must have the shape \(16, 8\)"),
]


@pytest.mark.parametrize(("call", "error", "text"), REFUSED, ids=[text[:50] for _, _, text in REFUSED])
def test_bad_arguments(call, error, text):
    with pytest.raises(error, match=text):
        call()


@EVERY
def test_bad_input(kind):
    module = make(kind)
    name = type(module).__name__
    x = rows(2, 3, DIM)
    with pytest.raises(ValueError, match=f"{name}: x must have 8 channels in dimension -1, got the shape"):
        module(rows(2, 3, DIM + 1))
    with pytest.raises(TypeError, match=f"{name}: x must be a floating point tensor, got torch.int64"):
        module.encode(torch.zeros(2, DIM, dtype=torch.int64))
    with pytest.raises(TypeError, match="mask must be a bool tensor"):
        module(x, torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"mask must have the shape \(2, 3\), got \(3, 2\)"):
        module(x, torch.ones(3, 2, dtype=torch.bool))
    index = module.encode(x)
    for bad in (-2, 2**62 if kind != "fsq" else 10**6):
        spoilt = index.clone(memory_format=torch.contiguous_format)
        spoilt.view(-1)[0] = bad
        with pytest.raises(ValueError, match=f"index must be in .*, or -1, got {bad}"):
            module.decode(spoilt)
    with pytest.raises(TypeError, match="index must be an int64 or int32 tensor"):
        module.decode(index.float())
    if index.dim() > 2:
        with pytest.raises(ValueError, match="index must"):
            module.decode(index[..., :0])


# ---- int32, projections of nothing ---------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["vq", "vq_heads", "rvq", "grvq", "fsq_symmetric", "lfq", "bsq", "pq"])
def test_indices_may_be_int32(kind):
    module = make(kind).eval()
    index = module.encode(rows(2, 3, DIM))
    assert torch.equal(module.decode(index.int()), module.decode(index))


def test_random_projection():
    torch.manual_seed(0)
    quantizer = codecs.RandomProjectionQuantizer(dim=16, codebook_size=32, codebook_dim=4, num_codebooks=3)
    x = rows(2, 5, 16)
    out = quantizer(x)
    assert out.index.shape == (2, 5, 3)
    assert torch.equal(quantizer.decode(out.index), out.quantized)
    assert torch.equal(quantizer.encode(x), out.index)
    assert torch.equal(quantizer.encode(3 * x + 5), out.index)  # normalised first
    normal = torch.nn.functional.layer_norm(x, (16,))
    for head in range(3):
        cosine = (
            torch.nn.functional.normalize(normal @ quantizer.projections[head], dim=-1) @ quantizer.vq.codebook[head].T
        )
        assert torch.equal(cosine.argmax(-1), out.index[..., head])
    before = state(quantizer)
    quantizer.train()(x)
    assert all(torch.equal(v, before[n]) for n, v in quantizer.state_dict().items() if not n.endswith("steps"))
    assert list(quantizer.parameters()) == []
    first = codecs.RandomProjectionQuantizer(16, 32, 4, 3, channel_first=True)
    first.load_state_dict(quantizer.state_dict())
    assert torch.equal(first.encode(x.movedim(-1, 1)), out.index)
