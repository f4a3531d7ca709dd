# SPDX-License-Identifier: Apache-2.0
"""Dynamic tokenization: golden batches of the official code, and what its specification says must be true."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from tokernel.text import Encoding
from tokernel.text import dynamic_tokenization as dynamic
from tokernel.text.dynamic_tokenization import BOUNDARIES, DynamicTokenizer, EmbeddingCache

TEXTS = [
    "Ribonucleoprotein particles regulate mRNA stability, and mRNA stability regulates ribonucleoprotein.",
    "the the then them  then the\tthe",
    "x\n\ny  z\n\n\nw   aaaa aaaaaa",
    "naïve café naïve café 日本語の日本語 テキスト -- isn't state-of-the-art?",
    "",
    " leading and trailing ",
]


@pytest.fixture(scope="module")
def batch_golden(golden):
    return np.load(golden / "dynamic_tokenization" / "batch.npz")


@pytest.fixture(scope="module")
def encoding(golden):
    """The first 300 merges of GPT-2, and two special tokens."""
    data = np.load(golden / "bpe" / "gpt2_merges.npz")
    tokens = {int(id): bytes([byte]) for byte, id in enumerate(data["byte_to_id"])}
    for k, (left, right) in enumerate(data["merges"][:300].tolist()):
        tokens[256 + k] = tokens[left] + tokens[right]
    ranks = {token: id for id, token in tokens.items()}
    return Encoding("gpt2-300", pat_str="gpt2", mergeable_ranks=ranks, special_tokens={"<s>": 556, "</s>": 557})


@pytest.fixture(params=BOUNDARIES)
def tokenizer(request, encoding):
    return DynamicTokenizer(encoding, request.param, bos="<s>", eos="</s>")


def strings(data, name, offsets=None):
    flat = bytes(data[name].astype(np.uint8))
    return [flat[a:b] for a, b in itertools.pairwise(data[offsets or f"{name}_off"])]


def sequences(batch):
    return [batch.sequence(b) for b in range(len(batch))]


# What must be true


def test_1_output_spells_what_the_base_tokens_spell(tokenizer):
    base = tokenizer.tokenize_batch(TEXTS, 0)
    for budget in (3, 20, None):
        got = tokenizer.tokenize_batch(TEXTS, budget)
        assert [b"".join(s) for s in sequences(got)] == [b"".join(s) for s in sequences(base)]


def test_2_no_budget_is_the_identity(tokenizer, encoding):
    got = tokenizer.tokenize_batch(TEXTS, 0)
    base = [[556, *encoding.encode_ordinary(text), 557] for text in TEXTS]
    assert got.base_ids[got.tokens].tolist() == [id for row in base for id in row]
    assert np.diff(got.offsets).tolist() == [len(row) for row in base]
    assert got.merges == []


def test_3_length_never_grows_and_merges_account_for_it(tokenizer):
    base = len(tokenizer.tokenize_batch(TEXTS, 0).tokens)
    every = tokenizer.tokenize_batch(TEXTS)
    lengths = [len(tokenizer.tokenize_batch(TEXTS, m).tokens) for m in range(len(every.merges) + 1)]
    assert lengths == (base - np.concatenate([[0], np.cumsum(every.replaced)])).tolist()
    assert (every.replaced >= 1).all()


def test_4_a_larger_budget_goes_on_from_a_smaller_one(tokenizer):
    every = tokenizer.tokenize_batch(TEXTS)
    for m in (0, 1, 7, len(every.merges)):
        assert tokenizer.tokenize_batch(TEXTS, m).merges == every.merges[:m]


def test_5_when_it_stops_no_valid_pair_is_left(tokenizer, encoding):
    from tokernel.text._dynamic_boundary import Token, is_punctuation, pair_test

    batch = tokenizer.tokenize_batch(TEXTS, 10_000)
    assert len(batch.merges) < 10_000
    table = [
        Token(text, bool(special), id >= 0 and is_punctuation(text))
        for text, special, id in zip(batch.table, batch.special, batch.base_ids, strict=True)
    ]
    valid = pair_test(tokenizer.boundary, encoding)
    for b in range(len(batch)):
        row = batch.tokens[batch.offsets[b] : batch.offsets[b + 1]]
        assert not any(valid(table[x], table[y]) for x, y in itertools.pairwise(row))


def test_6_unlimited_pretokens_end_as_pretokens_and_words_are_shorter(encoding):
    text = "Ribonucleoprotein particles regulate stability of messengers everywhere"  # letters and single spaces
    pretokens = DynamicTokenizer(encoding, "pretokens").tokenize_batch([text])
    data, ends = text.encode(), encoding.split(text).tolist()
    assert pretokens.sequence(0) == [data[a:b] for a, b in itertools.pairwise([0, *ends])]
    prose = TEXTS[0] + " isn't it (well-known)?"
    words = DynamicTokenizer(encoding, "word").tokenize_batch([prose])
    assert len(words.tokens) < len(DynamicTokenizer(encoding, "pretokens").tokenize_batch([prose]).tokens)
    runs = DynamicTokenizer(encoding, "word").tokenize_batch(["a" + " " * 7 + "a"])
    assert b"  " not in runs.sequence(0)  # white space alone is no word


def test_7_no_merged_token_has_white_space_inside(tokenizer):
    batch = tokenizer.tokenize_batch(TEXTS)
    for token, id in zip(batch.table, batch.base_ids, strict=True):
        if id < 0:
            assert not any(c in b" \n\t" for c in token[1:]) or (set(token) <= set(b" \n\t") and token != b"\n\n")


def test_8_the_order_of_sequences_matters_for_ties_only(tokenizer):
    """Budgets up to the first tie give the same merges for every order."""
    base = tokenizer.tokenize_batch(TEXTS, 0)
    from tokernel.text._dynamic_batch import merge

    ids = base.base_ids[base.tokens].astype(np.int32)
    merged, _ = merge(ids, base.offsets, tokenizer.tokenizer, tokenizer.boundary, None)
    budget = int(np.flatnonzero(np.diff(merged.counts) == 0)[0])  # before the first two that have the same count
    assert budget >= 1
    for order in itertools.islice(itertools.permutations(range(len(TEXTS))), 0, 720, 97):
        again = tokenizer.tokenize_batch([TEXTS[i] for i in order], budget)
        assert again.merges == tokenizer.tokenize_batch(TEXTS, budget).merges
        assert sequences(again) == [tokenizer.tokenize_batch(TEXTS, budget).sequence(i) for i in order]


@pytest.mark.parametrize("boundary", ["word", "word_hyphen", "sentence"])
def test_9_special_tokens_survive(encoding, boundary):
    batch = DynamicTokenizer(encoding, boundary, bos="<s>", eos="</s>").tokenize_batch(TEXTS)
    for b in range(len(batch)):
        row = batch.tokens[batch.offsets[b] : batch.offsets[b + 1]]
        assert batch.special[row].tolist() == [True, *[False] * (len(row) - 2), True]
        assert batch.base_ids[row[[0, -1]]].tolist() == [556, 557]


def test_10_word_ids_stay_aligned(tokenizer):
    words = [["mRNA", "stability", "regulates"], ["state", "-of", "-the", "-art", "art"], []]
    for budget in (0, 5, None):
        batch = tokenizer.tokenize_batch(words, budget)
        for b, row in enumerate(words):
            owner = batch.word_ids[batch.offsets[b] : batch.offsets[b + 1]]
            assert owner[0] == owner[-1] == -1
            assert (np.diff(owner[1:-1]) >= 0).all()
            place, starts = 0, np.cumsum([0, *map(len, row)])
            for token, word in zip(batch.sequence(b)[1:-1], owner[1:-1], strict=True):
                assert starts[word] <= place < starts[word + 1]  # the word that its first byte is of
                place += len(token)


def test_11_the_mean_of_one_row_is_that_row(encoding):
    torch = pytest.importorskip("torch")
    table = torch.randn(558, 8)
    forms, cut = dynamic.surface_forms([encoding.decode_single_token_bytes(i) for i in range(556)], encoding, 4)
    assert cut == 0
    assert forms[:, 0].tolist() == list(range(556))
    assert torch.equal(dynamic.fvt_embed(torch.from_numpy(forms), table), table[:556])
    two = dynamic.fvt_embed(torch.tensor([[3, 5, -1]]), table)
    torch.testing.assert_close(two[0], (table[3] + table[5]) / 2)


def test_12_the_cache_returns_what_a_fresh_prediction_would(encoding):
    torch = pytest.importorskip("torch")
    wrapper, cached = (_wrapper(encoding, cache) for cache in (None, EmbeddingCache(64, 16, torch.zeros(64, 16))))
    tokenizer = DynamicTokenizer(encoding, "word", bos="<s>")
    with torch.no_grad():
        for texts in (TEXTS[:2], TEXTS[1:3], TEXTS[:2], TEXTS[3:]):
            batch = tokenizer.tokenize_batch(texts, 20)
            assert torch.equal(wrapper.rows(batch), cached.rows(batch))
    assert len(cached.cache) >= 20


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_13_golden_batches(batch_golden, encoding, boundary):
    texts = [text.decode() for text in strings(batch_golden, "text_bytes", "text_off")]
    tokenizer = DynamicTokenizer(encoding, boundary, bos="<s>", eos="</s>")
    for budget in batch_golden["budgets"].tolist():
        batch = tokenizer.tokenize_batch(texts, budget, max_length=512)
        name = f"{boundary}_m{budget}"
        assert list(itertools.chain(*sequences(batch))) == strings(batch_golden, f"{name}_tok_bytes", f"{name}_tok_off")
        assert batch.offsets.tolist() == batch_golden[f"{name}_seq_off"].tolist()
    assert [a for a, _ in batch.merges] == strings(batch_golden, f"{boundary}_merge_left")
    assert [b for _, b in batch.merges] == strings(batch_golden, f"{boundary}_merge_right")


def by_strings(rows, boundary, encoding, budget):
    """The rules on strings, all pairs counted anew for every merge."""
    from tokernel.text._dynamic_boundary import Token, is_punctuation, pair_test

    valid = pair_test(boundary, encoding)
    known = set(encoding.token_byte_values())

    def token(text, special):
        return Token(text, special, text in known and is_punctuation(text))

    rows = [[token(text, special) for text, special in row] for row in rows]
    for _ in range(budget):
        counts = Counter(pair for row in rows for pair in itertools.pairwise(row) if valid(*pair))
        if not counts:
            break
        best = max(counts, key=counts.get)
        for r, row in enumerate(rows):
            out = []
            for t in row:
                # Left to right: a token that was just made is no left part.
                if out and (out[-1][0], t) == best and not out[-1][1]:
                    out[-1] = (token(best[0].text + t.text, False), True)
                else:
                    out.append((t, False))
            rows[r] = [t for t, _ in out]
    return [[t.text for t in row] for row in rows]


@pytest.mark.parametrize("seed", range(4))
def test_random_batches_against_the_rules_on_strings(tokenizer, encoding, seed):
    rng = np.random.default_rng(seed)
    parts = ["the", "th", "he", "n", " ", "  ", "\n", "\n\n", "-", "'s", "é", "日", "1", ".", "<s>", "\t", "in"]
    texts = ["".join(rng.choice(parts, n)) for n in rng.integers(0, 25, 5)]
    base = tokenizer.tokenize_batch(texts, 0)
    rows = [
        [(base.table[t], bool(base.special[t])) for t in base.tokens[a:b]] for a, b in itertools.pairwise(base.offsets)
    ]
    for budget in (1, 6, 1000):
        got = sequences(tokenizer.tokenize_batch(texts, budget))
        assert got == by_strings(rows, tokenizer.boundary, encoding, budget)


# Traps


def test_the_same_text_is_cut_differently_in_other_company(encoding):
    tokenizer = DynamicTokenizer(encoding, "word")
    alone = tokenizer.tokenize_batch([TEXTS[0]], 3).sequence(0)
    assert alone != tokenizer.tokenize_batch([TEXTS[0], "stability of stability " * 9], 3).sequence(0)


def test_two_newlines_are_refused_and_three_are_not_made_of_them(encoding):
    batch = DynamicTokenizer(encoding, "sentence").tokenize_batch(["a\n\nb", "a\n\n\nb"])
    assert b"\n\n" not in batch.table
    spaced = DynamicTokenizer(encoding, "sentence").tokenize_batch(["a\n \nb"])
    assert b"\n \n" in spaced.table or b"\n " in spaced.table


def test_pieces_of_characters_merge_across_words(encoding):
    """No UTF-8: valid under pretokens, whatever the words are."""
    names = [b"e", b"\xe6", b"\x97", b"\xa5"]
    ids = [encoding.encode_single_token(name) for name in names]
    merged = dynamic.dynamic_merge(ids, [0, 4], encoding, "pretokens", 1)
    assert merged.parts.tolist() == [ids[:2]]


def test_text_that_spells_a_special_token_stays_text(encoding):
    batch = DynamicTokenizer(encoding, "sentence", bos="<s>").tokenize_batch(["<s><s><s>"])
    assert batch.special.sum() == 1
    assert batch.base_ids[batch.special].tolist() == [556]
    assert b"".join(batch.sequence(0)) == b"<s>" * 4
    assert batch.base_ids[[token == b"<s>" for token in batch.table]].max() == 556


def test_a_merge_that_makes_a_known_token_is_that_token(encoding):
    """' the' out of ' t' and 'he' counts together with the vocabulary's own ' the'."""
    t, he, the = (encoding.encode_single_token(x) for x in (b" t", b"he", b" the"))
    merged = dynamic.dynamic_merge([t, he, the, t, he], [0, 5], encoding, lambda a, b: a == b" t", None)
    assert merged.ids.tolist() == [the, the, the]
    assert merged.results.tolist() == [the]


