# SPDX-License-Identifier: Apache-2.0
"""One law for every way to decode: what comes out is what the model alone would have said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")
pytest.importorskip("transformers", minversion="5", reason="transformers is an extra")

from tiny_models import KINDS, fits, greedy, near, prompts, tiny, two_tokens

from tokernel.decoding import dyspec, generate, method_names
from tokernel.decoding.skipdecode import SkipDecode, SkipSchedule
from tokernel.papers import papers

# Name -> the method behind a model of tiny_models.
CASES: dict[str, Callable[[Any], Any]] = {name: lambda model, name=name: name for name in method_names()}
CASES |= {
    "dyspec": lambda model: dyspec.DySpec(_draft(model)),
    "dyspec budget": lambda model: dyspec.DySpec(_draft(model), "budget", max_nodes=12),
    "dyspec hpd": lambda model: dyspec.DySpec(_draft(model), t=0.02, max_nodes=30, order="hpd"),
    "skipdecode": lambda model: SkipDecode(_all_layers(model)),  # with fewer it says something else, and means to
    "dyspec nothing": lambda model: dyspec.DySpec(_draft(model), t=1.5),
}
# Rows of a batch of which one is a forward of its own take longer.
DRAWS = {"del_exit": 400}


def _draft(model: Any) -> Any:
    kind = model.config.model_type
    size = {"n_positions": 256} if kind == "gpt2" else {}
    return near(kind, vocab_size=model.config.vocab_size, **size)


def _all_layers(model: Any) -> SkipSchedule:
    layers = model.config.num_hidden_layers
    return SkipSchedule(k_max=layers, k_min=layers, n_ref=2)


def test_no_paper_is_left_out():
    slugs = {p.slug for p in papers() if p.module.startswith("tokernel.decoding.")}
    assert slugs <= {name.split()[0] for name in CASES}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CASES)
def test_at_temperature_0_it_is_greedy_decoding(name, kind):
    model = tiny(kind)
    lengths = (1, 4, 9)
    rows = [prompts(1, length, seed=length)[0] for length in lengths]
    ids = torch.stack([torch.nn.functional.pad(row, (9 - len(row), 0)) for row in rows])
    mask = torch.stack([torch.arange(9) >= 9 - length for length in lengths])
    out = generate(model, ids, CASES[name](model), attention_mask=mask, max_new_tokens=12)
    assert [out.new_tokens(row) for row in range(3)] == [greedy(model, row, 12) for row in rows]


@pytest.mark.parametrize("name", CASES)
def test_above_it_two_tokens_are_draws_of_the_model(name):
    model, prompt, temperature = tiny(vocab_size=5), torch.tensor([1, 4, 2]), 1.5
    draws = DRAWS.get(name, 4000)
    method = CASES[name](model)

    def drawn():  # a third token is asked for, so that the second may be inside a draft
        generator = torch.Generator().manual_seed(0)
        ids = prompt.expand(draws, -1)
        return generate(model, ids, method, max_new_tokens=3, temperature=temperature, generator=generator).sequences

    if name == "token_recycling":
        with pytest.raises(ValueError, match="temperature must be 0"):
            drawn()
        return
    text = drawn()
    pairs = text[:, 3] * 5 + text[:, 4]
    assert fits(np.bincount(pairs, minlength=25), two_tokens(model, prompt, temperature).reshape(-1))
