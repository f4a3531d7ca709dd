# SPDX-License-Identifier: Apache-2.0
"""expand_greedy on every backend against the recursion of DySpec written in NumPy, and against its laws."""

import heapq

import numpy as np
import pytest

from tokernel.kernels import tree


def draws(rng, batch, nodes, k, exhaust=0.3):
    """Tables as sample_without_replacement makes them: shares of what is left, some rows used up early."""
    p = rng.random((batch, nodes, k)).astype(np.float32)
    for row in p.reshape(batch * nodes, k):
        if k and rng.random() < exhaust:
            last = rng.integers(k)
            row[last], row[last + 1 :] = 1, 0
    return p


def oracle(draw_p, known, budget=None, threshold=None, max_depth=None):
    """One tree: lists of (parent, rank, value, v when drawn), and the wanted nodes. float32 as the contract says."""
    nodes, k = draw_p.shape
    one = np.float32(1)
    found, depth = [(-1, 0, one, one)], [0]

    def chance(i, r):
        return draw_p[i, r] if r < k else np.float32(0)

    def add(i, r, v):
        found.append((i, r, v * chance(i, r), v))
        depth.append(depth[i] + 1)

    def bears(i):
        return max_depth is None or depth[i] < max_depth

    if budget is not None:
        heap, pushed = [(-one, 0, 0, 0)] if bears(0) else [], 1
        while heap and len(found) <= budget:
            v, _, i, r = heapq.heappop(heap)
            if not known[i]:
                return found, [i]
            if chance(i, r) == 0:
                continue
            add(i, r, -v)
            heapq.heappush(heap, (v * (one - chance(i, r)), pushed, i, r + 1))
            if bears(len(found) - 1):
                heapq.heappush(heap, (-found[-1][2], pushed + 1, len(found) - 1, 0))
            pushed += 2
        return found, []
    level = [0]
    while level and len(found) < nodes:
        level = [i for i in level if bears(i) and found[i][2] >= np.float32(threshold)]
        wanted = [i for i in level if not known[i]]
        if wanted:
            return found, wanted
        first = len(found)
        for i in level:
            v, r = found[i][2], 0
            while v >= np.float32(threshold) and chance(i, r) > 0 and len(found) < nodes:
                add(i, r, v)
                v, r = v * (one - chance(i, r)), r + 1
        level = list(range(first, len(found)))
    return found, []


def check(draw_p, known, **limits):
    got = tree.expand_greedy(draw_p, known, **limits)
    for b in range(len(draw_p)):
        found, wanted = oracle(draw_p[b], known[b], **limits)
        n = len(found)
        parents, rank, value, _ = (list(column) for column in zip(*found, strict=True))
        assert got.count[b] == n
        assert got.parents[b].tolist() == parents + [-1] * (draw_p.shape[1] - n)
        assert got.rank[b].tolist() == rank + [-1] * (draw_p.shape[1] - n)
        np.testing.assert_array_equal(got.value[b], value + [0] * (draw_p.shape[1] - n))
        assert np.flatnonzero(got.wanted[b]).tolist() == wanted
    return got


SIZES = [(1, 1, 0), (1, 1, 1), (2, 2, 1), (3, 7, 2), (1, 31, 3), (2, 33, 5), (1, 100, 4)]


