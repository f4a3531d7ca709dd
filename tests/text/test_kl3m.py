# SPDX-License-Identifier: Apache-2.0
"""KL3M: the official training runs, ids of a released tokenizer, and the laws and traps of the paper's card."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokernel.text import _kl3m_json, kl3m
from tokernel.text._byte_map import BYTE_TO_CHAR
from tokernel.text.kl3m import Added, ByteLevelBPE

GOLDEN = Path(__file__).parents[1] / "golden" / "kl3m"
LAW = [
    "The Borrower shall not transfer all interest accrued on the Notes. See Fed. Reg. 25.",
    "A covered entity may waive such securities as of December 31, 2024, under 12 U.S.C. 13.",
    "The Secretary of the Treasury is subject to a report under section 6(a) of this Agreement.",
    "Any holder of record shall file any claim; provided, however, that the foregoing shall not apply.",
] * 10
SEA = [
    "A wave of water ran over the little boat while gulls were crying in the wind.",
    "She pulled the oars and hummed, watching how the light broke up on the water.",
    "Nobody in the village had seen such a storm since the old lighthouse fell.",
    "They mended the sails all morning and drank their tea behind the sheds.",
] * 10


class Golden:
    def __init__(self, name):
        self.data = np.load(GOLDEN / f"{name}.npz")

    def __getitem__(self, name):
        return self.data[name]

    def strings(self, name):
        points, offsets = self.data[f"{name}_cp"], self.data[f"{name}_off"]
        return ["".join(map(chr, points[a:b])) for a, b in itertools.pairwise(offsets)]

    def ids(self):
        return [each.tolist() for each in np.split(self.data["enc_ids"], np.cumsum(self.data["enc_counts"])[:-1])]

    def added(self):
        return [
            Added(int(at), text, bool(special))
            for at, text, special in zip(
                self.data["added_ids"], self.strings("added"), self.data["added_special"], strict=True
            )
        ]

    def merges(self):
        """Ids of left, right and result."""
        vocab = self.strings("vocab")
        ids = {text: at for at, text in enumerate(vocab)}
        pairs = zip(self.data["merge_left"].tolist(), self.data["merge_right"].tolist(), strict=True)
        return np.array([[a, b, ids[vocab[a] + vocab[b]]] for a, b in pairs])


def official_run(name):
    golden = Golden(name)
    size, least = int(golden["vocab_size"]), int(golden["min_frequency"])
    if golden["max_chars"]:
        return golden, kl3m.train_characters(golden.strings("doc"), size, int(golden["max_chars"]), least)
    return golden, kl3m.train_domain(golden.strings("doc"), size, least)


def released():
    golden = Golden("char4k_encode")
    return golden, ByteLevelBPE(golden.strings("vocab"), golden.merges(), golden.added())


def characters(tokens):
    return max(len(tokens.vocab[result]) for result in tokens.merges[:, 2])


@pytest.mark.parametrize("name", ["train_char", "train_cased"])
def test_golden_training_runs(name):
    golden, tokens = official_run(name)
    assert list(tokens.vocab) == golden.strings("vocab")
    assert tokens.merges.tolist() == golden.merges().tolist()
    assert list(tokens.added) == golden.added()
    assert tokens.size == golden["final_size"]
    assert [ids.tolist() for ids in tokens.encode_batch(golden.strings("test"))] == golden.ids()


def test_golden_custom_tokens():
    assert kl3m.legal_custom_tokens() == Golden("custom_tokens_cased").strings("token")
    uncased = kl3m.legal_custom_tokens(lowercase=True)
    assert len(uncased) == 1579
    assert uncased == sorted({token.lower() for token in kl3m.legal_custom_tokens()})


def test_golden_ids_of_the_released_4k_tokenizer():
    golden, tokens = released()
    assert [ids.tolist() for ids in tokens.encode_batch(golden.strings("text"))] == golden.ids()
    assert [tokens.decode(ids) for ids in golden.ids()] == golden.strings("decoded")


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@settings(max_examples=60, deadline=None)
@given(TEXTS)
def test_law_round_trip_gives_the_normalised_text(text):
    tokens = ROUND_TRIP[False]
    assert tokens.decode(tokens.encode(text)) == tokens.normalize(text)


@settings(max_examples=60, deadline=None)
@given(TEXTS)
def test_law_round_trip_uncased(text):
    tokens = ROUND_TRIP[True]
    assert tokens.decode(tokens.encode(text)) == tokens.normalize(text)


ROUND_TRIP = {lowercase: kl3m.train_domain(LAW, 2400, lowercase=lowercase) for lowercase in (False, True)}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 255, 256, 257, 1000])
def test_law_padding_ends_at_a_power_of_two_above(size):
    vocab = [f"{chr(97 + i % 26)}{i}" for i in range(size)]
    padded = kl3m.pad_to_power_of_two(ByteLevelBPE(vocab, np.zeros((0, 3))))
    assert padded.size > size
    assert padded.size & (padded.size - 1) == 0
    assert padded.size <= 2 * size  # trap: a power of two is doubled
    assert len(padded.token_ids) == padded.size


def test_law_final_sizes_of_both_recipes():
    for tokens in (kl3m.train_domain(LAW, 2600), kl3m.train_characters(LAW, 700)):
        assert tokens.size & (tokens.size - 1) == 0
        assert len(tokens.vocab) < tokens.size


@pytest.mark.parametrize("most", [2, 3, 4])
def test_law_merges_have_two_to_most_characters(most):
    tokens = kl3m.train_characters(LAW, 800, max_chars=most, min_frequency=2)
    lengths = {len(tokens.vocab[result]) for result in tokens.merges[:, 2]}
    assert lengths == set(range(2, most + 1))


def test_law_an_error_of_one_character_changes_few_tokens():
    golden = Golden("char4k_encode")
    texts, most = golden.strings("text"), 3
    pairs = zip(texts[::2], texts[1::2], golden.ids()[::2], golden.ids()[1::2], strict=True)
    seen = 0
    for clean, noisy, a, b in pairs:
        if len(clean) == len(noisy) and sum(x != y for x, y in zip(clean, noisy, strict=True)) == 1:
            assert max(changed(a, b)) <= most + 1
            seen += 1
    assert seen
    tokens = kl3m.train_characters(LAW, 800, max_chars=most, min_frequency=2)
    rng = np.random.default_rng(0)
    for _ in range(100):
        clean = LAW[rng.integers(4)]
        words = [at for at, letter in enumerate(clean) if letter.isalpha()]
        at = words[rng.integers(len(words))]
        noisy = clean[:at] + "bcdelnorst"[rng.integers(10)] + clean[at + 1 :]
        share = kl3m.boundary_stability(tokens, clean, noisy)
        assert share > 0.8


def changed(a, b):
    """How many tokens of each lie between what both begin and what both end with."""
    head = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    rest = min(len(a), len(b)) - head
    tail = next((i for i in range(rest) if a[-1 - i] != b[-1 - i]), rest)
    return len(a) - head - tail, len(b) - head - tail


def test_law_custom_tokens_alone_are_single_ids():
    for lowercase, tokens in ROUND_TRIP.items():
        custom = kl3m.legal_custom_tokens(lowercase)
        for token, ids in zip(custom, tokens.encode_batch(custom), strict=True):
            assert len(ids) == 1, token
            assert tokens.decode(ids) == token


def test_law_domain_training_takes_fewer_tokens_of_legal_text():
    size = 13 + 256 + 120
    domain, general = (kl3m.train_bpe(texts, size, min_frequency=2) for texts in (LAW, SEA))
    assert domain.size == general.size
    unseen = ["The Treasury may file a report; the covered entity shall not waive any claim under this section."]
    assert kl3m.tokens_per_character(domain, unseen) < kl3m.tokens_per_character(general, unseen)
    assert kl3m.tokens_per_character(domain, SEA) > kl3m.tokens_per_character(general, SEA)
    terms = kl3m.term_token_counts(domain, ["Borrower", "the"])
    assert terms["Borrower"] <= kl3m.term_token_counts(general, ["Borrower"])["Borrower"]


def test_trap_a_raw_alphabet_wastes_ids_and_drops_unseen_bytes():
    tokens = kl3m.train_bpe(["plain words only"] * 20, 400, alphabet="raw")
    assert "\x00" in tokens.token_ids
    assert " " in tokens.token_ids
    assert tokens.token_ids["Ġ"] >= 13 + 255  # what a space really is
    used = {BYTE_TO_CHAR[b] for b in range(256)}
    assert sum(text not in used for text in tokens.vocab[13:268]) == 68
    assert tokens.decode_bytes(tokens.encode("plā")) == b"pl\xc4"  # of its two bytes, C4 has a token
    assert tokens.encode("\n").tolist() == []
    assert tokens.decode(tokens.encode("pl\nain")) == "plain"


def test_trap_padding_is_compared_as_strings_and_hides_merges():
    tokens = kl3m.train_characters(["a   b   c   d"] * 20, 400)
    assert "ĠĠ" in tokens.vocab
    assert tokens.encode("  ").tolist() == [tokens.token_ids["  "]]
    assert tokens.token_ids["  "] >= len(tokens.vocab)


def test_trap_characters_are_those_of_the_byte_alphabet():
    tokens = kl3m.train_characters(["éa éa 日本 日本"] * 30, 400, max_chars=3)
    spelled = {tokens.decode_bytes([result]) for result in tokens.merges[:, 2]}
    assert "éa".encode() in spelled
    assert "日".encode()[:2] in spelled
    assert max(map(len, spelled)) == 3


def test_trap_small_vocabularies_get_long_runs():
    tokens = kl3m.train_domain(LAW, 2200)
    assert max(len(token.text) for token in tokens.added) > 100


def test_trap_the_target_counts_candidates_that_exist():
    """A custom token that merges already spell is not added, and nothing takes its place."""
    tokens = kl3m.train_domain(["false", "true"] * 30, 13 + 256 + 40 + 1655)
    assert "false" in tokens.vocab
    assert "false" not in {token.text for token in tokens.added}


def test_trap_function_defaults_ask_for_ten():
    assert len(kl3m.train_bpe(["abab"] * 4, 400).merges) == 0
    assert len(kl3m.train_bpe(["abab"] * 5, 400).merges) == 1


def test_special_tokens_are_found_before_normalisation_and_words_after():
    tokens = ByteLevelBPE(["a"], np.zeros((0, 3)), [Added(1, "ﬁ", True), Added(2, "fi", False), Added(3, "<x>", True)])
    assert tokens.encode("ﬁa<x>a").tolist() == [1, 0, 3, 0]
    words = ByteLevelBPE(["a"], np.zeros((0, 3)), [Added(2, "ﬁ", False)])
    assert words.encode("fiaﬁ").tolist() == [2, 0, 2]
    upper = ByteLevelBPE(["a"], np.zeros((0, 3)), [Added(1, "<P>", False), Added(2, "<S>", True)], lowercase=True)
    assert upper.encode("<p><P><s><S>").tolist() == [1, 1, 2]


def test_added_tokens_are_leftmost_longest():
    added = [Added(4, "--", False), Added(5, "---", False), Added(6, "-x", False)]
    tokens = ByteLevelBPE(["-", "x", "y", "xy"], np.array([[1, 2, 3]]), added)
    assert tokens.encode("----x-xy-").tolist() == [5, 6, 6, 2, 0]
    assert tokens.encode("").tolist() == []
    assert tokens.encode_batch([]) == []


def test_left_padding():
    tokens = kl3m.train_bpe(LAW, 300, min_frequency=2)
    texts = ["The", "", "The Borrower"]
    ids, real = tokens.encode_padded(texts)
    assert ids.shape == real.shape == (3, max(len(tokens.encode(text)) for text in texts))
    for row, there, text in zip(ids, real, texts, strict=True):
        assert row[there].tolist() == tokens.encode(text).tolist()
        assert (row[~there] == 2).all()
        assert (np.diff(there.astype(int)) >= 0).all()
    assert tokens.encode_padded([])[0].shape == (0, 0)


def test_random_splits_cover_the_text_and_repeat():
    text = "of the  law\n\nand 日本 of nations " * 20
    for make in (
        lambda seed: kl3m.random_whitespace_split(0.3, seed),
        lambda seed: kl3m.random_chunk_split(2, 5, seed),
    ):
        pieces = make(0)(text)
        assert "".join(pieces) == text
        assert pieces == make(0)(text)
        assert pieces != make(1)(text)
        assert make(0)("") == []
    assert all(2 <= len(piece) <= 5 for piece in kl3m.random_chunk_split(2, 5)(text)[:-1])
    runs = kl3m.random_whitespace_split(0.3)(text)
    assert all(piece[0].isspace() for piece in runs[1:])
    assert 0.15 < (len(runs) - 1) / len(text.split()) < 0.45


def test_random_splits_let_merges_cross_white_space():
    texts = ["of the law and of the land"] * 50
    wide = kl3m.train_bpe(texts, 400, split=kl3m.random_whitespace_split(0.3))
    assert any("Ġ" in wide.vocab[result].strip("Ġ") for result in wide.merges[:, 2])
    chunks = kl3m.train_bpe(texts, 400, split=kl3m.random_chunk_split(2, 5))
    assert characters(chunks) <= 5


def test_histogram_and_stability_of_plain_cases():
    tokens = ByteLevelBPE(["a", "b", "c", "ab"], np.array([[0, 1, 3]]), [Added(4, "<s>", True), Added(5, "---", False)])
    assert kl3m.token_length_histogram(tokens).tolist() == [0, 3, 1, 1]
    assert kl3m.boundary_stability(tokens, "abc", "abc") == 1
    assert kl3m.boundary_stability(tokens, "", "") == 1
    assert kl3m.boundary_stability(tokens, "ab", "ab") == 1
    assert kl3m.boundary_stability(tokens, "abcab", "acccab") == pytest.approx(4 / 6)
    assert np.isnan(kl3m.tokens_per_character(tokens, []))


def test_json_round_trip(tmp_path):
    tokens = kl3m.train_domain(LAW, 2300, lowercase=True)
    path = tmp_path / "tokenizer.json"
    tokens.to_hf_json(path)
    again = ByteLevelBPE.from_hf_json(path)
    assert (again.vocab, again.added, again.lowercase) == (tokens.vocab, tokens.added, True)
    assert again.merges.tolist() == tokens.merges.tolist()
    hf = pytest.importorskip("tokenizers", reason="transformers brings it")
    theirs = hf.Tokenizer.from_file(str(path))
    texts = [*LAW[:4], *SEA[:4], "ΟΔΟΣ  (ii)\n\n\n<DIV 1999", "<|start|>A<|end|>", "ﬁ № 5"]
    for text, ids in zip(texts, tokens.encode_batch(texts), strict=True):
        assert theirs.encode(text).ids == ids.tolist(), text
        assert theirs.decode(ids.tolist(), skip_special_tokens=False) == tokens.decode(ids)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "tokenizer.json"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(_kl3m_json.json, "dumps", lambda *_, **__: "\ud800")
    with pytest.raises(UnicodeEncodeError):
        ROUND_TRIP[False].to_hf_json(path)
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["tokenizer.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["model"].update(type="Unigram"), "model.type: expected 'BPE', got 'Unigram'"),
        (lambda d: d["pre_tokenizer"].update(add_prefix_space=True), "add_prefix_space: expected False"),
        (lambda d: d.update(pre_tokenizer={"type": "Metaspace"}), "pre_tokenizer.type: expected 'ByteLevel'"),
        (lambda d: d.update(normalizer={"type": "NFD"}), "normalizer: expected NFKC"),
        (lambda d: d["model"]["merges"].append(["a", "Zzz"]), "names 'Zzz'"),
        (lambda d: d["added_tokens"][0].update(lstrip=True), "lstrip: expected False, got True"),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path, change, message):
    path = tmp_path / "tokenizer.json"
    kl3m.train_bpe(LAW, 300).to_hf_json(path)
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=message):
        ByteLevelBPE.from_hf_json(path)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="max_chars must be at least 2, got 1"):
        kl3m.train_bpe(LAW, 400, max_chars=1)
    with pytest.raises(ValueError, match="vocab_size must hold the 269 special tokens"):
        kl3m.train_bpe(LAW, 100)
    with pytest.raises(ValueError, match="min_frequency must not be negative"):
        kl3m.train_bpe(LAW, 400, -1)
    with pytest.raises(ValueError, match="unknown normalizer or alphabet"):
        kl3m.train_bpe(LAW, 400, normalizer="nfd")
    with pytest.raises(ValueError, match="p must be between 0 and 1"):
        kl3m.random_whitespace_split(1.5)
    with pytest.raises(ValueError, match="1 <= lo <= hi"):
        kl3m.random_chunk_split(3, 2)
    with pytest.raises(ValueError, match="no token has the id 9"):
        ByteLevelBPE(["a"], np.zeros((0, 3))).decode([0, 9])
    for added in ([Added(1, "", False)], [Added(1, "x", False), Added(1, "y", False)]):
        with pytest.raises(ValueError, match="added token"):
            ByteLevelBPE(["a"], np.zeros((0, 3)), added)
