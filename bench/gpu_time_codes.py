# SPDX-License-Identifier: Apache-2.0
"""What bench.gpu_time races of the family quantize: nearest codes, stacks, grids, bits, entropies, product codes."""

from __future__ import annotations

from functools import partial

import torch
from tokernel import ops
from torch import Tensor
from torch.nn import functional

from bench.gpu_time import Case, Race, bytes_of, randint, randn

F32, BF16 = torch.float32, torch.bfloat16
ROWS = 16384


def _by_matmul(x: Tensor, codes: Tensor) -> Tensor:
    """|c|^2 - 2 x.c, as a quantizer in torch has it."""
    return codes.float().square().sum(-1) - 2 * (x @ codes.T)


def _nearest(dtype: torch.dtype, rows: int, codes_count: int, width: int) -> Race:
    x, codes = randn(rows, width, dtype=dtype), randn(codes_count, width, dtype=dtype)
    return Race(
        lambda: ops.nearest(x, codes).index,
        {
            "matmul + argmin": lambda: _by_matmul(x, codes).argmin(-1),
            "cdist + argmin": lambda: torch.cdist(x.float(), codes.float()).argmin(-1),
        },
        bytes_of(x, codes) + rows * 12.0,
        2.0 * rows * codes_count * width,
    )


def _topk(dtype: torch.dtype) -> Race:
    x, codes = randn(ROWS, 256, dtype=dtype), randn(8192, 256, dtype=dtype)
    return Race(
        lambda: ops.nearest_topk(x, codes, 8).index,
        {"matmul + topk": lambda: _by_matmul(x, codes).topk(8, largest=False).indices},
        bytes_of(x, codes),
        2.0 * ROWS * 8192 * 256,
    )


def _rank(dtype: torch.dtype) -> Race:
    x, codes, rank = randn(ROWS, 256, dtype=dtype), randn(8192, 256, dtype=dtype), randint(64, ROWS)
    return Race(
        lambda: ops.nearest_rank(x, codes, rank)[0],
        {"matmul + sort": lambda: _by_matmul(x, codes).argsort(-1).gather(1, rank[:, None])[:, 0]},
        bytes_of(x, codes),
        2.0 * ROWS * 8192 * 256,
    )


def _rvq(dtype: torch.dtype, rows: int) -> Race:
    x, codes = randn(rows, 128, dtype=dtype), randn(8, 1024, 128, dtype=dtype)

    def peer() -> Tensor:
        residual, found = x.clone(), []
        for book in codes:
            index = _by_matmul(residual, book).argmin(-1)
            residual -= functional.embedding(index, book)
            found.append(index)
        return torch.stack(found, 1)

    return Race(
        lambda: ops.rvq_encode(x, codes).index,
        {"8 times matmul + argmin": peer},
        2 * bytes_of(x) + bytes_of(codes),
        2.0 * rows * 8 * 1024 * 128,
    )


def _rvq_decode(dtype: torch.dtype) -> Race:
    index, codes = randint(1024, ROWS, 8), randn(8, 1024, 128, dtype=dtype)
    flat = (index + torch.arange(8, device="cuda") * 1024).contiguous()
    table = codes.flatten(0, 1)
    return Race(
        lambda: ops.rvq_decode(index, codes),
        {"embedding_bag": lambda: functional.embedding_bag(flat, table, mode="sum")},
        bytes_of(index) + ROWS * 128 * codes.element_size(),
    )


def _lookup(dtype: torch.dtype) -> Race:
    codes, index = randn(8192, 256, dtype=dtype), randint(8192, 4 * ROWS)
    return Race(
        lambda: ops.lookup(codes, index),
        {"embedding": lambda: functional.embedding(index, codes)},
        bytes_of(index, codes) + len(index) * 256 * codes.element_size(),
    )


def _ema(dtype: torch.dtype, codes_count: int, width: int) -> Race:
    x, index = randn(4 * ROWS, width, dtype=dtype), randint(codes_count, 4 * ROWS)

    def one_hot() -> Tensor:
        return functional.one_hot(index, codes_count).to(dtype).T @ x

    def index_add() -> Tensor:
        return torch.zeros(codes_count, width, device="cuda").index_add_(0, index, x.float())

    return Race(
        lambda: ops.ema_update(x, index, codes_count).sums,
        {"index_add_": index_add, "one_hot + matmul": one_hot},
        bytes_of(x, index),
    )


def _stats(dtype: torch.dtype) -> Race:
    index = randint(ROWS, 1 << 20)
    return Race(
        lambda: ops.codebook_stats(index, ROWS).counts,
        {"bincount": lambda: torch.bincount(index, minlength=ROWS)},
        bytes_of(index),
    )