# The rest of the surface


def test_truncation_keeps_the_last_token(encoding):
    batch = DynamicTokenizer(encoding, bos="<s>", eos="</s>").tokenize_batch(TEXTS, 0, max_length=6)
    assert np.diff(batch.offsets).max() == 6
    assert all(s[0] == b"<s>" and s[-1] == b"</s>" for s in sequences(batch))
    prompts = DynamicTokenizer(encoding, bos="<s>").tokenize_batch(TEXTS, 0, max_length=6)
    assert prompts.sequence(0)[:6] == batch.sequence(0)[:5] + prompts.sequence(0)[5:6]


def test_a_batch_of_nothing(tokenizer):
    batch = tokenizer.tokenize_batch([])
    assert len(batch) == 0
    assert batch.tokens.size == 0
    assert batch.padded()[0].shape == (0, 0)


def test_padding_on_both_sides(encoding):
    batch = DynamicTokenizer(encoding).tokenize_batch(["the then", "", "a"], 0)
    right, mask = batch.padded("right")
    left, mirrored = batch.padded("left")
    assert mask.sum(1).tolist() == mirrored.sum(1).tolist() == np.diff(batch.offsets).tolist()
    assert (right[mask] == batch.tokens).all()
    assert (left[mirrored] == batch.tokens).all()
    assert mask[:, :-1][mask[:, 1:]].all()
    assert mirrored[:, 1:][mirrored[:, :-1]].all()


