# SPDX-License-Identifier: Apache-2.0
"""The command ``tokernel``: its answers, its demo on real files, and its one-line errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tokernel

pytest.importorskip("typer", reason="the command line needs the cli extra")
pytest.importorskip("matplotlib", reason="the demo needs the cli extra")
from typer.testing import CliRunner

from tokernel._commands import app
from tokernel._demo import data, picture, plain, words

MAIN = "from tokernel.cli import main; main()"


def tokernel_command(*arguments: str):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def process(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_info_as_table_and_as_json():
    table = tokernel_command("info")
    assert table.exit_code == 0
    assert tokernel.__version__ in table.output
    found = json.loads(tokernel_command("info", "--json").output)
    assert found["version"] == tokernel.__version__
    assert found["backends"] == tokernel.backends()


def test_papers_as_table_and_as_json():
    table = tokernel_command("papers")
    assert table.exit_code == 0
    assert "2210.09461" in table.output
    assert "verified against" in table.output
    records = json.loads(tokernel_command("papers", "--json").output)
    assert {"slug", "title", "arxiv", "module", "status", "verified_against"} <= set(records[0])


@pytest.mark.parametrize("hidden", ["typer", "rich"])
def test_without_the_extra_one_sentence_names_it(hidden):
    code = f"""
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == {hidden!r} else real(name, *a)
{MAIN}
"""
    result = process(code, "info")
    assert result.returncode == 2
    assert result.stderr == f"tokernel: the command needs {hidden}: pip install 'tokernel[cli]'\n"


def test_demo_without_matplotlib_names_the_extra(monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "PIL" else real(name, *a))
    result = tokernel_command("demo")
    assert result.exit_code == 2
    assert result.output == "tokernel demo: needs PIL: pip install 'tokernel[cli]'\n"


def test_demo_on_the_default_files_without_torch(tmp_path):
    """The main job, as a user runs it: no torch is imported, a PNG appears, the figures are printed."""
    from PIL import Image

    code = (
        "import sys\nfrom tokernel.cli import main\n"
        "try:\n    main()\nfinally:\n    print('torch' in sys.modules, file=sys.stderr)"
    )
    out = tmp_path / "new" / "demo.png"
    result = process(code, "demo", "--out", str(out), "--rates", "0.5,0.9", "--threads", "1")
    assert result.returncode == 0, result.stderr
    assert result.stderr.strip() == "False"
    for expected in ("grace_hopper.jpg", "PSNR", "speed ratio", "1728 of 3456", "346 of 3456", "most alike", "wrote"):
        assert expected in result.stdout
    with Image.open(out) as drawn:
        assert drawn.format == "PNG"
        assert drawn.width > 800
        assert np.asarray(drawn.convert("L")).std() > 20


def test_demo_on_own_files(tmp_path):
    from PIL import Image

    image, text = tmp_path / "own.png", tmp_path / "own.txt"
    Image.fromarray(np.arange(24 * 40 * 3, dtype=np.uint8).reshape(24, 40, 3)).save(image)
    text.write_text("the word, the words; ein Wörterbuch")
    result = tokernel_command("demo", "--image", image, "--text", text, "--out", tmp_path / "a.png", "--rates", "0,0.9")
    assert result.exit_code == 0, result.output
    assert "15 of 15" in result.output
    assert (tmp_path / "a.png").exists()


def broken_jpeg(folder: Path) -> Path:
    from PIL import Image

    whole, cut = folder / "whole.jpg", folder / "cut.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(whole)
    cut.write_bytes(whole.read_bytes()[:400])
    return cut


@pytest.mark.parametrize(
    ("option", "content", "expected"),
    [
        ("--image", None, "no such file"),
        ("--image", b"not a picture", "not a picture"),
        ("--image", b"", "not a picture"),
        ("--text", None, "no such file"),
        ("--text", b"\xff\xfe\x00", "not UTF-8"),
        ("--text", b"", "holds no text"),
        ("--text", b" \n", "holds no text"),
    ],
)
def test_missing_or_broken_file_is_one_line_and_code_2(tmp_path, option, content, expected):
    path = tmp_path / "input"
    if content is not None:
        path.write_bytes(content)
    result = tokernel_command("demo", option, path, "--out", tmp_path / "a.png")
    assert result.exit_code == 2
    (line,) = result.output.splitlines()
    assert line.startswith(f"tokernel demo: {option}: ")
    assert expected in line


def test_truncated_picture_and_folders_are_one_line(tmp_path):
    cases = [("--image", broken_jpeg(tmp_path)), ("--image", tmp_path), ("--text", tmp_path)]
    for option, path in cases:
        result = tokernel_command("demo", option, path, "--out", tmp_path / "a.png")
        assert result.exit_code == 2
        assert len(result.output.splitlines()) == 1
        assert "cannot read" in result.output


def test_picture_of_a_few_pixels_is_refused(tmp_path):
    from PIL import Image

    Image.new("RGB", (9, 9)).save(tmp_path / "tiny.png")
    result = tokernel_command("demo", "--image", tmp_path / "tiny.png")
    assert result.exit_code == 2
    assert "too small" in result.output


@pytest.mark.parametrize("rates", ["", "a", "1", "-0.1", "nan", "0.1," * 8 + "0.1"])
def test_senseless_rates_are_refused(rates):
    result = tokernel_command("demo", "--rates", rates)
    assert result.exit_code == 2
    assert result.output.startswith("tokernel demo: --rates: expected")


def test_unwritable_output_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    result = tokernel_command("demo", "--rates", "0.9", "--out", tmp_path / "file" / "a.png")
    assert result.exit_code == 2
    assert "--out: cannot write" in result.output.splitlines()[-1]


def test_patches_round_trip(rng):
    pixels = rng.random((24, 40, 3), np.float32)
    tokens = picture.to_tokens(pixels)
    assert tokens.shape == (15, 8 * 8 * 3 + 3)
    np.testing.assert_allclose(picture.to_pixels(tokens, 3, 5), pixels, atol=1e-6)


def test_merging_a_picture_agrees_with_the_formula(rng):
    """Random pixels have no near ties, so every token goes where NumPy sends it."""
    tokens = picture.to_tokens(rng.random((32, 48, 3), np.float32))
    for kept in (24, 12, 3, 1):
        ours, place = picture.merge_ours(tokens, kept)
        expected, expected_place = picture.merge_plain(tokens, kept)
        np.testing.assert_array_equal(place, expected_place)
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)
        assert len(np.unique(place)) == kept


def test_psnr_of_equal_pictures_is_infinite():
    assert picture.psnr(np.zeros((2, 2, 3), np.float32), np.zeros((2, 2, 3), np.float32)) == float("inf")
    assert picture.psnr(np.zeros((2, 2, 3), np.float32), np.full((2, 2, 3), 0.1, np.float32)) == pytest.approx(20)


def test_words_keep_every_byte_and_find_inflections():
    text = b"merge merges token tokens patch patches unrelated zebra"
    found = words.merge_words(text)
    assert found.bytes == len(text)
    assert found.segments == 15
    assert {frozenset(p) for p in found.alike} & {frozenset({"token", "tokens"}), frozenset({"patch", "patches"})}


def test_segment_offsets_cover_the_text():
    assert words.segment_offsets(b"ab, cd").tolist() == [0, 2, 4, 6]
    assert words.segment_offsets(b"ab").tolist() == [0, 2]


def test_segment_mean_formula(rng):
    x = rng.standard_normal((5, 3)).astype(np.float32)
    expected = np.stack([x[:2].mean(0), x[2:].mean(0)])
    np.testing.assert_allclose(plain.segment_mean(x, np.array([0, 2, 5])), expected, rtol=1e-6)


def test_default_text_is_prose():
    name, content = data.load_text(None)
    assert len(content) > 4096
    assert "LICENSE" in name.upper()