@pytest.mark.parametrize("shape", SIZES, ids=str)
@pytest.mark.parametrize("depth", [None, 0, 1, 3])
def test_equals_the_oracle(backend, shape, depth, rng):
    draw_p = draws(rng, *shape)
    for share in (1.0, 0.7):
        known = rng.random(shape[:2]) < share
        for budget in {0, 1, shape[1] // 2, shape[1] - 1} - {shape[1]}:
            check(draw_p, known, budget=budget, max_depth=depth)
        for threshold in (0.0, 0.02, 0.3, 1.0):
            check(draw_p, known, threshold=threshold, max_depth=depth)


@pytest.mark.parametrize("limits", [{"budget": 60}, {"threshold": 0.01}], ids=str)
def test_ties_go_to_the_earliest_pushed(backend, limits):
    """Halves and quarters only: most values are met several times."""
    draw_p = np.random.default_rng(1).choice(np.float32([0.5, 0.25, 0.75, 1.0]), (2, 64, 4))
    check(draw_p, np.ones((2, 64), bool), **limits)


@pytest.mark.parametrize("limits", [{"budget": 40}, {"threshold": 0.02}], ids=str)
def test_the_tree_only_grows(backend, limits, rng):
    """Filling the rows that are wanted leads to the tree of the full table, and every tree on the way begins it."""
    draw_p = draws(rng, 3, 48, 4)
    whole = tree.expand_greedy(draw_p, np.ones((3, 48), bool), **limits)
    assert not whole.wanted.any()
    known = np.zeros((3, 48), bool)
    steps = 0
    while True:
        part = tree.expand_greedy(np.where(known[..., None], draw_p, np.float32(np.nan)), known, **limits)
        for b in range(3):
            n = part.count[b]
            np.testing.assert_array_equal(part.parents[b, :n], whole.parents[b, :n])
            np.testing.assert_array_equal(part.value[b, :n], whole.value[b, :n])
        if not part.wanted.any():
            break
        assert not (known & part.wanted).any()
        known |= part.wanted
        steps += 1
    for a, b in zip(part, whole, strict=True):
        np.testing.assert_array_equal(a, b)
    assert steps <= 41


def popped_values(draw_p, found, b):
    """v of the draw that made each node, from the table: ancestors' p times earlier siblings' 1 - p."""
    values = []
    for i in range(1, found.count[b]):
        parent, rank = found.parents[b, i], found.rank[b, i]
        v = np.float64(found.value[b, parent])
        values.append(v * np.prod(1 - draw_p[b, parent, :rank].astype(np.float64)))
    return np.array(values)


def test_popped_values_never_rise_and_the_value_is_their_product(backend, rng):
    draw_p = draws(rng, 2, 80, 6)
    got = tree.expand_greedy(draw_p, np.ones((2, 80), bool), budget=79)
    for b in range(2):
        v = popped_values(draw_p, got, b)
        assert (np.diff(v) <= 1e-6 * v[1:]).all()
        children = slice(1, got.count[b])
        p = draw_p[b, got.parents[b, children], got.rank[b, children]]
        np.testing.assert_allclose(got.value[b, children], v * p, rtol=3e-7 * 16)  # a rounding a factor


def test_a_threshold_at_the_last_popped_value_gives_the_same_nodes(backend, rng):
    draw_p = draws(rng, 1, 200, 6, exhaust=0)
    known = np.ones((1, 200), bool)
    by_budget = tree.expand_greedy(draw_p, known, budget=60)
    rows = {}  # the same table, but rows follow the tokens: node numbers differ between the two searches

    def name(found, i):
        path = []
        while i > 0:
            path.append(int(found.rank[0, i]))
            i = found.parents[0, i]
        return tuple(path[::-1])

    for i in range(200):
        rows.setdefault(name(by_budget, i) if i < by_budget.count[0] else ("other", i), draw_p[0, i])
    last = popped_values(draw_p, by_budget, 0)[-1]
    levels = np.zeros_like(draw_p)
    known = np.zeros((1, 200), bool)
    while True:
        got = tree.expand_greedy(levels, known, threshold=float(last) * (1 - 1e-5))
        if not got.wanted.any():
            break
        for i in np.flatnonzero(got.wanted[0]):
            levels[0, i] = rows.get(name(got, i), 0)
            known[0, i] = True
    names = [{name(f, i) for i in range(f.count[0])} for f in (by_budget, got)]
    assert names[0] == names[1]


def test_budget_of_one_and_a_point_mass(backend):
    """One drafted token is ordinary speculation; a draft that is certain makes a chain."""
    draw_p = np.zeros((1, 9, 3), np.float32)
    draw_p[..., 0] = 1
    known = np.ones((1, 9), bool)
    assert tree.expand_greedy(draw_p, known, budget=1).parents.tolist() == [[-1, 0, *[-1] * 7]]
    chain = tree.expand_greedy(draw_p, known, budget=8)
    assert chain.parents.tolist() == [list(range(-1, 8))]
    assert (chain.value == 1).all()


def test_fewer_nodes_where_the_mass_or_the_table_ends(backend):
    draw_p = np.zeros((2, 9, 2), np.float32)
    draw_p[0, 0] = [0.5, 1.0]  # two tokens have all the mass; nothing is known to follow them
    draw_p[1, :, :] = 0.25  # two draws a node are tabled: the root cannot have a third child
    got = tree.expand_greedy(draw_p, np.ones((2, 9), bool), budget=8, max_depth=1)
    assert got.count.tolist() == [3, 3]
    assert not got.wanted.any()


def test_value_zero_is_still_a_draw_of_a_budget(backend):
    """p rounds to 1 before the mass is used up: the next sibling has value 0, and is drawn when nothing better is."""
    draw_p = np.array([[[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]], np.float32)
    known = np.ones((1, 3), bool)
    got = tree.expand_greedy(draw_p, known, budget=2)
    assert got.parents.tolist() == [[-1, 0, 0]]
    assert got.value.tolist() == [[1, 1, 0]]
    assert tree.expand_greedy(draw_p, known, threshold=0.5).count.tolist() == [2]


def test_threshold_above_one_leaves_the_root(backend):
    got = tree.expand_greedy(np.full((2, 4, 2), 0.5, np.float32), np.zeros((2, 4), bool), threshold=1.5)
    assert got.count.tolist() == [1, 1]
    assert not got.wanted.any()


def test_threshold_stops_at_the_cap(backend, rng):
    draw_p = draws(rng, 1, 40, 8, exhaust=0)
    got = check(draw_p, np.ones((1, 40), bool), threshold=1e-4)
    assert got.count[0] == 40


def test_no_trees(backend):
    got = tree.expand_greedy(np.zeros((0, 5, 2), np.float32), np.zeros((0, 5), bool), budget=3)
    assert [x.shape for x in got] == [(0, 5), (0, 5), (0, 5), (0,), (0, 5)]


def test_views_integers_and_out(backend, rng):
    draw_p = draws(rng, 4, 20, 6)
    known = rng.random((4, 20)) < 0.8
    want = tree.expand_greedy(draw_p[::2, ::2, ::2].copy(), known[::2, ::2].copy(), budget=9)
    out = tuple(np.full_like(x, 1) for x in want)
    got = tree.expand_greedy(draw_p[::2, ::2, ::2], known[::2, ::2].view(np.uint8), budget=9, out=out)
    for a, b, c in zip(got, want, out, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a is c


def test_refuses(backend):
    draw_p, known = np.full((1, 4, 2), 0.5, np.float32), np.array([[True, True, False, True]])
    for limits, got in (({}, "neither"), ({"budget": 1, "threshold": 0.5}, "both")):
        with pytest.raises(ValueError, match=rf"expand_greedy: budget must be given or .*, got {got}$"):
            tree.expand_greedy(draw_p, known, **limits)
    with pytest.raises(ValueError, match=r"expand_greedy: budget must be less than the 4 nodes of draw_p, got 4"):
        tree.expand_greedy(draw_p, known, budget=4)
    with pytest.raises(ValueError, match=r"expand_greedy: threshold must be .*, got -0\.5"):
        tree.expand_greedy(draw_p, known, threshold=-0.5)
    with pytest.raises(ValueError, match=r"expand_greedy: max_depth must be .*, got -1"):
        tree.expand_greedy(draw_p, known, budget=1, max_depth=-1)
    for nodes in (0, 4097):
        with pytest.raises(ValueError, match=rf"expand_greedy: draw_p must be of 1 to 4096 nodes, got {nodes}"):
            tree.expand_greedy(np.zeros((1, nodes, 1), np.float32), np.zeros((1, nodes), bool), threshold=0.5)
    for bad in (np.nan, -0.1, 1.5, np.inf):
        draw_p[0, 1, 1] = bad
        with pytest.raises(ValueError, match=r"draw_p must be in \[0, 1\] where known, got .* position 3"):
            tree.expand_greedy(draw_p, known, budget=1)
        draw_p[0, 1, 1] = 0.5
        draw_p[0, 2, 1] = bad  # not known, not read
        tree.expand_greedy(draw_p, known, budget=1)
