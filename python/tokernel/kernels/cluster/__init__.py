# SPDX-License-Identifier: Apache-2.0
"""Family cluster: k-means, and rows put in the order of their clusters."""

from tokernel.kernels.cluster._map import centroid_topp_map, map_density
from tokernel.kernels.cluster._order import inverse_permute_rows, permute_rows, sort_by_label

__all__ = [
    "centroid_topp_map",
    "inverse_permute_rows",
    "map_density",
    "permute_rows",
    "sort_by_label",
]
