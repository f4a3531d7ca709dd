# SPDX-License-Identifier: Apache-2.0
"""Every trap of DLPack: what arrays may look like, and who owns the capsule.

`gather_rows` stands for all ops: they take their arguments through the same checking layer. What torch brings along is
in test_dlpack_torch.py.
"""

import ctypes
import gc
import sys
import types

import numpy as np
import pytest
from producer import CUDA, READ_ONLY, ROCM, LegacyProducer, OldProducer, Producer, floats

import tokernel
from tokernel import _C
from tokernel.kernels import merge

INDEX = np.array([[2, 0]])


def gather(x, index=INDEX):
    return np.take_along_axis(np.asarray(x), np.asarray(index, dtype=np.int64)[..., None], axis=1)


# ---- ways in ----------------------------------------------------------------------------------------------------
def test_numpy_comes_by_versioned_capsule():
    seen = _C.describe(floats(2, 3))
    modern = np.lib.NumpyVersion(np.__version__) >= "2.1.0"
    assert seen["route"] == ("versioned" if modern else "legacy")
    assert (seen["shape"], seen["strides"], seen["dtype"]) == ((2, 3), (3, 1), "float32")
    assert seen["device"] == (1, 0)
    assert not seen["read_only"]


@pytest.mark.parametrize("kind", [Producer, LegacyProducer, OldProducer])
def test_any_producer_is_read_and_answered_in_numpy(kind, host_backend):
    x = floats(1, 3, 2)
    out = merge.gather_rows(kind(x), INDEX)
    assert type(out) is np.ndarray
    assert np.array_equal(out, gather(x))


def test_versioned_capsule_is_asked_for():
    x = Producer(floats(1, 3, 2))
    merge.gather_rows(x, INDEX)
    assert x.asked == [{"max_version": (1, 3)}]


def test_strides_may_be_null_and_the_data_offset(host_backend):
    x = floats(4, 3, 2)
    moved = Producer(x, shape=(3, 3, 2), strides="null", byte_offset=24)
    index = np.tile(INDEX, (3, 1))
    assert np.array_equal(merge.gather_rows(moved, index), gather(x[1:], index))


# ---- memory -----------------------------------------------------------------------------------------------------
def test_read_only_input_is_accepted(host_backend):
    x, index = floats(1, 3, 2), INDEX.copy()
    x.flags.writeable = index.flags.writeable = False
    assert np.array_equal(merge.gather_rows(x, index), gather(x))


def test_read_only_out_is_refused_and_untouched(host_backend):
    out = np.zeros((1, 2, 2), np.float32)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="gather_rows: out must be writable, got a read-only array"):
        merge.gather_rows(floats(1, 3, 2), INDEX, out=out)
    with pytest.raises(ValueError, match="gather_rows: out must be writable, got a read-only array"):
        merge.gather_rows(floats(1, 3, 2), INDEX, out=Producer(np.zeros((1, 2, 2), np.float32), flags=READ_ONLY))
    assert not out.any()


@pytest.mark.parametrize("kind", [LegacyProducer, OldProducer])
def test_out_that_cannot_say_it_is_writable_is_refused(kind):
    out = kind(np.zeros((1, 2, 2), np.float32))
    with pytest.raises(ValueError, match=r"out must be writable, got an array of type .*, which does not say"):
        merge.gather_rows(floats(1, 3, 2), INDEX, out=out)
    assert not out.array.any()
    assert out.deleted == 1


def test_out_that_says_it_is_writable_is_filled(host_backend):
    out = Producer(np.zeros((1, 2, 2), np.float32))
    assert merge.gather_rows(floats(1, 3, 2), INDEX, out=out) is out
    assert np.array_equal(out.array, gather(floats(1, 3, 2)))


class OldNumpy(np.ndarray):
    """As NumPy before 2.1: legacy capsules only, and none at all for read-only memory."""

    def __dlpack__(self, stream=None):
        if not self.flags.writeable:
            raise BufferError("Cannot export readonly array")
        return super().__dlpack__()


