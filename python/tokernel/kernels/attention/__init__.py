# SPDX-License-Identifier: Apache-2.0
"""Family attention: one core, many mask policies."""

__all__: list[str] = []
