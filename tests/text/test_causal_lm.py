# SPDX-License-Identifier: Apache-2.0
"""A transformers model as the model of tokens behind byte models."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")
pytest.importorskip("transformers", minversion="5", reason="transformers is an extra")

import numpy as np

from tiny_models import VOCABULARY, tiny
from tokernel.kernels import bpe
from tokernel.text.causal_lm import CausalLM
from tokernel.text.exact_byte_probs import ByteLevelTokenizer, ByteLM


def test_what_calls_share_is_computed_once_and_changes_nothing() -> None:
    model = tiny().eval()
    lm = CausalLM(model)
    for ids, last in (([1, 2, 3, 4], 2), ([1, 2, 3, 4, 5], 1), ([1, 2, 9], 3), ([1, 2, 9], 1), ([7], 1)):
        with torch.inference_mode():
            expected = model(input_ids=torch.tensor([ids])).logits[0, -last:].numpy()
        np.testing.assert_allclose(lm.logits(ids, last), expected, atol=1e-4)


def test_last_must_be_a_number_of_prefixes() -> None:
    with pytest.raises(ValueError, match=r"last must be in 1..2, the number of ids, got 3"):
        CausalLM(tiny().eval()).logits([1, 2], 3)


def test_a_model_of_bytes_on_a_model_of_transformers() -> None:
    letters = [bytes([b]) for b in b"abcd "] + [b"ab", b" a", b" ab", b"cd"]
    tokenizer = ByteLevelTokenizer(bpe.Vocab(letters), "gpt2", bos=10, eos=11, size=VOCABULARY)
    model = ByteLM(CausalLM(tiny().eval()), tokenizer)
    model.start(b"ab a")
    assert model.next_byte_probs().sum() == pytest.approx(1, abs=1e-5)
    again = ByteLM(CausalLM(tiny().eval()), tokenizer)
    for n in range(1, 5):
        probs = again.next_byte_probs(b"ab a"[:n])
    np.testing.assert_allclose(probs, model.next_byte_probs(), atol=1e-5)
