# SPDX-License-Identifier: Apache-2.0
"""One forward pass of a stack of layers under SpAtten's cascades: who attends, who is scored, who goes on."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tokernel import ops
from tokernel.integrations.attention import padding_bias
from tokernel.kernels.attention import Causal, Dense, Mask, Policy
from tokernel.reduce._spatten_schedule import kept_count
from tokernel.reduce._spatten_state import TokenHeadState, first_marked

__all__ = ["Layer", "Ratios", "Run"]


class Ratios(NamedTuple):
    """Fractions to prune, one a layer: tokens and heads behind it, values in it."""

    tokens: list[float]
    heads: list[float]
    values: list[float]

    @property
    def nothing(self) -> bool:
        """Whether every layer keeps everything."""
        return not any(map(any, self))


class Layer(NamedTuple):
    """Who takes part in a layer.

    Attributes:
        tokens: (B, n) int64, places in the whole sequence, ascending.
        valid: (B, n) bool, False on filling of samples with fewer tokens; None: no filling.
        heads: (B, h) int64.
    """

    tokens: Tensor
    valid: Tensor | None
    heads: Tensor


class Run:
    """Walk x (B, Q, C) through the layers. With a memory (GPT-2's cache) the keys also hold earlier tokens.

    Args:
        x: input of the first layer.
        heads: of every layer.
        ratios: what to prune.
        causal: whether tokens see earlier ones alone; their last one then stays: its output is asked for.
        valid: (B, past + Q) bool, False on padding; None: no padding.
        protect: (B, past + Q) or (past + Q) bool, tokens that stay.
        normalise: see :class:`TokenHeadState`.
        past: number of earlier tokens.
        past_score: (B, past) float32, what they have received so far.
    """

    def __init__(
        self,
        x: Tensor,
        heads: int,
        ratios: Ratios,
        *,
        causal: bool,
        valid: Tensor | None = None,
        protect: Tensor | None = None,
        normalise: bool = False,
        past: int = 0,
        past_score: Tensor | None = None,
        past_seen: Tensor | None = None,
    ) -> None:
        batch, queries = x.shape[:2]
        self.past, self.total = past, past + queries
        self.ratios = ratios
        self.causal = causal
        if valid is not None and bool(valid.all()):
            valid = None
        self.state = TokenHeadState(
            self.total, heads, batch, valid=valid, protect=protect, normalise=normalise, device=x.device
        )
        if past_score is not None and past_seen is not None:
            self.state.all_token_score = torch.cat([past_score, past_score.new_zeros(batch, queries)], 1)
            self.state.seen = torch.cat([past_seen, past_seen.new_zeros(batch, queries)], 1)
        self.places = torch.arange(past, self.total, device=x.device).expand(batch, queries)
        self.live = None if valid is None else valid[:, past:]
        self.last = self._last_queries()
        self.done: Tensor | None = None
        self.layers: list[Layer] = []

    def attend(self, index: int, q: Tensor, k: Tensor, v: Tensor, scale: float, dropout: float) -> Tensor:
        """Attend, add up what tokens received and heads put out, and note who took part."""
        state = self.state
        self.layers.append(Layer(state.tokens, state.valid, state.heads))
        seen = self._seen() if state.normalise else None
        if self.ratios.values[index] > 0 or dropout > 0:
            out = self._attend_by_map(index, q, k, v, scale, dropout, seen)
        else:
            bias = padding_bias(state.valid)
            policy = self._policy()
            out, lse = ops.attention(q, k, v, policy, scale=scale, key_bias=bias, return_lse=True)
            state.update_from_attention(
                q, k, lse, policy, scale=scale, key_bias=bias, query_valid=self._counted(), seen=seen
            )
        state.update_heads(out, query_valid=self._counted())
        return out

    def advance(self, index: int, x: Tensor, among: Tensor | None = None, heads: Tensor | None = None) -> Tensor:
        """Prune behind a layer, and give the rows of x that go on.

        Args:
            index: the layer.
            x: (B, Q, C), its output.
            among: (B, total) bool: tokens that the next layer can still know.
            heads: (B, h), the heads of the next layer, where they were chosen before.
        """
        state = self.state
        known = None if among is None else among.gather(1, state.tokens)
        last = None if self.last is None else state.tokens == self.last
        before = state.tokens
        keep = state.prune_tokens(self.ratios.tokens[index], protect=last, among=known, at_least=1)
        if heads is None:
            state.prune_heads(self.ratios.heads[index], at_least=1)
        else:
            state.heads = heads
        if state.tokens is before or (self.causal and x.shape[1] == 1):
            return x  # the last token stays, so a row alone does
        if self.past == 0:
            keep_rows, places, live = keep, state.tokens, state.valid
        else:
            keep_rows, places, live = self._rows_left()
        self._note(x)
        self.places, self.live = places, live
        return ops.gather_rows(x, keep_rows)

    def finish(self, x: Tensor) -> Tensor:
        """The output at full length: a pruned token shows the state it had when it was pruned (our reconstruction)."""
        if self.done is None:
            return x
        self._note(x)
        return self.done[:, :-1]

    def _note(self, x: Tensor) -> None:
        """Write down the present states of the rows of x; rows of filling go to one place past the end."""
        if self.done is None:
            self.done = torch.cat([x, x.new_zeros(len(x), 1, x.shape[2])], 1)
            return
        rows = self.places - self.past
        if self.live is not None:
            rows = rows.masked_fill(~self.live, self.total - self.past)
        self.done = ops.scatter_rows(x, rows, self.total - self.past + 1, base=self.done)

    def _rows_left(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Which rows of x belong to tokens that are left."""
        state = self.state
        marks = torch.ones_like(state.tokens, dtype=torch.bool) if state.valid is None else state.valid
        left = torch.zeros(len(marks), self.total, dtype=torch.bool, device=marks.device)
        mine = left.scatter(1, state.tokens, marks).gather(1, self.places)
        if self.live is not None:
            mine = mine & self.live
        counts = mine.sum(1)
        most = int(counts.max())
        keep = first_marked(mine, most)
        live = None if bool((counts == most).all()) else mine.gather(1, keep)
        return keep, self.places.gather(1, keep), live

    def _attend_by_map(
        self, index: int, q: Tensor, k: Tensor, v: Tensor, scale: float, dropout: float, seen: Tensor | None
    ) -> Tensor:
        """Local value pruning and dropout act on the map, so it is stored."""
        state = self.state
        hidden = ~self._sees()[:, None]
        logits = ((q @ k.mT) * scale).float().masked_fill(hidden, -torch.inf)
        probs = torch.softmax(logits, -1).masked_fill(hidden, 0)  # a query that sees nothing gives zeros
        state.update_from_probs(probs, query_valid=self._counted(), seen=seen)
        weights = torch.dropout(probs, dropout, train=dropout > 0).to(v.dtype)
        ratio = self.ratios.values[index]
        if ratio == 0:
            return weights @ v
        keep = [min(weights.shape[-1], max(1, kept_count(n, ratio))) for n in state.live]
        if len(set(keep)) == 1:
            out: Tensor = ops.local_value_attention(weights, v, keep[0])
            return out
        each = [ops.local_value_attention(weights[b : b + 1], v[b : b + 1], keep[b]) for b in range(len(v))]
        return torch.cat(each)

    def _policy(self) -> Policy:
        if not self.causal or self.places.shape[1] == 1:
            return Dense()
        if self.past == 0 or (self.live is None and self.state.valid is None):
            return Causal()  # rows and keys end with the same tokens
        return Mask(self._sees()[:, None])

    def _sees(self) -> Tensor:
        """Which tokens each row may look at, (B, Q, n) bool."""
        state = self.state
        shape = (*self.places.shape, state.tokens.shape[1])
        sees = torch.ones(shape, dtype=torch.bool, device=state.tokens.device)
        if self.causal:
            sees = self.places[:, :, None] >= state.tokens[:, None, :]
        return sees if state.valid is None else sees & state.valid[:, None, :]

    def _seen(self) -> Tensor:
        """How many rows that count may look at each token, (B, n)."""
        sees = self._sees()
        return (sees if self.live is None else sees & self.live[:, :, None]).sum(1)

    def _counted(self) -> Tensor | None:
        """Rows whose attention counts: None is all of them."""
        if self.live is None and self.state.valid is not None:
            return torch.ones_like(self.places, dtype=torch.bool)
        return self.live

    def _last_queries(self) -> Tensor | None:
        """Place of every sample's last token, (B, 1); past the end where it has none."""
        if not self.causal:
            return None
        places = self.places if self.live is None else self.places.masked_fill(~self.live, -1)
        return places.amax(1, keepdim=True) if places.shape[1] else None
