# SPDX-License-Identifier: Apache-2.0
"""The papers of this package: what each is, where it lives, and what our version was checked against.

Each room of papers keeps its records in a torch-free ``_papers.py``, one record a paper, written once. Reading them
imports no framework, so that ``tokernel papers`` works with NumPy alone.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache
from typing import Literal

__all__ = ["Paper", "paper", "papers"]

_ROOMS = ("reduce", "diffusion", "decoding", "codecs", "text")


@dataclass(frozen=True)
class Paper:
    """One paper of the registry.

    Attributes:
        slug: our name for it.
        title: as printed on the paper.
        arxiv: arXiv identifier.
        venue: where it was published, or "arXiv".
        module: import path of our version.
        official_repo: ``owner/name`` on GitHub, or None when no code was released.
        licence: licence of the official code; we read the paper, never copy the code.
        verified_against: ``repo``: outputs of the official code; ``paper``: formulas and numbers of the paper;
            ``abstract``: only its claims; ``reconstruction``: steps the sources leave open are ours.
        status: ``complete``: everything the paper describes; ``partial``: ``notes`` says what is left out.
        notes: what a user should know before trusting it.
    """

    slug: str
    title: str
    arxiv: str
    venue: str
    module: str
    official_repo: str | None
    licence: str
    verified_against: Literal["repo", "paper", "abstract", "reconstruction"]
    status: Literal["complete", "partial"]
    notes: str


@cache
def _registry() -> dict[str, Paper]:
    rooms = (importlib.import_module(f"tokernel.{room}._papers") for room in _ROOMS)
    return {record.slug: record for room in rooms for record in room.PAPERS}


def papers() -> list[Paper]:
    """List every paper, room by room, in the order the room lists them.

    >>> [p.slug for p in papers()][0]
    'tome'
    """
    return list(_registry().values())


def paper(slug: str) -> Paper:
    """Find one paper by its slug; ValueError lists the known ones.

    >>> paper("tome").arxiv
    '2210.09461'
    """
    known = _registry()
    if slug not in known:
        raise ValueError(f"paper: slug expected one of {', '.join(known)}; got {slug!r}")
    return known[slug]
