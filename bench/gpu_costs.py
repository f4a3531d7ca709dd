# SPDX-License-Identifier: Apache-2.0
"""What each CUDA kernel has to compute and move in a stated case. Written by hand, beside the kernels.

Bytes count every input read once and every output written once (what a cache cannot save); FLOPs count a multiply-add
as two. `dynamic_shared` repeats what the launcher asks for in that case.
"""

from __future__ import annotations

from dataclasses import dataclass

F32, BF16, I64 = 4, 2, 8


@dataclass(frozen=True)
class Cost:
    """One kernel in one case."""

    case: str
    moved_bytes: float
    flops: float = 0.0
    tensor_cores: bool = False
    dynamic_shared: int = 0
    threads: int | None = None  # of a block, where the launch takes fewer than __launch_bounds__ allows


def _rows() -> dict[str, Cost]:
    """512 of 1024 rows of 512 bf16 channels, for 64 samples."""
    batch, tokens, picks, width = 64, 1024, 512, 512
    case = "B=64 N=1024 M=512 C=512 bf16"
    picked = batch * picks * width  # elements
    index, winners = batch * picks * I64, batch * tokens * I64
    return {
        "gather_rows_kernel": Cost(case, 2 * picked * BF16 + index),
        "clear_winners_kernel": Cost(case, winners),
        "bid_kernel": Cost(case, index + 2 * batch * picks * I64),
        "scatter_rows_kernel": Cost(case, 3 * picked * BF16 + winners),
        "gather_winners_kernel": Cost(case, 2 * picked * BF16 + 2 * index),
        "scatter_add_rows_kernel": Cost(
            "B=64 M=512 into N=256, C=512 bf16", 1.5 * picked * BF16 + index, flops=2.0 * picked
        ),
        "scatter_add_rows_backward_kernel": Cost(
            "B=64 M=512 from N=256, C=512 bf16",
            2.5 * picked * BF16 + index + 2 * batch * picks * F32,
            flops=3.0 * picked,
        ),
    }


