# SPDX-License-Identifier: Apache-2.0
"""The draft model of DySpec: it runs the nodes that are asked about, and its caches follow what was committed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tokernel.decoding._target import TargetModel

__all__ = ["DraftRows"]


@dataclass
class _Run:
    """What the draft model runs in one step for one row: late tokens, then nodes in the order they were asked about."""

    late: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    place: dict[int, int] = field(default_factory=dict)

    def add(self, node: int, token: int, parent: int) -> None:
        if not self.place:
            self.tokens, self.parents = list(self.late), list(range(-1, len(self.late) - 1))
        above = len(self.late) - 1 if parent < 0 else self.place[parent]
        self.place[node] = len(self.tokens)
        self.tokens.append(token)
        self.parents.append(above)


class DraftRows:
    """A batch of prompts inside the draft model.

    Leaves are drawn without a forward of their own. Where the target accepted one, the draft model has no keys of it
    yet: such a token is *late*, and the next tree of its row begins with it, in front of the root.
    """

    def __init__(self, model: Any, prompts: list[Tensor], capacity: int) -> None:
        self.model = TargetModel(model, len(prompts), capacity)
        self.model.prefill([prompt[:-1] for prompt in prompts])
        self.runs = [_Run() for _ in prompts]

    def logits(self, tokens: Tensor, parents: Tensor, nodes: Tensor) -> Tensor:
        """Run nodes (B, N), then -1, of trees (B, T), whose ancestors have been run: (B, N, V)."""
        asked = nodes.tolist()
        # A row that is ahead of another runs some nodes again, to the same keys.
        first = min(len(run.tokens) for run, wanted in zip(self.runs, asked, strict=True) if max(wanted) >= 0)
        for row, run in enumerate(self.runs):
            token, parent = tokens[row].tolist(), parents[row].tolist()
            for node in asked[row]:
                if node >= 0:
                    run.add(node, token[node], parent[node])
        text = self._padded([run.tokens[first:] for run in self.runs], 0)
        logits = self.model.extend(text, self._padded([run.parents for run in self.runs], -1), first)
        place = [[run.place.get(node, first) for node in wanted] for run, wanted in zip(self.runs, asked, strict=True)]
        rows = torch.arange(len(place), device=nodes.device)[:, None]
        return logits[rows, nodes.new_tensor(place) - first]

    def accept(self, path: Tensor, tokens: Tensor) -> None:
        """Commit what the target accepted: nodes (B, A) from the root, then -1; a row of -1 stays as it is."""
        committed = []
        for row, (run, nodes) in enumerate(zip(self.runs, path.tolist(), strict=True)):
            taken = [node for node in nodes if node >= 0]
            known = [run.place[node] for node in taken if node in run.place]
            committed.append([*range(len(run.late)), *known] if known else [])
            behind = [int(tokens[row, node]) for node in taken[len(known) :]]
            self.runs[row] = _Run(behind if known else run.late + behind)
        self.model.accept(self._padded(committed, -1))

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some rows of the batch, in this order."""
        self.model.keep(rows)
        self.runs = [self.runs[row] for row in rows]

    def _padded(self, rows: list[list[int]], fill: int) -> Tensor:
        longest = max(map(len, rows))
        padded = [row + [fill] * (longest - len(row)) for row in rows]
        return torch.tensor(padded, dtype=torch.int64, device=self.model.device).view(len(rows), longest)
