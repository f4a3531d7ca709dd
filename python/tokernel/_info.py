# SPDX-License-Identifier: Apache-2.0
"""What this installation is and can do, for bug reports and scripts."""

from __future__ import annotations

import platform
import sys
from typing import Any

from tokernel import _C
from tokernel._backend import backends, cuda_problem, extension, get_num_threads
from tokernel._version import __version__


def info() -> dict[str, Any]:
    """Describe the installation.

    Returns:
        A JSON-ready dictionary: ``version``, ``python``, ``platform``, ``backends`` (``compiled`` and ``usable``),
        ``cpu_level`` (the level CPU arrays run on now), ``threads``, ``cuda`` (``devices`` and, when there is none,
        the ``problem``) and ``torch`` (its version if the process has loaded it, else None).

    >>> info()["version"] == __version__
    True
    """
    cuda = extension("cuda")
    devices = cuda.devices()[0] if cuda is not None else []
    torch = sys.modules.get("torch")
    return {
        "version": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "backends": backends(),
        "cpu_level": _C.current_level(),
        "threads": get_num_threads(),
        "cuda": {"devices": devices, "problem": cuda_problem()},
        "torch": str(torch.__version__) if torch is not None else None,
    }
