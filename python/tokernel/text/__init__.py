# SPDX-License-Identifier: Apache-2.0
"""Text: encodings, trainers and the papers that live on them. Needs NumPy alone; papers on models need torch."""

__all__: list[str] = []
