# SPDX-License-Identifier: Apache-2.0
"""Family cluster: k-means, and rows put in the order of their clusters."""

from tokernel.kernels.cluster._kmeans import KMeans, assign, cluster_means, cluster_sums, kmeans, update
from tokernel.kernels.cluster._map import centroid_topp_map, map_density
from tokernel.kernels.cluster._order import inverse_permute_rows, permute_rows, sort_by_label

__all__ = [
    "KMeans",
    "assign",
    "centroid_topp_map",
    "cluster_means",
    "cluster_sums",
    "inverse_permute_rows",
    "kmeans",
    "map_density",
    "permute_rows",
    "sort_by_label",
    "update",
]
