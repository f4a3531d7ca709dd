# SPDX-License-Identifier: Apache-2.0
"""Benchmarks of tokernel, one module per kernel family: ``python -m bench --help``. Not part of the wheel."""
