# SPDX-License-Identifier: Apache-2.0
"""Self-slimmed Vision Transformer (arXiv 2111.12624): learnt soft slimming of tokens, taught by the unslimmed model.

Verified against the outputs of the official repository Sense-X/SiT. A slimming module replaces N tokens by K weighted
means of all of them; in training, a reverse module expands the K back to N after every block, so that a frozen,
unslimmed copy of the network can teach token by token. Its optional CNN teacher is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, mse_loss

from tokernel import ops
from tokernel.papers import paper
from tokernel.reduce._lvvit import LVVIT, LVViT, LVViTConfig, Mlp

__all__ = [
    "LVVIT",
    "PAPER",
    "FRDLoss",
    "FRDTerms",
    "LVViT",
    "LVViTConfig",
    "ReverseTokenSlimming",
    "SlimOutput",
    "SlimmedViT",
    "TokenSlimming",
    "from_official",
    "slim_vit",
    "stages_to_counts",
]

PAPER = paper("self_slimmed_vit")


def stages_to_counts(patches: int, stages: Sequence[int], rho: float = 0.5) -> list[int]:
    """Count the patch tokens of every stage: ``int(patches * rho**i)``, truncated as in the paper's code.

    >>> stages_to_counts(196, [1, 1, 1, 11])
    [196, 98, 49, 24]
    """
    counts = [int(patches * rho**i) for i in range(len(stages))]
    if not counts or min(stages) < 1 or counts[-1] < 1 or not 0 < rho <= 1:
        raise ValueError(
            "stages_to_counts: expected stages of at least one block, rho in (0, 1] and a token left in each; "
            f"got patches={patches}, stages={list(stages)}, rho={rho}"
        )
    return counts


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


class SlimOutput(NamedTuple):
    """What a :class:`SlimmedViT` returns: the model's own answer, and the patch tokens after every block."""

    logits: Any
    tokens: list[Tensor]


