# SPDX-License-Identifier: Apache-2.0
"""The cost model of a decoder by which DivPrune reports its ratios."""

from __future__ import annotations

from tokernel.reduce._visual_span import check_ratio

__all__ = ["llm_flops", "pruned_flops_ratio"]


def llm_flops(n: int, d: int = 4096, m: int = 11008, layers: int = 32) -> int:
    """Count the operations of one prefill: ``layers * (4 n d^2 + 2 n^2 d + 2 n d m)``, the published formula.

    It counts the MLP as two matrices although LLaMA has three, and a multiply-add as one: use it to reproduce
    published ratios, not to predict time.

    Args:
        n: tokens, text and visual. d: width. m: width of the MLP. layers: number of layers. LLaMA-7B by default;
            13B is d=5120, m=13824, layers=40.

    >>> f"{llm_flops(576 + 45) / 1e12:.4f}"
    '3.2267'
    """
    if min(n, d, m, layers) < 0:
        raise ValueError(f"llm_flops: extents must be at least 0, got n={n}, d={d}, m={m}, layers={layers}")
    return layers * (4 * n * d * d + 2 * n * n * d + 2 * n * d * m)


def pruned_flops_ratio(
    layer: int, r: float, n_text: int, n_visual: int, d: int = 4096, m: int = 11008, layers: int = 32
) -> float:
    """Say what share of the operations is left when ``round((1 - r) n_visual)`` visual tokens go after `layer` layers.

    Args:
        layer: in [0, layers]; 0 prunes before the language model.
        r: share of the visual tokens that is kept, in [0, 1].
        n_text, n_visual: tokens of either kind. d, m, layers: as in :func:`llm_flops`.

    Returns:
        A share in [0, 1]; 1 for no tokens at all.

    >>> f"{pruned_flops_ratio(0, 0.098, n_text=45, n_visual=576):.4f}"
    '0.1584'
    """
    if not 0 <= layer <= layers:
        raise ValueError(f"pruned_flops_ratio: layer must be in [0, {layers}], got {layer}")
    if min(n_text, n_visual) < 0:
        raise ValueError(f"pruned_flops_ratio: tokens must be at least 0, got {n_text} and {n_visual}")
    check_ratio("pruned_flops_ratio", "r", r)
    full = n_text + n_visual
    short = full - round((1 - r) * n_visual)
    total = llm_flops(full, d, m, layers)
    return (llm_flops(full, d, m, layer) + llm_flops(short, d, m, layers - layer)) / total if total else 1.0
