# SPDX-License-Identifier: Apache-2.0
"""What tree_attention says of bad input, before anything is written."""

import re

import numpy as np
import pytest

from tokernel.kernels.tree import TokenTree, tree_attention


def floats(*shape):
    return np.ones(shape, np.float32)


def fails(error, message, **spoiled):
    call = {
        "q": floats(2, 4, 3, 8),
        "k_cache": floats(2, 2, 10, 8),
        "v_cache": floats(2, 2, 10, 8),
        "lengths": np.array([7, 2]),
        "tree": np.array([-1, 0, 0]),
        "out": np.full((2, 4, 3, 8), 7, np.float32),
    }
    call |= spoiled
    with pytest.raises(error, match="^" + re.escape(f"tree_attention: {message}") + "$"):
        tree_attention(**call)
    assert (call["out"] == 7).all()


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ([-1, 2, 0], "parents must be smaller than its node, or -1 for padding, got 2 for node 1"),
        ([-1, 1, 0], "parents must be smaller than its node, or -1 for padding, got 1 for node 1"),
        ([0, 0, 1], "parents must be -1 for node 0, got 0 for node 0"),
        ([-1, -2, 0], "parents must be smaller than its node, or -1 for padding, got -2 for node 1"),
        ([-1, -1, 0], "parents must be -1 behind padding, got 0 for node 2"),
        (
            [[-1, 0, 0], [-1, 0, 9]],
            "parents must be smaller than its node, or -1 for padding, got 9 for node 2 of tree 1",
        ),
        ([-1, 0], "parents must be (T) with T = 3 or (B, T) with B = 2, T = 3, got (2,) int64"),
        ([[-1, 0, 0]] * 3, "parents must be (T) with T = 3 or (B, T) with B = 2, T = 3, got (3, 3) int64"),
    ],
    ids=str,
)
def test_trees_that_are_none(backend, tree, message):
    fails(ValueError, message, tree=np.array(tree))


def test_an_empty_tree(backend):
    none = np.zeros(0, np.int64)
    with pytest.raises(ValueError, match=r"^tree_attention: parents must be of at least one node, got an empty tree$"):
        tree_attention(floats(2, 4, 0, 8), floats(2, 2, 10, 8), floats(2, 2, 10, 8), 3, none)


def test_too_many_nodes(backend):
    with pytest.raises(ValueError, match=r"^tree_attention: parents must be of at most 4096 nodes, got 4097$"):
        tree_attention(
            floats(1, 1, 4097, 1), floats(1, 1, 4097, 1), floats(1, 1, 4097, 1), 0, np.arange(4097, dtype=np.int64) - 1
        )


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        (np.array([8, 2]), "lengths must be within the cache: its 10 rows less 3 nodes, got 8 at flat position 0"),
        (
            np.array([7, 2**62]),
            f"lengths must be within the cache: its 10 rows less 3 nodes, got {2**62} at flat position 1",
        ),
        (np.array([7, -1]), "lengths must be at least 0, got -1 at flat position 1"),
        (8, "lengths must be within the cache: its 10 rows less 3 nodes, got 8"),
        (-1, "lengths must be an integer of at least 0, got -1"),
        (np.array([7]), "lengths must be (B,) with B = 2, got (1,) int64"),
    ],
    ids=str,
)
def test_lengths(backend, lengths, message):
    fails(ValueError, message, lengths=lengths)


def test_padding_needs_no_rows(backend):
    """Lengths leave room for the nodes that there are."""
    out, lse = tree_attention(
        floats(1, 1, 3, 8), floats(1, 1, 10, 8), floats(1, 1, 10, 8), 8, np.array([-1, 0, -1]), return_lse=True
    )
    np.testing.assert_allclose(out[0, 0, :, 0], [1, 1, 0], rtol=1e-6)
    assert lse[0, 0, 2] == -np.inf


@pytest.mark.parametrize(
    ("pages", "message"),
    [
        ([[0, 1, 2], [3, 4, 0]], "pages must be in [0, 4) where rows are in use, got 4 at flat position 4"),
        ([[0, -1, 2], [3, 0, 0]], "pages must be in [0, 4) where rows are in use, got -1 at flat position 1"),
        ([[0, 1], [3, 0]], "lengths must be within the cache: its 8 rows less 3 nodes, got 7 at flat position 0"),
        ([[0, 1, 2]], "pages must be (B, M) with B = 2, got (1, 3) int64"),
    ],
    ids=str,
)
def test_pages(backend, pages, message):
    """Pages of four rows; the first sequence needs three of them, the second two."""
    pool = floats(4, 2, 4, 8)
    fails(ValueError, message, k_cache=pool, v_cache=pool, pages=np.array(pages))


def test_heads_and_widths(backend):
    fails(
        ValueError,
        "k_cache must be of a number of heads that divides the 4 heads of q, got 3",
        k_cache=floats(2, 3, 10, 8),
        v_cache=floats(2, 3, 10, 8),
    )
    for width in (0, 257):
        cache = floats(1, 1, 2, width)
        with pytest.raises(ValueError, match=f"^tree_attention: q must be of a head width from 1 to 256, got {width}$"):
            tree_attention(floats(1, 1, 1, width), cache, cache, 0, TokenTree([-1]))


def test_one_dtype_for_all(backend):
    fails(TypeError, "v_cache must be float32, got float16", v_cache=np.ones((2, 2, 10, 8), np.float16))
    fails(TypeError, "q must be float32, float16 or bfloat16, got float64", q=np.ones((2, 4, 3, 8)))


def test_arguments_that_do_not_fit_each_other(backend):
    fails(
        ValueError,
        "v_cache must be (B, G, S, D) with B = 2, G = 2, S = 10, D = 8, got (2, 2, 9, 8) float32",
        v_cache=floats(2, 2, 9, 8),
    )
    fails(TypeError, "scale must be a finite number, got str", scale="1")
    fails(ValueError, "scale must be a finite number, got nan", scale=float("nan"))
