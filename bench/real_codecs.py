# SPDX-License-Identifier: Apache-2.0
"""``python -m bench.real_codecs``: real photographs and real speech as tokens, by every kind of quantizer.

Pictures: one small convolutional autoencoder is trained around each quantizer, and judged on photographs it never saw:
bits a patch, use of the codebooks, PSNR. The latents of the one without a quantizer are then made discrete after
training (TokenBridge). Sound: stacks of residual codebooks, read to different depths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tokernel
import torch
import typer
from rich.console import Console
from rich.progress import Progress
from tokernel import ops
from tokernel.codecs.tokenbridge import GaussianScalarQuantizer
from torch import Tensor

from bench import codec_audio, codec_ladder, codec_pictures
from bench.codec_quantizers import CANDIDATES, Candidate
from bench.machine import Clock, describe, set_framework_threads
from bench.real_models import MissingError
from bench.tables import print_tables, write_json, write_markdown

STEPS, QUICK_STEPS = 1200, 3
PROMPTS_QUICK = 12
BOOKS, CODES, QUICK_CODES = 16, 1024, 16
DEPTHS = (1, 2, 4, 8, 16)
LEVEL_BITS = range(1, 9)
SHOWN = (3, 17, 31, 45, 52, 60)  # crops of the picture of reconstructions


@dataclass(frozen=True)
class Row:
    """One trained autoencoder.

    Attributes:
        bits: a patch of 8 x 8 pixels, were all codes equally likely.
        entropy_bits: the same by how often the codes are used on the judging photographs.
        usage: share of the codes used there, mean over books; of at most as many codes as there are patches.
        psnr: of the judging photographs, in dB.
        seconds: of training.
    """

    quantizer: str
    bits: float
    entropy_bits: float
    usage: float
    perplexity: float
    psnr: float
    seconds: float


@dataclass(frozen=True)
class Point:
    """Latents made discrete after training: bits a channel, mean squared error in units of their spread, PSNR."""

    bits: int
    error: float
    psnr: float


def _used(ids: Tensor, books: Sequence[int]) -> tuple[float, float, float]:
    """Bits by entropy, summed over books; usage and perplexity, means over books."""
    stats = [ops.codebook_stats(ids[:, at].contiguous(), codes) for at, codes in enumerate(books)]
    bits = sum(float(s.entropy) for s in stats) / torch.tensor(2.0).log().item()
    usage, perplexity = (sum(float(getattr(s, name)) for s in stats) / len(stats) for name in ("usage", "perplexity"))
    return bits, usage, perplexity


def _judge_pictures(
    candidates: Sequence[Candidate], steps: int, advance: Callable[[], None]
) -> tuple[list[Row], list[Point], dict[str, Tensor]]:
    pictures = codec_pictures.load_pictures()
    rows, points, shown = [], [], {"original": pictures.judge}
    for candidate in candidates:
        torch.manual_seed(0)
        model, module = codec_pictures.Autoencoder(candidate.width), candidate.make()
        quantize = candidate.bound(module)
        start = Clock.now()
        codec_pictures.train(model, quantize, pictures, steps, list(module.parameters()), advance)
        seconds = Clock.now() - start
        module.eval()
        judged = codec_pictures.judge(model, quantize, pictures)
        quality = codec_pictures.psnr(judged.pictures, pictures.judge)
        used = _used(judged.ids, candidate.books) if judged.ids is not None else (0.0, 0.0, 0.0)
        rows.append(Row(candidate.name, candidate.bits, *used, quality, seconds))
        shown[candidate.name] = judged.pictures
        if judged.ids is None:
            points = _after_training(model, judged.latents, pictures.judge)
    return rows, points, shown


@torch.no_grad()
def _after_training(model: codec_pictures.Autoencoder, latents: Tensor, pictures: Tensor) -> list[Point]:
    """TokenBridge: every channel by a Gaussian's levels, its range six of its standard deviations wide."""
    centre, spread = latents.mean((0, 2, 3), keepdim=True), latents.std((0, 2, 3), keepdim=True)
    units = (latents - centre) / spread
    points = []
    for bits in LEVEL_BITS:
        again = GaussianScalarQuantizer(bits, lo=-3.0, hi=3.0).forward(units).quantized
        ours = model.decoder(again * spread + centre).clamp(-1, 1)
        points.append(Point(bits, float((again - units).square().mean()), codec_pictures.psnr(ours, pictures)))
    return points


