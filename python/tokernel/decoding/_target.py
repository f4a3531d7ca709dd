# SPDX-License-Identifier: Apache-2.0
"""A causal language model of transformers that scores trees of tokens and keeps what is accepted."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tokernel.decoding._tree_attention import CausalPass, TreePass, attending
from tokernel.decoding._tree_cache import TreeCache
from tokernel.kernels.tree import TokenTree
from tokernel.kernels.tree._parents import pad_parents
from tokernel.ops._tree_parents import Trees

__all__ = ["TargetModel"]


class TargetModel:
    """Runs a model over trees of tokens behind B prefixes, each of its own length.

    Llama, Qwen2, Qwen3 and GPT-2 of transformers, in float32, bfloat16, float16 or float64, on one device. The model's
    weights, methods and settings are not changed; while a pass runs, its configuration names our attention.

    Args:
        model: in evaluation mode.
        rows: B.
        capacity: cache rows to allocate ahead for every prefix; more come when they are needed.

    Attributes:
        cache: keys and values, (L, B, G, S, D) each.

    Raises:
        TypeError: no model of transformers whose attention can be replaced.
        ValueError: in training mode; sliding windows, cross-attention, or positions that depend on the length so far
            (dynamic and longrope scaling); layers on several devices.

    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=2)).eval()
    >>> target = TargetModel(model, rows=1, capacity=64)
    >>> target.prefill([torch.tensor([3, 1, 4])])
    >>> logits = target.score(torch.tensor([[1, 5, 9]]), TokenTree([-1, 0, 0]))  # 1 follows, then 5 or 9
    >>> target.accept(torch.tensor([[0, 2]]))                                    # it was 9
    >>> logits.shape, target.lengths
    (torch.Size([1, 3, 50]), tensor([5]))
    """

    def __init__(self, model: Any, rows: int, capacity: int) -> None:
        _check(model)
        self.model = model
        self.config = model.config
        self.device = next(model.parameters()).device
        self.configs = list(
            {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}.values()
        )
        self.cache = TreeCache(self.config.num_hidden_layers, rows, max(1, capacity), self.device)
        self.positions: int | None = getattr(self.config, "max_position_embeddings", None)
        names = inspect.signature(model.forward).parameters
        self._cache_name = "cache" if "cache" in names else "past_key_values"
        self._scored = 0
        self._same = TokenTree.chain(1)
        self._same_nodes = _Nodes(self._same.parents, 0, self.device)

    @property
    def lengths(self) -> Tensor:
        """(B) int64: committed tokens of every row."""
        return self.cache.lengths

    @torch.no_grad()
    def prefill(self, prompts: Sequence[Tensor]) -> None:
        """Commit a prompt to every row, (P_b) int64 each, empty ones too. Only once, before anything else."""
        rows = len(self.lengths)
        if len(prompts) != rows or any(prompt.dim() != 1 for prompt in prompts):
            raise ValueError(f"TargetModel: prompts must be {rows} of (P), got {[tuple(p.shape) for p in prompts]}")
        if self.cache.longest:
            raise ValueError(f"TargetModel: prompts must come first, got them behind {self.cache.longest} rows")
        counts = [len(prompt) for prompt in prompts]
        longest = max(counts)
        if longest == 0:
            return
        self._check_room(longest)
        tokens = nn.utils.rnn.pad_sequence(list(prompts), batch_first=True)
        places = torch.arange(longest, device=self.device).expand(rows, -1)
        self.cache.aim(0, longest)
        self._run(self.model.base_model, tokens, places, CausalPass(longest))
        self.cache.commit(tokens.new_full((rows, 0), -1), counts)

    @torch.no_grad()
    def score(self, tokens: Tensor, tree: Trees | NDArray[Any]) -> Tensor:
        """Run a tree behind every prefix, committing nothing.

        Args:
            tokens: (B, T) int64; node 0, the root, is the last token known and is not in the cache yet.
            tree: T nodes, one tree for all, a list of B of them, or parents (T) or (B, T); a padded node (-1) may hold
                any token of the vocabulary.

        Returns:
            (B, T, V) logits: row i is about what follows node i.
        """
        return self.extend(tokens, tree, 0)

    @torch.no_grad()
    def extend(self, tokens: Tensor, tree: Trees | NDArray[Any], first: int) -> Tensor:
        """Run nodes ``first .. first + n`` of a growing tree whose earlier nodes were scored since the last accept.

        Args:
            tokens: (B, n) int64, of the new nodes.
            tree: the tree so far, at least first + n nodes.

        Returns:
            (B, n, V) logits.
        """
        if tokens.dim() != 2 or len(tokens) != len(self.lengths):
            raise ValueError(f"TargetModel: tokens must be ({len(self.lengths)}, T), got {tuple(tokens.shape)}")
        if not 0 <= first <= self._scored:
            raise ValueError(f"TargetModel: first must be in [0, {self._scored}], the nodes scored so far, got {first}")
        new = self._nodes(tree, first, tokens)
        self._check_room(self.cache.longest + 1)
        places = self.lengths[:, None] + new.depth
        if self.positions is not None:
            # A node deeper than the model can count follows its last token: whatever it emits is too long to be asked.
            places = places.clamp(max=self.positions - 1)
        self.cache.aim(first, tokens.shape[1])
        tree_pass = TreePass(self.lengths, self.cache.longest, new.parents, new.mask)
        logits: Tensor = self._run(self.model, tokens, places, tree_pass).logits
        self._scored = first + tokens.shape[1]
        return logits

    @torch.no_grad()
    def accept(self, path: Tensor) -> None:
        """Commit the nodes of one path a row, (B, A), the root first, padded with -1; a row of -1 commits nothing.

        The other nodes are forgotten. The next root is not in the cache yet.
        """
        rows = path.tolist()
        counts = [sum(node >= 0 for node in row) for row in rows]
        for row in rows:
            ends = row[: sum(node >= 0 for node in row)]
            if ends and (min(ends) < 0 or max(ends) >= self._scored or sorted(set(ends)) != ends):
                raise ValueError(
                    f"TargetModel: path must hold ascending nodes below {self._scored}, then -1, got {row}"
                )
        self.cache.commit(path, counts)
        self._scored = 0

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some rows of the batch, in this order; the others are gone."""
        self.cache.keep(torch.tensor(rows, dtype=torch.int64, device=self.device))
        self._scored = 0

    def _run(self, model: Any, tokens: Tensor, places: Tensor, tree_pass: CausalPass | TreePass) -> Any:
        everything = torch.ones_like(tokens)  # nothing is padding; the tree is the mask
        with attending(self.configs):
            return model(
                input_ids=tokens,
                attention_mask=everything,
                position_ids=places,
                use_cache=True,
                tree_pass=tree_pass,
                **{self._cache_name: self.cache},
            )

    def _nodes(self, tree: Trees | NDArray[Any], first: int, tokens: Tensor) -> _Nodes:
        """The new nodes; those of the tree of the last call once more."""
        end = first + tokens.shape[1]
        if isinstance(tree, TokenTree) and first == 0 and end == len(tree) and self._same == tree:
            return self._same_nodes
        nodes = _Nodes(_parents(tree, end, len(tokens)), first, self.device)
        if isinstance(tree, TokenTree) and first == 0 and end == len(tree):
            self._same, self._same_nodes = tree, nodes
        return nodes

    def _check_room(self, rows: int) -> None:
        if self.positions is not None and rows > self.positions:
            raise ValueError(f"TargetModel: tokens must fit the model's {self.positions} positions, got {rows}")


