# SPDX-License-Identifier: Apache-2.0
"""Records of the papers in this room."""

from tokernel.papers import Paper

PAPERS: tuple[Paper, ...] = ()
