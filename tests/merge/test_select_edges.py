# SPDX-License-Identifier: Apache-2.0
"""select_edges: every backend against a plain Python oracle, exactly."""

import numpy as np
import pytest

import tokernel
from tokernel.kernels.merge import select_edges


def oracle(score, index, r, columns, take, valid, class_token, distill_token, sort_unmerged, a_ids, b_ids, tokens):
    batch, rows = index.shape
    ragged = take is not None or valid is not None
    width = rows if ragged else rows - r
    unm_all, src_all, dst_all = (np.full((batch, n), -1) for n in (width, r, r))
    map_all = np.full((batch, tokens), -1)
    for b in range(batch):
        a_of = np.arange(rows) * 2 if a_ids is None else a_ids[b]
        b_of = np.arange(columns) * 2 + 1 if b_ids is None else b_ids[b]
        counts = np.ones(tokens, bool) if valid is None else valid[b].astype(bool)

        def key(i, b=b):
            s = 0.0 if score is None else float(score[b, i])
            return (class_token and i == 0, np.inf if np.isnan(s) else -s, i)

        order = sorted((i for i in range(rows) if counts[a_of[i]]), key=key)
        most = len(order) - (class_token and 0 in order)
        taken = min(r if take is None else int(take[b]), most)
        src, unm = order[:taken], order[taken:]
        unm = sorted(unm) if sort_unmerged else unm
        live = [j for j in range(columns) if counts[b_of[j]]]
        output = [("row", i) for i in unm] + [("column", j) for j in live]
        if distill_token and unm and live:
            output = [output[0], output[len(unm)], *output[1 : len(unm)], *output[len(unm) + 1 :]]
        where = {item: n for n, item in enumerate(output)}
        for i in unm:
            map_all[b, a_of[i]] = where["row", i]
        for j in live:
            map_all[b, b_of[j]] = where["column", j]
        for i in src:
            map_all[b, a_of[i]] = where.get(("column", int(index[b, i])), -1)
        unm_all[b, : len(unm)], src_all[b, : len(src)] = unm, src
        dst_all[b, : len(src)] = index[b, src]
    return unm_all, src_all, dst_all, map_all


def check(score, index, r, columns, **options):
    tokens = options.get("tokens") or index.shape[1] + columns
    got = select_edges(score, index, r, columns, **options)
    names = ("take", "valid", "class_token", "distill_token", "sort_unmerged", "a_ids", "b_ids")
    defaults = (None, None, False, False, False, None, None)
    want = oracle(score, index, r, columns, *(options.get(n, d) for n, d in zip(names, defaults, strict=True)), tokens)
    for name, g, w in zip(("unm", "src", "dst", "map"), got, want, strict=True):
        assert g.dtype == np.int64, name
        np.testing.assert_array_equal(g, w, err_msg=name)
    return got


def random_case(rng, batch, rows, columns):
    score = rng.standard_normal((batch, rows)).astype(np.float32)
    score = np.where(rng.random(score.shape) < 0.3, np.round(score), score).astype(np.float32)  # ties
    special = np.array([np.nan, -np.inf, np.inf, 0.0, -0.0], np.float32)
    score = np.where(rng.random(score.shape) < 0.2, rng.choice(special, score.shape), score)
    return score.astype(np.float32), rng.integers(0, max(columns, 1), (batch, rows))


FLAGS = [(c, d, s) for c in (False, True) for d in (False, True) for s in (False, True)]
SIZES = [(1, 0, 0), (1, 1, 1), (2, 2, 1), (2, 2, 2), (3, 8, 8), (2, 33, 32), (1, 65, 64)]
NATIVE_SIZES = [(2, 257, 256), (1, 1500, 1500), (0, 5, 4)]


