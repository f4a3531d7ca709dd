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

from tokernel.papers import paper
from tokernel.reduce._lvvit import LVVIT, LVViT, LVViTConfig
from tokernel.reduce._slimming import FRDLoss, FRDTerms, ReverseTokenSlimming, TokenSlimming

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
