# SPDX-License-Identifier: Apache-2.0
"""Generation over a vocabulary that goes on where the base tokenizer's ends (dynamic tokenization; needs torch)."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tokernel.kernels import bpe
from tokernel.text._dynamic_batch import Names
from tokernel.text._dynamic_boundary import BaseTokenizer
from tokernel.text._dynamic_inputs import topk_logits


class ContinuedVocabulary:
    """The tokens of a base tokenizer, and more behind them; texts are cut greedily, longest token first.

    Ids of the base vocabulary stay; further tokens have the ids from ``n_vocab`` of the tokenizer on. Special tokens
    are never found in a text.

    Args:
        tokenizer: a `tokernel.text.Encoding`.
        tokens: further byte strings, none of which is a token of the base vocabulary.

    Raises:
        ValueError: a token that is empty, there twice, or in the base vocabulary.

    >>> from tokernel.text import Encoding
    >>> ranks = {bytes([b]): b for b in range(256)}
    >>> encoding = Encoding("bytes", pat_str="gpt2", mergeable_ranks=ranks, special_tokens={})
    >>> vocabulary = ContinuedVocabulary.grow(encoding, ["the then the"], 3)
    >>> vocabulary.tokens, vocabulary.encode("the then")
    ([b'th', b'the', b' the'], [257, 258, 110])
    """

    def __init__(self, tokenizer: BaseTokenizer, tokens: Sequence[bytes]) -> None:
        self.tokenizer = tokenizer
        self.tokens = list(tokens)
        base = [i for i in range(tokenizer.n_vocab) if _has(tokenizer, i) and not tokenizer.is_special_token(i)]
        texts = [tokenizer.decode_single_token_bytes(i) for i in base]
        ids = [*base, *range(tokenizer.n_vocab, tokenizer.n_vocab + len(self.tokens))]
        self._trie = bpe.Trie(texts + self.tokens, np.array(ids, np.int64))

    @classmethod
    def grow(cls, tokenizer: BaseTokenizer, texts: Iterable[str], size: int) -> ContinuedVocabulary:
        """Continue the training of byte pairs on texts, from their tokens on, until ``size`` tokens are added.

        Merges stay inside the tokenizer's pieces; the most frequent pair is next, of equals the one met first. [ours:
        the paper does not say how ties are broken.]

        Raises:
            ValueError: size is negative.
        """
        if size < 0:
            raise ValueError(f"ContinuedVocabulary: size must be at least 0, got {size}")
        pieces = [ids for text in texts for ids in _pieces(tokenizer, text)]
        offsets = np.zeros(len(pieces) + 1, np.int64)
        np.cumsum([len(piece) for piece in pieces], out=offsets[1:])
        flat = np.fromiter(itertools.chain.from_iterable(pieces), np.int32)
        names = Names(tokenizer)
        added: dict[bytes, None] = {}

        def join(a: int, b: int, new: int) -> int:
            id = names.join(a, b, new)
            if id >= tokenizer.n_vocab:
                added[names[id].text] = None
            return id

        # A merge may make a token that exists already, and then adds nothing: go on in steps until enough are new.
        done, budget = 0, size
        while budget:
            merged = bpe.merge_pairs_batch(flat, offsets, budget, next_id=tokenizer.n_vocab + len(added), join=join)
            flat, offsets, done = merged.ids, merged.offsets, len(merged.parts)
            budget = size - len(added) if done == budget else 0
        return cls(tokenizer, list(added))

    def __len__(self) -> int:
        """The largest id plus one."""
        return self.tokenizer.n_vocab + len(self.tokens)

    def token_bytes(self, id: int) -> bytes:
        """The bytes of a token."""
        first_new = self.tokenizer.n_vocab
        return self.tokens[id - first_new] if id >= first_new else self.tokenizer.decode_single_token_bytes(id)

    def encode(self, text: str) -> list[int]:
        """The ids of a text, at every position the longest token.

        Raises:
            ValueError: a byte that no token begins with.
        """
        ids: list[int] = self._trie.tokenize_longest(text).ids.tolist()
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; bytes that are no UTF-8 become U+FFFD."""
        return b"".join(self.token_bytes(id) for id in ids).decode("utf-8", "replace")


