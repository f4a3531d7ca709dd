# SPDX-License-Identifier: Apache-2.0
"""One message for every mistake: `op: argument must be ..., got ...`, for every op of the package, before anything ran.

A new op fails here until it has a line in CASES.
"""

import inspect
import re

import numpy as np
import pytest

import tokernel
from tokernel.kernels import attention, bpe, cluster, merge, quantize, select, tree


def floats(*shape):
    return np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)


INDEX = np.array([[2, 0]])
OFFSETS = np.array([0, 1, 3])
# A call that works, by op; every array and every integer of it is then spoiled, one at a time.
CASES = {
    "attention": {
        "q": floats(1, 4, 3, 2),
        "k": floats(1, 2, 3, 2),
        "v": floats(1, 2, 3, 2),
        "key_bias": floats(1, 4, 3),
    },
    "attention_backward": {
        "grad": floats(1, 4, 3, 2),
        "q": floats(1, 4, 3, 2),
        "k": floats(1, 2, 3, 2),
        "v": floats(1, 2, 3, 2),
        "o": floats(1, 4, 3, 2),
        "lse": floats(1, 4, 3),
    },
    "attention_column_sums": {
        "q": floats(1, 4, 3, 2),
        "k": floats(1, 2, 3, 2),
        "lse": floats(1, 4, 3),
        "query_weight": floats(1, 3),
        "key_groups": np.array([[0, 1, -1]]),
        "groups": 2,
    },
    "attention_map_ce": {
        "q_s": floats(1, 2, 3, 2),
        "k_s": floats(1, 2, 3, 2),
        "q_t": floats(1, 2, 3, 4),
        "k_t": floats(1, 2, 3, 4),
    },
    "attention_map_ce_backward": {
        "grad": floats(1, 2, 3),
        "q_s": floats(1, 2, 3, 2),
        "k_s": floats(1, 2, 3, 2),
        "q_t": floats(1, 2, 3, 4),
        "k_t": floats(1, 2, 3, 4),
        "lse_s": floats(1, 2, 3),
        "lse_t": floats(1, 2, 3),
    },
    "attention_rows": {
        "q": floats(1, 4, 3, 2),
        "k": floats(1, 2, 3, 2),
        "rows": np.array([[2, 0]]),
        "lse": floats(1, 4, 3),
    },
    "rope_gather": {"x": floats(1, 2, 3, 4), "index": INDEX, "cos": floats(2, 4), "sin": floats(2, 4)},
    "rope_scatter": {"x": floats(1, 2, 2, 4), "index": INDEX, "rows": 3, "cos": floats(2, 4), "sin": floats(2, 4)},
    "assign": {"x": floats(1, 3, 2), "centroids": floats(1, 2, 2)},
    "cluster_means": {"sums": floats(1, 2, 2), "counts": np.array([[1, 0]]), "old": floats(1, 2, 2)},
    "cluster_sums": {"x": floats(1, 3, 2), "labels": np.array([[1, 0, 1]]), "clusters": 2},
    "compact_rows": {"mask": np.ones((2, 3), bool)},
    "cosine_match": {"a": floats(1, 3, 2), "b": floats(1, 2, 2), "mask_a": np.ones((1, 3), bool)},
    "farthest_points": {"x": floats(1, 3, 2), "k": 2, "mask": np.ones((1, 3), bool)},
    "gather_rows": {"x": floats(1, 3, 2), "index": INDEX},
    "kmeans": {"x": floats(1, 3, 2), "K": 2, "max_iters": 1},
    "scatter_rows": {"y": floats(1, 2, 2), "index": INDEX, "n": 3, "base": floats(1, 3, 2)},
    "scatter_rows_backward": {"grad": floats(1, 3, 2), "index": INDEX},
    "scatter_add_rows": {"y": floats(1, 2, 2), "index": INDEX, "n": 3, "weight": floats(1, 2)},
    "scatter_add_rows_backward": {
        "grad": floats(1, 3, 2),
        "y": floats(1, 2, 2),
        "index": INDEX,
        "weight": floats(1, 2),
    },
    "segment_broadcast": {"y": floats(2, 4), "offsets": OFFSETS, "tokens": 3},
    "segment_reduce": {"x": floats(3, 4), "ids": np.array([0, 1, -1]), "segments": 2, "weight": floats(3)},
    "segment_reduce_backward": {"grad": floats(2, 4), "x": floats(3, 4), "offsets": OFFSETS, "weight": floats(3)},
    "segment_softmax": {"scores": floats(3), "offsets": OFFSETS},
    "segment_softmax_backward": {"grad": floats(3), "p": floats(3), "offsets": OFFSETS},
    "soft_aggregate": {"x": floats(1, 3, 4), "logits": floats(1, 2, 3)},
    "soft_aggregate_backward": {
        "grad_y": floats(1, 2, 4),
        "x": floats(1, 3, 4),
        "logits": floats(1, 2, 3),
        "y": floats(1, 2, 4),
    },
    "centroid_topp_map": {
        "qc": floats(1, 1, 2, 4),
        "kc": floats(1, 1, 3, 4),
        "size_k": np.array([[[2, 0, 1]]]),
        "p": 0.5,
    },
    "inverse_permute_rows": {"y": floats(1, 3, 2), "perm": np.array([[2, 0, 1]])},
    "map_density": {
        "map": np.ones((1, 1, 2, 3), bool),
        "size_q": np.array([[[1, 2]]]),
        "size_k": np.array([[[2, 0, 1]]]),
    },
    "permute_rows": {"x": floats(1, 2, 3, 2), "perm": np.array([[[2, 0, 1], [1, 2, 0]]])},
    "power_iterate": {"A": floats(2, 3, 3), "s0": floats(2, 3), "iters": 2},
    "select_edges": {"score": floats(1, 3), "index": np.array([[0, 1, 1]]), "r": 1, "columns": 2},
    "accumulate_head_scores": {"e": floats(1, 2, 3, 4), "score": floats(1, 2), "query_valid": np.ones((1, 3), bool)},
    "accumulate_importance": {"prob": floats(1, 2, 3, 4), "score": floats(1, 4), "query_valid": np.ones((1, 3), bool)},
    "join_bits": {
        "high": np.ones((1, 2, 3, 4), np.int8),
        "low": np.ones((1, 2, 3, 2), np.uint8),
        "scale": floats(1, 2, 3),
        "lsb": 4,
    },
    "local_value_attention": {"prob": floats(1, 4, 3, 5), "v": floats(1, 2, 5, 2), "keep": 2},
    "progressive_attention": {
        "q": floats(1, 4, 3, 2),
        "high_k": np.ones((1, 2, 5, 2), np.int8),
        "low_k": np.ones((1, 2, 5, 1), np.uint8),
        "scale_k": floats(1, 2, 5),
        "v": np.ones((1, 2, 5, 2), np.int8),
        "scale_v": floats(1, 2, 5),
        "key_valid": np.ones((1, 5), bool),
        "lsb": 4,
    },
    "split_bits": {"x": floats(1, 2, 3, 4), "msb": 8, "lsb": 4},
    "threshold_gate": {"logits": floats(1, 3), "noise": floats(1, 3)},
    "threshold_gate_backward": {"grad": floats(1, 3), "logits": floats(1, 3), "noise": floats(1, 3)},
    "topk_gate": {"logits": floats(2, 3), "k": 2},
    "topk_gate_backward": {"grad": floats(1, 2), "logits": floats(1, 3), "index": INDEX},
    "topk": {"score": floats(1, 3), "k": 2, "mask": np.ones((1, 3), bool)},
    "topk_mask": {"score": floats(1, 3), "k": 2, "mask": np.ones((1, 3), bool)},
    "topp_mask": {"prob": floats(1, 3), "p": 0.5, "min_keep": 1, "weight": floats(1, 3)},
    "merge_attention": {"outs": floats(2, 1, 2, 3, 2), "lses": floats(2, 1, 2, 3)},
    "merge_attention_backward": {
        "grad": floats(1, 2, 3, 2),
        "outs": floats(2, 1, 2, 3, 2),
        "lses": floats(2, 1, 2, 3),
        "grad_lse": floats(1, 2, 3),
    },
    "tree_attention": {
        "q": floats(1, 4, 2, 2),
        "k_cache": floats(1, 2, 3, 2),
        "v_cache": floats(1, 2, 3, 2),
        "lengths": np.array([1]),
        "tree": tree.TokenTree([-1, 0]),
    },
    "build_tree": {
        "adjacency": np.zeros((3, 2), np.int64),
        "root": np.array([0]),
        "tree": np.array([[-1, 0]]),
        "rank": np.array([[0, 1]]),
    },
    "compact_cache": {"cache": floats(1, 2, 4, 3), "lengths": np.array([1]), "path": INDEX[:, ::-1]},
    "head_argmax_prob": {"h": floats(2, 3), "W": floats(4, 3), "norm_weight": floats(3)},
    "row_stats": {"logits": floats(1, 3), "ids": INDEX},
    "expand_greedy": {"draw_p": floats(1, 3, 2) / 8, "known": np.ones((1, 3), bool), "budget": 2},
    "gumbel_argmax": {"logits": floats(1, 3), "u": floats(1, 3) / 4},
    "masked_transfer": {"confidence": floats(1, 3), "mask": np.ones((1, 3), bool), "count": np.array([1])},
    "sample_without_replacement": {"q": floats(1, 3), "k": 2, "u": floats(1, 3) / 4},
    "row_stats_backward": {"logits": floats(1, 3), "lse": floats(1), "level": floats(1), "slope": floats(1)},
    "lookup": {"codes": floats(2, 3, 4), "index": np.array([[2, -1], [0, 1]])},
    "lookup_backward": {"grad": floats(1, 3, 2), "index": np.array([[1, -1, 0]]), "K": 2},
    "rotate_to": {"x": floats(3, 2), "q": floats(3, 2)},
    "rotate_to_backward": {"grad": floats(3, 2), "x": floats(3, 2), "q": floats(3, 2)},
    "rvq_decode": {"index": INDEX, "codes": floats(2, 3, 4), "n_q": 1},
    "rvq_decode_backward": {"grad": floats(1, 4), "index": INDEX, "K": 3, "n_q": 1},
    "rvq_encode": {"x": floats(1, 4), "codes": floats(2, 3, 4), "n_q": 1},
    "sort_by_label": {"labels": INDEX, "K": 3},
    "residual_sample": {
        "p": np.full((2, 4), 0.25, np.float32),
        "q": np.full((2, 4), 0.25, np.float32),
        "u": np.zeros(2, np.float32),
    },
    "verify_greedy": {"tokens": INDEX, "target": INDEX, "tree": np.array([[-1, 0]])},
    "verify_stochastic": {
        "tokens": np.array([[0, 2, 3]]),
        "target_p": np.full((1, 3, 4), 0.25, np.float32),
        "draft_p": np.full((1, 3, 4), 0.25, np.float32),
        "uniforms": np.zeros((1, 4), np.float32),
        "tree": np.array([[-1, 0, 0]]),
    },
    "bucketize": {"x": floats(2, 3), "boundaries": floats(3)},
    "codebook_stats": {"index": INDEX, "K": 3},
    "ema_update": {"x": floats(3, 2), "index": np.array([1, -1, 0]), "K": 2},
    "fsq_decode": {"index": INDEX, "levels": (5, 4)},
    "fsq_encode": {"z": floats(3, 2), "levels": (5, 4)},
    "fsq_encode_backward": {"grad": floats(3, 2), "z": floats(3, 2), "levels": (5, 4)},
    "pack_bits": {"ids": INDEX, "bits": 4},
    "sign_pack": {"x": floats(3, 4), "bits": (3, 1)},
    "sign_unpack": {"ids": INDEX, "bits": (3, 1)},
    "unpack_bits": {"bytes": np.ones((2, 3), np.uint8), "bits": 4, "count": 6},
    "bit_entropy": {"x": floats(3, 2), "slope": 4.0},
    "bit_entropy_backward": {"grad": floats(3), "x": floats(3, 2), "slope": 4.0},
    "codebook_entropy": {"x": floats(2, 3, 2), "codes": floats(2, 4, 2), "weight": floats(2, 3)},
    "codebook_entropy_backward": {
        "x": floats(2, 3, 2),
        "codes": floats(2, 4, 2),
        "lse": floats(2, 3),
        "grad_entropy": floats(2, 3),
        "grad_mean": floats(2, 4),
        "grad_lse": floats(2, 3),
        "weight": floats(2, 3),
    },
    "codebook_lse": {"x": floats(2, 3, 2), "codes": floats(2, 4, 2)},
    "subcode_histogram": {"x": floats(3, 2, 4), "slope": 4.0},
    "subcode_histogram_backward": {"grad": floats(16), "x": floats(3, 2, 4), "slope": 4.0},
    "update": {"x": floats(1, 3, 2), "labels": np.array([[1, 0, 1]]), "old": floats(1, 2, 2)},
    "nearest": {"x": floats(1, 3, 2), "codes": floats(1, 4, 2)},
    "nearest_rank": {"x": floats(1, 3, 2), "codes": floats(1, 4, 2), "rank": np.array([[3, 0, 1]])},
    "nearest_topk": {"x": floats(1, 3, 2), "codes": floats(1, 4, 2), "k": 2},
    "adc_scan": {"codes": np.array([[0, 3], [1, 2], [3, 3]]), "tables": floats(1, 2, 4), "k": 2},
    "adc_tables": {"queries": floats(1, 4), "centroids": floats(2, 3, 2)},
    "pq_decode": {"codes": np.array([[0, 2], [1, 1], [2, 0]]), "centroids": floats(2, 3, 2)},
    "pq_encode": {"x": floats(3, 4), "centroids": floats(2, 3, 2)},
    "split": {"text": np.frombuffer(b"two words", np.uint8), "pattern": "cl100k"},
    "merge_pairs_batch": {"ids": np.array([0, 1, 0]), "offsets": OFFSETS, "max_merges": 1, "next_id": 2},
    "unigram_em": {
        "trie": bpe.Trie([b"a", b"b"]),
        "log_probs": floats(2),
        "pieces": [b"a", b"ab", b""],
        "counts": floats(3),
        "iterations": 1,
    },
    "unigram_viterbi": {
        "trie": bpe.Trie([b"a", b"b"]),
        "log_probs": floats(2),
        "texts": np.frombuffer(b"abab", np.uint8),
    },
    "count_pieces": {"texts": [b"two words"], "pattern": "cl100k"},
    "pair_count_history": {"words": [[0, 1]], "counts": np.array([2]), "merges": np.array([[0, 1, 2]])},
    "train_merges": {
        "pieces": np.frombuffer(b"abab", np.uint8),
        "offsets": np.array([0, 2, 4]),
        "counts": np.array([2, 1]),
        "vocab_size": 300,
    },
    "update_adjacency": {
        "adjacency": np.zeros((3, 2), np.int64),
        "tokens": INDEX,
        "candidates": np.zeros((1, 2, 2), np.int64),
    },
    "apply_merges": {"ids": np.array([1, 2, 1]), "offsets": OFFSETS, "merges": np.array([[1, 2, 3]])},
    "count_pairs": {"ids": np.array([1, 2, 1]), "offsets": OFFSETS, "weights": np.array([1, 2])},
}
FAMILIES = (merge, cluster, attention, select, tree, quantize, bpe)
OPS = {
    name: getattr(family, name)
    for family in FAMILIES
    for name in family.__all__
    if inspect.isfunction(getattr(family, name))
}
# Written in Python over the ops above, which check their arguments.
COMPOSED = {
    "bipartite_match",
    "eagle2_tree",
    "gathered_rope_attention",
    "kth_match",
    "match_2d",
    "random_match",
    "sequoia_tokens",
    "sequoia_tree",
    "threshold_match",
    "verify_chain",
}
# Take a vocabulary, and texts or ids of many kinds: tests/bpe/test_encode.py, test_vocab.py, test_decode.py.
OF_VOCABULARIES = {
    "count_till_limit",
    "decode",
    "decode_added",
    "decode_batch",
    "decode_each",
    "decode_offsets",
    "encode",
    "encode_batch",
    "encode_between",
    "encode_list",
    "encode_lists",
    "encode_piece",
    "is_valid_pair",
    "parse_ranks",
    "prefix_tokens",
    "tokens_with_prefix",
}