def test_budget_from_a_wanted_reduction(encoding):
    tokenizer = DynamicTokenizer(encoding, "word")
    lengths = dynamic.merges_to_length(tokenizer, [TEXTS[:3], TEXTS[3:]], 40)
    assert lengths.shape == (41,)
    assert (np.diff(lengths) <= 0).all()
    for m in (0, 7, 40):
        tokens = sum(len(tokenizer.tokenize_batch(texts, m).tokens) for texts in (TEXTS[:3], TEXTS[3:]))
        assert lengths[m] == tokens / len(TEXTS)
    m = dynamic.merges_for_reduction(lengths, 0.2)
    assert lengths[m] <= 0.8 * lengths[0] < lengths[m - 1]
    with pytest.raises(ValueError, match=r"^merges_for_reduction: reduction must be at most 0\.\d+ in this table"):
        dynamic.merges_for_reduction(lengths, 0.99)
    with pytest.raises(ValueError, match="must hold at least one text"):
        dynamic.merges_to_length(tokenizer, [], 3)


def test_the_least_recently_used_row_makes_room():
    cache = EmbeddingCache(3, 1)
    rows = dict(zip([b"a", b"b", b"c", b"d"], np.arange(4.0), strict=True))

    def predict(tokens):
        asked.append(tokens)
        return np.array([[rows[t]] for t in tokens])

    asked = []
    assert cache.fetch([b"a", b"b", b"c"], predict).ravel().tolist() == [0, 1, 2]
    assert cache.fetch([b"a", b"a"], predict).ravel().tolist() == [0, 0]
    assert cache.fetch([b"d"], predict).ravel().tolist() == [3]
    assert b"b" not in cache
    assert asked == [[b"a", b"b", b"c"], [b"d"]]
    # What the batch uses stays, though it is the oldest.
    assert cache.fetch([b"c", b"a", b"b"], predict).ravel().tolist() == [2, 0, 1]
    assert b"d" not in cache
    with pytest.raises(ValueError, match=r"^EmbeddingCache: tokens of one batch must be at most 3, got 4$"):
        cache.fetch(list(rows), predict)
    assert cache.evict(1) == [b"c"]
    assert len(cache) == 2
    with pytest.raises(ValueError, match="3 tokens must make room, only 2"):
        cache.evict(3)


