# SPDX-License-Identifier: Apache-2.0
"""``python -m bench.digits_vit``: what merging costs a real model, measured side by side in one process.

Trains a small transformers ViT on scikit-learn's digits (8 x 8 images, a token a pixel), then shortens its sequence
with ToMe, with DiffRate and by dropping tokens at random, without training it again. Each variant is a copy of the one
trained model.
"""

from __future__ import annotations

import copy
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from tokernel.integrations.vit import VitPatch
from tokernel.ops import gather_rows
from tokernel.reduce import diffrate, tome
from torch import Tensor, nn

from bench.machine import describe, set_framework_threads

EDGE, WIDTH, LAYERS, HEADS, CLASSES = 8, 64, 6, 4, 10
TOKENS = EDGE * EDGE + 1
ALL, HELD_OUT = 1797, 360
TIMED = 120  # images of one timed forward pass
SEARCH_STEPS, SEARCH_RATE = 60, 0.1


@dataclass(frozen=True)
class Digits:
    """Images (N, 1, 8, 8) in [0, 1] and labels."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


@dataclass
class Row:
    """One variant: `tokens` counts what the last block puts out, `gflops` multiply-adds an image."""

    variant: str
    accuracy: float
    tokens: int
    gflops: float
    images_per_second: float = 0.0
    speedup: float = 0.0


class RandomDrop(VitPatch):
    """The control: after attention, every block drops as many patches as it should keep no longer, at random."""

    def __init__(self, model: nn.Module, kept: list[int]) -> None:
        super().__init__(model)
        self.kept = kept

    def block(self, index: int, view: Any, x: Tensor, dense: Callable[[Tensor], Tensor]) -> Tensor:
        if self.kept[index] >= x.shape[1]:
            return dense(x)
        q, k, v = view.heads(x)
        x = x + view.after_attention(tome.proportional_attention(q, k, v, scale=view.scale))
        generator = torch.Generator().manual_seed(index)
        x = gather_rows(
            x, diffrate.importance_order(torch.rand(x.shape[:2], generator=generator))[:, : self.kept[index]]
        )
        return x + view.mlp(x)


def load_digits() -> Digits:
    """Split the 1,797 digits: the last 360 of a fixed shuffle are held out."""
    from sklearn import datasets

    digits = datasets.load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(digits.images, dtype=torch.float32)[order, None] / 16
    y = torch.tensor(digits.target)[order]
    return Digits(x[:-HELD_OUT], y[:-HELD_OUT], x[-HELD_OUT:], y[-HELD_OUT:])


def build_model() -> nn.Module:
    """Make a ViT of 64 + 1 tokens; its patches come from a 3 x 3 convolution of stride 1."""
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        image_size=EDGE,
        patch_size=1,
        num_channels=1,
        num_labels=CLASSES,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = ViTForImageClassification(config)
    embeddings = model.vit.embeddings
    embeddings.patch_embeddings.projection = nn.Conv2d(1, WIDTH, 3, padding=1)
    nn.init.normal_(embeddings.position_embeddings)
    return model


def train(model: nn.Module, data: Digits, epochs: int, advance: Callable[[], None]) -> float:
    """Train with AdamW on one cycle; return the seconds it took."""
    started = time.perf_counter()
    batches = -(-len(data.train_x) // 64)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=epochs * batches)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    generator = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(data.train_x), generator=generator).split(64):
            optimiser.zero_grad()
            criterion(model(data.train_x[batch]).logits, data.train_y[batch]).backward()
            optimiser.step()
            cycle.step()
            advance()
    model.eval()
    return time.perf_counter() - started


@torch.inference_mode()
def accuracy(model: nn.Module, data: Digits) -> float:
    """Share of the held-out digits that are named rightly."""
    return (model(data.test_x).logits.argmax(-1) == data.test_y).float().mean().item()


def gflops(kept: list[int]) -> float:
    """Multiply-adds of one image in units of 10^9, by the official count of DiffRate."""
    return diffrate.vit_flops(WIDTH, 3, EDGE * EDGE, kept, kept, classes=CLASSES, channels=1).item() / 1e9


def kept_by(schedule: list[int]) -> list[int]:
    """Tokens that each layer leaves when ToMe merges by a schedule."""
    kept, tokens = [], TOKENS
    for r in schedule:
        tokens -= min(r, (tokens - 1) // 2)
        kept.append(tokens)
    return kept


def search(model: nn.Module, data: Digits, target: float, advance: Callable[[], None]) -> diffrate.Schedule:
    """Let DiffRate learn a schedule that costs `target` GFLOPs on the training images."""
    searched = diffrate.DiffRateSearch(copy.deepcopy(model), target, granularity=1, weight=5 / target**2)
    optimiser = torch.optim.AdamW(searched.parameters(), lr=SEARCH_RATE, weight_decay=0)
    cycle = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, SEARCH_STEPS, SEARCH_RATE / 10)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    generator = torch.Generator().manual_seed(1)
    for _ in range(SEARCH_STEPS):
        batch = torch.randint(len(data.train_x), (64,), generator=generator)
        optimiser.zero_grad()
        searched.loss(criterion(searched(data.train_x[batch]).logits, data.train_y[batch])).backward()
        optimiser.step()
        cycle.step()
        advance()
    return searched.finish()


def variants(model: nn.Module, found: diffrate.Schedule) -> dict[str, tuple[nn.Module, list[int]]]:
    """Patched copies of the model, and the tokens each of their blocks leaves."""
    made: dict[str, tuple[nn.Module, list[int]]] = {"unpatched": (copy.deepcopy(model), [TOKENS] * LAYERS)}

    def add(name: str, patch: Callable[[nn.Module], Any], kept: list[int]) -> None:
        twin = copy.deepcopy(model)
        patch(twin)
        made[name] = (twin, kept)

    for label, r in (("r=4", 4), ("r=8", 8), ("r=(8, -1)", (8, -1.0))):
        kept = kept_by(tome.parse_r(LAYERS, r))
        add(f"tome {label}", lambda twin, r=r: tome.patch_vit(twin, r), kept)
        add(f"random drop, tokens of {label}", lambda twin, kept=kept: RandomDrop(twin, kept).install(), kept)
    kept = kept_by([8] * LAYERS)
    add("tome r=8, plain attention", lambda twin: tome.patch_vit(twin, 8, prop_attn=False), kept)
    # Half of what r = 8 takes away is pruned and half merged.
    pruned = [(before + after + 1) // 2 for before, after in zip([TOKENS, *kept], kept, strict=False)]
    add("diffrate, tokens of r=8", lambda twin: diffrate.patch_vit(twin, pruned, kept), kept)
    add("diffrate searched, FLOPs of r=8", lambda twin: diffrate.patch_vit(twin, *found), running_minimum(found))
    return made


def running_minimum(schedule: diffrate.Schedule) -> list[int]:
    """Tokens that each block leaves by a DiffRate schedule."""
    kept, tokens = [], TOKENS
    for pair in zip(*schedule, strict=True):
        tokens = min(tokens, *pair)
        kept.append(tokens)
    return kept


@torch.inference_mode()
def measure_throughput(models: dict[str, nn.Module], images: Tensor, rounds: int) -> dict[str, float]:
    """Images a second: the median of rounds in which every model runs once."""
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(rounds + 1):
        for name, model in models.items():
            started = time.perf_counter()
            model(images)
            if turn:  # the first round warms up
                seconds[name].append(time.perf_counter() - started)
    return {name: len(images) / statistics.median(times) for name, times in seconds.items()}


def measure(model: nn.Module, data: Digits, rounds: int, advance: Callable[[], None]) -> dict[str, Any]:
    """Shorten a trained model in every way and compare the ways."""
    found = search(model, data, gflops(kept_by([8] * LAYERS)), advance)
    made = variants(model, found)
    rows = [Row(name, accuracy(twin, data), kept[-1], gflops(kept)) for name, (twin, kept) in made.items()]
    rates = measure_throughput({name: twin for name, (twin, _) in made.items()}, data.test_x[:TIMED], rounds)
    for row in rows:
        row.images_per_second = rates[row.variant]
        row.speedup = rates[row.variant] / rates["unpatched"]
    return {"searched": found._asdict(), "rows": [asdict(row) for row in rows]}


def run(epochs: int = 10, rounds: int = 15, threads: int = 1, progress: Progress | None = None) -> dict[str, Any]:
    """Train, shorten, measure; return what ``--json`` writes."""
    set_framework_threads(threads)
    data, model = load_digits(), build_model()
    bar = progress or Progress(disable=True)
    task = bar.add_task("training", total=epochs * -(-len(data.train_x) // 64) + SEARCH_STEPS)

    def advance() -> None:
        bar.advance(task)

    training: dict[str, float] = {"epochs": epochs, "images": len(data.train_x), "held_out": HELD_OUT}
    training["seconds"] = train(model, data, epochs, advance)
    measured = measure(model, data, rounds, advance)
    return {"machine": describe([threads]), "training": training, **measured}


def print_table(console: Console, document: dict[str, Any]) -> None:
    """Print the rows."""
    table = Table(title="a ViT trained on digits, shortened without training", title_justify="left")
    table.add_column("variant")
    for name in ("accuracy", "tokens out", "GFLOPs", "images/s", "speed-up"):
        table.add_column(name, justify="right")
    for row in document["rows"]:
        table.add_row(
            row["variant"],
            f"{row['accuracy']:.1%}",
            str(row["tokens"]),
            f"{row['gflops']:.4f}",
            f"{row['images_per_second']:.0f}",
            f"{row['speedup']:.2f}x",
        )
    console.print(table)


def write_plot(path: Path, document: dict[str, Any]) -> None:
    """Plot accuracy against multiply-adds."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for family, marker in (("unpatched", "*"), ("tome", "o"), ("diffrate", "s"), ("random", "x")):
        rows = [row for row in document["rows"] if row["variant"].startswith(family)]
        x, y = [1e3 * row["gflops"] for row in rows], [100 * row["accuracy"] for row in rows]
        axes.scatter(x, y, marker=marker, label=family, s=60)
        for place, (row, *point) in enumerate(zip(rows, x, y, strict=True)):
            label = row["variant"].removeprefix(family).strip(", ")
            up = (4, -10)[place % 2]
            axes.annotate(label, point, fontsize=7, xytext=(5, up), textcoords="offset points")
    axes.set(xlabel="million multiply-adds an image", ylabel="accuracy on 360 held-out digits, %")
    axes.set_title("Token reduction of a trained ViT, no further training")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def main(
    epochs: Annotated[int, typer.Option(min=1, help="passes over the 1,437 training images")] = 10,
    rounds: Annotated[int, typer.Option(min=1, help="timed rounds, in which every variant runs once")] = 15,
    threads: Annotated[int, typer.Option(min=1, help="threads of torch and of tokernel")] = 1,
    json_path: Annotated[Path | None, typer.Option("--json", help="write the results here")] = None,
    plot_path: Annotated[Path | None, typer.Option("--plot", help="write a plot of them here")] = None,
) -> None:
    """Train a ViT on digits and measure what ToMe and DiffRate cost and save."""
    with Progress(console=Console(stderr=True)) as progress:
        document = run(epochs, rounds, threads, progress)
    print_table(Console(), document)
    if json_path:
        json_path.write_text(json.dumps(document, indent=1) + "\n")
    if plot_path:
        write_plot(plot_path, document)


if __name__ == "__main__":
    typer.run(main)
