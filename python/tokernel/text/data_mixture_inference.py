# SPDX-License-Identifier: Apache-2.0
"""Data Mixture Inference: What do BPE Tokenizers Reveal about their Training Data? (Hayase et al., NeurIPS 2024).

arXiv 2407.16607. At every step a BPE trainer merged the pair that was the most frequent of its data. Given sample texts
of candidate categories (languages, code, domains), the mixture is found under which that order of merges is as nearly
true as can be: a linear program over the counts of all pairs, in every category, before every merge
(:class:`MixtureProblem`), whose constraints are generated only where they break. :func:`infer_mixture` does all of it
for an encoding.

Categories that are missing from the candidates are absorbed by similar ones without a word: add a catch-all. A
pre-tokenizer that differs from the tokenizer's own shows as slack in the pairs it forbids.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from tokernel.kernels import bpe
from tokernel.papers import paper
from tokernel.text._mixture_baselines import efficiency, fit_tee, tee, token_classification
from tokernel.text._mixture_lp import Floats, Ints
from tokernel.text._mixture_merges import trained_merges
from tokernel.text._mixture_pieces import category_of, ids_of_bytes, listed_merges, pieces_of
from tokernel.text._mixture_problem import TOLERANCE, MixtureProblem, MixtureResult

if TYPE_CHECKING:
    from tokernel.text.encoding import Encoding

__all__ = [
    "PAPER",
    "MixtureProblem",
    "MixtureResult",
    "efficiency",
    "fit_tee",
    "infer_from_merges",
    "infer_mixture",
    "log10_mse",
    "tee",
    "to_bytes",
    "token_classification",
    "trained_merges",
]

PAPER = paper("data_mixture_inference")


def to_bytes(alpha: Sequence[float] | Floats, bytes_per_pair: Sequence[float] | Floats) -> Floats:
    """Turn shares of pairs into shares of bytes: ``alpha * bytes_per_pair``, to sum 1.

    Scripts of three bytes a character have far more bytes a pair of their tokenizer's alphabet than others; leaving
    this out costs orders of magnitude of error.

    >>> to_bytes([0.5, 0.5], [1.0, 3.0])
    array([0.25, 0.75])
    """
    weight = np.asarray(alpha, np.float64) * np.asarray(bytes_per_pair, np.float64)
    out: Floats = weight / weight.sum()
    return out


def log10_mse(a: Sequence[float] | Floats, b: Sequence[float] | Floats) -> float:
    """log10 of the mean, over categories, of the squared difference of two mixtures: the paper's measure.

    >>> log10_mse([0.6, 0.4], [0.5, 0.5])
    -2.0
    """
    error = np.mean(np.square(np.asarray(a, np.float64) - np.asarray(b, np.float64)))
    with np.errstate(divide="ignore"):
        return float(np.log10(error))


def infer_from_merges(
    merges: NDArray[np.integer], samples: Mapping[str, bpe.CountedPieces], byte_ids: Ints | None = None,
    unit: Literal["bytes", "pairs"] = "bytes", first: int = 0, max_add: int = 1000, tol: float = TOLERANCE,
) -> dict[str, float]:  # fmt: skip
    """Infer the mixture that a list of merges was trained on.

    Args:
        merges: (T, 3) ids left, right, result in the order of training; :func:`trained_merges` makes it of real lists.
        samples: for every category the pieces of sample text (:func:`~tokernel.kernels.bpe.count_pieces`), cut as the
            tokenizer cuts. None of it need be training data; the more there is, the better.
        byte_ids: (256,) the id of every byte, -1 for none; None: its value.
        unit: what the shares are of.
        first: see :class:`MixtureProblem`.
        max_add, tol: see :meth:`MixtureProblem.solve`; larger steps than the paper's take fewer programs.

    Returns:
        the share of every category; they sum to 1.

    Raises:
        ValueError: no category, one without two bytes in a piece, or what MixtureProblem refuses.

    >>> from tokernel.kernels import bpe
    >>> pieces = {"x": bpe.count_pieces(["abab"]), "y": bpe.count_pieces(["cdcdcd"])}
    >>> infer_from_merges(np.array([[97, 98, 256]]), {"x": pieces["x"]})  # alone, it is everything
    {'x': 1.0}
    """
    if unit not in ("bytes", "pairs"):
        raise ValueError(f"infer_from_merges: unit must be 'bytes' or 'pairs', got {unit!r}")
    rows = np.asarray(merges, np.int64)
    categories = [category_of(pieces, rows, byte_ids) for pieces in samples.values()]
    for name, category in zip(samples, categories, strict=True):
        if not category.pairs:
            raise ValueError(f"infer_from_merges: samples[{name!r}] must hold a piece of two bytes at least")
    problem = MixtureProblem([each.history for each in categories], rows, first=first)
    alpha = problem.solve(max_add=max_add, tol=tol).alpha
    if unit == "bytes":
        alpha = to_bytes(alpha, [each.size / each.pairs for each in categories])
    return dict(zip(samples, alpha.tolist(), strict=True))


def infer_mixture(
    tokenizer: Encoding, texts: Mapping[str, Iterable[str]], merges: int | None = None, drop: int = 0, first: int = 0,
    unit: Literal["bytes", "pairs"] = "bytes", max_add: int = 1000, tol: float = TOLERANCE,
) -> dict[str, float]:  # fmt: skip
    """Infer the mixture that an encoding was trained on, from sample texts of the categories.

    Merges are those that :func:`trained_merges` finds in the vocabulary; texts are normalised and cut by the encoding's
    own front.

    Args:
        merges: use so many (the paper: the first 30,000); None: all.
        drop: so many at the start were inserted by hand (Gemma: 1,395).
        first: so many were inherited (Llama-3: those of the vocabulary of 100,000 tokens); they are replayed.
        unit, max_add, tol: as for :func:`infer_from_merges`.

    Raises:
        ValueError: as :func:`infer_from_merges`.

    >>> from tokernel.text import Encoding
    >>> ranks = {bytes([b]): b for b in range(256)} | {b"ab": 256, b"cd": 257}
    >>> encoding = Encoding("toy", pat_str="gpt2", mergeable_ranks=ranks, special_tokens={})
    >>> shares = infer_mixture(encoding, {"x": ["abab ababab"], "y": ["cdcd cdcdcd"]})
    >>> shares["x"] >= 0.5  # its pair came first
    True
    """
    rows = trained_merges(listed_merges(tokenizer.vocab), drop)[:merges]
    samples = {name: pieces_of(tokenizer, each) for name, each in texts.items()}
    return infer_from_merges(rows, samples, ids_of_bytes(tokenizer.vocab), unit, first, max_add, tol)
