# SPDX-License-Identifier: Apache-2.0
"""Exact byte probabilities: golden vectors, the laws of the paper's page, and brute force on small vocabularies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokernel.kernels import bpe
from tokernel.text import exact_byte_probs as ebp
import itertools


class ToyLM:
    """Logits of the last two tokens: A[id] B^T + D[id before] E^T, with id 0 before the first."""

    def __init__(self, a: Any, b: Any, d: Any, e: Any) -> None:
        self.a, self.b, self.d, self.e = a, b, d, e
        self.calls = 0

    def logits(self, ids: Sequence[int], last: int) -> Any:
        self.calls += 1
        now = np.array(ids)
        before = np.concatenate(([0], now[:-1]))
        return (self.a[now] @ self.b.T + self.d[before] @ self.e.T)[-last:]


def toy_lm(vocabulary: int, seed: int) -> ToyLM:
    rng = np.random.default_rng(seed)
    return ToyLM(*(rng.standard_normal((vocabulary, 4)).astype(np.float32) for _ in range(4)))


def rows(values: Any, offsets: Any) -> list[list[int]]:
    return [values[a:b].tolist() for a, b in itertools.pairwise(offsets)]


class Golden:
    def __init__(self, path: Path) -> None:
        self.z = np.load(path)
        z = self.z
        self.pieces = ["".join(map(chr, row)) for row in rows(z["piece_chars"], z["piece_off"])]
        self.tokenizer = ebp.SentencePieceTokenizer(
            self.pieces, z["piece_score"], z["is_byte"], z["is_control"], add_dummy_prefix=bool(z["add_dummy_prefix"])
        )
        self.lm = ToyLM(z["lm_A"], z["lm_B"], z["lm_D"], z["lm_E"])
        self.prompts = [bytes(row) for row in rows(z["prompt_bytes"], z["prompt_off"])]
        self.continuations = [bytes(row) for row in rows(z["cont_bytes"], z["cont_off"])]


@pytest.fixture(params=["sp_dummy_prefix", "sp_no_prefix"])
def sp(request: pytest.FixtureRequest, golden: Path) -> Golden:
    return Golden(golden / "exact_byte_probs" / f"{request.param}.npz")


def test_golden_prompts_are_encoded_as_the_model_was_given_them(sp: Golden) -> None:
    for prompt, ids in zip(sp.prompts, rows(sp.z["prompt_ids"], sp.z["prompt_ids_off"]), strict=True):
        assert [1, *sp.tokenizer.encode(sp.tokenizer.to_model(prompt, True))] == ids


def test_golden_covers_and_their_probabilities(sp: Golden) -> None:
    ids, weights = rows(sp.z["cover_ids"], sp.z["cover_off"]), sp.z["cover_logprob_given_div"]
    for p, prompt in enumerate(sp.prompts):
        model = ebp.ByteLM(sp.lm, sp.tokenizer)
        model.start(prompt)
        mine = model.covers()
        here = np.flatnonzero(sp.z["cover_prompt"] == p)
        assert [[1, *cover.ids] for cover, _ in mine] == [ids[k] for k in here]
        np.testing.assert_allclose([w for _, w in mine], weights[here], atol=1e-4)
        assert [cover for cover, _ in mine] == ebp.covers(sp.tokenizer, model.prefix)


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_golden_next_byte_probabilities(sp: Golden, mode: str) -> None:
    steps = map(tuple, sp.z[f"step_index_{mode}"].tolist())
    expected = dict(zip(steps, sp.z[f"next_byte_prob_{mode}"], strict=True))
    seen = 0
    for p, prompt in enumerate(sp.prompts):
        model = ebp.ByteLM(sp.lm, sp.tokenizer, exact=mode == "exact")
        model.start(prompt)
        fed = sp.tokenizer.to_model(sp.continuations[p], first=False)
        for n in range(len(fed) + 1):
            if (p, n) in expected:
                np.testing.assert_allclose(model.next_byte_probs(), expected[p, n], atol=1e-5, err_msg=f"{p} {n}")
                seen += 1
            if n < len(fed):
                model.advance(fed[n])
    assert seen == len(expected)


MORE = (b"", b"a", b"b", b"s", b" ", b"  ", b" a")


class Restricted:
    """A model without leaks: tokens that its tokenizer would never produce next have no mass."""

    def __init__(self, lm: ToyLM, enc: Any, tokens: list[bytes]) -> None:
        self.lm, self.enc, self.tokens = lm, enc, tokens

    def valid(self, ids: tuple[int, ...]) -> bool:
        """Whether a canonical sequence begins so: what follows a run of blanks decides where it is cut."""
        text = b"".join(self.tokens[i] for i in ids)
        return any((self.enc(text + more) or [])[: len(ids)] == list(ids) for more in MORE)

    def may_end(self, ids: tuple[int, ...]) -> bool:
        return self.enc(b"".join(self.tokens[i] for i in ids)) == list(ids)

    def row(self, ids: tuple[int, ...]) -> Any:
        """Logits behind BOS and ids; specials but the end have no mass."""
        logits = self.lm.logits((1, *ids), 1)[0].astype(np.float64)
        for t, text in enumerate(self.tokens):
            allowed = self.valid((*ids, t)) if text else t == 2 and self.may_end(ids)
            if not allowed:
                logits[t] = -np.inf
        return logits

    def logits(self, ids: Sequence[int], last: int) -> Any:
        ids = tuple(ids[1:])
        return np.stack([self.row(ids[: len(ids) - k]) for k in reversed(range(last))])

    def probs(self, ids: tuple[int, ...]) -> Any:
        row = self.row(ids)
        e = np.exp(row - row.max())
        return e / e.sum()

    def mass(self, x: bytes, ids: tuple[int, ...] = (), text: bytes = b"") -> float:
        """P(a text begins with x), by going through all token sequences."""
        if text.startswith(x):
            return 1.0
        probs = self.probs(ids)
        return sum(
            float(probs[t]) * self.mass(x, (*ids, t), text + new)
            for t, new in enumerate(self.tokens)
            if new and probs[t] > 0 and (x.startswith(text + new) or (text + new).startswith(x))
        )

    def end_mass(self, x: bytes) -> float:
        """P(the text is x)."""
        ids = tuple(self.enc(x))
        steps = (float(self.probs(ids[:i])[t]) for i, t in enumerate(ids))
        return float(np.prod([*steps, self.probs(ids)[2]]))


def naive_bpe(ranks: dict[bytes, int], start: list[bytes]) -> list[int]:
    parts = list(start)
    while len(parts) > 1:
        joined = [ranks.get(a + b, 10**9) for a, b in itertools.pairwise(parts)]
        best = int(np.argmin(joined))
        if joined[best] == 10**9:
            break
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return [ranks[p] for p in parts]


SPECIALS = ["<unk>", "<s>", "</s>"]
WORDS = ["▁", "a", "b", "ab", "▁a", "ba", "▁ab", "bb", "bba", "▁▁"]
"""Pieces in the order of their scores, but for single characters, where the order means nothing."""


def small_sp() -> tuple[ebp.SentencePieceTokenizer, Any]:
    pieces = SPECIALS + WORDS
    n = len(pieces)
    t = ebp.SentencePieceTokenizer(
        pieces, [0.0 - i for i in range(n)], [False] * n, [True] * 3 + [False] * (n - 3), add_dummy_prefix=False
    )
    ranks = {p.encode(): i for i, p in enumerate(pieces) if i >= 3}
    return t, lambda x: naive_bpe(ranks, [c.encode() for c in x.decode(errors="replace")]) if _known(x, ranks) else None


def _known(x: bytes, ranks: dict[bytes, int]) -> bool:
    """Whole characters, each of which is a piece."""
    return all(c.encode() in ranks for c in x.decode(errors="replace"))


def small_bytes(pattern: str) -> tuple[ebp.ByteLevelTokenizer, Any]:
    import re

    tokens = [b" ", b"a", b"b", b"'", b"s", b"ab", b" a", b"ba", b"'s", b" ab", b"bb", b"  ", b"sa", b"bba", b"aba"]
    vocab = bpe.Vocab(tokens, ids=list(range(3, 3 + len(tokens))))
    ranks = {t: i + 3 for i, t in enumerate(tokens)}
    # On these letters, what is left of the gpt2 pattern.
    split = re.compile(rb"'s| ?[abs]+| ?[^\sabs]+|\s+(?!\S)|\s+" if pattern == "gpt2" else rb"(?s).+")

    def enc(x: bytes) -> list[int]:
        return [i for piece in split.findall(x) for i in naive_bpe(ranks, [bytes([b]) for b in piece])]

    return ebp.ByteLevelTokenizer(vocab, pattern, bos=1, eos=2), enc


@pytest.fixture(params=["sp", "none", "gpt2"])
def small(request: pytest.FixtureRequest) -> tuple[Any, Restricted]:
    tokenizer, enc = small_sp() if request.param == "sp" else small_bytes(request.param)
    return tokenizer, Restricted(toy_lm(len(tokenizer.table), seed=3), enc, tokenizer.table.tokens)


PREFIXES = ["", "a", "ab", "a b", "ba ab", "abba", "b  a", "a bb", "bb  ", " a"]


@pytest.mark.parametrize("exact", [True, False])
def test_law_01_brute_force_over_all_valid_sequences(small: Any, exact: bool) -> None:
    tokenizer, lm = small
    model = ebp.ByteLM(lm, tokenizer, exact=exact)
    for text in PREFIXES:
        model.start(text.encode())
        x = model.prefix
        expected = np.zeros(ebp.SLOTS)
        for b in {byte for t in tokenizer.table.tokens for byte in t}:
            expected[b] = lm.mass(x + bytes([b]))
        expected[ebp.EOS] = lm.end_mass(x) if lm.enc(x) is not None else 0
        np.testing.assert_allclose(model.next_byte_probs(), expected / lm.mass(x), atol=1e-6, err_msg=repr(text))


def test_law_02_probabilities_sum_to_one(small: Any, sp: Golden) -> None:
    for lm, tokenizer in ((small[1], small[0]), (sp.lm, sp.tokenizer)):
        for exact in (True, False):
            model = ebp.ByteLM(lm, tokenizer, exact=exact)
            for text in ("", "a", "ab b"):
                model.start(text.encode())
                assert model.next_byte_probs().sum() == pytest.approx(1, abs=1e-5)


def test_law_03_chain_rule(small: Any) -> None:
    tokenizer, lm = small
    model = ebp.ByteLM(lm, tokenizer)
    text = b"ab ba"
    total = model.logprob(text)
    x = tokenizer.to_model(text, True)
    assert total == pytest.approx(np.log(lm.mass(x)), abs=1e-5)
    mass = np.exp(model.log_mass())
    whole = sum(np.exp(w) for _, w in model.covers())
    assert mass.sum() == pytest.approx(whole, rel=1e-9)  # sum of P(xb), and P(x, end), is P(x)


def test_law_04_at_a_certain_boundary_the_bytes_follow_the_ordinary_next_token() -> None:
    tokenizer, enc = small_bytes("none")
    lm = Restricted(toy_lm(len(tokenizer.table), seed=5), enc, tokenizer.table.tokens)
    model = ebp.ByteLM(lm, tokenizer)
    np.testing.assert_allclose(
        model.next_byte_probs(), ebp.first_byte_sum(lm.probs(()), tokenizer.table.slot), atol=1e-6
    )
    # "'" takes part in one merge only: before a letter that is not "s" it certainly ends its token.
    model.start(b"ab'a")
    before = [cover for cover, _ in model.covers()]
    assert {cover.ids[:2] for cover in before} == {tuple(enc(b"ab'"))}


def test_law_05_one_cover_has_no_extra_bytes(small: Any, sp: Golden) -> None:
    for tokenizer, texts in ((small[0], PREFIXES[1:]), (sp.tokenizer, [p.decode() for p in sp.prompts])):
        for text in texts:
            if text.endswith("  "):
                continue
            found = ebp.covers(tokenizer, tokenizer.to_model(text.encode(), True))
            assert sum(not cover.extra for cover in found) == 1


def test_law_05_but_for_blanks_that_what_follows_may_cut() -> None:
    tokenizer, enc = small_bytes("gpt2")
    whole = [cover.ids for cover in ebp.covers(tokenizer, b"bb  ") if not cover.extra]
    assert sorted(whole) == sorted([tuple(enc(b"bb  ")), tuple(enc(b"bb  b"))[:-1]])
    model = ebp.ByteLM(Restricted(toy_lm(len(tokenizer.table), seed=3), enc, tokenizer.table.tokens), tokenizer)
    model.start(b"bb  ")
    assert model.next_byte_probs()[ord("b")] > 0


def test_law_06_every_cover_is_canonical_and_needs_its_last_token(small: Any) -> None:
    tokenizer, lm = small
    tokens = tokenizer.table.tokens
    for text in PREFIXES[1:]:
        x = tokenizer.to_model(text.encode(), True)
        found = ebp.covers(tokenizer, x)
        assert found == sorted(set(found))
        for cover in found:
            spelt = b"".join(tokens[i] for i in cover.ids)
            assert spelt == x + cover.extra
            assert lm.valid(cover.ids)
            left = spelt[: len(spelt) - len(tokens[cover.ids[-1]])]
            assert x.startswith(left)
            assert left != x


def test_law_07_single_bytes_have_one_cover_and_the_probabilities_of_the_model() -> None:
    tokenizer = ebp.ByteLevelTokenizer(bpe.Vocab([bytes([b]) for b in range(256)]), "gpt2", bos=256, eos=257)
    lm = toy_lm(258, seed=7)
    model = ebp.ByteLM(lm, tokenizer)
    model.start(b"a cut te")
    assert [cover for cover, _ in model.covers()] == [ebp.Cover((*b"a cut te",), b"")]
    row = lm.logits([256, *b"a cut te"], 1)[0].astype(np.float64)
    probs = np.exp(row - row.max())
    probs /= probs.sum()
    np.testing.assert_allclose(model.next_byte_probs()[:256], probs[:256], atol=1e-7)
    np.testing.assert_allclose(model.next_byte_probs()[[ebp.BOS, ebp.EOS]], probs[256:], atol=1e-7)


def test_law_08_advancing_equals_starting_anew(small: Any, sp: Golden) -> None:
    for lm, tokenizer, text in ((small[1], small[0], b"ba ab  b"), (sp.lm, sp.tokenizer, sp.prompts[0][:12])):
        once = ebp.ByteLM(lm, tokenizer)
        for n in range(1, len(text) + 1):
            again = ebp.ByteLM(lm, tokenizer)
            again.start(text[:n])
            np.testing.assert_allclose(once.next_byte_probs(again.prefix), again.next_byte_probs(), atol=1e-6)


def test_law_09_ensembles(small: Any) -> None:
    tokenizer, lm = small
    other = toy_lm(len(tokenizer.table), seed=11)

    def members() -> list[ebp.ByteLM]:
        return [ebp.ByteLM(lm, tokenizer), ebp.ByteLM(other, tokenizer, exact=False)]

    alone, twice = members()[0], ebp.ByteEnsemble([members()[0], members()[0]])
    forth, back = ebp.ByteEnsemble(members(), [3, 1]), ebp.ByteEnsemble(members()[::-1], [1, 3])
    for model in (alone, twice, forth, back):
        model.start(b"ab")
    np.testing.assert_allclose(twice.next_byte_probs(), alone.next_byte_probs(), atol=1e-7)
    np.testing.assert_allclose(forth.next_byte_probs(), back.next_byte_probs(), atol=1e-7)
    assert abs(forth.next_byte_probs() - alone.next_byte_probs()).max() > 1e-3


def test_law_10_is_held_by_the_golden_vectors(sp: Golden) -> None:
    assert len(sp.z["step_index_exact"]) == len(sp.z["step_index_fast"]) > 20
    assert len(sp.z["cover_prompt"]) >= 10


def test_a_model_that_leaks_is_read_in_two_ways(sp: Golden) -> None:
    exact, fast = (ebp.ByteLM(sp.lm, sp.tokenizer, exact=e) for e in (True, False))
    apart = 0.0
    for model in (exact, fast):
        model.start(sp.prompts[0])
    apart = abs(exact.next_byte_probs() - fast.next_byte_probs()).max()
    assert apart > 0.01


def test_prompts_that_the_official_code_refuses(sp: Golden) -> None:
    model = ebp.ByteLM(sp.lm, sp.tokenizer)
    for text in (b"", b"a", "th\u00e9".encode()[:-1], "\u4e2d".encode()[:1], "\u4e2d".encode()):
        model.start(text)
        assert model.next_byte_probs().sum() == pytest.approx(1, abs=1e-5)
    for _ in range(2):
        model.start("\u4e2d".encode()[:2])
        probs = model.next_byte_probs()
        assert probs[0x80:0xC0].sum() == pytest.approx(1, abs=1e-5)  # an open character is finished first


def test_bytes_that_nothing_spells_are_named(sp: Golden) -> None:
    model = ebp.ByteLM(sp.lm, sp.tokenizer)
    with pytest.raises(ValueError, match=r"no token sequence covers .*xff"):
        model.next_byte_probs(b"\xff")
    with pytest.raises(ValueError, match="0 to 255, got 256"):
        model.advance(256)


def test_generating_stops_at_the_end_and_repeats_with_the_same_seed(small: Any) -> None:
    tokenizer, lm = small
    model = ebp.ByteLM(lm, tokenizer)
    first, second = (
        model.generate(b"ab", 12, temperature=1.0, top_p=0.9, generator=np.random.default_rng(4)) for _ in range(2)
    )
    assert first == second
    assert len(first) <= 12
    greedy = model.generate(b"ab", 6)
    assert greedy == ebp.ByteEnsemble([model]).generate(b"ab", 6)


def test_the_likeliest_byte_follows_a_cut_word_where_whole_tokens_cannot() -> None:
    """The text is always "ab": behind the cut "a" the byte model knows, the model of tokens never saw token "a"."""
    tokenizer = ebp.ByteLevelTokenizer(bpe.Vocab([b"a", b"b", b"ab"]), "none", bos=3, eos=4)

    class Always:
        def logits(self, ids: Sequence[int], last: int) -> Any:
            rows = np.full((len(ids), 5), -20.0)
            rows[np.arange(len(ids)), [2 if i == 3 else 4 for i in ids]] = 0.0
            return rows[-last:]

    model = ebp.ByteLM(Always(), tokenizer)
    assert model.generate(b"a", 5) == b"b"


def test_infill_context_puts_the_suffix_first() -> None:
    tokenizer = ebp.ByteLevelTokenizer(bpe.Vocab([b"a", b"b", b"ab"]), "none", bos=3, eos=4, size=8)
    context = ebp.infill_context(tokenizer, b"ab", suffix_token=5, prefix_token=6)
    assert context == (5, 2, 6)
    model = ebp.ByteLM(toy_lm(8, seed=1), tokenizer, context=context)
    assert model.next_byte_probs(b"a").shape == (ebp.SLOTS,)


def test_bad_arguments_are_named(small: Any) -> None:
    tokenizer, lm = small
    with pytest.raises(ValueError, match="members must not be empty"):
        ebp.ByteEnsemble([])
    with pytest.raises(ValueError, match="weights must be 1 numbers"):
        ebp.ByteEnsemble([ebp.ByteLM(lm, tokenizer)], [1, 2])
    with pytest.raises(ValueError, match="top_p must be in"):
        ebp.ByteLM(lm, tokenizer).generate(b"", 1, top_p=0.0)
    with pytest.raises(ValueError, match="temperature must be at least 0"):
        ebp.ByteLM(lm, tokenizer).generate(b"", 1, temperature=-1.0)
    with pytest.raises(ValueError, match="context must hold at least one token"):
        ebp.ByteLM(lm, ebp.ByteLevelTokenizer(bpe.Vocab([b"a"]), "none", bos=None))
    with pytest.raises(ValueError, match="equally long"):
        ebp.SentencePieceTokenizer(["a"], [0.0, 1.0], [False], [False])
