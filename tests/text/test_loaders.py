# SPDX-License-Identifier: Apache-2.0
"""Files of tiktoken, Hugging Face and Mistral: ids and offsets of the libraries that wrote them, and errors that name
the line or the field."""

import base64
import json
import time

import pytest
from bpe_files import EOT, GOLDEN, added, gpt2, gpt2_json, gpt2_ranks, ragged, small, small_json, texts

from tokernel.text import Encoding, FormatError
from tokernel.text._byte_map import to_chars


def ours_and_theirs(content):
    tokenizers = pytest.importorskip("tokenizers")
    return Encoding.from_hf(content), tokenizers.Tokenizer.from_str(json.dumps(content))


def agree(ours, theirs, inputs, offsets=True):
    for text in inputs:
        want = theirs.encode(text, add_special_tokens=False)
        ids, spans = ours.encode_with_offsets(text, unit="char", allowed_special="all")
        assert ours.encode(text, allowed_special="all") == ids == want.ids, text
        assert not offsets or [tuple(s) for s in spans.tolist()] == want.offsets, text
        assert ours.with_template(ids) == theirs.encode(text).ids


# tiktoken


def rank_file(tmp_path, lines):
    path = tmp_path / "ranks.tiktoken"
    path.write_bytes(b"\n".join(lines))
    return path


def lines_of(ranks):
    return [base64.b64encode(token) + b" %d" % rank for token, rank in ranks.items()]


def test_a_rank_file(tmp_path):
    path = rank_file(tmp_path, [*lines_of(gpt2_ranks()), b""])
    enc = Encoding.from_tiktoken(path, pat_str="gpt2", special_tokens={EOT: 50256}, explicit_n_vocab=50257)
    assert enc.name == "ranks"
    assert enc.encode("hello world") == [31373, 995]
    assert enc._mergeable_ranks == gpt2_ranks()
    with pytest.raises(FormatError, match="explicit_n_vocab is 9, but there are 50256"):
        Encoding.from_tiktoken(path, pat_str="gpt2", explicit_n_vocab=9)
    # The published file of GPT-2 has exactly these lines, and is known by its hash.
    assert Encoding.from_tiktoken(path).name == "r50k_base"
    with pytest.raises(ValueError, match="no published rank file; pass its pat_str"):
        Encoding.from_tiktoken(rank_file(tmp_path, lines_of({b"a": 0})))
    with pytest.raises(FileNotFoundError):
        Encoding.from_tiktoken(tmp_path / "none")


GOOD = lines_of({b"a": 0, b"b": 1, b"ab": 2})


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([*GOOD, b"Yw== 2"], "line 4.*2"),
        ([*GOOD, b"YWI= 3"], "line 4"),
        ([*GOOD, b"Yw== 5"], "no token has rank 3"),
        ([*GOOD[:2], b"Y!== 2"], "line 3.*base64"),
        ([*GOOD[:2], b"YWI 2"], "line 3.*base64"),
        ([*GOOD[:2], b"YWI="], "line 3"),
        ([*GOOD[:2], b"YWI= "], "line 3"),
        ([*GOOD[:2], b"YWI= 2 7"], "line 3"),
        ([*GOOD[:2], b"YWI= -2"], "line 3"),
        ([*GOOD[:2], b"YWI= 2e0"], "line 3"),
        ([*GOOD[:2], b"YWI= 99999999999999999999"], "line 3"),
        ([*GOOD[:2], b"\xff\xfe 2"], "line 3"),
        ([*GOOD[:2], b" 2"], "line 3"),
        ([b"\x89PNG\r\n\x1a\n"], "line 1"),
        ([b""], "no token|empty"),
    ],
)
def test_corrupt_rank_files_name_the_line(tmp_path, lines, message):
    with pytest.raises(ValueError, match=f"(?s)ranks.tiktoken.*({message})"):
        Encoding.from_tiktoken(rank_file(tmp_path, lines), pat_str="none")


