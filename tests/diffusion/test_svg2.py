# SPDX-License-Identifier: Apache-2.0
"""Sparse VideoGen2: the official outputs, and every line of "What must be true" of the paper's page."""

import copy
import math
import pickle
from itertools import pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")

from tokernel.diffusion import svg2
from tokernel.ops import BlockMap, attention, centroid_topp_map
from tokernel.papers import paper

ATOL = 2e-5  # of the golden files


def load(golden, name):
    with np.load(golden / "svg2" / f"{name}.npz") as file:
        return {k: torch.from_numpy(v) if v.ndim else v.item() for k, v in file.items()}


def qkv(tokens=40, heads=2, width=16, batch=1, seed=1, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    return [spread * x for x in torch.randn(3, batch, heads, tokens, width, generator=generator).unbind(0)]


def random_labels(clusters, *shape, seed=2):
    return torch.randint(clusters, shape, generator=torch.Generator().manual_seed(seed))


def random_map(*shape, seed=3):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < 0.4


def sizes_of(labels, clusters):
    return torch.nn.functional.one_hot(labels, clusters).sum(-2)


def dense(q, k, v, mask=None):
    """The oracle: float64 attention under a mask of pairs; zeros where a query sees nothing."""
    out = torch.nn.functional.scaled_dot_product_attention(q.double(), k.double(), v.double(), mask)
    if mask is not None:
        out = torch.where(mask.any(-1, keepdim=True), out, 0.0)
    return out.to(q.dtype)


def pairs(M, labels_q, labels_k):
    """The map of clusters, pair by pair of tokens in their original order."""
    rows = M.gather(2, labels_q[..., None].expand(-1, -1, -1, M.shape[3]))
    return rows.gather(3, labels_k[:, :, None].expand(-1, -1, labels_q.shape[2], -1))


def sparse(q, k, v, labels_q, labels_k, M):
    """Permute, attend, put back."""
    q, order = svg2.permute_by_labels(q, labels_q, M.shape[2])
    k, order_k = svg2.permute_by_labels(k, labels_k, M.shape[3])
    v, _ = svg2.permute_by_labels(v, index=order_k)
    rows, columns = sizes_of(labels_q, M.shape[2]), sizes_of(labels_k, M.shape[3])
    return svg2.inverse_permute(svg2.varblock_sparse_attention(q, k, v, M, rows, columns), order)


@pytest.mark.usefixtures("backend")
class TestGolden:
    @pytest.mark.parametrize("name", ["kmeans_2iter", "kmeans_converge"])
    def test_kmeans(self, golden, name):
        d = load(golden, name)
        out = svg2.batched_kmeans(d["x"], d["init"].shape[1], d["max_iters"], d["tol"], d["init"])
        assert torch.equal(out.labels, d["labels"])
        assert torch.equal(out.sizes, d["sizes"])
        assert out.n_iter == d["n_iters"]
        torch.testing.assert_close(out.centroids, d["centroids"], atol=ATOL, rtol=0)

    def test_map(self, golden):
        d = load(golden, "topp_map")
        M, shares = centroid_topp_map(
            d["q_centroids"], d["k_centroids"], d["k_sizes"], d["top_p"], d["min_kc_ratio"], return_prob=True
        )
        torch.testing.assert_close(shares, d["probs"], atol=ATOL, rtol=0)
        assert torch.equal(M, d["dynamic_map"])
        density = svg2.map_density(M, d["q_sizes"], d["k_sizes"])
        torch.testing.assert_close(density, d["density"], atol=ATOL, rtol=0)

    def test_whole_chain(self, golden):
        d = load(golden, "sap_attention")
        clusters = d["q_init"].shape[1], d["k_init"].shape[1]
        ours = svg2.SemanticAwareAttention(
            *clusters, d["top_p"], d["min_kc_ratio"], iter_step=d["max_iters"], tol=d["tol"]
        )
        ours.centroids[0] = d["q_init"], d["k_init"]
        out = ours(d["q"], d["k"], d["v"])
        torch.testing.assert_close(out, d["out"], atol=ATOL, rtol=0)
        torch.testing.assert_close(ours.density[0], d["density"], atol=ATOL, rtol=0)
        for side, found in zip("qk", ours.centroids[0], strict=True):
            torch.testing.assert_close(found, d[f"{side}_centroids"][0], atol=ATOL, rtol=0)
            again = svg2.batched_kmeans(d[side][0], len(found[0]), d["max_iters"], d["tol"], d[f"{side}_init"])
            assert torch.equal(again.labels, d[f"{side}_labels"][0])
            assert torch.equal(again.sizes, d[f"{side}_sizes"][0])
        M = svg2.centroid_topp_map(d["q_centroids"], d["k_centroids"], d["k_sizes"], d["top_p"], d["min_kc_ratio"])
        assert torch.equal(M, d["dynamic_map"])

    def test_permuted_attention(self, golden):
        d = load(golden, "sap_attention")
        out = sparse(d["q"], d["k"], d["v"], d["q_labels"], d["k_labels"], d["dynamic_map"])
        torch.testing.assert_close(out, d["out"], atol=ATOL, rtol=0)

    def test_text_blocks_of_hunyuan(self, golden):
        d = load(golden, "hunyuan_text_blocks")
        V, context = d["video_length"], d["context_length"]
        M = d["dynamic_map"]
        video = svg2.Blocks(M, sizes_of(d["q_labels"], M.shape[2]), sizes_of(d["k_labels"], M.shape[3]))
        blocks = svg2.text_blocks(video, d["prompt_length"], context)
        assert torch.equal(blocks.M, d["ext_dynamic_map"])
        assert torch.equal(blocks.row_sizes, d["ext_q_sizes"])
        assert torch.equal(blocks.col_sizes, d["ext_k_sizes"])
        text = torch.arange(V, V + context).expand(*M.shape[:2], -1)
        orders = []
        for labels, clusters in ((d["q_labels"], M.shape[2]), (d["k_labels"], M.shape[3])):
            _, order = svg2.permute_by_labels(d["q"][:, :, :V], labels, clusters)
            orders.append(torch.cat([order, text], 2))
        q, k, v = (
            svg2.permute_by_labels(d[name], index=order)[0]
            for name, order in (("q", orders[0]), ("k", orders[1]), ("v", orders[1]))
        )
        out = svg2.inverse_permute(svg2.varblock_sparse_attention(q, k, v, *blocks), orders[0])
        torch.testing.assert_close(out, d["out"], atol=ATOL, rtol=0)


class TestWhatMustBeTrue:
    @pytest.mark.parametrize(("tokens", "clusters"), [(1, 1), (40, 7), (33, 50)])
    def test_1_a_full_map_is_dense_attention_for_any_labels(self, tokens, clusters):
        q, k, v = qkv(tokens)
        labels = random_labels(clusters, 2, 1, 2, tokens)
        M = torch.ones(1, 2, clusters, clusters, dtype=torch.bool)
        torch.testing.assert_close(sparse(q, k, v, labels[0], labels[1], M), dense(q, k, v), atol=1e-6, rtol=0)
        ours = svg2.SemanticAwareAttention(clusters, clusters + 1, top_p=1.0, min_ratio=1.0, iter_init=3)
        torch.testing.assert_close(ours(q, k, v), dense(q, k, v), atol=1e-6, rtol=0)
        assert torch.equal(ours.density[0], torch.ones(1, 2))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_2_permutation_is_undone_bit_for_bit(self, dtype):
        x = qkv(batch=2)[0].to(dtype)
        labels = random_labels(6, 2, 2, 40)
        permuted, order = svg2.permute_by_labels(x, labels)
        assert torch.equal(svg2.inverse_permute(permuted, order), x)
        assert torch.equal(labels.gather(2, order), labels.sort(dim=2, stable=True).values)
        assert torch.equal(order, labels.sort(dim=2, stable=True).indices)
        assert not torch.equal(permuted, x)

    def test_2_permuting_keys_and_values_together_changes_nothing(self):
        q, k, v = qkv()
        k2, order = svg2.permute_by_labels(k, random_labels(6, 1, 2, 40))
        v2, same = svg2.permute_by_labels(v, index=order)
        assert same is order
        torch.testing.assert_close(attention(q, k2, v2), attention(q, k, v), atol=1e-6, rtol=0)

    def test_3_order_inside_clusters_and_names_of_clusters_do_not_matter(self):
        q, k, v = qkv()
        labels_q, labels_k, M = random_labels(4, 1, 2, 40), random_labels(6, 1, 2, 40, seed=4), random_map(1, 2, 4, 6)
        out = sparse(q, k, v, labels_q, labels_k, M)
        names_q, names_k = torch.tensor([2, 0, 3, 1]), torch.tensor([5, 3, 0, 1, 4, 2])
        renamed = torch.empty_like(M)
        renamed[:, :, names_q[:, None], names_k] = M
        torch.testing.assert_close(
            sparse(q, k, v, names_q[labels_q], names_k[labels_k], renamed), out, atol=1e-6, rtol=0
        )
        # Other tokens first: the order inside every cluster is another one.
        shuffled = torch.randperm(40, generator=torch.Generator().manual_seed(5))
        tensors = [x[:, :, shuffled] for x in (q, k, v, labels_q, labels_k)]
        torch.testing.assert_close(sparse(*tensors, M), out[:, :, shuffled], atol=1e-6, rtol=0)

    @pytest.mark.parametrize(("tokens", "clusters_q", "clusters_k"), [(40, 4, 6), (17, 30, 3), (40, 1, 40)])
    def test_4_a_block_of_rows_is_dense_attention_to_its_blocks_of_keys(self, tokens, clusters_q, clusters_k):
        q, k, v = qkv(tokens, batch=2)
        labels_q = random_labels(clusters_q, 2, 2, tokens)
        labels_k = random_labels(clusters_k, 2, 2, tokens, seed=4)
        M = random_map(2, 2, clusters_q, clusters_k)
        M[0, 0, 0] = False  # a block that sees nothing
        out = sparse(q, k, v, labels_q, labels_k, M)
        torch.testing.assert_close(out, dense(q, k, v, pairs(M, labels_q, labels_k)), atol=1e-6, rtol=0)

    @pytest.mark.parametrize("p", [0.0, 0.3, 0.9, 1.0])
    @pytest.mark.parametrize("ratio", [0.0, 0.1, 0.5, 1.0])
    def test_5_rows_keep_the_fewest_clusters_that_pass_p(self, p, ratio):
        qc, kc, _ = qkv(24, width=8, batch=2, spread=1.5)
        sizes = random_labels(9, 2, 2, 24)
        M, shares = centroid_topp_map(qc, kc, sizes, p, ratio, return_prob=True)
        forced = int(ratio * 24)
        kept = M.sum(-1)
        assert (kept >= max(1, forced)).all()
        mass = torch.where(M, shares.double(), 0).sum(-1)
        assert (mass >= min(p, 1) - 1e-6).all()
        # Without the least probable of the kept clusters, those beyond the forced ones do not pass p.
        least = torch.where(M, shares.double(), math.inf).amin(-1)
        assert (mass - least <= p + 1e-6)[kept > max(1, forced)].all()
        # What is kept is at least as probable as what is not.
        assert (least >= torch.where(M, 0, shares.double()).amax(-1) - 1e-6).all()

    def test_5_p_0_keeps_exactly_one_and_maps_are_nested(self):
        qc, kc, _ = qkv(24, width=8, spread=1.5)
        sizes = random_labels(9, 1, 2, 24)
        maps = [svg2.centroid_topp_map(qc, kc, sizes, p, 0.0) for p in (0.0, 0.2, 0.5, 0.9, 0.99, 1.0)]
        assert (maps[0].sum(-1) == 1).all()
        assert all((small <= large).all() for small, large in pairwise(maps))

    def test_6_inertia_never_rises(self):
        x = qkv(60, heads=3, width=4)[0][0]
        init = x[:, :7]
        inertia = []
        for iterations in range(1, 8):
            labels, centroids, sizes, n_iter = svg2.batched_kmeans(x, 7, iterations, 0.0, init)
            assert n_iter == iterations
            member = torch.nn.functional.one_hot(labels, 7).double()
            means = (member.mT @ x.double()) / member.sum(1)[..., None]
            torch.testing.assert_close(centroids[sizes > 0], means[sizes > 0].float(), atol=1e-6, rtol=0)
            assert torch.equal(sizes, member.sum(1).long())
            assert (sizes.sum(1) == 60).all()
            near = centroids.double().gather(1, labels[..., None].expand(-1, -1, 4))
            inertia.append(((x.double() - near) ** 2).sum().item())
        assert all(after <= before + 1e-5 for before, after in pairwise(inertia))
        assert inertia[-1] < inertia[0]

    def test_6_of_equal_initial_centroids_the_higher_index_stays_empty_and_as_it_was(self):
        x = qkv(30, width=4)[0][0]
        init = x[:, [0, 0, 1, 2]]
        _, centroids, sizes, _ = svg2.batched_kmeans(x, 4, 1, 0.0, init)
        assert (sizes[:, 1] == 0).all()
        assert torch.equal(centroids[:, 1], init[:, 1])

    def test_7_more_clusters_than_tokens(self):
        q, k, v = qkv(9)
        ours = svg2.SemanticAwareAttention(20, 31, top_p=0.8, iter_init=4)
        assert ours(q, k, v).isfinite().all()
        labels, _, sizes, _ = svg2.batched_kmeans(k[0], 31, 4)
        assert (sizes.sum(1) == 9).all()
        assert labels.max() < 31

    def test_7_empty_clusters_change_neither_map_nor_output(self):
        qc, kc, _ = qkv(8, width=8)
        sizes = random_labels(5, 1, 2, 8) + 1
        M, shares = centroid_topp_map(qc, kc, sizes, 0.7, return_prob=True)
        more = torch.cat([kc, kc.roll(1, 2) * 0.5], 2), torch.cat([sizes, torch.zeros_like(sizes)], 2)
        M2, shares2 = centroid_topp_map(qc, *more, 0.7, return_prob=True)
        torch.testing.assert_close(shares2[..., :8], shares, atol=1e-6, rtol=0)
        assert (shares2[..., 8:] == 0).all()
        assert torch.equal(M2[..., :8], M)
        q, k, v = qkv(20)
        labels = random_labels(4, 2, 1, 2, 20)
        M = random_map(1, 2, 4, 4)
        spread = torch.tensor([0, 2, 3, 7])  # the same clusters among empty ones
        wide = torch.ones(1, 2, 8, 9, dtype=torch.bool)
        wide[:, :, spread[:, None], spread] = M
        out = sparse(q, k, v, labels[0], labels[1], M)
        torch.testing.assert_close(sparse(q, k, v, spread[labels[0]], spread[labels[1]], wide), out, atol=1e-6, rtol=0)

    def test_8_a_warm_start_on_the_same_tokens_stops_at_once(self):
        x = qkv(60, width=4)[0][0]
        first = svg2.batched_kmeans(x, 5, 100, 1e-4, x[:, :5])
        assert first.n_iter < 100
        again = svg2.batched_kmeans(x, 5, 100, 1e-4, first.centroids)
        assert again.n_iter == 1
        assert torch.equal(again.centroids, first.centroids)
        assert torch.equal(again.labels, first.labels)
        q, k, v = qkv(60, width=4)
        ours = svg2.SemanticAwareAttention(5, 6, iter_init=100, iter_step=100)
        before = ours(q, k, v)
        assert min(ours.iterations[0]) > 1
        assert torch.equal(ours(q, k, v), before)
        assert ours.iterations[0] == (1, 1)

    def test_9_padding_and_the_rest_do_not_see_each_other(self):
        V, prompt, context = 24, 3, 7
        q, k, v = qkv(V + context)
        ours = svg2.SemanticAwareAttention(4, 5, top_p=0.5, iter_init=10)

        def run(q, k, v):
            ours.reset()
            return ours(q, k, v, prompt_length=prompt, context_length=context)

        out = run(q, k, v)
        real = V + prompt
        other = qkv(V + context, seed=9)
        changed = [torch.cat([a[:, :, :real], b[:, :, real:]], 2) for a, b in zip((q, k, v), other, strict=True)]
        assert torch.equal(run(*changed)[:, :, :real], out[:, :, :real])
        changed = [torch.cat([b[:, :, :real], a[:, :, real:]], 2) for a, b in zip((q, k, v), other, strict=True)]
        assert torch.equal(run(*changed)[:, :, real:], out[:, :, real:])
        torch.testing.assert_close(
            out[:, :, real:], dense(q[:, :, real:], k[:, :, real:], v[:, :, real:]), atol=1e-6, rtol=0
        )
        # The prompt sees the whole video and itself.
        torch.testing.assert_close(
            out[:, :, V:real], dense(q[:, :, V:real], k[:, :, :real], v[:, :, :real]), atol=1e-6, rtol=0
        )

    def test_10_density_is_the_share_of_pairs_that_the_kernel_visits(self):
        rows, columns = sizes_of(random_labels(5, 1, 2, 30), 5), sizes_of(random_labels(7, 1, 2, 30, seed=4), 7)
        full = torch.ones(1, 2, 5, 7, dtype=torch.bool)
        assert torch.equal(svg2.map_density(full, rows, columns), torch.ones(1, 2))
        M = random_map(1, 2, 5, 7)
        zeros = torch.zeros(1, 2, 30, 4)
        # With zero logits, exp(lse) is the number of keys a query sees.
        _, lse = attention(zeros, zeros, zeros, BlockMap(M, rows, columns), return_lse=True)
        visited = lse.double().exp().round().sum(-1)
        torch.testing.assert_close(svg2.map_density(M, rows, columns).double() * 900, visited, atol=1e-3, rtol=0)


class TestDenseRule:
    def test_thresholds(self):
        times = torch.linspace(1000, 20, 50)
        assert svg2.dense_above(0.2, times) == times[9] - 1
        assert svg2.dense_above(0.0, times) == svg2.dense_above(0.019, times) == svg2.NEVER_DENSE == 1001
        assert svg2.dense_above(1.0, times) == times[-1] - 1
        assert [svg2.dense_layers(0.03, n) for n in (30, 40, 60, 100)] == [0, 1, 1, 3]

    def test_the_first_steps_and_layers_are_dense(self):
        times = [1000, 800, 600, 400, 200]
        ours = svg2.SemanticAwareAttention(2, 2, dense_layers=1, dense_above=svg2.dense_above(0.4, times))
        assert [ours.is_dense(5, t) for t in times] == [True, True, False, False, False]
        assert ours.is_dense(0, 200)
        assert ours.is_dense((0, "unconditional"), 200)
        assert not ours.is_dense((1, "unconditional"), 200)
        assert not ours.is_dense(1)
        ours.timestep = 900
        assert ours.is_dense(1)

    @pytest.mark.parametrize("init", [False, True])
    def test_dense_calls_cluster_only_on_request(self, init):
        q, k, v = qkv(20)
        ours = svg2.SemanticAwareAttention(3, 4, 0.3, iter_init=9, dense_above=500.0, zero_step_kmeans_init=init)
        torch.testing.assert_close(ours(q, k, v, 2, timestep=700), dense(q, k, v), atol=1e-6, rtol=0)
        assert (2 in ours.centroids) is init
        assert ours.density == {}
        assert ours.mean_density() is None
        ours.iter_step = 0  # a warm call would then not iterate
        assert (ours(q, k, v, 2, timestep=300) - dense(q, k, v)).abs().max() > 1e-3
        assert (max(ours.iterations[2]) == 0) is init
        assert 0 < ours.mean_density() < 1

    def test_dense_calls_keep_padding_apart(self):
        q, k, v = qkv(20)
        out = svg2.SemanticAwareAttention(3, 4, dense_layers=1)(q, k, v, prompt_length=3, context_length=8)
        real = 15
        for part in (slice(0, real), slice(real, 20)):
            expected = dense(q[:, :, part], k[:, :, part], v[:, :, part])
            torch.testing.assert_close(out[:, :, part], expected, atol=1e-6, rtol=0)


class TestCaches:
    def test_queries_keys_and_layers_have_centroids_of_their_own(self):
        ours = svg2.SemanticAwareAttention(3, 4, iter_init=5)
        for layer in (0, 1):
            ours(*qkv(20, seed=layer), layer)
        assert [x.shape for x in ours.centroids[0]] == [(2, 3, 16), (2, 4, 16)]
        assert not torch.equal(ours.centroids[0][0], ours.centroids[1][0])

    def test_later_calls_start_warm_and_are_short(self):
        ours = svg2.SemanticAwareAttention(3, 4, iter_init=7, iter_step=2, tol=0.0)
        ours(*qkv(30))
        assert ours.iterations[0] == (7, 7)
        start = ours.centroids[0]
        ours(*qkv(30, seed=2))
        assert ours.iterations[0] == (2, 2)
        expected = svg2.batched_kmeans(qkv(30, seed=2)[0][0], 3, 2, 0.0, start[0]).centroids
        assert torch.equal(ours.centroids[0][0], expected)

    def test_reset_starts_as_at_first(self):
        ours = svg2.SemanticAwareAttention(3, 4, top_p=0.5, iter_init=5)
        first = ours(*qkv(30))
        ours(*qkv(30, seed=2))
        ours.reset()
        assert ours.centroids == ours.density == ours.iterations == {}
        assert torch.equal(ours(*qkv(30)), first)

    def test_no_global_random_state_is_touched(self):
        torch.manual_seed(0)
        state = torch.get_rng_state()
        first = svg2.SemanticAwareAttention(3, 4, top_p=0.5, iter_init=5)(*qkv(30))
        assert torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(1)
        assert torch.equal(svg2.SemanticAwareAttention(3, 4, top_p=0.5, iter_init=5)(*qkv(30)), first)
        other = svg2.SemanticAwareAttention(3, 4, top_p=0.5, iter_init=5, seed=7)
        other(*qkv(30))
        assert other.seed == 7

    def test_centroids_of_another_shape_are_no_start(self):
        ours = svg2.SemanticAwareAttention(3, 4, iter_init=5, tol=0.0)
        ours(*qkv(20))
        ours(*qkv(20, heads=3))
        assert ours.iterations[0] == (5, 5)
        ours(*(x.bfloat16() for x in qkv(20, heads=3)))
        assert ours.iterations[0] == (5, 5)

    @pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
    def test_copies_have_caches_of_their_own(self, duplicate):
        ours = svg2.SemanticAwareAttention(3, 4, iter_init=5)
        ours(*qkv(20))
        twin = duplicate(ours)
        assert torch.equal(twin.centroids[0][0], ours.centroids[0][0])
        twin.reset()
        assert ours.centroids


class TestBatches:
    def test_samples_are_independent_problems_under_one_stop(self):
        q, k, v = qkv(24, batch=2)
        start = q[:, :, :3].flatten(0, 1), k[:, :, :4].flatten(0, 1)
        ours = svg2.SemanticAwareAttention(3, 4, top_p=0.5, iter_step=3, tol=0.0)
        ours.centroids[0] = start
        together = ours(q, k, v)
        for sample in range(2):
            alone = svg2.SemanticAwareAttention(3, 4, top_p=0.5, iter_step=3, tol=0.0)
            alone.centroids[0] = tuple(x.unflatten(0, (2, 2))[sample] for x in start)
            assert torch.equal(alone(*(x[sample : sample + 1] for x in (q, k, v)))[0], together[sample])
            assert torch.equal(alone.density[0][0], ours.density[0][sample])

    def test_one_stopping_decision_for_all(self):
        steady = torch.tensor([0.0, 10.0]).repeat(1, 6)[..., None]
        moving = qkv(12, heads=1, width=1)[0][0]
        init = torch.cat([torch.tensor([[[0.0], [10.0]]]), moving[:, :2]])
        assert svg2.batched_kmeans(steady, 2, 50, 1e-4, init[:1]).n_iter == 1
        alone = svg2.batched_kmeans(moving, 2, 50, 1e-4, init[1:]).n_iter
        assert svg2.batched_kmeans(torch.cat([steady, moving]), 2, 50, 1e-4, init).n_iter == alone > 1

    def test_prompts_of_different_lengths(self):
        q, k, v = qkv(20, batch=2)
        ours = svg2.SemanticAwareAttention(3, 4, 1.0, 1.0, iter_init=5)
        out = ours(q, k, v, prompt_length=torch.tensor([2, 6]), context_length=6)
        for sample, real in ((0, 16), (1, 20)):
            expected = dense(*(x[sample, :, :real] for x in (q, k, v)))
            torch.testing.assert_close(out[sample, :, :real], expected, atol=1e-6, rtol=0)


class TestEdges:
    def test_no_tokens(self):
        q, k, v = qkv(0)
        assert svg2.varblock_sparse_attention(
            q, k, v, torch.ones(1, 2, 1, 1) > 0, *[torch.zeros(1, 2, 1, dtype=torch.int64)] * 2
        ).shape == (1, 2, 0, 16)
        out, order = svg2.permute_by_labels(q, torch.zeros(1, 2, 0, dtype=torch.int64))
        assert out.shape == q.shape
        assert order.shape == (1, 2, 0)
        assert svg2.SemanticAwareAttention(3, 4)(q, k, v).shape == q.shape

    def test_no_video(self):
        q, k, v = qkv(6)
        ours = svg2.SemanticAwareAttention(3, 4)
        out = ours(q, k, v, prompt_length=4, context_length=6)
        torch.testing.assert_close(out[:, :, :4], dense(*(x[:, :, :4] for x in (q, k, v))), atol=1e-6, rtol=0)
        assert ours.centroids == {}

    @pytest.mark.parametrize("shape", [(0, 2), (2, 0)])
    def test_no_samples_and_no_heads(self, shape):
        q = torch.zeros(*shape, 9, 8)
        assert svg2.SemanticAwareAttention(3, 4)(q, q, q).shape == q.shape

    def test_a_nan_stays_in_its_head_and_of_a_query_in_its_row(self):
        clean = svg2.SemanticAwareAttention(3, 4)(*qkv(12))
        for spoiled in range(2):
            tensors = qkv(12)
            tensors[spoiled][0, 0, 3] = math.nan
            bad = svg2.SemanticAwareAttention(3, 4)(*tensors).isnan().any(-1)
            assert bad[0, 0].any()
            assert not bad[0, 1].any()
            if spoiled == 0:
                assert bad[0, 0].nonzero().tolist() == [[3]]
        assert clean.isfinite().all()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision(self, dtype):
        q, k, v = (x.to(dtype) for x in qkv(32))
        labels, M = random_labels(4, 2, 1, 2, 32), random_map(1, 2, 4, 4) | torch.eye(4, dtype=torch.bool)
        mask = pairs(M, labels[0], labels[1])
        out = sparse(q, k, v, labels[0], labels[1], M)
        exact = dense(q.double(), k.double(), v.double(), mask)
        logits = (q @ k.mT * 0.25).masked_fill(~mask, -math.inf)
        naive = torch.where(mask.any(-1, keepdim=True), torch.softmax(logits, -1), 0) @ v
        assert out.dtype == dtype
        assert (out - exact).abs().max() <= 2 * (naive - exact).abs().max() + 1e-6
        assert svg2.SemanticAwareAttention(3, 4)(q, k, v).dtype == dtype

    def test_gradients_pass_the_chosen_pairs(self):
        tensors = qkv(20)
        labels, M = random_labels(4, 2, 1, 2, 20), random_map(1, 2, 4, 4)
        weight = qkv(20, seed=7)[0]
        ours, oracle = ([x.clone().requires_grad_() for x in tensors] for _ in range(2))
        (sparse(*ours, labels[0], labels[1], M) * weight).sum().backward()
        (dense(*oracle, pairs(M, labels[0], labels[1])) * weight).sum().backward()
        for a, b in zip(ours, oracle, strict=True):
            torch.testing.assert_close(a.grad, b.grad, atol=5e-6, rtol=1e-5)

    def test_bad_input_is_named(self):
        q, k, v = qkv(10)
        ours = svg2.SemanticAwareAttention(3, 4)
        one = torch.ones(1, 1, 1, dtype=torch.int64)
        for call, message in [
            (lambda: svg2.permute_by_labels(q), "expected labels or index; got neither"),
            (lambda: svg2.permute_by_labels(q, torch.zeros(1, 2, 9)), r"got \(1, 2, 10, 16\) and \(1, 2, 9\)"),
            (lambda: svg2.permute_by_labels(q, one.expand(1, 2, 10) * 5, 3), r"labels must be in \[0, 3\), got 5"),
            (lambda: ours(q, k[:, :1], v), "expected one shape"),
            (lambda: ours(q[0], k[0], v[0]), "expected one shape"),
            (lambda: ours(q, k, v, context_length=11), "between 0 and the 10 tokens; got 11"),
            (lambda: ours(q, k, v, context_length=4, prompt_length=5), "context_length 4; got 5"),
            (lambda: svg2.text_blocks(svg2.Blocks(one[..., None] > 0, one, one), -1, 4), "got -1"),
            (lambda: svg2.batched_kmeans(q[0], 0, 2), "K must be at least 1"),
            (
                lambda: svg2.centroid_topp_map(q, k, one.expand(1, 2, 10), 1.5, 0.0),
                r"p must be in \[0.0, 1.0\], got 1.5",
            ),
            (lambda: svg2.dense_above(1.5, [1, 2]), "first_times expected a share between 0 and 1; got 1.5"),
            (lambda: svg2.dense_layers(-0.1, 3), "first_layers expected a share"),
            (lambda: svg2.Svg2Config(0, 10), "num_q expected at least 1; got 0"),
            (lambda: svg2.Svg2Config(10, 10, top_p=2), "top_p expected a share"),
            (lambda: svg2.Svg2Config(10, 10, iter_step=-1), "iter_step expected at least 0"),
            (
                lambda: svg2.varblock_sparse_attention(q, k, v, one[..., None] > 0, 9 * one, 10 * one),
                "row_sizes must be .* 10, got 9",
            ),
        ]:
            with pytest.raises(ValueError, match=message):
                call()


def test_presets_are_those_of_the_released_scripts():
    assert all((c.top_p, c.min_ratio, c.iter_init, c.iter_step) == (0.9, 0.1, 50, 2) for c in svg2.PRESETS.values())
    assert {name: (c.num_q, c.num_k, c.first_times, c.steps) for name, c in svg2.PRESETS.items()} == {
        "wan_t2v_720p": (300, 1000, 0.2, 50),
        "wan_i2v_720p": (300, 1000, 0.35, 40),
        "wan_i2v_480p": (200, 1000, 0.2, 40),
        "hunyuan_t2v_720p": (400, 1000, 0.1, 50),
        "hunyuan_t2v_480p": (200, 1000, 0.04, 50),
        "cosmos_t2v": (400, 1000, 0.3, 35),
    }


def test_the_registry_knows_it():
    assert paper("svg2") is svg2.PAPER
