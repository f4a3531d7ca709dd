# SPDX-License-Identifier: Apache-2.0
"""Find the ViT inside a model, and run a paper's block in place of each of its blocks.

Known are timm-shaped models (``blocks[i].attn.qkv``) and transformers' ViT, DeiT, ViT-MAE, ViT-MSN, DINOv2, CLIP and
SigLIP. What a block hands to the next beside its tokens (sizes, sources) goes through one slot a block, written by
block i and read by block i + 1: nothing to reset between images, and recomputing a block (gradient checkpointing) finds
its input. A patched model runs one forward pass at a time: threads need copies of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tokernel.integrations._blocks import BlockView, ClipBlock, view_block
from tokernel.integrations._patch import Original, Patch, patch_of, unpatch

__all__ = ["Vit", "VitPatch"]


class Vit:
    """The ViT found in a model.

    Attributes:
        module: the part that owns the blocks.
        views: its blocks.
        class_token, distill_token: whether tokens 0 and 1 are these.
        mean_pool: whether the head averages the patch tokens instead of reading the class token.
        attention_pool: the attention by which a probe reads all tokens (SigLIP's head), or None.
    """

    def __init__(self, model: nn.Module) -> None:
        if hasattr(model, "_orig_mod"):
            raise ValueError("patch_vit: model expected a module; got a compiled one: patch first, then torch.compile")
        found = [(module, blocks) for module in model.modules() if (blocks := _blocks_of(module)) is not None]
        if len(found) != 1:
            names = ", ".join(type(module).__name__ for module, _ in found) or type(model).__name__
            raise ValueError(
                f"patch_vit: model expected exactly one ViT (timm-shaped blocks[i].attn.qkv, or transformers "
                f"attention.q_proj); got {len(found)} in {names}"
            )
        module, self.views = found[0]
        self.module: Any = module
        owner = getattr(module, "embeddings", module)
        self.class_token = _has(owner, "cls_token", "class_embedding")
        self.distill_token = _has(owner, "dist_token", "distillation_token")
        prefix = getattr(module, "num_prefix_tokens", self.protected)
        if prefix != self.protected or _has(owner, "reg_token", "register_tokens"):
            raise ValueError(
                "patch_vit: model expected at most a class and a distillation token before the patches; got more"
            )
        self.mean_pool = _mean_pool(model, module, self.class_token, self.views)
        self.attention_pool = _attention_pool(module)

    @property
    def protected(self) -> int:
        """Number of tokens that are not patches."""
        return int(self.class_token) + int(self.distill_token)


class VitPatch(Patch, ABC):
    """A patched ViT: runs :meth:`block` in place of each block, and a size-weighted mean where the head pools."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        previous = patch_of(model)
        self.vit: Vit = previous.vit if isinstance(previous, VitPatch) else Vit(model)
        self.sizes: list[Tensor | None] = [None] * len(self.vit.views)

    def install(self, blocks: Iterable[int] | None = None) -> None:
        """Replace the forward of every block, or of some, and the pooling; an earlier patch is undone first."""
        unpatch(self.model)
        for index in range(len(self.vit.views)) if blocks is None else blocks:
            self.replace(self.vit.views[index].module, "forward", _run_block, self, index)
        if self.vit.mean_pool:
            self.replace(self.vit.module, "forward_head", _run_head, self)
        if self.vit.attention_pool is not None:
            self.replace(self.vit.attention_pool, "forward", _run_pool, self)
        self.attach()

    @abstractmethod
    def block(self, index: int, view: BlockView, x: Tensor, dense: Callable[[Tensor], Tensor]) -> Tensor:
        """Compute block ``index`` of tokens x; ``dense`` is the block as it was."""

    @property
    def size(self) -> Tensor | None:
        """How many patches each token of the last output stands for, (B, N, 1) float32; None when nothing merged."""
        return self.sizes[-1]

    def size_before(self, index: int, x: Tensor) -> Tensor | None:
        """The sizes that come with the input x of block ``index``."""
        size = self.sizes[index - 1] if index else None
        if size is not None and size.shape[:2] != x.shape[:2]:
            raise ValueError(
                f"{type(self).__name__}: block {index} expected the {tuple(size.shape[:2])} (batch, tokens) that block "
                f"{index - 1} put out; got {tuple(x.shape[:2])}"
            )
        return size

    def __getstate__(self) -> dict[str, Any]:
        # What the last forward pass left is no part of a copy, and tensors with a gradient cannot be copied.
        return self.__dict__ | {"sizes": [None] * len(self.sizes)}


def _run_block(patch: VitPatch, index: int, original: Original, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    view = patch.vit.views[index]
    mask = args[0] if args else kwargs.get("attention_mask", kwargs.get("attn_mask"))
    if mask is not None or kwargs.get("is_causal"):
        raise ValueError(f"{type(patch).__name__}: attention mask expected None, tokens change places; got a mask")

    def dense(tokens: Tensor) -> Tensor:
        out: Tensor = original(tokens, *args, **kwargs)
        return out

    run = partial(patch.block, index, view, dense=dense)
    module = view.module
    if getattr(module, "gradient_checkpointing", False) and module.training and torch.is_grad_enabled():
        out: Tensor = module._gradient_checkpointing_func(run, x)
        return out
    return run(x)


def _run_head(patch: VitPatch, original: Original, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    size = patch.size
    if size is not None:
        if size.shape[:2] != x.shape[:2]:
            raise ValueError(
                f"{type(patch).__name__}: head expected the {tuple(size.shape[:2])} (batch, tokens) of the last "
                f"forward pass; got {tuple(x.shape[:2])}"
            )
        # The head averages patches plainly: weighted beforehand, its mean is sum(x * size) / sum(size).
        first = patch.vit.protected
        share = size[:, first:] / size[:, first:].mean(1, keepdim=True)
        x = torch.cat([x[:, :first], x[:, first:] * share.to(x.dtype)], 1)
    out: Tensor = original(x, *args, **kwargs)
    return out


def _run_pool(patch: VitPatch, original: Original, query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Any:
    if patch.size is not None:
        # The probe counts a token as often as its patches, as attention between tokens does; padding has size 0.
        kwargs["key_padding_mask"] = patch.size[:, :, 0].log().to(key.dtype)
    return original(query, key, *args, **kwargs)


def _has(module: nn.Module, *names: str) -> bool:
    return any(getattr(module, name, None) is not None for name in names)


def _blocks_of(module: nn.Module) -> list[BlockView] | None:
    """The blocks of a module that is a ViT itself; None when it is not."""
    encoder = getattr(module, "encoder", None)
    embeddings = getattr(module, "embeddings", None)
    tokens = hasattr(module, "patch_embed") or (embeddings is not None and not hasattr(embeddings, "token_embedding"))
    for owner, name in ((module, "blocks"), (module, "layers"), (encoder, "layer"), (encoder, "layers")):
        blocks = getattr(owner, name, None)
        if tokens and isinstance(blocks, (nn.Sequential, nn.ModuleList)) and len(blocks):
            views = [view_block(block) for block in blocks]
            if None not in views:
                return [view for view in views if view is not None]
    return None


def _attention_pool(vit: Any) -> nn.MultiheadAttention | None:
    pool = getattr(getattr(vit, "head", None), "attention", None)
    return pool if isinstance(pool, nn.MultiheadAttention) else None


def _mean_pool(model: nn.Module, vit: Any, class_token: bool, views: list[BlockView]) -> bool:
    """Whether the head averages patches; ValueError for a pooling that merging would change otherwise."""
    classifier, hidden = getattr(model, "classifier", None), getattr(getattr(vit, "config", None), "hidden_size", None)
    if (
        hidden is not None
        and isinstance(classifier, nn.Linear)
        and (not class_token or classifier.in_features != hidden or isinstance(views[0], ClipBlock))
    ):
        raise ValueError("patch_vit: classifier expected to read the class token alone; got a mean of patches")
    pool = getattr(vit, "global_pool", "token")
    if pool == "avg" and getattr(vit, "attn_pool", None) is None and hasattr(vit, "forward_head"):
        if getattr(vit, "pool_include_prefix", False):
            raise ValueError("patch_vit: pooling expected over patches; got pool_include_prefix=True")
        return True
    if pool not in ("", "token", "max", False):
        raise ValueError(f"patch_vit: global_pool expected 'token', 'avg', 'max' or ''; got {pool!r}")
    return False
