# SPDX-License-Identifier: Apache-2.0
"""Product quantization as torch ops: registration, compilation, dtypes."""

import pytest

torch = pytest.importorskip("torch")

from tokernel import ops


@pytest.fixture
def arrays():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(30, 12, generator=generator), torch.randn(4, 7, 3, generator=generator)


def test_opcheck(arrays):
    x, centroids = arrays
    codes = ops.pq_encode(x, centroids)
    torch.library.opcheck(torch.ops.tokernel.pq_decode.default, (codes, centroids))
    torch.library.opcheck(torch.ops.tokernel.adc_tables.default, (x[:2], centroids, "l2"))
    tables = ops.adc_tables(x[:2], centroids)
    torch.library.opcheck(torch.ops.tokernel.adc_scan.default, (codes, tables, 3, False))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_against_torch(arrays, dtype):
    x, centroids = (t.to(dtype) for t in arrays)
    parts = x.float().reshape(30, 4, 3).movedim(1, 0)
    distance = torch.cdist(parts, centroids.float()).square()
    codes = ops.pq_encode(x, centroids)
    assert codes.dtype == torch.uint8
    assert torch.equal(codes.long(), distance.argmin(-1).T)
    assert torch.equal(ops.pq_encode(x, centroids, dtype=torch.int64), codes.long())
    decoded = ops.pq_decode(codes, centroids)
    assert decoded.dtype == dtype
    assert torch.equal(decoded, torch.cat([centroids[m, codes[:, m].long()] for m in range(4)], dim=1))
    tables = ops.adc_tables(x, centroids)
    torch.testing.assert_close(tables, distance.movedim(0, 1), atol=1e-4, rtol=1e-4)
    found = ops.adc_scan(codes, tables, 30)
    exact = torch.cdist(x.float(), decoded.float()).square()
    torch.testing.assert_close(found.value, exact.gather(1, found.index), atol=1e-4, rtol=1e-4)
    assert torch.equal(ops.adc_scan(codes, tables.transpose(1, 2).contiguous().transpose(1, 2), 30).index, found.index)


def test_no_gradient(arrays):
    x, centroids = (t.requires_grad_() for t in arrays)
    codes = ops.pq_encode(x, centroids)
    tables = ops.adc_tables(x, centroids)
    for result in (ops.pq_decode(codes, centroids), tables, *ops.adc_scan(codes, tables, 2)):
        assert not result.requires_grad


def test_bad_input(arrays):
    x, centroids = arrays
    with pytest.raises(ValueError, match=r"^pq_encode: dtype must be torch.uint8 or torch.int64, got torch.int32$"):
        ops.pq_encode(x, centroids, dtype=torch.int32)
    with pytest.raises(ValueError, match=r"^pq_decode: codes must be in \[0, 7\), got 7 in row 0, part 1$"):
        ops.pq_decode(torch.tensor([[0, 7, 0, 0]]), centroids)
    with pytest.raises(ValueError, match=r"^adc_scan: k must be at most 30"):
        ops.adc_scan(ops.pq_encode(x, centroids), ops.adc_tables(x, centroids), 31)


def test_compiles_whole(arrays):
    def search(x, centroids):
        codes = ops.pq_encode(x, centroids)
        return ops.adc_scan(codes, ops.adc_tables(ops.pq_decode(codes, centroids), centroids), 2)

    compiled = torch.compile(search, fullgraph=True, backend="eager")
    for ours, theirs in zip(compiled(*arrays), search(*arrays), strict=True):
        assert torch.equal(ours, theirs)
