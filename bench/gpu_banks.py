# SPDX-License-Identifier: Apache-2.0
"""Bank conflicts of the CUDA kernels, counted by the host executor in small cases: ``python -m bench.gpu_banks``.

Counts, not a model: every access of every lane is seen. What they cannot know is how nvcc groups accesses: one that it
makes of two, or two of one, count as they are written.
"""

from __future__ import annotations

import contextlib
import json as json_format
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tokernel
import torch
import typer
from rich.console import Console
from rich.table import Table
from tokernel import ops
from tokernel.kernels import attention, bpe, cluster, merge, quantize, select
from torch import Tensor

from bench.arrays import randn


@dataclass
class Count:
    """Accesses of warps to shared memory: instructions, and the wavefronts that served them."""

    instructions: int = 0
    wavefronts: int = 0
    extra_wavefronts: int = 0  # that a layout without conflicts would not need
    worst: int = 0  # wavefronts of one part of a warp
    places: list[dict[str, Any]] = field(default_factory=list)

    def add(self, place: dict[str, Any]) -> None:
        """Count one place of a kernel in."""
        self.instructions += place["instructions"]
        self.wavefronts += place["wavefronts"]
        self.extra_wavefronts += place["extra_wavefronts"]
        self.worst = max(self.worst, place["worst"])
        self.places.append(place)

    @property
    def share(self) -> float:
        """Extra wavefronts among all."""
        return self.extra_wavefronts / self.wavefronts if self.wavefronts else 0.0


def _labels(tokens: int, segments: int) -> Tensor:
    return torch.randint(0, segments, (1, tokens), generator=torch.Generator().manual_seed(1))


def _merge_cases(dtype: torch.dtype) -> Iterator[Callable[[], object]]:
    a, b = randn(1, 130, 64, dtype=dtype), randn(1, 300, 64, dtype=dtype, seed=1)
    yield lambda: ops.cosine_match(a, b)
    x, rows = randn(1, 600, 40, dtype=dtype), randn(1, 5000, 8, dtype=dtype)
    for given, tokens in ((x, 600), (rows, 5000)):
        ids = _labels(tokens, 90)
        yield lambda given=given, ids=ids: merge.segment_reduce(given, ids=ids, segments=90)  # type: ignore[misc]
        scores, offsets = given[0, :, 0].contiguous(), cluster.sort_by_label(ids, 90)[1][0]

        def softmax(scores: Tensor = scores, offsets: Tensor = offsets) -> object:
            leaf = scores.clone().requires_grad_()
            return torch.autograd.grad(ops.segment_softmax(leaf, offsets=offsets).float().pow(2).sum(), leaf)

        yield softmax
    weight, index = torch.rand(1, 600), _labels(600, 90)
    grad = randn(1, 90, 40, dtype=dtype)
    yield lambda: merge.segment_reduce_backward(grad, x, ids=index, weight=weight)
    yield lambda: merge.scatter_add_rows(x, index, 90, weight)
    yield lambda: merge.scatter_add_rows_backward(grad, x, index, weight)
    yield lambda: ops.select_edges(randn(1, 300, dtype=torch.float32), _labels(300, 300), 100, 300)
    yield lambda: ops.compact_rows(torch.rand(2, 3000) < 0.5)
    tokens, logits = randn(1, 100, 72, dtype=dtype), randn(1, 50, 100, dtype=dtype, seed=2)
    for over in ("tokens", "targets"):

        def soft(over: str = over) -> object:
            leaves = [t.clone().requires_grad_() for t in (tokens, logits)]
            answer = ops.soft_aggregate(*leaves, over=over)
            y = answer if isinstance(answer, Tensor) else answer[0]
            return torch.autograd.grad(y.float().pow(2).sum(), leaves)

        yield soft
    yield lambda: ops.soft_aggregate(tokens, logits.mT.contiguous().mT)


def _cluster_cases(dtype: torch.dtype) -> Iterator[Callable[[], object]]:
    x, centroids = randn(1, 300, 64, dtype=dtype), randn(1, 150, 64, dtype=dtype, seed=1)
    for metric in ("l2", "cosine"):
        yield lambda metric=metric: cluster.assign(x, centroids, metric)  # type: ignore[misc]
        yield lambda metric=metric: cluster.update(x, _labels(300, 150), centroids, metric)  # type: ignore[misc]
    yield lambda: cluster.sort_by_label(_labels(5000, 300), 300)
    qc, kc = randn(1, 1, 20, 40, dtype=dtype), randn(1, 1, 300, 40, dtype=dtype, seed=1)
    size_q, size_k = _labels(20, 9)[None], _labels(300, 9)[None]
    yield lambda: cluster.map_density(cluster.centroid_topp_map(qc, kc, size_k, 0.9), size_q, size_k)


