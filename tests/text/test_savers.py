# SPDX-License-Identifier: Apache-2.0
"""What is saved reads back equal, here and in the libraries whose formats these are; a failed save changes nothing."""

import json
import os
import pickle

import pytest
from bpe_files import EOT, added, gpt2, gpt2_json, published, small, small_json, texts

from tokernel.text import Encoding

INPUTS = [*(t for t in texts("encode_suite") if len(t) < 400), f"a{EOT}b  {EOT}"]


def same(a, b):
    assert a._mergeable_ranks == b._mergeable_ranks
    assert a._special_tokens == b._special_tokens
    for text in INPUTS:
        assert a.encode(text, allowed_special="all") == b.encode(text, allowed_special="all")
        assert a.encode(text, disallowed_special=()) == b.encode(text, disallowed_special=())


@pytest.mark.parametrize("make", [small, gpt2], ids=["small", "gpt2"])
def test_rank_files(tmp_path, make):
    path = tmp_path / "out.tiktoken"
    make().save_tiktoken(path)
    specials = make()._special_tokens
    again = Encoding.from_tiktoken(path, pat_str="gpt2", special_tokens=specials)
    same(again, make())
    again.save_tiktoken(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    load = pytest.importorskip("tiktoken.load")
    assert load.load_tiktoken_bpe(str(path)) == make()._mergeable_ranks


def test_a_published_rank_file_comes_back_byte_for_byte(tmp_path):
    for name in ("cl100k_base", "p50k_base"):
        enc = published(name)
        enc.save_tiktoken(tmp_path / name)
        assert Encoding.from_tiktoken(tmp_path / name).name == name  # known by its sha256
    enc.save_tiktoken(tmp_path / "x")


@pytest.mark.parametrize("make", [small, gpt2], ids=["small", "gpt2"])
def test_tokenizer_json_of_ranks(tmp_path, make):
    enc = make()
    enc.save_hf(tmp_path)
    again = Encoding.from_hf(tmp_path / "tokenizer.json")
    same(again, enc)
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in INPUTS:
        assert theirs.encode(text).ids == enc.encode(text, allowed_special="all")
        assert theirs.decode(theirs.encode(text).ids, skip_special_tokens=False) == text
    again.save_tiktoken(tmp_path / "ranks")  # and back to ranks
    same(Encoding.from_tiktoken(tmp_path / "ranks", pat_str="gpt2", special_tokens=enc._special_tokens), enc)


@pytest.mark.parametrize("name", ["cl100k_base", "o200k_base"])
def test_published_encodings_in_tokenizers(tmp_path, name):
    enc = published(name)
    enc.save_hf(tmp_path)
    again = Encoding.from_hf(tmp_path, name=name)
    same(again, enc)
    assert again.vocab.tables()["merges"].shape[0] == len(enc._mergeable_ranks) - 256
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in INPUTS:
        assert theirs.encode(text).ids == enc.encode(text, allowed_special="all")


def test_tokens_that_only_whole_pieces_make(tmp_path):
    ranks = {**small()._mergeable_ranks, b" world": 300, b"wor": 301, b"ld": 302}
    enc = Encoding("whole", pat_str="gpt2", mergeable_ranks=ranks, special_tokens={})
    enc.save_hf(tmp_path)
    again = Encoding.from_hf(tmp_path)
    for text in (" world", "world hello", " worlds", "hello"):
        assert again.encode(text) == enc.encode(text)
    assert enc.encode(" world") == [300]


def test_everything_of_a_tokenizer_json_survives(tmp_path):
    content = small_json() | {
        "added_tokens": [added("<w>", 262, False, lstrip=True, normalized=True), added("<s>", 263, single_word=True)],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]},
    }
    level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": False}
    digits = {"type": "Digits", "individual_digits": True}
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, level]}
    content["post_processor"] = {"type": "BertProcessing", "sep": ["<s>", 263], "cls": ["<w>", 262]}
    enc = Encoding.from_hf(content)
    enc.save_hf(tmp_path)
    saved = json.loads((tmp_path / "tokenizer.json").read_text())
    for field in ("added_tokens", "normalizer", "pre_tokenizer", "post_processor"):
        assert saved[field] == content[field]
    assert saved["model"]["merges"] == content["model"]["merges"]
    for again in (Encoding.from_hf(tmp_path), pickle.loads(pickle.dumps(enc))):
        for text in ("HE11o <w> x", "<s> 12 <s>", "É <W>"):
            assert again.encode(text, allowed_special="all") == enc.encode(text, allowed_special="all")
            assert again.with_template([1], [2]) == enc.with_template([1], [2])


@pytest.mark.parametrize("make", [small, gpt2, lambda: Encoding.from_hf(gpt2_json())], ids=["small", "gpt2", "hf"])
def test_vocab_and_merges(tmp_path, make):
    paths = (tmp_path / "vocab.json", tmp_path / "merges.txt")
    make().save_merges(*paths)
    same(Encoding.from_hf(paths), make())
    assert paths[1].read_text().startswith("#version: 0.2\n")


def test_ids_that_are_not_the_order_of_merging_are_refused_as_ranks(tmp_path):
    content = small_json()
    content["model"]["merges"] = content["model"]["merges"][::-1]
    enc = Encoding.from_hf(content)
    with pytest.raises(ValueError, match="cannot say that ids are not the order of merging"):
        enc.save_tiktoken(tmp_path / "ranks")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path, other = tmp_path / "vocab.json", tmp_path / "merges.txt"
    path.write_text("old")
    other.write_text("old too")

    def full(*_):
        raise OSError("no space left")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        for save in (gpt2().save_tiktoken, small().save_hf):
            with pytest.raises(OSError, match="no space"):
                save(path)
        with pytest.raises(OSError, match="no space"):
            small().save_merges(path, other)
    assert (path.read_text(), other.read_text()) == ("old", "old too")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["merges.txt", "vocab.json"]
    with pytest.raises(FileNotFoundError):
        small().save_merges(path, tmp_path / "no such folder" / "merges.txt")
    assert path.read_text() == "old"