def test_numpy_before_versioned_capsules(host_backend):
    x, out = floats(1, 3, 2).view(OldNumpy), np.zeros((1, 2, 2), np.float32).view(OldNumpy)
    assert np.array_equal(merge.gather_rows(x, INDEX), gather(x))
    assert merge.gather_rows(x, INDEX, out=out) is out
    assert np.array_equal(out, gather(x))
    x.flags.writeable = False
    assert np.array_equal(merge.gather_rows(x, INDEX), gather(x))
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out must be writable, got a read-only array"):
        merge.gather_rows(x, INDEX, out=out)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[:, ::-1],
        lambda x: x[:, :, ::-1],
        lambda x: x[::-1, ::-1, ::-1],
        lambda x: x[:, ::2],
        lambda x: x[:, :, ::2],
        lambda x: x[:, :, 1:],
        lambda x: x.transpose(2, 1, 0),
        lambda x: np.broadcast_to(x[:1], x.shape),
        lambda x: np.broadcast_to(x[:, :1], x.shape),
        lambda x: np.broadcast_to(x[:, :, :1], x.shape),
        lambda x: np.asfortranarray(x),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_any_stride_is_read_right(view, dtype, host_backend):
    x = view(floats(3, 6, 4).astype(dtype))
    index = np.tile([[2, 0, 1, 2]], (x.shape[0], 1))
    assert np.array_equal(merge.gather_rows(x, index), gather(x, index))


@pytest.mark.parametrize("dtype", [np.int64, np.int32])
@pytest.mark.parametrize("view", [lambda i: i[:, ::-1], lambda i: i[::-1], lambda i: i[:, ::2], lambda i: i.T.copy().T])
def test_any_stride_of_an_index_is_read_right(view, dtype, host_backend):
    x, index = floats(2, 5, 3), view(np.array([[4, 0, 1], [2, 2, 3]], dtype))
    assert np.array_equal(merge.gather_rows(x, index), gather(x, index))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_misaligned_elements_are_read_right_and_refused_as_out(dtype, host_backend):
    x = floats(1, 3, 2).astype(dtype)
    moved = np.frombuffer(b"\0" + x.tobytes(), dtype=dtype, offset=1).reshape(x.shape)
    assert not moved.flags.aligned
    assert np.array_equal(merge.gather_rows(moved, INDEX), gather(x))
    index = np.frombuffer(b"\0" + INDEX.tobytes(), dtype=np.int64, offset=1).reshape(INDEX.shape)
    assert np.array_equal(merge.gather_rows(x, index), gather(x))
    out = np.frombuffer(bytearray(1 + gather(x).nbytes), dtype=dtype, offset=1).reshape(1, 2, 2)
    with pytest.raises(ValueError, match="out must be aligned to its item size, got a misaligned array"):
        merge.gather_rows(x, INDEX, out=out)
    assert not out.any()


@pytest.mark.parametrize("strides", [(77, 2, 1), (-5, 2, 1), (0, 2, 1), (2**62, 2, 1)])
def test_extent_of_one_may_have_any_stride(strides, host_backend):
    x, out = floats(1, 3, 2), Producer(np.zeros((1, 2, 2), np.float32), strides=strides)
    assert np.array_equal(merge.gather_rows(Producer(x, strides=strides), INDEX), gather(x))
    merge.gather_rows(x, INDEX, out=out)
    assert np.array_equal(out.array, gather(x))


@pytest.mark.parametrize("shape", [(0, 3, 2), (1, 3, 0), (0, 0, 0)])
def test_empty_arrays_need_no_memory(shape, host_backend):
    x = Producer(np.zeros(shape, np.float32), data=None)
    index = np.zeros((shape[0], 2 if shape[1] else 0), np.int64)
    assert merge.gather_rows(x, index).shape == (shape[0], index.shape[1], shape[2])


@pytest.mark.parametrize(
    "view",
    [
        lambda: np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (1, 2, 2), (0, 0, 0)),
        lambda: np.zeros((1, 2, 4), np.float32)[:, :, ::2],
        lambda: np.zeros((1, 4, 2), np.float32)[:, ::2],
        lambda: np.zeros((1, 2, 2), np.float32)[:, ::-1],
        lambda: np.zeros((1, 2, 2), np.float32).transpose(0, 2, 1),
    ],
)
def test_out_with_gaps_or_repeats_is_refused(view):
    out = view()
    with pytest.raises(ValueError, match="out must be C-contiguous, got a strided array"):
        merge.gather_rows(floats(1, 3, 2), INDEX, out=out)
    assert not out.any()