def _fsq(dtype: torch.dtype) -> Race:
    z, levels = randn(1 << 20, 4, dtype=dtype), (8, 5, 5, 5)
    count = torch.tensor(levels, device="cuda")
    half_width, basis = (count - 1) * (1 - 1e-3) / 2, torch.tensor([1, 8, 40, 200], device="cuda")
    offset = (count % 2 == 0).float() / 2
    shift, scale = (offset / half_width).atanh(), count // 2

    def peer() -> tuple[Tensor, Tensor]:
        codes = ((z.float() + shift).tanh() * half_width - offset).round()
        return (codes / scale).to(dtype), ((codes + scale) * basis).sum(-1).long()

    return Race(
        lambda: ops.fsq_encode(z, levels), {"torch formula": peer}, 2 * bytes_of(z) + len(z) * 8.0, compared=False
    )


def _signs(dtype: torch.dtype) -> Race:
    x = randn(1 << 18, 32, dtype=dtype)
    weight = 2 ** torch.arange(8, device="cuda")
    return Race(
        lambda: ops.sign_pack(x, 8),
        {"torch formula": lambda: ((x > 0).view(-1, 4, 8) * weight).sum(-1)},
        bytes_of(x) + len(x) * 32.0,
    )


def _unsigns(dtype: torch.dtype) -> Race:
    ids = randint(256, 1 << 18, 4)
    shift = torch.arange(8, device="cuda")
    return Race(
        lambda: ops.sign_unpack(ids, 8),
        {"torch formula": lambda: (2 * (ids[..., None] >> shift & 1) - 1).float().flatten(1)},
        bytes_of(ids) + len(ids) * 128.0,
    )


def _bucketize(dtype: torch.dtype) -> Race:
    x, edges = randn(1 << 22, dtype=dtype), randn(63).sort().values
    return Race(
        lambda: ops.bucketize(x, edges),
        {"torch.bucketize": lambda: torch.bucketize(x, edges)},
        bytes_of(x) + len(x) * 8.0,
    )


def _pack(dtype: torch.dtype) -> Race:
    ids = randint(1024, 4096, 1024)
    return Race(lambda: ops.pack_bits(ids, 10), {}, bytes_of(ids) + ids.numel() * 1.25)


def _unpack(dtype: torch.dtype) -> Race:
    packed = ops.pack_bits(randint(1024, 4096, 1024), 10)
    return Race(lambda: ops.unpack_bits(packed, 10, 1024), {}, bytes_of(packed) + 4096 * 1024 * 8.0)


def _entropy(dtype: torch.dtype, backward: bool) -> Race:
    x, codes = (randn(n, 8, dtype=dtype).requires_grad_(backward) for n in (4096, ROWS))

    def ours() -> tuple[Tensor, Tensor]:
        found = ops.codebook_entropy(x, codes, 2.0)
        return found.entropy, found.mean_prob

    def peer() -> tuple[Tensor, Tensor]:
        log = (2.0 * x @ codes.T).log_softmax(-1)
        return -(log.exp() * log).sum(-1), log.exp().mean(0)

    flops = 2.0 * 4096 * ROWS * 8
    if not backward:
        return Race(ours, {"log_softmax(matmul)": peer}, bytes_of(x, codes), flops)

    def loss(pair: tuple[Tensor, Tensor]) -> Tensor:
        return pair[0].mean() - (pair[1] * pair[1].log()).sum()

    return Race(
        lambda: torch.autograd.grad(loss(ours()), (x, codes)),
        {"log_softmax(matmul)": lambda: torch.autograd.grad(loss(peer()), (x, codes))},
        3 * bytes_of(x, codes),
        4 * flops,
    )


def _lse(dtype: torch.dtype) -> Race:
    x, codes = randn(1024, 256, dtype=dtype), randn(131072, 256, dtype=dtype)
    return Race(
        lambda: ops.codebook_lse(x, codes, 0.1).lse,
        {"matmul + logsumexp": lambda: (0.1 * x @ codes.T).float().logsumexp(-1)},
        bytes_of(x, codes),
        2.0 * 1024 * 131072 * 256,
    )


def _bits(dtype: torch.dtype) -> Race:
    x = randn(65536, 18, dtype=dtype)

    def peer() -> Tensor:
        p = (4 * x).sigmoid()
        return functional.binary_cross_entropy_with_logits(4 * x, p, reduction="none").sum(-1)

    return Race(lambda: ops.bit_entropy(x, 4.0), {"binary_cross_entropy": peer}, bytes_of(x))


def _histogram(dtype: torch.dtype) -> Race:
    x = randn(65536, 1, 8, dtype=dtype)
    signs = 2.0 * (torch.arange(256, device="cuda")[:, None] >> torch.arange(8, device="cuda") & 1) - 1
    return Race(
        lambda: ops.subcode_histogram(x, 2.0),
        {"sigmoid products": lambda: (functional.logsigmoid(2 * x) @ (signs > 0).float().T
                                      + functional.logsigmoid(-2 * x) @ (signs < 0).float().T).exp().mean((0, 1))},
        bytes_of(x),
    )  # fmt: skip


