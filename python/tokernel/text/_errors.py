# SPDX-License-Identifier: Apache-2.0
"""Errors of this room that other libraries raise under two names."""

from __future__ import annotations


class UnknownTokenError(ValueError, KeyError):
    """A token, or an id, that the vocabulary does not hold. tiktoken raises KeyError here, the rest of tokernel
    ValueError: this is both."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class FormatError(ValueError):
    """A file, or a field of it, that is not what its format says; the message names the line or the field."""
