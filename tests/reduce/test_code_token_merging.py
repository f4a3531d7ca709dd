# SPDX-License-Identifier: Apache-2.0
"""Segments of code tokens: the laws of the specification, on made-up batches and on the standard library's source."""

from __future__ import annotations

import sysconfig
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
tokenizers = pytest.importorskip("tokenizers")

from torch import Tensor

from tokernel.reduce._code_segments import segment_offsets
from tokernel.reduce.code_token_merging import (
    LearnedSegmentMerger,
    char_offsets,
    identifier_spans,
    merging_flops,
    segment_mean,
    segment_restore,
    segment_softmax_pool,
    segments_from_spans,
    unit_spans,
)

STDLIB = Path(sysconfig.get_paths()["stdlib"])

# Three samples of 7 tokens with 4, 7 and 2 units; padding right, none, and on both sides.
IDS = torch.tensor([[0, 1, 1, 2, 3, -1, -1], [0, 1, 2, 3, 4, 5, 6], [-1, 0, 0, 0, 1, 1, -1]])


def states(seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*IDS.shape, 5, generator=torch.Generator().manual_seed(seed)).to(dtype)


def scatter_pool(h: Tensor, weight: Tensor, g: Tensor) -> Tensor:
    """The reference: one index_add a sample."""
    rows = []
    for x, w, ids in zip(h, weight, g, strict=True):
        kept = ids >= 0
        out = torch.zeros(int(g.max()) + 1, h.shape[2], dtype=h.dtype)
        rows.append(out.index_add(0, ids[kept], (x * w[:, None])[kept]))
    return torch.stack(rows)


def counts(g: Tensor) -> Tensor:
    return torch.stack([torch.bincount(ids[ids >= 0], minlength=int(g.max()) + 1) for ids in g])


def scatter_mean(h: Tensor, g: Tensor) -> Tensor:
    return scatter_pool(h, torch.ones(g.shape, dtype=h.dtype), g) / counts(g).clamp(min=1)[..., None]


def scatter_softmax(scores: Tensor, g: Tensor) -> Tensor:
    parts = []
    for s, ids in zip(scores, g, strict=True):
        e = torch.where(ids >= 0, s.exp(), 0.0)
        total = torch.zeros(int(g.max()) + 1, dtype=s.dtype).index_add(0, ids.clamp(min=0), e)
        parts.append(e / total[ids.clamp(min=0)].clamp(min=1e-30))
    return torch.stack(parts)


# --- what must be true of the ops -----------------------------------------------------------------------------------


def test_mean_merge_conserves_the_sum():
    u = segment_mean(states(), IDS)
    total = (counts(IDS)[..., None] * u).sum(1)
    torch.testing.assert_close(total, (states() * (IDS >= 0)[..., None]).sum(1))


def test_segments_of_one_token_are_the_token_bit_for_bit():
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        h = states(dtype=dtype)
        alone = torch.arange(7).expand(3, -1)
        assert torch.equal(segment_mean(h, alone), h)
        assert torch.equal(segment_softmax_pool(h, torch.randn(3, 7), alone), h)


def test_restore_after_merge_is_idempotent_under_merge():
    u = segment_mean(states(), IDS)
    restored = segment_restore(u, IDS)
    assert (restored[IDS < 0] == 0).all()
    torch.testing.assert_close(segment_mean(restored, IDS), u)
    torch.testing.assert_close(segment_restore(segment_mean(restored, IDS), IDS), restored)


def test_equal_scores_give_the_mean_and_a_new_merger_starts_there():
    mean = segment_mean(states(), IDS)
    torch.testing.assert_close(segment_softmax_pool(states(), torch.zeros(3, 7), IDS), mean)
    for hidden in (None, 4):
        torch.testing.assert_close(LearnedSegmentMerger(5, hidden)(states(), IDS), mean)


def test_a_constant_added_to_one_segment_changes_nothing():
    scores = torch.randn(3, 7, generator=torch.Generator().manual_seed(1))
    moved = scores + torch.tensor([1.0, -2.0, 3.0, 0.5, 4.0, -1.0, 2.0])[IDS.clamp(min=0)]
    torch.testing.assert_close(
        segment_softmax_pool(states(), moved, IDS), segment_softmax_pool(states(), scores, IDS), atol=1e-6, rtol=1e-5
    )