def _judge_audio(folder: Path, quick: bool, advance: Callable[[], None]) -> list[codec_ladder.Rung]:
    sounds = codec_audio.read_prompts(folder)
    fitted, judging = codec_ladder.split_speech(sounds[:PROMPTS_QUICK] if quick else sounds)
    rungs = []
    for stack, groups in (("one stack", 1), ("four bands", codec_ladder.BANDS)):
        books = BOOKS // groups
        rows = codec_ladder.grouped(fitted.frames, groups)
        codes = codec_ladder.fit_books(rows, books, QUICK_CODES if quick else CODES, advance)
        depths = [depth // groups for depth in DEPTHS if depth >= groups]
        rungs += codec_ladder.climb(stack, groups, codes, judging, depths)
    return rungs


def run(
    audio: Path, quick: bool = False, threads: int = 2, steps: int = STEPS, progress: Progress | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Train and measure; return what ``--json`` writes, and the pictures as every autoencoder gives them back."""
    set_framework_threads(threads)
    tokernel.set_num_threads(threads)
    bar = progress or Progress(disable=True)
    steps = QUICK_STEPS if quick else steps
    line = bar.add_task("pictures", total=steps * len(CANDIDATES))
    rows, points, shown = _judge_pictures(CANDIDATES, steps, lambda: bar.advance(line))
    line = bar.add_task("sound", total=BOOKS // 4 + BOOKS)
    rungs = _judge_audio(audio, quick, lambda: bar.advance(line))
    document = {
        "machine": describe([threads]),
        "quick": quick,
        "steps": steps,
        "pictures": [asdict(row) for row in rows],
        "after_training": [asdict(point) for point in points],
        "sound": [asdict(rung) for rung in rungs],
    }
    return document, shown


def tables(document: dict[str, Any]) -> dict[str, list[list[str]]]:
    """Three tables, by title; the first line of each holds the names of its columns."""
    pictures = [["quantizer", "bits a patch", "by entropy", "codes used", "perplexity", "PSNR, dB", "training, s"]]
    for row in (Row(**each) for each in document["pictures"]):
        used = [f"{row.entropy_bits:.1f}", f"{row.usage:.0%}", f"{row.perplexity:.0f}"] if row.bits else ["-"] * 3
        pictures.append(
            [row.quantizer, f"{row.bits:.1f}" if row.bits else "-", *used, f"{row.psnr:.2f}", f"{row.seconds:.0f}"]
        )
    after = [["bits a channel", "error, variances", "PSNR, dB"]]
    after += [[str(p["bits"]), f"{p['error']:.2g}", f"{p['psnr']:.2f}"] for p in document["after_training"]]
    sound = [["stack", "layers", "kbit/s", "SNR, dB", "codes used"]]
    for rung in document["sound"]:
        numbers = [f"{rung['kbps']:.2f}", f"{rung['snr']:.2f}", f"{rung['usage']:.0%}"]
        sound.append([rung["stack"], str(rung["layers"]), *numbers])
    return {
        "Pictures, 8 x 8 pixels a patch": pictures,
        "The continuous latents, made discrete after training": after,
        "Speech at 8 kHz": sound,
    }


def write_plot(path: Path, document: dict[str, Any]) -> None:
    """Draw the pictures' quality against bits, before and after training, and the ladder of the sound."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for row in document["pictures"]:
        if row["bits"]:
            left.plot(row["bits"], row["psnr"], "o", label=row["quantizer"])
        else:
            left.axhline(row["psnr"], color="grey", linestyle=":", label="not quantized")
    after = document["after_training"]
    left.plot([16 * p["bits"] for p in after], [p["psnr"] for p in after], "k.-", label="after training, 16 channels")
    left.set(xlabel="bits a patch of 8 x 8 pixels", ylabel="PSNR of photographs never seen, dB", xscale="log")
    for stack in dict.fromkeys(rung["stack"] for rung in document["sound"]):
        rungs = [rung for rung in document["sound"] if rung["stack"] == stack]
        right.plot([r["kbps"] for r in rungs], [r["snr"] for r in rungs], "o-", label=f"residual codes, {stack}")
    right.set(xlabel="kbit/s", ylabel="SNR of speech never heard, dB")
    for axes in (left, right):
        axes.legend(fontsize=7)
        axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def write_pictures(path: Path, shown: dict[str, Tensor]) -> None:
    """Draw some crops as they were, and below them as every autoencoder gives them back."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(shown), 1, figsize=(6.5, 1.25 * len(shown)), layout="constrained")
    for axis, (name, pictures) in zip(axes, shown.items(), strict=True):
        strip = torch.cat(list(pictures[list(SHOWN)]), 2).permute(1, 2, 0)
        axis.imshow(((strip + 1) / 2).clamp(0, 1).numpy())
        axis.set_ylabel(name.replace(" (", "\n("), rotation=0, ha="right", va="center", fontsize=8)
        axis.set(xticks=[], yticks=[])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def main(
    audio: Annotated[Path, typer.Option(help=f"folder with the sounds of Debian's {codec_audio.PACKAGE}")] = (
        codec_audio.WHERE
    ),
    quick: Annotated[bool, typer.Option("--quick", help="a few steps: proves only that it runs")] = False,
    threads: Annotated[int, typer.Option(min=1, help="threads of torch and of tokernel")] = 2,
    steps: Annotated[int, typer.Option(min=1, help="training steps of every autoencoder")] = STEPS,
    json_path: Annotated[Path | None, typer.Option("--json", help="write the results here")] = None,
    markdown_path: Annotated[Path | None, typer.Option("--markdown", help="write the tables here")] = None,
    plot_path: Annotated[Path | None, typer.Option("--plot", help="draw the curves here")] = None,
    pictures_path: Annotated[Path | None, typer.Option("--pictures", help="draw reconstructions here")] = None,
) -> None:
    """Make photographs and speech discrete by every kind of quantizer."""
    try:
        with Progress(console=Console(stderr=True)) as progress:
            document, shown = run(audio, quick, threads, steps, progress)
    except MissingError as missing:
        Console(stderr=True).print(f"real_codecs cannot run here: {missing}")
        raise typer.Exit(1) from None
    print_tables(tables(document))
    if json_path:
        write_json(json_path, document)
    if markdown_path:
        write_markdown(markdown_path, tables(document))
    if plot_path:
        write_plot(plot_path, document)
    if pictures_path:
        write_pictures(pictures_path, shown)


if __name__ == "__main__":
    typer.run(main)
