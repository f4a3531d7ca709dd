# SPDX-License-Identifier: Apache-2.0
"""The real check of the codecs: the whole program on noise, its transform, and what a ladder must do."""

from __future__ import annotations

import itertools
import json
import wave

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")

import tokernel
import typer
from bench import codec_audio, codec_ladder, codec_pictures
from bench import real_codecs as real
from bench.real_models import MissingError
from typer.testing import CliRunner


def seeded(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def small_pictures():
    return codec_pictures.Pictures([seeded(3, 70, 80).clamp(-1, 1)], seeded(64, 3, 64, 64, seed=1).clamp(-1, 1))


def test_the_whole_program_on_noise(tmp_path, monkeypatch):
    monkeypatch.setattr(codec_pictures, "load_pictures", small_pictures)
    monkeypatch.setattr(codec_audio, "read_prompts", lambda folder: [seeded(8000 + 7 * i, seed=i) for i in range(12)])
    app = typer.Typer()
    app.command()(real.main)
    paths = {name: tmp_path / name for name in ("json", "markdown", "plot.png", "pictures.png")}
    options = [word for name, path in paths.items() for word in (f"--{name.removesuffix('.png')}", str(path))]
    threads, ours = torch.get_num_threads(), tokernel.get_num_threads()
    try:
        result = CliRunner().invoke(app, ["--quick", "--threads", "1", *options])
    finally:
        torch.set_num_threads(threads)
        tokernel.set_num_threads(ours)
    assert result.exit_code == 0, result.output
    document = json.loads(paths["json"].read_text())
    assert [row["quantizer"] for row in document["pictures"]] == [each.name for each in real.CANDIDATES]
    assert len(document["after_training"]) == 8
    assert {rung["stack"] for rung in document["sound"]} == {"one stack", "four bands"}
    assert paths["markdown"].read_text().count("| RVQ 4 x 256 |") == 1
    assert paths["plot.png"].stat().st_size > 1000
    assert paths["pictures.png"].stat().st_size > 1000


def test_missing_sounds_are_named(tmp_path):
    with pytest.raises(MissingError, match=r"no \.wav below .*apt-get download asterisk"):
        codec_audio.read_prompts(tmp_path)
    with wave.open(str(tmp_path / "loud.wav"), "wb") as file:
        file.setparams((2, 2, 44100, 0, "NONE", ""))
        file.writeframes(bytes(400))
    with pytest.raises(MissingError, match="not 8 kHz, mono, 16 bits"):
        codec_audio.read_prompts(tmp_path)


@pytest.mark.parametrize("samples", [1, 159, 160, 161, 1000])
def test_the_transform_gives_back_every_sample_and_keeps_the_energy(samples):
    sound = seeded(samples)
    frames = codec_audio.to_frames(sound)
    assert frames.shape == (-(-samples // codec_audio.HOP) + 1, codec_audio.HOP)
    torch.testing.assert_close(codec_audio.to_sound(frames, samples), sound, rtol=0, atol=1e-5)
    torch.testing.assert_close(frames.square().sum(), sound.square().sum(), rtol=1e-4, atol=1e-5)


def test_every_rung_costs_more_and_comes_nearer():
    sounds = [torch.sin(0.05 * (i + 1) * torch.arange(4000.0)) + 0.1 * seeded(4000, seed=i) for i in range(20)]
    fitted, judging = codec_ladder.split_speech(sounds)
    assert (len(fitted.sounds), len(judging.sounds)) == (18, 2)
    codes = codec_ladder.fit_books(codec_ladder.grouped(fitted.frames, 2), 3, 16, lambda: None)
    rungs = codec_ladder.climb("two bands", 2, codes, fitted, (1, 2, 3))
    for low, high in itertools.pairwise(rungs):
        assert high.snr > low.snr
        assert high.kbps > low.kbps
    frames = len(fitted.frames)
    seconds = sum(map(len, fitted.sounds)) / codec_audio.RATE
    assert rungs[-1].kbps == pytest.approx(frames * 2 * 3 * 4 / seconds / 1000, rel=1e-3)
