# SPDX-License-Identifier: Apache-2.0
"""``python -m bench.real_attention``: how well semantic blocks (svg2) sort the attention of real trained models.

k-means on queries and on keys, the map of centroids, and the density, recall and error that the map gives, against
three other choices: contiguous blocks of tokens as they stand (as many, by the same rule), clusters drawn at random
(about as many pairs), and for every query the keys of most true mass (exactly as many). Recall is the share of the true
softmax mass that is kept: ``exp(lse_kept - lse_dense)``, from our own kernel.

The language model's mask: the sizes that the map weighs clusters by count the keys that the mask lets a query cluster
see [ours, the method is for attention without a mask], and what the map keeps is then cut with the mask. Density and
recall count visible pairs only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tokernel
import torch
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from tokernel import ops
from torch import Tensor

from bench.machine import describe, set_framework_threads
from bench.real_models import Heads, MissingError, language_heads, vision_heads

TOP_P = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
IMAGES = ("astronaut", "coffee", "chelsea", "rocket")
VIT_LAYERS, VIT_BLOCKS = (1, 4, 7, 11), ((8, 32), (16, 64), (32, 128))
LM_LAYERS, LM_BLOCKS = (2, 11, 20, 29), ((16, 64), (32, 128))
LM_TOKENS, LM_QUERIES = 2048, 1024
KMEANS_ITERS = 50  # svg2's own number for a cold start
CHOICES = ("clusters", "contiguous", "random", "oracle")


class Blocks(NamedTuple):
    """Queries and keys cut into blocks: labels (H, N), means (1, H, C, D), sizes (1, H, C)."""

    q_labels: Tensor
    k_labels: Tensor
    q_means: Tensor
    k_means: Tensor
    q_sizes: Tensor
    k_sizes: Tensor


class Kept(NamedTuple):
    """What a choice of pairs keeps, a mean over heads."""

    density: float
    recall: float
    error: float


@dataclass(frozen=True)
class Row:
    """One point: `recall` the share of true mass kept, `error` the relative L2 error of the output."""

    model: str
    layer: int
    blocks: tuple[int, int]
    choice: str
    top_p: float
    density: float
    recall: float
    error: float


def repeat_kv(x: Tensor, heads: int) -> Tensor:
    """Give every query head its own copy of what its key head has."""
    return x.repeat_interleave(heads // x.shape[1], 1)


def clustered(heads: Heads, counts: tuple[int, int]) -> Blocks:
    """k-means on the queries and on the keys of every head, as svg2 begins."""
    generator = torch.Generator().manual_seed(0)
    q, k = (
        ops.kmeans(x[0], count, KMEANS_ITERS, generator=generator)
        for x, count in zip((heads.q, heads.k), counts, strict=True)
    )
    H, G = heads.q.shape[1], heads.k.shape[1]
    k_labels, k_means, k_sizes = (x.repeat_interleave(H // G, 0) for x in (k.labels, k.centroids, k.sizes))
    return Blocks(q.labels, k_labels, q.centroids[None], k_means[None], q.sizes[None], k_sizes[None])


def contiguous(heads: Heads, counts: tuple[int, int]) -> Blocks:
    """As many blocks of tokens as they stand, equal in size up to one."""
    H, parts = heads.q.shape[1], []
    for x, count in zip((heads.q, heads.k), counts, strict=True):
        N = x.shape[2]
        labels = torch.arange(N) * count // N
        means = ops.segment_reduce(repeat_kv(x, H)[0], ids=labels, segments=count)
        sizes = torch.bincount(labels, minlength=count)
        parts.append((labels.expand(H, N), means[None], sizes.expand(1, H, count)))
    (q_labels, q_means, q_sizes), (k_labels, k_means, k_sizes) = parts
    return Blocks(q_labels, k_labels, q_means, k_means, q_sizes, k_sizes)


def pairs(blocks: Blocks, kept: Tensor) -> Tensor:
    """Spell a map (1, H, Cq, Ck) out token by token: (1, H, Nq, Nk)."""
    rows = kept[0].gather(1, blocks.q_labels[..., None].expand(-1, -1, kept.shape[3]))
    return rows.gather(2, blocks.k_labels[:, None].expand(-1, rows.shape[1], -1))[None]


def weights(heads: Heads, blocks: Blocks) -> Tensor:
    """Count the visible pairs of every pair of blocks, (1, H, Cq, Ck)."""
    if not heads.causal:
        return blocks.q_sizes.unsqueeze(3) * blocks.k_sizes.unsqueeze(2)
    rows, columns = (
        torch.nn.functional.one_hot(labels.long(), sizes.shape[2]).float()
        for labels, sizes in ((blocks.q_labels, blocks.q_sizes), (blocks.k_labels, blocks.k_sizes))
    )
    return (rows.mT @ (visible(heads).float() @ columns)).round().long()[None]


def centroid_map(heads: Heads, blocks: Blocks, p: float) -> Tensor:
    """svg2's map of blocks, (1, H, Cq, Ck); under a mask a row weighs a cluster by what it sees of it."""
    if not heads.causal:
        return ops.centroid_topp_map(blocks.q_means, blocks.k_means, blocks.k_sizes, p)
    # The op has one row of sizes for all query clusters of a sample: make each of them a sample.
    q, sizes = (x[0].transpose(0, 1).contiguous() for x in (blocks.q_means, weights(heads, blocks)))
    k = blocks.k_means.expand(len(q), -1, -1, -1).contiguous()
    return ops.centroid_topp_map(q.unsqueeze(2), k, sizes, p).permute(2, 1, 0, 3).contiguous()


