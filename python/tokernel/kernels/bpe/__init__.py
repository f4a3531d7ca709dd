# SPDX-License-Identifier: Apache-2.0
"""Family bpe: byte-level pairs: pre-tokenizers, vocabularies, encoding, training, tries."""

from tokernel.kernels.bpe._split import split
from tokernel.kernels.bpe._train import PairHistory, pair_count_history, train_merges
from tokernel.kernels.bpe._trie import Found, Segmented, Trie

__all__ = ["Found", "PairHistory", "Segmented", "Trie", "pair_count_history", "split", "train_merges"]
