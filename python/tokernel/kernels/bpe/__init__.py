# SPDX-License-Identifier: Apache-2.0
"""Family bpe: byte-level pairs: pre-tokenizers, vocabularies, encoding, training, tries."""

from tokernel.kernels.bpe._added import decode_added, decode_each, encode_between
from tokernel.kernels.bpe._count import apply_merges, count_pairs
from tokernel.kernels.bpe._encode import (
    count_till_limit,
    decode,
    decode_batch,
    decode_offsets,
    encode,
    encode_batch,
    encode_list,
    encode_lists,
    encode_piece,
)
from tokernel.kernels.bpe._merge_batch import MergedBatch, merge_pairs_batch
from tokernel.kernels.bpe._pieces import CountedPieces, count_pieces
from tokernel.kernels.bpe._split import split
from tokernel.kernels.bpe._train import PairHistory, pair_count_history, train_merges
from tokernel.kernels.bpe._trie import Found, Segmented, Trie
from tokernel.kernels.bpe._unigram import UnigramFit, unigram_em, unigram_viterbi
from tokernel.kernels.bpe._vocab import Vocab, is_valid_pair, parse_ranks, prefix_tokens, tokens_with_prefix

__all__ = [
    "CountedPieces",
    "Found",
    "MergedBatch",
    "PairHistory",
    "Segmented",
    "Trie",
    "UnigramFit",
    "Vocab",
    "apply_merges",
    "count_pairs",
    "count_pieces",
    "count_till_limit",
    "decode",
    "decode_added",
    "decode_batch",
    "decode_each",
    "decode_offsets",
    "encode",
    "encode_batch",
    "encode_between",
    "encode_list",
    "encode_lists",
    "encode_piece",
    "is_valid_pair",
    "merge_pairs_batch",
    "pair_count_history",
    "parse_ranks",
    "prefix_tokens",
    "split",
    "tokens_with_prefix",
    "train_merges",
    "unigram_em",
    "unigram_viterbi",
]
