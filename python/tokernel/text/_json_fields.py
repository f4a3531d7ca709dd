# SPDX-License-Identifier: Apache-2.0
"""Values of a JSON file that must have a type; FormatError names the place of one that has another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokernel.text._errors import FormatError


def an_object(value: Any, where: str) -> Mapping[str, Any]:
    """The value, which must be an object."""
    if not isinstance(value, Mapping):
        raise FormatError(f"{where}: expected an object, got {value!r}")
    return value


def a_list(value: Any, where: str) -> Sequence[Any]:
    """The value, which must be a list."""
    if not isinstance(value, list | tuple):
        raise FormatError(f"{where}: expected a list, got {value!r}")
    return value


def an_id(value: Any, where: str) -> int:
    """The value, which must be the id of a token, or a number of tokens."""
    if type(value) is not int or not 0 <= value < 2**31:
        raise FormatError(f"{where}: expected an integer in [0, 2**31), got {value!r}")
    return value
