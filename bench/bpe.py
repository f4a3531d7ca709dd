# SPDX-License-Identifier: Apache-2.0
"""Cases of the bpe family."""

from __future__ import annotations

from bench import bpe_count, bpe_encode, bpe_lattice, bpe_split, bpe_train
from bench.core import Case


def cases() -> list[Case]:
    """Every case of the family, in the order of the table."""
    families = (bpe_count, bpe_encode, bpe_lattice, bpe_split, bpe_train)
    return [case for family in families for case in family.cases()]