def test_learnt_weights_sum_to_one_in_each_segment():
    scores = torch.randn(3, 7, generator=torch.Generator().manual_seed(1))
    sums = segment_softmax_pool(torch.ones(3, 7, 5), scores, IDS)
    torch.testing.assert_close(sums, (counts(IDS) > 0).float()[..., None].expand(-1, -1, 5))
    torch.testing.assert_close(
        segment_softmax_pool(states(), scores, IDS), scatter_pool(states(), scatter_softmax(scores, IDS), IDS)
    )


def test_gradients_equal_those_of_the_scatter_reference():
    scores = torch.randn(3, 7, generator=torch.Generator().manual_seed(1)).requires_grad_()
    h, up = states().requires_grad_(), torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(2))
    mean = torch.autograd.grad(segment_mean(h, IDS), h, up)
    torch.testing.assert_close(mean, torch.autograd.grad(scatter_mean(h, IDS), h, up), atol=1e-6, rtol=1e-6)
    pooled = torch.autograd.grad(segment_softmax_pool(h, scores, IDS), (h, scores), up)
    plain = torch.autograd.grad(scatter_pool(h, scatter_softmax(scores, IDS), IDS), (h, scores), up)
    torch.testing.assert_close(pooled, plain, atol=1e-6, rtol=1e-5)


def test_answers_are_the_same_bits_on_every_run():
    h, scores = torch.randn(2, 600, 16), torch.randn(2, 600)
    g = torch.arange(600).div(3, rounding_mode="floor").expand(2, -1)
    first = (segment_mean(h, g), segment_softmax_pool(h, scores, g))
    for _ in range(3):
        assert torch.equal(segment_mean(h, g), first[0])
        assert torch.equal(segment_softmax_pool(h, scores, g), first[1])


def test_padding_content_does_not_matter_and_samples_do_not_meet():
    h, noisy, scores = states(), states(), torch.randn(3, 7)
    noisy[IDS < 0] = 1e6
    for merge in (segment_mean, lambda h, g: segment_softmax_pool(h, scores[: len(h)], g)):
        assert torch.equal(merge(h, IDS), merge(noisy, IDS))
    batch = segment_mean(h, IDS)
    for b in range(3):
        alone = segment_mean(h[b : b + 1], IDS[b : b + 1])
        assert torch.equal(batch[b, : alone.shape[1]], alone[0])
        assert (batch[b, alone.shape[1] :] == 0).all()


def test_offsets_skip_padding_on_either_side():
    offsets = segment_offsets(IDS)
    assert offsets[0].tolist() == [0, 1, 3, 4, 5, 5, 5, 5]
    assert offsets[2].tolist() == [1, 4, 6, 6, 6, 6, 6, 6]


def test_empty_inputs_are_answered():
    no_tokens = torch.zeros(2, 0, dtype=torch.int64)
    assert segment_mean(torch.zeros(2, 0, 5), no_tokens).shape == (2, 0, 5)
    assert segment_mean(torch.zeros(0, 3, 5), torch.zeros(0, 3, dtype=torch.int64)).shape == (0, 0, 5)
    all_padding = segment_mean(torch.ones(1, 3, 5), torch.full((1, 3), -1))
    assert all_padding.shape == (1, 0, 5)
    assert segments_from_spans([], [], []).shape == (0,)


# --- what must be true of the FLOPs ---------------------------------------------------------------------------------


def test_saving_grows_with_earlier_layers_and_fewer_units():
    by_layer = [merging_flops(512, 300, layer, 12, 768).saving for layer in range(13)]
    assert all(a > b for a, b in pairwise(by_layer))
    by_units = [merging_flops(512, units, 6, 12, 768).saving for units in range(0, 513, 64)]
    assert all(a > b for a, b in pairwise(by_units))


def test_merging_after_the_last_layer_saves_nothing():
    flops = merging_flops(512, 100, 12, 12, 768)
    assert flops.merged - flops.dense == 2 * 512 * 768  # the merge itself
    assert flops.saving <= 0


@pytest.mark.parametrize("bad", [{"U": 9}, {"layer": 13}, {"layer": -1}, {"L": 0}, {"C": 0}, {"U": -1}])
def test_flops_of_impossible_sizes_are_refused(bad: dict[str, int]):
    with pytest.raises(ValueError, match="merging_flops: expected 0 <= U <= T"):
        merging_flops(**({"T": 8, "U": 4, "layer": 0, "L": 12, "C": 4} | bad))


