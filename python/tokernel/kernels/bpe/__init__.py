# SPDX-License-Identifier: Apache-2.0
"""Family bpe: byte-level pairs: pre-tokenizers, vocabularies, encoding, training, tries."""

__all__: list[str] = []