def _select_cases(dtype: torch.dtype) -> Iterator[Callable[[], object]]:
    score = randn(1, 3000, dtype=dtype)
    yield lambda: select.topk(score, 700)
    wide = randn(1, 8300, dtype=dtype)  # by chunks
    yield lambda: select.topk(wide, 20)
    yield lambda: select.topk_mask(score, 700)
    yield lambda: select.topp_mask(score.softmax(-1), 0.7)
    points = randn(1, 150, 40, dtype=dtype)
    for metric in ("cosine", "l2"):
        yield lambda metric=metric: select.farthest_points(points, 3, metric)  # type: ignore[misc]
    prob, v = randn(1, 2, 3, 300, dtype=dtype).softmax(-1), randn(1, 2, 300, 40, dtype=dtype)
    yield lambda: select.accumulate_head_scores(select.local_value_attention(prob, v, 90))
    yield lambda: select.progressive_attention(prob[..., :40], *select.split_bits(v), v, 0.5)
    for tokens in (197, 250):  # in shared memory, and not
        maps = randn(1, tokens, tokens, dtype=dtype).softmax(-1)
        yield lambda maps=maps: select.power_iterate(maps, iters=2)  # type: ignore[misc]
    for experts in (8, 64, 200, 600):
        logits = randn(70, experts, dtype=dtype)
        yield lambda logits=logits: select.topk_gate(logits, 3, True)  # type: ignore[misc]


