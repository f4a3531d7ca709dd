# SPDX-License-Identifier: Apache-2.0
"""The forms a token transform takes: soft weights, kept rows, labelled groups, and products of these."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from tokernel import ops


class TokenTransform(ABC):
    """A linear map ``Y = W X`` from N tokens to M, with the assignment it comes from.

    Attributes:
        P: (B, M, N) float32, the share of every source token that goes to each target. Columns sum to 1, or to 0 where
            a token is dropped.
        W: (B, M, N) float32, ``W[i, j] = P[i, j] mass[j] / mass_out[i]``. Rows sum to 1.
        mass: (B, M) float32, how many input tokens each output token stands for.
        sel_idx: (B, M) int64, the input token that each target is made from; None where there is no such token.

    P and W are computed when asked for; neither :meth:`apply` nor :meth:`restore` stores them.
    """

    def __init__(self, batch: int, targets: int, tokens: int, sel_idx: Tensor | None) -> None:
        self.batch = batch
        self.targets = targets
        self.tokens = tokens
        self.sel_idx = sel_idx

    def __repr__(self) -> str:
        return f"{type(self).__name__}(batch={self.batch}, tokens={self.tokens}, targets={self.targets})"

    @property
    @abstractmethod
    def P(self) -> Tensor:  # noqa: N802 (the paper's letter)
        """Assignment, (B, M, N)."""

    @property
    @abstractmethod
    def W(self) -> Tensor:  # noqa: N802
        """Transform, (B, M, N)."""

    @property
    @abstractmethod
    def mass(self) -> Tensor:
        """Mass of the output tokens, (B, M)."""

    @abstractmethod
    def _apply(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def _restore(self, y: Tensor) -> Tensor: ...

    def apply(self, x: Tensor) -> Tensor:
        """Transform (B, N, C) tokens of any float dtype: W X, (B, M, C)."""
        self._check("apply", "x", x, self.tokens)
        return self._apply(x)

    def restore(self, y: Tensor) -> Tensor:
        """Copy (B, M, C) tokens back to where they came from: P^T Y, (B, N, C); a dropped token becomes zero [ours]."""
        self._check("restore", "y", y, self.targets)
        return self._restore(y)

    def compose(self, earlier: TokenTransform) -> TokenTransform:
        """Chain two transforms: ``later.compose(earlier).apply(x)`` is ``later.apply(earlier.apply(x))``."""
        if (earlier.batch, earlier.targets) != (self.batch, self.tokens):
            raise ValueError(
                f"compose: earlier expected to give (batch, tokens) {(self.batch, self.tokens)}; got "
                f"{(earlier.batch, earlier.targets)}"
            )
        return ComposedTransform(self, earlier)

    def _check(self, method: str, name: str, value: Tensor, tokens: int) -> None:
        if value.ndim != 3 or value.shape[:2] != (self.batch, tokens):
            raise ValueError(f"{method}: {name} expected shape ({self.batch}, {tokens}, C); got {tuple(value.shape)}")


class SoftTransform(TokenTransform):
    """Many to many: P is the softmax over targets of logits; see :func:`transform_matrix`."""

    def __init__(self, logits: Tensor, mass: Tensor | None, sel_idx: Tensor | None) -> None:
        super().__init__(logits.shape[0], logits.shape[1], logits.shape[2], sel_idx)
        self.logits = logits
        self._mass_in = mass
        self._mass: Tensor | None = None

    @property
    def P(self) -> Tensor:  # noqa: N802
        return torch.softmax(self.logits, 1)

    @property
    def _weighted(self) -> Tensor:
        return self.P if self._mass_in is None else self.P * self._mass_in.unsqueeze(1)

    @property
    def W(self) -> Tensor:  # noqa: N802
        return _normalised(self._weighted)

    @property
    def mass(self) -> Tensor:
        if self._mass is None:
            self._mass = self._weighted.sum(-1)
        return self._mass

    def _apply(self, x: Tensor) -> Tensor:
        out, self._mass = ops.soft_aggregate(x, self.logits, over="targets", mass=self._mass_in)
        return out

    def _restore(self, y: Tensor) -> Tensor:
        # A softmax over targets is, seen from the sources, one over the tokens that are aggregated.
        return ops.soft_aggregate(y, self.logits.transpose(1, 2), over="tokens")


class PruneTransform(TokenTransform):
    """One to one: kept tokens are copied, bit for bit, the others dropped; see :func:`from_prune`."""

    def __init__(self, keep_idx: Tensor, tokens: int, mass: Tensor | None) -> None:
        super().__init__(keep_idx.shape[0], keep_idx.shape[1], tokens, keep_idx)
        self.keep_idx = keep_idx
        self._mass_in = mass

    @property
    def P(self) -> Tensor:  # noqa: N802
        rows = torch.zeros(self.batch, self.targets, self.tokens, device=self.keep_idx.device)
        return rows.scatter_(2, self.keep_idx.unsqueeze(-1), 1.0)

    @property
    def W(self) -> Tensor:  # noqa: N802
        return self.P

    @property
    def mass(self) -> Tensor:
        if self._mass_in is None:
            return torch.ones(self.keep_idx.shape, device=self.keep_idx.device)
        return self._mass_in.gather(1, self.keep_idx)

    def _apply(self, x: Tensor) -> Tensor:
        return ops.gather_rows(x, self.keep_idx)

    def _restore(self, y: Tensor) -> Tensor:
        return ops.scatter_rows(y, self.keep_idx, self.tokens)


class GroupTransform(TokenTransform):
    """Many to one: every token goes to the group its label names, by a weighted mean; see :func:`from_assignment`."""

    def __init__(
        self, labels: Tensor, targets: int, mass: Tensor | None, weight: Tensor | None, sel_idx: Tensor | None = None
    ) -> None:
        super().__init__(labels.shape[0], targets, labels.shape[1], sel_idx)
        self.labels = labels
        self._mass_in = mass
        self._weight = weight

    @property
    def P(self) -> Tensor:  # noqa: N802
        groups = torch.arange(self.targets, device=self.labels.device)
        return (self.labels.unsqueeze(1) == groups.view(1, -1, 1)).float()

    @property
    def W(self) -> Tensor:  # noqa: N802
        return _normalised(self.P if self._weight is None else self.P * self._weight.unsqueeze(1))

    @property
    def mass(self) -> Tensor:
        mass = torch.ones(self.labels.shape, device=self.labels.device) if self._mass_in is None else self._mass_in
        total: Tensor = ops.segment_reduce(mass.unsqueeze(-1), ids=self.labels, segments=self.targets, mode="sum")
        return total.squeeze(-1)

    def _apply(self, x: Tensor) -> Tensor:
        out: Tensor = ops.segment_reduce(x, ids=self.labels, segments=self.targets, weight=self._weight)
        return out

    def _restore(self, y: Tensor) -> Tensor:
        return ops.segment_broadcast(y, ids=self.labels)


class ComposedTransform(TokenTransform):
    """One transform after another; see :meth:`TokenTransform.compose`."""

    def __init__(self, later: TokenTransform, earlier: TokenTransform) -> None:
        selected = None
        if later.sel_idx is not None and earlier.sel_idx is not None:
            selected = earlier.sel_idx.gather(1, later.sel_idx)
        super().__init__(later.batch, later.targets, earlier.tokens, selected)
        self.later = later
        self.earlier = earlier

    @property
    def P(self) -> Tensor:  # noqa: N802
        return self.later.P @ self.earlier.P

    @property
    def W(self) -> Tensor:  # noqa: N802
        return self.later.W @ self.earlier.W

    @property
    def mass(self) -> Tensor:
        return self.later.mass

    def _apply(self, x: Tensor) -> Tensor:
        return self.later.apply(self.earlier.apply(x))

    def _restore(self, y: Tensor) -> Tensor:
        return self.earlier.restore(self.later.restore(y))


def _normalised(weighted: Tensor) -> Tensor:
    """Divide rows by their sum; a row without weight stays zero."""
    total = weighted.sum(-1, keepdim=True)
    return torch.where(total > 0, weighted / total, 0.0)