ARRAYS = [(op, arg) for op, call in CASES.items() for arg, value in call.items() if isinstance(value, np.ndarray)]
# Arrays whose first extent no other array shows.
FREE = {
    ("adc_scan", "codes"),
    ("adc_scan", "tables"),
    ("adc_tables", "queries"),
    ("apply_merges", "merges"),
    ("bucketize", "x"),
    ("build_tree", "adjacency"),
    ("head_argmax_prob", "W"),
    ("pair_count_history", "merges"),
    ("head_argmax_prob", "h"),
    ("pq_decode", "codes"),
    ("pq_encode", "x"),
    ("subcode_histogram_backward", "x"),
    ("rvq_decode", "index"),
    ("rvq_encode", "codes"),
    ("rvq_encode", "x"),
    ("unigram_viterbi", "texts"),
    ("update_adjacency", "adjacency"),
}
# Alone, an array of any extents is fine.
TOGETHER = [(op, arg) for op, arg in ARRAYS if sum(op == other for other, _ in ARRAYS) > 1 and (op, arg) not in FREE]
COUNTS = [(op, arg) for op, call in CASES.items() for arg, value in call.items() if isinstance(value, int)]


def fails(op, error, pattern, **spoiled):
    before = tokernel.last_backend()
    with pytest.raises(error, match=re.sub(r"\btree\b", "parents", pattern)):  # what a tree becomes
        OPS[op](**{**CASES[op], **spoiled})
    assert tokernel.last_backend() == before


