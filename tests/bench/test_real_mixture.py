# SPDX-License-Identifier: Apache-2.0
"""The real check of mixture inference: the whole program on synthetic books, and how the books are read."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the linear program is solved by SciPy, extra lp")

import typer
from bench import mixture_texts, mixture_trials
from bench import real_mixture as real
from typer.testing import CliRunner


def paragraphs(language, count=120):
    """Sentences of words of a random chain over letters of the language's own order."""
    rng = np.random.default_rng(sum(map(ord, language)))
    chain = np.cumsum(rng.dirichlet(np.full(12, 0.3), 12), 1)
    for _ in range(count):
        words = []
        for _ in range(20):
            state, word = int(rng.integers(12)), ""
            for draw in rng.random(5):
                state = min(int((chain[state] < draw).sum()), 11)
                word += chr(97 + state)
            words.append(word)
        yield " ".join(words)


def write_books(folder, languages=("de", "en", "fr", "ru")):
    for language in languages:
        guide = folder / mixture_texts.GUIDE / language
        guide.mkdir(parents=True)
        encoding = "koi8-r" if language == "ru" else "utf-8"
        text = "\n\n".join(["word " * 20, *paragraphs(language), "short"])
        text += "\n\n" + "прочее слово " * 9 if language == "ru" else ""
        (guide / f"install.{language}.txt.gz").write_bytes(gzip.compress(text.encode(encoding)))
    page = folder / mixture_texts.HANDBOOK / "de-DE"
    page.mkdir(parents=True)
    inside = "".join(f"<p>{each} &amp; <b>more</b></p>" for each in paragraphs("de-DE", 20))
    (page / "index.html").write_text(f"<html><pre>{'code ' * 40}</pre><style>{'style ' * 40}</style>{inside}</html>")


def test_the_whole_program_on_synthetic_books(tmp_path, monkeypatch):
    write_books(tmp_path / "books")
    monkeypatch.setattr(mixture_texts, "LEAST_BYTES", 1000)
    app = typer.Typer()
    app.command()(real.main)
    paths = {name: tmp_path / name for name in ("json", "markdown", "plot.png")}
    options = [word for name, path in paths.items() for word in (f"--{name.removesuffix('.png')}", str(path))]
    result = CliRunner().invoke(app, [str(tmp_path / "books"), "--quick", *options])
    assert result.exit_code == 0, result.output
    document = json.loads(paths["json"].read_text())
    assert set(document["languages"]) == {"de", "en", "fr", "ru"}
    full = [s for s in document["scores"] if s["merges"] == 100 and s["sample"] == 1]
    errors = {(s["method"], s["n"]): s["errors"][0] for s in full}
    for n in (2, 3):
        assert errors["linear program", n] < errors["uniform", n]
    assert paths["markdown"].read_text().count("| linear program |") == 1
    assert paths["plot.png"].stat().st_size > 1000


def test_missing_books_are_named(tmp_path):
    app = typer.Typer()
    app.command()(real.main)
    result = CliRunner().invoke(app, [str(tmp_path)])
    assert result.exit_code == 1
    with pytest.raises(
        mixture_texts.MissingTextError, match="apt-get download installation-guide-amd64 debian-handbook"
    ):
        mixture_texts.read_languages(tmp_path)


def test_halves_share_no_paragraph_and_the_untranslated_is_left_out(tmp_path, monkeypatch):
    write_books(tmp_path)
    monkeypatch.setattr(mixture_texts, "LEAST_BYTES", 1000)
    texts = mixture_texts.read_languages(tmp_path)
    for name, halves in texts.items():
        assert not set(halves.train) & set(halves.sample)
        assert abs(len(halves.train) - len(halves.sample)) <= 1
        everything = [*halves.train, *halves.sample]
        assert all(len(each) >= mixture_texts.SHORTEST for each in everything)
        assert any(each.startswith("word word") for each in everything) == (name == "en")
    assert any("прочее" in each for each in (*texts["ru"].train, *texts["ru"].sample))
    german = [*texts["de"].train, *texts["de"].sample]
    assert sum(each.endswith(" & more") for each in german) == 20
    assert not any("code" in each or "style" in each for each in german)


def test_a_trial_is_trained_on_its_shares(tmp_path, monkeypatch):
    write_books(tmp_path)
    monkeypatch.setattr(mixture_texts, "LEAST_BYTES", 1000)
    languages = {name: mixture_trials.Language(each) for name, each in mixture_texts.read_languages(tmp_path).items()}
    trial = mixture_trials.draw(languages, 3, 50, np.random.default_rng(1))
    assert len(trial.names) == 3
    assert trial.shares.sum() == pytest.approx(1)
    assert len(trial.merges) == 50
    counts = mixture_trials.token_counts(languages["en"].sample, languages["en"].alone(50))
    sample = languages["en"].sample
    lengths = np.ones(256 + 50, np.int64)
    for left, right, result in languages["en"].alone(50).tolist():
        lengths[result] = lengths[left] + lengths[right]
    assert counts @ lengths == np.diff(sample.offsets) @ sample.counts
    own = mixture_trials.Trial(["en"], np.ones(1), 1, languages["en"].alone(50))
    np.testing.assert_allclose(mixture_trials.efficiencies(own, languages, 50), 1)
    np.testing.assert_allclose(mixture_trials.classified(own, languages, 50), 1)