def test_out_must_not_overlap_an_input():
    memory = floats(1, 8, 2)
    before = memory.copy()
    with pytest.raises(ValueError, match="out must be memory of its own, got an array that overlaps x"):
        merge.gather_rows(memory[:, :3], INDEX, out=memory[:, 2:4])
    with pytest.raises(ValueError, match="out must be memory of its own, got an array that overlaps x"):
        merge.gather_rows(memory[:, 4:1:-1], INDEX, out=memory[:, 1:3])
    assert np.array_equal(memory, before)
    merge.gather_rows(memory[:, :3], INDEX, out=memory[:, 3:5])
    assert np.array_equal(memory[:, 3:5], gather(before[:, :3]))


def test_empty_out_overlaps_nothing():
    memory = floats(1, 8, 2)
    out = merge.gather_rows(memory, np.zeros((1, 0), np.int64), out=memory[:, 2:2])
    assert out.size == 0


# ---- extents and dtypes ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(2**40, 2**40, 1), (2**62, 1, 1), (2**31, 2**31, 2**31), (1, -3, 2), (2**60, 1, 0)])
def test_impossible_extents_are_refused(shape):
    x = Producer(floats(1, 1, 1), shape=shape, strides=(0, 0, 0))
    with pytest.raises(ValueError, match=r"gather_rows: x must span fewer than 2\*\*60 elements, got extents"):
        merge.gather_rows(x, INDEX)
    assert x.deleted == 1


@pytest.mark.parametrize("strides", [(2**61, 1, 1), (-(2**61), 1, 1), (2**59, 2**59, 2**59)])
def test_impossible_strides_are_refused(strides):
    with pytest.raises(ValueError, match="x must span fewer than"):
        merge.gather_rows(Producer(floats(1, 1, 1), shape=(3, 3, 3), strides=strides), np.zeros((3, 1), np.int64))
    with pytest.raises(ValueError, match="x must span fewer than"):
        merge.gather_rows(Producer(floats(1, 1, 1), shape=(2**31, 2**31, 2), strides="null"), INDEX)


def test_more_than_eight_dimensions_are_refused():
    with pytest.raises(ValueError, match="x must have at most 8 dimensions, got 9"):
        merge.gather_rows(np.zeros((1,) * 9, np.float32), INDEX)


def test_non_native_byte_order_is_refused():
    with pytest.raises(TypeError, match=r"x must be readable through DLPack, got numpy.ndarray \(.*byte order"):
        merge.gather_rows(floats(1, 3, 2).astype(">f4"), INDEX)
    read_only = floats(1, 3, 2).astype(">f4")
    read_only.flags.writeable = False
    with pytest.raises(TypeError, match=r"x must be readable through DLPack, got numpy.ndarray \(.*byte order"):
        merge.gather_rows(read_only, INDEX)


@pytest.mark.parametrize("dtype", ["U3", "S3", "O", "M8[s]", "m8[s]", "V3"])
def test_dtypes_without_a_dlpack_code_are_refused(dtype):
    with pytest.raises(TypeError, match=r"x must be readable through DLPack, got numpy\.ndarray"):
        merge.gather_rows(np.zeros((1, 3, 2), dtype), INDEX)


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (np.bool_, "bool"),
        (np.int64, "int64"),
        (np.uint16, "uint16"),
        (np.float64, "float64"),
        (np.complex64, "complex64"),
    ],
)
def test_other_dtypes_are_named(dtype, name):
    with pytest.raises(TypeError, match=f"x must be float32, float16 or bfloat16, got {name}"):
        merge.gather_rows(np.zeros((1, 3, 2), dtype), INDEX)


