# SPDX-License-Identifier: Apache-2.0
"""Every quantizer compiles whole, and learns the same."""

from __future__ import annotations

import shutil

import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")

from codec_cases import DIM, KINDS, make, rows, state, with_gradient

EVERY = pytest.mark.parametrize("kind", KINDS)


def same_state(module, before):
    assert all(torch.equal(module.state_dict()[name], value) for name, value in before.items())


@EVERY
@pytest.mark.parametrize("training", [False, True])
def test_compiles_whole(kind, training):
    torch._dynamo.reset()
    plain, other = make(kind).train(training), make(kind).train(training)
    compiled = torch.compile(other, fullgraph=True, backend="eager")
    for seed in range(2):
        x, y = with_gradient(rows(2, 20, DIM, seed=seed)), with_gradient(rows(2, 20, DIM, seed=seed))
        expected, out = plain(x), compiled(y)
        assert torch.equal(out.index, expected.index)
        assert torch.equal(out.quantized, expected.quantized)
        for got, leaf in ((out, y), (expected, x)):
            (got.loss + got.quantized.square().sum()).backward()
            assert leaf.grad is not None
        torch.testing.assert_close(y.grad, x.grad, rtol=1e-5, atol=1e-6)
    same_state(other, state(plain))


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor_learns_the_same():
    torch._dynamo.reset()
    plain, other = make("vq"), make("vq")
    compiled = torch.compile(other, fullgraph=True)
    for seed in range(2):
        x, y = with_gradient(rows(40, DIM, seed=seed)), with_gradient(rows(40, DIM, seed=seed))
        expected, out = plain(x), compiled(y)
        assert torch.equal(out.index, expected.index)
        torch.testing.assert_close(out.quantized, expected.quantized, rtol=1e-5, atol=1e-6)
        for got in (out, expected):
            (got.loss + got.quantized.square().sum()).backward()
        torch.testing.assert_close(y.grad, x.grad, rtol=1e-4, atol=1e-5)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=1e-5, atol=1e-6)