def _wrapper(encoding, cache=None, **options):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=558, n_embd=16, n_layer=2, n_head=2, n_positions=256, bos_token_id=None, eos_token_id=None
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    return dynamic.DynamicInputWrapper(model, dynamic.fvt_embed, encoding, cache=cache, **options)


@pytest.mark.parametrize("side", ["right", "left"])
def test_unmerged_batches_give_what_the_model_gives(encoding, side):
    torch = pytest.importorskip("torch")
    wrapper = _wrapper(encoding)
    tokenizer = DynamicTokenizer(encoding, bos="<s>")
    with torch.no_grad():
        got = wrapper(tokenizer.tokenize_batch(TEXTS, 0), side=side).logits
        for b, text in enumerate(TEXTS):
            ids = torch.tensor([[556, *encoding.encode_ordinary(text)]])
            alone = wrapper.model(input_ids=ids).logits[0]
            mine = got[b, : ids.shape[1]] if side == "right" else got[b, -ids.shape[1] :]
            torch.testing.assert_close(mine, alone, rtol=1e-4, atol=1e-5)


def test_merged_rows_are_the_hypernetworks_and_the_others_the_models(encoding):
    torch = pytest.importorskip("torch")
    batch = DynamicTokenizer(encoding, "word", bos="<s>").tokenize_batch(TEXTS, 30)
    wrapper = _wrapper(encoding)
    table = wrapper.model.get_input_embeddings().weight
    rows = wrapper.rows(batch)
    base = torch.from_numpy(batch.base_ids >= 0)
    assert (~base).sum() > 10
    assert torch.equal(rows[base], table[torch.from_numpy(batch.base_ids)[base]])
    for i in np.flatnonzero(batch.base_ids < 0).tolist():
        ids = encoding._encode_single_piece(batch.table[i])[:7]
        torch.testing.assert_close(rows[i], table[ids].mean(0))
    wrapper(batch).logits.square().mean().backward()  # gradients reach the embeddings through both
    assert table.grad.abs().sum() > 0
    predicted = _wrapper(encoding, variant="hypernet").rows(batch)
    assert torch.allclose(predicted[base], rows[base])  # a mean of one row


