# SPDX-License-Identifier: Apache-2.0
"""centroid_topp_map on every backend: shares against float64, and the map as the exact function of the shares it is."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="bfloat16 arrays come from torch")

import tokernel
from tokernel.kernels import cluster
import itertools

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# B, H, Q, K, D; around the tiles of rows, the panels of keys, and the tiles of depth
SHAPES = [
    (1, 1, 1, 1, 1),
    (2, 1, 2, 2, 3),
    (1, 2, 9, 33, 16),
    (1, 1, 13, 31, 17),
    (1, 1, 61, 64, 5),
    (1, 1, 3, 257, 64),
]
EMPTY = [(0, 2, 3, 4, 5), (1, 0, 3, 4, 5), (1, 2, 0, 4, 5), (1, 2, 3, 0, 5)]
UNIT = 2.0**-60


def case(shape, dtype=torch.float32, spread=2.0):
    batch, heads, queries, keys, width = shape
    generator = torch.Generator().manual_seed(0)
    qc = (spread * torch.randn(batch, heads, queries, width, generator=generator)).to(dtype)
    kc = torch.randn(batch, heads, keys, width, generator=generator).to(dtype)
    return qc, kc, torch.randint(0, 40, (batch, heads, keys), generator=generator)


def shares(qc, kc, size_k, scale=None, dtype=torch.float64):
    scale = max(qc.shape[-1], 1) ** -0.5 if scale is None else scale
    s = (qc.to(dtype) @ kc.to(dtype).mT) * scale
    if s.numel() == 0:
        return s
    e = size_k[:, :, None].to(dtype) * (s - s.amax(-1, keepdim=True)).exp()
    return e / e.sum(-1, keepdim=True).clamp_min(1e-12)


def prefix(prob, p, min_ratio):
    """Apply the rule to the shares of one row, with Python's integers."""
    if np.isnan(prob).any() or p == 1:
        return np.ones(len(prob), bool)
    forced = max(1, int(min_ratio * len(prob)))
    kept, mass = np.zeros(len(prob), bool), 0
    for position, j in enumerate(np.argsort(-prob, kind="stable")):
        kept[j] = position < forced or mass <= p / UNIT
        mass += int(float(prob[j]) / UNIT)
    return kept


def check(qc, kc, size_k, p, min_ratio=0.0, scale=None):
    map_, prob = cluster.centroid_topp_map(qc, kc, size_k, p, min_ratio, scale, True)
    assert map_.dtype == torch.bool
    assert prob.dtype == torch.float32
    exact = shares(qc, kc, size_k, scale)
    naive = (shares(qc, kc, size_k, scale, torch.float32) - exact).abs().amax() if exact.numel() else 0.0
    torch.testing.assert_close(prob.double(), exact, rtol=0.0, atol=2 * float(naive) + 1e-6)
    rows = [prefix(row, p, min_ratio) for row in prob.flatten(0, 2).numpy()]
    assert torch.equal(map_, torch.from_numpy(np.array(rows, bool)).reshape(prob.shape))
    assert torch.equal(cluster.centroid_topp_map(qc, kc, size_k, p, min_ratio, scale), map_)
    return map_, prob


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shares_and_their_map(backend, shape, dtype):
    check(*case(shape, dtype), p=0.9, min_ratio=0.1)
    assert tokernel.last_backend() == backend


@pytest.mark.parametrize("shape", EMPTY, ids=str)
def test_empty(backend, shape):
    map_, prob = check(*case(shape), p=0.9)
    assert map_.shape == prob.shape == (*shape[:3], shape[3])


def test_width_zero_gives_shares_by_size(backend):
    qc, kc, _ = case((1, 1, 2, 4, 0))
    _, prob = check(qc, kc, torch.tensor([[[1, 2, 0, 5]]]), p=0.5)
    torch.testing.assert_close(prob[0, 0, 1], torch.tensor([0.125, 0.25, 0.0, 0.625]))


def test_more_keys_than_shared_memory_holds(backend):
    check(*case((1, 1, 1, 4100, 2)), p=0.9)


def test_golden(backend, golden):
    """Sparse VideoGen2's own map and density (svg/kmeans_utils.py)."""
    data = np.load(golden / "svg2" / "topp_map.npz")
    map_, prob = cluster.centroid_topp_map(
        data["q_centroids"],
        data["k_centroids"],
        data["k_sizes"],
        float(data["top_p"]),
        float(data["min_kc_ratio"]),
        return_prob=True,
    )
    np.testing.assert_allclose(prob, data["probs"], rtol=0, atol=2e-5)
    np.testing.assert_array_equal(map_, data["dynamic_map"])
    density = cluster.map_density(map_, data["q_sizes"], data["k_sizes"])
    np.testing.assert_allclose(density, data["density"], rtol=0, atol=2e-5)


