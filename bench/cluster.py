# SPDX-License-Identifier: Apache-2.0
"""Cases of the cluster family."""

from __future__ import annotations

from bench import cluster_kmeans, cluster_order
from bench.core import Case


def cases() -> list[Case]:
    """Every case of the family, in the order of the table."""
    return [*cluster_kmeans.cases(), *cluster_order.cases()]
