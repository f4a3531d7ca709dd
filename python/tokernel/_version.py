# SPDX-License-Identifier: Apache-2.0
"""The version of tokernel, in its only place."""

__version__ = "0.1.0"
