# SPDX-License-Identifier: Apache-2.0
"""Laws of the C++ policy classes, which every kernel walks by: tiles, spans and intervals against `allowed`."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import numpy as np
import pytest
from map_cases import KINDS, make

from tokernel.kernels import attention as kernels
from tokernel.kernels.attention._policy import Tools

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))
from native import build

KIND = {"dense": 0, "causal": 1, "block_map": 2, "disc": 3, "segments": 4, "tree": 5, "mask": 6}

NUMBERS = (
    *("kind", "causal", "offset", "prefix", "mb", "mh", "mr", "rb", "cb", "rsb", "rsh", "csb", "csh"),
    *("height", "width", "reach", "pooled", "tb", "tw"),
)


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    source = str(Path(__file__).parent / "policy_probe.cpp")
    library = build(source, tmp_path_factory.mktemp("policy"), "-fsanitize=undefined", "-fno-sanitize-recover")
    library.walk.restype = ctypes.c_int64
    return library


def pack(seen):
    """(R, T) bool to 64 nodes a word."""
    words = np.zeros((len(seen), -(-seen.shape[1] // 64)), np.uint64)
    for row, node in zip(*np.nonzero(seen), strict=True):
        words[row, node // 64] |= np.uint64(1) << np.uint64(node % 64)
    return words


def cumulate(sizes, total, name):
    return np.concatenate([np.zeros((len(sizes), 1), np.int64), np.cumsum(sizes, axis=1)], axis=1)


def strides(x, count):
    """Of the first dimensions, in elements; 0 where one entry serves all."""
    return [0 if x.shape[d] == 1 else x.strides[d] // x.itemsize for d in range(count)]


class Walk:
    """The answers of the probe for one sample and head."""

    def __init__(self, probe, policy, queries, keys, *, b=0, h=0, most=8, packed=1, piece=5):
        parts = policy.parts(queries, keys, Tools(cumulate, pack))
        numbers = dict.fromkeys(NUMBERS, 0)
        numbers["kind"] = KIND[parts.kind]
        arrays = {"map": None, "rows": None, "columns": None, "ancestors": None}
        if parts.kind == "causal":
            numbers |= dict(zip(("prefix", "offset"), parts.numbers, strict=True))
        elif parts.kind == "disc":
            numbers |= dict(zip(("height", "width", "reach", "prefix", "pooled"), parts.numbers, strict=True))
        elif parts.kind == "block_map":
            map_, rows, columns = (np.ascontiguousarray(x) for x in parts.arrays)
            arrays |= {"map": map_, "rows": rows, "columns": columns}
            numbers |= dict(zip(("mb", "mh", "mr"), strides(map_, 3), strict=True))
            numbers["mr"] = map_.shape[3]
            numbers |= {"rb": map_.shape[2], "cb": map_.shape[3]}
            numbers |= dict(zip(("rsb", "rsh", "csb", "csh"), strides(rows, 2) + strides(columns, 2), strict=True))
        elif parts.kind == "segments":
            rows, columns = (np.atleast_2d(np.asarray(x, np.int64)) for x in parts.arrays)
            arrays |= {"rows": rows, "columns": columns}
            numbers |= {"causal": parts.numbers[0], "rb": rows.shape[1] - 1, "cb": rows.shape[1] - 1}
            numbers |= {"rsb": strides(rows, 1)[0], "csb": strides(columns, 1)[0]}
        elif parts.kind == "tree":
            arrays["ancestors"] = parts.arrays[0]
            numbers |= {"prefix": parts.numbers[0], "tw": parts.arrays[0].shape[2]}
            numbers["tb"] = strides(parts.arrays[0], 1)[0]
        elif parts.kind == "mask":
            map_ = np.ascontiguousarray(parts.arrays[0])
            arrays["map"] = map_
            numbers |= dict(zip(("causal", "offset"), parts.numbers, strict=True))
            numbers |= dict(zip(("mb", "mh"), strides(map_, 2), strict=True)) | {"mr": keys}
        given = np.array([*numbers.values(), queries, keys], np.int64)
        self.tile_of = np.full(queries, -1, np.int64)
        self.allowed, self.walked, self.seen = (np.zeros((queries, keys), np.uint8) for _ in range(3))
        pointers = [None if x is None else ctypes.c_void_p(x.ctypes.data) for x in arrays.values()]
        outputs = (self.tile_of, self.allowed, self.walked, self.seen)
        self.tiles = probe.walk(
            ctypes.c_void_p(given.ctypes.data),
            *pointers,
            *(ctypes.c_int64(n) for n in (b, h, most, packed, piece)),
            *(ctypes.c_void_p(x.ctypes.data) for x in outputs),
        )
        self.intervals = bool(probe.kind_has_intervals(ctypes.c_int64(numbers["kind"])))
        self.shares = parts.kind == "segments"


def check(walk, mask, most):
    assert walk.tiles >= 0
    assert (walk.allowed == mask).all()
    sizes = np.bincount(walk.tile_of, minlength=walk.tiles) if len(walk.tile_of) else np.zeros(0)
    assert ((sizes >= 1) & (sizes <= most)).all()
    assert (np.diff(walk.tile_of) >= 0).all()
    for tile in range(walk.tiles):
        rows = walk.tile_of == tile
        union, walked = mask[rows].any(0), walk.walked[rows]
        assert (walked == walked[0]).all()
        assert walked[0][union].all()
        assert mask[rows][:, walked[0] == 2].all()
        if walk.intervals and not walk.shares:
            assert (walked[0].astype(bool) == union).all()
    if walk.intervals:
        assert (walk.seen == mask).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_walks_are_what_is_allowed(probe, kind, seed):
    rng = np.random.default_rng(seed)
    queries, keys = (int(n) for n in rng.integers(1, 40, 2))
    policy, mask = make(kind, rng, 2, 3, queries, keys)
    queries, keys = mask.shape[2:]
    for b, h in ((0, 0), (1, 2)):
        for most, packed, piece in ((1, 1, 1), (8, 1, 3), (8, 6, 64), (64, 16, 7)):
            walk = Walk(probe, policy, queries, keys, b=b, h=h, most=most, packed=packed, piece=piece)
            check(walk, np.broadcast_to(mask, (2, 3, queries, keys))[b, h], most)


@pytest.mark.parametrize("grid", [(0, 0), (0, 3), (3, 0), (1, 1), (1, 7), (7, 1), (5, 6)])
@pytest.mark.parametrize("radius", [0, 0.5, 1, 1.5, 2.2, 3, 1e3, 1e300])
@pytest.mark.parametrize(("prefix", "pooled"), [(0, 0), (2, 3)])
def test_discs(probe, grid, radius, prefix, pooled):
    from map_cases import disc_mask

    policy = kernels.Disc(grid, radius, prefix, pooled)
    mask = disc_mask(*grid, min(float(radius), 1e6), prefix, pooled)
    for most in (1, 4, 64):
        check(Walk(probe, policy, *mask.shape, most=most), mask, most)


SIZES = [[0], [3], [0, 3], [3, 0], [0, 0, 2, 0, 0], [1] * 9, [1, 0, 5, 0, 2], [20, 1, 1, 20]]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("rows", SIZES)
@pytest.mark.parametrize("seed", range(3))
def test_segments_without_queries_or_keys(probe, rows, seed, causal):
    from map_cases import offsets, segment_mask

    columns = np.random.default_rng(seed).integers(0, 4, len(rows))
    policy = kernels.Segments(offsets(rows), offsets(columns), causal)
    mask = segment_mask(np.array(rows), columns, causal)
    for most, packed in ((1, 1), (4, 4), (64, 16)):
        check(Walk(probe, policy, *mask.shape, most=most, packed=packed), mask, most)


def test_segments_without_empty_ones_walk_nothing_in_vain(probe):
    from map_cases import offsets, segment_mask

    sizes = np.array([1, 2, 3, 1, 1, 7, 2])
    mask = segment_mask(sizes, sizes, False)
    walk = Walk(probe, kernels.Segments(offsets(sizes)), 17, 17, most=64, packed=16)
    for tile in range(walk.tiles):
        rows = walk.tile_of == tile
        assert (walk.walked[rows][0].astype(bool) == mask[rows].any(0)).all()


@pytest.mark.parametrize("offset", [-50, -5, -1, 0, 1, 4, 50])
@pytest.mark.parametrize("prefix", [0, 2, 50])
def test_causal_offsets(probe, offset, prefix):
    for queries, keys in ((1, 1), (5, 9), (9, 5), (4, 0)):
        j, i = np.arange(keys), np.arange(queries)[:, None]
        mask = (j <= i + offset) | (j < prefix)
        policy = kernels.PrefixCausal(prefix, offset)
        check(Walk(probe, policy, queries, keys, most=4), mask, 4)


def test_no_queries_have_no_tiles(probe):
    for kind in ("dense", "causal", "mask", "segments"):
        policy, _ = make(kind, np.random.default_rng(0), 1, 1, 0, 5)
        assert Walk(probe, policy, 0, 5).tiles == 0
