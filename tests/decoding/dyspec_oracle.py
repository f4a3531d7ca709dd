# SPDX-License-Identifier: Apache-2.0
"""DySpec's algorithms 1 to 3 as the paper prints them, one draw after another in float64, and nothing of ours."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

Row = np.ndarray


@dataclass
class Drawn:
    """A tree as it is drawn. `left` is R of the paper, per node, zeroed and renormalised draw by draw."""

    q_of: Callable[[tuple[int, ...]], Row]
    u_of: Callable[[int, tuple[int, ...]], Row]
    root: int
    parents: list[int] = field(default_factory=lambda: [-1])
    tokens: list[int] = field(default_factory=list)
    value: list[float] = field(default_factory=lambda: [1.0])
    popped: list[float] = field(default_factory=list)
    left: dict[int, Row] = field(default_factory=dict)

    def __post_init__(self):
        self.tokens.append(self.root)

    def path(self, node):
        way = []
        while node >= 0:
            way.append(self.tokens[node])
            node = self.parents[node]
        return tuple(way[::-1])

    def rest(self, node):
        if node not in self.left:
            self.left[node] = np.asarray(self.q_of(self.path(node)), np.float64).copy()
        return self.left[node]

    def draw(self, node, v):
        """One child of a node, by the next to finish of an exponential race; its probability among what was left."""
        rest = self.rest(node)
        with np.errstate(divide="ignore"):
            finish = np.where(rest > 0, np.log(self.u_of(node, self.path(node))) / self.q_of(self.path(node)), -np.inf)
        y = int(finish.argmax())
        r = float(rest[y])
        self.parents.append(node)
        self.tokens.append(y)
        self.popped.append(v)
        self.value.append(v * r)
        rest[y] = 0
        if rest.sum() > 1e-12:
            rest /= rest.sum()
        else:
            rest[:] = 0
        return len(self.tokens) - 1, r


def fixed(q_of, u_of, root, budget):
    tree = Drawn(q_of, u_of, root)
    heap = [(1.0, 0)]
    while len(tree.popped) < budget and heap:
        v, node = max(heap, key=lambda entry: entry[0])  # the earliest pushed of equals
        heap.remove((v, node))
        child, r = tree.draw(node, v)
        if tree.rest(node).any():
            heap.append((v * (1 - r), node))
        heap.append((v * r, child))
    return tree


def threshold(q_of, u_of, root, t):
    tree = Drawn(q_of, u_of, root)
    level = [(0, 1.0)]
    while level:
        below = []
        for leaf, value in level:
            v = value
            while v >= t and tree.rest(leaf).any():
                child, r = tree.draw(leaf, v)
                below.append((child, v * r))
                v *= 1 - r
        level = below
    return tree


def exact_walk(parents, tokens, q_row, p_of):
    """Algorithm 3 with every coin tossed both ways: emitted tokens to their probability."""
    emitted: dict[tuple[int, ...], float] = defaultdict(float)

    def visit(node, path, chance):
        p, q = np.asarray(p_of(path), np.float64), np.asarray(q_row(node), np.float64).copy()
        for child in (i for i, parent in enumerate(parents) if parent == node):
            y = tokens[child]
            accept = min(1.0, p[y] / q[y])
            if accept > 0:
                visit(child, (*path, y), chance * accept)
            chance *= 1 - accept
            if chance <= 0:
                return
            rest = np.maximum(p - q, 0)
            p = rest / rest.sum() if rest.sum() > 0 else p
            q[y] = 0
            if q.sum() <= 0:
                break
            q /= q.sum()
        for y, last in enumerate(p):
            emitted[(*path[1:], y)] += chance * last

    visit(0, (tokens[0],), 1.0)
    return emitted


def first_two(emitted, p_of, root):
    """The joint law of two tokens: a step that emits one is followed by a draw of the target (the law of one token)."""
    joint: dict[tuple[int, int], float] = defaultdict(float)
    for text, chance in emitted.items():
        if len(text) > 1:
            joint[text[:2]] += chance
        else:
            for y, p in enumerate(p_of((root, *text))):
                joint[text[0], y] += chance * p
    return joint


class Tables:
    """Draft and target as tables: the next token hangs on depth and token."""

    def __init__(self, vocabulary=4, depths=6, seed=0, sharp=1.0):
        rng = np.random.default_rng(seed)
        self.logits = rng.normal(0, sharp, (depths, vocabulary, vocabulary))
        self.depths = depths

    def row(self, path):
        z = self.logits[min(len(path), self.depths) - 1, path[-1]]
        e = np.exp(z - z.max())
        return e / e.sum()

    def look_up(self, tokens, parents):
        """(B, T) to (B, T, V) logits."""
        depth = torch.zeros_like(parents)
        for i in range(1, parents.shape[1]):
            above = parents[:, i].clamp(min=0)
            depth[:, i] = depth.gather(1, above[:, None])[:, 0] + 1
        return torch.from_numpy(self.logits)[depth.clamp(max=self.depths - 1), tokens]

    def draft_fn(self, tokens, parents, nodes):
        logits = self.look_up(tokens, parents)
        rows = torch.arange(len(nodes))[:, None]
        return logits[rows, nodes.clamp(min=0)]

    def draft_one(self, tokens, parents, nodes):
        return self.draft_fn(tokens[None], parents[None], nodes[None])[0]
