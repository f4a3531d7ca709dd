# SPDX-License-Identifier: Apache-2.0
"""``python -m bench.vtu_prefill``: what virtual unmerging saves in the prefill of a decoder, in one process.

A Llama of random weights takes a prompt of 64 text and 576 image positions, as LLaVA-1.5 does, whose image was merged
to the tokens of the paper's table 1. Time is processor time of one thread, the variants in turns: on a shared machine
the clock on the wall measures the neighbours.
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from tokernel.reduce.dymu import VtuPatch, patch_decoder, unpatch
from torch import Tensor

from bench.machine import describe, set_framework_threads

PATCHES, TEXT = 576, 64
TOKENS = (576, 394, 195, 89)  # of the image: unmerged, DyMU-high, -mid and -low


@dataclass
class Row:
    """One variant; `milliseconds` is the least of all rounds, `spread` the middle one's distance from it."""

    image_tokens: int
    rows: int
    milliseconds: float
    spread: float
    speedup: float = 1.0


def merged(image_tokens: int) -> Tensor:
    """Token of each position: 32 of text, the image's, 32 of text."""
    image = torch.arange(PATCHES) * image_tokens // PATCHES
    before, after = torch.arange(TEXT // 2), torch.arange(TEXT // 2, TEXT)
    return torch.cat([before, TEXT // 2 + image, image_tokens + after])


def build(width: int, layers: int) -> Any:
    """A Llama of random weights with heads of 64."""
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        vocab_size=100,
    )
    return LlamaModel(config).eval()


@torch.no_grad()
def measure(model: Any, rounds: int) -> list[Row]:
    """Time every variant; the unmerged one is the model as it is."""
    embeddings = torch.randn(1, PATCHES + TEXT, model.config.hidden_size)
    handle: VtuPatch = patch_decoder(model)
    seconds: dict[int, list[float]] = {tokens: [] for tokens in TOKENS}
    for _ in range(rounds):
        for tokens in TOKENS:
            if tokens < PATCHES:
                handle.use_mapping(merged(tokens))
            start = time.process_time()
            model(inputs_embeds=embeddings, use_cache=True)
            seconds[tokens].append(time.process_time() - start)
    unpatch(model)
    best = {tokens: min(times) for tokens, times in seconds.items()}
    return [
        Row(
            tokens,
            tokens + TEXT,
            1e3 * best[tokens],
            statistics.median(times) / best[tokens] - 1,
            best[PATCHES] / best[tokens],
        )
        for tokens, times in seconds.items()
    ]


def main(
    width: Annotated[int, typer.Option(help="of the decoder; a multiple of 64")] = 1024,
    layers: Annotated[int, typer.Option(help="of the decoder")] = 4,
    rounds: Annotated[int, typer.Option(help="passes of each variant")] = 9,
    json_path: Annotated[Path | None, typer.Option("--json", help="write the rows there")] = None,
) -> None:
    """Time the prefill of a decoder whose image was merged, against the same decoder without."""
    set_framework_threads(1)
    rows = measure(build(width, layers), rounds)
    table = Table(title=f"prefill of {PATCHES + TEXT} positions, {layers} layers of width {width}, one thread")
    for column in ("image tokens", "rows", "processor time", "spread", "speed-up"):
        table.add_column(column, justify="right")
    for row in rows:
        cells = (row.image_tokens, row.rows, f"{row.milliseconds:.0f} ms", f"{row.spread:.0%}", f"{row.speedup:.2f}x")
        table.add_row(*map(str, cells))
    Console().print(table)
    if json_path is not None:
        json_path.write_text(
            json.dumps(
                {"machine": describe([1]) | {"clock": "processor time"}, "rows": [asdict(row) for row in rows]},
                indent=1,
            )
        )


if __name__ == "__main__":
    typer.run(main)
