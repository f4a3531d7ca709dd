# SPDX-License-Identifier: Apache-2.0
"""Which tree pays on this machine: more nodes are accepted more often, and take longer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from tokernel.decoding._recycling_templates import RANK_SHARES, Paths, best_first_template, expected_tokens
from tokernel.decoding._target import TargetModel
from tokernel.kernels.tree import TokenTree

__all__ = ["fastest_template"]


def fastest_template(
    model: Any,
    *,
    rows: int = 1,
    prefix: int = 256,
    nodes: Sequence[int] = (3, 6, 12, 24, 48, 80),
    shares: Sequence[float] = RANK_SHARES,
    repeats: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> Paths:
    """Time passes over trees of several sizes and return the template that should emit most tokens a second. [ours],
    by the rule that Sequoia (arXiv 2402.12374, section 4.3) chooses sizes by.

    Worth a call where a pass over many tokens takes clearly longer than one over a single token: on a CPU, or with many
    rows. What is expected of a template comes from ``shares`` (:func:`best_first_template`), not from the model.

    Args:
        model: as :class:`tokernel.decoding.TargetModel` takes it.
        rows: sequences of a batch.
        prefix: tokens in front of the tree.
        nodes: sizes to try, the root not counted.
        shares: how often each candidate is right.
        repeats: the fastest of so many passes counts.
        clock: seconds.

    Raises:
        ValueError: no sizes, or what the model and :func:`best_first_template` refuse.

    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=2)).eval()
    >>> len(fastest_template(model, prefix=16, nodes=(4, 8))) in (4, 8)
    True
    """
    if not nodes or repeats < 1:
        raise ValueError(f"fastest_template: nodes and repeats must be at least one, got {list(nodes)} and {repeats}")
    target = TargetModel(model, rows, prefix + max(nodes) + 1)
    target.prefill([torch.zeros(prefix, dtype=torch.int64, device=target.device)] * rows)
    best: tuple[float, Paths] = (0.0, ())
    for count in nodes:
        template = best_first_template(count, shares)
        pace = expected_tokens(template, shares) / _seconds(target, template, repeats, clock)
        best = max(best, (pace, template), key=lambda found: found[0])
    return best[1]


def _seconds(target: TargetModel, template: Paths, repeats: int, clock: Callable[[], float]) -> float:
    """The fastest pass over a template's nodes, after one that does not count."""
    tree = TokenTree.from_paths(template) if template else TokenTree.chain(1)
    tokens = torch.zeros(len(target.lengths), len(tree), dtype=torch.int64, device=target.device)
    target.score(tokens, tree)
    found = []
    for _ in range(repeats):
        start = clock()
        target.score(tokens, tree)[..., :1].cpu()  # waits for a GPU
        found.append(clock() - start)
    return min(found)
