# SPDX-License-Identifier: Apache-2.0
"""The scores that SpAtten's cascades go by: what tokens have received, what heads have put out, and who is left."""

from __future__ import annotations

import torch
from torch import Tensor

from tokernel import ops
from tokernel.kernels.attention import Causal, Dense, Policy
from tokernel.reduce._spatten_schedule import check_fraction, kept_count

__all__ = ["TokenHeadState", "first_marked", "topk_threshold"]

_DENSE = Dense()


def topk_threshold(x: Tensor, k: int) -> Tensor:
    """Find the k largest items in their own order, the paper's top-k engine.

    All items above the k-th largest value are in, then the first ones equal to it, by index, until there are k. A NaN
    is chosen last. The hardware searches the value by quick-select; here :func:`tokernel.ops.topk` counts.

    Args:
        x: (..., N) float32, float16 or bfloat16.
        k: in [0, N].

    Returns:
        (..., k) int64, ascending.

    >>> topk_threshold(torch.tensor([1.0, 3.0, 2.0, 3.0, 2.0]), 3)
    tensor([1, 2, 3])
    """
    return ops.topk(x, k, sorted=False)[1]


def first_marked(mask: Tensor, k: int) -> Tensor:
    """The indices of the first k marked items of every row, ascending; then those of unmarked ones, ascending."""
    return ops.topk(mask.float(), k)[1]