def _matching() -> dict[str, Cost]:
    """Every second of 4096 tokens against the others, 320 wide, for 2 samples: a step of Stable Diffusion."""
    batch, rows, columns, width = 2, 2048, 2048, 320
    case, vectors = "B=2 Na=Nb=2048 D=320", batch * (rows + columns) * width
    norms, answers = batch * (rows + columns) * F32, batch * rows * (F32 + I64)
    products = 2.0 * batch * rows * columns * width
    splits = 5  # of the columns, so that 64 blocks of rows fill 132 multiprocessors twice
    partial = splits * batch * rows * (F32 + F32)
    sort = 2048 * I64  # keys of one sample in shared memory
    return {
        "match_norms_kernel": Cost(f"{case} bf16", vectors * BF16 + norms, flops=2.0 * vectors),
        "match_float32_kernel": Cost(f"{case} fp32", vectors * F32 + norms + partial, flops=products),
        "match_mma_kernel": Cost(f"{case} bf16", vectors * BF16 + norms + partial, products, tensor_cores=True),
        "match_splits_kernel": Cost(f"{case}, {splits} splits", partial + answers + batch * rows * F32),
        "select_edges_kernel": Cost(
            "B=2 Na=Nb=2048 r=1024", answers + batch * (rows + columns + rows + rows // 2) * I64, dynamic_shared=sort
        ),
    }


def _segments() -> dict[str, Cost]:
    """128 segments of 1024 tokens of 512 bf16 channels, for 64 samples; the long kinds take one row of 65536 tokens."""
    batch, tokens, segments, width = 64, 1024, 128, 512
    case, ids = "B=64 N=1024 S=128", batch * tokens * I64
    x, y = batch * tokens * width, batch * segments * width  # elements
    offsets, order = batch * (segments + 1) * I64, batch * tokens * F32
    long, chunks = 65536, 16
    long_case, counts = "B=1 N=65536 S=128", chunks * segments * F32
    blocks = long // 2048 * width * F32
    return {
        "sort_row_kernel": Cost(f"{case}, ids", ids + offsets + order, dynamic_shared=segments * F32),
        "count_chunk_kernel": Cost(f"{long_case}, ids", long * I64 + counts),
        "sum_chunks_kernel": Cost(f"{long_case}, ids", 2 * counts + segments * F32),
        "scan_totals_kernel": Cost(f"{long_case}, ids", segments * (F32 + I64)),
        "place_chunk_kernel": Cost(f"{long_case}, ids", long * (I64 + F32) + counts),
        "segment_rows_kernel": Cost(f"{case} C=512 bf16", (x + y) * BF16 + offsets, flops=float(x)),
        "segment_blocks_kernel": Cost("B=1 N=65536 S=1 C=512 bf16", long * width * BF16 + blocks, flops=long * width),
        "segment_broadcast_kernel": Cost(f"{case} C=512 bf16", (x + y) * BF16 + offsets),
        "segment_mass_kernel": Cost(f"{case}, weights", batch * tokens * F32 + offsets + batch * segments * F32),
        "segment_grad_kernel": Cost(f"{case} C=512 bf16", (x + y) * BF16 + offsets, flops=float(x)),
        "segment_centre_kernel": Cost(f"{case} C=512, weights", 2.0 * batch * tokens * F32 + offsets),
        "clear_rows_kernel": Cost(f"{case} C=512 bf16", x * BF16),
        "segment_winner_kernel": Cost(f"{case} C=512 bf16, amax", (x + 2 * y) * BF16 + offsets),
        "segment_softmax_kernel": Cost(
            f"{case} bf16", 2.0 * batch * tokens * BF16 + offsets, flops=4.0 * batch * tokens
        ),
        "segment_softmax_backward_kernel": Cost(
            f"{case} bf16", 3.0 * batch * tokens * BF16 + offsets, flops=4.0 * batch * tokens
        ),
    }


def _soft() -> dict[str, Cost]:
    """98 targets from 196 tokens of 384 bf16 channels, for 64 samples: a slimming step of SiT."""
    batch, tokens, targets, width = 64, 196, 98, 384
    case = "B=64 N=196 M=98 C=384 bf16"
    x, y, logits = batch * tokens * width, batch * targets * width, batch * targets * tokens
    product = 2.0 * logits * width
    parts = batch * tokens * 3 * F32  # a part for each block of 128 channels
    sums = 2 * batch * targets * F32
    return {
        "row_normalisers_kernel": Cost(case, logits * BF16 + sums, flops=3.0 * logits),
        "column_normalisers_kernel": Cost(f"{case}, transposed", logits * BF16 + sums, flops=3.0 * logits),
        "soft_aggregate_kernel": Cost(f"{case}, over targets", (x + y + logits) * BF16 + sums, flops=product),
        "soft_aggregate_mma_kernel": Cost(case, (x + y + logits) * BF16 + sums, flops=product, tensor_cores=True),
        "soft_constants_kernel": Cost(case, 2.0 * y * BF16 + sums, flops=2.0 * y),
        "soft_centres_kernel": Cost(f"{case}, over targets", parts + batch * tokens * F32),
        "soft_logits_kernel": Cost("B=64 N=196 M=98 C=384 fp32", (x + y + 2 * logits) * F32 + 2 * sums, flops=product),
        "soft_logits_mma_kernel": Cost(case, (x + y + 2 * logits) * BF16 + 2 * sums, flops=product, tensor_cores=True),
    }


def _compaction() -> dict[str, Cost]:
    """Half of 1024 tokens, for 64 samples."""
    batch, tokens = 64, 1024
    case, offsets = "B=64 N=1024, half kept", (batch + 1) * I64
    return {
        "count_rows_kernel": Cost(case, batch * tokens + offsets),
        "sum_counts_kernel": Cost(case, 2 * offsets),
        "compact_rows_kernel": Cost(case, batch * tokens * (1 + I64 / 2) + offsets),
    }


def _clusters() -> dict[str, Cost]:
    """One layer of Wan 2.1 at 720p as Sparse VideoGen2 runs it: 40 heads of 75600 tokens, 300 by 1000 clusters."""
    heads, tokens, width, queries, keys = 40, 75600, 128, 300, 1000
    rows, scores = heads * tokens, heads * queries * keys
    case, order = f"H={heads} N={tokens}", rows * I64
    centroids = heads * (queries + keys) * width
    return {
        "permute_rows_kernel": Cost(f"{case} D={width} bf16", 2 * rows * width * BF16 + order),
        "widen_order_kernel": Cost(f"{case} K={keys}", rows * F32 + order),
        "centroid_topp_map_kernel": Cost(
            f"H={heads} {queries} x {keys} clusters, D={width} fp32",
            centroids * F32 + heads * keys * I64 + scores,
            flops=2.0 * scores * width,
            dynamic_shared=8 * keys * F32,
        ),
        "map_density_kernel": Cost(f"H={heads} {queries} x {keys} clusters", scores + heads * (queries + keys) * I64),
    }


def _kmeans() -> dict[str, Cost]:
    """One Lloyd iteration over the keys of that layer, behind its nearest centroids."""
    heads, tokens, width, clusters = 40, 75600, 128, 1000
    case, rows, centroids = f"H={heads} N={tokens} K={clusters} D={width}", heads * tokens, heads * clusters
    blocks = heads * (tokens // 1024) * width * F32
    return {
        "row_weights_kernel": Cost(f"{case} bf16, cosine", rows * (width * BF16 + F32), flops=2.0 * rows * width),
        "cluster_sums_kernel": Cost(
            f"{case} bf16",
            rows * (width * BF16 + F32) + centroids * (width * F32 + 2 * I64) + blocks,
            flops=float(rows * width),
        ),
        "cluster_means_kernel": Cost(f"{case} bf16", centroids * (width * (F32 + 2 * BF16) + I64 + F32)),
        "cluster_shift_kernel": Cost(case, (centroids + heads) * F32),
    }


def _nearest() -> dict[str, Cost]:
    """16384 rows against 8192 codes of 256, and against 16384 codes of 8; the small kind joins the parts of 8 rows."""
    rows, codes, width, tiny_codes, tiny = 16384, 8192, 256, 16384, 8
    case, vectors, products = f"N={rows} K={codes} D={width}", (rows + codes) * width, 2.0 * rows * codes * width
    norms, answers = (rows + codes) * F32, rows * (F32 + I64)
    splits = 9  # of the columns, so that 32 blocks of rows fill 132 multiprocessors twice
    partial, few, parts = splits * rows * 2 * F32, 8, 128
    k, state, counts = 8, 2 * I64, rows * 256 * F32
    tiles, scores = 4 * 2 * 64 * 40 * BF16, 64 * 80 * F32  # in shared memory
    return {
        "nearest_norms_kernel": Cost(f"{case} bf16", vectors * BF16 + norms, flops=2.0 * vectors),
        "nearest_fma_kernel": Cost(f"{case} fp32", vectors * F32 + norms + answers, products),
        "nearest_mma_kernel": Cost(f"{case} bf16", vectors * BF16 + norms + answers, products, tensor_cores=True),
        "nearest_narrow_kernel": Cost(
            f"N={rows} K={tiny_codes} D={tiny} fp32",
            (rows + tiny_codes) * tiny * F32 + partial,
            2.0 * rows * tiny_codes * tiny,
        ),
        "nearest_join_kernel": Cost(
            f"N={few} D={width} fp32, {parts} parts", few * (width * F32 + parts * 2 * F32 + F32 + I64)
        ),
        "nearest_topk_kernel": Cost(
            f"{case} k={k} bf16",
            vectors * BF16 + norms + k * answers,
            products,
            tensor_cores=True,
            dynamic_shared=tiles + scores + 64 * (32 + 1) * 2 * F32,
        ),
        "topk_join_kernel": Cost(f"N={few} k={k}, {parts} parts", few * (parts * 32 * 2 * F32 + F32 + k * (F32 + I64))),
        "rank_start_kernel": Cost(f"N={rows}", rows * (I64 + state)),
        "rank_count_kernel": Cost(
            f"{case} bf16, one digit",
            vectors * BF16 + norms + counts,
            products,
            tensor_cores=True,
            dynamic_shared=tiles + 64 * (257 + 1) * F32,
        ),
        "rank_digit_kernel": Cost(f"N={rows}, one digit", counts + 2 * rows * state),
        "rank_find_kernel": Cost(
            f"{case} bf16",
            vectors * BF16 + norms + answers,
            products,
            tensor_cores=True,
            dynamic_shared=tiles + scores + 3 * 64 * F32,
        ),
    }


def _product_codes() -> dict[str, Cost]:
    """2^20 rows of 16 parts, 8 wide, as bytes; 16 queries for their 10 best, of 64 chunks of 16384 rows each."""
    rows, parts, width, codes, queries, k, chunks = 1 << 20, 16, 8, 256, 16, 10, 64
    case, cells, book = f"N={rows} M={parts}", parts * codes, parts * codes * width * F32
    lists = queries * chunks * k * I64
    sums = float(queries) * rows * parts
    return {
        "pq_encode_kernel": Cost(f"{1 << 14} rows of M={parts}", (1 << 14) * parts * (I64 + 1)),
        "pq_decode_kernel": Cost(f"{case} d={width} fp32", rows * parts * (1 + width * F32) + book),
        "adc_tables_kernel": Cost(
            f"B={queries} M={parts} K={codes} d={width} fp32",
            queries * parts * (width + codes) * F32 + book,
            flops=3.0 * queries * cells * width,
        ),
        "adc_scan_kernel": Cost(
            f"{case} B={queries} k={k}",
            rows * parts + queries * cells * F32 + lists,
            flops=sums,
            dynamic_shared=1024 * I64 + cells * F32,
        ),
        "adc_merge_kernel": Cost(
            f"B={queries} k={k}, {chunks} chunks", lists + queries * k * (F32 + I64), dynamic_shared=1024 * I64
        ),
    }


def _codes_without_a_book() -> dict[str, Cost]:
    """2^20 rows of 4 levels, 32 signs in groups of 8, and 2^22 values or ids; what a codebook of 16384 has seen."""
    rows, axes, channels, groups, items, codes = 1 << 20, 4, 32, 4, 1 << 22, 16384
    grid, signs = f"{rows} x {axes} fp32", f"{rows // 8} x {channels} fp32"
    levels, floats = rows * (2 * axes * F32 + I64), rows // 8 * (channels * F32 + groups * I64)
    packed = items * (I64 + 10 / 8)
    return {
        "fsq_encode_kernel": Cost(grid, levels),
        "fsq_encode_backward_kernel": Cost(grid, 3.0 * rows * axes * F32),
        "fsq_decode_kernel": Cost(grid, rows * (I64 + axes * F32)),
        "sign_pack_kernel": Cost(f"{signs}, groups of 8", floats),
        "sign_pack_widths_kernel": Cost(f"{signs}, groups of 8, 8, 10 and 6", floats),
        "sign_unpack_kernel": Cost(f"{signs}, groups of 8", floats),
        "sign_unpack_widths_kernel": Cost(f"{signs}, groups of 8, 8, 10 and 6", floats),
        "bucketize_kernel": Cost(f"{items} fp32, 63 boundaries, uint8", items * (F32 + 1.0)),
        "pack_bits_kernel": Cost(f"{items} ids of 10 bits", packed),
        "unpack_bits_kernel": Cost(f"{items} ids of 10 bits", packed),
        "clear_counts_kernel": Cost(f"K={codes}", codes * I64),
        "count_codes_kernel": Cost(f"{rows} ids, K={codes}", rows * I64 + codes * I64),
        "codebook_stats_kernel": Cost(f"K={codes}", codes * I64),
    }


def _codebook_stacks() -> dict[str, Cost]:
    """8 books of 1024 codes of 128 for 16384 rows, as an audio codec has them; the small kinds take 64 rows."""
    rows, books, codes, width, few, splits = 16384, 8, 1024, 128, 64, 16
    case, table, x = f"N={rows} Q={books} K={codes} D={width}", books * codes * width, rows * width
    norms, answers, residual = books * codes * F32, rows * (books * (I64 + F32) + width * F32), few * width * F32
    layer, parts = f"N={few} K={codes} D={width} fp32, one layer", splits * few * 2 * F32
    tiles, state = 2 * 64 * 20 * F32, 64 * 4 * F32  # in shared memory, besides the residuals
    picked, index = rows * width * BF16, rows * I64
    return {
        "rvq_norms_kernel": Cost(f"{case} fp32", table * F32 + norms, flops=2.0 * table),
        "rvq_stack_kernel": Cost(
            f"{case} fp32",
            (table + x) * F32 + norms + answers,
            2.0 * rows * table,
            dynamic_shared=tiles + state + 64 * (width + 4) * F32,
        ),
        "rvq_start_kernel": Cost(f"N={few} D={width} fp32", 3 * residual + few * F32),
        "rvq_search_kernel": Cost(layer, codes * (width + 1) * F32 + residual + parts, 2.0 * few * codes * width),
        "rvq_step_kernel": Cost(layer, parts + 5 * residual + few * (I64 + 3 * F32)),
        "rvq_decode_kernel": Cost(f"{case} bf16", table * BF16 + books * index + picked),
        "lookup_kernel": Cost(f"N={rows} K={codes} D={width} bf16", codes * width * BF16 + index + picked),
        "transpose_index_kernel": Cost(f"N={rows} Q={books}", 2.0 * books * index),
        "round_sums_kernel": Cost(f"Q={books} K={codes} D={width} bf16", table * (F32 + BF16)),
        "rotate_to_kernel": Cost(f"N={rows} D={width} bf16", 3.0 * picked, flops=10.0 * x),
        "rotate_to_backward_kernel": Cost(f"N={rows} D={width} bf16", 4.0 * picked, flops=20.0 * x),
    }


def _choices() -> dict[str, Cost]:
    """A quarter of 4096 scores, for 256 rows."""
    rows, width, k = 256, 4096, 1024
    case, scores = f"{rows} x {width}, k={k} fp32", rows * width * F32
    few, vocabulary = 64, 128256
    wide_case, wide_scores, lists = f"16 x {vocabulary}, k={few} bf16", 16 * vocabulary * BF16, 16 * 16 * few * I64
    return {
        "topk_kernel": Cost(case, scores + rows * k * (F32 + I64), dynamic_shared=k * I64),
        "topk_chunks_kernel": Cost(wide_case, wide_scores + lists),
        "topk_join_kernel": Cost(wide_case, lists + few * (F32 + I64) * 16, dynamic_shared=1024 * I64),
        "topk_mask_kernel": Cost(case, scores + rows * width),
        "topp_mask_kernel": Cost(f"{rows} x {width} fp32", scores + rows * width),
    }


def _points() -> dict[str, Cost]:
    """288 of the 2880 visual tokens of LLaVA-NeXT, 4096 wide: a launch a pick."""
    tokens, width, picks = 2880, 4096, 288
    case, vectors, state = f"N={tokens} D={width} bf16", tokens * width * BF16, 4 * tokens * F32
    return {
        "farthest_norms_kernel": Cost(case, vectors + state, flops=2.0 * tokens * width),
        "farthest_nearest_kernel": Cost(case, vectors + state, flops=2.0 * tokens * tokens * width),
        "farthest_first_kernel": Cost(case, state),
        "farthest_pass_kernel": Cost(
            f"{case}, {picks} picks", picks * (vectors + state), flops=2.0 * picks * tokens * width
        ),
    }


def _spatten() -> dict[str, Cost]:
    """16 heads of 1024 tokens, 64 wide, three tenths of the values kept; and one query against 4096 keys in planes."""
    heads, tokens, width, keep = 16, 1024, 64, 307
    case, entries = f"H={heads} Q=K={tokens} D={width} fp32", heads * tokens * tokens
    rows = heads * tokens
    chunks = heads * tokens // 64
    keys, channels = 4096, 128
    planes = 32 * keys * channels
    return {
        "importance_chunks_kernel": Cost(case, (entries + chunks * tokens) * F32, flops=float(entries)),
        "importance_fold_kernel": Cost(case, (chunks + 1) * tokens * F32),
        "head_chunks_kernel": Cost(case, rows * width * F32, flops=2.0 * rows * width),
        "head_fold_kernel": Cost(case, heads * (tokens // 128 + 1) * F32),
        "local_value_kernel": Cost(
            f"{case} keep={keep}", (entries + 2 * rows * width + 2 * rows * keep) * F32, flops=2.0 * rows * keep * width
        ),
        "split_bits_kernel": Cost(case, rows * (width * (F32 + 1.5) + F32)),
        "join_bits_kernel": Cost(case, rows * (width * (F32 + 1.5) + F32)),
        "progressive_attention_kernel": Cost(
            f"H=32 Q=1 K={keys} D={channels}, int8 values, no row fetched",
            2 * planes + 32 * keys * 2 * F32,
            flops=4.0 * planes,
        ),
    }


def _vocabulary() -> dict[str, Cost]:
    """64 rows of logits over the vocabulary of Llama 3."""
    rows, width = 64, 128256
    case, logits = f"{rows} x {width} bf16", rows * width * BF16
    return {
        "row_stats_kernel": Cost(case, logits + rows * (2 * I64 + 4 * F32)),
        "row_stats_backward_kernel": Cost(case, 2 * logits + 3 * rows * F32),
    }


def _drafts() -> dict[str, Cost]:
    """16 rows over that vocabulary with a uniform number an item, 64 draws each; 64 trees; 64 rows of diffusion."""
    rows, width, k, chunk = 16, 128256, 64, 4096
    case, keys = f"{rows} x {width} bf16, k={k}", rows * width * F32
    sums = rows * -(-width // chunk) * (8 + I64)
    keys_case, lists = f"{rows} x {width} keys, k={k}", rows * -(-width // 8192) * k * I64
    trees, nodes = 64, 65
    length = 1024
    return {
        "race_keys_kernel": Cost(case, rows * width * (BF16 + F32) + keys + sums),
        "race_choose_kernel": Cost(case, keys + sums + rows * k * (BF16 + I64 + F32), dynamic_shared=k * I64),
        "gumbel_join_kernel": Cost(f"{rows} x {width}", rows * (-(-width // 4096) * 16 + I64)),
        "race_chunks_kernel": Cost(keys_case, keys + lists),
        "race_join_kernel": Cost(keys_case, lists + rows * k * (BF16 + I64 + F32), dynamic_shared=1024 * I64),
        "gumbel_argmax_kernel": Cost(f"{rows} x {width} bf16", rows * width * (BF16 + F32) + rows * I64),
        "expand_greedy_kernel": Cost(
            f"{trees} trees of {nodes} nodes, 2 draws each",
            trees * nodes * (2 * F32 + 1 + 2 * I64 + F32 + 1) + trees * I64,
            dynamic_shared=nodes * 16,
        ),
        "masked_transfer_kernel": Cost(f"64 x {length} fp32", 64 * length * (F32 + 2) + 64 * I64),
    }


def _verification() -> dict[str, Cost]:
    """64 sequences of 64 nodes over 32000 words, of which a walk reads three rows and is refused four times."""
    batch, nodes, words, visited, refused = 64, 64, 32000, 3, 4
    case, row = f"B={batch} T={nodes} V={words}", words * F32
    ids = batch * nodes * I64
    # What was read is kept as float32; a refusal reads the rows of both and writes what is left.
    walk = visited * 2 * 2 * row + refused * 3 * row + 2 * row
    return {
        "verify_greedy_kernel": Cost(f"B={batch} T={nodes}", 3.0 * ids),
        "verify_stochastic_kernel": Cost(
            f"{case} fp32, {visited} nodes, {refused} refusals", batch * walk + 3.0 * ids, flops=batch * walk / F32
        ),
        "residual_sample_kernel": Cost(
            f"N={batch} V={words} fp32", batch * (2 * 2 + 3 + 2) * row, flops=6.0 * batch * words
        ),
    }


def _heads() -> dict[str, Cost]:
    """The final norm and the head of Llama 2 7B behind 16 hidden states. Tiles have 64 rows: three quarters of the
    products are of rows that are not there."""
    rows, vocabulary, width, splits = 16, 32000, 4096, 264
    case, parts = f"N={rows} V={vocabulary} D={width}", splits * rows * 16
    table, products = vocabulary * width, 2.0 * 64 * vocabulary * width
    return {
        "head_norm_kernel": Cost(f"N={rows} D={width} bf16", 2 * rows * width * BF16 + width * BF16),
        "head_float32_kernel": Cost(f"{case} fp32", (table + rows * width) * F32 + parts, products),
        "head_mma_kernel": Cost(f"{case} bf16", (table + rows * width) * BF16 + parts, products, tensor_cores=True),
        "head_join_kernel": Cost(f"{case}, {splits} splits", parts + rows * (I64 + F32)),
    }


def _after_a_step() -> dict[str, Cost]:
    """Five of 64 nodes accepted in 32 heads of keys of one layer, 128 wide; 81 nodes of Token Recycling."""
    heads, width, moved, nodes, candidates = 32, 128, 4, 81, 8
    return {
        "compact_cache_kernel": Cost(f"{moved} rows moved, H={heads} D={width} bf16", 2 * moved * heads * width * BF16),
        "build_tree_kernel": Cost(f"T={nodes}", nodes * 4 * I64),
        "update_adjacency_kernel": Cost(f"T={nodes} K={candidates}", nodes * (2 * candidates + 1) * I64),
    }


def _merged_parts() -> dict[str, Cost]:
    """Prefix and tree made one: 32 heads of 8192 rows, 128 wide."""
    heads, rows, width, parts = 32, 8192, 128, 2
    case, numbers, lses = f"K={parts} H={heads} N={rows} D={width} bf16", heads * rows * width, heads * rows * F32
    return {
        "merge_attention_kernel": Cost(case, (parts + 1.0) * (numbers * BF16 + lses), flops=2.0 * parts * numbers),
        "merge_attention_backward_kernel": Cost(
            case, (2 * parts + 1.0) * (numbers * BF16 + lses), flops=3.0 * parts * numbers
        ),
    }


def _draft_trees() -> dict[str, Cost]:
    """A tree of 64 nodes behind 4096 rows in the 8 heads of keys and 32 of queries of Llama 3 8B, 128 wide: 256 rows a
    head of keys, in 4 tiles."""
    heads, groups, nodes, prefix, width = 32, 8, 64, 4096, 128
    case, keys = f"T={nodes} P={prefix} H={heads} G={groups} D={width}", groups * (prefix + nodes)
    splits, rows = 5, heads * nodes
    numbers, products = 2.0 * (rows + keys) * width, 4.0 * rows * (prefix + nodes) * width
    parts = splits * rows * (width + 1) * F32
    queries, step = 64, 4 * 64
    return {
        "tree_attention_fma_kernel": Cost(
            f"{case} fp32",
            numbers * F32 + parts,
            products,
            dynamic_shared=(queries + step // 2) * width * F32 + queries * (32 + 8) * F32,
        ),
        "tree_attention_mma_kernel": Cost(
            f"{case} bf16",
            numbers * BF16 + parts,
            products,
            tensor_cores=True,
            dynamic_shared=(queries + step) * width * BF16,
        ),
    }


def _power() -> dict[str, Cost]:
    """50 steps over 12 maps of 197 tokens, in shared memory; they are read once."""
    heads, tokens, steps, groups = 12, 197, 50, 4
    return {
        "power_iterate_kernel": Cost(
            f"H={heads} N={tokens}, {steps} steps fp32",
            heads * (tokens * tokens + tokens) * F32,
            flops=2.0 * heads * tokens * tokens * steps,
            dynamic_shared=(200 + groups * tokens + tokens * tokens) * F32,
            threads=groups * 224,
        )
    }


def _gates() -> dict[str, Cost]:
    """Two of 64 experts for 16384 tokens; six of 1024; gates over 256 x 4096 logits."""
    tokens, experts, k, wide, many = 16384, 64, 2, 1024, 6
    case, answers, items = f"T={tokens} E={experts} k={k} fp32", F32 + I64, 256 * 4096
    return {
        "clear_gate_counts_kernel": Cost(f"E={experts}", experts * I64),
        "gate_warps_kernel": Cost(case, tokens * (experts * F32 + k * answers) + experts * I64),
        "gate_block_kernel": Cost(
            f"T={tokens} E={wide} k={many} fp32",
            tokens * (wide * F32 + many * answers) + wide * I64,
            dynamic_shared=8 * I64,
        ),
        "topk_gate_backward_kernel": Cost(case, tokens * (2 * experts * F32 + k * answers)),
        "threshold_gate_kernel": Cost(f"{items} logits with noise, fp32", 3.0 * items * F32),
        "threshold_gate_backward_kernel": Cost(f"{items} logits fp32", 4.0 * items * F32),
    }


def _attention() -> dict[str, Cost]:
    """8 heads of 4096 tokens, 64 wide."""
    heads, tokens, width = 8, 4096, 64
    case, rows = "H=8 N=4096 D=64 dense", heads * tokens * width
    products = 4.0 * heads * tokens * tokens * width  # scores, and weights times values
    queries, keys, weights = 64, 64, 64 * (32 + 8) * F32
    blocks, nodes = 500, 1024
    return {
        "block_offsets_kernel": Cost(f"H={heads} C={blocks}", heads * (2.0 * blocks + 1) * I64),
        "pack_ancestors_kernel": Cost(f"T={nodes}", nodes * nodes * (1 + 1 / 8)),
        "attention_fma_kernel": Cost(
            f"{case} fp32", 4.0 * rows * F32, products, dynamic_shared=(queries + 2 * keys) * width * F32 + weights
        ),
        "attention_mma_kernel": Cost(
            f"{case} bf16",
            4.0 * rows * BF16,
            products,
            tensor_cores=True,
            dynamic_shared=(queries + 4 * keys) * width * BF16,
        ),
        **_attention_gradients(heads, tokens, width),
    }


def _attention_gradients(heads: int, tokens: int, width: int) -> dict[str, Cost]:
    case, rows, product = "H=8 N=4096 D=64 dense", heads * tokens * width, 2.0 * heads * tokens * tokens * width
    facts, tiles = 2 * heads * tokens * F32, tokens // 64
    meetings = heads * tiles * tiles / 8
    f32_shared = (2 * 64 + 4 * 32) * width * F32
    weights, bf16_shared = 64 * (32 + 8) * F32, (2 * 64 + 4 * 64) * width * BF16
    return {
        "clear_meetings_kernel": Cost(case, meetings),
        "attention_meetings_kernel": Cost(case, meetings),
        "attention_centres_kernel": Cost(f"{case} bf16", 2.0 * rows * BF16 + heads * tokens * F32, 2.0 * rows),
        "attention_bias_kernel": Cost(f"{case}, one bias", (heads + 1) * tokens * F32),
        "attention_query_grad_fma_kernel": Cost(
            f"{case} fp32", 5.0 * rows * F32 + facts, 3 * product, dynamic_shared=f32_shared + weights
        ),
        "attention_query_grad_mma_kernel": Cost(
            f"{case} bf16", 5.0 * rows * BF16 + facts, 3 * product, tensor_cores=True, dynamic_shared=bf16_shared
        ),
        "attention_key_grad_fma_kernel": Cost(
            f"{case} fp32", 6.0 * rows * F32 + facts, 4 * product, dynamic_shared=f32_shared + 2 * weights
        ),
        "attention_key_grad_mma_kernel": Cost(
            f"{case} bf16", 6.0 * rows * BF16 + facts, 4 * product, tensor_cores=True, dynamic_shared=bf16_shared
        ),
    }


def _attention_around() -> dict[str, Cost]:
    """Maps held against a teacher's (a layer of SiT-XL and DINOv2-B), and 576 places that share 195 tokens (LLaVA)."""
    batch, heads, tokens, student, teacher = 8, 12, 256, 72, 64
    case, pairs, rows = "B=8 H=12 N=256 D=72, 64 fp32", batch * heads * tokens * tokens, batch * heads * tokens
    vectors = 2.0 * rows * (student + teacher) * F32
    places, shared, layer_heads, width = 576, 195, 32, 128
    moved = layer_heads * (places + shared) * width * BF16 + places * (I64 + 2.0 * width * F32)
    return {
        "attention_map_ce_kernel": Cost(case, vectors + 3.0 * rows * F32, 2.0 * pairs * (student + teacher)),
        "attention_map_ce_backward_kernel": Cost(
            f"{case}, one side", vectors + rows * (3 + student) * F32, 2.0 * pairs * (2 * student + teacher)
        ),
        "rope_gather_kernel": Cost("H=32, 576 places of 195 tokens, D=128 bf16", moved),
        "rope_scatter_kernel": Cost("H=32, 576 places to 195 tokens, D=128 bf16", moved),
    }


def _attention_parts() -> dict[str, Cost]:
    """Column sums, folded over heads and to 100 groups, and 8 rows of the map of 8 heads of 4096 tokens, 64 wide."""
    heads, tokens, width, picks, groups = 8, 4096, 64, 8, 100
    case, rows = "H=8 N=4096 D=64", heads * tokens * width
    products, chunks = 2.0 * heads * tokens * tokens * width, 33
    sums, normalisers = heads * tokens * F32, heads * tokens * F32
    queries, keys, weights = 64, 64, 64 * (32 + 8) * F32
    return {
        "attention_column_sums_fma_kernel": Cost(
            f"{case} fp32",
            2.0 * rows * F32 + normalisers + chunks * sums,
            products,
            dynamic_shared=(queries + 2 * keys) * width * F32 + weights,
        ),
        "attention_column_sums_mma_kernel": Cost(
            f"{case} bf16",
            2.0 * rows * BF16 + normalisers + chunks * sums,
            products,
            tensor_cores=True,
            dynamic_shared=(queries + 4 * keys) * width * BF16,
        ),
        "add_column_chunks_kernel": Cost(f"{case}, {chunks} chunks", (chunks + 1.0) * sums),
        "attention_rows_kernel": Cost(
            f"{case} bf16, {picks} rows",
            rows * BF16 + heads * picks * (width * BF16 + tokens * F32),
            2.0 * heads * picks * tokens * width,
        ),
        "fold_heads_kernel": Cost(f"{case}, over heads", sums + tokens * F32),
        "fold_groups_kernel": Cost(f"{case}, {groups} groups", sums + tokens * I64 + heads * groups * F32),
    }


def _soft_codes() -> dict[str, Cost]:
    """Entropies of 4096 rows over 16384 codes of 8, and histograms of 65536 groups of 8 bits."""
    rows, codes, width, bits, groups = 4096, 16384, 8, 8, 65536
    case, vectors, products = f"N={rows} K={codes} D={width} fp32", (rows + codes) * width * F32, 2.0 * rows * codes
    norms = 3 * (rows + codes) * F32
    splits = 5  # of the codes, so that 64 blocks of rows fill 132 multiprocessors twice
    stats, centres, answers = splits * rows * 4 * F32, splits * rows * 2 * F32, rows * 2 * F32
    columns, sub_case, parts = 2 * codes * F32, f"{groups} of {bits} bits fp32", 128
    return {
        "soft_norms_kernel": Cost(case, vectors + norms, flops=2.0 * (rows + codes) * width),
        "soft_rows_kernel": Cost(case, vectors + norms + stats, flops=products * width),
        "soft_columns_kernel": Cost(case, vectors + norms + answers + columns, flops=products * width),
        "soft_total_kernel": Cost(f"N={rows}", rows * F32),
        "soft_centres_kernel": Cost(case, centres + answers),
        "soft_gradient_kernel": Cost(case, 2 * vectors + norms + answers, flops=2 * products * width),
        "soft_turn_kernel": Cost(case, 2 * rows * width * F32 + rows * 2 * F32, flops=2.0 * rows * width),
        "codebook_entropy_join_kernel": Cost(case, stats + 2 * answers),
        "codebook_lse_join_kernel": Cost(case, stats + answers + rows * I64),
        "fold_parts_kernel": Cost(case, columns + codes * F32),
        "bit_entropy_kernel": Cost(sub_case, groups * (bits + 1) * F32),
        "bit_entropy_backward_kernel": Cost(sub_case, groups * (2 * bits + 1) * F32),
        "subcode_histogram_kernel": Cost(
            sub_case, groups * bits * F32 + parts * 2**bits * F32, flops=2.0 * groups * 2**bits
        ),
        "subcode_histogram_backward_kernel": Cost(
            sub_case, 2 * groups * bits * F32 + 2**bits * F32, flops=2.0 * bits * groups * 2**bits
        ),
    }


def _pair_counts() -> dict[str, Cost]:
    """Pairs of 10 million ids below 2^16, three million of them different, in 10000 sequences."""
    tokens, batch, found, passes = 10_000_000, 10_000, 3_000_000, 4
    case, ids, keys = f"N={tokens} int32", tokens * F32, tokens * I64
    digits = tokens / 2048 * 256 * F32
    sorting = f"{case}, one of {passes} bytes"
    return {
        "clear_pairs_kernel": Cost(case, tokens),
        "mark_last_kernel": Cost(f"B={batch}", batch * (I64 + 1)),
        "tile_sums_kernel": Cost(f"{case}, pairs", ids + tokens),
        "scan_tiles_kernel": Cost(f"{case}, pairs", 2 * tokens / 2048 * I64),
        "emit_prefixes_kernel": Cost(f"{case}, pairs", ids + tokens + keys),
        "join_ids_kernel": Cost(case, keys),
        "digit_counts_kernel": Cost(sorting, keys + digits),
        "place_digits_kernel": Cost(sorting, 2 * keys + digits),
        "count_runs_kernel": Cost(f"{case}, K={found}", found * 3 * I64),
    }


def _pieces() -> dict[str, Cost]:
    """The pieces of 64 MiB of text, 4.7 bytes each. What prefix sums cost is in `_pair_counts`."""
    size = 64 << 20
    return {"mark_pieces_kernel": Cost(f"N={size}", 2 * size)}


def _encoding() -> dict[str, Cost]:
    """64 MB of English in documents of 4 KB by the vocabulary of GPT-2, and back: 4.5 bytes a piece and a token."""
    size, batch = 64_000_000, 16_000
    pieces, case, table = size / 4.5, f"{size // 10**6} MB of text", 4_000_000  # what of the tables is used
    slots, marks, ids = size * F32, size / 8, size / 4.5 * F32
    longer = 0.001 * size  # bytes in pieces of more than 1024
    return {
        "clear_encoding_kernel": Cost(case, slots + marks),
        "mark_starts_kernel": Cost(f"{case}, cl100k", size + marks + batch * I64),
        "encode_pieces_kernel": Cost(case, pieces * F32 + size + ids + table),
        "merge_pieces_kernel": Cost(
            f"{case}, a thousandth in pieces of more than 1 KB", longer * (1 + 2 * F32) + table
        ),
        "encoding_starts_kernel": Cost(f"{case}, B={batch}", batch * (2 * I64 + 1024 * F32)),
        "decode_starts_kernel": Cost(f"{case}, B={batch}", batch * 3 * I64),
        "copy_bytes_kernel": Cost(case, ids + pieces * I64 + size + table),
    }


COSTS: dict[str, Cost] = {
    **_rows(),
    **_matching(),
    **_segments(),
    **_soft(),
    **_compaction(),
    **_clusters(),
    **_kmeans(),
    **_nearest(),
    **_codes_without_a_book(),
    **_codebook_stacks(),
    **_soft_codes(),
    **_product_codes(),
    **_choices(),
    **_points(),
    **_vocabulary(),
    **_drafts(),
    **_verification(),
    **_merged_parts(),
    **_draft_trees(),
    **_heads(),
    **_after_a_step(),
    **_spatten(),
    **_power(),
    **_gates(),
    **_attention(),
    **_attention_around(),
    **_attention_parts(),
    **_pair_counts(),
    **_pieces(),
    **_encoding(),
}