@pytest.mark.parametrize(("class_token", "distill_token", "sort_unmerged"), FLAGS)
def test_against_oracle(backend, rng, class_token, distill_token, sort_unmerged):
    flags = {"class_token": class_token, "distill_token": distill_token, "sort_unmerged": sort_unmerged}
    for batch, rows, columns in SIZES if backend == "simt" else SIZES + NATIVE_SIZES:
        score, index = random_case(rng, batch, rows, columns)
        most = max(0, rows - class_token)
        for r in {0, min(1, most), most // 2, most}:
            check(score, index, r, columns, **flags)


def test_rows_in_their_own_order_without_scores(backend, rng):
    _, index = random_case(rng, 2, 9, 8)
    unm, src, _, _ = check(None, index, 4, 8)
    assert src.tolist() == [[0, 1, 2, 3]] * 2
    assert unm.tolist() == [[4, 5, 6, 7, 8]] * 2


@pytest.mark.parametrize(("class_token", "distill_token", "sort_unmerged"), FLAGS)
def test_ragged(backend, rng, class_token, distill_token, sort_unmerged):
    flags = {"class_token": class_token, "distill_token": distill_token, "sort_unmerged": sort_unmerged}
    for batch, rows, columns in [(4, 8, 7), (3, 34, 34)]:
        score, index = random_case(rng, batch, rows, columns)
        most = rows - 1
        take = rng.integers(0, most + 1, batch)
        take[0], take[-1] = 0, most
        valid = rng.random((batch, rows + columns)) < 0.7
        check(score, index, most, columns, take=take, **flags)
        check(score, index, most, columns, take=take.astype(np.int32), valid=valid, **flags)
        check(score, index, most // 2, columns, valid=valid.astype(np.uint8), **flags)


def test_given_sets(backend, rng):
    batch, rows, columns, tokens = 3, 10, 5, 18
    score, index = random_case(rng, batch, rows, columns)
    ids = np.stack([rng.permutation(tokens)[: rows + columns] for _ in range(batch)])
    sets = {"a_ids": ids[:, :rows], "b_ids": ids[:, rows:], "tokens": tokens}
    check(score, index, 4, columns, **sets)
    check(score, index, 4, columns, distill_token=True, **sets)
    check(score, index, 4, columns, valid=rng.random((batch, tokens)) < 0.6, **sets)
    check(None, index.astype(np.int32), rows, columns, **sets)


def test_many_rows(backend, rng):
    """More rows than one block's shared memory sorts."""
    rows = 8200 if backend == "simt" else 20000
    score, index = random_case(rng, 1, rows, rows)
    check(score, index, rows // 3, rows, sort_unmerged=True)


def test_same_bits_for_any_number_of_threads(rng):
    score, index = random_case(rng, 64, 99, 98)
    answers = []
    for threads in (1, 2, 5):
        tokernel.set_num_threads(threads)
        answers.append(select_edges(score, index, 16, 98, class_token=True))
    tokernel.set_num_threads(0)
    for answer in answers[1:]:
        for got, want in zip(answer, answers[0], strict=True):
            np.testing.assert_array_equal(got, want)


S = np.zeros((2, 4), np.float32)
I = np.zeros((2, 4), np.int64)  # noqa: E741


@pytest.mark.parametrize(
    ("args", "options", "error", "text"),
    [
        ((S, [[0]], 1, 3), {}, TypeError, "index must be an array"),
        ((S, I[0], 1, 3), {}, ValueError, "index must be"),
        ((S[:, :3], I, 1, 3), {}, ValueError, "score must be"),
        ((S.astype(np.float64), I, 1, 3), {}, TypeError, "score must be float32"),
        ((S, I + 3, 1, 3), {}, ValueError, r"index must be in \[0, 3\)"),
        ((S, I - 1, 1, 3), {}, ValueError, r"index must be in \[0, 3\)"),
        ((S, I, 5, 4), {}, ValueError, r"r must be in \[0, 4\]"),
        ((S, I, -1, 4), {}, ValueError, "r must be an integer of at least 0"),
        ((S, I, 4, 4), {"class_token": True}, ValueError, r"r must be in \[0, 3\]"),
        ((S, I, 1, 2), {}, ValueError, "columns must be the number of odd tokens"),
        ((S, I, 1, -1), {}, ValueError, "columns must be"),
        ((S, I, 1, 2**62), {}, ValueError, "columns must be"),
        ((S, I, 1, 4), {"tokens": 9}, ValueError, "tokens must be 8"),
        ((S, I, 1, 4), {"take": np.array([0, 2])}, ValueError, r"take must be in \[0, 2\)"),
        ((S, I, 1, 4), {"take": np.array([0])}, ValueError, "take must be"),
        ((S, I, 1, 4), {"valid": np.ones((2, 7), bool)}, ValueError, "valid must be"),
        ((S, I, 1, 4), {"a_ids": I}, ValueError, "b_ids must be given with a_ids"),
        ((S, I, 1, 1), {"a_ids": I + np.arange(4), "b_ids": I[:, :1] + 5}, ValueError, r"b_ids must be in \[0, 5\)"),
        ((S, I, 1, 1), {"a_ids": I + np.arange(4), "b_ids": I[:, :1]}, ValueError, "token 0 twice in sample 0"),
        ((S, I, 1, 1), {"a_ids": I, "b_ids": I[:, :1], "tokens": 4}, ValueError, "tokens must be at least 5"),
    ],
)
def test_bad_input(backend, args, options, error, text):
    with pytest.raises(error, match=f"select_edges: .*{text}"):
        select_edges(*args, **options)