class Generation(NamedTuple):
    """What :func:`generate` wrote."""

    ids: list[int]
    """The new tokens."""
    text: str
    """Their text."""
    log_probs: list[float]
    """Of each new token, among the candidates of its step."""


@torch.no_grad()
def generate(
    model: Any,
    vocabulary: ContinuedVocabulary,
    prompt: str,
    inputs: Tensor,
    outputs: Tensor,
    *,
    max_new_tokens: int,
    k: int = 200,
    temperature: float = 0.0,
    stop: Collection[int] = (),
    bos: int | None = None,
    generator: torch.Generator | None = None,
) -> Generation:
    """Continue a prompt with tokens of a large vocabulary: softmax over the k best logits, which are exact.

    Args:
        model: a transformers decoder; its base model's last hidden state is what logits are made of.
        vocabulary: V tokens.
        prompt: cut greedily by the longest token.
        inputs: (V, D) input embeddings of the vocabulary, such as a hypernetwork predicts.
        outputs: (V, D) output embeddings.
        max_new_tokens: at least 0.
        k: candidates a step (the paper: 200), at most V are used.
        temperature: 0 takes the best; otherwise the candidates' logits are divided by it and one is drawn.
        stop: ids after which it ends; they are part of the result.
        bos: id that begins the prompt.
        generator: draws the tokens.

    Returns:
        Generation of ids, text and log_probs.

    Raises:
        ValueError: the prompt is empty without bos, embeddings do not have V rows, or a number is out of range.
    """
    if len(inputs) != len(vocabulary) or len(outputs) != len(vocabulary):
        raise ValueError(
            f"generate: inputs and outputs must have {len(vocabulary)} rows, got {len(inputs)} and {len(outputs)}"
        )
    if temperature < 0 or max_new_tokens < 0:
        raise ValueError("generate: temperature and max_new_tokens must be at least 0")
    ids = ([] if bos is None else [bos]) + vocabulary.encode(prompt)
    if not ids:
        raise ValueError("generate: prompt must not be empty without bos")
    made: list[int] = []
    chances: list[float] = []
    past, step, decoder = None, ids, model.base_model
    cache_name = "cache" if "cache" in inspect.signature(decoder.forward).parameters else "past_key_values"
    while len(made) < max_new_tokens:
        embeds = inputs[torch.tensor(step, device=inputs.device)][None]
        out = decoder(inputs_embeds=embeds, use_cache=True, **{cache_name: past})
        past = out.past_key_values
        value, index = topk_logits(out.last_hidden_state[0, -1:].to(outputs.dtype), outputs, min(k, len(outputs)))
        log_p = (value[0] / temperature if temperature else value[0]).log_softmax(-1)
        drawn = int(torch.multinomial(log_p.exp(), 1, generator=generator)) if temperature else 0
        made.append(int(index[0, drawn]))
        chances.append(float(log_p[drawn]))
        step = made[-1:]
        if made[-1] in stop:
            break
    return Generation(made, vocabulary.decode(made), chances)


def _has(tokenizer: BaseTokenizer, id: int) -> bool:
    try:
        tokenizer.decode_single_token_bytes(id)
    except (KeyError, ValueError):  # ids may have gaps
        return False
    return True


def _pieces(tokenizer: BaseTokenizer, text: str) -> list[list[int]]:
    """The ids of a text, piece by piece."""
    data = text.encode()
    ends = tokenizer.split(text).tolist()
    return [bpe.encode(tokenizer.vocab, data[a:b]).tolist() for a, b in itertools.pairwise([0, *ends])]
