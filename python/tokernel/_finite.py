# SPDX-License-Identifier: Apache-2.0
"""Inputs that are not finite: errors on request."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from tokernel import _C
from tokernel._backend import extension

__all__ = ["check_finite"]


def _set(enabled: bool) -> bool:
    simt = extension("simt")
    if simt is not None:
        simt.set_check_finite(enabled)
    return bool(_C.set_check_finite(enabled))


@contextlib.contextmanager
def check_finite(enabled: bool = True) -> Iterator[None]:
    """Raise ValueError where attention or k-means is given a NaN or an infinity, while the context is open.

    Without it such numbers have a stated meaning: they flow into the answers that depend on them, and no others. The
    check reads q, k and v, or rows and centroids, once more. It holds for the whole process, and only for arrays in
    host memory: on a device it would have to wait. ``TOKERNEL_CHECK_FINITE=1`` turns it on for good.

    Args:
        enabled: False turns the check off for a block.

    >>> import numpy as np
    >>> from tokernel.kernels.attention import attention
    >>> q = np.full((1, 1, 1, 2), np.nan, dtype=np.float32)
    >>> with check_finite():
    ...     attention(q, q, q)
    Traceback (most recent call last):
    ValueError: attention: q must be finite, got nan at flat position 0
    """
    before = _set(enabled)
    try:
        yield
    finally:
        _set(before)


def _apply_environment() -> None:
    text = os.environ.get("TOKERNEL_CHECK_FINITE", "").strip()
    if text not in ("", "0", "1"):
        raise ValueError(f"TOKERNEL_CHECK_FINITE: must be 0 or 1, got {text!r}")
    if text:
        _set(text == "1")


_apply_environment()
