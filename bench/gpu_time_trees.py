# SPDX-License-Identifier: Apache-2.0
"""What bench.gpu_time races of the family tree: attention of draft trees, heads, drafts, verification, caches."""

from __future__ import annotations

from functools import partial

import torch
from tokernel import ops
from tokernel.kernels.tree import TokenTree
from torch import Tensor
from torch.nn import functional

from bench.gpu_time import Case, Race, bytes_of, randint, randn

F32, BF16 = torch.float32, torch.bfloat16
LLAMA3 = 128256


def _tree(nodes: int) -> TokenTree:
    """Three children a node."""
    return TokenTree([-1, *((i - 1) // 3 for i in range(1, nodes))])


def _parents(tree: TokenTree) -> Tensor:
    return torch.tensor(tree.parents, dtype=torch.int64, device="cuda")


def _attention(dtype: torch.dtype, batch: int, nodes: int, prefix: int) -> Race:
    q = randn(batch, 32, nodes, 128, dtype=dtype)
    k, v = (randn(batch, 8, prefix + nodes, 128, dtype=dtype) for _ in range(2))
    tree = _tree(nodes)
    parents, lengths = _parents(tree), torch.full((batch,), prefix, device="cuda")
    seen = torch.cat([torch.ones(nodes, prefix, dtype=torch.bool), torch.from_numpy(tree.mask)], 1).cuda()
    return Race(
        lambda: ops.tree_attention(q, k, v, lengths, parents),
        {"SDPA with a mask": lambda: functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True)},
        bytes_of(k, v) + 2 * bytes_of(q),
        4.0 * batch * 32 * nodes * (prefix + nodes) * 128,
    )


def _merge(dtype: torch.dtype) -> Race:
    outs, lses = randn(2, 1, 32, 8192, 128, dtype=dtype), randn(2, 1, 32, 8192)

    def peer() -> tuple[Tensor, Tensor]:
        weight = lses.softmax(0)[..., None]
        return (outs * weight).sum(0).to(dtype), lses.logsumexp(0)

    return Race(lambda: ops.merge_attention(outs, lses), {"softmax + sum": peer}, 1.5 * bytes_of(outs, lses))


def _row_stats(dtype: torch.dtype) -> Race:
    logits = randn(64, LLAMA3, dtype=dtype)

    def peer() -> tuple[Tensor, Tensor]:
        log = logits.float().log_softmax(-1)
        return log.argmax(-1), -(log.exp() * log).sum(-1)

    return Race(lambda: ops.row_stats(logits), {"log_softmax": peer}, bytes_of(logits), compared=False)


def _head(dtype: torch.dtype, rows: int) -> Race:
    h, weight = randn(rows, 4096, dtype=dtype), randn(32000, 4096, dtype=dtype) / 64

    def peer() -> tuple[Tensor, Tensor]:
        prob, index = (h @ weight.T).float().softmax(-1).max(-1)
        return index, prob

    return Race(
        lambda: ops.head_argmax_prob(h, weight), {"linear + softmax + max": peer},
        bytes_of(weight, h), 2.0 * rows * 32000 * 4096,
    )  # fmt: skip


def _draws(dtype: torch.dtype) -> Race:
    q, u = (3 * randn(16, LLAMA3)).softmax(-1).to(dtype), torch.rand(16, LLAMA3, device="cuda")
    return Race(
        lambda: ops.sample_without_replacement(q, 64, u)[0],
        {"race + topk": lambda: (u.log() / q.float()).topk(64)[1]},
        bytes_of(q, u),
    )


def _gumbel(dtype: torch.dtype) -> Race:
    logits, u = randn(16, LLAMA3, dtype=dtype), torch.rand(16, LLAMA3, device="cuda")
    return Race(
        lambda: ops.gumbel_argmax(logits, u),
        {"torch formula": lambda: (logits.float() - (-u.log()).log()).argmax(-1)},
        bytes_of(logits, u),
    )


def _greedy(dtype: torch.dtype) -> Race:
    tokens, target, parents = randint(4, 64, 64), randint(4, 64, 64), _parents(_tree(64))
    return Race(lambda: ops.verify_greedy(tokens, target, parents), {}, 3.0 * 64 * 64 * 8)


def _stochastic(dtype: torch.dtype, rule: str) -> Race:
    target = (3 * randn(64, 64, 32000)).softmax(-1).to(dtype)
    draft = (target + (3 * randn(64, 64, 32000)).softmax(-1)) / 2
    draft = draft / draft.sum(-1, keepdim=True)
    tokens = torch.multinomial(draft.flatten(0, 1), 1).view(64, 64)
    uniforms, parents = torch.rand(64, 65, device="cuda"), _parents(_tree(64))
    return Race(lambda: ops.verify_stochastic(tokens, target, draft, uniforms, parents, rule))


def _residual(dtype: torch.dtype) -> Race:
    p, q = ((3 * randn(64, 32000)).softmax(-1).to(dtype) for _ in range(2))
    u = torch.rand(64, device="cuda")

    def peer() -> Tensor:
        left = (p - q).clamp_min(0).cumsum(-1)
        return torch.searchsorted(left, u[:, None] * left[:, -1:], right=True)[:, 0]

    return Race(lambda: ops.residual_sample(p, q, u), {"cumsum + searchsorted": peer}, bytes_of(p, q))


def _transfer(dtype: torch.dtype) -> Race:
    confidence, mask = torch.rand(64, 1024, device="cuda"), torch.rand(64, 1024, device="cuda") < 0.5
    count = torch.full((64,), 16, device="cuda")
    return Race(lambda: ops.masked_transfer(confidence, mask, count), {}, bytes_of(confidence, mask))


def _expand(dtype: torch.dtype) -> Race:
    table, known = torch.rand(64, 65, 2, device="cuda"), torch.ones(64, 65, dtype=torch.bool, device="cuda")
    return Race(lambda: ops.expand_greedy(table, known, 64), {}, bytes_of(table, known))


def _compact(dtype: torch.dtype) -> Race:
    """32 layers, half of the caches that are not read moved along."""
    cache = randn(32, 1, 8, 4200, 128, dtype=dtype)
    lengths, path = torch.tensor([4096], device="cuda"), torch.tensor([[0, 1, 4, 13, 40]], device="cuda")

    def peer() -> None:
        cache[:, 0, :, 4096:4101] = cache[:, 0][:, :, 4096 + path[0]]

    return Race(
        lambda: ops.compact_cache(cache, lengths, path), {"index + copy": peer},
        2.0 * 4 * 32 * 8 * 128 * cache.element_size(), compared=False,
    )  # fmt: skip


def _build(dtype: torch.dtype) -> Race:
    adjacency, root, rank = randint(LLAMA3, LLAMA3, 8), randint(LLAMA3, 1), randint(8, 81)
    parents = _parents(_tree(81))
    return Race(lambda: ops.build_tree(adjacency, root, parents, rank), {}, 81 * 32.0)


def cases() -> list[Case]:
    """In the order of the table."""
    return [
        *(Case("tree_attention", "32x64x128, 8x4096 prefix", d, partial(_attention, batch=1, nodes=64, prefix=4096))
          for d in (F32, BF16)),
        Case("tree_attention", "16x32x64x128, 8x4096 prefix", BF16,
             partial(_attention, batch=16, nodes=64, prefix=4096)),
        Case("tree_attention", "32x1x128, 8x16384 prefix", BF16, partial(_attention, batch=1, nodes=1, prefix=16384)),
        Case("tree_attention", "16x32x1x128, 8x8192 prefix", BF16, partial(_attention, batch=16, nodes=1, prefix=8192)),
        Case("merge_attention", "2 parts of 32x8192x128", BF16, _merge),
        Case("row_stats", "64x128256", BF16, _row_stats),
        *(Case("head_argmax_prob", f"{rows}x4096, 32000 words", d, partial(_head, rows=rows))
          for rows, d in ((1, BF16), (16, BF16), (256, BF16), (16, F32))),
        Case("sample_without_replacement", "16x128256, 64 draws", BF16, _draws),
        Case("gumbel_argmax", "16x128256", BF16, _gumbel),
        Case("verify_greedy", "64 trees of 64", torch.int64, _greedy),
        *(Case("verify_stochastic", f"64 trees of 64, 32000 words, {rule}", F32, partial(_stochastic, rule=rule))
          for rule in ("sequoia", "specinfer")),
        Case("residual_sample", "64x32000", F32, _residual),
        Case("masked_transfer", "64x1024", F32, _transfer),
        Case("expand_greedy", "64 trees of 64", F32, _expand),
        Case("compact_cache", "32 layers of 8x4200x128, 5 rows", BF16, _compact),
        Case("build_tree", "81 nodes", torch.int64, _build),
    ]  # fmt: skip