@pytest.mark.parametrize(
    ("dtype", "text"), [((10, 8, 1), "float8"), ((2, 32, 4), "float32x4"), ((3, 64, 1), "opaque64"), ((77, 4, 1), "77")]
)
def test_strange_dtypes_are_refused(dtype, text):
    with pytest.raises(TypeError, match=f"x must be float32, float16 or bfloat16, got .*{text}"):
        merge.gather_rows(Producer(floats(1, 3, 2), dtype=dtype), INDEX)


def test_bfloat16_is_never_returned_as_numpy(host_backend):
    x = Producer(np.zeros((1, 3, 2), np.uint16), dtype=(4, 16, 1))
    with pytest.raises(TypeError, match="bfloat16 results cannot be returned"):
        merge.gather_rows(x, INDEX)


@pytest.mark.parametrize("out", [np.zeros((1, 2, 2), np.float16), np.zeros((1, 2, 2), np.int32)])
def test_out_of_another_dtype_is_refused(out):
    with pytest.raises(TypeError, match=f"gather_rows: out must be float32, got {out.dtype}"):
        merge.gather_rows(floats(1, 3, 2), INDEX, out=out)


@pytest.mark.parametrize("shape", [(1, 2, 3), (1, 3, 2), (2, 2, 2), (1, 2), (1, 2, 2, 1), ()])
def test_out_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"gather_rows: out must be \(B, M, C\) with B = 1, M = 2, C = 2, got \("):
        merge.gather_rows(floats(1, 3, 2), INDEX, out=np.zeros(shape, np.float32))


# ---- who owns the capsule ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [Producer, LegacyProducer, OldProducer])
def test_capsule_is_consumed_once_and_deleted_once(kind):
    x = kind(floats(1, 3, 2))
    merge.gather_rows(x, INDEX)
    assert x.deleted == 1
    assert x.names() == ["used_" + x.name.decode()]


@pytest.mark.parametrize("kind", [Producer, LegacyProducer])
@pytest.mark.parametrize(
    ("x", "index"),
    [(floats(3, 2), INDEX), (np.zeros((1, 3, 2)), INDEX), (floats(1, 3, 2), INDEX + 9), (floats(1, 3, 2), "no array")],
)
def test_capsule_is_deleted_once_after_an_error(kind, x, index):
    x = kind(x)
    with pytest.raises((ValueError, TypeError)):
        merge.gather_rows(x, index)
    assert x.deleted == 1
    assert x.names() == ["used_" + x.name.decode()]


def test_other_major_version_is_deleted_and_not_looked_at():
    x = Producer(floats(1, 3, 2), major=2)
    ctypes.memset(ctypes.addressof(x.managed) + 24, 0xFF, ctypes.sizeof(x.managed) - 24)  # all but version and deleter
    with pytest.raises(TypeError, match="x must speak DLPack version 1, got version 2"):
        merge.gather_rows(x, INDEX)
    assert x.deleted == 1
    assert x.names() == ["used_dltensor_versioned"]


def test_capsule_without_deleter_is_fine():
    x = Producer(floats(1, 3, 2))
    x.managed.deleter = None
    assert np.array_equal(merge.gather_rows(x, INDEX), gather(x.array))


class Answer:
    """Answers whatever it was made with, or raises it."""

    def __init__(self, answer):
        self.answer = answer

    def __dlpack_device__(self):
        return (1, 0)

    def __dlpack__(self, **request):
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


def test_answer_that_is_no_fresh_capsule_is_refused():
    used = Producer(floats(1, 3, 2)).__dlpack__()
    ctypes.pythonapi.PyCapsule_SetName.argtypes = [ctypes.py_object, ctypes.c_char_p]
    ctypes.pythonapi.PyCapsule_SetName(used, b"used_dltensor_versioned")
    for answer in (None, 7, used):
        with pytest.raises(TypeError, match="gather_rows: x must be an array"):
            merge.gather_rows(Answer(answer), INDEX)


def test_what_the_producer_says_is_passed_on():
    with pytest.raises(TypeError, match=r"x must be readable through DLPack, got Answer \(layout is odd\)"):
        merge.gather_rows(Answer(RuntimeError("layout is odd")), INDEX)
    with pytest.raises(MemoryError):
        merge.gather_rows(Answer(MemoryError()), INDEX)
    with pytest.raises(KeyboardInterrupt):
        merge.gather_rows(Answer(KeyboardInterrupt()), INDEX)


