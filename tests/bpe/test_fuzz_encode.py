# SPDX-License-Identifier: Apache-2.0
"""A short run of the fuzzer: TOKERNEL_FUZZ_SECONDS (10) of new inputs after the committed ones."""

import os
import random

import pytest

pytest.importorskip("tiktoken", reason="the fuzzer races tiktoken: pip install tiktoken")
pytest.importorskip("tokenizers", reason="the fuzzer races tokenizers: pip install tokenizers")

from fuzz_encode import Fuzzer, gpt2_pairs


def test_new_inputs_are_encoded_as_tiktoken_and_tokenizers_do():
    fuzzer = Fuzzer(gpt2_pairs(), random.Random())
    fuzzer.run(float(os.environ.get("TOKERNEL_FUZZ_SECONDS", "10")))
    assert len(fuzzer.shown) > 300
    assert len(fuzzer.corpus) > 50
