# SPDX-License-Identifier: Apache-2.0
"""compact_cache on every backend: a gather of rows, whatever the layout, and nothing else moves."""

import numpy as np
import pytest
from bits import on_one_and_two_threads

import tokernel
from tokernel.kernels import tree

LENGTHS = np.array([3, 0, 5])
PATH = np.array([[0, 2, 3, 7, -1], [1, 2, 3, 4, 6], [-1, -1, -1, -1, -1]])
COUNTS = [4, 5, 0]


def filled(shape, dtype=np.float32):
    """Elements that are all different, in float16 as well."""
    return np.arange(1, 1 + np.prod(shape), dtype=np.uint16).view(np.float16).astype(dtype).reshape(shape)


def gathered(cache, lengths, path):
    """The same by NumPy: all rows read, then all written. cache (..., B, G, S, D)."""
    want = cache.copy()
    for b, nodes in enumerate(path):
        nodes = nodes[nodes >= 0]
        rows = np.take(cache[..., b, :, :, :], lengths[b] + nodes, -2)
        want[..., b, :, lengths[b] : lengths[b] + len(nodes), :] = rows
    return want


def paged(cache, table, page_rows):
    """(B, G, S, D) cut into pages at the places a table names; pages nobody names are NaN."""
    batch, groups, rows, width = cache.shape
    pages = np.full((table.max() + 3, groups, page_rows, width), np.nan, cache.dtype)
    for b in range(batch):
        for m in range(rows // page_rows):
            pages[table[b, m]] = cache[b, :, m * page_rows : (m + 1) * page_rows]
    return pages


@pytest.mark.parametrize("width", [1, 2, 3, 8, 16, 33])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_equals_a_gather(backend, width, dtype):
    cache = filled((3, 2, 12, width), dtype)
    want = gathered(cache, LENGTHS, PATH)
    assert tree.compact_cache(cache, LENGTHS, PATH).tolist() == [7, 5, 5]
    np.testing.assert_array_equal(cache, want)
    assert tokernel.last_backend() == backend


@pytest.mark.parametrize("nodes", [1, 7, 8, 9, 17])
def test_long_paths(backend, nodes, rng):
    """Around the rows that a device thread reads at once; every kind of overlap of sources and destinations."""
    for _ in range(3):
        path = np.sort(rng.permutation(20)[:nodes])[None]
        cache = filled((1, 2, 24, 4))
        want = gathered(cache, [4], path)
        assert tree.compact_cache(cache, np.array([4]), path).tolist() == [4 + nodes]
        np.testing.assert_array_equal(cache, want)


def test_all_layers_at_once(backend):
    cache = filled((2, 3, 2, 12, 4))
    want = gathered(cache, LENGTHS, PATH)
    tree.compact_cache(cache, LENGTHS, PATH)
    np.testing.assert_array_equal(cache, want)


@pytest.mark.parametrize(
    ("shape", "view"),
    [
        ((3, 14, 2, 4), lambda x: x.swapaxes(1, 2)),  # rows outside of groups
        ((4, 2, 16, 9), lambda x: x[:3, :, 1:13, 2:6]),
        ((5, 6, 12, 9), lambda x: x[::2, ::3]),
        ((3, 2, 12, 9), lambda x: x[..., :8]),
        ((3, 12, 2, 2, 8), lambda x: x[:, :, 1].swapaxes(1, 2)),  # keys and values side by side
    ],
)
def test_strided_views(backend, shape, view):
    whole = filled(shape)
    kept = whole.copy()
    want = gathered(view(whole), LENGTHS, PATH)
    tree.compact_cache(view(whole), LENGTHS, PATH)
    np.testing.assert_array_equal(view(whole), want)
    view(kept)[:] = want
    np.testing.assert_array_equal(whole, kept)  # nothing beside the view has changed


@pytest.mark.parametrize("page_rows", [1, 2, 4, 12])
def test_pages_equal_a_whole_cache(backend, page_rows, rng):
    cache = filled((3, 2, 12, 4))
    table = rng.permutation(3 * 12 // page_rows + 2)[: 3 * 12 // page_rows].reshape(3, -1)
    pages = paged(cache, table, page_rows)
    got = tree.compact_cache(pages, LENGTHS, PATH, table.astype(np.int32))
    np.testing.assert_array_equal(got, tree.compact_cache(cache, LENGTHS, PATH))
    np.testing.assert_array_equal(pages, paged(cache, table, page_rows))


def test_layers_of_pages_and_rows_outside_of_groups(backend):
    cache = filled((3, 2, 12, 4))
    table = np.arange(9).reshape(3, 3)[::-1]
    one = paged(cache, table, 4)
    pages = np.ascontiguousarray(np.stack([one, one + 1]).swapaxes(2, 3)).swapaxes(2, 3)
    tree.compact_cache(pages, LENGTHS, PATH, table)
    tree.compact_cache(cache, LENGTHS, PATH)
    np.testing.assert_array_equal(pages[0], paged(cache, table, 4))
    np.testing.assert_array_equal(pages[1], paged(cache, table, 4) + 1)


def test_shared_pages_are_fine_where_nothing_is_written(backend):
    """Sequences that share a prompt share its pages; here both lengths end a page."""
    table = np.array([[0, 1], [0, 2]])
    pages = filled((3, 1, 4, 2))
    before = pages.copy()
    tree.compact_cache(pages, np.array([4, 4]), np.array([[0, 2], [1, 3]]), table)
    np.testing.assert_array_equal(pages[0], before[0])
    np.testing.assert_array_equal(pages[1:, 0, :2], [before[1, 0, [0, 2]], before[2, 0, [1, 3]]])


def test_pages_that_hold_no_named_row_are_not_looked_at(backend):
    pages = filled((2, 1, 4, 2))
    table = np.array([[99, 1, -5]])
    assert tree.compact_cache(pages, np.array([5]), np.array([[0, 2]]), table).tolist() == [7]


def test_the_official_code_moves_the_same_rows(backend, golden):
    for name in ("medusa_small", "medusa_mc63_v48"):
        data = np.load(golden / "tree_attention" / f"{name}.npz")
        cache = data["kv_before"].copy()  # (layers * 2, 1, heads, rows, width)
        best, accepted = data["greedy_best"][-1], data["greedy_accept"][-1]
        path = data["retrieve_indices"][best][None, : accepted + 1]
        lengths = tree.compact_cache(cache, data["prev_len"].reshape(1), path)
        assert lengths.tolist() == [data["kv_len_after"]]
        np.testing.assert_array_equal(cache[:, :, :, : lengths[0]], data["kv_after"])


def test_bits_survive(backend):
    """NaN payloads and negative zeros are copied, not computed with."""
    bits = np.arange(0x7F800001, 0x7F800001 + 12, dtype=np.uint32).reshape(1, 1, 6, 2)
    cache = bits.view(np.float32).copy()
    tree.compact_cache(cache, np.array([0]), np.array([[1, 3, 5]]))
    np.testing.assert_array_equal(cache.view(np.uint32)[0, 0, :3], bits[0, 0, [1, 3, 5]])


def test_bfloat16(backend):
    torch = pytest.importorskip("torch", reason="NumPy has no bfloat16")
    cache = torch.from_numpy(filled((3, 2, 12, 8)))
    want = gathered(cache.bfloat16().float().numpy(), LENGTHS, PATH)
    small = cache.bfloat16()
    got = tree.compact_cache(small, torch.from_numpy(LENGTHS), torch.from_numpy(PATH))
    assert got.tolist() == [7, 5, 5]
    np.testing.assert_array_equal(small.float().numpy(), want)


@pytest.mark.parametrize(
    ("cache", "path"),
    [
        ((0, 2, 4, 3), (0, 2)),
        ((2, 0, 4, 3), (2, 2)),
        ((2, 2, 4, 0), (2, 2)),
        ((2, 2, 4, 3), (2, 0)),
        ((0, 2, 2, 4, 3), (2, 2)),
    ],
    ids=str,
)
def test_nothing_to_move(backend, cache, path):
    nodes = np.broadcast_to(np.arange(path[1]), path).copy()
    lengths = np.ones(path[0], np.int64)
    got = tree.compact_cache(np.zeros(cache, np.float32), lengths, nodes)
    np.testing.assert_array_equal(got, lengths + path[1])


def test_int32_and_out(backend):
    cache = filled((3, 2, 12, 4))
    out = np.zeros(3, np.int64)
    got = tree.compact_cache(cache, LENGTHS.astype(np.int32), PATH.astype(np.int32), out=out)
    assert got is out
    assert out.tolist() == [7, 5, 5]


@pytest.mark.parametrize(
    ("lengths", "path", "message"),
    [
        ([5], [[0, 2]], r"path must be of nodes whose rows, behind the length, are in the cache, got 2 of sequence 0"),
        ([-1], [[0]], r"lengths must be in \[0, 6\], the rows of the cache, got -1 of sequence 0"),
        ([7], [[-1]], r"lengths must be in \[0, 6\], the rows of the cache, got 7 of sequence 0"),
        ([1], [[0, 2, 2]], r"path must be strictly increasing, got 2 of sequence 0"),
        ([1], [[2, 0]], r"path must be strictly increasing, got 0 of sequence 0"),
        ([1], [[0, -1, 2]], r"path must be -1 only behind its nodes, got 2 of sequence 0"),
        ([1], [[0, -2]], r"path must be nodes, then -1, got -2 of sequence 0"),
        ([1], [[2**63 - 1]], r"path must be of nodes whose rows"),
    ],
)
def test_refuses(backend, lengths, path, message):
    cache = filled((1, 1, 6, 2))
    before = cache.copy()
    with pytest.raises(ValueError, match=f"compact_cache: {message}"):
        tree.compact_cache(cache, np.array(lengths), np.array(path))
    np.testing.assert_array_equal(cache, before)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([[0, 3], [1, 2]], r"pages must be in \[0, 3\) where rows are moved, got 3 of sequence 0"),
        ([[0, -1], [1, 2]], r"pages must be in \[0, 3\) where rows are moved, got -1 of sequence 0"),
        ([[0, 1], [1, 2]], r"pages must be of one sequence, named once, where rows are moved, got page 1 twice"),
        ([[0, 0], [1, 2]], r"pages must be of one sequence, named once, where rows are moved, got page 0 twice"),
    ],
)
def test_refuses_pages(backend, table, message):
    cache = filled((3, 1, 4, 2))
    before = cache.copy()
    with pytest.raises(ValueError, match=f"compact_cache: {message}"):
        tree.compact_cache(cache, np.array([2, 2]), np.array([[1, 2], [1, 3]]), np.array(table))
    np.testing.assert_array_equal(cache, before)