# --- units of real source -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer():
    """A byte-level BPE of 700 pieces learnt from the standard library, with RoBERTa's special tokens."""
    files = [str(STDLIB / name) for name in ("argparse.py", "typing.py", "ast.py")]
    bpe = tokenizers.ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    bpe.train([f for f in files if Path(f).exists()], vocab_size=700, special_tokens=special, show_progress=False)
    return bpe


def encode(tokenizer, source: str, trim_offsets: bool = True, length: int | None = None):
    tokenizer.post_processor = tokenizers.processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=trim_offsets, add_prefix_space=False
    )
    tokenizer.no_truncation() if length is None else tokenizer.enable_truncation(length)
    return tokenizer.encode(source)


def segment(encoding, spans, source: str) -> Tensor:
    return segments_from_spans(encoding.offsets, spans, encoding.special_tokens_mask, source=source)


SOURCES = ["heapq.py", "fractions.py", "bisect.py"]


@pytest.mark.parametrize("name", SOURCES)
def test_identifiers_of_real_source_become_units(tokenizer, name: str):
    source = (STDLIB / name).read_text(encoding="utf-8")
    encoding, spans = encode(tokenizer, source), identifier_spans(source, "python")
    g = segment(encoding, spans, source)
    assert g[0] == 0
    assert g[-1] == g[-2] + 1  # </s> stands alone, as <s> does
    assert (g == 0).sum() == 1
    assert torch.bincount(g).sum() == len(encoding.ids)
    # Counted the slow way: a token merges into the one before it when one identifier holds both.
    size = min(1000, len(g))
    inside = [
        next((k for k, (a, b) in enumerate(spans) if a <= start < end <= b), None)
        for start, end in encoding.offsets[-size:]
    ]
    joined = sum(a == b is not None for a, b in pairwise(inside))
    assert int(g[-1] - g[-size]) + 1 == size - joined
    assert joined > 30
    texts: dict[int, str] = {}
    for unit, (start, end) in zip(g.tolist(), encoding.offsets, strict=True):
        texts[unit] = texts.get(unit, "") + source[start:end]
    merged = {texts[k] for k in np.flatnonzero(torch.bincount(g).numpy() > 1).tolist()}
    identifiers = {source[a:b] for a, b in spans}
    # A piece such as "__(" holds more than the identifier and stays alone, which leaves a part of the identifier.
    assert all(text in identifiers or any(text in name for name in identifiers) for text in merged)
    assert len(merged & identifiers) > 0.8 * len(merged)


@pytest.mark.parametrize("name", SOURCES)
def test_white_space_before_a_word_does_not_count(tokenizer, name: str):
    source = (STDLIB / name).read_text(encoding="utf-8")
    spans = unit_spans(source, "python")
    trimmed = segment(encode(tokenizer, source), spans, source)
    raw = segment(encode(tokenizer, source, trim_offsets=False), spans, source)
    assert torch.equal(raw, trimmed)


def test_length_after_merging_is_the_number_of_lexer_units(tokenizer):
    """On every line of real source whose subtokens stay within units, as compilers see it: no comments."""
    checked = 0
    for line in (STDLIB / "fractions.py").read_text(encoding="utf-8").splitlines():
        source, spans = line.strip(), unit_spans(line.strip(), "python")
        encoding = encode(tokenizer, source)
        covered = all(
            special or any(a <= start < end <= b for a, b in spans)
            for (start, end), special in zip(encoding.offsets, encoding.special_tokens_mask, strict=True)
        )
        if not covered or not spans:
            continue
        g = segment(encoding, spans, source)
        assert int(g.max()) + 1 == len(spans) + 2
        checked += 1
    assert checked > 50


def test_conservation_and_restored_states_on_real_source(tokenizer):
    source = (STDLIB / "heapq.py").read_text(encoding="utf-8")
    g = segment(encode(tokenizer, source), identifier_spans(source, "python"), source)
    h = torch.randn(1, len(g), 8, generator=torch.Generator().manual_seed(0))
    u = segment_mean(h, g)
    assert u.shape[1] == int(g.max()) + 1 < len(g)
    torch.testing.assert_close((torch.bincount(g)[None, :, None] * u).sum(1), h.sum(1), rtol=1e-4, atol=1e-3)
    restored = segment_restore(u, g)
    alone = torch.bincount(g)[g] == 1
    assert torch.equal(restored[0, alone], h[0, alone])
    torch.testing.assert_close(segment_mean(restored, g), u)