def _rotate(dtype: torch.dtype) -> Race:
    x, q = randn(4 * ROWS, 128, dtype=dtype), randn(4 * ROWS, 128, dtype=dtype)

    def peer() -> Tensor:
        a, b = x.float(), q.float()
        u, w = functional.normalize(a, dim=-1), functional.normalize(b, dim=-1)
        r = functional.normalize(u + w, dim=-1)
        y = a - 2 * (a * r).sum(-1, keepdim=True) * r + 2 * (a * u).sum(-1, keepdim=True) * w
        return (y * (b.norm(dim=-1, keepdim=True) / a.norm(dim=-1, keepdim=True))).to(dtype)

    return Race(lambda: ops.rotate_to(x, q), {"torch formula": peer}, 3 * bytes_of(x))


def _pq(dtype: torch.dtype) -> Race:
    x, books = randn(ROWS, 128, dtype=dtype), randn(16, 256, 8, dtype=dtype)
    parts = x.view(ROWS, 16, 8).transpose(0, 1).contiguous()

    def peer() -> Tensor:
        far = books.square().sum(-1)[:, None] - 2 * parts @ books.transpose(1, 2)
        return far.argmin(-1).T.to(torch.uint8)

    return Race(lambda: ops.pq_encode(x, books), {"matmul + argmin": peer}, bytes_of(x), 2.0 * ROWS * 256 * 128)


def _scan(dtype: torch.dtype) -> Race:
    codes = randint(256, 1 << 20, 16).to(torch.uint8)
    tables = ops.adc_tables(randn(16, 128), randn(16, 256, 8))

    def peer() -> Tensor:
        far = torch.zeros(16, 1 << 20, device="cuda")
        for m in range(16):
            far += tables[:, m].index_select(1, codes[:, m].int())
        return far.topk(10, largest=False)[0]

    return Race(
        lambda: ops.adc_scan(codes, tables, 10).value, {"16 index_select + topk": peer}, bytes_of(codes, tables)
    )


def cases() -> list[Case]:
    """In the order of the table."""
    return [
        *(Case("nearest", "16384x256, 8192 codes", d, partial(_nearest, rows=ROWS, codes_count=8192, width=256))
          for d in (F32, BF16)),
        Case("nearest", "16384x8, 16384 codes", F32, partial(_nearest, rows=ROWS, codes_count=ROWS, width=8)),
        Case("nearest", "8x256, 8192 codes", F32, partial(_nearest, rows=8, codes_count=8192, width=256)),
        Case("nearest_topk", "16384x256, 8192 codes, k=8", BF16, _topk),
        Case("nearest_rank", "16384x256, 8192 codes", BF16, _rank),
        *(Case("rvq_encode", "16384x128, 8x1024 codes", d, partial(_rvq, rows=ROWS)) for d in (F32, BF16)),
        Case("rvq_encode", "64x128, 8x1024 codes", F32, partial(_rvq, rows=64)),
        Case("rvq_decode", "16384x128, 8x1024 codes", BF16, _rvq_decode),
        Case("lookup", "65536x256, 8192 codes", BF16, _lookup),
        Case("ema_update", "65536x128, 1024 codes", F32, partial(_ema, codes_count=1024, width=128)),
        Case("ema_update", "65536x8, 16384 codes", F32, partial(_ema, codes_count=ROWS, width=8)),
        Case("codebook_stats", "2^20 ids, 16384 codes", torch.int64, _stats),
        Case("fsq_encode", "2^20 x 4", F32, _fsq),
        Case("sign_pack", "2^18 x 32, groups of 8", F32, _signs),
        Case("sign_unpack", "2^18 x 32, groups of 8", F32, _unsigns),
        Case("bucketize", "2^22, 63 boundaries", F32, _bucketize),
        Case("pack_bits", "2^22 ids of 10 bits", torch.int64, _pack),
        Case("unpack_bits", "2^22 ids of 10 bits", torch.int64, _unpack),
        Case("codebook_entropy", "4096x8, 16384 codes", F32, partial(_entropy, backward=False)),
        Case("codebook_entropy", "4096x8, 16384 codes, fwd+bwd", F32, partial(_entropy, backward=True)),
        *(Case("codebook_lse", "1024x256, 131072 codes", d, _lse) for d in (F32, BF16)),
        Case("bit_entropy", "65536x18", F32, _bits),
        Case("subcode_histogram", "65536 x 8 bits", F32, _histogram),
        Case("rotate_to", "65536x128", BF16, _rotate),
        Case("pq_encode", "16384x128, 16x256 centroids", F32, _pq),
        Case("adc_scan", "2^20 x 16 bytes, 16 queries, k=10", F32, _scan),
    ]  # fmt: skip
