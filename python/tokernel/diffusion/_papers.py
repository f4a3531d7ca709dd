# SPDX-License-Identifier: Apache-2.0
"""The papers of this room."""

from __future__ import annotations

from tokernel.papers import Paper

PAPERS: tuple[Paper, ...] = ()
