# SPDX-License-Identifier: Apache-2.0
"""Cases of the tree family: which draft tokens a target keeps, against loops of plain torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from tokernel import ops
from tokernel.kernels.tree import Rule, TokenTree
from torch import Tensor

from bench.arrays import DTYPES, bytes_of, randn
from bench.core import Case, Floor, Work

VOCABULARY = 32000  # of Llama 2
NODES, CHILDREN = 64, 4
FIFTIETH = Floor("ratio", 50.0)  # of the attention of a layer


@dataclass
class Step:
    """One tree of drafts as a step of decoding has it: children drawn from draft, which is near target."""

    tree: TokenTree
    tokens: Tensor  # (1, T)
    target: Tensor  # (1, T, V)
    draft: Tensor
    coins: Tensor  # (1, T + 1)

    def call(self, rule: Rule) -> Any:
        draft = self.draft if rule in ("sequoia", "specinfer") else None
        return ops.verify_stochastic(self.tokens, self.target, draft, self.coins, self.tree, rule)


def _step(dtype: torch.dtype, quick: bool) -> Step:
    nodes, words = (8, 50) if quick else (NODES, VOCABULARY)
    tree = TokenTree([-1, *((i - 1) // CHILDREN for i in range(1, nodes))])
    logits = 3 * randn(1, nodes, words, dtype=torch.float32)
    target = logits.softmax(-1)
    draft = (logits + 0.5 * randn(1, nodes, words, dtype=torch.float32, seed=1)).softmax(-1)
    generator = torch.Generator().manual_seed(2)
    tokens = torch.zeros(1, nodes, dtype=torch.int64)
    for node in range(nodes):
        children = [c for c in range(nodes) if tree.parents[c] == node]
        if children:
            tokens[0, children] = torch.multinomial(draft[0, node], len(children), generator=generator)
    coins = torch.rand(1, nodes + 1, generator=generator)
    return Step(tree, tokens, target.to(dtype), draft.to(dtype), coins)


def _normalised(row: Tensor) -> Tensor:
    return row / row.sum()


def _torch_walk(step: Step, rule: Rule) -> Tensor:
    """The official repositories' way: a Python loop over nodes, torch over the vocabulary."""
    parents, tokens, coins = step.tree.parents.tolist(), step.tokens[0].tolist(), step.coins[0].tolist()
    path = [0]
    while True:
        node = path[-1]
        p, q = step.target[0, node].float(), step.draft[0, node].float()
        kept = None
        for child in (c for c in range(len(parents)) if parents[c] == node):
            x = tokens[child]
            if (coins[child] < p[x] / q[x]) if rule == "sequoia" else (coins[child] <= p[x]):
                kept = child
                break
            if rule == "sequoia":
                p = _normalised((p - q).clamp(min=0))
                q = q.clone()
                q[x] = 0
                q = _normalised(q)
            else:
                p = p.clone()
                p[x] = 0
                p = _normalised(p)
        if kept is None:
            running = p.cumsum(0)
            torch.searchsorted(running, running[-1:] * coins[-1], right=True)
            return torch.tensor(path)
        path.append(kept)


def _same_path(ours: Any, peer: Tensor) -> None:
    kept = ours.path[0][ours.path[0] >= 0]
    assert torch.equal(kept, peer), (kept, peer)


def _stochastic(rule: Rule, dtype: torch.dtype, quick: bool) -> Work:
    step = _step(dtype, quick)
    read = 2 * bytes_of(step.target[0, 0]) * (1 + int(step.call(rule).accepted))
    return Work(
        lambda: step.call(rule), {"torch, node by node": partial(_torch_walk, step, rule)}, _same_path, moved_bytes=read
    )


