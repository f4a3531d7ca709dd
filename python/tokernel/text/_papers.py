# SPDX-License-Identifier: Apache-2.0
"""Records of the papers of this room, in the order of its README."""

from __future__ import annotations

from tokernel.papers import Paper

PAPERS: tuple[Paper, ...] = ()
