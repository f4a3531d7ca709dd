# SPDX-License-Identifier: Apache-2.0
"""``python -m bench.real_pruning``: what every pruning method costs two real models, against tokens kept.

Two models, nothing trained again: the ViT of :mod:`bench.digits_vit` (accuracy on held-out digits), and a pretrained
ViT-S/14 on crops of photographs (which photograph is this crop from, by the nearest class token of a gallery of other
crops). All methods shorten the sequence up to the same place, the middle of the model, to the same number of patches.
Those that choose patches look once, at what the middle block puts out. Those that work block by block start in the
first, see far fewer patches on the way, cost less, and have a random baseline of their own.
What the papers apply to the output of a vision encoder, before a language model, is here applied in the middle of a
ViT, so nothing measured is a number of theirs; what can be compared is which method is better.

Beside accuracy, coverage: the distance of every patch, in the features of the unreduced middle block, to the nearest
one that is left (or group mean), and the share of clusters of patches that still have one.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tokernel
import torch
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from tokernel import ops
from tokernel.integrations.vit import Vit
from torch import Tensor, nn

from bench import digits_vit
from bench.machine import describe, set_framework_threads
from bench.pruning_cascades import CASCADES, STEPWISE_BASELINE, Plan
from bench.pruning_methods import BASELINE, CHOOSERS, REFERENCE, finish, look
from bench.pruning_tasks import PHOTOS, Task, digits_task, photographs_task
from bench.real_models import MissingError

SHARES, QUICK_SHARES = (0.5, 0.25, 0.125, 0.0625), (0.5, 0.125)
SEEDS, STEPWISE_SEEDS = 5, 2
CHUNK = 16
UNREDUCED = "unreduced"
ADAPTIVE = ("dymu",)  # patches left are a mean over images, and told
MARKERS = "os^vD<>PXd*ph8"

CLAIMS = (
    ("class attention", BASELINE, "class attention beats random"),
    ("divprune", BASELINE, "DivPrune beats random"),
    ("divprune", REFERENCE, "DivPrune beats attention"),
    ("todre, sum", "divprune", "ToDRE beats DivPrune"),
    ("todre, sum", REFERENCE, "ToDRE beats class attention"),
    ("hiprune", "hiprune, registers alone", "HiPrune: anchors and neighbours help registers"),
    ("hiprune", BASELINE, "HiPrune beats random"),
    ("zero_tprune", BASELINE, "Zero-TPrune beats random"),
    ("zero_tprune", "zero_tprune, I-stage alone", "Zero-TPrune: I + S beats the ranking alone"),
    ("zero_tprune, block by block", "tome", "Zero-TPrune beats ToMe (milder pruning)"),
    ("dymu", "tome", "DyMU beats ToMe"),
    ("tome", STEPWISE_BASELINE, "ToMe beats random"),
    ("spatten, block by block", STEPWISE_BASELINE, "SpAtten beats random (no order claimed)"),
)


class Coverage(NamedTuple):
    """Of a batch, by image: mean cosine distance of a patch to what is left, and share of clusters left."""

    distance: Tensor
    clusters: Tensor


@dataclass
class Found:
    """One method at one number of patches, image by image."""

    states: list[Tensor] = field(default_factory=list)
    distance: list[Tensor] = field(default_factory=list)
    clusters: list[Tensor] = field(default_factory=list)
    patches: list[Tensor] = field(default_factory=list)

    def add(self, state: Tensor, coverage: Coverage, patches: Tensor) -> None:
        self.states.append(state)
        self.distance.append(coverage.distance)
        self.clusters.append(coverage.clusters)
        self.patches.append(patches)


@dataclass(frozen=True)
class Row:
    """One point of a curve; `spread` the standard deviation over seeds, 0 where nothing is drawn.

    Attributes:
        patches: mean number of patches left, of `share` times all.
        accuracy: share of images that the model is right about.
        fidelity: mean cosine of the class token to the unreduced model's.
        distance, clusters: coverage, see :class:`Coverage`.
    """

    task: str
    method: str
    share: float
    patches: float
    accuracy: float
    spread: float
    fidelity: float
    distance: float
    clusters: float


class Reference:
    """The patches of the unreduced middle block, normalised, and their clusters: what coverage is measured by."""

    def __init__(self, x: Tensor, clusters: int) -> None:
        self.unit = nn.functional.normalize(x[:, 1:].float(), dim=-1)
        self.raw = x[:, 1:].float()
        generator = torch.Generator().manual_seed(0)
        self.means = ops.kmeans(self.unit, clusters, 20, generator=generator, metric="cosine").centroids
        self.inhabited = self._clusters_of(self.unit, None)

    def of_kept(self, keep: Tensor) -> Coverage:
        """Coverage by patches that were kept, (B, kept) indices."""
        return self._of(ops.gather_rows(self.unit, keep), None)

    def of_merged(self, source: Tensor) -> Coverage:
        """Coverage by the means of groups, (B, M, N) with the members of each; a row of zeros is padding."""
        mass = source.float().sum(-1, keepdim=True)
        means = source.float() @ self.raw / mass.clamp_min(1e-6)
        return self._of(means, mass[..., 0] > 0)

    def _of(self, left: Tensor, valid: Tensor | None) -> Coverage:
        best, _ = ops.cosine_match(self.unit, left, None, valid)
        share = self._clusters_of(left, valid).sum(1) / self.inhabited.sum(1)
        return Coverage((1 - best).clamp_min(0).mean(1), share)

    def _clusters_of(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """Which clusters hold one of the rows, (B, clusters) of 0 and 1."""
        label, _ = ops.assign(nn.functional.normalize(x, dim=-1), self.means, metric="cosine")
        held = nn.functional.one_hot(label, self.means.shape[1])
        return (held if valid is None else held * valid.unsqueeze(-1)).amax(1)


@torch.inference_mode()
def measure(task: Task, shares: tuple[float, ...], seeds: int, advance: Callable[[], None]) -> dict[Any, Found]:
    """Run every method at every share; {(method, share, seed): what was found}, and the unreduced model."""
    found: dict[Any, Found] = {}
    vit = Vit(task.model)
    references: list[tuple[Tensor, Reference]] = []
    for images in task.images.split(CHUNK):
        seen = look(vit, images, task.at)
        reference = Reference(seen.x, task.clusters)
        references.append((images, reference))
        whole = torch.full((len(images),), seen.patches)
        everything = reference.of_kept(torch.arange(seen.patches).expand(len(images), -1))
        found.setdefault((UNREDUCED, 1.0, 0), Found()).add(finish(vit, seen.x, task.at), everything, whole)
        for name, choose in CHOOSERS.items():
            for share in shares:
                kept = round(share * seen.patches)
                for seed in range(seeds if name == BASELINE else 1):
                    keep = choose(seen, kept, seed + 1000 * len(references))
                    x = ops.gather_rows(seen.x, torch.cat([torch.zeros_like(keep[:, :1]), keep + 1], 1))
                    result = found.setdefault((name, share, seed), Found())
                    result.add(finish(vit, x, task.at), reference.of_kept(keep), torch.full_like(whole, kept))
            advance()
    for name, cascade in CASCADES.items():
        for share in shares:
            for seed in range(STEPWISE_SEEDS if name == STEPWISE_BASELINE else 1):
                plan = Plan(seen.patches, round(share * seen.patches), task.at, task.calibration, seed)
                if plan.reachable:
                    result = found.setdefault((name, share, seed), Found())
                    with cascade(task.model, plan) as run_batch:
                        for images, reference in references:
                            short = run_batch(images)
                            left = (short.source.sum(-1) > 0).sum(-1)
                            result.add(short.state, reference.of_merged(short.source), left)
            advance()
    return found


def steps(task: Task, shares: int) -> int:
    """How often :func:`measure` advances."""
    return -(-len(task.images) // CHUNK) * len(CHOOSERS) + shares * len(CASCADES)


@torch.inference_mode()
def rows_of(task: Task, found: dict[Any, Found]) -> tuple[list[Row], dict[tuple[str, float], Tensor]]:
    """One row a method and share, and what each was right about, image by image (a mean over seeds)."""
    whole = torch.cat(found[UNREDUCED, 1.0, 0].states)
    groups: dict[tuple[str, float], list[Found]] = {}
    for (method, share, _), result in found.items():
        groups.setdefault((method, share), []).append(result)
    rows, right = [], {}
    for (method, share), results in groups.items():
        states = [torch.cat(result.states) for result in results]
        scores = [task.score(state) for state in states]
        right[method, share] = torch.stack(scores).mean(0)
        accuracies = [score.mean().item() for score in scores]
        rows.append(
            Row(
                task.name,
                method,
                share,
                statistics.fmean(torch.cat(r.patches).float().mean().item() for r in results),
                statistics.fmean(accuracies),
                statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0,
                statistics.fmean(nn.functional.cosine_similarity(s, whole).mean().item() for s in states),
                statistics.fmean(torch.cat(r.distance).mean().item() for r in results),
                statistics.fmean(torch.cat(r.clusters).mean().item() for r in results),
            )
        )
    return rows, right


@dataclass(frozen=True)
class Verdict:
    """Whether a claimed order holds: mean difference in accuracy over the shares both have, and its standard error."""

    task: str
    claim: str
    better: str
    worse: str
    difference: float
    error: float
    verdict: str


def verdicts(task: Task, rows: Sequence[Row], right: dict[tuple[str, float], Tensor]) -> list[Verdict]:
    """Compare image by image: an order holds, or is reversed, beyond two standard errors of the mean difference.

    Only shares count at which both leave the same number of patches, up to a tenth.
    """
    out = []
    left = {(row.method, row.share): row.patches for row in rows if row.task == task.name}
    for better, worse, claim in CLAIMS:
        shares = [
            share
            for method, share in right
            if method == better and (worse, share) in right and abs(left[better, share] / left[worse, share] - 1) < 0.1
        ]
        paired = torch.stack([right[better, share] - right[worse, share] for share in shares]).mean(0)
        difference, error = paired.mean().item(), (paired.std() / len(paired) ** 0.5).item()
        word = "holds" if difference > 2 * error else "reversed" if difference < -2 * error else "no difference seen"
        out.append(Verdict(task.name, claim, better, worse, difference, error, word))
    return out


def run(quick: bool = False, threads: int = 2, progress: Progress | None = None) -> dict[str, Any]:
    """Measure both models; return what ``--json`` writes."""
    set_framework_threads(threads)
    tokernel.set_num_threads(threads)
    shares, seeds = (QUICK_SHARES, 2) if quick else (SHARES, SEEDS)
    epochs, digits, photos = (1, 64, (3, 2, 2)) if quick else (10, digits_vit.HELD_OUT, (len(PHOTOS), 4, 6))
    bar = progress or Progress(disable=True)
    line = bar.add_task("training")

    def advance() -> None:
        bar.advance(line)

    second = photographs_task(*photos)  # what is missing is said before anything runs
    bar.update(line, total=epochs * -(-(digits_vit.ALL - digits_vit.HELD_OUT) // 64))
    tasks = (digits_task(epochs, digits, advance), second)
    rows: list[Row] = []
    judged: list[Verdict] = []
    for task in tasks:
        bar.reset(line, description=task.name, total=steps(task, len(shares)))
        found = measure(task, shares, seeds, advance)
        points, right = rows_of(task, found)
        rows += points
        judged += verdicts(task, points, right)
    return {
        "machine": describe([threads]),
        "cpu_seconds": time.process_time(),
        "quick": quick,
        "seeds": seeds,
        "images": {task.name: task.asked for task in tasks},
        "rows": [asdict(row) for row in rows],
        "verdicts": [asdict(verdict) for verdict in judged],
    }


MEASURES = {"accuracy": "right, %", "distance": "distance", "clusters": "clusters left, %"}


def table_rows(document: dict[str, Any]) -> list[list[str]]:
    """One line a model, measure and method; a column a share of patches."""
    rows = [Row(**row) for row in document["rows"]]
    shares = sorted({row.share for row in rows if row.method != UNREDUCED}, reverse=True)
    lines = [["model", "measure", "method", *(f"{share:.1%}" for share in shares)]]
    for task in dict.fromkeys(row.task for row in rows):
        for measure_name, title in MEASURES.items():
            for method in dict.fromkeys(row.method for row in rows):
                points = {row.share: row for row in rows if (row.task, row.method) == (task, method)}
                if method == UNREDUCED:
                    points = dict.fromkeys(shares, points[1.0])
                cells = [_cell(points[share], measure_name) if share in points else "-" for share in shares]
                lines.append([task, title, method, *cells])
    return lines


def _cell(row: Row, name: str) -> str:
    value = getattr(row, name)
    if name == "distance":
        return f"{value:.3f}"
    cell = f"{100 * value:.1f}"
    if name == "accuracy" and row.spread:
        cell += f" ± {100 * row.spread:.1f}"
    if name == "accuracy" and row.method in ADAPTIVE:
        cell += f" ({row.patches:.0f})"
    return cell


def verdict_rows(document: dict[str, Any]) -> list[list[str]]:
    """One line a claim and model."""
    lines = [["claimed", "model", "difference, points", "verdict"]]
    for verdict in (Verdict(**verdict) for verdict in document["verdicts"]):
        difference = f"{100 * verdict.difference:+.1f} ± {100 * verdict.error:.1f}"
        lines.append([verdict.claim, verdict.task, difference, verdict.verdict])
    return lines


def print_table(console: Console, title: str, lines: list[list[str]]) -> None:
    """Print lines, the first of them the head."""
    table = Table(title=title, title_justify="left")
    for name in lines[0]:
        table.add_column(name)
    for line in lines[1:]:
        table.add_row(*line)
    console.print(table)


def write_markdown(path: Path, document: dict[str, Any]) -> None:
    """Write both tables as Markdown."""
    text = []
    for lines in (table_rows(document), verdict_rows(document)):
        head, *body = lines
        text.append("".join(f"| {' | '.join(line)} |\n" for line in (head, ["---"] * len(head), *body)))
    path.write_text("\n".join(text))


def write_plot(path: Path, document: dict[str, Any]) -> None:
    """Plot accuracy and coverage against the patches left, a column a model."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    rows = [Row(**row) for row in document["rows"]]
    tasks = list(dict.fromkeys(row.task for row in rows))
    figure, axes = pyplot.subplots(2, len(tasks), figsize=(6.5 * len(tasks), 9), layout="constrained", squeeze=False)
    colours = pyplot.get_cmap("tab20").colors
    methods = [method for method in dict.fromkeys(row.method for row in rows) if method != UNREDUCED]
    for column, task in enumerate(tasks):
        for place, method in enumerate(methods):
            line = sorted((row for row in rows if (row.task, row.method) == (task, method)), key=lambda row: row.share)
            dashed = ":" if method in (BASELINE, STEPWISE_BASELINE) else "--" if method in CASCADES else "-"
            style = {"marker": MARKERS[place % len(MARKERS)], "linestyle": dashed, "color": colours[place]}
            x = [row.patches for row in line]
            spread = [100 * row.spread for row in line]
            axes[0][column].errorbar(x, [100 * row.accuracy for row in line], spread, label=method, **style)
            axes[1][column].plot(x, [row.distance for row in line], **style)
        whole = next(row for row in rows if (row.task, row.method) == (task, UNREDUCED))
        axes[0][column].axhline(100 * whole.accuracy, color="black", linewidth=1)
        axes[0][column].set_title(f"{task}, {whole.patches:.0f} patches: black line")
        axes[0][column].set_ylabel("right, %")
        axes[1][column].set_ylabel("mean distance of a patch to the nearest one left")
        for axis in axes[:, column]:
            axis.set_xscale("log", base=2)
            axis.set_xlabel("patches left")
            axis.grid(alpha=0.3)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=9)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main(
    quick: Annotated[bool, typer.Option("--quick", help="a run of seconds that proves only that it runs")] = False,
    threads: Annotated[int, typer.Option(min=1, help="threads of torch and of tokernel")] = 2,
    json_path: Annotated[Path | None, typer.Option("--json", help="write the results here")] = None,
    plot_path: Annotated[Path | None, typer.Option("--plot", help="write a plot of them here")] = None,
    markdown_path: Annotated[Path | None, typer.Option("--markdown", help="write the tables here")] = None,
) -> None:
    """Prune two real models with every method and compare."""
    try:
        with Progress(console=Console(stderr=True)) as progress:
            document = run(quick, threads, progress)
    except MissingError as missing:
        Console(stderr=True).print(f"real_pruning cannot run here: {missing}")
        raise typer.Exit(1) from None
    console = Console()
    print_table(console, "two models, pruned in the middle, by share of patches left", table_rows(document))
    print_table(console, "orders that the papers claim", verdict_rows(document))
    if json_path:
        json_path.write_text(json.dumps(document, indent=1) + "\n")
    if plot_path:
        write_plot(plot_path, document)
    if markdown_path:
        write_markdown(markdown_path, document)


if __name__ == "__main__":
    typer.run(main)