def _check(model: Any) -> None:
    config = getattr(model, "config", None)
    if config is None or not getattr(model, "_supports_attention_backend", False):
        raise TypeError(
            "TargetModel: model must be a causal language model of transformers whose attention can be replaced "
            f"(Llama, Qwen2, Qwen3, GPT-2), got {type(model).__name__}"
        )
    if model.training:
        raise ValueError("TargetModel: model must be in evaluation mode (model.eval()), got one in training mode")
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if kinds or (getattr(config, "sliding_window", None) is not None and not getattr(config, "layer_types", None)):
        raise ValueError(f"TargetModel: every layer must attend to all that came before, got {kinds or 'a window'}")
    if getattr(config, "add_cross_attention", False):
        raise ValueError("TargetModel: model must have no cross-attention, got add_cross_attention=True")
    scaling = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if scaling in ("dynamic", "longrope"):
        raise ValueError(f"TargetModel: rotary positions must not depend on the length so far, got {scaling!r} scaling")
    devices = {parameter.device for parameter in model.parameters()}
    if len(devices) > 1:
        raise ValueError(f"TargetModel: model must be on one device, got {sorted(map(str, devices))}")


class _Nodes:
    """New nodes of a tree, and the tree so far.

    Attributes:
        parents: (m) or (B, m) int64 of all nodes so far, -1 for a padded one.
        depth: (n) or (B, n) int64 of the new ones.
        mask: (n, m) or (B, n, m) bool, which nodes the new ones see.
    """

    def __init__(self, parents: NDArray[Any], first: int, device: torch.device) -> None:
        trees = [_without_padding(row) for row in parents.reshape(-1, parents.shape[-1])]
        shape = (slice(None),) if parents.ndim == 2 else (0,)
        self.parents = torch.from_numpy(parents.astype(np.int64)).to(device)
        self.depth = torch.from_numpy(np.stack([tree.depth[first:] for tree in trees])[shape]).to(device).long()
        self.mask = torch.from_numpy(np.stack([tree.mask[first:] for tree in trees])[shape]).to(device)


def _without_padding(parents: NDArray[Any]) -> TokenTree:
    """A padded node as a child of the root: it has a place and a value, which nobody uses."""
    given = np.array(parents)
    given[1:][given[1:] < 0] = 0
    return TokenTree(given)


def _parents(tree: Trees | NDArray[Any], end: int, rows: int) -> NDArray[Any]:
    """The parents of the first `end` nodes, (end) or (B, end)."""
    if isinstance(tree, TokenTree):
        parents: NDArray[Any] = tree.parents
    elif isinstance(tree, list | tuple):
        parents = pad_parents("TargetModel", tree)
    else:
        parents = np.asarray(tree.cpu() if isinstance(tree, Tensor) else tree)
    if parents.ndim not in (1, 2) or parents.shape[-1] < end or end == 0:
        raise ValueError(f"TargetModel: tree must have {end} nodes, got parents {parents.shape}")
    if parents.ndim == 2 and len(parents) != rows:
        raise ValueError(f"TargetModel: tree must have parents for {rows} rows, got {len(parents)}")
    return parents[..., :end]
