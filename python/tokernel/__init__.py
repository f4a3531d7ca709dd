# SPDX-License-Identifier: Apache-2.0
"""Token kernels for NumPy, torch, JAX and CuPy: merge, prune, attend, draft, quantize and tokenize.

Three floors, each built on the one below:

- :mod:`tokernel.kernels`: low-level functions over any DLPack array (needs NumPy only);
- :mod:`tokernel.ops`: the same names as differentiable, compilable torch ops;
- :mod:`tokernel.reduce` and its sister rooms: one module per paper.

>>> import numpy as np
>>> from tokernel.kernels import merge
>>> x = np.arange(6, dtype=np.float32).reshape(1, 3, 2)
>>> merge.gather_rows(x, np.array([[2, 0]]))
array([[[4., 5.],
        [0., 1.]]], dtype=float32)
"""

import importlib
from types import ModuleType

from tokernel._backend import backends, get_num_threads, last_backend, set_num_threads, use_backend
from tokernel._finite import check_finite
from tokernel._info import info
from tokernel._version import __version__

__all__ = [
    "__version__",
    "backends",
    "check_finite",
    "get_num_threads",
    "info",
    "last_backend",
    "set_num_threads",
    "use_backend",
]

# Imported on first use, so that `import tokernel` stays fast and never imports torch.
_ROOMS = frozenset({"diffusion", "integrations", "kernels", "ops", "papers", "reduce"})


def __getattr__(name: str) -> ModuleType:
    if name in _ROOMS:
        return importlib.import_module(f"tokernel.{name}")
    raise AttributeError(f"module 'tokernel' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | _ROOMS)