def visible(heads: Heads) -> Tensor:
    """What the model itself lets a query see, (Nq, Nk)."""
    Nq, Nk = heads.q.shape[2], heads.k.shape[2]
    seen = torch.ones(Nq, Nk, dtype=torch.bool)
    return seen.tril(Nk - Nq) if heads.causal else seen


class Attention:
    """The dense attention of one layer, and what of it a choice of pairs keeps."""

    def __init__(self, heads: Heads) -> None:
        self.heads = heads
        policy = ops.Causal() if heads.causal else ops.Dense()
        self.dense, self.lse = ops.attention(heads.q, heads.k, heads.v, policy, return_lse=True)
        k = repeat_kv(heads.k, heads.q.shape[1])
        scores = (heads.q @ k.mT * heads.q.shape[-1] ** -0.5).masked_fill(~visible(heads), -torch.inf)
        self.order = scores.argsort(dim=-1, descending=True, stable=True)
        self.visible = visible(heads)

    def kept(self, out: Tensor, lse: Tensor, dense: Tensor, dense_lse: Tensor, density: float) -> Kept:
        error = (out - dense).flatten(2).norm(dim=-1) / dense.flatten(2).norm(dim=-1)
        return Kept(density, (lse - dense_lse).exp().mean().item(), error.mean().item())

    def by_mask(self, mask: Tensor) -> Kept:
        """Pairs one by one, and nothing that the model itself hides."""
        heads = self.heads
        policy = ops.Mask(mask, causal=heads.causal)
        out, lse = ops.attention(heads.q, heads.k, heads.v, policy, return_lse=True)
        density = (mask & self.visible).sum() / (self.visible.sum() * mask.shape[1])
        return self.kept(out, lse, self.dense, self.lse, density.item())

    def by_blocks(self, blocks: Blocks, chosen: Tensor) -> Kept:
        """Whole blocks: permuted, attended, put back, the way svg2 runs."""
        heads = self.heads
        if heads.causal:
            return self.by_mask(pairs(blocks, chosen))
        q_order, k_order = (
            ops.sort_by_label(labels.contiguous(), count)[0][None]
            for labels, count in ((blocks.q_labels, chosen.shape[2]), (blocks.k_labels, chosen.shape[3]))
        )
        q = ops.permute_rows(heads.q, q_order)
        k, v = (ops.permute_rows(repeat_kv(x, q.shape[1]), k_order) for x in (heads.k, heads.v))
        policy = ops.BlockMap(chosen, blocks.q_sizes, blocks.k_sizes)
        out, lse = ops.attention(q, k, v, policy, return_lse=True)
        density = ops.map_density(chosen, blocks.q_sizes, blocks.k_sizes).mean().item()
        return self.kept(ops.inverse_permute_rows(out, q_order), lse, self.dense, self.lse.gather(2, q_order), density)

    def oracle(self, mask: Tensor) -> Kept:
        """For every query as many keys as the mask gives it, those of most true mass."""
        counts = (mask & self.visible).sum(-1, keepdim=True)
        best = torch.arange(mask.shape[-1]) < counts
        return self.by_mask(torch.zeros_like(mask).scatter(-1, self.order, best))