def _tree_cases(dtype: torch.dtype) -> Iterator[Callable[[], object]]:
    logits = randn(1, 3000, dtype=dtype)

    def entropy() -> object:
        leaf = logits.clone().requires_grad_()
        return torch.autograd.grad(ops.row_stats(leaf).entropy.sum(), leaf)

    yield entropy
    h, weight, norm = randn(70, 96, dtype=dtype), randn(150, 96, dtype=dtype, seed=1), randn(96, dtype=dtype, seed=2)
    yield lambda: ops.head_argmax_prob(h, weight, norm)
    noise, mask = logits.float().sigmoid(), logits > 0
    for k in (40, 700):
        yield lambda k=k: ops.sample_without_replacement(logits.softmax(-1), k, noise)  # type: ignore[misc]
    yield lambda: ops.gumbel_argmax(logits, noise)
    wide = randn(1, 8300, dtype=dtype)  # by chunks
    yield lambda: ops.sample_without_replacement(wide.softmax(-1), 20, wide.float().sigmoid())
    yield lambda: ops.masked_transfer(logits, mask, torch.tensor([300]), 0.5)
    table, known = noise[:, : 65 * 8].reshape(1, 65, 8), torch.ones(1, 65, dtype=torch.bool)
    for budget, threshold in ((64, None), (None, 0.01)):
        yield lambda b=budget, t=threshold: ops.expand_greedy(table, known, b, t)  # type: ignore[misc]
    for width in (32, 64, 128, 256):
        for nodes in (2, 6, 20):  # float32 has a kind of block for each, half precision for the last two
            tree = [-1, *(i // 2 for i in range(nodes - 1))]
            q = randn(1, 1, nodes, width, dtype=dtype)
            k, v = (randn(1, 1, 300, width, dtype=dtype, seed=seed) for seed in (1, 2))
            parents = torch.tensor(tree)
            yield lambda q=q, k=k, v=v, tree=parents: ops.tree_attention(q, k, v, 270, tree)  # type: ignore[misc]
    p, coins = logits.float().softmax(-1).to(dtype).expand(2, -1), torch.tensor([0.3, 0.9])
    yield lambda: ops.residual_sample(p, p.flip(1), coins)
    chain = ops.TokenTree.chain(2)
    for rule in ("sequoia", "eagle", "typical"):
        draft = p.flip(1)[None] if rule == "sequoia" else None
        yield lambda rule=rule, draft=draft: ops.verify_stochastic(  # type: ignore[misc]
            torch.zeros(1, 2, dtype=torch.int64), p[None], draft, torch.rand(1, 3), chain, rule
        )


def _attention_cases(dtype: torch.dtype) -> Iterator[Callable[[], object]]:
    causal = ops.Causal()
    for width in (32, 64, 128, 256):
        q, k, v = (randn(1, 1, n, width, dtype=dtype, seed=i) for i, n in enumerate((70, 140, 140)))

        def attend(q: Tensor = q, k: Tensor = k, v: Tensor = v) -> object:
            leaves = [t.clone().requires_grad_() for t in (q, k, v)]
            loss = ops.attention(*leaves, causal).float().sum()
            return torch.autograd.grad(loss, leaves) if q.shape[-1] <= 64 else loss

        yield attend
        lse = torch.zeros(1, 1, 70)
        yield lambda q=q, k=k, lse=lse: attention.attention_column_sums(q, k, lse, causal)  # type: ignore[misc]
    qs, ks = randn(1, 1, 40, 64, dtype=dtype), randn(1, 1, 70, 64, dtype=dtype, seed=1)

    def distil() -> object:
        leaves = [t.clone().requires_grad_() for t in (qs, ks)]
        loss: Any = ops.attention_map_ce(*leaves, ks[:, :, :40], qs.repeat(1, 1, 2, 1)[:, :, :70])
        return torch.autograd.grad(loss.float().sum(), leaves)

    yield distil


def _quantize_cases(dtype: torch.dtype) -> Iterator[Callable[[], object]]:
    for width in (2, 8, 16, 64):
        x, codes = randn(70, width, dtype=dtype), randn(150, width, dtype=dtype, seed=1)
        yield lambda x=x, codes=codes: quantize.nearest(x, codes)  # type: ignore[misc]
        yield lambda x=x, codes=codes: quantize.nearest(x, codes, second=True)  # type: ignore[misc]
    x, codes = randn(70, 64, dtype=dtype), randn(150, 64, dtype=dtype, seed=1)
    yield lambda: quantize.nearest_topk(x, codes, 40)
    yield lambda: quantize.nearest_rank(x, codes, torch.arange(70))
    for levels in ((8,) * 8, (3,) * 39):
        z = randn(300, len(levels), dtype=dtype)
        yield lambda z=z, levels=levels: quantize.fsq_decode(quantize.fsq_encode(z, levels).index, levels)  # type: ignore[misc]
    for bits in (8, 18, 63):
        signs = randn(300, bits, dtype=dtype)
        yield lambda signs=signs, bits=bits: quantize.sign_pack(signs, bits)  # type: ignore[misc]
    yield lambda: quantize.bucketize(x, torch.linspace(-2, 2, 63))
    yield lambda: quantize.codebook_stats(_labels(600, 90), 90)
    yield lambda: quantize.rvq_encode(x, codes[None, :60])  # residuals in shared memory, and then in the workspace
    yield lambda: quantize.rvq_encode(x, codes[None])
    product = torch.randint(0, 64, (700, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    tables = quantize.adc_tables(randn(2, 16, dtype=dtype), randn(8, 64, 2, dtype=dtype, seed=1))
    yield lambda: quantize.adc_scan(product, tables, 10)

    def entropies() -> object:
        leaves = [t.clone().requires_grad_() for t in (x[:, :24], codes[:, :24])]
        found = ops.codebook_entropy(*leaves, weight=torch.ones(70), log_floor=1e-5)
        return torch.autograd.grad(found.entropy.sum() + found.mean_prob.square().sum(), leaves)

    yield entropies
    bits = randn(70, 2, 9, dtype=dtype)

    def histogram() -> object:
        leaf = bits.clone().requires_grad_()
        return torch.autograd.grad(ops.subcode_histogram(leaf, 2.0).square().sum(), leaf)

    yield histogram


def cases(family: str, dtype: torch.dtype) -> Iterator[Callable[[], object]]:
    """Calls that launch every kernel of a family that uses shared memory."""
    makers = {
        "merge": _merge_cases,
        "cluster": _cluster_cases,
        "select": _select_cases,
        "tree": _tree_cases,
        "attention": _attention_cases,
        "quantize": _quantize_cases,
        "bpe": _bpe_cases,
    }
    return makers[family](dtype)


def _bpe_cases(dtype: torch.dtype) -> Iterator[Callable[[], object]]:
    ids = _labels(3000, 40)[0].to(torch.int32 if dtype == torch.bfloat16 else torch.int64)
    yield lambda: bpe.split(_labels(3000, 128)[0].to(torch.uint8), "cl100k")
    yield lambda: bpe.count_pairs(ids, torch.tensor([0, 1000, 3000]), torch.tensor([2, 3]))
    tokens = [b"a", b"b", b" ", b"ab", b"aa", b"aab", b"abab"]
    text = torch.tensor(list(b"aab ab" * 60 + b"a" * 60 + b"ab" * 600), dtype=torch.uint8)
    cuts = torch.tensor([0, 200, len(text)])
    for vocab in (bpe.Vocab(tokens), bpe.Vocab(tokens[::-1])):  # ascending, and not

        def around(vocab: bpe.Vocab = vocab) -> object:
            return bpe.decode_batch(vocab, *bpe.encode_batch(vocab, (text, cuts), "gpt2"))

        yield around


@contextlib.contextmanager
def _counting(simt: Any) -> Iterator[None]:
    """Count in one run of each call, without the race detector."""
    before = simt.options()
    simt.set_schedules(["forward"])
    simt.set_race_detector("off")
    simt.count_bank_conflicts(True)
    simt.reset_statistics()
    try:
        with tokernel.use_backend("simt"):
            yield
    finally:
        simt.set_schedules(before["schedules"])
        simt.set_race_detector(before["race_detector"])
        simt.count_bank_conflicts(before["count_bank_conflicts"])


def count(families: list[str]) -> dict[str, Count]:
    """Run the cases of some families; what each kernel template did to shared memory.

    Raises:
        ImportError: this build has no host executor.
    """
    from tokernel import _simt

    found: dict[str, Count] = {}
    with _counting(_simt):
        for family in families:
            for dtype in (torch.float32, torch.bfloat16):
                for case in cases(family, dtype):
                    case()
        for place in _simt.bank_conflicts():
            found.setdefault(place["kernel"].partition("<")[0], Count()).add(place)
    return found


FAMILIES = ("merge", "cluster", "select", "tree", "attention", "quantize", "bpe")
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def _table(found: dict[str, Count]) -> Table:
    table = Table(title="shared memory: wavefronts counted by the host executor", title_justify="left")
    table.add_column("kernel", overflow="fold")
    for name in ("instructions", "wavefronts", "extra", "share", "worst"):
        table.add_column(name, justify="right")
    table.add_column("where: extra of all, worst", overflow="fold")
    for name in sorted(found):
        total = found[name]
        places = [p for p in total.places if p["extra_wavefronts"]]
        lines: dict[tuple[str, str], list[int]] = {}
        for p in places:
            sums = lines.setdefault((p["line"].removeprefix("csrc/"), p["access"]), [0, 0, 0])
            sums[:] = [sums[0] + p["extra_wavefronts"], sums[1] + p["wavefronts"], max(sums[2], p["worst"])]
        where = "\n".join(
            f"{line} {access}: {e} of {w}, {m}-way" for (line, access), (e, w, m) in sorted(lines.items())
        )
        table.add_row(
            name, str(total.instructions), str(total.wavefronts), str(total.extra_wavefronts),
            f"{total.share:.1%}", f"{total.worst}-way", where,
        )  # fmt: skip
    return table


@app.command(help="Count the bank conflicts of every CUDA kernel that uses shared memory, in small cases.")
def gpu_banks(
    families: Annotated[list[str] | None, typer.Argument(help=f"{', '.join(FAMILIES)}; all when none is named")] = None,
    json: Annotated[Path | None, typer.Option(help="write every place of every kernel here")] = None,
) -> None:
    for family in families or ():
        if family not in FAMILIES:
            raise typer.BadParameter(f"must be one of {', '.join(FAMILIES)}, got {family!r}")
    try:
        found = count(list(families or FAMILIES))
    except ImportError:
        typer.echo("bench.gpu_banks: this build has no host executor (TOKERNEL_SIMT=ON)", err=True)
        raise typer.Exit(2) from None
    Console(width=None if sys.stdout.isatty() else 170).print(_table(found))
    if json:
        json.parent.mkdir(parents=True, exist_ok=True)
        places = {name: total.places for name, total in found.items()}
        json.write_text(json_format.dumps(places, indent=1) + "\n")


if __name__ == "__main__":
    app()