def test_gaps_that_special_tokens_fill_are_none(tmp_path):
    path = rank_file(tmp_path, lines_of({b"a": 0, b"b": 1, b"ab": 3}))
    enc = Encoding.from_tiktoken(path, pat_str="none", special_tokens={EOT: 2})
    assert enc.encode("abba" + EOT, allowed_special="all") == [3, 1, 0, 2]
    with pytest.raises(ValueError, match="has the id 3 of token b'ab'"):
        Encoding.from_tiktoken(path, pat_str="none", special_tokens={EOT: 2, "<x>": 3})


# tokenizer.json


@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize("trim", [0, 1])
def test_golden_offsets_of_byte_level(prefix, trim):
    level = {"type": "ByteLevel", "add_prefix_space": bool(prefix), "trim_offsets": bool(trim), "use_regex": True}
    enc = Encoding.from_hf(gpt2_json(pre_tokenizer=level, post_processor=level))
    rows = [
        enc.encode_with_offsets(t, unit="char", trim=bool(trim), disallowed_special=())
        for t in texts("hf_gpt2_offsets")
    ]
    assert [ids for ids, _ in rows] == ragged("hf_gpt2_offsets", f"ids_prefix{prefix}")
    key = f"char_offsets_prefix{prefix}_trim{trim}"
    assert [spans.tolist() for _, spans in rows] == ragged("hf_gpt2_offsets", key, f"ids_prefix{prefix}_off")


def test_gpt2_is_gpt2_in_every_form(tmp_path):
    ours, theirs = ours_and_theirs(gpt2_json())
    (tmp_path / "tokenizer.json").write_text(json.dumps(gpt2_json()))
    assert Encoding.from_hf(tmp_path).name == tmp_path.name
    for text in texts("encode_suite"):
        assert ours.encode(text, disallowed_special=()) == gpt2().encode(text, disallowed_special=())
    agree(ours, theirs, [t for t in texts("encode_suite") if len(t) < 300])
    assert ours.decode(theirs.encode("naïve 👍").ids) == "naïve 👍"


SAMPLES = [
    "",
    "hello",
    " hello  hello\n hello",
    "he1llo 22 hello333",
    "a,b. hello!",
    "hello\n\n hello ",
    "Éé İ ＡＢ",
    "e\u0301x ﬁ",
]
SPLITS = [
    ({"Regex": r"\d"}, "Isolated", False),
    ({"Regex": r"\d+"}, "Removed", False),
    ({"Regex": r"\d+"}, "Removed", True),
    ({"Regex": r"[,.!]"}, "MergedWithPrevious", False),
    ({"Regex": r"[,.!\s]"}, "MergedWithNext", False),
    ({"Regex": r"l"}, "Contiguous", False),
    ({"Regex": r"l"}, "MergedWithPrevious", True),
    ({"Regex": r"l"}, "MergedWithNext", True),
    ({"Regex": r"^ |$"}, "Isolated", False),
    ({"String": "."}, "Isolated", False),
    ({"String": "ll"}, "MergedWithNext", False),
]


@pytest.mark.parametrize(("pattern", "behavior", "invert"), SPLITS)
@pytest.mark.parametrize("spaced", [False, True])
def test_splits(pattern, behavior, invert, spaced):
    split = {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}
    level = {"type": "ByteLevel", "add_prefix_space": spaced, "trim_offsets": False, "use_regex": False}
    content = small_json() | {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]}}
    agree(*ours_and_theirs(content), SAMPLES)


@pytest.mark.parametrize("individual", [False, True])
@pytest.mark.parametrize("regex", [False, True])
def test_digits_as_in_smollm2(individual, regex):
    digits = {"type": "Digits", "individual_digits": individual}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": regex}
    steps = {"type": "Sequence", "pretokenizers": [digits, level]}
    agree(*ours_and_theirs(gpt2_json(pre_tokenizer=steps)), [*SAMPLES, "x  12", " ٣٤ ½ Ⅷ 一二 ²", "a  1\n\n 2"])


