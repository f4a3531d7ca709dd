# SPDX-License-Identifier: Apache-2.0
"""A tokenizer.json with a wrong value at any one place is a FormatError that names the file, or is read."""

import base64
import copy
import json

import pytest
from bpe_files import added, small_json

from tokernel.text import Encoding, FormatError

WRONG = [None, 0, -1, 1.5, 2**40, 2**70, True, "x", [], [1], ["a"], {}, {"a": 1}, [None], {"type": 5}, {"type": []}]


def content():
    text = {"Sequence": {"id": "A", "type_id": 0}}
    return small_json() | {
        "added_tokens": [added("<s>", 300)],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "NFC"},
                {"type": "Replace", "pattern": {"String": "x"}, "content": "y"},
                {"type": "Strip", "strip_left": True, "strip_right": False},
            ],
        },
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": r"\d"}, "behavior": "Isolated", "invert": False},
                {"type": "Digits", "individual_digits": True},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            ],
        },
        "post_processor": {
            "type": "Sequence",
            "processors": [
                {
                    "type": "TemplateProcessing",
                    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, text],
                    "pair": [text, {"Sequence": {"id": "B", "type_id": 0}}],
                    "special_tokens": {"<s>": {"id": "<s>", "ids": [300], "tokens": ["<s>"]}},
                }
            ],
        },
    }


def places(value, path=()):
    """Paths of every value but most of a vocabulary's."""
    if path:
        yield path
    if isinstance(value, dict):
        items = list(value.items())
        for key, inner in items if len(items) < 100 else items[:1] + items[-1:]:
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value[:4]):
            yield from places(inner, (*path, i))


def put(content, path, value):
    whole = copy.deepcopy(content)
    at = whole
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return whole


@pytest.mark.parametrize("path", list(places(content())), ids=lambda path: ".".join(map(str, path)))
def test_a_wrong_value_anywhere(path):
    good, errors = content(), 0
    assert Encoding.from_hf(good).encode("<s>hello", allowed_special="all") == [300, 259]
    for value in WRONG:
        try:
            Encoding.from_hf(put(good, path, value)).encode("<s>hello 12 x", allowed_special="all")
        except ValueError:  # any other error fails the test
            errors += 1
    assert errors or path[-1] not in ("model", "vocab", "merges", "normalizer", "pre_tokenizer", "type", "ids")


@pytest.mark.parametrize(
    ("field", "inner"),
    [("pre_tokenizer", "pretokenizers"), ("normalizer", "normalizers"), ("post_processor", "processors")],
)
def test_deep_nesting(field, inner, tmp_path):
    deep = {"type": "Sequence", inner: []}
    for _ in range(5000):
        deep = {"type": "Sequence", inner: [deep]}
    with pytest.raises(FormatError, match=r"tokenizer.json: nested too deeply"):
        Encoding.from_hf(small_json() | {field: deep})
    path = tmp_path / "tokenizer.json"
    path.write_bytes(b"[" * 200_000)
    with pytest.raises(FormatError, match=r"tokenizer.json: nested too deeply"):
        Encoding.from_hf(path)


def test_bert_processors_need_both_tokens():
    bert = {"type": "BertProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0]}
    assert Encoding.from_hf(small_json() | {"post_processor": bert}).with_template([7]) == [0, 7, 2]
    for wrong in (None, [], ["<s>"], ["<s>", "0"], 5):
        with pytest.raises(FormatError, match=r"post_processor.cls"):
            Encoding.from_hf(small_json() | {"post_processor": bert | {"cls": wrong}})


def test_special_tokens_that_do_not_fit():
    ranks = {bytes([b]): b for b in range(256)}
    for content, token, message in (("<a>", 2**31, r"an id below 2\*\*31"), ("\ud800", 300, "UTF-8 can hold")):
        with pytest.raises(ValueError, match=message):
            Encoding("bad", pat_str="gpt2", mergeable_ranks=ranks, special_tokens={content: token})


@pytest.mark.parametrize("field", ["pattern", "default_vocab_size", "default_num_special_tokens"])
def test_a_wrong_value_in_the_config_of_tekken(field, tmp_path):
    config = {"pattern": r"\w+|\W+", "default_vocab_size": 261, "default_num_special_tokens": 5}
    vocab = [{"rank": i, "token_bytes": base64.b64encode(bytes([i])).decode()} for i in range(256)]
    path = tmp_path / "tekken.json"
    path.write_text(json.dumps({"config": config, "vocab": vocab}))
    assert Encoding.from_tekken(path).encode("a") == [102]
    for value in (None, -1, 1.5, float("inf"), [], {}, 2**31 - 1):
        path.write_text(json.dumps({"config": config | {field: value}, "vocab": vocab}))
        with pytest.raises(FormatError, match=r"tekken.json: (config|vocab)"):
            Encoding.from_tekken(path)
