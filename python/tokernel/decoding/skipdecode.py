# SPDX-License-Identifier: Apache-2.0
"""SkipDecode: Autoregressive Skip Decoding with Batching and Caching for Efficient LLM Inference (Del Corro et al.).

arXiv 2307.02628, 2023. All sequences of a batch run the same number of layers at a position, and fewer the further the
text goes: some at the bottom, the others at the top, the middle skipped. Layers in use only ever leave, so that every
key and value that a later token needs is there, and no row waits for another.

No code was released. The line that depths follow, its rounding, the one warm-up layer, that a prompt runs k_max, and
what a plan chooses among equals are our reconstruction. The claims (2x to 5x fewer layers at little loss) hold only
for models fine-tuned with the schedule; skipping the middle of any other model harms it. Unlike other methods this one
changes what the model says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from tokernel.decoding._plain import choose
from tokernel.decoding._session import Sampling
from tokernel.decoding._skip_run import SkipDecodeModel, skip_forward_train
from tokernel.decoding._skip_schedule import (
    SkipSchedule,
    active_layers,
    mean_depth,
    plan_for_speedup,
    skip_schedule,
)
from tokernel.papers import paper

__all__ = [
    "PAPER",
    "SkipDecode",
    "SkipDecodeModel",
    "SkipSchedule",
    "active_layers",
    "mean_depth",
    "plan_for_speedup",
    "skip_forward_train",
    "skip_schedule",
]

PAPER = paper("skipdecode")


@dataclass(frozen=True)
class SkipDecode:
    """SkipDecode as a method of :func:`tokernel.decoding.generate`, for a model fine-tuned with the schedule.

    Prompts are padded on the left to one length; a row that is finished leaves the batch.

    Args:
        schedule: how many layers each position runs. None: planned for ``speedup`` over the tokens asked for.
        speedup: how many times fewer layers the generated tokens run on average, where no schedule is given.

    >>> from tokernel.decoding import generate
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4)
    >>> model = LlamaForCausalLM(LlamaConfig(vocab_size=64, eos_token_id=None, **sizes)).eval()
    >>> method = SkipDecode(SkipSchedule(k_max=4, k_min=2, n_ref=8))
    >>> generate(model, torch.tensor([[1, 2, 3], [4, 5, 6]]), method, max_new_tokens=8).sequences.shape
    torch.Size([2, 11])
    """

    schedule: SkipSchedule | None = None
    speedup: float = 2.0
    name: ClassVar[str] = "skipdecode"

    def start(self, model: Any, prompts: list[Tensor], sampling: Sampling, room: int) -> SkipSession:
        """See :class:`tokernel.decoding.Method`."""
        schedule = self.schedule
        if schedule is None:
            schedule = plan_for_speedup(model.config.num_hidden_layers, max(room, 2), self.speedup)
        longest = max(map(len, prompts))
        ids = torch.stack([torch.nn.functional.pad(prompt, (longest - len(prompt), 0)) for prompt in prompts])
        real = torch.stack([torch.arange(longest, device=p.device) >= longest - len(p) for p in prompts])
        run = SkipDecodeModel(model, schedule)
        return SkipSession(run, run.prefill(ids, real, room), sampling)


class SkipSession:
    """A batch whose columns are aligned."""

    def __init__(self, run: SkipDecodeModel, logits: Tensor, sampling: Sampling) -> None:
        self.run = run
        self.sampling = sampling
        self.logits: Tensor | None = logits
        self.rows = list(range(len(logits)))
        self.last = logits.new_empty(len(logits), dtype=torch.int64)

    def step(self, active: Sequence[bool]) -> list[list[int]]:
        """See :class:`tokernel.decoding.Session`."""
        kept = [place for place, row in enumerate(self.rows) if active[row]]
        if len(kept) < len(self.rows):
            index = self.last.new_tensor(kept)
            self.run.keep(index)
            self.last = self.last[index]
            self.rows = [self.rows[place] for place in kept]
            self.logits = None if self.logits is None else self.logits[index]
        logits = self.run.step(self.last) if self.logits is None else self.logits
        self.logits = None
        self.last = choose(logits, self.sampling)
        out: list[list[int]] = [[] for _ in active]
        for row, token in zip(self.rows, self.last.tolist(), strict=True):
            out[row] = [token]
        return out
