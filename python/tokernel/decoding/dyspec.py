# SPDX-License-Identifier: Apache-2.0
"""DySpec: Faster Speculative Decoding with Dynamic Token Tree Structure (Xiong et al., 2024).

arXiv 2410.11744. The tree of draft tokens is made while it is drawn. What the draft model gives a token is taken for
the chance that the target accepts it, so that the chance of reaching a draw is known before it is made: the product of
the draft probabilities above it, and of one minus those of its earlier siblings, all after renormalising. The draw of
the largest chance comes next, until there are m nodes (:func:`dyspec_tree_fixed`), or every draw that is worth a
threshold is made, level by level, one forward of the draft model a level (:func:`dyspec_tree_threshold`).

Only whether to draw is decided, never which drawn token to keep, and a decision knows nothing of the draw it is about.
So the usual verification of siblings drawn without replacement (Sequoia's) keeps the target's distribution: see
:func:`tokernel.ops.verify_stochastic`. No drawn token may be dropped, and the distributions that the draws were made
from are kept for it.

Two misprints of the paper are read as its text says: in the threshold algorithm a node goes on drawing while the value
is *at least* the threshold (printed: below), and the verification compares with uniform noise (printed: normal noise).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from tokernel.decoding._dyspec_session import DySpecSession, Settings
from tokernel.decoding._dyspec_tree import DraftFn, DraftTree, Noise, Search, grow, uniform
from tokernel.decoding._generate import Generated, generate
from tokernel.decoding._session import Sampling, Session
from tokernel.kernels.tree import TokenTree
from tokernel.papers import paper

__all__ = [
    "PAPER",
    "DraftTree",
    "DySpec",
    "DySpecDecoder",
    "dfs_order",
    "dyspec_tree_fixed",
    "dyspec_tree_threshold",
    "hpd_order",
    "mask_block_count",
]

PAPER = paper("dyspec")

Parents = TokenTree | ArrayLike

MOST_NODES = 4094
"""Drafted nodes; with the root and a token that the draft model has not seen, as many as a tree may have."""


def dyspec_tree_fixed(
    draft_fn: DraftFn,
    root: int | Tensor,
    budget: int,
    uniforms: Tensor | None = None,
    *,
    temperature: float = 1.0,
    max_depth: int | None = None,
    generator: torch.Generator | None = None,
) -> DraftTree:
    """Draft ``budget`` tokens below the last committed one, always by the draw that is most likely to be reached.

    Of equal chances the draw that has been possible longest comes first (the paper is silent). Fewer nodes come where
    the draft distributions have no mass left; nothing is drawn where a logit is NaN.

    Args:
        draft_fn: ``draft_fn(tokens (B, T), parents (B, T), nodes (B, N))`` gives (B, N, V) logits behind the nodes of
            a tree, whose ancestors it has been asked about before; nodes ascend, and -1 pads them. For a single root
            none of the arrays has B, and no node is -1.
        root: a token, or (B) int64 for a tree each.
        budget: drafted nodes, at most 4094.
        uniforms: (budget + 1, V) or (B, budget + 1, V) float32 in [0, 1): row i is the noise behind the children of
            node i. None: drawn from generator.
        temperature: of the draft; 0 is a point mass on the largest logit, which makes a chain.
        max_depth: no node deeper than this.
        generator: of the uniforms.

    Returns:
        See :class:`DraftTree`; ``draft_probs`` are what :func:`tokernel.ops.verify_stochastic` needs.

    Raises:
        ValueError: a budget, depth or temperature out of range, or uniforms or logits that do not fit.
        TypeError: a root, count or depth that is no integer.

    >>> logits = torch.log(torch.tensor([0.6, 0.3, 0.1]))
    >>> draft = lambda tokens, parents, nodes: logits.expand(len(nodes), 3)
    >>> half = torch.full((4, 3), 0.5)  # no noise: the most likely token first
    >>> tree = dyspec_tree_fixed(draft, 0, 3, half)
    >>> tree.tokens, tree.parents, tree.value
    (tensor([0, 0, 0, 1]), tensor([-1,  0,  1,  0]), tensor([1.0000, 0.6000, 0.3600, 0.3000]))

    Algorithm 1 (section 4.1).
    """
    search = Search(_count("dyspec_tree_fixed", "budget", budget), None, max_depth)
    return _tree("dyspec_tree_fixed", draft_fn, root, search, uniforms, temperature, generator)


def dyspec_tree_threshold(
    draft_fn: DraftFn,
    root: int | Tensor,
    t: float,
    max_nodes: int = 64,
    max_depth: int | None = None,
    uniforms: Tensor | None = None,
    *,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> DraftTree:
    """Draft every token whose draw is reached with a chance of at least ``t``, level by level.

    One forward of the draft model a level. A threshold above 1 drafts nothing. About ``1 / max_nodes`` fills the tree.

    Args:
        draft_fn, root, uniforms, temperature, generator: as in :func:`dyspec_tree_fixed`.
        t: the threshold, more than 0.
        max_nodes: no more drafted nodes than this, at most 4094: the search ends there, before it draws one too many.
        max_depth: no node deeper than this.

    Returns:
        See :class:`DraftTree`.

    Raises:
        ValueError: a threshold, count, depth or temperature out of range, or uniforms or logits that do not fit.
        TypeError: a root, count or depth that is no integer.

    >>> logits = torch.log(torch.tensor([0.6, 0.3, 0.1]))
    >>> draft = lambda tokens, parents, nodes: logits.expand(len(nodes), 3)
    >>> tree = dyspec_tree_threshold(draft, 0, 0.3, 3, uniforms=torch.full((4, 3), 0.5))
    >>> tree.tokens, tree.parents, tree.forwards
    (tensor([0, 0, 1, 0]), tensor([-1,  0,  0,  1]), 2)

    Algorithm 2 (section 4.2).
    """
    if not (math.isfinite(t) and t > 0):
        raise ValueError(f"dyspec_tree_threshold: t must be finite and more than 0, got {t}")
    search = Search(_count("dyspec_tree_threshold", "max_nodes", max_nodes), float(t), max_depth)
    return _tree("dyspec_tree_threshold", draft_fn, root, search, uniforms, temperature, generator)


def dfs_order(parents: Parents) -> NDArray[np.int32]:
    """List the nodes depth first, the children of a node as they were drawn.

    An earlier sibling was more likely, and has the larger subtree as a rule, so that this is close to :func:`hpd_order`
    and keeps the order in which a verification must try siblings.

    Args:
        parents: (T) integers or a TokenTree.

    Returns:
        (T) int32: the node at every place, as :meth:`TokenTree.reordered` takes it.

    >>> dfs_order([-1, 0, 0, 1])
    array([0, 1, 3, 2], dtype=int32)

    Section 4.3.
    """
    return _token_tree(parents).depth_first()


def hpd_order(parents: Parents) -> NDArray[np.int32]:
    """List the nodes depth first, the child of the largest subtree first: heavy paths stay together.

    Siblings no longer come as they were drawn. A verification must not run in this order; :class:`DySpec` verifies in
    the order of drawing, whatever order it scored the nodes in.

    Args:
        parents: (T) integers or a TokenTree.

    Returns:
        (T) int32: the node at every place, as :meth:`TokenTree.reordered` takes it.

    >>> hpd_order([-1, 0, 0, 2])
    array([0, 2, 3, 1], dtype=int32)

    Section 4.3.
    """
    return _token_tree(parents).depth_first(heavy_first=True)


def mask_block_count(parents: Parents, block: int = 32, prefix: int = 0) -> int:
    """Count the block x block tiles of the attention mask that hold a visible key: what a block-sparse kernel computes.

    Args:
        parents: (T) integers or a TokenTree.
        block: side of a tile.
        prefix: keys in front of the tree, which every node sees.

    >>> mask_block_count(list(range(-1, 63))), mask_block_count(list(range(-1, 63)), prefix=64)
    (3, 7)

    Table 5.
    """
    return _token_tree(parents).mask_blocks(block, prefix)


class DySpec:
    """DySpec as a method of :func:`tokernel.decoding.generate`: at temperature 0 what greedy decoding gives, above it
    tokens of the target's distribution.

    Several rows are drafted and verified together, each with a tree of its own.

    Args:
        draft: a causal language model of transformers with the target's vocabulary; in evaluation mode.
        mode: "threshold", one forward of the draft model a level; or "budget", best first.
        t: the threshold; the paper takes about one over the number of nodes.
        max_nodes: drafted nodes a step: the budget, or the most that the threshold may find.
        max_depth: no node deeper than this.
        draft_temperature: of the draft, whatever the target's; the paper takes 0.6.
        order: how the nodes are laid out when the target scores them: None as drawn, "dfs" or "hpd" for fewer blocks of
            the mask. It changes no token.

    Raises:
        ValueError: a setting out of range; on start, models that do not fit.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> from tokernel.decoding import generate
    >>> config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    ...                      num_attention_heads=4, eos_token_id=None)
    >>> target, draft = (LlamaForCausalLM(config).eval() for _ in range(2))
    >>> out = generate(target, torch.tensor([[1, 2, 3]]), method=DySpec(draft), max_new_tokens=5)
    >>> out.sequences.shape
    torch.Size([1, 8])
    """

    name = "dyspec"

    def __init__(
        self,
        draft: Any,
        mode: str = "threshold",
        *,
        t: float = 1 / 64,
        max_nodes: int = 64,
        max_depth: int | None = None,
        draft_temperature: float = 0.6,
        order: str | None = None,
    ) -> None:
        if mode not in ("threshold", "budget"):
            raise ValueError(f"dyspec: mode must be threshold or budget, got {mode!r}")
        if order not in (None, "dfs", "hpd"):
            raise ValueError(f"dyspec: order must be None, dfs or hpd, got {order!r}")
        if not (math.isfinite(t) and t > 0):
            raise ValueError(f"dyspec: t must be finite and more than 0, got {t}")
        nodes = _count("dyspec", "max_nodes", max_nodes)
        _check("dyspec", max_depth, draft_temperature)
        self.draft = draft
        search = Search(nodes, float(t) if mode == "threshold" else None, max_depth)
        orders = {None: None, "dfs": dfs_order, "hpd": hpd_order}
        self.settings = Settings(search, float(draft_temperature), orders[order])

    def start(self, model: Any, prompts: list[Tensor], sampling: Sampling, room: int) -> Session:
        """See :class:`tokernel.decoding.Method`."""
        config = getattr(self.draft, "config", None)
        if config is None:
            kind = type(self.draft).__name__
            raise TypeError(f"dyspec: draft must be a causal language model of transformers, got {kind}")
        if config.vocab_size != model.config.vocab_size:
            raise ValueError(
                f"dyspec: draft must have the target's vocabulary of {model.config.vocab_size}, got {config.vocab_size}"
            )
        most = getattr(config, "max_position_embeddings", None)
        longest = max(map(len, prompts)) + room
        if most is not None and longest > most:
            raise ValueError(f"dyspec: draft must have positions for {longest} tokens, got {most}")
        return DySpecSession(model, self.draft, prompts, sampling, room, self.settings)


class DySpecDecoder:
    """A target, its draft model and the settings of both in one object.

    Args:
        target: as :func:`tokernel.decoding.generate` takes it.
        draft, mode, settings: as :class:`DySpec` takes them.
        temperature: of the target.
        generator: of the draws.

    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> sizes = {"vocab_size": 50, "n_embd": 32, "n_head": 2}
    >>> target, draft = (GPT2LMHeadModel(GPT2Config(n_layer=n, **sizes)).eval() for n in (2, 1))
    >>> out = DySpecDecoder(target, draft, t=1 / 32).generate(torch.tensor([[3, 1, 4]]), max_new_tokens=6, eos=())
    >>> out.lengths
    tensor([6])
    """

    def __init__(
        self,
        target: Any,
        draft: Any,
        mode: str = "threshold",
        *,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
        **settings: Any,
    ) -> None:
        self.target = target
        self.method = DySpec(draft, mode, **settings)
        self.temperature, self.generator = temperature, generator

    def generate(self, input_ids: Tensor, max_new_tokens: int, eos: int | Iterable[int] | None = None) -> Generated:
        """Continue (B, P) prompts; see :func:`tokernel.decoding.generate`, whose ``stop_tokens`` are eos."""
        return generate(
            self.target,
            input_ids,
            self.method,
            max_new_tokens=max_new_tokens,
            stop_tokens=eos,
            temperature=self.temperature,
            generator=self.generator,
        )


def _tree(
    op: str,
    draft_fn: DraftFn,
    root: int | Tensor,
    search: Search,
    uniforms: Tensor | None,
    temperature: float,
    generator: torch.Generator | None,
) -> DraftTree:
    _check(op, search.max_depth, temperature)
    single = not isinstance(root, Tensor) or root.dim() == 0
    roots = torch.as_tensor(root)[None] if single else torch.as_tensor(root)
    if roots.dim() != 1 or roots.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"{op}: root must be an integer or (B) integers, got {tuple(roots.shape)} {roots.dtype}")
    ask = _for_one(draft_fn) if single else draft_fn
    noise = _noise(op, uniforms, len(roots), search.nodes + 1, generator, roots.device)
    tree = grow(_checked(op, ask), roots.long(), search, float(temperature), noise)
    return tree.only() if single else tree


def _for_one(draft_fn: DraftFn) -> DraftFn:
    return lambda tokens, parents, nodes: draft_fn(tokens[0], parents[0], nodes[0])[None]


def _checked(op: str, draft_fn: DraftFn) -> DraftFn:
    def ask(tokens: Tensor, parents: Tensor, nodes: Tensor) -> Tensor:
        logits = draft_fn(tokens, parents, nodes)
        if logits.dim() != 3 or logits.shape[:2] != nodes.shape or logits.shape[2] == 0:
            rows, asked = nodes.shape
            raise ValueError(f"{op}: draft_fn must give ({rows}, {asked}, V) logits, got {tuple(logits.shape)}")
        return logits

    return ask


def _noise(
    op: str,
    uniforms: Tensor | None,
    rows: int,
    size: int,
    generator: torch.Generator | None,
    device: torch.device,
) -> Noise:
    def draw(nodes: Tensor, vocabulary: int) -> Tensor:
        return uniform((*nodes.shape, vocabulary), generator, device)

    def look_up(nodes: Tensor, vocabulary: int) -> Tensor:
        assert uniforms is not None
        given = uniforms[None] if uniforms.dim() == 2 else uniforms
        if given.shape != (rows, size, vocabulary):
            raise ValueError(f"{op}: uniforms must be ({rows}, {size}, {vocabulary}), got {tuple(uniforms.shape)}")
        row = torch.arange(rows, device=device)[:, None]
        return given[row, nodes.clamp(min=0)]

    return draw if uniforms is None else look_up


def _check(op: str, max_depth: int | None, temperature: float) -> None:
    if max_depth is not None and _integer(op, "max_depth", max_depth) < 0:
        raise ValueError(f"{op}: max_depth must be at least 0, got {max_depth}")
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ValueError(f"{op}: temperature must be finite and at least 0, got {temperature}")


def _count(op: str, name: str, nodes: int) -> int:
    count = _integer(op, name, nodes)
    if not 0 <= count <= MOST_NODES:
        raise ValueError(f"{op}: {name} must be in [0, {MOST_NODES}], got {count}")
    return count


def _integer(op: str, name: str, value: int) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{op}: {name} must be an integer, got {type(value).__name__}") from None


def _token_tree(parents: Parents) -> TokenTree:
    return parents if isinstance(parents, TokenTree) else TokenTree(parents)
