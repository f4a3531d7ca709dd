# SPDX-License-Identifier: Apache-2.0
"""Family bpe: byte-level pairs: pre-tokenizers, vocabularies, encoding, training, tries."""

from tokernel.kernels.bpe._count import apply_merges, count_pairs
from tokernel.kernels.bpe._merge_batch import MergedBatch, merge_pairs_batch
from tokernel.kernels.bpe._pieces import CountedPieces, count_pieces
from tokernel.kernels.bpe._split import split
from tokernel.kernels.bpe._train import PairHistory, pair_count_history, train_merges
from tokernel.kernels.bpe._trie import Found, Segmented, Trie
from tokernel.kernels.bpe._unigram import UnigramFit, unigram_em, unigram_viterbi

__all__ = [
    "CountedPieces",
    "Found",
    "MergedBatch",
    "PairHistory",
    "Segmented",
    "Trie",
    "UnigramFit",
    "apply_merges",
    "count_pairs",
    "count_pieces",
    "merge_pairs_batch",
    "pair_count_history",
    "split",
    "train_merges",
    "unigram_em",
    "unigram_viterbi",
]
