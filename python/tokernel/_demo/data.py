# SPDX-License-Identifier: Apache-2.0
"""The demo's input: the user's files, or ones that an installed package ships."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LONGEST_SIDE = 512
LONGEST_TEXT = 1 << 20
SHORTEST_LICENCE = 4096  # a text shorter than this is a notice, not prose
LICENCES = ("numpy", "pillow", "matplotlib")


class DemoError(ValueError):
    """Something the user can mend, said in one line."""


def load_picture(path: Path | None, patch: int) -> tuple[str, NDArray[np.float32]]:
    """Read a picture as (height, width, 3) float32 in [0, 1], shrunk to 512 and cut to whole patches."""
    from PIL import Image, UnidentifiedImageError

    source = path or _default_picture()
    try:
        with Image.open(source) as opened:
            opened.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
            pixels = np.asarray(opened.convert("RGB")).astype(np.float32) / np.float32(255)
    except FileNotFoundError:
        raise DemoError(f"--image: no such file: {source}") from None
    except UnidentifiedImageError:
        raise DemoError(f"--image: not a picture: {source}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DemoError(f"--image: cannot read {source}: {_one_line(error)}") from None
    rows, columns = pixels.shape[0] // patch, pixels.shape[1] // patch
    if rows * columns < 4:
        raise DemoError(f"--image: {source} is too small: at least 4 patches of {patch} x {patch} pixels are needed")
    return source.name, pixels[: rows * patch, : columns * patch]


def load_text(path: Path | None) -> tuple[str, bytes]:
    """Read a UTF-8 text, at most 1 MiB of it."""
    source = path or _default_text()
    try:
        content = source.read_bytes()
    except FileNotFoundError:
        raise DemoError(f"--text: no such file: {source}") from None
    except OSError as error:
        raise DemoError(f"--text: cannot read {source}: {error.strerror}") from None
    try:
        decoded = content.decode()
    except UnicodeDecodeError as error:
        raise DemoError(
            f"--text: {source} is not UTF-8 text: byte {error.start} is {content[error.start]:#04x}"
        ) from None
    if not decoded.strip():
        raise DemoError(f"--text: {source} holds no text")
    return source.name, decoded.encode()[:LONGEST_TEXT]


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _default_picture() -> Path:
    import matplotlib

    found = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    if not found.exists():
        raise DemoError("--image: this matplotlib ships no sample photograph, name a picture of your own")
    return found


def _default_text() -> Path:
    for name in LICENCES:
        try:
            files = metadata.files(name) or []
        except metadata.PackageNotFoundError:
            continue
        texts = [Path(str(f.locate())) for f in files if "LICENSE" in f.name.upper() and f.suffix in ("", ".txt")]
        long_enough = [t for t in texts if t.exists() and t.stat().st_size >= SHORTEST_LICENCE]
        if long_enough:
            return max(long_enough, key=lambda t: (t.stat().st_size, t.name))
    raise DemoError("--text: no installed package ships a long licence text, name a text of your own")