def random_like(chosen: Tensor, weight: Tensor) -> Tensor:
    """For every row, clusters drawn at random until they hold as many pairs as the row's own."""
    generator = torch.Generator().manual_seed(1)
    wanted = (chosen * weight).sum(-1, keepdim=True)
    order = torch.rand(chosen.shape, generator=generator).argsort(-1)
    drawn = weight.gather(-1, order)
    before = drawn.cumsum(-1) - drawn
    return torch.zeros_like(chosen).scatter(-1, order, before < wanted)


def measure(heads: Heads, settings: Sequence[tuple[int, int]], top_p: Sequence[float] = TOP_P) -> list[Row]:
    """Every setting, choice and top-p on one layer."""
    attention, rows = Attention(heads), []
    for counts in settings:
        by_cluster, by_place = clustered(heads, counts), contiguous(heads, counts)
        weight = weights(heads, by_cluster)
        for p in top_p:
            chosen, placed = (centroid_map(heads, blocks, p) for blocks in (by_cluster, by_place))
            found = {
                "clusters": attention.by_blocks(by_cluster, chosen),
                "contiguous": attention.by_blocks(by_place, placed),
                "random": attention.by_blocks(by_cluster, random_like(chosen, weight)),
                "oracle": attention.oracle(pairs(by_cluster, chosen)),
            }
            rows += [Row(heads.model, heads.layer, counts, choice, p, *kept) for choice, kept in found.items()]
    return rows


def averaged(rows: Iterable[Row], over: Callable[[Row], Row]) -> list[Row]:
    """Average the points that `over` maps to the same key; its measured fields do not count."""
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        key = over(row)
        groups[key.model, key.layer, key.blocks, key.choice, key.top_p].append(row)
    return [
        Row(*key, *(statistics.fmean(getattr(row, name) for row in group) for name in ("density", "recall", "error")))
        for key, group in groups.items()
    ]


def density_for(curve: Sequence[Row], recall: float) -> float | None:
    """The density at which a curve reaches a recall, between its points on a line; None where it does not."""
    points = sorted((row.density, row.recall) for row in curve)
    for (x0, y0), (x1, y1) in zip([(0.0, 0.0), *points], points, strict=False):
        if y0 < recall <= y1:
            return x0 + (x1 - x0) * (recall - y0) / (y1 - y0)
    return None


def run(threads: int = 2, progress: Progress | None = None) -> dict[str, Any]:
    """Measure both models; return what ``--json`` writes."""
    set_framework_threads(threads)
    tokernel.set_num_threads(threads)
    bar = progress or Progress(disable=True)
    task = bar.add_task("attention", total=len(IMAGES) * (1 + len(VIT_LAYERS)) + 1 + len(LM_LAYERS))

    def advance() -> None:
        bar.advance(task)

    text = Path(argparse.__file__).read_text(encoding="utf-8")
    rows = []
    for heads, settings in (
        *((h, VIT_BLOCKS) for h in vision_heads(IMAGES, VIT_LAYERS, advance)),
        *((h, LM_BLOCKS) for h in language_heads(text, LM_TOKENS, LM_QUERIES, LM_LAYERS, advance)),
    ):
        rows += measure(heads, settings)
        advance()
    rows = averaged(rows, lambda row: row)
    return {
        "machine": describe([threads]),
        "cpu_seconds": time.process_time(),
        "images": IMAGES,
        "text": f"argparse.py, the first {LM_TOKENS} tokens; queries: the last {LM_QUERIES}",
        "rows": [asdict(row) for row in rows],
    }