@pytest.mark.parametrize("p", [0.0, 0.3, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("min_ratio", [0.0, 0.04, 0.5, 1.0])
def test_mass_and_number_of_kept_clusters(backend, p, min_ratio):
    """Law 5 of svg2."""
    qc, kc, size_k = case((1, 2, 6, 27, 8))
    map_, prob = check(qc, kc, size_k, p, min_ratio)
    forced = max(1, int(min_ratio * 27))
    kept = map_.sum(-1)
    assert (kept >= forced).all()
    if p == 0 and min_ratio == 0:
        assert (kept == 1).all()
    mass = (prob.double() * map_).sum(-1)
    assert (mass >= min(p, 0.999999)).all()
    least = torch.where(map_, prob, torch.inf).amin(-1)
    assert ((mass - least <= p + 1e-6) | (kept <= forced)).all()


def test_larger_p_keeps_a_superset(backend):
    qc, kc, size_k = case((1, 2, 5, 40, 8))
    maps = [cluster.centroid_topp_map(qc, kc, size_k, p) for p in (0.0, 0.1, 0.5, 0.7, 0.95, 1.0)]
    for smaller, larger in itertools.pairwise(maps):
        assert (larger | ~smaller).all()
    assert maps[-1].all()


def test_empty_clusters_change_no_share(backend):
    """Law 7: they weigh nothing. Their scores still count for the row maximum, which exp forgives."""
    qc, kc, size_k = case((1, 1, 7, 20, 8))
    size_k[..., ::3] = 0
    filled = size_k[0, 0] > 0
    map_, prob = check(qc, kc, size_k, 0.8)
    assert (prob[..., ~filled] == 0).all()
    alone, alone_prob = check(qc, kc[:, :, filled], size_k[..., filled], 0.8)
    torch.testing.assert_close(prob[..., filled], alone_prob, rtol=1e-5, atol=1e-7)
    assert torch.equal(map_[..., filled], alone)
    assert not map_[..., ~filled].any()


def test_the_maximum_includes_empty_clusters_and_the_mass_is_clamped(backend):
    """exp(-200) of the only cluster with tokens: no share where the empty one were ignored would be 0."""
    qc, kc = torch.ones(1, 1, 1, 1), torch.tensor([200.0, 0.0]).reshape(1, 1, 2, 1)
    map_, prob = check(qc, kc, torch.tensor([[[0, 3]]]), 0.5, scale=1.0)
    assert (prob < 1e-30).all()
    assert map_.all()
    _, prob = check(qc, kc / 10 * 1.5, torch.tensor([[[0, 3]]]), 0.5, scale=1.0)
    torch.testing.assert_close(prob[0, 0, 0, 1], torch.tensor(3 * np.exp(-30.0) / 1e-12, dtype=torch.float32))


def test_all_clusters_empty(backend):
    qc, kc, size_k = case((1, 1, 3, 5, 4))
    map_, prob = check(qc, kc, 0 * size_k, 0.5)
    assert (prob == 0).all()
    assert map_.all()


@pytest.mark.parametrize("keys", [3, 33, 70])
def test_ties_go_to_the_lowest_index(backend, keys):
    qc, kc, _ = case((1, 1, 2, keys, 4))
    map_, _ = check(qc, 0 * kc, torch.full((1, 1, keys), 7), 0.5)
    kept = int(map_[0, 0, 0].sum())
    assert map_[0, 0, 0, :kept].all()
    assert keys // 2 <= kept <= keys // 2 + 2
    sizes = torch.arange(keys)[None, None] % 3  # three groups of equal shares, the cut inside one of them
    check(qc, 0 * kc, sizes, 0.8)
    check(qc, 0 * kc, sizes, 0.1, min_ratio=0.9)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_row_that_is_not_finite_keeps_everything(backend, value):
    qc, kc, size_k = case((1, 2, 10, 20, 4))
    qc[0, 0, 3, 1] = value
    map_, prob = cluster.centroid_topp_map(qc, kc, size_k, 0.5, return_prob=True)
    assert map_[0, 0, 3].all()
    assert prob[0, 0, 3].isnan().all()
    others = torch.arange(10) != 3
    qc[0, 0, 3, 1] = 0
    clean, clean_prob = cluster.centroid_topp_map(qc, kc, size_k, 0.5, return_prob=True)
    assert torch.equal(map_[0, 0, others], clean[0, 0, others])
    assert torch.equal(map_[0, 1], clean[0, 1])
    assert torch.equal(prob[0, 0, others], clean_prob[0, 0, others])
    kc[0, 1, 5, 0] = torch.nan  # a column touches every row of its head
    map_, prob = cluster.centroid_topp_map(qc, kc, size_k, 0.5, return_prob=True)
    assert map_[0, 1].all()
    assert prob[0, 1].isnan().all()
    assert torch.equal(map_[0, 0], clean[0, 0])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strided_views_scale_and_int32_sizes(backend, dtype):
    qc, kc, size_k = case((2, 3, 8, 12, 10), dtype)
    views = [
        (qc.transpose(1, 2).contiguous().transpose(1, 2), kc),
        (qc[:, :, ::2, 1:8], kc[..., 3:]),
        (qc[..., ::2], kc[..., ::2]),
    ]
    for q, k in views:
        check(q, k, size_k, 0.7, scale=0.3)
        check(q, k, size_k.int().transpose(1, 2).contiguous().transpose(1, 2), 0.7)


def test_a_negative_scale(backend):
    qc, kc, size_k = case((1, 1, 4, 9, 4))
    check(qc, kc, size_k, 0.7, scale=-1.0)
    check(qc, kc, size_k, 0.7, scale=0)


def test_out(backend):
    qc, kc, size_k = case((1, 1, 4, 9, 4))
    map_, prob = check(qc, kc, size_k, 0.7)
    out = torch.zeros(1, 1, 4, 9, dtype=torch.bool), torch.zeros(1, 1, 4, 9)
    assert cluster.centroid_topp_map(qc, kc, size_k, 0.7, return_prob=True, out=out)[0] is out[0]
    assert torch.equal(out[0], map_)
    assert torch.equal(out[1], prob)
    assert cluster.centroid_topp_map(qc, kc, size_k, 0.7, out=out[0].fill_(False)) is out[0]
    assert torch.equal(out[0], map_)


@pytest.mark.parametrize(
    ("spoiled", "error", "message"),
    [
        ({"p": 1.5}, ValueError, r"p must be in \[0.0, 1.0\], got 1.5"),
        ({"p": -0.1}, ValueError, r"p must be in \[0.0, 1.0\], got -0.1"),
        ({"p": float("nan")}, ValueError, r"p must be in \[0.0, 1.0\], got nan"),
        ({"p": "half"}, TypeError, r"p must be a number in \[0.0, 1.0\], got str"),
        ({"min_ratio": 2}, ValueError, r"min_ratio must be in \[0.0, 1.0\], got 2"),
        ({"scale": float("inf")}, ValueError, r"scale must be in \[.*\], got inf"),
        ({"size_k": torch.tensor([[[1, 2, -3]]])}, ValueError, "size_k must be no less than 0, got -3 at flat posit"),
        ({"size_k": torch.ones(1, 1, 4).long()}, ValueError, r"size_k must be \(B, H, K\) with .*K = 3, got"),
        ({"kc": torch.zeros(1, 2, 3, 4)}, ValueError, r"kc must be \(B, H, K, D\) with B = 1, H = 1, D = 4, got"),
        ({"kc": torch.zeros(1, 1, 3, 4).half()}, TypeError, "kc must be float32, got float16"),
    ],
    ids=str,
)
def test_bad_input(backend, spoiled, error, message):
    call = {
        "qc": torch.zeros(1, 1, 2, 4),
        "kc": torch.zeros(1, 1, 3, 4),
        "size_k": torch.ones(1, 1, 3).long(),
        "p": 0.5,
    }
    with pytest.raises(error, match=f"^centroid_topp_map: {message}"):
        cluster.centroid_topp_map(**{**call, **spoiled})


def test_bits_do_not_depend_on_threads(backend):
    inputs = case((1, 2, 20 if backend == "simt" else 150, 70, 16))
    try:
        results = []
        for threads in (1, 2):
            tokernel.set_num_threads(threads)
            results.append(cluster.centroid_topp_map(*inputs, 0.9, return_prob=True))
    finally:
        tokernel.set_num_threads(0)
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
