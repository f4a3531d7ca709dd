# SPDX-License-Identifier: Apache-2.0
"""Family cluster: k-means, and rows put in the order of their clusters."""

__all__: list[str] = []