def test_topk_logits_is_exact_and_prefers_low_indices(rng):
    torch = pytest.importorskip("torch")
    hidden = torch.from_numpy(rng.integers(-3, 4, (5, 8)).astype(np.float32))
    table = torch.from_numpy(rng.integers(-3, 4, (300, 8)).astype(np.float32))  # sums are exact, ties many
    logits = hidden @ table.T
    order = logits.sort(dim=1, descending=True, stable=True)
    for k, block in ((1, 7), (20, 7), (20, 100), (300, 64), (300, 1000)):
        value, index = dynamic.topk_logits(hidden, table, k, block=block)
        assert torch.equal(value, order.values[:, :k])
        assert torch.equal(index, order.indices[:, :k])
    for wrong in ({"k": 0}, {"k": 301}, {"k": 1, "block": 0}):
        with pytest.raises(ValueError, match=r"^topk_logits: "):
            dynamic.topk_logits(hidden, table, **wrong)
    with pytest.raises(ValueError, match=r"^topk_logits: hidden and embeddings must be"):
        dynamic.topk_logits(hidden, table[:, :7], 1)


def test_a_grown_vocabulary_merges_inside_pieces(encoding):
    vocabulary = dynamic.ContinuedVocabulary.grow(encoding, [TEXTS[0]] * 3 + [TEXTS[3]], 12)
    assert len(vocabulary) == 558 + 12
    assert len(set(vocabulary.tokens)) == 12
    data, ends = TEXTS[0].encode(), encoding.split(TEXTS[0]).tolist()
    pieces = [data[a:b] for a, b in itertools.pairwise([0, *ends])]
    counts = Counter(piece for piece in pieces)
    assert all(
        any(token in piece for piece in [*counts, *TEXTS[3].encode().split(b" ")]) or b" " in token
        for token in vocabulary.tokens
    )
    ids = vocabulary.encode(TEXTS[0])
    assert vocabulary.decode(ids) == TEXTS[0]
    assert len(ids) < len(encoding.encode_ordinary(TEXTS[0]))
    # Greedy: at every position no longer token matches.
    at = 0
    for id in ids:
        token = vocabulary.token_bytes(id)
        longer = [t for t in vocabulary.tokens if len(t) > len(token) and data.startswith(t, at)]
        assert longer == []
        at += len(token)


