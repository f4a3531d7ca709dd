# SPDX-License-Identifier: Apache-2.0
"""Torch tensors as arguments of the low-level ops: what torch's own exports do not check."""

import gc
import sys
import warnings

import numpy as np
import pytest
from producer import floats

torch = pytest.importorskip("torch", reason="torch is an extra")

from tokernel import _C
from tokernel.kernels import merge

INDEX = torch.tensor([[2, 0]])


def tensor(*shape, dtype=torch.float32):
    return torch.arange(int(np.prod(shape)), dtype=torch.float32).reshape(shape).to(dtype)


def gather(x, index=INDEX):
    return torch.take_along_dim(x, index.long()[..., None], 1)


def test_torch_comes_by_the_exchange_api():
    modern = hasattr(torch.Tensor, "__dlpack_c_exchange_api__")
    assert _C.describe(tensor(2, 3))["route"] == ("exchange" if modern else "versioned")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_answers_are_tensors_of_the_same_dtype(dtype, host_backend):
    x = tensor(1, 3, 2, dtype=dtype)
    out = merge.gather_rows(x, INDEX)
    assert type(out) is torch.Tensor
    assert out.dtype == dtype
    assert torch.equal(out, gather(x))


def test_frameworks_mix(host_backend):
    x = floats(1, 3, 2)
    assert type(merge.gather_rows(x, INDEX)) is np.ndarray
    assert type(merge.gather_rows(torch.from_numpy(x), INDEX.numpy())) is torch.Tensor
    out = np.zeros((1, 2, 2), np.float32)
    assert merge.gather_rows(torch.from_numpy(x), INDEX, out=out) is out
    assert np.array_equal(out, gather(torch.from_numpy(x)).numpy())


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64, torch.bool, torch.int8])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(TypeError, match="x must be float32, float16 or bfloat16, got "):
        merge.gather_rows(torch.zeros(1, 3, 2).to(dtype), INDEX)


@pytest.mark.parametrize("expand", [lambda x: x[:1].expand(3, 4, 5), lambda x: x[:, :1].expand(3, 4, 5)])
def test_expanded_input_is_read_and_expanded_out_refused(expand, host_backend):
    x = expand(tensor(3, 4, 5))
    index = torch.tensor([[2, 0]]).expand(3, 2)
    assert torch.equal(merge.gather_rows(x, index), gather(x, index))
    out = torch.zeros(1, 1, 5).expand(3, 2, 5)
    with pytest.raises(ValueError, match="out must be C-contiguous, got a strided array"):
        merge.gather_rows(x, index, out=out)
    assert not out.any()


def test_extent_of_one_may_have_any_stride(host_backend):
    x = tensor(1, 3, 2).as_strided((1, 3, 2), (7, 2, 1))
    out = torch.zeros(1, 2, 2).as_strided((1, 2, 2), (1, 2, 1))
    assert merge.gather_rows(x, INDEX, out=out) is out
    assert torch.equal(out, gather(x))


def test_offset_and_transposed_views(host_backend):
    memory = tensor(4, 6, 5)
    index = torch.tensor([[2, 0], [1, 1], [0, 2]])
    for x in (memory[1:, 1:, 1:], memory[:3].transpose(1, 2), memory[1:, ::2, ::2]):
        assert torch.equal(merge.gather_rows(x, index), gather(x, index))


@pytest.mark.parametrize("shape", [(2, 4, 3), (1, 1, 1), (1, 4, 1), (2, 4, 0)])
def test_negated_view_is_read_as_its_values(shape, host_backend):
    """`conj().imag` is the memory's negative: a consumer that does not look reads the wrong sign."""
    z = torch.randn(shape, dtype=torch.complex64)
    x = torch.conj(z).imag
    assert x.is_neg()
    index = torch.zeros(shape[0], 1, dtype=torch.int64)
    assert torch.equal(merge.gather_rows(x, index), gather(-z.imag, index))
    assert torch.equal(merge.gather_rows(z.imag, index), gather(z.imag, index))


def test_negated_out_is_refused():
    z = torch.zeros(1, 2, 1, dtype=torch.complex64)
    with pytest.raises(ValueError, match="out must be writable, got a view that stands for the negative"):
        merge.gather_rows(tensor(1, 3, 1), INDEX, out=torch.conj(z).imag)
    assert not z.any()


def test_conjugate_is_refused_as_any_complex():
    with pytest.raises(TypeError, match="x must be float32, float16 or bfloat16, got complex64"):
        merge.gather_rows(torch.conj(torch.zeros(1, 3, 2, dtype=torch.complex64)), INDEX)


