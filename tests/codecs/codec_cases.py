# SPDX-License-Identifier: Apache-2.0
"""One small quantizer of every kind, and the golden vectors as tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from tokernel import codecs

DIM = 8
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}  # of the golden vectors, as their README states it
GRADIENT = {"rtol": 2e-5, "atol": 2e-5}


def vectors(golden: Path, name: str) -> dict[str, Any]:
    with np.load(golden / "quantizers" / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) if file[key].ndim else file[key].item() for key in file.files}


def with_gradient(x: torch.Tensor) -> torch.Tensor:
    return x.clone().requires_grad_()


# Quantizers of DIM channels.
KINDS = {
    "vq": lambda **o: codecs.VectorQuantizer(DIM, 16, **o),
    "vq_cosine_rotation": lambda **o: codecs.VectorQuantizer(DIM, 16, metric="cosine", gradient="rotation", **o),
    "vq_stored": lambda **o: codecs.VectorQuantizer(DIM, 16, metric="cosine", unit=False, mode="grad", **o),
    "vq_dot_entropy": lambda **o: codecs.VectorQuantizer(DIM, 16, metric="dot", mode="grad", entropy_weight=0.1, **o),
    "vq_heads": lambda **o: codecs.VectorQuantizer(DIM, 16, heads=2, **o),
    "vq_revive": lambda **o: codecs.VectorQuantizer(
        DIM, 16, 3, heads=2, separate_heads=True, threshold=2.0, kmeans_init=True, entropy_weight=0.1, **o
    ),
    "vq_frozen": lambda **o: codecs.VectorQuantizer(DIM, 16, mode="frozen", **o),
    "simvq": lambda **o: codecs.SimVQ(DIM, 16, **o),
    "rvq": lambda **o: codecs.ResidualVQ(DIM, 16, 3, **o),
    "rvq_revive": lambda **o: codecs.ResidualVQ(
        DIM, 16, 3, threshold=2.0, kmeans_init=True, quantizer_dropout=True, gradient="rotation", **o
    ),
    "rvq_shared_cosine": lambda **o: codecs.ResidualVQ(DIM, 16, 3, 4, shared_codebook=True, metric="cosine", **o),
    "rvq_grad": lambda **o: codecs.ResidualVQ(DIM, 16, 3, mode="grad", gradient="once", **o),
    "grvq": lambda **o: codecs.GroupedResidualVQ(DIM, 16, 3, groups=2, **o),
    "fsq": lambda **o: codecs.FSQ([8, 5, 5, 3, 3, 3, 4, 7], **o),
    "fsq_symmetric": lambda **o: codecs.FSQ([4, 2, 3], symmetric=True, dim=DIM, **o),
    "lfq": lambda **o: codecs.LFQ(DIM, commitment_weight=0.25, **o),
    "lfq_groups": lambda **o: codecs.LFQ(4, 2, bit_order="lsb", entropy={"mode": "pooled", "log_add": 1e-5}, **o),
    "lfq_spherical": lambda **o: codecs.LFQ(4, 2, spherical=True, entropy={"sample": "codes"}, **o),
    "bsq": lambda **o: codecs.BSQ(DIM, 4, **o),
    "bsq_bits": lambda **o: codecs.BSQ(DIM, mode="bits", **o),
    "bsq_wide": lambda **o: codecs.BSQ(72, 8, dim=DIM, **o),
    "pq": lambda **o: codecs.ProductQuantizer(DIM, 4, 16, **o),
}
# Nothing of them is learnt from data by moving averages or k-means.
STATELESS = ("vq_frozen", "fsq", "fsq_symmetric", "lfq", "lfq_groups", "lfq_spherical", "bsq", "bsq_bits", "pq")


def make(kind: str, **options: Any) -> torch.nn.Module:
    torch.manual_seed(3)
    return KINDS[kind](**options)


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}