def test_refuses_caches_that_cannot_be_changed(backend):
    cache = filled((1, 2, 6, 4))
    lengths, path = np.array([1]), np.array([[0, 2]])
    frozen = cache.copy()
    frozen.flags.writeable = False
    repeated = np.lib.stride_tricks.as_strided(cache, (2, 2, 6, 4), (0, *cache.strides[1:]))
    for spoiled, message in (
        (frozen, "cache must be writable, got a read-only array"),
        (cache[..., ::2], "cache must be contiguous along its last dimension, got a strided array"),
        (cache[:, :, ::-1], "cache must be free of shared memory and negative strides, got a view with some"),
    ):
        with pytest.raises(ValueError, match=f"compact_cache: {message}"):
            tree.compact_cache(spoiled, lengths, path)
    with pytest.raises(ValueError, match="compact_cache: cache must be free of shared memory"):
        tree.compact_cache(repeated, np.array([1, 1]), np.array([[0], [0]]))
    with pytest.raises(
        ValueError, match="compact_cache: lengths must be memory of its own, got an array that overlaps"
    ):
        tree.compact_cache(cache, cache.view(np.int64).reshape(-1)[:1], path)


def test_bits_do_not_depend_on_threads(backend):
    cache = filled((3, 4, 12, 300 if backend != "simt" else 3))

    def run():
        copy = cache.copy()
        tree.compact_cache(copy, LENGTHS, PATH)
        return copy

    np.testing.assert_array_equal(*on_one_and_two_threads(run))
