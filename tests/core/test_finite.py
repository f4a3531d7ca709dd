# SPDX-License-Identifier: Apache-2.0
"""NaN and infinity: errors on request, and only then."""

import subprocess
import sys

import numpy as np
import pytest

import tokernel
from tokernel.kernels import attention, cluster


def heads(*extents, dtype=np.float32):
    return np.zeros(extents, dtype)


def spoiled(x, at, value):
    x = x.copy()
    x[at] = value
    return x


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_attention_names_the_number(backend, name, dtype, value):
    given = {n: heads(2, 1, 3, 4, dtype=dtype) for n in ("q", "k", "v")}
    given[name] = spoiled(given[name], (1, 0, 2, 1), value)
    attention.attention(**given)
    with (
        tokernel.check_finite(),
        pytest.raises(ValueError, match=rf"^attention: {name} must be finite, got -?(nan|inf) at flat position 21$"),
    ):
        attention.attention(**given)
    attention.attention(**given)


def test_strided_arrays_are_read_where_they_lie():
    x = spoiled(heads(1, 3, 2, 4), (0, 1, 1, 0), np.inf).transpose(0, 2, 1, 3)
    with tokernel.check_finite(), pytest.raises(ValueError, match=r"q must be finite, got inf at flat position 16$"):
        attention.attention(x, x, x)


def test_what_is_hidden_in_the_gaps_of_a_view_does_not_count():
    x = spoiled(heads(1, 1, 4, 4), (0, 0, 1), np.nan)[:, :, ::2]
    with tokernel.check_finite():
        attention.attention(x, x, x)


@pytest.mark.parametrize("op", ["assign", "kmeans"])
def test_clusters(op):
    x, centroids = spoiled(heads(1, 3, 2), (0, 1, 1), np.nan), heads(1, 2, 2)
    calls = {
        "assign": lambda: cluster.assign(x, centroids),
        "kmeans": lambda: cluster.kmeans(x, 2, 3, init=centroids),
    }
    calls[op]()
    with (
        tokernel.check_finite(),
        pytest.raises(ValueError, match=rf"^{op}: x must be finite, got nan at flat position 3$"),
    ):
        calls[op]()


def test_contexts_nest():
    x = np.full((1, 1, 1, 2), np.nan, np.float32)
    with tokernel.check_finite():
        with tokernel.check_finite(enabled=False):
            attention.attention(x, x, x)
        with pytest.raises(ValueError, match="must be finite"):
            attention.attention(x, x, x)
    attention.attention(x, x, x)


@pytest.mark.parametrize(
    ("text", "expected"), [("1", "must be finite"), ("0", "done"), ("yes", "must be 0 or 1, got 'yes'")]
)
def test_environment(text, expected, monkeypatch):
    monkeypatch.setenv("TOKERNEL_CHECK_FINITE", text)
    code = (
        "import numpy as np; from tokernel.kernels.attention import attention\n"
        "x = np.full((1, 1, 1, 2), np.nan, np.float32); attention(x, x, x); print('done')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert expected in result.stdout + result.stderr