@pytest.fixture(autouse=True)
def something_else_ran():
    tokernel._C.forget_last_level()


def test_every_op_is_here():
    assert set(OPS) - COMPOSED - OF_VOCABULARIES == set(CASES)


@pytest.mark.parametrize("op", CASES)
def test_the_call_works_unspoiled(op):
    OPS[op](**CASES[op])
    assert tokernel.last_backend() != "none"


@pytest.mark.parametrize(("op", "arg"), ARRAYS)
def test_no_array(op, arg):
    kinds = r"(an array \(.*\)|str, bytes or an array of uint8)"
    fails(op, TypeError, rf"^{op}: {arg} must be {kinds}, got object$", **{arg: object()})


@pytest.mark.parametrize(("op", "arg"), ARRAYS)
def test_wrong_dtype(op, arg):
    spoiled = CASES[op][arg].astype(np.complex64)
    fails(op, TypeError, rf"^{op}: {arg} must be [a-z0-9, ]+, got complex64$", **{arg: spoiled})


@pytest.mark.parametrize(("op", "arg"), ARRAYS)
def test_wrong_rank(op, arg):
    spoiled = CASES[op][arg][None, None, None]
    expected = rf"^{op}: {arg} must be \(.*\).*, got {re.escape(str(spoiled.shape))} {spoiled.dtype}$"
    fails(op, ValueError, expected, **{arg: spoiled})