def test_generation_over_the_base_vocabulary_is_the_models_own(encoding):
    torch = pytest.importorskip("torch")
    model = _wrapper(encoding).model
    vocabulary = dynamic.ContinuedVocabulary(encoding, [])
    table = model.get_input_embeddings().weight
    got = dynamic.generate(model, vocabulary, "the then", table, table, max_new_tokens=8, bos=556, k=558)
    ids = torch.tensor([[556, *vocabulary.encode("the then")]])
    for token, log_p in zip(got.ids, got.log_probs, strict=True):
        with torch.no_grad():
            expected = model(input_ids=ids).logits[0, -1].log_softmax(-1)
        assert token == int(expected.argmax())
        assert log_p == pytest.approx(float(expected[token]), abs=1e-4)
        ids = torch.cat([ids, torch.tensor([[token]])], 1)
    stopped = dynamic.generate(model, vocabulary, "the", table, table, max_new_tokens=8, stop=got.ids[:1], bos=556)
    assert len(stopped.ids) <= 8
    draw = [
        dynamic.generate(
            model,
            vocabulary,
            "the",
            table,
            table,
            max_new_tokens=5,
            temperature=1.0,
            k=20,
            generator=torch.Generator().manual_seed(7),
        ).ids
        for _ in range(2)
    ]
    assert draw[0] == draw[1]
    with pytest.raises(ValueError, match=r"^generate: prompt must not be empty without bos$"):
        dynamic.generate(model, vocabulary, "", table, table, max_new_tokens=1)
    with pytest.raises(ValueError, match=r"^generate: inputs and outputs must have 558 rows, got 557 and 558$"):
        dynamic.generate(model, vocabulary, "a", table[:557], table, max_new_tokens=1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda e: DynamicTokenizer(e, "line"),
            "boundary must be one of pretokens, word, word_hyphen, sentence, got 'line'",
        ),
        (lambda e: DynamicTokenizer(e, bos="a"), "bos must be a special token, got 'a'"),
        (lambda e: DynamicTokenizer(e, bos="<s>").tokenize_batch(["a"], max_length=0), "max_length must have room"),
        (lambda e: DynamicTokenizer(e).tokenize_batch(["a"], -1), r"max_merges must be in \[0"),
        (
            lambda e: DynamicTokenizer(e).tokenize_batch(["a"]).padded("top"),
            "side must be 'right' or 'left', got 'top'",
        ),
        (lambda e: dynamic.merges_for_reduction([1.0], 1.0), r"reduction must be in \[0, 1\), got 1"),
        (lambda e: EmbeddingCache(0, 3), "capacity and dim must be at least 1, got 0 and 3"),
        (lambda e: EmbeddingCache(2, 3, np.zeros((3, 3))), r"rows must be \(2, 3\), got \(3, 3\)"),
    ],
)
def test_bad_input(encoding, call, message):
    with pytest.raises(ValueError, match=message):
        call(encoding)


def test_a_text_is_no_batch(encoding):
    with pytest.raises(TypeError, match=r"^tokenize_batch: texts must be a sequence of texts, got str$"):
        DynamicTokenizer(encoding).tokenize_batch("a text")


def test_tokenizing_needs_no_torch():
    code = (
        "import sys, tokernel.text.dynamic_tokenization as d; d.EmbeddingCache(1, 1); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
