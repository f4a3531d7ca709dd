# SPDX-License-Identifier: Apache-2.0
"""What the CUDA kernels of tree_attention do that no other backend does, on the host executor and on a GPU: splits of
the cache and how they are joined, tiles of rows, warps that part the keys, steps that run from the last key to the
first."""

import numpy as np
import pytest

import tokernel
from tokernel.kernels import tree
from tokernel.kernels.tree import TokenTree

pytestmark = pytest.mark.usefixtures("device_backend")

LEAST = 256  # cache rows of a split, for up to 16 query rows of a head of keys


def random_tree(rng, nodes):
    return TokenTree([-1, *(int(rng.integers(max(0, i - 9), i)) for i in range(1, nodes))])


def call(rng, shape, capacity, dtype=np.float32):
    """q (B, H, T, D), and caches of G heads and `capacity` rows."""
    batch, heads, groups, nodes, width = shape
    q = rng.standard_normal((batch, heads, nodes, width)).astype(dtype)
    return q, *(rng.standard_normal((batch, groups, capacity, width)).astype(dtype) for _ in range(2))


def hide_unused(caches, lengths, trees):
    """Rows that nobody may read hold NaN."""
    for b, (length, nodes) in enumerate(zip(lengths, trees, strict=True)):
        for cache in caches:
            cache[b, :, length + len(nodes) :] = np.nan