def _greedy(batch: int, quick: bool) -> Work:
    step = _step(torch.float32, quick)
    target = step.target.argmax(-1).expand(batch, -1).contiguous()
    tokens = step.tokens.expand(batch, -1).contiguous()
    target[:, 0] = tokens[:, 2]  # so that something is kept
    paths = torch.from_numpy(step.tree.paths()).long()

    def by_paths() -> Tensor:
        """Medusa's way: every path of the tree, cut at its first token that the target would not say."""
        said = target[:, paths[:, :-1].clamp(min=0)]
        drafted = tokens[:, paths[:, 1:].clamp(min=0)]
        kept = ((said == drafted) & (paths[:, 1:] >= 0)).cumprod(-1).sum(-1)
        return kept.max(-1).values

    def as_long(ours: Any, peer: Tensor) -> None:
        assert torch.equal(ours.accepted, peer)

    call = partial(ops.verify_greedy, tokens, target, step.tree)
    return Work(call, {"torch, path by path": by_paths}, as_long, moved_bytes=3 * bytes_of(tokens))


def _beside_attention(dtype: torch.dtype, quick: bool) -> Work:
    """Verification of a step and compaction of one layer's cache, against the attention of that layer in that step."""
    step = _step(dtype, quick)
    nodes, prefix, heads, width = len(step.tree), 64 if quick else 4096, 32, 128
    q = randn(1, heads, nodes, width, dtype=dtype)
    k, v = (randn(1, heads, prefix + nodes, width, dtype=dtype, seed=i) for i in (1, 2))
    attention = partial(ops.tree_attention, q, k, v, prefix, step.tree)
    lengths = torch.tensor([prefix])
    deep = torch.full((1, nodes), -1)
    way = step.tree.path(nodes - 1)
    deep[0, : len(way)] = torch.tensor(way)

    def keep() -> Any:
        found = step.call("sequoia")
        for cache in (k, v):  # the deepest path: what is kept of these drafts may be the root alone
            ops.compact_cache(cache, lengths, deep)
        return found

    return Work(
        keep,
        {"tree_attention of one layer, 4096 x 32 x 128": attention},
        lambda ours, peer: None,
    )


def _residual(dtype: torch.dtype, quick: bool) -> Work:
    step = _step(dtype, quick)
    p, q, coins = step.target[0], step.draft[0], step.coins[0, 1:]

    def composed() -> Tensor:
        left = (p.float() - q.float()).clamp(min=0)
        running = left.cumsum(-1)
        return torch.searchsorted(running, coins[:, None] * running[:, -1:], right=True)[:, 0]

    def nearly_all(ours: Tensor, peer: Tensor) -> None:
        """A running sum in float32 and one in whole units part where a coin falls on the edge of an item."""
        assert (ours != peer).sum() <= 1 + len(coins) // 8

    return Work(
        lambda: ops.residual_sample(p, q, coins),
        {"torch cumsum + searchsorted": composed},
        nearly_all if dtype == torch.float32 else lambda ours, peer: None,
        moved_bytes=bytes_of(p, q, coins) + 8.0 * len(coins),
    )


def cases() -> list[Case]:
    """Every case, in the order of the table."""
    found = []
    for batch in (1, 256):
        found.append(Case("tree", "verify_greedy", f"{batch} x {NODES}", "int64", partial(_greedy, batch)))
    shape = f"{NODES} nodes, {VOCABULARY} words"
    for name, dtype in DTYPES.items():
        rules: tuple[Rule, ...] = ("sequoia", "eagle")
        for rule in rules:
            build = partial(_stochastic, rule, dtype)
            found.append(Case("tree", f"verify_stochastic, {rule}", shape, name, build, parallel=False))
        beside = partial(_beside_attention, dtype)
        found.append(
            Case(
                "tree",
                "verify_stochastic + compact_cache, beside attention",
                shape,
                name,
                beside,
                (FIFTIETH,),
                parallel=False,
            )
        )
        found.append(Case("tree", "residual_sample", f"{NODES}x{VOCABULARY}", name, partial(_residual, dtype)))
    return found