NORMALIZERS = [
    {"type": "NFC"},
    {"type": "NFD"},
    {"type": "NFKC"},
    {"type": "NFKD"},
    {"type": "Lowercase"},
    {"type": "Prepend", "prepend": "h"},
    {"type": "Strip", "strip_left": True, "strip_right": False},
    {"type": "Strip", "strip_left": True, "strip_right": True},
    {"type": "Replace", "pattern": {"String": "he"}, "content": "e"},
    {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
    {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]},
    {"type": "Sequence", "normalizers": []},
]


@pytest.mark.parametrize("normalizer", NORMALIZERS, ids=lambda n: n["type"])
def test_normalizers(normalizer):
    agree(*ours_and_theirs(small_json() | {"normalizer": normalizer}), [*SAMPLES, "ΟΔΟΣ", "가각 각"], offsets=False)


def test_offsets_go_through_a_normalizer():
    enc = Encoding.from_hf(small_json() | {"normalizer": {"type": "NFC"}})
    text = "ae\u0301hello"
    ids, spans = enc.encode_with_offsets(text)
    assert ids == [97, 0xC3, 0xA9, 259]
    assert spans.tolist() == [[0, 1], [1, 4], [1, 4], [4, 9]]  # both bytes of the new letter stand for the old cluster
    assert enc.encode_with_offsets(text, unit="char")[1].tolist() == [[0, 1], [1, 3], [1, 3], [3, 8]]
    enc = Encoding.from_hf(small_json() | {"normalizer": {"type": "Prepend", "prepend": "hell"}})
    assert enc.encode_with_offsets("ox")[1].tolist() == [[0, 1], [1, 2]]


TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [
        {"SpecialToken": {"id": "<s>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "</s>", "type_id": 0}},
        {"Sequence": {"id": "B", "type_id": 1}},
    ],
    "special_tokens": {
        "<s>": {"id": "<s>", "ids": [262], "tokens": ["<s>"]},
        "</s>": {"id": "</s>", "ids": [263], "tokens": ["</s>"]},
    },
}
LEVEL = {"type": "ByteLevel", "trim_offsets": False, "add_prefix_space": True}
PROCESSORS = [
    TEMPLATE,
    {
        "type": "Sequence",
        "processors": [{"type": "ByteLevel", "trim_offsets": False, "add_prefix_space": True}, TEMPLATE],
    },
    {"type": "BertProcessing", "sep": ["</s>", 263], "cls": ["<s>", 262]},
    {
        "type": "RobertaProcessing",
        "sep": ["</s>", 263],
        "cls": ["<s>", 262],
        "trim_offsets": False,
        "add_prefix_space": False,
    },
]


@pytest.mark.parametrize("processor", PROCESSORS, ids=lambda p: p["type"])
def test_templates(processor):
    content = small_json() | {"added_tokens": [added("<s>", 262), added("</s>", 263)], "post_processor": processor}
    content["model"]["vocab"] |= {"<s>": 262, "</s>": 263}
    ours, theirs = ours_and_theirs(content)
    agree(ours, theirs, ["hello", "", "a<s>b"])
    assert ours.with_template(ours.encode("a"), ours.encode("hello")) == theirs.encode("a", "hello").ids


def test_merges_as_strings_and_whole_pieces_without_merges():
    content = small_json()
    content["model"]["merges"] = [" ".join(m) for m in content["model"]["merges"]]
    content["model"]["vocab"]["Ġworld"] = 262  # no merge makes it
    ours, theirs = ours_and_theirs(content)
    agree(ours, theirs, ["hello world"])
    assert len(ours.encode(" world")) == 6
    content["model"]["ignore_merges"] = True
    ours, theirs = ours_and_theirs(content)
    agree(ours, theirs, ["hello world"])
    assert ours.encode(" world") == [262]


def test_bytes_that_are_no_token_are_dropped():
    content = small_json()
    del content["model"]["vocab"]["z"]
    ours, theirs = ours_and_theirs(content)
    agree(ours, theirs, ["hezllo", "z", "azb"], offsets=False)
    assert ours.encode_with_offsets("azb")[1].tolist() == [[0, 1], [1, 3]]  # still a tiling


def without(content, *path):
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return content


def with_model(**fields):
    content = small_json()
    content["model"] |= fields
    return content


SEQUENCE = {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}, {"type": "Digits"}]}
STEP = {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, {"type": "ByteLevel"}]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "expected a path"),
        ({}, "model: missing"),
        (with_model(type="WordPiece"), "model.type: 'WordPiece' is not supported"),
        (with_model(type="Unigram"), "model.type: 'Unigram' is not supported"),
        (with_model(dropout=0.1), "model.dropout: 0.1"),
        (with_model(end_of_word_suffix="</w>"), "model.end_of_word_suffix: '</w>'"),
        (with_model(continuing_subword_prefix="##"), "model.continuing_subword_prefix"),
        (without(with_model(unk_token="<unk>"), "model", "vocab", "a"), "model.unk_token: not supported.*0x61"),
        (without(with_model(byte_fallback=True), "model", "vocab", "a"), "model.byte_fallback: not supported"),
        (without(small_json(), "model", "vocab"), "model.vocab: missing"),
        (without(small_json(), "model", "vocab", "hell"), r"model.merges\[2\]: token 'hell' is not in model.vocab"),
        (with_model(merges=[["x", "y"]]), r"model.merges\[0\]: token 'xy' is not"),
        (with_model(merges=["h e", "h"]), r"model.merges\[1\]: expected two tokens, got 'h'"),
        (with_model(merges=[["h", "e", "l"]]), r"model.merges\[0\]: expected two tokens"),
        (with_model(merges=[7]), r"model.merges\[0\]: expected two tokens, got 7"),
        (with_model(vocab={"▁a": 0}), "model.vocab: token '▁a' holds '▁', which stands for no byte"),
        (with_model(vocab={"a": "0"}, merges=[]), "model.vocab: 'a': expected an id >= 0, got '0'"),
        (with_model(vocab={"a": 0, "b": 0}, merges=[]), "model.vocab"),
        (small_json() | {"pre_tokenizer": None}, "pre_tokenizer: expected a ByteLevel"),
        (small_json() | {"pre_tokenizer": {"type": "Metaspace"}}, "pre_tokenizer: expected a ByteLevel.*Metaspace"),
        (small_json() | {"pre_tokenizer": SEQUENCE}, "ends with its only ByteLevel"),
        (small_json() | {"pre_tokenizer": STEP}, r"pre_tokenizer.pretokenizers\[0\]: 'Whitespace' is not supported"),
        (small_json() | {"normalizer": {"type": "Nmt"}}, "normalizer: 'Nmt' is not supported"),
        (
            small_json() | {"normalizer": {"type": "Sequence", "normalizers": [{"type": "BertNormalizer"}]}},
            r"normalizer.normalizers\[0\]: 'BertNormalizer'",
        ),
        (small_json() | {"normalizer": {"type": "Replace", "content": "x"}}, "normalizer.pattern"),
        (small_json() | {"post_processor": {"type": "Other"}}, "post_processor: 'Other' is not supported"),
        (small_json() | {"decoder": {"type": "Metaspace"}}, "decoder: 'Metaspace' is not supported"),
        (small_json() | {"added_tokens": [{"content": "x"}]}, r"added_tokens\[0\].id: expected an integer in \[0, 2"),
        (small_json() | {"added_tokens": [added("x", 300), added("x", 301)]}, "added_tokens.*'x'"),
        (small_json() | {"added_tokens": [added("<s>", 97)]}, "'<s>' has the id 97 of token b'a'"),
        (small_json() | {"added_tokens": [added("a", 300)]}, "added_tokens: 'a' has id 300, but 97 in model.vocab"),
    ],
)
def test_what_is_not_supported_is_named(content, message):
    with pytest.raises(ValueError, match=message):
        Encoding.from_hf(content)


