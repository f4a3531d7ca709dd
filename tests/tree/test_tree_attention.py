# SPDX-License-Identifier: Apache-2.0
"""tree_attention on every backend, against the definition in float64 over an explicit mask; and its laws."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the oracle is torch in float64")

from bits import on_one_and_two_threads
from tree_attention_cases import DTYPES, definition, hold, inputs, paged, seen_by
from trees import ragged_parents, random_parents

import tokernel
from tokernel.kernels.attention import Causal, attention
from tokernel.kernels.tree import TokenTree, merge_attention, tree_attention


def close(got, want):
    """Two answers with their lse, summed in different orders: some roundings of values of a few units."""
    torch.testing.assert_close(tuple(got), tuple(want), rtol=3e-6, atol=3e-6)


NATIVE = [name for name in tokernel.backends()["usable"] if name in ("v2", "v3", "v4", "neon")]


def run(q, k, v, lengths, tree, **options):
    if isinstance(lengths, list):
        lengths = np.array(lengths)
    return tree_attention(q, k, v, lengths, tree, return_lse=True, **options)


def check(shape, lengths, parents, dtype=torch.float32, spare=3, scale=None):
    """Rows behind the last node hold NaN."""
    parents = np.asarray(parents)
    rows = max(lengths, default=0) + shape[3] + spare
    q, k, v = inputs(shape, rows, dtype)
    seen = seen_by(parents, lengths, rows)
    for cache in (k, v):
        cache[~seen.any(1)[:, None].expand(cache.shape[:3])] = torch.nan
    answer = run(q, k, v, list(lengths), parents, scale=scale)
    hold(answer, q, k.nan_to_num(0), v.nan_to_num(0), seen, scale)
    return answer


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("nodes", [1, 2, 4, 5, 16, 17])
def test_few_nodes(backend, dtype, nodes, rng):
    """Around four rows of a group, and around a vector of them; two heads a group."""
    for sharing in (1, 2):
        check((2, 2 * sharing, 2, nodes, 24), [37, 0], random_parents(rng, nodes), dtype)
    assert tokernel.last_backend() == backend


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("nodes", [63, 64, 65, 130, 300])
def test_many_nodes(backend, dtype, nodes, rng):
    """Around a word and a block of rows, and more than one tile of rows."""
    if backend in ("ref", "simt"):
        nodes = min(nodes, 66)
    check((1, 1, 1, nodes, 16), [9], random_parents(rng, nodes), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [1, 2, 3, 15, 17, 33, 64, 80, 128, 256])
def test_widths(backend, dtype, width, rng):
    length = 5 if backend == "simt" else 35
    for nodes in (2, 9):
        check((1, 1, 1, nodes, width), [length], random_parents(rng, nodes), dtype)


@pytest.mark.parametrize("length", [1, 31, 32, 33, 127, 128, 129, 257])
def test_prefixes_around_tiles(backend, length, rng):
    if backend == "simt":
        length = min(length, 70)
    for nodes in (1, 6):
        check((1, 1, 1, nodes, 8), [length], random_parents(rng, nodes))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("length", [1023, 1024, 2047, 2048, 2049, 3200])
def test_prefixes_around_parts(length, dtype, rng):
    """A prefix of 2048 or more is cut into parts."""
    for level in NATIVE:
        with tokernel.use_backend(level):
            check((2, 2, 1, 3, 16), [length, 5], random_parents(rng, 3), dtype)


def test_tiles_of_rows_and_parts_at_once(rng):
    for level in NATIVE:
        with tokernel.use_backend(level):
            check((1, 4, 1, 34, 136), [2100], random_parents(rng, 34))


@pytest.mark.parametrize("sharing", [1, 3, 4])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_ragged_lengths_and_trees(backend, sharing, dtype, rng):
    """A tree per sequence, padded; a length of zero, and a tree of one node behind it."""
    parents = ragged_parents(rng, 4, 7)
    parents[1, 1:] = -1
    out, lse = check((4, 2 * sharing, 2, 7, 8), [20, 0, 3, 11], parents, dtype)
    padded = torch.from_numpy(parents < 0)
    padded[:, 0] = False
    for row in range(4):
        assert not out[row][:, padded[row]].any()
        assert bool((lse[row][:, padded[row]] == -torch.inf).all())


def test_the_scale(backend, rng):
    check((1, 2, 1, 5, 8), [12], random_parents(rng, 5), scale=0.7)
    check((1, 2, 1, 5, 8), [12], random_parents(rng, 5), scale=0.0)


@pytest.mark.parametrize(("batch", "heads"), [(0, 2), (2, 0)])
def test_nothing_to_do(backend, batch, heads):
    q, k, v = inputs((batch, heads, heads, 2, 4), 5)
    out, lse = run(q, k, v, 3, TokenTree([-1, 0]))
    assert out.shape == q.shape
    assert lse.shape == q.shape[:3]


@pytest.mark.parametrize("name", ["attn_mha", "attn_gqa"])
def test_golden(backend, name, golden):
    data = np.load(golden / "tree_attention" / f"{name}.npz")
    lengths = data["prefix_len"].astype(np.int64)
    parents = np.where(data["parents"] < -1, -1, data["parents"]).astype(np.int64)
    q, k, v = (np.ascontiguousarray(data[name].swapaxes(1, 2)) for name in "qkv")
    out, lse = tree_attention(q, k, v, lengths, parents, return_lse=True)
    np.testing.assert_allclose(out, data["out"].swapaxes(1, 2), rtol=1e-5, atol=1e-5)
    live = np.broadcast_to(data["parents"][:, None] >= -1, lse.shape)
    np.testing.assert_allclose(lse[live], data["lse"].swapaxes(1, 2)[live], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("nodes", [1, 2, 9])
def test_a_chain_is_causal_attention(backend, nodes):
    q, k, v = inputs((1, 4, 2, nodes, 16), 21 + nodes)
    ours = run(q, k, v, 21, TokenTree.chain(nodes))
    theirs = attention(q, k, v, Causal(), return_lse=True)
    close(ours, theirs)


def test_a_node_is_causal_attention_over_its_path_alone(backend, rng):
    tree = TokenTree(random_parents(rng, 12))
    q, k, v = inputs((1, 2, 1, 12, 8), 30)
    out, lse = run(q, k, v, 18, tree)
    for node in range(12):
        rows = [*range(18), *(18 + n for n in tree.path(node))]
        alone = attention(q[:, :, node : node + 1], k[:, :, rows], v[:, :, rows], return_lse=True)
        close((out[:, :, node], lse[:, :, node]), tuple(x[:, :, 0] for x in alone))


def test_renumbered_nodes_have_renumbered_answers(backend, rng):
    tree = TokenTree(random_parents(rng, 14))
    order = tree.depth_first(heavy_first=True)
    q, k, v = inputs((1, 2, 2, 14, 8), 10 + 14)
    renumbered = [x.clone() for x in (k, v)]
    for cache, original in zip(renumbered, (k, v), strict=True):
        cache[:, :, 10:] = original[:, :, 10 + order]
    want = run(q, k, v, 10, tree)
    got = run(q[:, :, order.tolist()], *renumbered, 10, tree.reordered(order))
    close(got, tuple(x[:, :, order.tolist()] for x in want))


def test_prefix_and_tree_apart_merge_to_both(backend, rng):
    tree = TokenTree(random_parents(rng, 6))
    q, k, v = inputs((2, 2, 1, 6, 8), 17 + 6)
    prefix = attention(q, k[:, :, :17], v[:, :, :17], return_lse=True)
    nodes = run(q, k[:, :, 17:], v[:, :, 17:], 0, tree)
    merged = merge_attention(*(torch.stack(pair) for pair in zip(prefix, nodes, strict=True)))
    close(tuple(merged), run(q, k, v, 17, tree))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [1, 7, 16])
@pytest.mark.parametrize("nodes", [2, 9])
def test_pages_change_no_bit(backend, dtype, rows, nodes, rng):
    lengths = [33, 0]
    parents = ragged_parents(rng, 2, nodes)
    q, k, v = inputs((2, 2, 2, nodes, 24), 33 + nodes, dtype)
    want = run(q, k, v, lengths, parents)
    pools, pages = zip(*(paged(x, rows, torch.Generator().manual_seed(1)) for x in (k, v)), strict=True)
    got = run(q, *pools, lengths, parents, pages=pages[0])
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    swapped = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in pools]  # (P, R, G, D) in memory, as vLLM has it
    got = run(q, *swapped, lengths, parents, pages=pages[0].int())
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_pages_that_hold_no_row_in_use_are_not_looked_at(backend):
    q, k, v = inputs((1, 1, 1, 2, 4), 8)
    pools = [x.view(1, 1, 4, 2, 4).transpose(1, 2).reshape(4, 1, 2, 4) for x in (k, v)]
    pages = np.array([[0, 1, -7, 10**9]])
    got = run(q, *pools, [2], TokenTree([-1, 0]), pages=pages)
    torch.testing.assert_close(got, run(q, k, v, [2], TokenTree([-1, 0])), rtol=0, atol=0)


@pytest.mark.parametrize("nodes", [2, 9])
def test_strided_caches(backend, nodes, rng):
    """Heads inside of rows, every other row, views that begin anywhere; queries (B, T, H, D)."""
    parents = random_parents(rng, nodes)
    q, k, v = inputs((2, 4, 2, nodes, 24), 30)
    want = run(q, k, v, 15, parents)
    inside = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    apart = []
    for x in (q, k, v):
        wide = torch.full((2, x.shape[1], 2 * x.shape[2] + 1, 29), torch.nan)
        view = wide[:, :, 1::2, 3:27]
        view.copy_(x)
        apart.append(view)
    for views in (inside, apart):
        assert all(torch.equal(a, b) for a, b in zip(run(*views, 15, parents), want, strict=True))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("nodes", [4, 6, 30])
def test_what_a_node_does_not_see_does_not_reach_it(backend, bad, nodes):
    tree = TokenTree([-1, 0, 0, 1, *[1] * (nodes - 4)])
    q, k, v = inputs((1, 1, 1, nodes, 8), 12 + nodes)
    want = run(q, k, v, 9, tree)
    sees = torch.from_numpy(tree.mask[:, 2].copy())
    for spoil_keys in (False, True):
        caches = k.clone(), v.clone()
        caches[0 if spoil_keys else 1][0, 0, 9 + 2] = bad
        out, lse = run(q, *caches, 9, tree)
        assert not out[0, 0, sees].isfinite().any() or spoil_keys
        if spoil_keys and bad != bad:
            assert bool(out[0, 0, sees].isnan().all())
            assert bool(lse[0, 0, sees].isnan().all())
        close((out[:, :, ~sees], lse[:, :, ~sees]), tuple(x[:, :, ~sees] for x in want))


def test_nan_in_the_prefix_reaches_everyone_and_in_a_query_its_node(backend):
    q, k, v = inputs((1, 1, 1, 5, 8), 20)
    tree = TokenTree([-1, 0, 0, 1, 1])
    for cache in (k, v):
        kept = cache[0, 0, 3, 1].clone()
        cache[0, 0, 3, 1] = torch.nan
        out, _ = run(q, k, v, 9, tree)
        assert bool(out[..., 1].isnan().all())
        cache[0, 0, 3, 1] = kept
    want = run(q, k, v, 9, tree)
    q[0, 0, 2] = torch.nan
    out, lse = run(q, k, v, 9, tree)
    assert bool(out[0, 0, 2].isnan().all() and lse[0, 0, 2].isnan())
    others = [0, 1, 3, 4]
    close((out[:, :, others], lse[:, :, others]), tuple(x[:, :, others] for x in want))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [1.0, 1e4, -1e4])
def test_logits_of_any_size(backend, dtype, size, rng):
    q, k, v = inputs((1, 1, 1, 6, 4), 30, dtype)
    k = k * size
    parents = random_parents(rng, 6)
    exact, exact_lse = definition(q.double(), k.double(), v.double(), seen_by(parents, [24], 30))
    out, lse = run(q, k, v, 24, parents)
    assert bool(out.isfinite().all())
    bound = 2.0**-22 * max(1.0, float(exact_lse.abs().max()))  # of a score, and so of the logarithm of a weight
    assert float((lse - exact_lse).abs().max()) <= bound
    reach = float(v.abs().max())
    rounding = 2.0**-8 if dtype == torch.bfloat16 else 2.0**-22
    assert float((out.double() - exact).abs().max()) <= (4 * bound + 2 * rounding) * reach


@pytest.mark.parametrize("nodes", [1, 3, 20])
def test_threads_and_neighbours_change_no_bit(nodes, rng):
    """Also the lse; a sequence alone, among others, in a longer cache."""
    lengths = [2500, 7, 1100]
    q, k, v = inputs((3, 4, 2, nodes, 32), 2600)
    parents = ragged_parents(rng, 3, nodes)
    one, two = on_one_and_two_threads(lambda: run(q, k, v, lengths, parents))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    for b, length in enumerate(lengths):
        rows = slice(0, length + nodes)
        alone = run(q[b : b + 1], k[b : b + 1, :, rows], v[b : b + 1, :, rows], [length], parents[b : b + 1])
        assert all(torch.equal(x[0], y[b]) for x, y in zip(alone, one, strict=True))


def test_large_trees_meet_only_what_they_see(rng):
    """More nodes than a tile of rows has room for: the tiles list the nodes that their rows see."""
    for level in NATIVE:
        with tokernel.use_backend(level):
            for parents in (random_parents(rng, 350), np.arange(350) - 1, np.array([-1] + [0] * 349)):
                check((1, 1, 1, 350, 8), [3], parents)