def attend64(q, k, v, lengths, trees):
    """Answer and lse in float64; the mask written out."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    sharing = q.shape[1] // k.shape[1]
    o, lse = np.zeros(q.shape), np.full(q.shape[:3], -np.inf)
    for b, (length, nodes) in enumerate(zip(lengths, trees, strict=True)):
        rows = length + len(nodes)
        seen = np.concatenate([np.ones((len(nodes), length), bool), nodes.mask], 1)
        for h in range(q.shape[1]):
            keys, values = k[b, h // sharing, :rows], v[b, h // sharing, :rows]
            score = np.where(seen, q[b, h, : len(nodes)] @ keys.T * q.shape[-1] ** -0.5, -np.inf)
            most = score.max(1, keepdims=True)
            weight = np.exp(score - most)
            lse[b, h, : len(nodes)] = (most + np.log(weight.sum(1, keepdims=True)))[:, 0]
            weight = weight / weight.sum(1, keepdims=True)
            o[b, h, : len(nodes)] = weight @ np.where(seen.any(0)[:, None], values, 0)
    return o, lse


def attend(q, k, v, lengths, trees, **options):
    """The answers of a tree a sequence, padded to the nodes of q."""
    parents = np.full((len(q), q.shape[2]), -1)
    for b, nodes in enumerate(trees):
        parents[b, : len(nodes)] = nodes.parents
    o, lse = tree.tree_attention(q, k, v, np.array(lengths), parents, return_lse=True, **options)
    return o, lse


def close(got, want, dtype=np.float32):
    """Half precision: the weights are rounded, and the answer; the scores are not."""
    bound = 4e-6 if dtype == np.float32 else 2.0**-9
    np.testing.assert_allclose(got[0].astype(np.float64), want[0], rtol=bound, atol=bound)
    np.testing.assert_allclose(got[1], want[1], rtol=4e-6, atol=4e-6 if dtype == np.float32 else 1e-4)


# Query rows of a head of keys: 1, 4 and 5 (float32 changes its tile), 16 and 17 (the kind of block changes), 64 and 65.
@pytest.mark.parametrize(("heads", "nodes"), [(1, 1), (2, 2), (1, 5), (2, 8), (1, 17), (2, 32), (1, 65)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_rows_of_a_head_of_keys(dtype, heads, nodes, rng):
    trees = [random_tree(rng, nodes), random_tree(rng, max(1, nodes - 2))]
    q, k, v = call(rng, (2, heads, 1, nodes, 24), 130, dtype)
    lengths = [60, 0]
    hide_unused((k, v), lengths, trees)
    close(attend(q, k, v, lengths, trees), attend64(q, k, v, lengths, trees), dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_splits(dtype, rng):
    """Lengths around one and two splits; a short sequence leaves the later ones empty."""
    capacity = 2 * LEAST + 10
    lengths = [LEAST - 3, LEAST - 1, 2 * LEAST + 7, 0]
    trees = [random_tree(rng, n) for n in (3, 3, 2, 1)]
    q, k, v = call(rng, (4, 2, 1, 3, 8), capacity, dtype)
    hide_unused((k, v), lengths, trees)
    close(attend(q, k, v, lengths, trees), attend64(q, k, v, lengths, trees), dtype)


def test_every_schedule_gives_the_same_bits_in_splits_of_pages(rng):
    """Two splits, pages in any order, rows beside each other in no page: all orders of threads, copies and blocks."""
    length, rows, nodes = LEAST + 5, 64, TokenTree([-1, 0, 0, 2])
    q, k, v = call(rng, (1, 2, 1, 4, 16), 5 * rows, np.float16)
    want = attend64(q, k, v, [length], [nodes])
    pages = np.array([[3, 6, 0, 5, 1]])
    paged = []
    for cache in (k, v):
        pool = np.full((7, 1, rows, 16), np.nan, cache.dtype)
        pool[pages[0]] = cache[0].reshape(1, 5, rows, 16).swapaxes(0, 1)
        paged.append(pool)
    close(attend(q, *paged, [length], [nodes], pages=pages), want, np.float16)


@pytest.mark.parametrize(("rows", "dtype"), [(1, np.float32), (7, np.float16), (200, np.float16)])
def test_pages_of_any_size_and_order_of_axes(rows, dtype, rng):
    """Pages (P, G, R, D) and, as vLLM keeps them, (P, R, G, D) seen transposed."""
    count = -(-150 // rows)
    q, k, v = call(rng, (1, 2, 2, 5, 16), count * rows, dtype)
    nodes = random_tree(rng, 5)
    want = attend64(q, k, v, [133], [nodes])
    pages = rng.permutation(count + 2)[:count][None]
    pools = [np.full((count + 2, 2, rows, 16), np.nan, dtype) for _ in range(2)]
    for pool, cache in zip(pools, (k, v), strict=True):
        pool[pages[0]] = cache[0].reshape(2, count, rows, 16).swapaxes(0, 1)
    close(attend(q, *pools, [133], [nodes], pages=pages), want, dtype)
    swapped = [np.ascontiguousarray(pool.swapaxes(1, 2)).swapaxes(1, 2) for pool in pools]
    close(attend(q, *swapped, [133], [nodes], pages=pages.astype(np.int32)), want, dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("width", [1, 7, 64, 80, 136])
def test_widths(width, dtype, rng):
    trees = [random_tree(rng, 3)]
    q, k, v = call(rng, (1, 1, 1, 3, width), 70, dtype)
    close(attend(q, k, v, [65], trees), attend64(q, k, v, [65], trees), dtype)


@pytest.mark.parametrize("shape", ["chain", "star", "random"])
def test_trees_of_many_steps(shape, rng):
    """More nodes than a step has keys and a tile has rows: walks to the root cross steps, tiles and the prefix."""
    made = {"chain": TokenTree.chain(150), "star": TokenTree([-1] + [0] * 149), "random": random_tree(rng, 150)}
    nodes = made[shape]
    q, k, v = call(rng, (1, 1, 1, 150, 8), 190, np.float16)
    close(attend(q, k, v, [37], [nodes]), attend64(q, k, v, [37], [nodes]), np.float16)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_no_numbers_reach_those_who_see_them(dtype, bad, rng):
    """A weight of zero does not hide them, so steps with hidden keys look for them: few rows, and many."""
    for nodes in (6, 30):
        tree_ = TokenTree([-1, 0, 0, 1, 2, 2, *[1] * (nodes - 6)])
        q, k, v = call(rng, (1, 1, 1, nodes, 8), 80, dtype)
        clean, clean_lse = attend64(q, k, v, [40], [tree_])
        spoiled = v.copy()
        spoiled[0, 0, 42] = bad  # node 2
        o, lse = attend(q, k, spoiled, [40], [tree_])
        sees = tree_.mask[:, 2]
        assert not np.isfinite(o[0, 0, sees]).any()
        close((o[:, :, ~sees], lse), (clean[:, :, ~sees], clean_lse), dtype)
        spoiled = k.copy()
        spoiled[0, 0, 42] = bad
        o, lse = attend(q, spoiled, v, [40], [tree_])
        assert not np.isfinite(lse[0, 0, sees]).any()
        close((o[:, :, ~sees], lse[:, :, ~sees]), (clean[:, :, ~sees], clean_lse[:, :, ~sees]), dtype)


def test_a_short_sequence_gets_the_bits_of_the_only_split(rng):
    """A sequence within one split: joining it with empty ones changes nothing."""
    q, k, v = call(rng, (1, 2, 1, 3, 16), 2 * LEAST + 9, np.float16)
    nodes = random_tree(rng, 3)
    alone = attend(q, np.ascontiguousarray(k[:, :, :LEAST]), np.ascontiguousarray(v[:, :, :LEAST]), [99], [nodes])
    among = attend(q, k, v, [99], [nodes])
    for one, other in zip(alone, among, strict=True):
        np.testing.assert_array_equal(one, other)


def test_views_that_are_no_whole_chunks(rng):
    q, k, v = (x[..., 3:17] for x in call(rng, (2, 2, 1, 4, 20), 40, np.float16))
    trees = [random_tree(rng, 4)] * 2
    close(attend(q, k, v, [30, 7], trees), attend64(q, k, v, [30, 7], trees), np.float16)


@pytest.mark.parametrize("nodes", [4, 30])
def test_bfloat16(nodes, rng):
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16")
    q, k, v = (torch.from_numpy(x).bfloat16() for x in call(rng, (1, 2, 1, nodes, 40), 300))
    made = random_tree(rng, nodes)
    o, lse = tree.tree_attention(q, k, v, 300 - nodes, made, return_lse=True)
    want, want_lse = attend64(*(x.float().numpy() for x in (q, k, v)), [300 - nodes], [made])
    np.testing.assert_allclose(o.float().numpy(), want, rtol=2.0**-7, atol=2.0**-6)
    np.testing.assert_allclose(lse.numpy(), want_lse, rtol=4e-6, atol=1e-4)


def test_one_length_for_all_and_logits_of_any_size(rng):
    """Products of 10,000: the running maximum moves across warps, steps and splits."""
    q, k, v = call(rng, (2, 1, 1, 2, 8), LEAST + 40)
    k *= np.linspace(1, 1200, LEAST + 40, dtype=np.float32)[:, None]
    trees = [TokenTree([-1, 0])] * 2
    o, lse = tree.tree_attention(q, k, v, LEAST + 30, trees[0], return_lse=True)
    want, want_lse = attend64(q, k, v, [LEAST + 30] * 2, trees)
    np.testing.assert_allclose(lse, want_lse, rtol=1e-6)
    np.testing.assert_allclose(o, want, rtol=0, atol=2e-2)  # exponents are known to 2^-10 of 10,000


@pytest.mark.parametrize("seed", range(24))
def test_random_calls_against_the_reference(seed):
    """Everything at once: shared heads, padding, splits, pages of any size, strides, widths without whole chunks."""
    rng = np.random.default_rng(seed)
    batch, groups, sharing = (int(rng.integers(1, n)) for n in (4, 3, 5))
    nodes, width = int(rng.choice([1, 3, 9, 33])), int(rng.choice([1, 8, 20, 64, 130]))
    most = int(rng.choice([0, 30, 300])) if nodes * sharing <= 36 else 40
    dtype = (np.float32, np.float16)[seed % 2]
    trees = [random_tree(rng, int(n)) for n in rng.integers(1, nodes + 1, batch)]
    lengths = rng.integers(0, most + 1, batch)
    q, k, v = call(rng, (batch, groups * sharing, groups, nodes, width), most + nodes, dtype)
    for b, made in enumerate(trees):
        q[b, :, len(made) :] = np.nan  # the query of a padded node is never read
    options = {}
    if seed % 3 == 0:
        hide_unused((k, v), lengths, trees)
    else:
        rows = int(rng.choice([1, 16, 50]))
        count = -(-(most + nodes) // rows)
        pages = rng.permutation(batch * count + 2)
        options["pages"] = pages[: batch * count].reshape(batch, count)
        k, v = (rng.standard_normal((len(pages), rows, groups, width)).astype(dtype).swapaxes(1, 2) for _ in range(2))
    with tokernel.use_backend("ref"):
        want = attend(q, k, v, lengths, trees, **options)
    close(attend(q, k, v, lengths, trees, **options), want, dtype)