def test_files_that_are_no_json_name_the_line(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text('{"model":\n {"type": "BPE",\n oops')
    with pytest.raises(FormatError, match=r"tokenizer.json: line 3: not JSON"):
        Encoding.from_hf(path)
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(FormatError, match="not UTF-8"):
        Encoding.from_hf(path)


# vocab.json + merges.txt


@pytest.mark.parametrize("version", ["#version: 0.2\n", ""])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_vocab_json_and_merges_txt(tmp_path, version, newline):
    model = gpt2_json()["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    lines = version + newline.join(" ".join(m) for m in model["merges"]) + newline
    (tmp_path / "merges.txt").write_bytes(lines.encode())
    enc = Encoding.from_hf((tmp_path / "vocab.json", tmp_path / "merges.txt"))
    assert enc.special_tokens_set == {EOT}
    for text in texts("encode_suite"):
        assert enc.encode_ordinary(text) == gpt2().encode_ordinary(text)
    spaced = Encoding.from_hf((tmp_path / "vocab.json", tmp_path / "merges.txt"), add_prefix_space=True)
    assert spaced.encode("hello") == enc.encode(" hello")


@pytest.mark.parametrize(
    ("merges", "message"),
    [
        ("#version: 0.2\nh e\nl l l\n", "line 3: expected two tokens, got 'l l l'"),
        ("h e\nhe lp\n", "line 2: token 'lp' is not in the vocabulary"),
        ("h e\nx y\n", "line 2: token 'xy' is not in the vocabulary"),
        ("h e\nh\n", "line 2: expected two tokens"),
    ],
)
def test_bad_merges_name_the_line(tmp_path, merges, message):
    (tmp_path / "vocab.json").write_text(json.dumps(small_json()["model"]["vocab"]))
    (tmp_path / "merges.txt").write_text(merges)
    with pytest.raises(FormatError, match=f"merges.txt: {message}"):
        Encoding.from_hf((tmp_path / "vocab.json", tmp_path / "merges.txt"))


# tekken


def tekken_json(**changes):
    ranks = small()._mergeable_ranks
    entries = [{"rank": i, "token_bytes": base64.b64encode(t).decode(), "token_str": None} for i, t in enumerate(ranks)]
    config = {"pattern": "tekken", "default_vocab_size": 260 + 10, "default_num_special_tokens": 10}
    return {"config": config, "vocab": entries} | changes


def test_tekken_moves_ranks_up(tmp_path):
    path = tmp_path / "tekken.json"
    path.write_text(json.dumps(tekken_json()))
    enc = Encoding.from_tekken(path)
    assert enc.encode("hello") == [269]
    assert enc.encode(" hello") == [42, 269]  # rank 260 is beyond default_vocab_size
    assert enc.encode("<s>a", allowed_special="all") == [1, 107]
    assert enc.n_vocab == 270


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "config"),
        (tekken_json(config={}), "config"),
        (tekken_json(vocab=[]), "vocab: expected at least 260"),
        (tekken_json(vocab=[{"rank": 1, "token_bytes": "AA=="}] * 300), r"vocab\[0\]: expected rank 0"),
        (tekken_json(vocab=[{"rank": 0, "token_bytes": "!"}] * 300), r"vocab\[0\].token_bytes: not base64"),
    ],
)
def test_bad_tekken_files_name_the_field(tmp_path, content, message):
    path = tmp_path / "tekken.json"
    path.write_text(json.dumps(content))
    with pytest.raises(FormatError, match=message):
        Encoding.from_tekken(path)


def test_golden_ids_of_tekken():
    resources = pytest.importorskip("importlib.resources")
    pytest.importorskip("mistral_common", reason="its wheel holds the vocabulary")
    file = resources.files("mistral_common") / "data" / "tekken_240911.json"
    enc = Encoding.from_tekken(str(file))
    assert [enc.encode(t, disallowed_special=()) for t in texts("encode_tekken")] == ragged(
        "encode_tekken", "ids_tekken_240911"
    )


def test_reading_a_large_vocabulary_takes_linear_time(tmp_path):
    start = time.perf_counter()
    Encoding.from_hf(gpt2_json())
    assert time.perf_counter() - start < 10
    assert GOLDEN.is_dir()


def test_strings_of_the_byte_alphabet():
    assert [to_chars(bytes([b])) for b in (0x20, 0x0A, 0x21, 0xAD, 0xFF)] == ["Ġ", "Ċ", "!", "ŃŃ"[0], "ÿ"]
