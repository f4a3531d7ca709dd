# SPDX-License-Identifier: Apache-2.0
"""The head of FAR: the sub-tokens of one position, one after the other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tokernel.codecs._far import Cache, FarBlock, mlp_width, rope_table, run_blocks


class FactorizedARHead(nn.Module):
    """Predict the k sub-tokens of a position in turn, from the backbone's output there.

    A sequence of k steps, ``[h, E_1(i_1), ..., E_{k-1}(i_{k-1})]``, goes through causal blocks; step j scores sub-token
    j. The embeddings E are the caller's, shared with the backbone.

    Args:
        dim, heads, layers: of the blocks; dim / heads must be a multiple of 4.
        vocabs: how many codes each sub-codebook has.
        hidden: width of the MLPs; None: two thirds of 4 * dim, rounded up to a multiple of 256.
        eps: of the RMSNorms.

    Raises:
        ValueError: no vocabulary, an extent below 1, or a dim that does not fit.

    >>> import torch
    >>> head = FactorizedARHead(dim=16, heads=2, layers=1, vocabs=(5, 7))
    >>> embeddings = torch.nn.ModuleList([torch.nn.Embedding(5, 16)])
    >>> logits = head(torch.zeros(3, 16), [torch.tensor([0, 1, 2]), torch.tensor([3, 4, 5])], embeddings)
    >>> [tuple(each.shape) for each in logits]
    [(3, 5), (3, 7)]

    FQGAN (arXiv 2411.16681). Positions of the steps restart at 0 for every image position, and that of step 0 erases
    its query and key, as in the official code.
    """

    table: Tensor

    def __init__(
        self, dim: int, heads: int, layers: int, vocabs: Sequence[int], hidden: int | None = None, eps: float = 1e-5
    ) -> None:
        super().__init__()
        if min(dim, heads, layers) < 1 or dim % heads or (dim // heads) % 4:
            raise ValueError(
                "FactorizedARHead: dim must be a multiple of 4 * heads, and all at least 1, got "
                f"dim={dim}, heads={heads}, layers={layers}"
            )
        if not vocabs or min(vocabs) < 1:
            raise ValueError(f"FactorizedARHead: vocabs must name at least one vocabulary, got {tuple(vocabs)}")
        self.dim, self.vocabs = dim, tuple(vocabs)
        self.blocks = nn.ModuleList(FarBlock(dim, heads, hidden or mlp_width(dim), eps) for _ in range(layers))
        self.norm = nn.RMSNorm(dim, eps)
        outputs = [nn.Linear(dim, vocab, bias=False) for vocab in vocabs]
        for output in outputs:
            nn.init.zeros_(output.weight)
        self.outputs = nn.ModuleList(outputs)
        self.register_buffer("table", rope_table((1, len(vocabs)), dim // heads)[: len(vocabs)], persistent=False)

    def forward(self, h: Tensor, index: Sequence[Tensor], embeddings: nn.ModuleList) -> list[Tensor]:
        """Score all sub-tokens at once, those before each being given.

        Args:
            h: (N, dim).
            index: k tensors (N,) int64; the last is not read.
            embeddings: at least k - 1 modules, ids -> (N, dim).

        Returns:
            k tensors (N, vocab) of logits.

        Raises:
            ValueError: a shape that does not fit.
        """
        if h.ndim != 2 or h.shape[1] != self.dim:
            raise ValueError(f"FactorizedARHead: h must have shape (N, {self.dim}), got {tuple(h.shape)}")
        if len(index) != len(self.vocabs):
            raise ValueError(f"FactorizedARHead: index must hold {len(self.vocabs)} tensors, got {len(index)}")
        given = [embed(ids) for embed, ids in zip(embeddings, index[:-1], strict=False)]
        x, _ = run_blocks(list(self.blocks), torch.stack([h, *given], 1), self.table, [None] * len(self.blocks))
        x = self.norm(x)
        return [output(x[:, j]) for j, output in enumerate(self.outputs)]

    def step(self, x: Tensor, j: int, caches: list[Cache | None] | None = None) -> tuple[Tensor, list[Cache | None]]:
        """Score sub-token j, given what step j is fed: h for j = 0, the embedding of sub-token j - 1 after that.

        Args:
            x: (N, dim).
            j: which step.
            caches: what step j - 1 returned.

        Returns:
            logits (N, vocab), and the caches for step j + 1.
        """
        x, caches = run_blocks(
            list(self.blocks), x[:, None], self.table[j : j + 1], caches or [None] * len(self.blocks)
        )
        return self.outputs[j](self.norm(x[:, 0])), caches
