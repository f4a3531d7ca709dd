# SPDX-License-Identifier: Apache-2.0
"""Write a file whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

PathLike = str | os.PathLike[str]


def write(path: PathLike, data: bytes) -> None:
    """Put the data under the path; if anything fails, what was there before is still whole."""
    write_all({path: data})


def write_all(files: dict[PathLike, bytes]) -> None:
    """`write` for files that belong together: none is replaced before all are on disk."""
    temporary: list[tuple[Path, Path]] = []
    try:
        for path, data in files.items():
            target = Path(path)
            beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
            temporary.append((beside, target))
            with open(beside, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for beside, target in temporary:
            os.replace(beside, target)
    finally:
        for beside, _ in temporary:
            beside.unlink(missing_ok=True)