def rows_of(document: dict[str, Any]) -> list[Row]:
    """The points of a document, averaged over layers (layer -1)."""
    rows = [Row(**row | {"blocks": tuple(row["blocks"])}) for row in document["rows"]]
    return averaged(rows, lambda r: Row(r.model, -1, r.blocks, r.choice, r.top_p, 0, 0, 0))


def curves(rows: Sequence[Row]) -> dict[tuple[str, tuple[int, int]], dict[str, list[Row]]]:
    """Points by (model, blocks), then by choice."""
    found: dict[tuple[str, tuple[int, int]], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        found[row.model, row.blocks][row.choice].append(row)
    return found


def table_rows(document: dict[str, Any]) -> list[list[str]]:
    """One line a model, number of blocks and choice: the point at top-p 0.9, and the density that recall 0.9 needs."""
    lines = []
    for (model, (cq, ck)), by_choice in curves(rows_of(document)).items():
        for choice in CHOICES:
            at = next(row for row in by_choice[choice] if row.top_p == 0.9)
            needed = density_for(by_choice[choice], 0.9)
            numbers = (f"{value:.3f}" for value in (at.density, at.recall, at.error))
            lines.append([model, f"{cq} x {ck}", choice, *numbers, "-" if needed is None else f"{needed:.3f}"])
    return lines


COLUMNS = ("model", "blocks", "choice", "density", "recall", "error", "density for recall 0.9")


def print_table(console: Console, document: dict[str, Any]) -> None:
    """Print the lines."""
    table = Table(title="attention kept at top-p 0.9, mean over layers, heads and inputs", title_justify="left")
    for name in COLUMNS:
        table.add_column(name)
    for line in table_rows(document):
        table.add_row(*line)
    console.print(table)


def write_markdown(path: Path, document: dict[str, Any]) -> None:
    """Write the lines as a table of Markdown."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *table_rows(document)]
    path.write_text("".join(f"| {' | '.join(line)} |\n" for line in lines))


def write_plot(path: Path, document: dict[str, Any]) -> None:
    """Plot recall and error against density, a column for each model at its finest blocks."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    finest = {model: (blocks, by) for (model, blocks), by in curves(rows_of(document)).items()}
    figure, axes = pyplot.subplots(2, len(finest), figsize=(5 * len(finest), 7), layout="constrained", squeeze=False)
    for column, (model, ((cq, ck), by_choice)) in enumerate(finest.items()):
        for choice, marker in zip(CHOICES, "osx^", strict=True):
            line = sorted(by_choice[choice], key=lambda row: row.density)
            for row, name in enumerate(("recall", "error")):
                values = [getattr(point, name) for point in line]
                axes[row][column].plot([point.density for point in line], values, marker=marker, label=choice)
        axes[0][column].set_title(f"{model}, {cq} x {ck} blocks")
    for row, label in enumerate(("share of the true softmax mass kept", "relative L2 error of the output")):
        axes[row][0].set_ylabel(label)
        for axis in axes[row]:
            axis.set(xlabel="density", xlim=(0, 1), ylim=(0, 1.02 if row == 0 else None))
            axis.grid(alpha=0.3)
    axes[0][0].legend()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def main(
    threads: Annotated[int, typer.Option(min=1, help="threads of torch and of tokernel")] = 2,
    json_path: Annotated[Path | None, typer.Option("--json", help="write the results here")] = None,
    plot_path: Annotated[Path | None, typer.Option("--plot", help="write a plot of them here")] = None,
    markdown_path: Annotated[Path | None, typer.Option("--markdown", help="write the table here")] = None,
) -> None:
    """Cluster and prune the attention of a real ViT and a real language model."""
    try:
        with Progress(console=Console(stderr=True)) as progress:
            document = run(threads, progress)
    except MissingError as missing:
        Console(stderr=True).print(f"real_attention cannot run here: {missing}")
        raise typer.Exit(1) from None
    print_table(Console(), document)
    if json_path:
        json_path.write_text(json.dumps(document, indent=1) + "\n")
    if plot_path:
        write_plot(plot_path, document)
    if markdown_path:
        write_markdown(markdown_path, document)


if __name__ == "__main__":
    typer.run(main)