def test_arguments_are_not_leaked():
    x, index, out = floats(1, 3, 2), INDEX.copy(), np.zeros((1, 2, 2), np.float32)
    bad = index + 9
    gc.collect()
    before = [sys.getrefcount(a) for a in (x, index, out, bad)]
    for _ in range(50):
        merge.gather_rows(x, index, out=out)
        merge.gather_rows(x, index)
        with pytest.raises(ValueError, match="index must be in"):
            merge.gather_rows(x, bad, out=out)
    gc.collect()
    assert [sys.getrefcount(a) for a in (x, index, out, bad)] == before


# ---- devices and frameworks -------------------------------------------------------------------------------------
def test_cuda_array_is_one_clear_error():
    """Here without a GPU, or from a framework whose answers we could not make on one."""
    x = Producer(floats(1, 3, 2), device=(CUDA, 0))
    with pytest.raises(ValueError, match="arrays on a CUDA device cannot be used"):
        merge.gather_rows(x, INDEX)
    if "cuda" not in tokernel.backends()["usable"]:
        with pytest.raises(ValueError, match=r"no CUDA extension|no usable CUDA device"):
            merge.gather_rows(x, INDEX)
    assert x.asked == []


@pytest.mark.parametrize(
    ("device", "text"), [((CUDA, 1), "an array on CUDA device 1"), ((ROCM, 0), r"an array on DLPack device \(10, 0\)")]
)
def test_arguments_on_two_devices_are_refused(device, text):
    index = Producer(INDEX, device=device)
    with pytest.raises(ValueError, match=f"index must be on the CPU, as the other arguments, got {text}"):
        merge.gather_rows(floats(1, 3, 2), index)
    assert index.deleted == 1


def cupy_like(array, device):
    """A stand-in for CuPy, by name: an exporter of legacy capsules on CUDA."""
    kind = type("ndarray", (LegacyProducer,), {"__module__": "cupy"})
    return kind(array, device=device)


def test_cupy_array_without_a_gpu_is_one_clear_error(monkeypatch):
    if "cuda" in tokernel.backends()["usable"]:
        pytest.skip("this machine has a GPU")
    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(empty=np.empty))
    with pytest.raises(ValueError, match="arrays on a CUDA device cannot be used here: "):
        merge.gather_rows(cupy_like(floats(1, 3, 2), (CUDA, 0)), INDEX)


def test_jax_arrays_come_back_as_jax_arrays(monkeypatch, host_backend):
    """A stand-in for JAX, by name: legacy capsules although asked for versioned ones, and immutable memory."""
    made = types.SimpleNamespace(numpy=types.SimpleNamespace(asarray=lambda a: ("jax", a)))
    monkeypatch.setitem(sys.modules, "jax", made)
    monkeypatch.setitem(sys.modules, "jax.numpy", made.numpy)
    kind = type("ArrayImpl", (LegacyProducer,), {"__module__": "jaxlib._jax"})
    x = floats(1, 3, 2)
    name, out = merge.gather_rows(kind(x), INDEX)
    assert name == "jax"
    assert np.array_equal(out, gather(x))
    with pytest.raises(ValueError, match="out must be writable, got an array of type ArrayImpl, which does not say"):
        merge.gather_rows(kind(x), INDEX, out=kind(np.zeros((1, 2, 2), np.float32)))


def test_there_may_be_any_number_of_array_types():
    x = floats(1, 3, 2)
    for i in range(60):
        kind = type(f"Array{i}", (np.ndarray,), {})
        assert np.array_equal(merge.gather_rows(x.view(kind), INDEX), gather(x))


@pytest.mark.parametrize("x", [None, 3, 2.5, "text", [[[1.0]]], (1,), object()])
def test_what_is_no_array_is_refused(x):
    with pytest.raises(TypeError, match=r"gather_rows: x must be an array .*, got "):
        merge.gather_rows(x, INDEX)
    with pytest.raises(TypeError, match=r"gather_rows: index must be an array .*, got "):
        merge.gather_rows(floats(1, 3, 2), x)
