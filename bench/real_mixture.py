# SPDX-License-Identifier: Apache-2.0
"""``python -m bench.real_mixture DIR``: mixtures of languages, known, and read off the tokenizers trained on them.

As the paper reports it: shares of bytes, log10 of the mean squared error, averaged over random mixtures, for 5 and for
10 languages; beside it the baselines; then with fewer merges, and with less sample text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tokernel
import typer
from rich.console import Console
from rich.progress import Progress
from tokernel.text.data_mixture_inference import fit_tee, log10_mse, tee

from bench.machine import Clock, describe
from bench.mixture_texts import HOW, MissingTextError, Texts, read_languages
from bench.mixture_trials import Floats, Language, Trial, classified, draw, efficiencies, inferred
from bench.tables import print_tables, write_json, write_markdown

CATEGORIES = (5, 10)
MERGES = (30, 100, 300, 1000)
SAMPLES = (1 / 16, 1 / 4, 1.0)
DEFAULT_MERGES = 1000  # of the table, and where the sample text varies


@dataclass(frozen=True)
class Score:
    """log10 of the mean squared error of one way to guess, over all mixtures.

    Attributes:
        method: "linear program", "uniform", "TEE" or "TC".
        n: categories.
        merges: used of the tokenizer.
        sample: share of the sample text used.
        errors: one a mixture.
        seconds: mean time of a guess.
    """

    method: str
    n: int
    merges: int
    sample: float
    errors: list[float]
    seconds: float

    def text(self) -> str:
        return f"{np.mean(self.errors):.2f} ± {np.std(self.errors):.2f}"


def _score(
    method: str, trials: Sequence[Trial], merges: int, sample: float, guess: Callable[[int], Floats]
) -> Score:  # fmt: skip
    start = Clock.now()
    errors = [log10_mse(guess(at), trial.shares) for at, trial in enumerate(trials)]
    return Score(method, len(trials[0].names), merges, sample, errors, (Clock.now() - start) / len(trials))


def _attack(
    trials: Sequence[Trial], languages: Mapping[str, Language], merges: int, sample: float, advance: Callable[[], None]
) -> tuple[Score, list[Floats]]:
    parts: dict[str, Any] = {}
    found: list[Floats] = []

    def guess(at: int) -> Floats:
        for name in trials[at].names:
            parts.setdefault(name, languages[name].part_of_sample(sample))
        found.append(inferred(trials[at], [parts[name] for name in trials[at].names], merges))
        advance()
        return found[-1]

    return _score("linear program", trials, merges, sample, guess), found


def _baselines(trials: Sequence[Trial], languages: Mapping[str, Language], merges: int) -> list[Score]:
    """TEE's two numbers are fitted on the other mixtures."""
    every = [efficiencies(trial, languages, merges) for trial in trials]
    shares = [trial.shares for trial in trials]

    def by_efficiency(at: int) -> Floats:
        others = [i for i in range(len(trials)) if i != at or len(trials) == 1]
        return tee(every[at], fit_tee(np.array([every[i] for i in others]), np.array([shares[i] for i in others])))

    n = len(trials[0].names)
    return [
        _score("TEE", trials, merges, 1.0, by_efficiency),
        _score("TC", trials, merges, 1.0, lambda at: classified(trials[at], languages, merges)),
        _score("uniform", trials, merges, 1.0, lambda at: np.full(n, 1 / n)),
    ]


