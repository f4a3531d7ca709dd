# SPDX-License-Identifier: Apache-2.0
"""The draft model of DySpec: its caches follow what was committed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tokernel.decoding._target import TargetModel

__all__ = ["DraftRows"]


class DraftRows:
    """A batch of prompts inside the draft model.

    A leaf of the draft tree is drawn without a forward of its own. Where the target accepted it, the draft model has no
    keys of it yet: such a token is *late*, and the next tree of its row begins with it, in front of the root.
    """

    def __init__(self, model: Any, prompts: list[Tensor], capacity: int) -> None:
        self.model = TargetModel(model, len(prompts), capacity)
        self.model.prefill([prompt[:-1] for prompt in prompts])
        self.late: list[list[int]] = [[] for _ in prompts]

    def logits(self, tokens: Tensor, parents: Tensor, nodes: Tensor) -> Tensor:
        """Run nodes (B, N), then -1, of trees (B, T) whose earlier nodes have been run: (B, N, V)."""
        ahead = torch.tensor([len(late) for late in self.late], device=nodes.device)[:, None]
        tokens, parents = self._behind_late(tokens, parents, ahead)
        shifted = torch.where(nodes < 0, tokens.shape[1], nodes + ahead)
        begin = torch.where(nodes == 0, 0, shifted)  # the late tokens go with the root
        first = int(begin.min())
        logits = self.model.extend(tokens[:, first:], parents, first)
        rows = torch.arange(len(nodes), device=nodes.device)[:, None]
        return logits[rows, torch.where(nodes < 0, 0, shifted - first)]

    def accept(self, path: Tensor, tokens: Tensor, known: Tensor) -> None:
        """Commit what the target accepted: nodes (B, A) from the root, then -1; a row of -1 stays as it is."""
        committed = []
        for row, nodes in enumerate(path.tolist()):
            late = self.late[row]
            taken = [node for node in nodes if node >= 0]
            run = [node for node in taken if known[row, node]]
            committed.append([*range(len(late)), *(len(late) + node for node in run)] if run else [])
            behind = [int(tokens[row, node]) for node in taken[len(run) :]]
            self.late[row] = behind if run else late + behind
        longest = max(map(len, committed))
        padded = [nodes + [-1] * (longest - len(nodes)) for nodes in committed]
        self.model.accept(path.new_tensor(padded).view(len(padded), longest))

    def _behind_late(self, tokens: Tensor, parents: Tensor, ahead: Tensor) -> tuple[Tensor, Tensor]:
        """The trees with the late tokens of each row as a chain above the root."""
        longest = max(map(len, self.late))
        late = tokens.new_tensor([row + [0] * (longest - len(row)) for row in self.late]).view(-1, longest)
        nodes = tokens.shape[1]
        number = torch.arange(nodes + longest, device=tokens.device)
        old = number - ahead
        row = torch.arange(len(tokens), device=tokens.device)[:, None]
        within = old.clamp(0, nodes - 1)
        above = parents[row, within]
        above = torch.where((old < nodes) & (above >= 0), above + ahead, -1)
        text = torch.where(old < nodes, tokens[row, within], 0)
        if longest:
            text = torch.where(old < 0, late[row, number.clamp(max=longest - 1)], text)
        return text, torch.where(old <= 0, number - 1, above)
