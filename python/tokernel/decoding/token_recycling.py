# SPDX-License-Identifier: Apache-2.0
"""Turning Trash into Treasure: Accelerating Inference of LLMs with Token Recycling (arXiv 2408.08696).

No draft model, no training. A matrix remembers, for every token, the k tokens that the model last thought most likely
behind it, whether the draft that asked was accepted or not. Every step looks a tree of drafts up in it, scores the tree
in one pass, keeps the longest path that greedy decoding would have taken, and writes all the tree's answers back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokernel import ops
from tokernel.decoding._generate import Generated, generate
from tokernel.decoding._recycling_choice import fastest_template
from tokernel.decoding._recycling_templates import TREE_222, best_first_template, named_template
from tokernel.decoding._session import Sampling, Session, greedy_only
from tokernel.decoding._target import TargetModel
from tokernel.kernels.tree import TokenTree
from tokernel.papers import paper

__all__ = [
    "PAPER",
    "TREE_222",
    "TokenRecycling",
    "TokenRecyclingDecoder",
    "TokenRecyclingTree",
    "best_first_template",
    "fastest_template",
    "matrix_bytes",
    "recycle_fill_tree",
    "recycle_update",
    "tree_from_paths",
]

PAPER = paper("token_recycling")

Template = str | Iterable[Sequence[int]]


class TokenRecyclingTree:
    """A fixed tree of drafts: which candidate of its parent's token each node holds.

    Args:
        template: one path of candidate ranks for every node but the root, by depth, the beginning of every path before
            it; or a name: "2.2.2" (:data:`TREE_222`, the paper's), or "best-N" for :func:`best_first_template` with N.

    Attributes:
        tree: the nodes, root first, then as in the template.
        rank: (T) int32: which candidate; 0 for the root.
        paths: (leaves, depth + 1) int32: nodes from the root to every leaf, then -1, as the official code orders them.

    Raises:
        ValueError: an empty path, a negative rank, a path twice, one deeper than a later one, or without its beginning.

    >>> tree = TokenRecyclingTree([[0], [2], [0, 1]])
    >>> tree.parent, tree.rank, tree.depth
    (array([-1,  0,  0,  1], dtype=int32), array([0, 0, 2, 1], dtype=int32), array([0, 1, 1, 2], dtype=int32))
    """

    def __init__(self, template: Template = "2.2.2") -> None:
        given = named_template(template) if isinstance(template, str) else template
        listed = [tuple(int(rank) for rank in path) for path in given]
        node: dict[tuple[int, ...], int] = {(): 0}
        for i, path in enumerate(listed):
            if not path or min(path) < 0:
                raise ValueError(f"TokenRecyclingTree: template must hold ranks of at least 0, got {list(path)}")
            if path in node:
                raise ValueError(f"TokenRecyclingTree: template must hold every path once, got {list(path)} twice")
            if path[:-1] not in node or (i and len(path) < len(listed[i - 1])):
                raise ValueError(
                    "TokenRecyclingTree: template must be ordered by depth, the beginning of each path before it, got "
                    f"{list(path)} at {i}"
                )
            node[path] = i + 1
        self.tree = TokenTree([-1, *(node[path[:-1]] for path in listed)])
        self.rank: NDArray[np.int32] = np.array([0, *(path[-1] for path in listed)], np.int32)

    def __len__(self) -> int:
        return len(self.tree)

    @property
    def parent(self) -> NDArray[np.int32]:
        """(T) int32, -1 for the root."""
        return self.tree.parents

    @property
    def depth(self) -> NDArray[np.int32]:
        """(T) int32: edges from the root."""
        return self.tree.depth

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(T, T) bool: node i sees node j, which is i or an ancestor."""
        return self.tree.mask

    @property
    def paths(self) -> NDArray[np.int32]:
        """(leaves, depth + 1) int32: nodes from the root to every leaf, then -1, leaves ascending."""
        return self.tree.paths()


def tree_from_paths(paths: Iterable[Sequence[int]]) -> TokenRecyclingTree:
    """Make the tree of a template. The same as ``TokenRecyclingTree(paths)``."""
    return TokenRecyclingTree(paths)


def recycle_fill_tree(matrix: Tensor, root: Tensor, tree: TokenRecyclingTree) -> Tensor:
    """Look the drafts of a tree up: ``tok[0] = root``, ``tok[i] = matrix[tok[parent[i]], rank[i]]``.

    Args:
        matrix: (V, k) int64, every rank of the tree below k.
        root: (B) int64: the last token known of each row; or () for one row.
        tree: T nodes.

    Returns:
        (B, T) int64, or (T).

    >>> matrix = torch.tensor([[1, 2], [2, 0], [0, 1]])
    >>> recycle_fill_tree(matrix, torch.tensor(0), TokenRecyclingTree([[0], [1], [0, 1]]))
    tensor([0, 1, 2, 0])
    """
    rank = torch.from_numpy(tree.rank).to(matrix.device)
    tokens = ops.build_tree(matrix, root.reshape(-1), tree.tree, rank)
    return tokens.reshape(*root.shape, len(tree))


def recycle_update(matrix: Tensor, tokens: Tensor, candidates: Tensor) -> None:
    """Remember what the model found likely behind every node, accepted or not, in place: ``matrix[tok[i]] =
    candidates[i]``; where a token is on several nodes the last of the last row counts.

    Args:
        matrix: (V, k) int64. Changed.
        tokens: (B, T) or (T) int64.
        candidates: (B, T, k) or (T, k) int64, most likely first.

    >>> matrix = torch.zeros(3, 2, dtype=torch.int64)
    >>> recycle_update(matrix, torch.tensor([2, 0, 2]), torch.tensor([[1, 0], [2, 1], [0, 1]]))
    >>> matrix.tolist()
    [[2, 1], [0, 0], [0, 1]]
    """
    if tokens.dim() == 1:
        tokens, candidates = tokens[None], candidates[None]
    ops.update_adjacency(matrix, tokens, candidates)


def matrix_bytes(vocabulary: int, k: int = 8) -> int:
    """What the matrix takes, 8 bytes an entry: all the memory that the method needs beside the model.

    >>> round(matrix_bytes(32000) / 2**20, 2)  # the paper's figure, in MiB
    1.95
    """
    return vocabulary * k * 8


class TokenRecycling:
    """The method for :func:`tokernel.decoding.generate`, with its matrix.

    The matrix lives as long as this object and learns from every call, so that the number of steps, never the tokens,
    depends on what was asked before; :meth:`reset` forgets. Rows of a batch share it. What the official code does at
    the end of a call is left to ``generate``: there a step may overshoot the wanted number of tokens, and the last
    step's answers are not remembered; here the answer is cut, and they are. Among siblings with one token, which only
    a matrix with equal candidates in a row has (at the start, all 0), the first is followed.

    Args:
        template: of the tree, see :class:`TokenRecyclingTree`.
        k: candidates remembered for every token; every rank of the template is below it.

    Attributes:
        matrix: (V, k) int64, None before the first call.

    Raises:
        ValueError: a template as :class:`TokenRecyclingTree` refuses it, or ranks that k does not reach.
    """

    name = "token_recycling"

    def __init__(self, template: Template | TokenRecyclingTree = "2.2.2", k: int = 8) -> None:
        self.tree = template if isinstance(template, TokenRecyclingTree) else TokenRecyclingTree(template)
        if k <= int(self.tree.rank.max()):
            raise ValueError(f"TokenRecycling: k must be above the template's ranks, {self.tree.rank.max()}, got {k}")
        self.k = k
        self.matrix: Tensor | None = None

    def reset(self) -> None:
        """Forget everything that was learnt."""
        self.matrix = None

    def start(self, model: Any, prompts: list[Tensor], sampling: Sampling, room: int) -> Session:
        """See :class:`tokernel.decoding.Method`."""
        greedy_only(self.name, sampling)
        longest = max(map(len, prompts))
        target = TargetModel(model, len(prompts), longest + room + len(self.tree))
        return _RecyclingSession(target, prompts, self.tree, self._matrix_for(target))

    def _matrix_for(self, target: TargetModel) -> Tensor:
        vocabulary = target.config.vocab_size
        if self.k > vocabulary:
            raise ValueError(f"TokenRecycling: k must be at most the vocabulary, {vocabulary}, got {self.k}")
        if self.matrix is None:
            self.matrix = torch.zeros(vocabulary, self.k, dtype=torch.int64, device=target.device)
        if len(self.matrix) != vocabulary or self.matrix.device != target.device:
            raise ValueError(
                f"TokenRecycling: model must be as before, {len(self.matrix)} tokens on {self.matrix.device}, got "
                f"{vocabulary} on {target.device}: call reset() to begin again"
            )
        return self.matrix


class _RecyclingSession:
    def __init__(self, target: TargetModel, prompts: list[Tensor], tree: TokenRecyclingTree, matrix: Tensor) -> None:
        self.target = target
        self.tree = tree
        self.matrix = matrix
        self.rank = torch.from_numpy(tree.rank).to(matrix.device)
        self.roots = torch.stack([prompt[-1] for prompt in prompts])
        self.rows = list(range(len(prompts)))
        target.prefill([prompt[:-1] for prompt in prompts])

    def step(self, active: Sequence[bool]) -> list[list[int]]:
        self._drop_finished(active)
        tokens = ops.build_tree(self.matrix, self.roots, self.tree.tree, self.rank)
        logits = self.target.score(tokens, self.tree.tree)
        best, candidates = likely(logits, self.matrix.shape[1])
        found = ops.verify_greedy(tokens, best, self.tree.tree)
        self.target.accept(found.path)
        ops.update_adjacency(self.matrix, tokens, candidates)
        self.roots = found.bonus
        return self._emitted(tokens, found.path, found.accepted, found.bonus, len(active))

    def _drop_finished(self, active: Sequence[bool]) -> None:
        kept = [place for place, row in enumerate(self.rows) if active[row]]
        if len(kept) < len(self.rows):
            self.target.keep(kept)
            self.roots = self.roots[kept]
            self.rows = [self.rows[place] for place in kept]

    def _emitted(self, tokens: Tensor, path: Tensor, accepted: Tensor, bonus: Tensor, rows: int) -> list[list[int]]:
        """The accepted tokens, of which the root was known, then the bonus."""
        drafts = tokens.gather(1, path.clamp(min=0))[:, 1:].tolist()
        out: list[list[int]] = [[] for _ in range(rows)]
        for row, draft, count, last in zip(self.rows, drafts, accepted.tolist(), bonus.tolist(), strict=True):
            out[row] = [*draft[:count], last]
        return out


def likely(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The most likely token of each row (B, T) and its k most likely ones (B, T, k), lowest id first among equals."""
    if logits.dtype == torch.float64:  # the order of candidates may be rounded, the choice may not
        return logits.argmax(-1), ops.topk(logits.float(), k)[1]
    candidates = ops.topk(logits, k)[1]
    return candidates[..., 0], candidates


class TokenRecyclingDecoder:
    """A model and its matrix in one object.

    Args:
        model: as :func:`tokernel.decoding.generate` takes it.
        template, k: as :class:`TokenRecycling` takes them.

    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=2)).eval()
    >>> decoder = TokenRecyclingDecoder(model, template="best-8")
    >>> out = decoder.generate(torch.tensor([[3, 1, 4]]), max_new_tokens=6, eos=())
    >>> out.lengths
    tensor([6])
    """

    def __init__(self, model: Any, k: int = 8, template: Template | TokenRecyclingTree = "2.2.2") -> None:
        self.model = model
        self.method = TokenRecycling(template, k)

    def generate(self, input_ids: Tensor, max_new_tokens: int, eos: int | Iterable[int] | None = None) -> Generated:
        """Continue (B, P) prompts; see :func:`tokernel.decoding.generate`, whose ``stop_tokens`` are eos."""
        return generate(self.model, input_ids, self.method, max_new_tokens=max_new_tokens, stop_tokens=eos)

    def reset(self) -> None:
        """Forget what was learnt."""
        self.method.reset()
