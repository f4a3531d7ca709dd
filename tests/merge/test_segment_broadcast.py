# SPDX-License-Identifier: Apache-2.0
"""segment_broadcast: every backend, bit for bit."""

import numpy as np
import pytest

from segment_cases import EMPTY, SHAPES, cuts, ids_of, labels, where_told
from tokernel.kernels import merge


def expected(y, ids):
    padded = np.concatenate([y, np.zeros_like(y[:, :1])], axis=1)  # id -1 picks the row of zeros
    return np.stack([row[i] for row, i in zip(padded, ids, strict=True)])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_copies_rows(backend, rng, shape, dtype):
    batch, tokens, segments, width = shape
    y = rng.standard_normal((batch, segments, width)).astype(dtype)
    ids = labels(rng, batch, tokens, segments)
    assert np.array_equal(merge.segment_broadcast(y, ids=ids), expected(y, ids))
    offsets = cuts(rng, batch, tokens, segments)
    wanted = expected(y, ids_of(offsets, tokens))
    if backend != "cuda":
        assert np.array_equal(merge.segment_broadcast(y, offsets=offsets), wanted)
    assert np.array_equal(merge.segment_broadcast(y, offsets=offsets, tokens=tokens), wanted)


@pytest.mark.parametrize("shape", EMPTY)
def test_nothing(backend, shape):
    batch, tokens, segments, width = shape
    y = np.ones((batch, segments, width), np.float32)
    got = merge.segment_broadcast(y, ids=np.full((batch, tokens), -1))
    assert got.shape == (batch, tokens, width)
    assert not got.any()


def test_every_bit_survives(backend):
    y = np.array([[[0x7FC12345, 0xFFFFFFFF, 0x80000000, 0x00000001]]], np.uint32).view(np.float32)
    got = merge.segment_broadcast(y, ids=np.array([[0, 0]]))
    assert np.array_equal(got.view(np.uint32), y.view(np.uint32).repeat(2, axis=1))


def test_forms_and_views(backend, rng):
    y = rng.standard_normal((3, 8, 20)).astype(np.float32)[:, ::2, 2:19]
    ids = labels(rng, 1, 12, 4)[0]
    shared = merge.segment_broadcast(y, ids=ids)
    assert np.array_equal(shared, expected(y, np.tile(ids, (3, 1))))
    assert np.array_equal(merge.segment_broadcast(y[1], ids=ids.astype(np.int32)), shared[1])
    offsets = np.array([0, 5, 5, 9, 12])
    told = where_told(backend, 12)
    shared = merge.segment_broadcast(y, offsets=offsets, **told)
    assert np.array_equal(shared, expected(y, ids_of(np.tile(offsets, (3, 1)), 12)))
    assert np.array_equal(merge.segment_broadcast(y[2], offsets=offsets, **told), shared[2])


def test_many_rows(backend, rng):
    """More than one task, so that tasks start in the middle of a batch row."""
    y = rng.standard_normal((2, 7, 3)).astype(np.float32)
    offsets = cuts(rng, 2, 9000 if backend != "simt" else 300, 7)
    tokens = int(offsets[0, -1])
    spread = merge.segment_broadcast(y, offsets=offsets, **where_told(backend, tokens))
    assert np.array_equal(spread, expected(y, ids_of(offsets, tokens)))


Y = np.zeros((2, 2, 3), np.float32)
OFFSETS = np.array([0, 2, 4])


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, "offsets must be given, or else ids, got neither", {}),
        (ValueError, r"ids must be in \[-1, 2\), got 2 at flat position 0", {"ids": np.full(3, 2)}),
        (ValueError, "offsets must be one longer than y has rows, 3 long, got 2", {"offsets": OFFSETS[:2]}),
        (
            ValueError,
            "offsets must be equal to the number of tokens at its end, got 4",
            {"offsets": OFFSETS, "tokens": 3},
        ),
        (ValueError, "offsets must be non-decreasing", {"offsets": np.array([0, 2, -1])}),
        (ValueError, "offsets must be equal to the number", {"offsets": np.array([[0, 2, 4], [0, 2, 3]])}),
        (TypeError, "tokens must be an integer of at least 0, got str", {"offsets": OFFSETS, "tokens": "4"}),
    ],
)
def test_bad_arguments(error, message, arguments):
    with pytest.raises(error, match=f"segment_broadcast: {message}"):
        merge.segment_broadcast(Y, **arguments)
