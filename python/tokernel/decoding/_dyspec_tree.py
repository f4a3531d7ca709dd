# SPDX-License-Identifier: Apache-2.0
"""Growing draft trees: which draw comes next is decided by a search, what it brings by noise that knows no search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from torch import Tensor

from tokernel.decoding._session import distribution
from tokernel.kernels.tree import TokenTree
from tokernel.ops import expand_greedy, sample_without_replacement

__all__ = ["DraftFn", "DraftTree", "Noise", "Search", "grow", "uniform"]

DraftFn = Callable[[Tensor, Tensor, Tensor], Tensor]
Noise = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class DraftTree:
    """Trees of drawn tokens, one a row; node 0 is the last committed token, the others are numbered as they were drawn.

    Rows are padded to T nodes. A tree of a single root has no B.
    """

    parents: Tensor
    """(B, T) int64: -1 for the root and for padding."""
    tokens: Tensor
    """(B, T) int64; 0 for padding."""
    value: Tensor
    """(B, T) float32: the estimated probability that the walk of the verification reaches the node; 0 for padding."""
    count: Tensor
    """(B) int64: nodes, root included."""
    draft_probs: Tensor
    """(B, T, V) float32: row i is what the children of node i were drawn from; a point mass on token 0 where the draft
    model was not asked. V is 0 where it never was, or where they were not to be kept."""
    known: Tensor
    """(B, T) bool: the nodes that the draft model was asked about."""
    forwards: int
    """How often the draft model was asked."""

    def only(self) -> DraftTree:
        """The tree of the only row, without B."""
        names = (field.name for field in fields(self) if field.name != "forwards")
        return replace(self, **{name: getattr(self, name)[0] for name in names})

    def tree(self, row: int | None = None) -> TokenTree:
        """One tree without its padding: of one row, or, without B, the only one."""
        parents, count = (self.parents, self.count) if row is None else (self.parents[row], self.count[row])
        return TokenTree(parents[: int(count)].cpu().numpy())


class Search(NamedTuple):
    """What decides about the next draw: best first until there are `nodes`, or all that are worth a threshold."""

    nodes: int
    threshold: float | None = None
    max_depth: int | None = None


class _Draws:
    """What is known of every node: the order in which its children would be drawn, and from what."""

    def __init__(self, rows: int, size: int, device: torch.device) -> None:
        self.known = torch.zeros(rows, size, dtype=torch.bool, device=device)
        self.prob = torch.zeros(rows, size, 1, device=device)
        self.token = torch.zeros(rows, size, 1, dtype=torch.int64, device=device)
        self.asked: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, nodes: Tensor, logits: Tensor, temperature: float, noise: Noise) -> None:
        rows, size = self.known.shape
        vocabulary = logits.shape[-1]
        if not self.asked:
            most = min(vocabulary, size - 1)
            self.prob, self.token = self.prob.new_zeros(rows, size, most), self.token.new_zeros(rows, size, most)
        row, place = (nodes >= 0).nonzero(as_tuple=True)
        node = nodes[row, place]
        q = distribution(logits[row, place], temperature)
        token, prob = sample_without_replacement(q, self.prob.shape[-1], noise(nodes, vocabulary)[row, place])
        self.known[row, node] = True
        self.prob[row, node], self.token[row, node] = prob, token
        self.asked.append((row, node, q))

    def tokens(self, root: Tensor, parents: Tensor, rank: Tensor) -> Tensor:
        """(B, T): the draw of each node's rank among those of its parent; 0 for padding."""
        row = torch.arange(len(root), device=root.device)[:, None]
        tokens = torch.where(parents < 0, 0, self.token[row, parents.clamp(min=0), rank.clamp(min=0)])
        tokens[:, 0] = root
        return tokens

    def distributions(self, size: int) -> Tensor:
        """(B, size, V) of every node that was asked about, a point mass on 0 elsewhere; V = 0 if none was."""
        vocabulary = self.asked[0][2].shape[-1] if self.asked else 0
        rows = self.prob.new_zeros(len(self.prob), size, vocabulary)
        rows[..., :1] = 1
        for row, node, q in self.asked:
            rows[row, node] = q
        return rows


def grow(
    draft_fn: DraftFn, root: Tensor, search: Search, temperature: float, noise: Noise, keep: bool = True
) -> DraftTree:
    """Grow one tree a row until its search is done.

    The search runs over the draws that are known. Where it comes to a node whose draws are not, the draft model is
    asked, and the search is run again from the root: it finds what it found before, and goes on. Best first, one
    forward asks about every node drawn so far, not only about the one that the search stopped at: the draws of a node
    hang on its number alone, so that asking early changes no tree, and the search will want most of the others soon.

    Args:
        draft_fn: tokens (B, T), parents (B, T) and nodes (B, N), ascending, then -1, to the nodes' logits (B, N, V).
        root: (B) int64.
        search: what decides.
        temperature: of the draft; 0 is a point mass on the largest logit.
        noise: nodes (B, N) and V to (B, N, V) float32 in [0, 1), uniform and independent of everything.
        keep: the distributions; a target at temperature 0 can be verified without.
    """
    size = search.nodes + 1
    draws = _Draws(len(root), size, root.device)
    while True:
        found = expand_greedy(
            draws.prob,
            draws.known,
            budget=search.nodes if search.threshold is None else None,
            threshold=search.threshold,
            max_depth=search.max_depth,
        )
        tokens = draws.tokens(root, found.parents, found.rank)
        real = torch.arange(size, device=root.device) < found.count[:, None]
        used = int(found.count.max()) if len(root) else 1
        if not bool(found.wanted.any()):
            break
        open_rows = found.wanted.any(1, keepdim=True)
        asked = real & ~draws.known & open_rows if search.threshold is None else found.wanted
        nodes = _listed(asked)
        draws.add(nodes, draft_fn(tokens[:, :used], found.parents[:, :used], nodes), temperature, noise)
    return DraftTree(
        found.parents[:, :used],
        tokens[:, :used],
        found.value[:, :used],
        found.count,
        draws.distributions(used) if keep else draws.prob.new_zeros(len(root), used, 0),
        draws.known[:, :used],
        len(draws.asked),
    )


def uniform(shape: Sequence[int], generator: torch.Generator | None, device: torch.device) -> Tensor:
    """float32 in [0, 1) on a device, whatever device the generator is of."""
    source = device if generator is None else generator.device
    return torch.rand(*shape, generator=generator, device=source).to(device)


def _listed(asked: Tensor) -> Tensor:
    """(B, T) bool to (B, N) int64: the columns that are True, ascending, then -1."""
    columns = asked.shape[1]
    place = torch.where(asked, torch.arange(columns, device=asked.device), columns)
    place = place.sort(1).values[:, : int(asked.sum(1).max())]
    return torch.where(place == columns, -1, place)