def run(
    texts: Mapping[str, Texts], mixtures: int = 8, merges: Sequence[int] = MERGES, middle: int = DEFAULT_MERGES,
    categories: Sequence[int] = CATEGORIES, seed: int = 0, progress: Progress | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train and infer; return what ``--json`` writes."""
    languages = {name: Language(each) for name, each in texts.items()}
    bar = progress or Progress(disable=True)
    line = bar.add_task("mixtures", total=mixtures * len(categories) * (len(merges) + len(SAMPLES) - 1))
    scores: list[Score] = []
    shown: list[dict[str, Any]] = []
    for n in categories:
        rng = np.random.default_rng([seed, n])
        trials = [draw(languages, n, max(merges), rng) for _ in range(mixtures)]
        settings = [(count, 1.0) for count in merges] + [(middle, share) for share in SAMPLES if share < 1]
        for count, share in settings:
            score, found = _attack(trials, languages, count, share, lambda: bar.advance(line))
            scores.append(score)
            if (count, share) == (middle, 1.0):
                shown.append(_shares(trials[0], found[0]))
        scores += _baselines(trials, languages, middle)
    return {
        "machine": describe([tokernel.get_num_threads()]),
        "languages": {name: sum(len(t.encode()) for t in each.sample) for name, each in texts.items()},
        "mixtures": mixtures,
        "middle": middle,
        "scores": [asdict(score) for score in scores],
        "shares": shown,
    }


def _shares(trial: Trial, found: Floats) -> dict[str, Any]:
    return {
        "languages": trial.names,
        "true": trial.shares.tolist(),
        "inferred": found.tolist(),
        "trained_bytes": trial.trained_bytes,
    }


def tables(document: dict[str, Any]) -> dict[str, list[list[str]]]:
    """Four tables, by title; the first line of each holds the names of its columns."""
    scores = [Score(**each) for each in document["scores"]]
    middle, counts = document["middle"], list(dict.fromkeys(score.n for score in scores))

    def cell(method: str, n: int, merges: int, sample: float) -> str:
        return next(s.text() for s in scores if (s.method, s.n, s.merges, s.sample) == (method, n, merges, sample))

    head = [f"{n} languages" for n in counts]
    methods = ("linear program", "TEE", "TC", "uniform")
    merges = sorted({s.merges for s in scores})
    samples = sorted({s.sample for s in scores})
    program = methods[0]
    first = [["language", "bytes trained on, share", "inferred"]]
    for shown in document["shares"][:1]:
        columns = zip(shown["languages"], shown["true"], shown["inferred"], strict=True)
        first += [[name, f"{true:.1%}", f"{found:.1%}"] for name, true, found in columns]
    return {
        f"log10 of the mean squared error, {middle} merges": [
            ["method", *head],
            *([method, *(cell(method, n, middle, 1.0) for n in counts)] for method in methods),
        ],
        "The linear program, by merges used": [
            ["merges", *head],
            *([str(count), *(cell(program, n, count, 1.0) for n in counts)] for count in merges),
        ],
        "The linear program, by sample text": [
            ["share of the sample", *head],
            *([f"{share:.0%}", *(cell(program, n, middle, share) for n in counts)] for share in samples),
        ],
        "The first mixture": first,
    }


def write_plot(path: Path, document: dict[str, Any]) -> None:
    """Draw the error against merges and against sample text."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    scores = [Score(**each) for each in document["scores"]]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
    for at, n in enumerate(dict.fromkeys(score.n for score in scores)):
        ours = [s for s in scores if s.n == n and s.method == "linear program"]
        full = sorted((s for s in ours if s.sample == 1), key=lambda s: s.merges)
        some = sorted((s for s in ours if s.merges == document["middle"]), key=lambda s: s.sample)
        style = {"fmt": "o-", "capsize": 3, "color": f"C{at}", "label": f"linear program, {n} languages"}
        for axes, line, x in (
            (left, full, [s.merges for s in full]),
            (right, some, [s.sample for s in some]),
        ):
            axes.errorbar(x, [np.mean(s.errors) for s in line], [np.std(s.errors) for s in line], **style)
        for method, dashes in (("TEE", "--"), ("TC", "-."), ("uniform", ":")):
            (score,) = (s for s in scores if (s.n, s.method) == (n, method))
            for axes in (left, right):
                axes.axhline(np.mean(score.errors), color=f"C{at}", linestyle=dashes, label=f"{method}, {n} languages")
    left.set(xlabel="merges used", xscale="log", ylabel="log10 of the mean squared error")
    right.set(xlabel="share of the sample text", xscale="log")
    left.legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main(
    folder: Annotated[Path, typer.Argument(help=f"where the two books are: {HOW}")],
    quick: Annotated[bool, typer.Option("--quick", help="one mixture, few merges: proves only that it runs")] = False,
    mixtures: Annotated[int, typer.Option(min=1, help="random mixtures for each number of languages")] = 8,
    json_path: Annotated[Path | None, typer.Option("--json", help="write the results here")] = None,
    markdown_path: Annotated[Path | None, typer.Option("--markdown", help="write the tables here")] = None,
    plot_path: Annotated[Path | None, typer.Option("--plot", help="draw the curves here")] = None,
) -> None:
    """Infer mixtures of languages from tokenizers that were trained on them."""
    try:
        texts = read_languages(folder)
    except MissingTextError as missing:
        Console(stderr=True).print(f"real_mixture cannot run here: {missing}")
        raise typer.Exit(1) from None
    few: dict[str, Any] = {"mixtures": 1, "merges": (30, 100), "middle": 100, "categories": (2, 3)}
    with Progress(console=Console(stderr=True)) as progress:
        document = run(texts, progress=progress, **(few if quick else {"mixtures": mixtures}))
    print_tables(tables(document))
    if json_path:
        write_json(json_path, document)
    if markdown_path:
        write_markdown(markdown_path, tables(document))
    if plot_path:
        write_plot(plot_path, document)


if __name__ == "__main__":
    typer.run(main)