class SlimmedViT(nn.Module):
    """A ViT with slimming modules between its stages; made by :func:`slim_vit`.

    In evaluation, ``tokens[i]`` are the patch tokens after block i, already slimmed where a slimming module follows it,
    before the final norm. In training they are expanded to the full count by ``recover[i]``.

    Attributes:
        vit: the model, slimmed by hooks: its parameters and their names stay.
        slim: one :class:`TokenSlimming` after each stage but the last.
        recover: one :class:`ReverseTokenSlimming` a block, identity before the first slimming; empty once dropped.
        counts: patch tokens of every stage.
    """

    def __init__(self, vit: nn.Module, stages: Sequence[int], rho: float, prefix: int, patches: int, dim: int) -> None:
        super().__init__()
        self.counts = stages_to_counts(patches, stages, rho)
        self.prefix = prefix
        self.vit = vit
        self.slim = nn.ModuleList(TokenSlimming(dim, keep) for keep in self.counts[1:])
        ends = [sum(stages[: i + 1]) - 1 for i in range(len(stages))]
        self._slim_after = {block: i for i, block in enumerate(ends[:-1])}
        # Block i's tokens are taken after the slimming that follows it, hence the next stage's count at a stage's end.
        after = [self.counts[sum(end <= block for end in ends[:-1])] for block in range(ends[-1] + 1)]
        self.recover = nn.ModuleList(
            ReverseTokenSlimming(dim, keep, patches) if keep < patches else nn.Identity() for keep in after
        )
        self._tokens: list[Tensor] = []
        self._hooks = [block.register_forward_hook(self._after_block) for block in self._blocks()]

    def _blocks(self) -> list[nn.Module]:
        blocks: list[nn.Module] = list(self.vit.blocks)  # type: ignore[arg-type]
        return blocks

    def _after_block(self, block: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        stage = self._slim_after.get(len(self._tokens))
        if stage is not None:
            kept, patches = output[:, : self.prefix], output[:, self.prefix :]
            output = torch.cat([kept, self.slim[stage](patches)], 1)
        self._tokens.append(output[:, self.prefix :])
        return output

    def recover_tokens(self, tokens: Sequence[Tensor]) -> list[Tensor]:
        """Expand the tokens of every block to the full count, for the loss."""
        return [module(t) for module, t in zip(self.recover, tokens, strict=True)]

    def drop_recovery(self) -> SlimmedViT:
        """Forget the reverse modules, which only training needs."""
        self.recover = nn.ModuleList()
        return self

    def unslim(self) -> nn.Module:
        """Take the hooks off and hand back the model as it was; this object is of no use afterwards."""
        for hook in self._hooks:
            hook.remove()
        return self.vit

    def forward(self, image: Tensor) -> SlimOutput:
        """Run the slimmed model."""
        self._tokens = []
        try:
            logits = self.vit(image)
            tokens = self._tokens
        finally:
            self._tokens = []
        if self.training and len(self.recover):
            tokens = self.recover_tokens(tokens)
        return SlimOutput(logits, tokens)


def slim_vit(vit: nn.Module, stages: Sequence[int], rho: float = 0.5) -> SlimmedViT:
    """Put slimming modules between the stages of a ViT with timm's attribute names (VisionTransformer, DeiT, LV-ViT).

    The class token and, in a distilled DeiT, the distillation token pass by untouched. With one stage nothing is
    slimmed, which is how the frozen teacher hands out its tokens: ``slim_vit(teacher, [depth]).eval()``.

    Args:
        vit: a model with ``blocks``, ``pos_embed`` (1, prefix + P or P, C) and optionally ``cls_token`` and
            ``dist_token``; ``num_prefix_tokens`` is used where it exists.
        stages: blocks per stage, summing to the depth.
        rho: share of tokens kept from one stage to the next.

    Raises:
        TypeError: the model lacks these attributes.
        ValueError: stages do not sum to the depth, or leave no token.

    >>> config = LVViTConfig(dim=16, depth=3, heads=2, stages=(1, 2), image=64, classes=5)
    >>> slimmed = slim_vit(LVViT(config), config.stages).eval()
    >>> [t.shape[1] for t in slimmed(torch.zeros(1, 3, 64, 64)).tokens]
    [8, 8, 8]
    """
    missing = [name for name in ("blocks", "pos_embed") if getattr(vit, name, None) is None]
    if missing:
        raise TypeError(f"slim_vit: vit expected a ViT with {' and '.join(missing)}; got {type(vit).__name__}")
    depth = len(list(vit.blocks))  # type: ignore[arg-type]
    if sum(stages) != depth:
        raise ValueError(f"slim_vit: stages expected to sum to the {depth} blocks; got {list(stages)}")
    counted = sum(getattr(vit, name, None) is not None for name in ("cls_token", "dist_token"))
    prefix = int(getattr(vit, "num_prefix_tokens", counted))
    pos_embed: Any = vit.pos_embed
    positions, dim = pos_embed.shape[1:]
    # timm's no_embed_class keeps positions for the patches alone.
    patches = positions if getattr(vit, "no_embed_class", False) else positions - prefix
    return SlimmedViT(vit, stages, rho, prefix, int(patches), int(dim))


_OFFICIAL_NAMES = (
    (r"^tsm\.", "slim."),
    (r"^rtsm\.", "recover."),
    (r"^(?!slim\.|recover\.)", "vit."),
    (r"(^|\.)weight\.0\.", r"\1norm."),
    (r"(^|\.)weight\.1\.", r"\1mlp.fc1."),
    (r"(^|\.)weight\.3\.", r"\1mlp.fc2."),
)


def _stem_name(match: re.Match[str]) -> str:
    return f"{'convs' if match[1] == 'conv' else 'norms'}.{int(match[2]) - 1}"


def from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a checkpoint of the official repository for ``slim_vit(LVViT(config), ...).load_state_dict``.

    ``tsm.I.weight.{0,1,3}`` become ``slim.I.{norm,mlp.fc1,mlp.fc2}``, ``rtsm.I`` becomes ``recover.I``,
    ``patch_embed.{conv,bn}J`` become ``vit.patch_embed.{convs,norms}.J-1``, the rest moves under ``vit.``. The
    auxiliary token-labelling head is dropped.

    >>> list(from_official({"tsm.0.weight.1.bias": torch.zeros(2), "head.bias": torch.zeros(3)}))
    ['slim.0.mlp.fc1.bias', 'vit.head.bias']
    """
    renamed = {}
    for name, value in state.items():
        if name.startswith("aux_head."):
            continue
        for pattern, replacement in _OFFICIAL_NAMES:
            name = re.sub(pattern, replacement, name)
        name = re.sub(r"(?<=patch_embed\.)(conv|bn)(\d+)", _stem_name, name)
        renamed[name] = value.reshape(()) if name.endswith(".scale") else value
    return renamed