def test_truncation_cuts_the_last_unit_short(tokenizer):
    source = "value = alpha_beta_gamma_delta_epsilon"
    spans = identifier_spans(source, "python")
    whole = encode(tokenizer, source)
    cut = encode(tokenizer, source, length=len(whole.ids) - 2)
    g = segment(cut, spans, source)
    assert int(g.max()) == int(segment(whole, spans, source).max())
    assert torch.bincount(g)[-2] == torch.bincount(segment(whole, spans, source))[-2] - 2


# --- spans ----------------------------------------------------------------------------------------------------------


def test_a_subtoken_across_a_border_stays_alone():
    source = "a.append"
    spans = identifier_spans(source, "python")
    assert spans == [(0, 1), (2, 8)]
    # ".app" covers the operator and a part of the name.
    assert segments_from_spans([(0, 1), (1, 5), (5, 6), (6, 8)], spans, [0] * 4).tolist() == [0, 1, 2, 2]


def test_a_unit_never_joins_across_a_special_token():
    assert segments_from_spans([(0, 2), (2, 2), (2, 4)], [(0, 4)], [0, 1, 0]).tolist() == [0, 1, 2]
    # Neighbouring units stay apart, whatever the tokenizer did between them.
    assert segments_from_spans([(0, 2), (2, 4)], [(0, 2), (2, 4)], [0, 0]).tolist() == [0, 1]


def test_padding_is_minus_one_on_either_side():
    offsets = [(0, 0), (0, 0), (0, 2), (2, 4), (0, 0)]
    g = segments_from_spans(offsets, [(0, 4)], [1, 1, 0, 0, 1], attention_mask=[0, 1, 1, 1, 0])
    assert g.tolist() == [-1, 0, 1, 1, -1]


def test_white_space_inside_a_unit_belongs_to_it():
    source = 'x = "a b"'
    spans = unit_spans(source, "python")
    offsets = [(0, 1), (1, 3), (3, 5), (5, 6), (6, 7), (7, 9)]  # untrimmed, white space of its own at (6, 7)
    assert segments_from_spans(offsets, spans, [0] * 6, source=source).tolist() == [0, 1, 2, 2, 2, 2]


def test_byte_offsets_become_character_offsets():
    source = "größe = 'ß'; naïve_é = 1"
    raw = source.encode()
    pieces = [(0, 3), (3, 4), (4, 7), (7, 9), (9, 12)]  # the second and third cut the two bytes of one letter
    assert char_offsets(source, pieces) == [(0, 3), (2, 3), (3, 5), (5, 7), (7, 10)]
    whole = char_offsets(source, [(0, len(raw))])
    assert whole == [(0, len(source))]
    assert char_offsets(source, [(4, 4)])[0][0] == char_offsets(source, [(4, 4)])[0][1]
    spans = identifier_spans(source, "python")
    assert segments_from_spans(char_offsets(source, pieces), spans, [0] * 5).tolist() == [0, 0, 0, 1, 2]


def test_byte_offsets_agree_with_the_tokenizer_on_other_scripts(tokenizer):
    source = "naïve_größe = über(π, 日本語)"
    encoding = encode(tokenizer, source, trim_offsets=False)
    sizes = [len(tokenizer.id_to_token(i)) for i in encoding.ids[1:-1]]  # a byte-level piece has one letter a byte
    ends = np.cumsum(sizes)
    ours = char_offsets(source, np.stack([ends - sizes, ends], 1))
    assert ours == encoding.offsets[1:-1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: segments_from_spans([(0, 1)], [], [0, 0]), r"special_mask expected shape \(1,\); got \(2,\)"),
        (lambda: segments_from_spans([(0, 1)], [], [0], attention_mask=[]), "attention_mask expected shape"),
        (lambda: segments_from_spans([(0, 1)], [(2, 2)], [0]), "unit_spans expected ascending"),
        (lambda: segments_from_spans([(0, 1)], [(0, 3), (2, 4)], [0]), "unit_spans expected ascending"),
        (lambda: char_offsets("é", [(0, 3)]), "char_offsets: byte_offsets expected spans within 2 bytes"),
    ],
)
def test_bad_arguments_are_named(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()
