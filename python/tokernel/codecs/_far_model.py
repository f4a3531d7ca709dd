# SPDX-License-Identifier: Apache-2.0
"""FAR: a class-conditional model of images whose positions hold several sub-tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tokernel.codecs._far import Cache, FarBlock, mlp_width, rope_table, run_blocks
from tokernel.codecs._far_head import FactorizedARHead
from tokernel.codecs._filter import draw


class FactorizedAR(nn.Module):
    """Predict an image position by position, and the k sub-tokens of a position one by one.

    The backbone reads the class token and the positions before; a position goes in as one linear map of its k
    embeddings side by side. :class:`FactorizedARHead` turns the backbone's output into sub-tokens.

    Args:
        classes: labels 0 to classes - 1; one more, `classes`, stands for "no label" (guidance).
        grid: (h, w) positions, in raster order.
        dim, heads, layers, head_layers: FAR-B is 1024, 16, 24, 3; FAR-L 1280, 20, 36, 4.
        vocabs: how many codes each sub-codebook has.
        hidden: width of all MLPs; None: two thirds of 4 * dim, rounded up to a multiple of 256.

    Raises:
        ValueError: an extent below 1 or a dim that does not fit.

    >>> import torch
    >>> model = FactorizedAR(classes=3, grid=(2, 2), dim=16, heads=2, layers=1, head_layers=1, vocabs=(5, 7))
    >>> tokens = model.generate(torch.tensor([0, 2]), generator=torch.Generator().manual_seed(0))
    >>> [tuple(each.shape) for each in tokens]
    [(2, 4), (2, 4)]

    FQGAN (arXiv 2411.16681).
    """

    table: Tensor

    def __init__(
        self, classes: int, grid: tuple[int, int], dim: int, heads: int, layers: int, head_layers: int,
        vocabs: Sequence[int], hidden: int | None = None, eps: float = 1e-5,
    ) -> None:  # fmt: skip
        super().__init__()
        if min(classes, layers, *grid) < 1:
            raise ValueError(
                f"FactorizedAR: extents must be at least 1, got classes={classes}, grid={grid}, layers={layers}"
            )
        self.head = FactorizedARHead(dim, heads, head_layers, vocabs, hidden, eps)
        self.classes, self.positions = classes, math.prod(grid)
        self.label_embedding = nn.Embedding(classes + 1, dim)
        self.token_embeddings = nn.ModuleList(nn.Embedding(vocab, dim) for vocab in vocabs)
        self.aggregation = nn.Linear(len(vocabs) * dim, dim)
        self.blocks = nn.ModuleList(FarBlock(dim, heads, hidden or mlp_width(dim), eps) for _ in range(layers))
        self.register_buffer("table", rope_table(grid, dim // heads), persistent=False)
        for embedding in (self.label_embedding, *self.token_embeddings):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, labels: Tensor, index: Sequence[Tensor]) -> list[Tensor]:
        """Score every sub-token of every position, all before it being given.

        Args:
            labels: (B,) int64.
            index: k tensors (B, h*w) int64.

        Returns:
            k tensors (B, h*w, vocab) of logits. The loss is the mean of their k cross-entropies.

        Raises:
            ValueError: a shape that does not fit.
        """
        expected = (len(labels), self.positions)
        if len(index) != len(self.head.vocabs) or any(tuple(ids.shape) != expected for ids in index):
            shapes = [tuple(ids.shape) for ids in index]
            raise ValueError(f"FactorizedAR: index must be {len(self.head.vocabs)} of shape {expected}, got {shapes}")
        x = torch.cat([self.label_embedding(labels)[:, None], self._positions([ids[:, :-1] for ids in index])], 1)
        x, _ = run_blocks(list(self.blocks), x, self.table[: self.positions], [None] * len(self.blocks))
        logits = self.head(x.flatten(0, 1), [ids.flatten() for ids in index], self.token_embeddings)
        return [each.unflatten(0, expected) for each in logits]

    @torch.no_grad()
    def generate(
        self, labels: Tensor, cfg_scale: float = 1.0, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> list[Tensor]:  # fmt: skip
        """Draw images of the given labels, sub-token by sub-token.

        Args:
            labels: (B,) int64.
            cfg_scale: logits are ``u + cfg_scale * (c - u)``, u those without label; 1: no second model run.
            temperature, top_k, top_p: of every sub-token; temperature 0 takes the likeliest, top_k 0 keeps all.
            generator: of the draws.

        Returns:
            k tensors (B, h*w) int64.
        """
        rows = torch.cat([labels, torch.full_like(labels, self.classes)]) if cfg_scale != 1 else labels
        x = self.label_embedding(rows)
        caches: list[Cache | None] = [None] * len(self.blocks)
        drawn: list[list[Tensor]] = []
        for position in range(self.positions):
            hidden, caches = run_blocks(list(self.blocks), x[:, None], self.table[position : position + 1], caches)
            drawn.append(
                self._draw_position(hidden[:, 0], len(labels), cfg_scale, temperature, top_k, top_p, generator)
            )
            x = self._positions([self._twice(ids, len(rows))[:, None] for ids in drawn[-1]])[:, 0]
        return [torch.stack(ids, 1) for ids in zip(*drawn, strict=True)]

    def _draw_position(
        self, hidden: Tensor, batch: int, cfg_scale: float, temperature: float, top_k: int, top_p: float,
        generator: torch.Generator | None,
    ) -> list[Tensor]:  # fmt: skip
        x, caches, ids = hidden, None, []
        for j in range(len(self.head.vocabs)):
            step: tuple[Tensor, list[Cache | None]] = self.head.step(x, j, caches)
            logits, caches = step
            if cfg_scale != 1:
                given, bare = logits.float().split(batch)
                logits = bare + cfg_scale * (given - bare)
            ids.append(draw(logits, temperature, top_k, top_p, generator))
            x = self.token_embeddings[j](self._twice(ids[-1], len(hidden)))
        return ids

    def _positions(self, index: Sequence[Tensor]) -> Tensor:
        parts = [embed(ids) for embed, ids in zip(self.token_embeddings, index, strict=True)]
        out: Tensor = self.aggregation(torch.cat(parts, -1))
        return out

    @staticmethod
    def _twice(ids: Tensor, rows: int) -> Tensor:
        return ids.repeat(rows // len(ids)) if len(ids) else ids
