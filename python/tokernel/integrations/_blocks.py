# SPDX-License-Identifier: Apache-2.0
"""One pre-norm transformer block as papers see it: heads out, attention back in, MLP.

A block is known by the names of its parts, not by its class, so that timm of any age and look-alikes of it work. A part
that no name covers, or an answer other than the block's own on a probe, is refused: see :func:`view_block`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from tokernel.integrations._patch import is_patched

__all__ = ["BlockView", "evaluating", "view_block"]

Heads = tuple[Tensor, Tensor, Tensor]


class BlockView(ABC):
    """A block ``x + after_attention(attend(heads(x)))``, then ``x + mlp(x)``."""

    needs: ClassVar[frozenset[str]]  # parts that tell the layout
    may_have: ClassVar[frozenset[str]]
    attention_name: ClassVar[str]
    attention_needs: ClassVar[frozenset[str]]
    attention_may_have: ClassVar[frozenset[str]]

    def __init__(self, module: nn.Module) -> None:
        self.module: Any = module
        self.attention: Any = getattr(module, self.attention_name)

    @classmethod
    def fits(cls, module: nn.Module) -> bool:
        attention = getattr(module, cls.attention_name, None)
        return cls.needs <= _parts(module) and attention is not None and cls.attention_needs <= _parts(attention)

    def unknown_parts(self) -> list[str]:
        return sorted(_parts(self.module) - self.needs - self.may_have) + [
            f"{self.attention_name}.{name}"
            for name in sorted(_parts(self.attention) - self.attention_needs - self.attention_may_have)
        ]

    def run(self, x: Tensor) -> Any:
        """Run the block as it is."""
        return self.module(x)

    def part(self, name: str, x: Tensor) -> Tensor:
        """Apply an optional part of the block."""
        module = getattr(self.module, name, None)
        out: Tensor = x if module is None else module(x)
        return out

    @property
    @abstractmethod
    def scale(self) -> float:
        """Factor of the attention logits."""

    @property
    @abstractmethod
    def dropout(self) -> float:
        """Dropout of the attention weights; 0 in evaluation."""

    @abstractmethod
    def heads(self, x: Tensor) -> Heads:
        """Query, key and value (B, H, N, D) of tokens x (B, N, C), normalisation included."""

    @abstractmethod
    def after_attention(self, y: Tensor) -> Tensor:
        """The attention branch of the residual sum, (B, N, C), from heads y (B, H, N, D)."""

    @abstractmethod
    def mlp(self, x: Tensor) -> Tensor:
        """The MLP branch of the residual sum, (B, N, C)."""


class TimmBlock(BlockView):
    """``attn.qkv`` and ``attn.proj``, as timm, DeiT, MAE, SWAG and DINO write them."""

    needs = frozenset({"norm1", "attn", "norm2", "mlp"})
    may_have = frozenset({"ls1", "ls2", "drop_path", "drop_path1", "drop_path2"})
    attention_name = "attn"
    attention_needs = frozenset({"qkv", "proj"})
    attention_may_have = frozenset({"q_norm", "k_norm", "attn_drop", "norm", "proj_drop"})

    @property
    def scale(self) -> float:
        return float(self.attention.scale)

    @property
    def dropout(self) -> float:
        drop = getattr(self.attention, "attn_drop", None)
        return _dropout(drop if isinstance(drop, (float, int)) else getattr(drop, "p", 0.0), self.attention.training)

    def heads(self, x: Tensor) -> Heads:
        attention = self.attention
        packed = attention.qkv(self.module.norm1(x))
        q, k, v = packed.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        q_norm, k_norm = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
        return q if q_norm is None else q_norm(q), k if k_norm is None else k_norm(k), v

    def after_attention(self, y: Tensor) -> Tensor:
        attention = self.attention
        y = y.transpose(1, 2).flatten(2)
        if getattr(attention, "norm", None) is not None:
            y = attention.norm(y)
        y = attention.proj(y)
        if getattr(attention, "proj_drop", None) is not None:
            y = attention.proj_drop(y)
        return self.part("drop_path", self.part("drop_path1", self.part("ls1", y)))

    def mlp(self, x: Tensor) -> Tensor:
        y = self.module.mlp(self.module.norm2(x))
        return self.part("drop_path", self.part("drop_path2", self.part("ls2", y)))


class TransformersBlock(BlockView):
    """``attention.q_proj`` to ``o_proj``: transformers 5 ViT, DeiT, ViT-MAE, ViT-MSN."""

    needs = frozenset({"layernorm_before", "attention", "layernorm_after", "mlp"})
    may_have = frozenset({"dropout"})
    attention_name = "attention"
    attention_needs = frozenset({"q_proj", "k_proj", "v_proj", "o_proj"})
    attention_may_have = frozenset[str]()
    norms: ClassVar[tuple[str, str]] = ("layernorm_before", "layernorm_after")
    after: ClassVar[tuple[tuple[str, ...], tuple[str, ...]]] = (("dropout",), ("dropout",))

    @property
    def scale(self) -> float:
        return float(self.attention.scaling)

    @property
    def dropout(self) -> float:
        return _dropout(self.attention.attention_dropout, self.attention.training)

    def heads(self, x: Tensor) -> Heads:
        attention = self.attention
        x = self.part(self.norms[0], x)
        q, k, v = (
            projection(x).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        return q, k, v

    def after_attention(self, y: Tensor) -> Tensor:
        return self._finish(0, self.attention.o_proj(y.transpose(1, 2).flatten(2)))

    def mlp(self, x: Tensor) -> Tensor:
        return self._finish(1, self.module.mlp(self.part(self.norms[1], x)))

    def _finish(self, branch: int, y: Tensor) -> Tensor:
        for name in self.after[branch]:
            y = self.part(name, y)
        return y


class Dinov2Block(TransformersBlock):
    """The transformers 5 DINOv2 block: layer scale and stochastic depth around the same attention."""

    needs = frozenset({"norm1", "attention", "layer_scale1", "norm2", "mlp", "layer_scale2"})
    may_have = frozenset({"drop_path"})
    norms = ("norm1", "norm2")
    after = (("layer_scale1", "drop_path"), ("layer_scale2", "drop_path"))


class ClipBlock(TransformersBlock):
    """``self_attn.q_proj`` to ``out_proj``: the layers of transformers' CLIP and SigLIP towers."""

    needs = frozenset({"layer_norm1", "self_attn", "layer_norm2", "mlp"})
    may_have = frozenset[str]()
    attention_name = "self_attn"
    attention_needs = frozenset({"q_proj", "k_proj", "v_proj", "out_proj"})
    norms = ("layer_norm1", "layer_norm2")
    after = ((), ())

    @property
    def scale(self) -> float:
        return float(self.attention.scale)

    @property
    def dropout(self) -> float:
        return _dropout(self.attention.dropout, self.attention.training)

    def run(self, x: Tensor) -> Any:
        return self.module(x, None)  # the attention mask has no default

    def after_attention(self, y: Tensor) -> Tensor:
        out: Tensor = self.attention.out_proj(y.transpose(1, 2).flatten(2))
        return out


