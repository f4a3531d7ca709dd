# SPDX-License-Identifier: Apache-2.0
"""DEL: Context-Aware Dynamic Exit Layer for Efficient Self-Speculative Decoding (Zarch et al., COLM 2025).

arXiv 2504.05598. The first layers of a language model, with its own norm and head, draft tokens that the other layers
verify: no second model. How many layers draft is chosen anew every round, from how often each layer's *shadow token*
agreed with the model (:class:`DELController`), and a draft ends when its confidence falls under a running threshold.

What comes out is what the model alone gives, whatever is drafted; how much faster depends on a model whose early layers
can speak, as the authors' LayerSkip checkpoints are trained to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from tokernel.decoding._del_controller import DELController, accept_chain
from tokernel.decoding._del_session import DelRow, DelSession, Limits, Round, accept_sampled
from tokernel.decoding._del_shadow import shadow_tokens
from tokernel.decoding._generate import Generated, generate, stops_of
from tokernel.decoding._layers import layer_stack
from tokernel.decoding._session import Sampling
from tokernel.papers import paper

__all__ = [
    "PAPER",
    "DELController",
    "DelExit",
    "Round",
    "accept_chain",
    "accept_sampled",
    "self_speculative_generate",
    "shadow_tokens",
]

PAPER = paper("del_exit")


@dataclass(frozen=True)
class DelExit:
    """DEL as a method of :func:`tokernel.decoding.generate`.

    Rows of a batch run one after another, each with its own statistics: the paper chooses a layer for one sequence.
    With a temperature, drafts are drawn and accepted so that the output has the model's distribution; statistics still
    compare the most likely tokens, over the columns that stand (our reconstruction).

    Args:
        dynamic: end a draft at low confidence (the paper's DDE); False drafts exactly as many tokens as the controller
            chose (DELE).
        longest: most tokens of a dynamic draft. No draft is longer than what the caller still wants, less one.
        window: how many columns of the prompt, before its last, count in the first round.
        controller: makes the controller of a sequence from the number of layers; e.g.
            ``lambda layers: DELController(layers, eligible=range(2, layers // 2))``.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=4,
    ...                      num_attention_heads=4, eos_token_id=None)
    >>> model = LlamaForCausalLM(config).eval()
    >>> ids = torch.tensor([[1, 2, 3]])
    >>> fast = generate(model, ids, DelExit(), max_new_tokens=8)
    >>> bool((fast.sequences == generate(model, ids, max_new_tokens=8).sequences).all())
    True
    """

    dynamic: bool = True
    longest: int = 18
    window: int = 32
    controller: Callable[[int], DELController] = DELController
    name: ClassVar[str] = "del_exit"

    def __post_init__(self) -> None:
        for field, least in (("longest", 1), ("window", 0)):
            if getattr(self, field) < least:
                raise ValueError(f"del_exit: {field} expected at least {least}; got {getattr(self, field)}")

    def start(self, model: Any, prompts: list[Tensor], sampling: Sampling, room: int) -> DelSession:
        """See :class:`tokernel.decoding.Method`."""
        stack = layer_stack("del_exit", model)
        limits = Limits(self.dynamic, self.longest, self.window, stops_of(model))
        controllers = [self.controller(len(stack.layers)) for _ in prompts]
        for controller in controllers:
            if controller.num_layers != len(stack.layers):
                got = controller.num_layers
                raise ValueError(f"del_exit: controller expected of {len(stack.layers)} layers; got of {got}")
        rows = zip(prompts, controllers, strict=True)
        return DelSession([DelRow(stack, prompt, sampling, room, chosen, limits) for prompt, chosen in rows])


def self_speculative_generate(
    model: Any,
    input_ids: Tensor,
    controller: DELController,
    *,
    max_new_tokens: int,
    dynamic: bool = True,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> Generated:
    """Continue one prompt, with a controller that is kept: a later call starts from what it has learnt.

    Args:
        model, max_new_tokens, temperature, generator: as :func:`tokernel.decoding.generate` takes them.
        input_ids: (1, P).
        controller: of as many layers as the model has; updated in place.
        dynamic: see :class:`DelExit`.

    Raises:
        ValueError: a batch, a controller of another depth, and what generate() raises.
    """
    if input_ids.dim() != 2 or input_ids.shape[0] != 1:
        raise ValueError(f"self_speculative_generate: input_ids expected (1, P); got {tuple(input_ids.shape)}")
    method = DelExit(dynamic=dynamic, controller=lambda _: controller)
    return generate(
        model, input_ids, method, max_new_tokens=max_new_tokens, temperature=temperature, generator=generator
    )
