# SPDX-License-Identifier: Apache-2.0
"""Cases of tree_attention, against torch's scaled_dot_product_attention (SDPA) with a boolean mask.

The least that a case can take: 4 H T (P + T) D FLOPs, and the bytes of the keys and values, read once. In float32 the
first is what counts from about eight nodes on, and no kernel comes below it.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import torch
from tokernel import ops
from tokernel.kernels.tree import TokenTree
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa

from bench.arrays import agree, bytes_of, randn
from bench.core import Call, Case, Floor, Work

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PREFIX, WIDTH = 4096, 128
CHILDREN = 4
PAGE = 16


@dataclasses.dataclass(frozen=True)
class Problem:
    """What a model gives to one layer's attention."""

    heads: int
    groups: int
    nodes: int
    prefix: int = PREFIX
    pages: bool = False

    def __str__(self) -> str:
        heads = f"{self.heads}" if self.heads == self.groups else f"{self.heads}/{self.groups}"
        nodes = f"{self.nodes} node{'s' if self.nodes > 1 else ''}"
        return f"{nodes} on {self.prefix}, {heads}x{WIDTH}" + (f", pages of {PAGE}" if self.pages else "")


def _tree(nodes: int) -> TokenTree:
    """Every node has CHILDREN children, up to the last."""
    return TokenTree([-1, *((i - 1) // CHILDREN for i in range(1, nodes))])


def _peers(problem: Problem, q: Tensor, k: Tensor, v: Tensor, tree: TokenTree) -> dict[str, Call]:
    prefix = torch.ones(problem.nodes, problem.prefix, dtype=torch.bool)
    mask = torch.cat([prefix, torch.from_numpy(tree.mask)], 1) if problem.nodes > 1 else None
    sharing = problem.heads // problem.groups
    if sharing == 1:
        return {"SDPA, boolean mask" if problem.nodes > 1 else "SDPA": lambda: sdpa(q, k, v, attn_mask=mask)}
    rows = q.view(1, problem.groups, sharing * problem.nodes, WIDTH)
    rows_mask = None if mask is None else mask.repeat(sharing, 1)

    def repeated() -> Tensor:
        return sdpa(q, k.repeat_interleave(sharing, 1), v.repeat_interleave(sharing, 1), attn_mask=mask)

    return {
        "SDPA, enable_gqa": lambda: sdpa(q, k, v, attn_mask=mask, enable_gqa=True),
        "SDPA, keys and values repeated": repeated,
        "SDPA, heads of a group as queries": lambda: sdpa(rows, k, v, attn_mask=rows_mask).view_as(q),
    }


def _paged(cache: Tensor) -> Tensor:
    """The rows (1, G, S, D) as pages (P, G, R, D) in reverse order."""
    groups, rows = cache.shape[1:3]
    whole = cache[:, :, : rows // PAGE * PAGE]
    rest = cache.new_zeros(1, groups, PAGE, WIDTH)
    rest[:, :, : rows % PAGE] = cache[:, :, rows // PAGE * PAGE :]
    pages = torch.cat([whole, rest], 2).view(groups, -1, PAGE, WIDTH).transpose(0, 1)
    return pages.flip(0).contiguous()


def _attend(problem: Problem, dtype: torch.dtype, quick: bool) -> Work:
    if quick:
        problem = dataclasses.replace(problem, prefix=100, nodes=min(problem.nodes, 8))
    tree, rows = _tree(problem.nodes), problem.prefix + problem.nodes
    q = randn(1, problem.heads, problem.nodes, WIDTH, dtype=dtype)
    k, v = (randn(1, problem.groups, rows, WIDTH, dtype=dtype, seed=seed) for seed in (1, 2))
    parents = torch.from_numpy(tree.parents.astype("int64"))
    caches, pages = (k, v), None
    if problem.pages:
        caches = (_paged(k), _paged(v))
        pages = torch.arange(len(caches[0]) - 1, -1, -1)[None]
    return Work(
        lambda: ops.tree_attention(q, *caches, problem.prefix, parents, pages=pages),
        _peers(problem, q, k, v, tree),
        agree,
        flops=4.0 * problem.heads * problem.nodes * rows * WIDTH,
        moved_bytes=bytes_of(k, v) + 2 * bytes_of(q),
    )


TWICE = (Floor("ratio", 2.0),)
DECODE = (Floor("ratio", 1.5), Floor("peak", 0.8))
GROUPED = (Floor("ratio", 2.5),)
PROBLEMS = (
    (Problem(32, 32, 64), TWICE),
    (Problem(32, 32, 1), DECODE),
    (Problem(32, 8, 64), GROUPED),
    (Problem(32, 8, 1), GROUPED),
    (Problem(32, 32, 64, pages=True), ()),
    (Problem(32, 32, 1, pages=True), ()),
    (Problem(32, 32, 8), ()),
)


def cases() -> list[Case]:
    """Every case, in the order of the table; promises are made for float32 and bfloat16."""
    found = []
    for problem, floors in PROBLEMS:
        for name, dtype in DTYPES.items():
            promised = () if dtype == torch.float16 else floors
            build = partial(_attend, problem, dtype)
            found.append(Case("tree", "tree_attention", str(problem), name, build, promised))
    return found