def test_tensors_that_require_grad_are_read_but_not_written():
    for x in (tensor(1, 3, 2).requires_grad_(), torch.nn.Parameter(tensor(1, 3, 2))):
        out = merge.gather_rows(x, INDEX)
        assert torch.equal(out, gather(x.detach()))
        assert not out.requires_grad
    out = torch.zeros(1, 2, 2, requires_grad=True)
    with pytest.raises(ValueError, match="out must be detached from autograd, got a tensor that requires grad"):
        merge.gather_rows(tensor(1, 3, 2), INDEX, out=out)
    assert not out.any()
    merge.gather_rows(tensor(1, 3, 2), INDEX, out=out.detach())
    assert torch.equal(out.detach(), gather(tensor(1, 3, 2)))


def test_fake_tensors_hold_no_data():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode() as mode:
        fake = mode.from_tensor(tensor(1, 3, 2))
    with pytest.raises(TypeError, match="x must hold data, got an array without memory"):
        merge.gather_rows(fake, INDEX)
    with pytest.raises(TypeError, match="index must hold data, got an array without memory"):
        merge.gather_rows(tensor(1, 3, 2), mode.from_tensor(INDEX))


def test_meta_tensors_are_refused():
    with pytest.raises((TypeError, ValueError), match="gather_rows: x must be"):
        merge.gather_rows(torch.zeros(1, 3, 2, device="meta"), INDEX)


def test_layouts_without_strides_are_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that sparse CSR and nested tensors are beta
        nested = torch.nested.nested_tensor([torch.zeros(3, 2)])
        layouts = [tensor(1, 3, 2).to_sparse(), tensor(3, 2).to_sparse_csr(), nested]
    if torch.backends.mkldnn.is_available():
        layouts.append(tensor(1, 3, 2).to_mkldnn())
    for x in layouts:
        with pytest.raises(TypeError, match=r"gather_rows: x must (be readable through DLPack|hold data), got "):
            merge.gather_rows(x, INDEX)


def test_mapped_tensors_are_refused():
    """Inside vmap only tokernel.ops works; the low-level op must say so, not read one element as the batch."""
    with pytest.raises(TypeError, match=r"gather_rows: x must (be readable through DLPack|hold data), got Tensor"):
        torch.func.vmap(lambda x: merge.gather_rows(x, INDEX))(tensor(2, 1, 3, 2))


def test_subclasses_are_read_and_answered_in_kind():
    class Named(torch.Tensor):
        pass

    x = tensor(1, 3, 2).as_subclass(Named)
    out = merge.gather_rows(x, INDEX)
    assert type(out) is Named
    assert torch.equal(out.as_subclass(torch.Tensor), gather(tensor(1, 3, 2)))


def test_int32_index_and_unsupported_index(host_backend):
    x = tensor(1, 3, 2)
    assert torch.equal(merge.gather_rows(x, INDEX.int()), gather(x))
    with pytest.raises(TypeError, match="index must be int32 or int64, got float32"):
        merge.gather_rows(x, INDEX.float())


def test_arguments_are_not_leaked():
    x, negated = tensor(1, 3, 2), torch.conj(torch.zeros(1, 3, 2, dtype=torch.complex64)).imag
    gc.collect()
    before = [sys.getrefcount(a) for a in (x, negated, INDEX)]
    for _ in range(50):
        merge.gather_rows(x, INDEX)
        merge.gather_rows(negated, INDEX)
        with pytest.raises(ValueError, match="index must be in"):
            merge.gather_rows(x, INDEX + 9)
    gc.collect()
    assert [sys.getrefcount(a) for a in (x, negated, INDEX)] == before


def test_threads_of_torch_are_followed_by_every_tensor_type():
    import tokernel

    class Named(torch.Tensor):
        pass

    plain, named = tensor(1, 3, 2), tensor(1, 3, 2).as_subclass(Named)
    merge.gather_rows(plain, INDEX)
    merge.gather_rows(named, INDEX)
    most, before = tokernel.get_num_threads(), torch.get_num_threads()
    try:
        for first, second in ((plain, named), (named, plain)):
            torch.set_num_threads(1)
            merge.gather_rows(first, INDEX)
            torch.set_num_threads(before)
            merge.gather_rows(second, INDEX)
            assert tokernel.get_num_threads() == most
    finally:
        torch.set_num_threads(before)