_LAYOUTS: tuple[type[BlockView], ...] = (TimmBlock, TransformersBlock, Dinov2Block, ClipBlock)


def view_block(module: nn.Module) -> BlockView | None:
    """Look at a block through the layout that fits; None when none does.

    Raises:
        ValueError: the layout fits by its names, but the block has a part that it does not know or computes something
            else (measured: both run on two random samples), so that patching it would change the model.
    """
    layout = next((layout for layout in _LAYOUTS if layout.fits(module)), None)
    if layout is None:
        return None
    if is_patched(module):
        raise ValueError("patch_vit: model expected unpatched blocks; got blocks patched through another module")
    view = layout(module)
    unknown = view.unknown_parts()
    if unknown:
        raise ValueError(
            f"patch_vit: block expected only parts known of a pre-norm ViT block; "
            f"got {', '.join(unknown)} in {type(module).__name__}"
        )
    _check_same(view)
    return view


def _check_same(view: BlockView) -> None:
    weight = next(view.module.parameters())
    if weight.is_meta:
        return
    width = (view.attention.qkv if isinstance(view, TimmBlock) else view.attention.q_proj).in_features
    x = torch.randn(2, 5, width, generator=torch.Generator().manual_seed(0)).to(weight.device, weight.dtype)
    with torch.no_grad(), evaluating(view.module):
        expected = view.run(x)
        q, k, v = view.heads(x)
        y = x + view.after_attention(functional.scaled_dot_product_attention(q, k, v, scale=view.scale))
        y = y + view.mlp(y)
    same = isinstance(expected, Tensor) and expected.shape == y.shape
    # Two roundings of the same sums: some units in the last place, far below any other formula.
    if not same or not (y - expected).abs().max() <= 16 * torch.finfo(x.dtype).eps * expected.abs().max().clamp_min(1):
        raise ValueError(
            f"patch_vit: block expected x + attn(norm(x)), then x + mlp(norm(x)); "
            f"got {type(view.module).__name__}, which computes something else"
        )


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Switch a module to evaluation, and every part of it back to its own mode."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _parts(module: nn.Module) -> frozenset[str]:
    """Names of children and of parameters and buffers held directly."""
    names = [name for name, _ in module.named_children()]
    names += [name for name, _ in module.named_parameters(recurse=False)]
    names += [name for name, _ in module.named_buffers(recurse=False)]
    return frozenset(names)


def _dropout(p: float, training: bool) -> float:
    return float(p) if training else 0.0
