# SPDX-License-Identifier: Apache-2.0
"""A real model, shortened: the experiment of bench/digits_vit.py, with the orders that must hold."""

import json

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")
pytest.importorskip("sklearn", reason="scikit-learn is an extra")
pytest.importorskip("transformers", minversion="5", reason="transformers is an extra")

from bench import digits_vit


def test_tokens_and_flops_of_a_schedule():
    assert digits_vit.kept_by([8] * 6) == [57, 49, 41, 33, 25, 17]
    assert digits_vit.kept_by([99] * 6) == [33, 17, 9, 5, 3, 2]
    dense = digits_vit.gflops([65] * 6)
    assert dense == pytest.approx((65 * 64 * 9 + 640 + 6 * (12 * 65 * 64**2 + 2 * 65**2 * 64)) / 1e9)
    assert digits_vit.gflops(digits_vit.kept_by([8] * 6)) < 0.7 * dense


def test_random_drop_keeps_the_class_token_and_as_many_patches_as_told():
    model = digits_vit.build_model().eval()
    digits_vit.RandomDrop(model, [65, 40, 30, 30, 20, 9]).install()
    states = model(torch.zeros(2, 1, 8, 8), output_hidden_states=True).hidden_states
    assert [state.shape[1] for state in states] == [65, 65, 40, 30, 30, 20, 9]


@pytest.mark.slow
def test_merging_keeps_what_dropping_loses(tmp_path):
    threads = torch.get_num_threads()
    try:
        document = digits_vit.run(rounds=2)
    finally:
        torch.set_num_threads(threads)
    rows = {row["variant"]: row for row in document["rows"]}
    accuracy = {name: row["accuracy"] for name, row in rows.items()}
    assert accuracy["unpatched"] > 0.93
    assert accuracy["tome r=4"] > accuracy["unpatched"] - 0.03
    assert accuracy["tome r=8"] > accuracy["unpatched"] - 0.08
    assert accuracy["diffrate, tokens of r=8"] > accuracy["unpatched"] - 0.08
    for rate in ("r=4", "r=8", "r=(8, -1)"):
        merged, dropped = rows[f"tome {rate}"], rows[f"random drop, tokens of {rate}"]
        assert merged["tokens"] == dropped["tokens"]
        assert merged["accuracy"] > dropped["accuracy"] + 0.03
    target = rows["tome r=8"]["gflops"]
    assert rows["diffrate searched, FLOPs of r=8"]["gflops"] == pytest.approx(target, rel=0.1)
    assert all(row["images_per_second"] > 0 for row in rows.values())
    assert json.loads(json.dumps(document)) == document
    digits_vit.write_plot(tmp_path / "plot.png", document)
    assert (tmp_path / "plot.png").stat().st_size > 10_000
