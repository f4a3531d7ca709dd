# SPDX-License-Identifier: Apache-2.0
"""Papers that make diffusion transformers attend to fewer tokens."""
