# SPDX-License-Identifier: Apache-2.0
"""Semantic tokens: every frame's nearest centroid, one codebook for each layer of a frozen model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tokernel import ops
from tokernel.codecs._filter import draw


class KMeansTokenizer(nn.Module):
    """Tokens of frames as the nearest of K centroids, for each of L layers of features.

    Args:
        layers: L.
        dim: width of a frame's features.
        codebook_size: K; 500 to 2000 in the survey.

    Attributes:
        centroids: (L, K, D) float32, zeros until :meth:`fit`.

    Raises:
        ValueError: an extent below 1.

    >>> import torch
    >>> tokenizer = KMeansTokenizer(layers=2, dim=4, codebook_size=8)
    >>> features = torch.randn(2, 50, 4, generator=torch.Generator().manual_seed(0))
    >>> inertia = tokenizer.fit(features, generator=torch.Generator().manual_seed(0))
    >>> tokenizer.encode(features).shape, inertia.shape
    (torch.Size([2, 50]), torch.Size([2]))

    Discrete Audio Tokens (arXiv 2506.10274).
    """

    centroids: Tensor

    def __init__(self, layers: int, dim: int, codebook_size: int) -> None:
        super().__init__()
        if min(layers, dim, codebook_size) < 1:
            raise ValueError(
                "KMeansTokenizer: layers, dim and codebook_size must be at least 1, got "
                f"{layers}, {dim} and {codebook_size}"
            )
        self.register_buffer("centroids", torch.zeros(layers, codebook_size, dim))

    def fit(
        self, features: Tensor, iterations: int = 20, init: str = "++", generator: torch.Generator | None = None
    ) -> Tensor:
        """Fit the centroids to frames by Lloyd's algorithm.

        Args:
            features: (L, N, D), at least K frames.
            iterations: at most so many.
            init: "++" or "random".
            generator: of the frames that it starts from.

        Returns:
            (L,) float32: the sum of squared distances to the nearest centroid.

        Raises:
            ValueError: a shape that does not fit.
        """
        self._check(features)
        found = ops.kmeans(features.float(), self.centroids.shape[1], iterations, init=init, generator=generator)
        self.centroids.copy_(found.centroids)
        inertia: Tensor = ops.nearest(features.float(), self.centroids).best.sum(-1)
        return inertia

    def encode(self, features: Tensor) -> Tensor:
        """Find the tokens (L, N) int64 of frames (L, N, D).

        Raises:
            ValueError: a shape that does not fit.
        """
        self._check(features)
        tokens: Tensor = ops.nearest(features.float(), self.centroids).index
        return tokens

    def decode(self, tokens: Tensor) -> Tensor:
        """Look the centroids (L, N, D) of tokens (L, N) up."""
        rows: Tensor = ops.lookup(self.centroids, tokens)
        return rows

    def forward(self, features: Tensor) -> Tensor:
        """The same as :meth:`encode`."""
        return self.encode(features)

    def _check(self, features: Tensor) -> None:
        layers, _, dim = self.centroids.shape
        if features.ndim != 3 or features.shape[0] != layers or features.shape[2] != dim:
            raise ValueError(
                f"KMeansTokenizer: features must have shape ({layers}, N, {dim}), got {tuple(features.shape)}"
            )


@torch.no_grad()
def perturb_tokens(
    tokens: Tensor, codes: Tensor, probability: float, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """Replace tokens at random by others that are near: a tool of the benchmark.

    With the given probability a token i becomes a draw from ``softmax(-|e_i - e_j| / temperature)`` over the j other
    than i, after top-k and top-p.

    Args:
        tokens: (...) int64 in [0, K).
        codes: (K, D), K at least 2.
        probability: of a replacement.
        temperature: larger: further away.
        top_k, top_p: keep so many of the nearest (0: all), then the smallest set of this mass.
        generator: of the draws.

    Returns:
        tokens of the same shape.

    Raises:
        ValueError: fewer than 2 codes, a probability outside [0, 1], or a temperature that is not positive.

    >>> import torch
    >>> codes = torch.tensor([[0.0], [1.0], [9.0]])
    >>> perturb_tokens(torch.tensor([0, 1, 2]), codes, 1.0, top_k=1)
    tensor([1, 0, 1])

    Discrete Audio Tokens (arXiv 2506.10274).
    """
    if len(codes) < 2:
        raise ValueError(f"perturb_tokens: codes must hold at least 2, got {len(codes)}")
    if not 0 <= probability <= 1 or not temperature > 0:
        raise ValueError(
            "perturb_tokens: probability must be in [0, 1] and temperature positive, got "
            f"{probability} and {temperature}"
        )
    flat = tokens.flatten()
    chosen = torch.rand(flat.shape, generator=generator, device=flat.device) < probability
    old = flat[chosen]
    rows = ops.lookup(codes, old)
    distance = torch.cdist(rows.float(), codes.float())
    distance.scatter_(1, old[:, None], torch.inf)
    return flat.masked_scatter(chosen, draw(-distance / temperature, 1.0, top_k, top_p, generator)).reshape(
        tokens.shape
    )
