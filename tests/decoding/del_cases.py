# SPDX-License-Identifier: Apache-2.0
"""Small decoders whose early layers can speak, and transformers' own answer to a prompt."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")
transformers = pytest.importorskip("transformers", minversion="5", reason="transformers is an extra")

VOCAB = 40
LAYERS = 6
KINDS = ("llama", "qwen2", "qwen3", "gpt2", "opt")


def tiny(
    kind: str = "llama", layers: int = LAYERS, vocab: int = VOCAB, branch: float = 0.01, seed: int = 0, **changes: Any
) -> Any:
    """A random model; ``branch`` scales down what every layer adds, so that early layers often agree with the last."""
    torch.manual_seed(seed)
    common = {"vocab_size": vocab, "eos_token_id": None, "bos_token_id": None, "pad_token_id": None}
    if kind == "gpt2":
        sizes = {"n_embd": 32, "n_layer": layers, "n_head": 4, "n_positions": 256}
        model = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(**common, **sizes, initializer_range=0.5, tie_word_embeddings=False)
        )
        out = ("attn.c_proj.weight", "mlp.c_proj.weight")
    else:
        sizes = {"hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 4}
        sizes["max_position_embeddings"] = 256
        if kind == "opt":
            sizes |= {"ffn_dim": 64, "word_embed_proj_dim": 32, "init_std": 0.5, **changes}
            name, out = "OPT", ("out_proj.weight", "fc2.weight")
        else:
            sizes |= {"intermediate_size": 64, "num_key_value_heads": 2, "initializer_range": 0.5}
            name, out = kind.capitalize(), ("o_proj.weight", "down_proj.weight")
        config = getattr(transformers, f"{name}Config")(**common, **sizes, tie_word_embeddings=False)
        model = getattr(transformers, f"{name}ForCausalLM")(config)
    with torch.no_grad():
        for label, weight in model.named_parameters():
            if label.endswith(out):
                weight.mul_(branch)
    return model.eval()


def prompt(rows: int = 1, length: int = 7, seed: int = 1, vocab: int = VOCAB) -> Any:
    return torch.randint(0, vocab, (rows, length), generator=torch.Generator().manual_seed(seed))


def plain(model: Any, ids: Any, count: int) -> list[list[int]]:
    """The new tokens of transformers' own greedy decoding."""
    out = model.generate(ids, max_new_tokens=count, do_sample=False, attention_mask=torch.ones_like(ids))
    new: list[list[int]] = out[:, ids.shape[1] :].tolist()
    return new
