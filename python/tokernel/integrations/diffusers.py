# SPDX-License-Identifier: Apache-2.0
"""Wrap the parts of diffusers' ``BasicTransformerBlock`` in a live UNet or transformer.

The block's own forward runs, whatever its norm, gates and adapters are; only its attention and feed-forward modules see
other tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from tokernel.integrations._patch import Original, Patch, unpatch

__all__ = ["BlockPatch", "denoiser_of"]


def denoiser_of(model: Any, caller: str = "patch_diffusion") -> nn.Module:
    """Find the denoising network: the model itself, or the ``unet`` or ``transformer`` of a pipeline."""
    for candidate in (model, getattr(model, "unet", None), getattr(model, "transformer", None)):
        if isinstance(candidate, nn.Module) and blocks_of(candidate):
            return candidate
    raise ValueError(
        f"{caller}: model expected a diffusers pipeline, or a network with BasicTransformerBlock inside; "
        f"got {type(model).__name__}"
    )


def blocks_of(model: nn.Module) -> list[Any]:
    """The transformer blocks of a denoiser, in the order of its modules."""
    return [
        module
        for module in model.modules()
        if "BasicTransformerBlock" in (base.__name__ for base in type(module).__mro__)
    ]


class BlockPatch(Patch, ABC):
    """A patched denoiser: knows the latent's size at every step, and runs :meth:`plan` before each block.

    Attributes:
        parts: which modules of a block run on other tokens.
        grid: (height, width) of the latent of the running step.
    """

    def __init__(self, model: nn.Module, parts: tuple[str, ...]) -> None:
        super().__init__(model)
        self.parts = parts
        self.grid: tuple[int, int] | None = None
        self.plans: dict[int, Any] = {}

    def install(self) -> None:
        """Wrap the denoiser's forward, its blocks and their parts; an earlier patch is undone first."""
        unpatch(self.model)
        self.replace(self.model, "forward", _run_model, self)
        for index, block in enumerate(blocks_of(self.model)):
            self.replace(block, "forward", _run_block, self, index)
            for name in self.parts:
                if getattr(block, name, None) is not None:
                    self.replace(getattr(block, name), "forward", _run_part, self, index)
        self.attach()

    @abstractmethod
    def begin(self) -> None:
        """A forward pass of the denoiser begins; :attr:`grid` is set."""

    @abstractmethod
    def plan(self, index: int, x: Tensor) -> Any:
        """Decide on the tokens x (B, N, C) that enter block ``index``; None leaves the block alone."""

    @abstractmethod
    def around(self, plan: Any, run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Run one part on other tokens than x and give back as many as x has."""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"plans": {}, "grid": None}


def _run_model(patch: BlockPatch, original: Original, *args: Any, **kwargs: Any) -> Any:
    latent = args[0] if args else kwargs.get("sample", kwargs.get("hidden_states"))
    patch.grid = (latent.shape[2], latent.shape[3]) if isinstance(latent, Tensor) and latent.dim() == 4 else None
    patch.begin()
    return original(*args, **kwargs)


def _run_block(patch: BlockPatch, index: int, original: Original, *args: Any, **kwargs: Any) -> Any:
    patch.plans[index] = patch.plan(index, args[0] if args else kwargs["hidden_states"])
    try:
        return original(*args, **kwargs)
    finally:
        patch.plans.pop(index)


def _run_part(patch: BlockPatch, index: int, original: Original, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    plan = patch.plans.get(index)
    if plan is None:
        return original(x, *args, **kwargs)
    if kwargs.get("encoder_hidden_states") is None and kwargs.get("attention_mask") is not None:
        raise ValueError(f"{type(patch).__name__}: self-attention mask expected None, tokens are merged; got a mask")
    return patch.around(plan, lambda tokens: original(tokens, *args, **kwargs), x)