class TokenHeadState:
    """Scores of tokens and heads while layers go by, and which of them are left (section 3 of the paper).

    From the paper: no code of the authors for BERT or GPT-2 was released. A token's score is the attention probability
    it has received so far, a head's the magnitude of what it has put out so far; a pruned one never comes back. After a
    layer: update the scores, then :meth:`prune`, then give the next layer the survivors alone.

    In a batch, samples of different lengths keep different numbers of tokens: rows are as long as the longest,
    survivors first, and :attr:`valid` tells them from the filling.

    Args:
        L: tokens.
        H: heads.
        B: samples.
        valid: (B, L) bool, False on padding; None: no padding.
        protect: (B, L) or (L) bool: tokens that are never pruned; they count among the kept, and where there are more
            of them than the ratio leaves, all of them stay. The paper has none: class tokens survive by their scores.
        normalise: rank by the attention received per query that could see the token (our reconstruction). Without, as
            in the paper, a causal model favours early tokens, which more queries see.
        device: of the scores; None: that of `valid`, or the CPU.

    Attributes:
        tokens: (B, n) int64, the survivors' places among the L.
        heads: (B, h) int64, the surviving heads, ascending.
        valid: (B, n) bool, or None while all samples have n.
        all_token_score: (B, L) float32; a pruned token keeps the score it had.
        all_head_score: (B, H) float32, likewise.

    Raises:
        ValueError: L, H or B negative; a mask of another shape or dtype.

    >>> state = TokenHeadState(L=4, H=1)
    >>> state.update_from_probs(torch.tensor([[0.4, 0.1, 0.3, 0.2]]).expand(1, 4, 4))
    >>> keep_tokens, keep_heads = state.prune(p_t=0.5, p_h=0.0)
    >>> keep_tokens, state.token_score
    (tensor([[0, 2]]), tensor([[1.6000, 1.2000]]))
    """

    def __init__(
        self,
        L: int,
        H: int,
        B: int = 1,
        *,
        valid: Tensor | None = None,
        protect: Tensor | None = None,
        normalise: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        if min(L, H, B) < 0:
            raise ValueError(f"TokenHeadState: L, H and B expected at least 0; got {L}, {H} and {B}")
        if device is None and valid is not None:
            device = valid.device
        self.valid = None if valid is None else _mask("valid", valid, (B, L))
        if protect is not None and protect.dim() == 1:
            protect = protect.expand(B, -1)
        self.protect = None if protect is None else _mask("protect", protect, (B, L)).to(device)
        self.normalise = normalise
        self.live: list[int] = [L] * B if valid is None else valid.sum(1).tolist()
        self.tokens = torch.arange(L, device=device).expand(B, L)
        self.heads = torch.arange(H, device=device).expand(B, H)
        self.all_token_score = torch.zeros(B, L, device=device)
        self.all_head_score = torch.zeros(B, H, device=device)
        self.seen = torch.zeros(B, L, device=device)

    @property
    def token_score(self) -> Tensor:
        """(B, n) scores of the survivors; anything on filling."""
        return self.all_token_score.gather(1, self.tokens)

    @property
    def head_score(self) -> Tensor:
        """(B, h) scores of the surviving heads."""
        return self.all_head_score.gather(1, self.heads)

    def update_from_probs(self, P: Tensor, *, query_valid: Tensor | None = None, seen: Tensor | None = None) -> None:
        """Add the attention probability that every token receives: ``s[j] += sum of P[h, i, j]`` over heads, queries.

        Args:
            P: (B, h, Q, n), or (h, Q, n) for one sample: the map of the surviving heads and tokens.
            query_valid: (B, Q) bool, False for queries that do not count; None: the live ones where Q = n, else all.
            seen: (B, n) how many live queries could see each token; only with `normalise`, None: all of them.

        Raises:
            ValueError: a shape that does not fit the survivors, or another device.
        """
        P = P.detach()
        P = P[None] if P.dim() == 3 else P
        batch, tokens, heads = *self.tokens.shape, self.heads.shape[1]
        if P.dim() != 4 or (*P.shape[:2], P.shape[3]) != (batch, heads, tokens):
            raise ValueError(
                f"TokenHeadState: P expected shape ({batch}, {heads}, queries, {tokens}); got {tuple(P.shape)}"
            )
        self._check_device("P", P)
        query_valid = self._live_queries(query_valid, P.shape[2])
        self._add(ops.accumulate_importance(P, query_valid=query_valid), P.shape[2], query_valid, seen)

    def update_from_attention(
        self,
        q: Tensor,
        k: Tensor,
        lse: Tensor,
        policy: Policy = _DENSE,
        *,
        scale: float | None = None,
        key_bias: Tensor | None = None,
        query_valid: Tensor | None = None,
        seen: Tensor | None = None,
    ) -> None:
        """Do as :meth:`update_from_probs`, from what attention was computed of; the map is never stored.

        Args:
            q: (B, h, Q, D).
            k: (B, h, n, D); fewer heads (GQA) as in :func:`tokernel.ops.attention`.
            lse: (B, h, Q), as :func:`tokernel.ops.attention` returns it.
            policy, scale, key_bias: as given there.
            query_valid: (B, Q) bool as in :meth:`update_from_probs`.
            seen: (B, n); with `normalise`, None knows :class:`Dense` and :class:`Causal` without padding.

        Raises:
            ValueError: a shape that does not fit the survivors, another device, or no `seen` where it must be given.
        """
        batch, tokens, heads = *self.tokens.shape, self.heads.shape[1]
        if q.dim() != 4 or q.shape[:2] != (batch, heads):
            raise ValueError(f"TokenHeadState: q expected shape ({batch}, {heads}, Q, D); got {tuple(q.shape)}")
        if k.dim() != 4 or k.shape[2] != tokens:
            raise ValueError(f"TokenHeadState: k expected {tokens} tokens; got shape {tuple(k.shape)}")
        self._check_device("q", q)
        query_valid = self._live_queries(query_valid, q.shape[2])
        weight = None if query_valid is None else query_valid.float()
        received = ops.attention_column_sums(
            q, k, lse, policy, scale=scale, key_bias=key_bias, query_weight=weight, over_heads=True
        )
        if self.normalise and seen is None and not isinstance(policy, Dense):
            seen = self._seen_causally(policy, q.shape[2], query_valid)
        self._add(received, q.shape[2], query_valid, seen)

    def update_heads(self, E: Tensor, *, query_valid: Tensor | None = None) -> None:
        """Add the magnitude of what every head puts out: ``s[h] += sum of |E[h, i, d]|`` over live queries and d.

        Args:
            E: (B, h, Q, D), or (h, Q, D) for one sample: attention times values, before the output projection.
            query_valid: (B, Q) bool as in :meth:`update_from_probs`.

        Raises:
            ValueError: a shape that does not fit the surviving heads, or another device.
        """
        E = E.detach()
        E = E[None] if E.dim() == 3 else E
        if E.dim() != 4 or E.shape[:2] != self.heads.shape:
            batch, heads = self.heads.shape
            raise ValueError(f"TokenHeadState: E expected shape ({batch}, {heads}, Q, D); got {tuple(E.shape)}")
        self._check_device("E", E)
        size = ops.accumulate_head_scores(E, query_valid=self._live_queries(query_valid, E.shape[2]))
        self.all_head_score = self.all_head_score.scatter_add(1, self.heads, size)

    def prune(self, p_t: float, p_h: float) -> tuple[Tensor, Tensor]:
        """Keep the ``floor(n (1 - p_t))`` tokens and ``floor(h (1 - p_h))`` heads of the highest scores.

        Survivors keep their order; ties go to the lowest index. See :func:`kept_count` for the rounding.

        Returns:
            keep_tokens (B, n') and keep_heads (B, h') int64, places among the survivors so far, for
            :func:`tokernel.ops.gather_rows`. Samples that keep fewer tokens than the longest end in filling.

        Raises:
            ValueError: a ratio outside [0, 1].
        """
        return self.prune_tokens(p_t), self.prune_heads(p_h)

    def prune_tokens(
        self, p_t: float, *, protect: Tensor | None = None, among: Tensor | None = None, at_least: int = 0
    ) -> Tensor:
        """Prune tokens alone.

        Args:
            p_t: the fraction to prune.
            protect: (B, n) bool, more tokens that stay, this time.
            among: (B, n) bool: the others go whatever their scores; there may then be fewer survivors than the ratio
                leaves.
            at_least: never prune a sample with tokens below this number.

        Returns:
            keep_tokens as :meth:`prune` returns them.
        """
        check_fraction("TokenHeadState.prune", "p_t", p_t)
        if self.protect is not None:
            kept_anyway = self.protect.gather(1, self.tokens)
            protect = kept_anyway if protect is None else protect | kept_anyway
        candidates = self.valid if among is None else among if self.valid is None else among & self.valid
        counts = [max(min(at_least, n), kept_count(n, p_t)) for n in self.live]
        if protect is not None:
            protect = protect if candidates is None else protect & candidates
            counts = [max(pair) for pair in zip(counts, protect.sum(1).tolist(), strict=True)]
        if among is not None and candidates is not None:
            counts = [min(pair) for pair in zip(counts, candidates.sum(1).tolist(), strict=True)]
        if counts == self.live:
            return torch.arange(self.tokens.shape[1], device=self.tokens.device).expand_as(self.tokens)
        keep = self._best(counts, candidates, protect)
        self.tokens = self.tokens.gather(1, keep)
        self.live = counts
        self.valid = None
        if len(set(counts)) > 1:
            places = torch.arange(keep.shape[1], device=keep.device)
            self.valid = places < torch.tensor(counts, device=keep.device)[:, None]
        return keep

    def prune_heads(self, p_h: float, *, at_least: int = 0) -> Tensor:
        """Prune heads alone; keep_heads as :meth:`prune` returns them."""
        check_fraction("TokenHeadState.prune", "p_h", p_h)
        heads = self.heads.shape[1]
        keep = topk_threshold(self.head_score, max(min(at_least, heads), kept_count(heads, p_h)))
        self.heads = self.heads.gather(1, keep)
        return keep

    def _best(self, counts: list[int], candidates: Tensor | None, protect: Tensor | None) -> Tensor:
        score = self.token_score
        if self.normalise:
            score = score / self.seen.gather(1, self.tokens).clamp_min(1)
        if protect is not None:
            finite = score.clamp(max=torch.finfo(score.dtype).max)
            score = finite.masked_fill(protect, torch.inf)
        most = max(counts, default=0)
        if len(set(counts)) <= 1:
            return ops.topk(score, most, sorted=False, mask=candidates)[1]
        order = ops.topk(score, most, mask=candidates)[1]
        places = torch.arange(most, device=order.device)
        within = places < torch.tensor(counts, device=order.device)[:, None]
        chosen = torch.zeros_like(score, dtype=torch.bool).scatter(1, order, within)
        return first_marked(chosen, most)

    def _check_device(self, name: str, x: Tensor) -> None:
        if x.device != self.tokens.device:
            raise ValueError(f"TokenHeadState: {name} expected on {self.tokens.device}; got {x.device}")

    def _live_queries(self, query_valid: Tensor | None, queries: int) -> Tensor | None:
        if query_valid is None:
            return self.valid if queries == self.tokens.shape[1] else None
        return _mask("query_valid", query_valid, (self.tokens.shape[0], queries))

    def _add(self, received: Tensor, queries: int, query_valid: Tensor | None, seen: Tensor | None) -> None:
        if self.valid is not None:
            received = received.masked_fill(~self.valid, 0)  # a filling's place belongs to a token that was pruned
        self.all_token_score = self.all_token_score.scatter_add(1, self.tokens, received)
        if not self.normalise:
            return
        if seen is None:
            live = queries if query_valid is None else query_valid.sum(1, keepdim=True)
            seen = self.seen.new_ones(self.tokens.shape) * live
        elif seen.shape != self.tokens.shape:
            raise ValueError(f"TokenHeadState: seen expected shape {tuple(self.tokens.shape)}; got {tuple(seen.shape)}")
        seen = seen.to(self.seen) * self.heads.shape[1]
        if self.valid is not None:
            seen = seen * self.valid
        self.seen = self.seen.scatter_add(1, self.tokens, seen)

    def _seen_causally(self, policy: Policy, queries: int, query_valid: Tensor | None) -> Tensor:
        if not isinstance(policy, Causal) or query_valid is not None:
            raise ValueError(
                "TokenHeadState: seen expected the queries that see each token, for normalise=True under a policy "
                "other than Dense, or under Causal with padding; got None"
            )
        batch, tokens = self.tokens.shape
        offset = tokens - queries if policy.offset is None else policy.offset
        first = (torch.arange(tokens, device=self.tokens.device) - offset).clamp(0, queries)
        return (queries - first).expand(batch, tokens)


def _mask(name: str, mask: Tensor, shape: tuple[int, ...]) -> Tensor:
    if mask.shape != shape or mask.dtype != torch.bool:
        raise ValueError(f"TokenHeadState: {name} expected bool of shape {shape}; got {mask.dtype} {tuple(mask.shape)}")
    return mask
