# SPDX-License-Identifier: Apache-2.0
"""``tokernel demo``: each kernel family shows on real input what it does. NumPy only, no torch."""

from tokernel._demo.run import DemoError, run

__all__ = ["DemoError", "run"]