@pytest.mark.parametrize(("op", "arg"), TOGETHER)
def test_wrong_extent(op, arg):
    """Twice as long along the first dimension disagrees with some other argument, whichever is seen first."""
    value = CASES[op][arg]
    spoiled = np.concatenate([value, value])
    names = "|".join(CASES[op])
    fails(op, ValueError, rf"^{op}: ({names}) must be .*, got ", **{arg: spoiled})


@pytest.mark.parametrize(("op", "arg"), COUNTS)
@pytest.mark.parametrize("value", [1.5, "2", [1]])
def test_no_integer(op, arg, value):
    fails(op, TypeError, rf"^{op}: {arg} must be an integer.*, got {type(value).__name__}$", **{arg: value})


@pytest.mark.parametrize(("op", "arg"), COUNTS)
@pytest.mark.parametrize("value", [-3, 2**61, 2**70, -(2**70)])
def test_impossible_count(op, arg, value):
    """Extents given as numbers are checked before an array is made of them: too large is no crash of the allocator."""
    fails(op, ValueError, rf"^{op}: \w+ must be .*, got ", **{arg: value})


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("bad", [-1, 3, 2**31 - 1, -(2**31)])
def test_index_out_of_range_is_found_before_anything_is_written(dtype, bad, backend):
    index = np.array([[2, 1, bad, 0]], dtype)
    out = np.full((1, 4, 2), 7, np.float32)
    with pytest.raises(ValueError, match=rf"^gather_rows: index must be in \[0, 3\), got {bad} at flat position 2$"):
        merge.gather_rows(floats(1, 3, 2), index, out=out)
    assert (out == 7).all()


