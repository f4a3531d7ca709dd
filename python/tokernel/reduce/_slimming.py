# SPDX-License-Identifier: Apache-2.0
"""The parts of :mod:`tokernel.reduce.self_slimmed_vit`: slimming, its reverse, and the loss between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, mse_loss

from tokernel import ops
from tokernel.reduce._lvvit import Mlp


class TokenSlimming(nn.Module):
    """Slim (B, N, C) tokens to (B, K, C): ``y = softmax_N(scale * MLP(LayerNorm(x)))^T x`` (paper, token slimming).

    Every output is a convex combination of the inputs; the order of the inputs does not matter, and N need not be
    known at construction. The sum accumulates in fp32.

    Args:
        dim: token width C.
        keep: K.
        ratio: hidden width of the scoring MLP over C.

    >>> TokenSlimming(dim=8, keep=3)(torch.ones(2, 5, 8)).allclose(torch.ones(2, 3, 8))
    True
    """

    def __init__(self, dim: int, keep: int, ratio: float = 0.5) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * ratio), keep)
        self.scale = nn.Parameter(torch.ones(()))

    def logits(self, x: Tensor) -> Tensor:
        """Score (B, N, C) tokens for every slot: (B, K, N), before the softmax."""
        scores: Tensor = self.mlp(self.norm(x)) * self.scale
        return scores.transpose(1, 2)

    def weights(self, x: Tensor) -> Tensor:
        """Weigh (B, N, C) tokens for every slot: (B, K, N), rows sum to 1."""
        return torch.softmax(self.logits(x), -1)

    def forward(self, x: Tensor) -> Tensor:
        """Slim the tokens."""
        return ops.soft_aggregate(x, self.logits(x), over="tokens")


class ReverseTokenSlimming(nn.Module):
    """Expand (B, K, C) tokens back to (B, N, C) for the teacher's comparison; not used at inference.

    An MLP over the token axis without skip, then one over the channels with skip, each after a LayerNorm.

    Args:
        dim: token width C.
        keep: K.
        recovered: N.
        ratio: hidden width of the first MLP over N and of the second over C.

    >>> ReverseTokenSlimming(dim=8, keep=3, recovered=5)(torch.ones(2, 3, 8)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(self, dim: int, keep: int, recovered: int, ratio: float = 4.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.mlp1 = Mlp(keep, int(recovered * ratio), recovered)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp2 = Mlp(dim, int(dim * ratio), dim)

    def forward(self, x: Tensor) -> Tensor:
        """Expand the tokens."""
        tokens: Tensor = self.mlp1(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        channels: Tensor = self.mlp2(self.norm2(tokens))
        return tokens + channels


class FRDTerms(NamedTuple):
    """The three weighted terms of :class:`FRDLoss`."""

    label: Tensor
    token: Tensor
    logits: Tensor


class FRDLoss(nn.Module):
    """Feature recalibration distillation: cross entropy + ``lambda_token`` MSE(tokens) + ``lambda_logits`` KL(logits).

    The MSE is a mean over batch, tokens and channels, then over layers; the KL(teacher || student) is summed over
    classes, averaged over the batch, at temperature tau and multiplied by tau squared. Teacher tokens are those after
    each block, before the final norm, without class token, as :class:`SlimmedViT` returns them.

    >>> tokens, logits = [torch.ones(2, 3, 4)], torch.zeros(2, 5)
    >>> terms = FRDLoss().terms(logits, tokens, logits, tokens, torch.tensor([0, 1]))
    >>> terms.token.item(), terms.logits.item()
    (0.0, 0.0)
    """

    def __init__(self, lambda_token: float = 2.0, lambda_logits: float = 2.0, tau: float = 1.0) -> None:
        super().__init__()
        if tau <= 0:
            raise ValueError(f"FRDLoss: tau expected a positive number; got {tau}")
        self.lambda_token = lambda_token
        self.lambda_logits = lambda_logits
        self.tau = tau

    def terms(
        self,
        student_logits: Tensor,
        student_tokens: Sequence[Tensor],
        teacher_logits: Tensor,
        teacher_tokens: Sequence[Tensor],
        labels: Tensor,
    ) -> FRDTerms:
        """Compute the terms one by one, already weighted; labels are (B,) classes or (B, K) probabilities."""
        shapes = [[tuple(t.shape) for t in tokens] for tokens in (student_tokens, teacher_tokens)]
        if shapes[0] != shapes[1] or not shapes[0]:
            raise ValueError(f"FRDLoss: student_tokens expected the shapes {shapes[1]} of the teacher; got {shapes[0]}")
        mse = [mse_loss(s, t) for s, t in zip(student_tokens, teacher_tokens, strict=True)]
        divergence = kl_div(
            log_softmax(student_logits / self.tau, -1),
            log_softmax(teacher_logits / self.tau, -1),
            reduction="batchmean",
            log_target=True,
        )
        return FRDTerms(
            cross_entropy(student_logits, labels),
            self.lambda_token * torch.stack(mse).mean(),
            self.lambda_logits * self.tau**2 * divergence,
        )

    def forward(
        self,
        student_logits: Tensor,
        student_tokens: Sequence[Tensor],
        teacher_logits: Tensor,
        teacher_tokens: Sequence[Tensor],
        labels: Tensor,
    ) -> Tensor:
        """Compute the loss, a scalar."""
        terms = self.terms(student_logits, student_tokens, teacher_logits, teacher_tokens, labels)
        return terms.label + terms.token + terms.logits
