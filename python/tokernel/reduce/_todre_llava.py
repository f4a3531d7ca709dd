# SPDX-License-Identifier: Apache-2.0
"""ToDRE in a live LLaVA: diverse tokens go into the decoder, and leave it where text has stopped to look at them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from tokernel.integrations._towers import Tower
from tokernel.integrations.attention import padding_bias
from tokernel.integrations.llava import Llava, LlavaPatch, Positions, Run
from tokernel.ops import attention, attention_rows, rope_gather
from tokernel.reduce._modal_shares import cross_modal_ratios

if TYPE_CHECKING:
    from tokernel.reduce.todre import ToDRE

__all__ = ["ToDREPatch", "install", "text_and_system"]

Text = Literal["after", "all"]


class ToDREPatch(LlavaPatch):
    """Handle of a LLaVA pruned by ToDRE; made by :func:`tokernel.reduce.todre.patch_llava`.

    Attributes:
        policy: the settings of both stages; may be set at any time, the probed layer apart.
        probe: the decoder layer, counted from 0, whose attention stage 2 looks at.
        text: which text counts as T.
        ratios: (alpha_tv, alpha_vt), each (B), of the last pass that had images and reached the probed layer.
    """

    def __init__(
        self,
        model: nn.Module,
        policy: ToDRE,
        probe: int | None,
        text: Text,
        positions: Positions,
        generator: torch.Generator | None,
    ) -> None:
        probe = policy.probe_layer(len(Llava(model).layers)) if probe is None else probe
        super().__init__(model, positions, (probe,))
        if text not in ("after", "all"):
            raise ValueError(f"patch_llava: text must be 'after' or 'all', got {text!r}")
        self.policy, self.text, self.generator = policy, text, generator
        self.probe = self.inside[0]
        self.ratios: tuple[Tensor, Tensor] | None = None
        self._tower = Tower(self.llava.tower, "patch_llava")

    def watch(self) -> None:
        pivot, probed = self._tower.layers[-1].self_attn, self.llava.layers[self.probe].self_attn
        for part in "qk":
            self.record(getattr(pivot, f"{part}_proj"), f"tower {part}")
            # Some decoders norm their heads between projection and rotation.
            self.record(getattr(probed, f"{part}_norm", getattr(probed, f"{part}_proj")), f"decoder {part}")

    def choose(self, features: Tensor) -> Tensor:
        attended = self._class_row() if self._tower.class_token else None
        if attended is not None and attended.shape != features.shape[:2]:
            raise ValueError(
                f"patch_llava: images must have one token a patch, {tuple(attended.shape)}, got "
                f"{tuple(features.shape[:2])}"
            )
        return self.policy.select(features, attended, generator=self.generator)

    def _class_row(self) -> Tensor:
        """(I, N): how much the class token attends to every patch in the tower's last layer, mean over heads."""
        q, k = (self._tower.heads(-1, self.recorded[f"tower {part}"].detach()) for part in "qk")
        scale = self._tower.scale(-1)
        _, lse = attention(q[:, :, :1], k, k, scale=scale, return_lse=True)
        first = torch.zeros(1, dtype=torch.int64, device=q.device)
        rows: Tensor = attention_rows(q[:, :, :1], k, first, lse, scale=scale)
        return rows[:, :, 0, 1:].mean(1)

    def choose_inside(self, layer: int, hidden: Tensor, run: Run) -> Tensor | None:
        assert run.visual is not None
        text, system = text_and_system(run.visual, run.live, self.text)
        q, k = self._turned(run.rotation)
        self.ratios = cross_modal_ratios(
            (q, k, True),
            system,
            run.visual,
            text,
            scale=self.llava.layers[layer].self_attn.scaling,
            key_bias=padding_bias(run.live),
        )
        return self.policy.keep_mask(run.visual, *self.ratios)

    def _turned(self, rotation: tuple[Tensor, Tensor]) -> list[Tensor]:
        """Queries and keys of the probed layer at their positions, (B, H, L, D)."""
        width = self.llava.layers[self.probe].self_attn.head_dim
        turned = []
        for part in "qk":
            x = self.recorded[f"decoder {part}"].detach()
            x = x.reshape(*x.shape[:2], -1, width).transpose(1, 2)
            cos, sin = (angle.float().expand(len(x), -1, -1).contiguous() for angle in rotation)
            turned.append(rope_gather(x, torch.arange(x.shape[2], device=x.device), cos, sin))
        return turned

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"ratios": None}


def text_and_system(visual: Tensor, live: Tensor | None, text: Text) -> tuple[Tensor, Tensor]:
    """The masks (B, L) of T and S: text after the first visual token is T, or all text is; what is left of it is S."""
    words = ~visual if live is None else ~visual & live
    after = visual.cumsum(1) > 0
    return (words, torch.zeros_like(words)) if text == "all" else (words & after, words & ~after)


def install(*args: Any) -> ToDREPatch:
    """Make a handle and put it on its model."""
    patch = ToDREPatch(*args)
    patch.install()
    return patch
