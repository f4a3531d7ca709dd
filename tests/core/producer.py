# SPDX-License-Identifier: Apache-2.0
"""A DLPack producer made by hand, which can lie, be old, or say anything the protocol allows."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char_p, c_int32, c_int64, c_uint8, c_uint16, c_uint32, c_uint64, c_void_p

import numpy as np

CPU, CUDA, ROCM = 1, 2, 10
CODES = {"i": 0, "u": 1, "f": 2, "c": 5, "b": 6}
READ_ONLY = 1


class Device(ctypes.Structure):
    _fields_ = [("type", c_int32), ("id", c_int32)]


class DataType(ctypes.Structure):
    _fields_ = [("code", c_uint8), ("bits", c_uint8), ("lanes", c_uint16)]


class Tensor(ctypes.Structure):
    _fields_ = [
        ("data", c_void_p),
        ("device", Device),
        ("ndim", c_int32),
        ("dtype", DataType),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("byte_offset", c_uint64),
    ]


class Legacy(ctypes.Structure):
    _fields_ = [("tensor", Tensor), ("context", c_void_p), ("deleter", c_void_p)]


class Versioned(ctypes.Structure):
    _fields_ = [
        ("major", c_uint32),
        ("minor", c_uint32),
        ("context", c_void_p),
        ("deleter", c_void_p),
        ("flags", c_uint64),
        ("tensor", Tensor),
    ]


_DELETER = ctypes.CFUNCTYPE(None, c_void_p)
_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = [c_void_p, c_char_p, c_void_p]
_capsule_name = ctypes.pythonapi.PyCapsule_GetName
_capsule_name.restype = c_char_p
_capsule_name.argtypes = [ctypes.py_object]


class Producer:
    """Exports a NumPy array by a capsule written by hand, and counts what the consumer does with it.

    ``deleted`` counts calls of the deleter; ``names()`` gives the names the handed out capsules have now.
    """

    legacy = False

    def __init__(self, array, *, shape=None, strides=None, dtype=None, device=(CPU, 0), flags=0, major=1, **settings):
        self.array = array
        self.device = device
        self.deleted = 0
        self.asked = []
        self.capsules = []
        shape = array.shape if shape is None else shape
        if strides is None:
            strides = [s // array.itemsize for s in array.strides]
        code, bits, lanes = dtype or (CODES[array.dtype.kind], array.itemsize * 8, 1)
        self._extents = (c_int64 * max(len(shape), 1))(*shape)
        self._steps = (c_int64 * max(len(shape), 1))(*strides) if strides != "null" else None
        self._deleter = _DELETER(self._delete)
        managed = self.managed = Legacy() if self.legacy else Versioned()
        if not self.legacy:
            managed.major, managed.minor, managed.flags = major, 1, flags
        managed.deleter = ctypes.cast(self._deleter, c_void_p).value
        managed.tensor = Tensor(
            data=settings.get("data", array.ctypes.data),
            device=Device(*device),
            ndim=len(shape),
            dtype=DataType(code, bits, lanes),
            shape=self._extents,
            strides=self._steps,
            byte_offset=settings.get("byte_offset", 0),
        )

    def _delete(self, _address):
        self.deleted += 1

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, **request):
        self.asked.append(request)
        self.name = b"dltensor" if self.legacy else b"dltensor_versioned"
        self.capsules.append(_new_capsule(ctypes.addressof(self.managed), self.name, None))
        return self.capsules[-1]

    def names(self):
        return [_capsule_name(c).decode() for c in self.capsules]


class LegacyProducer(Producer):
    """Answers with the capsule that cannot say whether its memory is read-only, as JAX does."""

    legacy = True


class OldProducer(LegacyProducer):
    """Written before DLPack 1.0: knows no keyword but `stream`."""

    def __dlpack__(self, stream=None):
        return super().__dlpack__()


def floats(*shape: int) -> np.ndarray:
    return np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)
