# SPDX-License-Identifier: Apache-2.0
"""What bench/real_decoding.py races: prompts, and one line a method."""

from __future__ import annotations

import copy
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from tokernel.decoding import Method
from tokernel.decoding.del_exit import DELController, DelExit
from tokernel.decoding.dyspec import DySpec
from tokernel.decoding.skipdecode import SkipDecode
from tokernel.decoding.token_recycling import TokenRecycling, matrix_bytes
from torch import Tensor

Make = Callable[[Any], Method | str]


@dataclass(frozen=True)
class Candidate:
    """A method to race.

    Attributes:
        name: in the tables.
        make: builds it for a model, once for all prompts, so that it may learn from one to the next.
        memory: bytes it holds beside the model and its cache.
        lossless: whether its tokens should be those of greedy decoding.
    """

    name: str
    make: Make
    memory: Callable[[Any], int] = lambda model: 0
    lossless: bool = True


def _recycling(template: str) -> Candidate:
    def make(model: Any) -> Method:
        return TokenRecycling(template)

    return Candidate(f"token_recycling {template}", make, lambda model: matrix_bytes(model.config.vocab_size))


def _del_exit(model: Any) -> Method:
    learnt = DELController(model.config.num_hidden_layers)
    return DelExit(controller=lambda _: learnt)


def _states_of_a_draft(model: Any) -> int:
    """What every layer leaves of the columns of one round."""
    columns = DelExit().longest + 1
    return int(model.config.num_hidden_layers * columns * model.config.hidden_size * model.dtype.itemsize)


def first_layers(model: Any, layers: int) -> Any:
    """A model of the first layers of a Llama, with its embedding, norm and head: nothing is copied."""
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = layers
    with torch.device("meta"):
        draft = type(model)(config)
    for name in ("embed_tokens", "norm", "rotary_emb"):
        setattr(draft.model, name, getattr(model.model, name))
    draft.model.layers = torch.nn.ModuleList(list(model.model.layers)[:layers])
    draft.lm_head = model.lm_head
    return draft.eval()


def _dyspec(model: Any) -> Method:
    return DySpec(first_layers(model, DRAFT_LAYERS), t=1 / 8, max_nodes=8)


def _cache_of_the_draft(model: Any) -> int:
    """Keys and values of 512 tokens."""
    config = model.config
    width = config.num_key_value_heads * config.hidden_size // config.num_attention_heads
    return int(2 * DRAFT_LAYERS * width * 512 * model.dtype.itemsize)


DRAFT_LAYERS = 6  # of SmolLM2's 30
GREEDY = "greedy"
CANDIDATES = (
    Candidate(GREEDY, lambda model: GREEDY),
    _recycling("2.2.2"),
    _recycling("best-16"),
    _recycling("best-8"),
    _recycling("best-4"),
    Candidate(f"dyspec, draft: first {DRAFT_LAYERS} layers", _dyspec, _cache_of_the_draft),
    Candidate("del_exit", _del_exit, _states_of_a_draft),
    Candidate("skipdecode, half of the layers", lambda model: SkipDecode(), lossless=False),
)

PROSE = (
    "The harbour was quiet when the first boats came in. An old man sat on the wall, as he did every morning, and"
    " counted the crates that the fishermen carried up the steps. He had been a captain once, and people said "
    "that he still knew every rock between the lighthouse and the islands. That day he counted fewer crates than "
    "ever before, and when the last boat had been tied up he",
    "A library is more than a place where books are kept. It lends tools, it teaches children to read, and it is "
    "one of the few warm rooms in a town where nobody is asked to buy anything. When the council proposed to "
    "close ours, the reasons given were the cost of heating and the number of visitors. Both figures deserve a "
    "closer look. First,",
)
CHAT = (
    "What are the main differences between a list and a tuple in Python? Give an example of each.",
    "Write a short packing list for a weekend of hiking in the mountains in spring, and say why each item is on it.",
)
CODE_TOKENS = 160


@dataclass(frozen=True)
class Prompt:
    """A text to continue."""

    kind: str
    ids: Tensor


def prompts(tokenizer: Any) -> list[Prompt]:
    """Two of prose, two of code (the beginnings of modules of the standard library), two questions."""
    found = [Prompt("prose", tokenizer(text, return_tensors="pt").input_ids) for text in PROSE]
    for source in (inspect.getsource(textwrap), inspect.getsource(inspect)):
        ids = tokenizer(source, return_tensors="pt").input_ids
        found.append(Prompt("code", ids[:, :CODE_TOKENS]))
    for question in CHAT:
        text = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        found.append(Prompt("chat", torch.tensor([tokenizer(text).input_ids])))
    return found