def test_every_index_is_out_of_range_of_nothing(backend):
    with pytest.raises(ValueError, match=r"^gather_rows: index must be in \[0, 0\), got 0 at flat position 0$"):
        merge.gather_rows(np.zeros((1, 0, 2), np.float32), np.array([[0]]))


@pytest.mark.parametrize(
    ("offsets", "rule", "got"),
    [
        ([1, 2, 3], "0 at its start", "1 at flat position 0"),
        ([0, 2, 1, 3], "non-decreasing", "1 at flat position 2"),
        ([0, 1, 2], "equal to the number of tokens at its end", "2 at flat position 2"),
        ([0, -1, 3], "non-decreasing", "-1 at flat position 1"),
        ([], "at least one offset long", "none"),
    ],
)
def test_offsets_that_are_no_partition(offsets, rule, got):
    fails(
        "segment_softmax",
        ValueError,
        f"^segment_softmax: offsets must be {rule}, got {got}$",
        offsets=np.array(offsets, np.int64),
    )


def test_torch_ops_say_the_same():
    torch = pytest.importorskip("torch", reason="torch is an extra")
    from tokernel import ops

    with pytest.raises(ValueError, match=r"^gather_rows: index must be \(B, M\) with B = 1, got \(2,\) int64$"):
        ops.gather_rows(torch.zeros(1, 3, 2), torch.tensor([0, 1]))
    with pytest.raises(TypeError, match=r"^gather_rows: x must be float32, float16 or bfloat16, got float64$"):
        ops.gather_rows(torch.zeros(1, 3, 2, dtype=torch.float64), torch.tensor([[0]]))
